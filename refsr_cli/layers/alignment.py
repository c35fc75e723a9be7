"""Deformable convolution: every tap of a kernel reads at a place of its own. Zhu et al., "Deformable ConvNets v2",
CVPR 2019; the order of taps and groups is that of torchvision and mmcv.

What is read may have another size than what is made, so that references may have any.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.layers.strips import Strips

_COLUMNS = 2**26
"""Numbers that torchvision's kernel may lay out at once on a GPU; above that the taps are read one after the other,
as they are on a CPU, where its kernel is slower and knows no bfloat16."""

_BAND = 2**13
"""Pixels that a CPU aligns at once, so that offsets and masks of all taps and groups take little."""


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """(2, height, width): row and column of every pixel, in the type of `like`."""
    rows, columns = (torch.arange(size, dtype=like.dtype, device=like.device) for size in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def taps(kernel: int, like: Tensor) -> Tensor:
    """(kernel², 2): row and column of each tap against the middle one, row by row."""
    return pixel_grid(kernel, kernel, like).flatten(1).T - kernel // 2


def read(source: Tensor | Strips, place: Tensor) -> Tensor:
    """(N, C, H', W') read bilinearly at `place` (N, 2, H, W), row and column of pixel centres; nothing is beyond its
    border.   (N, C, H, W), float32 or better: fewer bits cannot tell places apart"""
    if isinstance(source, Strips):
        return sum((read(strip, within) for strip, within in source.at(place)), place.new_zeros(()))
    source, place = at_least_float32(source), at_least_float32(place)
    size = torch.tensor(source.shape[-2:], dtype=place.dtype, device=place.device).view(2, 1, 1)
    grid = ((2 * place + 1) / size - 1).flip(1).permute(0, 2, 3, 1)
    with torch.autocast(source.device.type, enabled=False):
        return F.grid_sample(source, grid.to(source.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)


def at_least_float32(x: Tensor) -> Tensor:
    """A place needs as many bits: fewer cannot tell pixels apart."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def deformable_conv(
    source: Tensor | Strips, place: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """A convolution whose taps read `source` (N, C, H', W') at `place` (N, groups, taps, 2, H, W), row and column, and
    count by `mask` (N, groups, taps, H, W); `weight` is (O, C, k, k). A group is a run of channels.   (N, O, H, W)"""
    number, groups, count, _, height, width = place.shape
    kernel, place = weight.shape[-1], at_least_float32(place)
    if isinstance(source, Strips):
        total = place.new_zeros(number, len(weight), height, width)
        for strip, within in source.at(place):
            total = total + deformable_conv(strip, within, mask, weight, None)
        return total if bias is None else total + bias.view(1, -1, 1, 1)
    source = at_least_float32(source)
    if source.is_cuda and source.shape[-2:] == (height, width) and source.numel() * count <= _COLUMNS:
        from torchvision.ops import deform_conv2d  # here, as it takes a second to import

        usual = pixel_grid(height, width, place) + taps(kernel, place).view(count, 2, 1, 1)
        offset = (place - usual).reshape(number, -1, height, width)
        flat = None if mask is None else mask.reshape(number, -1, height, width).to(source.dtype)
        with torch.autocast("cuda", enabled=False):
            fused: Tensor = deform_conv2d(source, offset.to(source.dtype), weight, bias, padding=kernel // 2, mask=flat)
        return fused
    parts = source.reshape(number * groups, -1, *source.shape[-2:])
    total = source.new_zeros(number, len(weight), height, width)
    for tap in range(count):
        values = read(parts, place[:, :, tap].flatten(0, 1)).view(number, groups, -1, height, width)
        if mask is not None:
            values = values * mask[:, :, tap, None]
        total = total + F.conv2d(values.flatten(1, 2), weight[:, :, tap // kernel, tap % kernel, None, None])
    return total if bias is None else total + bias.view(1, -1, 1, 1)


class DynamicAggregation(nn.Module):
    """Deformable convolution around places found beforehand, which learned offsets change: Jiang et al., "Robust
    Reference-based Super-Resolution via C2-Matching", CVPR 2021, section 3.3; with a `bound` and the score of the match
    Cao et al., "Reference-based Image Super-Resolution with Deformable Attention Transformer", ECCV 2022, equation 4.

    At first no place is changed and every tap counts by half.
    """

    def __init__(self, features: int, groups: int = 8, *, bound: float | None = None) -> None:
        super().__init__()
        self.groups, self.bound = groups, bound
        self.weight = nn.Parameter(torch.empty(features, features, 3, 3))
        self.bias = nn.Parameter(torch.zeros(features))
        self.conv_offset_mask = nn.Conv2d(features, 3 * 9 * groups, 3, padding=1)
        # as strong at first as what it reads, of which half passes; published code begins several times weaker
        nn.init.kaiming_normal_(self.weight, a=0.1)
        self.weight.data *= 2
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """No offsets."""
        nn.init.zeros_(self.conv_offset_mask.weight)
        assert self.conv_offset_mask.bias is not None
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, source: Tensor | Strips, guess: Tensor, place: Tensor, score: Tensor | None = None) -> Tensor:
        """`source` (N, C, H', W') features of the reference, `guess` (N, C, H, W) to make offsets of, `place` (N, 9, 2,
        H, W) where each tap was found, `score` (N, 1, H, W) how well.   (N, C, H, W)"""
        made = at_least_float32(self.conv_offset_mask(guess))
        if guess.is_cuda or torch.is_grad_enabled():
            return self._gathered(source, made, place, score)
        source = source if isinstance(source, Strips) else at_least_float32(source)  # once, not for every band
        number, _, height, width = guess.shape
        gathered, step = made.new_empty(number, len(self.weight), height, width), max(1, _BAND // width)
        for top in range(0, height, step):
            rows = (..., slice(top, top + step), slice(None))
            gathered[rows] = self._gathered(source, made[rows], place[rows], None if score is None else score[rows])
        return gathered

    def _gathered(self, source: Tensor | Strips, made: Tensor, place: Tensor, score: Tensor | None) -> Tensor:
        """`forward` for some rows, of what was `made` of the guess."""
        number, _, height, width = made.shape
        offset, logit = made.split([2 * 9 * self.groups, 9 * self.groups], 1)
        if self.bound is not None:
            offset = self.bound * torch.tanh(offset)
        if score is not None:
            logit = logit * score
        changed = place[:, None] + offset.view(number, self.groups, 9, 2, height, width)
        mask = torch.sigmoid(logit).view(number, self.groups, 9, height, width)
        return deformable_conv(source, changed, mask, self.weight, self.bias)
