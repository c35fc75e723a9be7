"""What makes a field of places better, compiled for a CPU: one pass over memory for each try.

All positions are in samples of the reference's cell map. `field.py` defines the same in tensors, which a GPU runs; its
docstrings say what each does and where it is from. Importing this takes half a second, and the first call of each
compiles it, once on every machine.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from refsr_cli.reference.descriptors import RADIUS

Array = Any
_WINDOW, _MORE = (2 * RADIUS + 1) ** 2, 2 * RADIUS
"""Cells compared, and by how many the continued picture is wider."""
_RADIUS, _ONE, _ZERO = np.float32(RADIUS), np.float32(1), np.float32(0)


class Pair(NamedTuple):
    """A picture of h x w cells and the cell map (A, B) of a reference, by channels, all float32 and contiguous."""

    red: Array
    """(A * B,), like `green` and `blue`."""
    green: Array
    blue: Array
    rows: int
    columns: int
    own_red: Array
    """((h + 6) * (w + 6),) the picture, continued by three pixels; like `own_green` and `own_blue`."""
    own_green: Array
    own_blue: Array
    width: int
    """w"""
    around: Array
    """(49,) int32: from the first pixel of a cell's surroundings to each of them."""
    down: Array
    """(49,) where each lies, in cells from the middle one; like `right`."""
    right: Array
    own: Array
    """(h * w, 4): the means of the surroundings less their middle pixel, and 1 / their length; see `prepare`."""
    flat: np.float32
    """What makes flat surroundings count as short."""


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def prepare(pair: Pair, first: int, last: int) -> None:
    """Fills in `own` of the cells `first` <= number < `last`."""
    middle = pair.around[_WINDOW // 2]
    for cell in range(first, last):
        begin = cell // pair.width * (pair.width + _MORE) + cell % pair.width
        red, green, blue = (
            pair.own_red[begin + middle],
            pair.own_green[begin + middle],
            pair.own_blue[begin + middle],
        )
        mean0, mean1, mean2, squares = _ZERO, _ZERO, _ZERO, _ZERO
        for number in range(_WINDOW):
            at = begin + pair.around[number]
            value0, value1, value2 = pair.own_red[at] - red, pair.own_green[at] - green, pair.own_blue[at] - blue
            mean0 += value0
            mean1 += value1
            mean2 += value2
            squares += value0 * value0 + value1 * value1 + value2 * value2
        squares -= (mean0 * mean0 + mean1 * mean1 + mean2 * mean2) / np.float32(_WINDOW)
        pair.own[cell, 0] = mean0 / np.float32(_WINDOW)
        pair.own[cell, 1] = mean1 / np.float32(_WINDOW)
        pair.own[cell, 2] = mean2 / np.float32(_WINDOW)
        pair.own[cell, 3] = _ONE / (np.sqrt(max(squares, _ZERO)) + pair.flat)


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy", inline="always")
def _sums(
    pair: Pair,
    cell: int,
    row: np.float32,
    column: np.float32,
    row_down: np.float32,
    row_right: np.float32,
    column_down: np.float32,
    column_right: np.float32,
) -> tuple[Any, ...]:
    """Over the surroundings at a place, which moves by the four others from cell to cell: the three colours, less those
    in the middle, their squares, and their products with the surroundings of `cell`; and the colours in the middle."""
    wide = np.int32(pair.columns)
    last_row, last_column = np.float32(pair.rows - 1), np.float32(pair.columns - 1)
    top_most, left_most = np.int32(max(pair.rows - 2, 0)), np.int32(max(pair.columns - 2, 0))
    below, beside = np.int32(wide if pair.rows > 1 else 0), np.int32(1 if pair.columns > 1 else 0)
    top = min(np.int32(min(max(row, _ZERO), last_row)), top_most)
    left = min(np.int32(min(max(column, _ZERO), last_column)), left_most)
    # less the middle ones, so that small contrasts are not the difference of large sums
    red, green, blue = pair.red[top * wide + left], pair.green[top * wide + left], pair.blue[top * wide + left]
    begin = cell // pair.width * (pair.width + _MORE) + cell % pair.width
    middle = begin + pair.around[_WINDOW // 2]
    own_red, own_green, own_blue = pair.own_red[middle], pair.own_green[middle], pair.own_blue[middle]
    sum0, sum1, sum2, squares, products = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    for number in range(_WINDOW):
        down, right = pair.down[number], pair.right[number]
        y = min(max(row + row_down * down + row_right * right, _ZERO), last_row)
        x = min(max(column + column_down * down + column_right * right, _ZERO), last_column)
        top, left = min(np.int32(y), top_most), min(np.int32(x), left_most)
        lower, further = y - np.float32(top), x - np.float32(left)
        weight3 = lower * further
        weight2, weight1 = lower - weight3, further - weight3
        weight0 = _ONE - lower - weight1
        at = np.uint32(top * wide + left)  # without a sign, so that it is not taken for one from the end
        next_at, below_at, last_at = np.uint32(at + beside), np.uint32(at + below), np.uint32(at + below + beside)
        value0 = weight0 * pair.red[at] + weight1 * pair.red[next_at]
        value0 += weight2 * pair.red[below_at] + weight3 * pair.red[last_at] - red
        value1 = weight0 * pair.green[at] + weight1 * pair.green[next_at]
        value1 += weight2 * pair.green[below_at] + weight3 * pair.green[last_at] - green
        value2 = weight0 * pair.blue[at] + weight1 * pair.blue[next_at]
        value2 += weight2 * pair.blue[below_at] + weight3 * pair.blue[last_at] - blue
        sum0 += value0
        sum1 += value1
        sum2 += value2
        squares += value0 * value0 + value1 * value1 + value2 * value2
        own = np.uint32(begin + pair.around[number])
        products += value0 * (pair.own_red[own] - own_red) + value1 * (pair.own_green[own] - own_green)
        products += value2 * (pair.own_blue[own] - own_blue)
    return sum0, sum1, sum2, squares, products, red, green, blue


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _correlation(
    pair: Pair,
    cell: int,
    row: np.float32,
    column: np.float32,
    row_down: np.float32,
    row_right: np.float32,
    column_down: np.float32,
    column_right: np.float32,
) -> np.float32:
    """Of the surroundings of `cell` with those at a place."""
    sum0, sum1, sum2, squares, products, _, _, _ = _sums(
        pair, cell, row, column, row_down, row_right, column_down, column_right
    )
    squares -= (sum0 * sum0 + sum1 * sum1 + sum2 * sum2) / np.float32(_WINDOW)
    products -= sum0 * pair.own[cell, 0] + sum1 * pair.own[cell, 1] + sum2 * pair.own[cell, 2]
    return np.float32(products * pair.own[cell, 3] / (np.sqrt(max(squares, _ZERO)) + pair.flat))


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def compare(pair: Pair, places: Array, score: Array, first: int, last: int) -> None:
    """Fills in the `score` (n,) of `places` (6, n): row, column, and by how much both move down and right."""
    for cell in range(first, last):
        score[cell] = _correlation(
            pair,
            cell,
            places[0, cell],
            places[1, cell],
            places[2, cell],
            places[3, cell],
            places[4, cell],
            places[5, cell],
        )


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def attempt(pair: Pair, places: Array, score: Array, others: Array, margin: np.float32, first: int, last: int) -> None:
    """Tries `others` (6, n); changes `places` (6, n) and `score` (n,)."""
    for cell in range(first, last):
        found = _correlation(
            pair,
            cell,
            others[0, cell],
            others[1, cell],
            others[2, cell],
            others[3, cell],
            others[4, cell],
            others[5, cell],
        )
        if found > score[cell] + margin:
            score[cell] = found
            for number in range(6):
                places[number, cell] = others[number, cell]


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def search(pair: Pair, places: Array, score: Array, steps: Array, margin: np.float32, first: int, last: int) -> None:
    """Tries each of the `steps` (m, 2), one after the other; changes `places` (6, n) and `score` (n,)."""
    for cell in range(first, last):
        for number in range(len(steps)):
            row, column = places[0, cell] + steps[number, 0], places[1, cell] + steps[number, 1]
            found = _correlation(
                pair, cell, row, column, places[2, cell], places[3, cell], places[4, cell], places[5, cell]
            )
            if found > score[cell] + margin:
                places[0, cell], places[1, cell], score[cell] = row, column, found


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def propagate(
    pair: Pair,
    places: Array,
    score: Array,
    new_places: Array,
    new_score: Array,
    down: int,
    right: int,
    margin: np.float32,
    near: np.float32,
    first: int,
    last: int,
) -> None:
    """Tries what the neighbours `down` and `right` before would say, continued to here, where that is not `near`."""
    width = pair.width
    height = len(score) // width
    for cell in range(first, last):
        row, column = cell // width, cell % width
        from_row, from_column = min(max(row - down, 0), height - 1), min(max(column - right, 0), width - 1)
        other = from_row * width + from_column
        way_down, way_right = np.float32(row - from_row), np.float32(column - from_column)
        y = places[0, other] + places[2, other] * way_down + places[3, other] * way_right
        x = places[1, other] + places[4, other] * way_down + places[5, other] * way_right
        change = abs(y - places[0, cell]) + abs(x - places[1, cell])
        for number in range(2, 6):
            change += _RADIUS * abs(places[number, other] - places[number, cell])
        found = score[cell]
        if change > near:
            found = _correlation(
                pair, cell, y, x, places[2, other], places[3, other], places[4, other], places[5, other]
            )
        better = found > score[cell] + margin
        new_score[cell] = found if better else score[cell]
        source = other if better else cell
        new_places[0, cell] = y if better else places[0, cell]
        new_places[1, cell] = x if better else places[1, cell]
        for number in range(2, 6):
            new_places[number, cell] = places[number, source]


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def fit(
    pair: Pair,
    places: Array,
    score: Array,
    new_places: Array,
    new_score: Array,
    radius: int,
    per_sample: Array,
    margin: np.float32,
    first: int,
    last: int,
) -> None:
    """Tries the affine map that fits the neighbours' places best. `per_sample` (2,) are pixels of the level for one
    sample of the cell map, down and right."""
    width = pair.width
    height = len(score) // width
    for cell in range(first, last):
        row, column = cell // width, cell % width
        top, bottom = max(0, row - radius), min(height, row + radius + 1)
        begin, end = max(0, column - radius), min(width, column + radius + 1)
        y, x = places[0, cell], places[1, cell]
        y_down, y_right = places[2, cell], places[3, cell]
        x_down, x_right = places[4, cell], places[5, cell]
        for tolerance in (3.0, 2.0, 1.0):
            strict = np.float32(1 / tolerance**2)
            # normal equations of a + b * down + c * right, symmetric
            w, wd, wr = np.float32(0.3), _ZERO, _ZERO
            wdd, wdr, wrr = np.float32(8), _ZERO, np.float32(8)
            ey, eyd, eyr, ex, exd, exr = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
            for from_row in range(top, bottom):
                down = np.float32(from_row - row)
                for from_column in range(begin, end):
                    right = np.float32(from_column - column)
                    other = from_row * width + from_column
                    known = min(max(score[other], _ZERO), _ONE)
                    known *= known
                    error_y = places[0, other] - (y + y_down * down + y_right * right)
                    error_x = places[1, other] - (x + x_down * down + x_right * right)
                    away_y, away_x = error_y * per_sample[0], error_x * per_sample[1]
                    near = _ONE / (_ONE + strict * (away_y * away_y + away_x * away_x))
                    weight = known * known * near * near
                    w += weight
                    wd += weight * down
                    wr += weight * right
                    wdd += weight * down * down
                    wdr += weight * down * right
                    wrr += weight * right * right
                    ey += weight * error_y
                    eyd += weight * error_y * down
                    eyr += weight * error_y * right
                    ex += weight * error_x
                    exd += weight * error_x * down
                    exr += weight * error_x * right
            # the inverse by cofactors: the ridge keeps it far from singular
            c00, c01, c02 = wdd * wrr - wdr * wdr, wdr * wr - wd * wrr, wd * wdr - wdd * wr
            c11, c12, c22 = w * wrr - wr * wr, wd * wr - w * wdr, w * wdd - wd * wd
            scale = _ONE / (w * c00 + wd * c01 + wr * c02)
            y += scale * (c00 * ey + c01 * eyd + c02 * eyr)
            y_down += scale * (c01 * ey + c11 * eyd + c12 * eyr)
            y_right += scale * (c02 * ey + c12 * eyd + c22 * eyr)
            x += scale * (c00 * ex + c01 * exd + c02 * exr)
            x_down += scale * (c01 * ex + c11 * exd + c12 * exr)
            x_right += scale * (c02 * ex + c12 * exd + c22 * exr)
        found = _correlation(pair, cell, y, x, y_down, y_right, x_down, x_right)
        if found > score[cell] + margin:
            new_score[cell] = found
            new_places[0, cell], new_places[1, cell] = y, x
            new_places[2, cell], new_places[3, cell] = y_down, y_right
            new_places[4, cell], new_places[5, cell] = x_down, x_right
        else:
            new_score[cell] = score[cell]
            for number in range(6):
                new_places[number, cell] = places[number, cell]


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def tone(
    pair: Pair,
    places: Array,
    known: np.float32,
    least: np.float32,
    most: np.float32,
    tones: Array,
    first: int,
    last: int,
) -> None:
    """Fills in `tones` (4, n): contrast, from `least` to `most`, and what is to be added to each colour. `known` is
    added to the squares, and to the products, as if so much were known to be alike."""
    count = np.float32(_WINDOW)
    for cell in range(first, last):
        sum0, sum1, sum2, squares, products, red, green, blue = _sums(
            pair,
            cell,
            places[0, cell],
            places[1, cell],
            places[2, cell],
            places[3, cell],
            places[4, cell],
            places[5, cell],
        )
        own0, own1, own2 = pair.own[cell, 0], pair.own[cell, 1], pair.own[cell, 2]
        products -= sum0 * own0 + sum1 * own1 + sum2 * own2
        squares -= (sum0 * sum0 + sum1 * sum1 + sum2 * sum2) / count
        contrast = min(max((products + known) / (max(squares, _ZERO) + known), least), most)
        middle = cell // pair.width * (pair.width + _MORE) + cell % pair.width + pair.around[_WINDOW // 2]
        tones[0, cell] = contrast
        tones[1, cell] = own0 + pair.own_red[middle] - contrast * (sum0 / count + red)
        tones[2, cell] = own1 + pair.own_green[middle] - contrast * (sum1 / count + green)
        tones[3, cell] = own2 + pair.own_blue[middle] - contrast * (sum2 / count + blue)
