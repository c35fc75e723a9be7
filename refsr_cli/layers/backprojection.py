"""Results that shrink back to their input: back-projection (Irani and Peleg 1991) with MATLAB's bicubic both ways.

A net answers with means of what it was trained on, and so loses contrast in other patterns: a fine screen comes back
too dark or too light. What the shrunk result lacks is enlarged and added.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.layers.resample import KERNEL_REACH, downscale, local_mean, upscale

_MOST_STEPS = 16
"""One step is for every picture: it raises PSNR by 0.035 dB, four more by 0.008 dB. Fine screens get up to so many:
clamping to black and white undoes most of each there."""
_TONE = 2 / 255
"""Mean difference, over `_AREA` low-resolution pixels a side, from which the tone counts as wrong."""
_AREA = 9
_MARGIN = _AREA // 2 + 3 * KERNEL_REACH
"""Pixels around wrong tone that a step reads: half of `_AREA`, which it changes, what of the shrunk result changes with
that, and as far as the kernel reaches beyond."""
Residual = Callable[[Tensor], Tensor]
"""From what a result shrinks to, (N, 3, h, w) in [0, 1], to the part of that which contradicts the input, likewise: of
a clean input all that differs."""
PROJECTING_BYTES = 48.0
"""Peak bytes for each pixel of the result: four copies of its three channels, in the later steps."""
RADIUS = 16
"""Low-resolution pixels that the usual step depends on. In fine screens there are more steps, whose effect fades within
a few times that."""


@torch.inference_mode()
def back_project(sr: Tensor, residual: Residual, scale: int) -> Tensor:
    """`sr` (N, 3, scale*h, scale*w) in [0, 1], changed in a few steps so that what it shrinks to contradicts the input
    less, and clamped after each."""
    missing = -residual(downscale(sr, scale))
    x = upscale(missing, scale).add_(sr).clamp_(0, 1)
    if not bool(_wrong_tone(missing).any()):
        return x
    shrunk = downscale(x, scale)
    for _ in range(_MOST_STEPS - 1):
        missing = -residual(shrunk)
        off = _wrong_tone(missing)
        if not bool(off.any()):
            break
        _step_around(off, x, shrunk, missing, scale)
    return x


def _wrong_tone(missing: Tensor) -> Tensor:
    """Where the mean of `missing` (N, 3, h, w) is too large: (N, 1, h, w), boolean."""
    return local_mean(missing, _AREA).abs().amax(1, keepdim=True) > _TONE


def _step_around(off: Tensor, x: Tensor, shrunk: Tensor, missing: Tensor, scale: int) -> None:
    """Changes `x`, and `shrunk` with it, around the places that are `off`, whatever else the picture holds."""
    rows, columns = (_reached(off.flatten(0, 1).any(dim).any(0)) for dim in (2, 1))
    around = F.max_pool2d(off[..., rows, columns].float(), _AREA, 1, _AREA // 2)
    top, bottom, left, right = (scale * edge for its in (rows, columns) for edge in (its.start, its.stop))
    large = x[..., top:bottom, left:right]
    projected = upscale(missing[..., rows, columns], scale).add_(large).clamp_(0, 1)
    large.copy_(torch.where(F.interpolate(around, scale_factor=scale).bool(), projected, large))
    changed = F.max_pool2d(around, 2 * KERNEL_REACH + 1, 1, KERNEL_REACH).bool()
    small = shrunk[..., rows, columns]
    small.copy_(torch.where(changed, downscale(large, scale), small))


def _reached(off: Tensor) -> slice:
    """From the first to the last that are `off` (n,), and what a step around them reads."""
    places = off.nonzero()
    return slice(max(0, int(places[0]) - _MARGIN), min(len(off), int(places[-1]) + 1 + _MARGIN))


def difference_from(lr: Tensor) -> Residual:
    """What contradicts a clean input (N, 3, h, w)."""
    return lambda shrunk: shrunk - lr
