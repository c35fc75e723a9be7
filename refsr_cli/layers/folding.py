"""Linear upsampling tails folded into one convolution.

An EDSR tail (convolution, pixel shuffle, ..., convolution) has no activation, so at low resolution it is one
5x5 convolution and one pixel shuffle. The fold is exact but for the outermost pixels, where the tail's own
zero padding comes between its layers. It is differentiable, so a net can be trained through it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 5
"""Side of the folded kernel: the tail's radius is below 2 low-resolution pixels for any number of stages."""


def fold_tail(tail: nn.Module, features: int, scale: int) -> tuple[Tensor, Tensor]:
    """The one convolution that `tail` amounts to: weight (3*scale², features, 5, 5) and bias (3*scale²).

    `tail` maps (N, features, H, W) to (N, 3, scale*H, scale*W) and is affine; the kernel is read off its answers
    to one impulse a channel.
    """
    parameter = next(tail.parameters())
    middle = KERNEL // 2
    impulses = parameter.new_zeros(features + 1, features, KERNEL, KERNEL)
    channel = torch.arange(features, device=parameter.device)
    impulses[channel, channel, middle, middle] = 1
    with torch.autocast(parameter.device.type, enabled=False):  # differences of rounded numbers would be noise
        responses = tail(impulses).to(parameter.dtype).unflatten(3, (KERNEL, scale)).unflatten(2, (KERNEL, scale))
    # responses: (features + 1, 3, KERNEL, scale, KERNEL, scale); the last image holds the answer to nothing
    bias = responses[-1, :, middle, :, middle, :].reshape(-1)
    kernels = responses[:-1] - responses[-1:]
    weight = kernels.permute(1, 3, 5, 0, 2, 4).flip(4, 5).reshape(-1, features, KERNEL, KERNEL)
    return weight, bias


def apply_folded(weight: Tensor, bias: Tensor, x: Tensor, scale: int) -> Tensor:
    """(N, F, H, W) -> (N, 3, scale*H, scale*W) with the result of `fold_tail`, in the number format of `weight`."""
    with torch.autocast(x.device.type, enabled=False):
        return F.pixel_shuffle(F.conv2d(x.to(weight.dtype), weight, bias, padding=KERNEL // 2), scale)
