"""Bicubic resampling as MATLAB's `imresize` does it: what every paper of the field measures with.

torch's antialiased bicubic has MATLAB's kernel (a = -0.5, stretched when shrinking) and pixel centres, and differs
only at the border, where MATLAB mirrors the image and torch renormalises the kernel. Mirroring first, then cropping,
makes the two equal.
"""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Convention = Literal["matlab", "pillow"]
"""Whose bicubic interpolation: MATLAB's in floating point, or Pillow's, rounded to 8 bit after the columns and after
the rows, with a kernel that is cut off at the border."""

KERNEL_REACH = 2
"""Pixels that the kernel reaches, at the lower of the two resolutions."""
_SUPPORT = 2 * KERNEL_REACH
"""Pixels mirrored beyond the border, at the lower of the two resolutions."""
_SHARED = 2**12
"""Places that are worth more than one processor."""


def mirror(x: Tensor, pad: int) -> Tensor:
    """`x` with `pad` mirrored pixels (c b a | a b c) on every side, however small the image."""
    for dim in (-2, -1):
        size = x.shape[dim]
        index = torch.arange(-pad, size + pad, device=x.device) % (2 * size)
        x = x.index_select(dim, torch.where(index < size, index, 2 * size - 1 - index))
    return x


def continued(x: Tensor, step: int, least: int = 1) -> Tensor:
    """(N, C, H, W) with its last row and column repeated, to sides that are multiples of `step`, and `least` at
    least."""
    height, width = (max(least, side + -side % step) - side for side in x.shape[-2:])
    return F.pad(x, (0, width, 0, height), mode="replicate") if height or width else x


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) float to (N, C, height, width), antialiased; for any sizes."""
    if x.shape[-2:] == (height, width):
        return x
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()  # a CPU resizes nothing narrower
    return F.interpolate(wide, (height, width), mode="bicubic", antialias=True, align_corners=False).to(x.dtype)


def resize_by_pillow(x: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) in [0, 1] to (N, C, height, width), as Pillow's bicubic resizes a file of 8 bit."""
    levels = x.detach().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    planes = (Image.fromarray(plane) for plane in levels.flatten(0, 1).numpy())
    resized = np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC)) for plane in planes])
    return torch.from_numpy(resized).to(x.device, x.dtype).div_(255).view(*x.shape[:2], height, width)


def resize_bytes(image: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) uint8 to (C, height, width), one channel at a time, so that little is held in floating point."""
    if image.shape[1:] == (height, width):
        return image
    channels = [resize(channel[None, None].float(), height, width)[0, 0] for channel in image]
    return torch.stack([channel.clamp(0, 255).add(0.5).to(torch.uint8) for channel in channels])


def scaled_bytes(image: Tensor, factor: float) -> Tensor:
    """(C, H, W) uint8 with both sides `factor` times as long, at least one pixel."""
    height, width = (max(1, round(side * factor)) for side in image.shape[1:])
    return resize_bytes(image, height, width)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """(N, C, H, W) convolved with a Gaussian of `sigma` pixels, continued beyond its border."""
    radius = max(1, math.ceil(4 * sigma))
    taps = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-taps.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
    planes = F.pad(x.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(planes, kernel), kernel.transpose(2, 3)).view(x.shape)


def local_mean(x: Tensor, side: int) -> Tensor:
    """Mean of (N, C, H, W) over a square of odd `side` around each pixel, the picture continued beyond its border."""
    total = F.pad(x, (side // 2,) * 4, mode="replicate").to(torch.promote_types(x.dtype, torch.float32))
    for dim in (-1, -2):  # shifted copies of all are added up many times as fast as a pool goes from place to place
        size, parts = x.shape[dim], total
        total = parts.narrow(dim, 0, size).clone()
        for shift in range(1, side):
            total += parts.narrow(dim, shift, size)
    return (total / side**2).to(x.dtype)


def grid_sample(image: Tensor, places: Tensor, mode: str, *, align_corners: bool) -> Tensor:
    """(C, H, W) read at `places` (2, n), rows and columns in [-1, 1], continued beyond its border: (C, n).

    `F.grid_sample` shares pictures among the processors of a CPU, not places, and so is shown the one as several.
    """
    number = places.shape[1]
    several = torch.get_num_threads() if image.device.type == "cpu" and number >= _SHARED else 1
    each = -(-number // several)
    filled = places if several * each == number else F.pad(places, (0, several * each - number))
    grid = filled.reshape(2, several, 1, each).permute(1, 2, 3, 0)
    same = image.mT.expand(several, -1, -1, -1)  # rows come first in places, columns in a grid
    read = F.grid_sample(same, grid, mode=mode, padding_mode="border", align_corners=align_corners)
    return read[:, :, 0].transpose(0, 1).flatten(1)[:, :number]


def downscale(x: Tensor, scale: int) -> Tensor:
    """(N, C, scale*h, scale*w) float to (N, C, h, w), equal to MATLAB's `imresize(x, 1/scale)`; not clamped."""
    height, width = x.shape[-2] // scale, x.shape[-1] // scale
    if min(height, width) < _SUPPORT:
        return _downscale_mirrored(x, scale)
    small = resize(x, height, width)
    strip = _SUPPORT * scale  # only its border needs mirrored pixels, so that the picture is not copied
    small[..., :KERNEL_REACH, :] = _downscale_mirrored(x[..., :strip, :], scale)[..., :KERNEL_REACH, :]
    small[..., -KERNEL_REACH:, :] = _downscale_mirrored(x[..., -strip:, :], scale)[..., -KERNEL_REACH:, :]
    small[..., :KERNEL_REACH] = _downscale_mirrored(x[..., :strip], scale)[..., :KERNEL_REACH]
    small[..., -KERNEL_REACH:] = _downscale_mirrored(x[..., -strip:], scale)[..., -KERNEL_REACH:]
    return small


def _downscale_mirrored(x: Tensor, scale: int) -> Tensor:
    height, width = x.shape[-2] // scale, x.shape[-1] // scale
    small = resize(mirror(x, _SUPPORT * scale), height + 2 * _SUPPORT, width + 2 * _SUPPORT)
    return small[..., _SUPPORT:-_SUPPORT, _SUPPORT:-_SUPPORT]


def upscale(x: Tensor, scale: int) -> Tensor:
    """(N, C, H, W) float to (N, C, scale*H, scale*W), equal to MATLAB's `imresize(x, scale)`; not clamped."""
    padded = mirror(x, _SUPPORT)
    large = resize(padded, padded.shape[-2] * scale, padded.shape[-1] * scale)
    crop = _SUPPORT * scale
    return large[..., crop:-crop, crop:-crop]
