"""Any size from a net of one scale: passes of it, then shrinking; and how restored pixels are mixed in before."""

import math

import numpy as np
import torch

from refsr_cli.images import Pixels
from refsr_cli.layers.resample import resize


def blended(pixels: Pixels, restored: Pixels, strength: float) -> Pixels:
    """`pixels` (H, W, C) moved towards `restored` by `strength`, row by row to save memory."""
    if strength == 1:
        return restored
    result = np.empty_like(restored)
    for before, after, target in zip(pixels, restored, result, strict=True):
        target[:] = np.rint(before + np.float32(strength) * (after.astype(np.float32) - before))
    return result


def plan_passes(factor: float, model_scale: int) -> list[int]:
    """The scales of successive passes of a net of `model_scale` whose product is at least `factor`.

    Every pass but the last is at the net's own scale: 8 with a net for 4 is [4, 2]. So is a single pass for a factor
    that is not whole, since its result is shrunk anyway. Empty when `factor` is at most 1, but for a net that keeps
    the size, which is run once.
    """
    passes: list[int] = []
    if model_scale == 1:
        return [1]
    while factor > 1 + 1e-9:
        needed = math.ceil(factor - 1e-9)
        single = not passes and needed <= model_scale and needed - factor > 1e-9
        passes.append(model_scale if single else min(model_scale, needed))
        factor /= passes[-1]
    return passes


def shrink(pixels: Pixels, height: int, width: int) -> Pixels:
    """(H, W, C) to (height, width, C), antialiased, one channel at a time so that little is held in floating point."""
    if pixels.shape[:2] == (height, width):
        return pixels
    target = np.empty((height, width, pixels.shape[2]), pixels.dtype)
    for channel in range(pixels.shape[2]):
        plane = torch.from_numpy(pixels[..., channel].astype(np.float32))
        resized_plane = resize(plane[None, None], height, width)
        target[..., channel] = resized_plane[0, 0].clamp(0, np.iinfo(pixels.dtype).max).add(0.5).numpy()
    return target
