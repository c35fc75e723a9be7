"""The 8x8 blocks of JPEG: their transform, and the quantisation that pixels show to have gone through."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

BLOCK = 8
LUMA = (0.299, 0.587, 0.114)
"""Parts of R, G and B in JPEG's luma, which has the full range."""
_EXAMPLE_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation steps of luma in the example of the JPEG standard (ITU-T T.81, table K.1), which libjpeg scales."""
_FREQUENCIES = tuple((down, right) for down in range(5) for right in range(5) if 1 <= down + right <= 4)
"""Those whose coefficients are seldom zero."""
_QUALITIES = range(96, 19, -1)
"""libjpeg's qualities that are distinguished; finer steps drown in the rounding of pixels."""
_MARKED = 0.6
"""Of a step: smaller coefficients became zero, and carry no information."""
_FEWEST = 40
"""Coefficients below which nothing is estimated."""
_BETTER = 0.01
"""By how much coarser steps must fit better than finer ones, which they are often multiples of."""
_SURE = 0.5
"""Mean cosine from which coefficients count as multiples of a step."""
_APART = 0.25
"""By how much it must be less half a block aside, where there is no grid: gradients and modules of four pixels are
alike there."""


@cache
def _basis() -> Tensor:
    """The orthonormal 8x8 DCT-II: (frequency, position)."""
    frequency, position = torch.arange(BLOCK, dtype=torch.float64)[:, None], torch.arange(BLOCK, dtype=torch.float64)
    rows: Tensor = torch.cos(math.pi * frequency * (2 * position + 1) / 16) / 2
    rows[0] /= 2**0.5
    return rows


def to_frequencies(plane: Tensor) -> Tensor:
    """(..., 8*m, 8*n) to the orthonormal DCT of its blocks: (..., m, n, 8, 8)."""
    blocks = plane.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).transpose(-3, -2)
    basis = _basis().to(plane)
    coefficients: Tensor = basis @ blocks @ basis.T
    return coefficients


def from_frequencies(coefficients: Tensor) -> Tensor:
    """The inverse of `to_frequencies`."""
    basis = _basis().to(coefficients)
    return (basis.T @ coefficients @ basis).transpose(-3, -2).flatten(-2).flatten(-3, -2)


def jpeg_luma(rgb: Tensor) -> Tensor:
    """(..., 3, H, W) to its luma (..., 1, H, W); grey, of one channel, is luma already."""
    if rgb.shape[-3] == 1:
        return rgb
    return (rgb * rgb.new_tensor(LUMA).view(3, 1, 1)).sum(-3, keepdim=True)


def jpeg_step(table: Sequence[int]) -> float:
    """The mean of 64 luma steps in percent of that of the standard's example."""
    return 100 * sum(table) / sum(_EXAMPLE_LUMA)


def nearest_quality(step: float) -> int:
    """The libjpeg quality whose steps have about the size `step`, as `jpeg_step` gives it."""
    return min(range(1, 101), key=lambda quality: abs(jpeg_step(libjpeg_table(quality)) - step))


@cache
def libjpeg_table(quality: int) -> tuple[int, ...]:
    """libjpeg's 64 luma steps for `quality`, 1 to 100."""
    percent = 200 - 2 * quality if quality >= 50 else 5000 // quality
    return tuple(max(1, min(255, (step * percent + 50) // 100)) for step in _EXAMPLE_LUMA)


def estimate_jpeg_step(luma: Tensor, ends: tuple[int, int] = (0, 0)) -> float:
    """The size of the steps that the luma (H, W) in 0..255 of decoded pixels was quantised by, in the unit of
    `jpeg_step`; 0 where there is no sign of it. Coefficients are then multiples of their steps (Fan and de Queiroz
    2003). The tables are libjpeg's, and the grid begins at a corner of the picture, which may have been turned since:
    its last whole blocks are followed by `ends` pixels, as far as the grid began at its upper left."""
    for top, left in sorted({(0, 0), (ends[0], 0), (0, ends[1]), ends}):
        for plane in (luma[top:, left:], luma[top:, left:].mT):
            if step := _step_in_place(plane):
                return step
    return 0.0


def _step_in_place(luma: Tensor) -> float:
    """`estimate_jpeg_step` for a grid that begins at the first pixel."""
    coefficients = _evidence(luma)
    best, found = _SURE - _BETTER, None
    for quality in _QUALITIES:
        agreement = _agreement(coefficients, libjpeg_table(quality))
        if agreement > best + _BETTER:
            best, found = agreement, libjpeg_table(quality)
    half = BLOCK // 2
    if found is None or _agreement(_evidence(luma[half:, half:]), found) > best - _APART:
        return 0.0
    return jpeg_step(found)


def _evidence(luma: Tensor) -> Tensor:
    """The coefficients of all whole blocks of (H, W): (n, 8, 8). Blocks of a pattern that repeats count once."""
    height, width = (side // BLOCK * BLOCK for side in luma.shape)
    if not height or not width:
        return luma.new_zeros(0, BLOCK, BLOCK)
    coefficients: Tensor = to_frequencies(luma[:height, :width] - 128).flatten(0, 1).unique(dim=0)
    return coefficients


def _agreement(coefficients: Tensor, table: Sequence[int]) -> float:
    """Mean cosine of (n, 8, 8): 1 if all are multiples of their steps, about 0 by chance, and 0 where there are too
    few."""
    cosines = []
    for down, right in _FREQUENCIES:
        step = table[BLOCK * down + right]
        if step >= 2:
            its = coefficients[:, down, right]
            cosines.append(torch.cos(2 * math.pi / step * its[its.abs() > _MARKED * step]))
    together = torch.cat(cosines) if cosines else torch.zeros(0)
    return float(together.mean()) if len(together) >= _FEWEST else 0.0


def transposed(table: tuple[int, ...]) -> tuple[int, ...]:
    """The 64 steps of a picture whose rows and columns are exchanged."""
    return tuple(table[BLOCK * column + row] for row in range(BLOCK) for column in range(BLOCK))
