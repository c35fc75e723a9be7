"""Luma and chroma as MATLAB's `rgb2ycbcr` has them: BT.601, studio range, all in [0, 1]."""

import torch
from torch import Tensor

LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""Parts of R, G and B in luma; pure white is 235/255 with the offset."""
_BLUE = (-37.797 / 255, -74.203 / 255, 112 / 255)
_RED = (112 / 255, -93.786 / 255, -18.214 / 255)
_OFFSET = (16 / 255, 128 / 255, 128 / 255)


def to_ycbcr(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) RGB in [0, 1] to luma and the two chroma channels."""
    return _mixed(rgb, torch.tensor([LUMA, _BLUE, _RED], dtype=torch.float64)) + _offset(rgb)


def from_ycbcr(coded: Tensor) -> Tensor:
    """What `to_ycbcr` made such; not clamped."""
    return _mixed(coded - _offset(coded), torch.tensor([LUMA, _BLUE, _RED], dtype=torch.float64).inverse())


def _mixed(x: Tensor, weights: Tensor) -> Tensor:
    """Sums of the channels of (N, 3, H, W), in its own precision also under autocast."""
    channels = x.unbind(1)
    rows = [[float(weight) * channel for weight, channel in zip(row, channels, strict=True)] for row in weights]
    return torch.stack([red + green + blue for red, green, blue in rows], 1)


def _offset(like: Tensor) -> Tensor:
    return torch.tensor(_OFFSET, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)
