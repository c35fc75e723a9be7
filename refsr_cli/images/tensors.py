"""Pixels as the numbers that nets compute with, and back."""

import numpy as np
import torch
from torch import Tensor

from refsr_cli.images.picture import Pixels


def to_tensor(pixels: Pixels) -> Tensor:
    """(H, W, C) or (H, W) of 8 or 16 bits, also a window of a picture, as (1, 3, H, W) in [0, 1]; grey is repeated."""
    channels = np.atleast_3d(pixels).transpose(2, 0, 1)
    values = np.divide(channels, np.float32(np.iinfo(pixels.dtype).max), dtype=np.float32, order="C")
    return torch.from_numpy(values).expand(3, -1, -1)[None].contiguous()


def to_pixels(x: Tensor, like: Pixels) -> Pixels:
    """(1, 3, H, W) in [0, 1] as (H, W, C) with the dtype and the channels of `like`; clamped, rounded half up.

    Grey is the mean of the three channels.
    """
    return rounded(x[0], like).cpu().numpy().astype(like.dtype)


def rounded(x: Tensor, like: Pixels) -> Tensor:
    """`to_pixels` of (3, H, W) where it lies, as uint8, or int32 for 16 bits."""
    peak = np.iinfo(like.dtype).max
    values = x.float()
    if like.ndim == 2 or like.shape[2] == 1:
        values = values.mean(0, keepdim=True)
    values = values.clamp(0, 1).mul_(peak).add_(0.5)
    return values.to(torch.uint8 if peak == 255 else torch.int32).permute(1, 2, 0).contiguous()
