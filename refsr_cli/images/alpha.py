"""Colour below transparency."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


def bleed(
    pixels: npt.NDArray[np.uint8 | np.uint16], alpha: npt.NDArray[np.uint8 | np.uint16]
) -> npt.NDArray[np.uint8 | np.uint16]:
    """`pixels` (H, W, C) where `alpha` (H, W) is above 0; elsewhere a smooth continuation of the nearest of them."""
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return pixels
    weight = torch.from_numpy(alpha.astype(np.float32))[None, None]
    color = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]
    spread = _spread(color.mul_(weight), weight)[0].add_(0.5).numpy()
    result = pixels.copy()
    np.copyto(result, spread.transpose(1, 2, 0), where=hidden[..., None], casting="unsafe")
    return result


def _spread(color: Tensor, weight: Tensor) -> Tensor:
    """Mean colour where `weight` (1, 1, H, W) is above 0, elsewhere that of the surrounding at half the resolution.

    `color` (1, C, H, W) is multiplied by the weight already.
    """
    if not weight.all():
        around = _spread(F.avg_pool2d(color, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True))
        around = F.interpolate(around, weight.shape[-2:], mode="bilinear")
        return torch.where(weight > 0, color / weight, around)
    return color / weight
