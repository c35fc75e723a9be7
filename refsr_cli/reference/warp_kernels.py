"""What the matches show, compiled for a CPU: references are read where they are, and votes added up, band by band.

`transfer.py` defines the same in tensors, which a GPU runs; its docstrings say what each does.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

Array = Any
_A = np.float32(-0.75)
"""Of the bicubic kernel (Keys, 1981), as PyTorch has it."""
_ZERO, _HALF, _ONE, _TWO, _THREE = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2), np.float32(3)
TAPS = 16
"""Bytes of a row read at once: four pixels of three colours, and as many more as make this a power of two. It is handed
to the functions, since a loop of a length that is known is unrolled and no longer done in vectors."""


class Cells(NamedTuple):
    """A `Match` of h x w cells, and from which of them each pixel is shown; all float32 unless said otherwise."""

    pos: Array
    """(2, h, w)"""
    affine: Array
    """(2, 2, h, w)"""
    ref_id: Array
    """(h, w) int64"""
    tone: Array
    """(4, h, w)"""
    scale: int


class Voters(NamedTuple):
    """For every pixel, along each side: the cell that shows it, int64, and how far it is from the middle of that."""

    row: Array
    """(h,)"""
    down: Array
    """(scale * h,)"""
    column: Array
    """(w,)"""
    right: Array
    """(scale * w,)"""


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy", inline="always")
def _weights(t: np.float32) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Of the four pixels around a place, which is `t` behind the second."""
    rest = _ONE - t
    first, last = _A * t * rest * rest, _A * rest * t * t
    third = ((_A + _TWO) * rest - (_A + _THREE)) * rest * rest + _ONE
    return first, _ONE - first - third - last, third, last


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _read(
    pixels: Array, height: int, width: int, top: int, left: int, lower: np.float32, sums: Array, taps: int
) -> None:
    """Adds up four pixels of each of four columns, `top` and `left` the second, colour after colour: (taps,)."""
    down0, down1, down2, down3 = _weights(lower)
    if 1 <= top < height - 2 and 1 <= left < width - taps // 3:
        wide = np.uint64(3 * width)
        first = np.uint64(3 * ((top - 1) * width + left - 1))  # without a sign, so that it is not taken for one from
        second, third, fourth = first + wide, first + wide + wide, first + wide + wide + wide  # the end
        for tap in range(taps):
            at = np.uint64(tap)
            value = down0 * np.float32(pixels[first + at]) + down1 * np.float32(pixels[second + at])
            value += down2 * np.float32(pixels[third + at]) + down3 * np.float32(pixels[fourth + at])
            sums[tap] = value
    else:
        rows = top - 1, top, top + 1, top + 2
        for number in range(12):
            column = min(max(left - 1 + number // 3, 0), width - 1)
            sums[number] = _ZERO
            for row, weight in zip(rows, (down0, down1, down2, down3)):  # noqa: B905 - strict is not compiled
                sums[number] += weight * np.float32(
                    pixels[3 * (min(max(row, 0), height - 1) * width + column) + number % 3]
                )


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def vote(
    image: Array,
    ratio: Array,
    number: int,
    cells: Cells,
    voters: Voters,
    taps: int,
    shown: Array,
    first: int,
) -> None:
    """Fills in `shown` (3, n, scale*w), from row `first` on, where the reference `number` shows it: `image` (H, W, 3)
    uint8, `ratio` (2,) times the size of the reference."""
    scale, sums = cells.scale, np.empty(taps, np.float32)
    height, width, pixels = image.shape[0], image.shape[1], image.ravel()
    last_row, last_column = np.float32(height + 2), np.float32(width + 2)
    for row in range(first, first + shown.shape[1]):
        above, way_down = voters.row[row // scale], voters.down[row]
        for cell in range(len(voters.column)):
            beside = voters.column[cell]
            if cells.ref_id[above, beside] != number:
                continue
            y0 = cells.pos[0, above, beside] + cells.affine[0, 0, above, beside] * way_down
            x0 = cells.pos[1, above, beside] + cells.affine[1, 0, above, beside] * way_down
            y_step, x_step = cells.affine[0, 1, above, beside], cells.affine[1, 1, above, beside]
            contrast = cells.tone[0, above, beside] / np.float32(255)
            for column in range(cell * scale, (cell + 1) * scale):
                y = (y0 + y_step * voters.right[column]) * ratio[0] - _HALF
                x = (x0 + x_step * voters.right[column]) * ratio[1] - _HALF
                y, x = min(max(y, -_THREE), last_row), min(max(x, -_THREE), last_column)
                top, left = int(np.floor(y)), int(np.floor(x))
                _read(pixels, height, width, top, left, y - np.float32(top), sums, taps)
                right0, right1, right2, right3 = _weights(x - np.float32(left))
                for channel in range(3):
                    value = right0 * sums[channel] + right1 * sums[channel + 3]
                    value += right2 * sums[channel + 6] + right3 * sums[channel + 9]
                    shown[channel, row - first, column] = contrast * value + cells.tone[channel + 1, above, beside]


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def count(shown: Array, first: int, begin: int, radius: int, total: Array, detail: Array, squares: Array) -> None:
    """Adds a vote to those before it: `shown` (3, m, W), from row `first` of the picture on, what neighbours need
    included, to `total` (3, n, W), from row `begin` on; to `detail`, what is finer than the mean over `radius` pixels
    around; and the square of that to `squares`."""
    rows, width = shown.shape[1], shown.shape[2]
    padded, mean = np.empty(width + 2 * radius, np.float32), np.empty(width, np.float32)
    share = _ONE / np.float32((2 * radius + 1) ** 2)
    for channel in range(3):
        for row in range(total.shape[1]):
            here = row + begin - first
            for column in range(width):
                padded[column + radius] = shown[channel, min(max(here - radius, 0), rows - 1), column]
            for shift in range(1 - radius, radius + 1):
                other = shown[channel, min(max(here + shift, 0), rows - 1)]
                for column in range(width):
                    padded[column + radius] += other[column]
            padded[:radius], padded[width + radius :] = padded[radius], padded[width + radius - 1]
            mean[:] = padded[:width]
            for shift in range(1, 2 * radius + 1):
                for column in range(width):
                    mean[column] += padded[column + shift]
            for column in range(width):
                value = shown[channel, here, column]
                fine = value - mean[column] * share
                total[channel, row, column] += value
                detail[channel, row, column] += fine
                squares[channel, row, column] += fine * fine


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def conclude(total: Array, detail: Array, squares: Array, votes: np.float32, variance: Array) -> None:
    """Makes of `total` (3, n, W) the mean of the votes, and fills in the `variance` (n, W) of what is finer."""
    share = _ONE / votes
    for row in range(total.shape[1]):
        for column in range(total.shape[2]):
            spread = _ZERO
            for channel in range(3):
                mean = detail[channel, row, column] * share
                spread += max(squares[channel, row, column] * share - mean * mean, _ZERO)
                total[channel, row, column] *= share
            variance[row, column] = spread / _THREE
