"""What is compared: the surroundings of a cell, at the resolution of the low-resolution picture.

A cell's descriptor is the 7x7 cells around it in RGB, each channel without its mean, the whole at unit length: equal
under changes of exposure and colour cast. The same can be read at any place of a reference, also between its cells
and turned or stretched, from a map of it that is blurred as the low-resolution picture is.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.layers.resample import grid_sample, mirror, resize

CELL = 4
"""Pixels of a reference, a side, that are compared with one low-resolution pixel; positions move by quarters of it."""
RADIUS = 3
"""Cells around the middle one, on each side."""
FLAT = 1e-3
"""Standard deviation below which surroundings count as flat: noise is not compared."""
_PER_CELL = 2
"""Samples of a cell map for each cell, along each side."""
MAP_STEP = CELL // _PER_CELL
_BAND = 64
"""Rows worked on at once, so that large images need little memory; a multiple of MAP_STEP."""


def cell_map(image: Tensor) -> Tensor:
    """(3, H, W) float to (3, H // 2 + 1, W // 2 + 1): the value a low-resolution pixel centred there would have.

    Sample `k` lies at position `2 * k` of the image; the blur is that of MATLAB's bicubic shrinking by 4.
    """
    taps = 4 * CELL
    offset = (torch.arange(taps, dtype=torch.float32, device=image.device) + 0.5 - taps / 2).abs() / CELL
    near = 1.5 * offset**3 - 2.5 * offset**2 + 1
    far = -0.5 * offset**3 + 2.5 * offset**2 - 4 * offset + 2
    kernel = torch.where(offset <= 1, near, far)
    kernel = kernel / kernel.sum()
    bands = []
    padded = mirror(image, taps // 2)
    for start in range(0, image.shape[1] + 1, _BAND):
        # a sample every MAP_STEP rows, from those that begin in this band
        band = padded[:, start : min(start + _BAND, image.shape[1] + 1) - 1 + taps, :]
        rows = F.conv2d(band[:, None], kernel.view(1, 1, -1, 1), stride=(MAP_STEP, 1))
        bands.append(F.conv2d(rows, kernel.view(1, 1, 1, -1), stride=(1, MAP_STEP))[:, 0])
    return torch.cat(bands, 1)


def sample_cells(cells: Tensor, pos: Tensor) -> Tensor:
    """A cell map (3, A, B) read at image positions (2, n), bilinearly, continued beyond its border: (3, n)."""
    height, width = cells.shape[-2:]
    size = torch.tensor([max(1, height - 1), max(1, width - 1)], device=pos.device).view(2, 1)
    places = torch.addcmul(pos.new_full((1,), -1), pos, 2 / MAP_STEP / size)
    return grid_sample(cells, places, "bilinear", align_corners=True)


def normalized(values: Tensor) -> Tensor:
    """(n, 3, 49) surroundings to (n, 147) descriptors: each channel without its mean, all of unit length or less."""
    values = _centred(values)
    return values / _length(values)


def correlation(values: Tensor, descriptors: Tensor) -> Tensor:
    """(n, 3, 49) surroundings with as many descriptors (n, 147), in [-1, 1]: (n). The same as normalizing them and
    adding up the products, in fewer passes."""
    values = _centred(values)
    return (values * descriptors).sum(1) / _length(values)[:, 0]


def _centred(values: Tensor) -> Tensor:
    """(n, 3, 49) to (n, 147), each channel without its mean."""
    centred = values.new_empty(values.shape)  # in this order, whatever that of the values is
    return torch.sub(values, values.mean(-1, keepdim=True), out=centred).flatten(1)


def _length(values: Tensor) -> Tensor:
    """Of (n, 147), and what makes flat ones count as short: (n, 1)."""
    flat: float = FLAT * values.shape[1] ** 0.5
    length: Tensor = values.norm(dim=1, keepdim=True)
    return length + flat


def describe(lr: Tensor, rows: slice | None = None) -> Tensor:
    """(3, h, w) to (h * w, 147): the descriptor of every pixel, or of those in `rows`; the picture is continued beyond
    its border."""
    rows = rows or slice(0, lr.shape[1])
    width, side = lr.shape[2], 2 * RADIUS + 1
    padded = F.pad(lr[None], (RADIUS,) * 4, mode="replicate")
    descriptors = lr.new_empty((rows.stop - rows.start) * width, 3 * side * side)
    for start in range(rows.start, rows.stop, _BAND):
        stop = min(start + _BAND, rows.stop)
        surroundings = F.unfold(padded[:, :, start : stop + 2 * RADIUS], side)[0].T
        part = slice((start - rows.start) * width, (stop - rows.start) * width)
        descriptors[part] = normalized(surroundings.reshape(-1, 3, side * side).contiguous())
    return descriptors


def describe_turned(lr: Tensor, places: Tensor, turn: Tensor) -> Tensor:
    """Descriptors (n, 147) of the pixels at `places` (2, n) of a picture (3, h, w), as they are where a reference shows
    it turned: `turn` (2, 2), orthogonal, takes steps in the picture to steps in the reference."""
    offset = turn.T @ neighbours(RADIUS, lr.device)
    seen = places[:, :, None] + offset[:, None]  # row and column of every pixel compared
    size = torch.tensor(lr.shape[1:], device=lr.device).view(2, 1, 1)
    shown = grid_sample(lr, ((2 * seen + 1) / size - 1).flatten(1), "bilinear", align_corners=False)
    return normalized(shown.view(3, *seen.shape[1:]).transpose(0, 1))


def describe_map(cells: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Descriptors (n, 147) at every sample of a cell map and their image positions (2, n), about `most` at a time."""
    for top in range(_PER_CELL):
        for left in range(_PER_CELL):
            part = cells[:, top::_PER_CELL, left::_PER_CELL]
            height, width = part.shape[1:]
            columns = (torch.arange(width, device=cells.device) * _PER_CELL + left) * MAP_STEP
            band = max(1, most // max(1, width))
            for start in range(0, height if width else 0, band):
                stop = min(start + band, height)
                rows = (torch.arange(start, stop, device=cells.device) * _PER_CELL + top) * MAP_STEP
                grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)
                yield describe(part, slice(start, stop)), grid.float()


def turned_map(cells: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """A cell map as it would be of the image turned about its middle, and the positions (2, A', B') in the image that
    its samples come from; `turn` (2, 2) is orthogonal and takes steps in the turned image to steps in the image."""
    size = torch.tensor([cells.shape[1] - 1, cells.shape[2] - 1], dtype=torch.float32, device=cells.device)
    rows, columns = (turn.abs().T @ size).sub(1e-3).ceil().long().tolist()
    offset = torch.stack(
        torch.meshgrid(
            torch.arange(rows + 1, device=cells.device) - rows / 2,
            torch.arange(columns + 1, device=cells.device) - columns / 2,
            indexing="ij",
        )
    )
    pos = (torch.einsum("ab,bhw->ahw", turn, offset) + size.view(2, 1, 1) / 2) * MAP_STEP
    return sample_cells(cells, pos.flatten(1)).view(3, rows + 1, columns + 1), pos


def neighbours(radius: int, device: torch.device) -> Tensor:
    """(2, (2 * radius + 1)²) offsets of the surrounding cells, row by row."""
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(offset, offset, indexing="ij")).flatten(1)


def pyramid_level(image: Tensor, level: int) -> Tensor:
    """(3, H, W) shrunk by 2^level, at least one pixel a side."""
    height, width = image.shape[-2:]
    return resize(image[None], max(1, round(height / 2**level)), max(1, round(width / 2**level)))[0]
