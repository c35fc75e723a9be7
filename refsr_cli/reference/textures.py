"""Features of references, and where the patches of a picture are found in them: what C2-Matching and DATSR restore
with. Several references lie in one map, apart from each other, so that nothing is stitched and any size will do.

The patch of a cell is the 3x3 cells of which it is the upper left one; the nine patches that contain a cell vote for
places of their own, one for each tap of a 3x3 kernel (C2-Matching, section 3.3).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.layers.alignment import pixel_grid, read, taps
from refsr_cli.layers.strips import Strips
from refsr_cli.reference.patches import PATCH, likest

_APART = 16
"""Cells of nothing between references in one map: more than a learned offset reaches."""


@dataclass(frozen=True)
class Textures:
    """What is known of the references of a part of a picture, of h x w cells (low-resolution pixels)."""

    maps: Mapping[int, Tensor | Strips]
    """By stride in pixels of a reference, features (N, C, H/stride, W/stride) of all references in one map."""
    flow: Tensor
    """(N, K, 2, h, w) from each cell to the upper left cell of its patch's K likest in the map, down and right, in
    cells; 0 where no patch begins."""
    score: Tensor
    """(N, K, h, w) their cosine, for the patch around the cell; 0 at the border."""
    ref_id: Tensor
    """(N, h, w) number of the reference where the likest is."""
    first_rows: int
    """Of the map, in cells, that belong to the first reference."""
    origin: tuple[int, int] = (0, 0)
    """Row and column of the upper left cell of the part in the picture."""

    def crop(self, top: int, left: int, bottom: int, right: int) -> "Textures":
        """The cells `top` <= row < `bottom`, `left` <= column < `right` of this part."""
        rows, columns = slice(top, bottom), slice(left, right)
        return replace(
            self,
            flow=self.flow[..., rows, columns],
            score=self.score[..., rows, columns],
            ref_id=self.ref_id[..., rows, columns],
            origin=(self.origin[0] + top, self.origin[1] + left),
        )

    def padded(self, bottom: int, right: int) -> "Textures":
        """With cells added below and to the right, where nothing was looked for."""
        sides = (0, right, 0, bottom)
        return replace(
            self, flow=F.pad(self.flow, sides), score=F.pad(self.score, sides), ref_id=F.pad(self.ref_id, sides)
        )

    def shares(self, count: int) -> list[tuple[float, float | None]]:
        """For each of `count` references the part of the cells whose likest patch is in it, and their mean cosine."""
        told: list[tuple[float, float | None]] = []
        for number in range(count):
            here = self.ref_id == number
            mean = float(self.score[:, 0][here].mean()) if here.any() else 0.0
            told.append((float(here.float().mean()), mean))
        return told

    @property
    def held_bytes(self) -> int:
        """What it keeps in memory."""
        kept = [self.flow, self.score, self.ref_id, *(its for its in self.maps.values() if isinstance(its, Tensor))]
        return sum(its.nbytes for its in kept)

    def places(self, factor: int, which: int = 0) -> Tensor:
        """Where the taps of every pixel read, in a map of `factor` pixels a cell: (N, 9, 2, factor*h, factor*w)."""
        flow = self.flow[:, which]
        height, width = flow.shape[-2:]
        shifted = [
            F.pad(flow, (right, 0, down, 0))[..., :height, :width] for down in range(PATCH) for right in range(PATCH)
        ]
        around = taps(PATCH, flow).view(1, -1, 2, 1, 1)
        return self._at(factor, torch.stack(shifted, 1)) + around

    def warped(self, factor: int, which: int = 0) -> Tensor:
        """The map of `factor` pixels a cell as the matches show it: (N, C, factor*h, factor*w)."""
        return read(self.map(factor), self._at(factor, self.flow[:, which]))

    def unmoved(self, factor: int) -> Tensor:
        """The first reference as it lies, cut or continued with nothing to the size of this part."""
        still = torch.zeros_like(self.flow[:, 0])
        whole, rows = self.map(factor), factor * self.first_rows
        first = whole.above(rows) if isinstance(whole, Strips) else whole[..., :rows, :]
        return read(first, self._at(factor, still))

    def scores(self, factor: int, which: int = 0) -> Tensor:
        """(N, 1, factor*h, factor*w)."""
        return _spread(self.score[:, which, None], factor)

    def map(self, factor: int) -> Tensor | Strips:
        """The features of `factor` pixels a cell, of all references."""
        return self.maps[4 // factor]

    def _at(self, factor: int, flow: Tensor) -> Tensor:
        """Row and column that each pixel reads, when its cell is moved by `flow` (N, ..., 2, h, w)."""
        *before, _, height, width = flow.shape
        start = factor * flow.new_tensor(self.origin).view(2, 1, 1)
        grid = pixel_grid(factor * height, factor * width, flow) + start
        moved = _spread(flow.flatten(0, -4), factor).view(*before, 2, factor * height, factor * width)
        return grid + factor * moved


def _spread(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="nearest") if factor > 1 else x


def begins(heights: Sequence[int]) -> list[int]:
    """The row, in cells, at which each reference begins in one map; `heights` are theirs in cells."""
    rows, row = [], 0
    for height in heights:
        rows.append(row)
        row += height + _APART
    return rows


def in_one_map(strips: Iterable[tuple[int, Mapping[int, Tensor]]], rows: int, columns: int) -> dict[int, Tensor]:
    """Maps of so many cells, by stride, of strips of features (1, C, h, w) by stride, each put at its first row, in
    cells, as soon as it is made; nothing is between them."""
    maps: dict[int, Tensor] = {}
    for row, features in strips:
        for stride, part in features.items():
            per = 4 // stride
            if stride not in maps:
                maps[stride] = part.new_zeros(1, part.shape[1], per * rows, per * columns)
            maps[stride][..., per * row : per * row + part.shape[2], : part.shape[3]] = part
    return maps


def as_textures(
    maps: Mapping[int, Tensor | Strips],
    heights: Sequence[int],
    found: Sequence[tuple[Tensor, Tensor]],
    cells: tuple[int, int],
) -> Textures:
    """Textures of references of `heights` cells whose features lie in `maps` by stride, and in which the patches of a
    picture of `cells` (h, w) were found: for each reference what `match_patches` gives. The likest of all are kept; of
    equals those of the earlier reference."""
    count = found[0][0].shape[0]
    corner = pixel_grid(cells[0] - PATCH + 1, cells[1] - PATCH + 1, found[0][1])
    flows = [
        (pos + score.new_tensor([start, 0]).view(2, 1, 1) - corner, score)
        for (pos, score), start in zip(found, begins(heights), strict=True)
    ]
    flow, score, order = likest(flows, count)
    return Textures(
        maps=maps,
        flow=F.pad(flow, (0, PATCH - 1, 0, PATCH - 1))[None],
        score=F.pad(score, (PATCH // 2,) * 4)[None],
        ref_id=F.pad(order[:1] // count, (0, PATCH - 1, 0, PATCH - 1)),
        first_rows=heights[0],
    )


def side_by_side(samples: Sequence[Textures]) -> Textures:
    """The textures of a batch, from those of each of its pictures; all of one size, with references of one size."""
    first = samples[0]
    maps = {stride: torch.cat([_held(its.maps[stride]) for its in samples]) for stride in first.maps}
    flow, score, ref_id = (torch.cat([getattr(its, name) for its in samples]) for name in ("flow", "score", "ref_id"))
    return Textures(maps, flow, score, ref_id, first.first_rows)


def _held(its: Tensor | Strips) -> Tensor:
    assert isinstance(its, Tensor), "references of a batch are held"
    return its
