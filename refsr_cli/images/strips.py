"""Pictures strip by strip, so that a file is written without a copy of the whole."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.uint8 | np.uint16]

_STRIP = 4 << 20
"""Bytes of a strip."""


def interleaved(pixels: Samples, alpha: Samples | None) -> Iterator[Samples]:
    """(h, W, C or C + 1) strips of the picture from top to bottom, with alpha as the last channel."""
    rows = strip_rows(pixels)
    for top in range(0, len(pixels), rows):
        part = pixels[top : top + rows]
        yield part if alpha is None else np.concatenate((part, alpha[top : top + rows, :, None]), 2)


def strip_rows(pixels: Samples) -> int:
    """Rows of the strips of `interleaved`, the last of which may be lower."""
    return max(1, int(_STRIP // (pixels.itemsize * pixels.shape[1] * pixels.shape[2])))
