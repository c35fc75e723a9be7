"""Linear upsampling tails folded into one convolution.

An EDSR tail (convolution, pixel shuffle, ..., convolution) has no activation, so at low resolution it is one
5x5 convolution and one pixel shuffle. The fold is exact but for the outermost pixels, where the tail's own
zero padding comes between its layers. It is differentiable, so a net can be trained through it.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL = 5
"""Side of the folded kernel: the tail's radius is below 2 low-resolution pixels for any number of stages."""
_IMPULSE = 2.0**12
"""Large, so that the answer to nothing does not drown that to it in rounding."""
_AT_ONCE = 32
"""Channels whose answers are held together."""
BORDER = 1
"""Low-resolution pixels at the border where the fold is not exact."""


def fold_tail(tail: Callable[[Tensor], Tensor], features: int, scale: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The one convolution that `tail` amounts to: weight (3*scale², features, 5, 5) and bias (3*scale²).

    `tail` maps (N, features, H, W) to (N, 3, scale*H, scale*W) and is affine, with weights of the type and on the
    device of `like`; the kernel is read off its answers to one impulse a channel.
    """
    middle, device = KERNEL // 2, like.device.type

    def answers(channels: Sequence[int]) -> Tensor:
        """To an impulse in each of `channels`, and none for -1: (channels, 3, KERNEL, scale, KERNEL, scale)."""
        impulses = like.new_zeros(len(channels), features, KERNEL, KERNEL)
        for number, channel in enumerate(channels):
            if channel >= 0:
                impulses[number, channel, middle, middle] = _IMPULSE
        with torch.autocast(device, enabled=False):  # differences of rounded numbers would be noise
            answered: Tensor = tail(impulses).unflatten(3, (KERNEL, scale)).unflatten(2, (KERNEL, scale))
        return answered

    nothing = answers([-1])
    bias = nothing[0, :, middle, :, middle, :].reshape(-1)
    kernels = [
        (answers(range(first, min(first + _AT_ONCE, features))) - nothing) / _IMPULSE
        for first in range(0, features, _AT_ONCE)
    ]
    weight = torch.cat(kernels).permute(1, 3, 5, 0, 2, 4).flip(4, 5).reshape(-1, features, KERNEL, KERNEL)
    return weight, bias


def apply_folded(weight: Tensor, bias: Tensor, x: Tensor, scale: int) -> Tensor:
    """(N, F, H, W) -> (N, 3, scale*H, scale*W) with the result of `fold_tail`, in the number format of `weight`. Where
    `bias` has more digits than that, it is added in its own: most of a picture is its mean, and what is left is rounded
    less."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(weight.dtype)
        if weight.dtype == bias.dtype:
            return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=KERNEL // 2), scale)
        detail = F.conv2d(x, weight, padding=KERNEL // 2)
        return F.pixel_shuffle(detail.to(bias.dtype) + bias.view(-1, 1, 1), scale)
