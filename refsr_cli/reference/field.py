"""A field of places made better by trying: neighbours' motion, small steps, local affine fits.

A photo of the same scene from elsewhere is locally an affine picture of it. Whole-cell positions miss it by up to two
pixels and by all stretching, which is what the detail to be copied cannot stand. So every cell holds a place and an
affine map, and what correlates better is kept: the extrapolated place of a neighbour (Barnes et al., "PatchMatch",
2009), a random or regular small step, or an affine map fitted robustly to the neighbours' places.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.layers.resample import local_mean
from refsr_cli.reference.descriptors import (
    CELL,
    MAP_STEP,
    RADIUS,
    cell_map,
    correlation,
    describe,
    neighbours,
    normalized,
    pyramid_level,
    sample_cells,
)

_CHUNK = 2**15
"""Cells compared at once."""
_KEPT = 2**19
"""Cells whose descriptors are kept, 300 MB of them; of larger pictures each is made again when it is compared."""
FIT_RADIUS = 3
"""Cells on each side that an affine map is fitted to."""
BETTER = 1e-4
"""By how much a place must correlate better to be taken."""
NEAR = 0.04
"""Samples of the cell map, a fiftieth of a cell, by which places must differ somewhere in the surroundings not to count
as the same. Most of those that neighbours would say do not, and PSNR changes by 0.001 to 0.003 dB."""
_SMOOTHING = (2, 4)
"""Radii of the neighbourhoods, in cells, whose places are smoothed where a picture was degraded."""
TONE_NOISE = 2 / 255
LEAST_CONTRAST, MOST_CONTRAST = 0.1, 2.5
"""By how much the contrast of a reference may be changed; a match that hardly correlates is made faint by it."""


@dataclass(frozen=True)
class Field:
    """Where each cell of a level is, for now, thought to be in a reference: as in a `Match`, of one reference."""

    pos: Tensor
    affine: Tensor
    score: Tensor

    def better(self, other: "Field", margin: float = 0.0) -> "Field":
        """For each cell this, or `other` where its score is higher by more than `margin`."""
        return self.where(other.score <= self.score + margin, other)

    def where(self, keep: Tensor, other: "Field") -> "Field":
        """This field for the cells of which `keep` (h, w) is true, `other` for the rest."""
        return Field(
            torch.where(keep, self.pos, other.pos),
            torch.where(keep, self.affine, other.affine),
            torch.where(keep, self.score, other.score),
        )


class Level:
    """A picture and a reference at one of the resolutions of their pyramids, ready to be compared anywhere."""

    def __init__(self, lr: Tensor, reference: Tensor, level: int) -> None:
        """`lr` (3, h, w) and `reference` (3, H, W), float in [0, 1], both at full resolution."""
        small, shrunk = pyramid_level(lr, level), pyramid_level(reference, level)
        self.height, self.width = small.shape[-2:]
        self.lr = small
        self.cells = cell_map(shrunk)
        device = lr.device
        size = torch.tensor(lr.shape[-2:], device=device)
        self.step = CELL * size / torch.tensor([self.height, self.width], device=device)
        """(2,) high-resolution pixels from one cell to the next, down and right."""
        self.ratio = torch.tensor(shrunk.shape[-2:], device=device) / torch.tensor(reference.shape[-2:], device=device)
        """(2,) pixels of the shrunk reference for each of its own."""
        self.unit = float(2**level)
        self.window = neighbours(RADIUS, device)

    @cached_property
    def _kept(self) -> Tensor | None:
        return describe(self.lr) if self.height * self.width <= _KEPT else None

    def descriptors(self, part: slice) -> Tensor:
        """Of some cells, counted row by row: (n, 147)."""
        return normalized(self._own_surroundings(part)) if self._kept is None else self._kept[part]

    def compare(self, pos: Tensor, affine: Tensor) -> Tensor:
        """Correlation (h, w) of each cell's surroundings with those at `pos` (2, h, w), seen through `affine`
        (2, 2, h, w)."""
        scores = [correlation(shown, self.descriptors(part)) for part, shown in self._surroundings(pos, affine)]
        return torch.cat(scores).view(self.height, self.width)

    def tone(self, field: "Field") -> Tensor:
        """(4, h, w): the contrast, and what is to be added in RGB, that make the reference as bright as the picture,
        by least squares over each cell's surroundings."""
        tones = []
        for part, shown in self._surroundings(field.pos, field.affine):
            ours = self._own_surroundings(part)
            mean, own_mean = shown.mean(2, keepdim=True), ours.mean(2, keepdim=True)
            known = TONE_NOISE**2 * shown[0].numel()
            shared = ((shown - mean) * (ours - own_mean)).sum((1, 2)) + known
            contrast = (shared / ((shown - mean).square().sum((1, 2)) + known)).clamp(LEAST_CONTRAST, MOST_CONTRAST)
            tones.append(torch.cat([contrast[:, None], own_mean[..., 0] - contrast[:, None] * mean[..., 0]], 1))
        return torch.cat(tones).T.reshape(4, self.height, self.width)

    def _own_surroundings(self, part: slice) -> Tensor:
        """What the picture shows around these cells: (n, 3, 49)."""
        number = torch.arange(part.start, min(part.stop, self.height * self.width), device=self.lr.device)
        row = (number // self.width).view(-1, 1) + self.window[0].long()
        column = (number % self.width).view(-1, 1) + self.window[1].long()
        return self.lr[:, row.clamp(0, self.height - 1), column.clamp(0, self.width - 1)].transpose(0, 1).contiguous()

    def _surroundings(self, pos: Tensor, affine: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """What the reference shows around some of the cells at a time: their numbers, (n, 3, 49)."""
        ratio = self.ratio.view(2, 1, 1)
        flat_pos, flat_affine = pos.flatten(1)[..., None] * ratio, affine.flatten(2)[..., None] * ratio[..., None]
        down, right = self.window * self.step[:, None]
        for start in range(0, flat_pos.shape[1], _CHUNK):
            part = slice(start, start + _CHUNK)
            stretched = flat_affine[:, :, part]
            places = torch.addcmul(flat_pos[:, part], stretched[:, 0], down).addcmul_(stretched[:, 1], right)
            values = sample_cells(self.cells, places.flatten(1)).view(3, -1, len(down))
            yield part, values.transpose(0, 1)

    def centres(self) -> Tensor:
        """(2, h, w) positions of the cells' centres in the high-resolution picture."""
        rows = (torch.arange(self.height, device=self.step.device) + 0.5) * self.step[0]
        columns = (torch.arange(self.width, device=self.step.device) + 0.5) * self.step[1]
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))

    def try_places(self, field: Field, pos: Tensor, affine: Tensor, margin: float = BETTER) -> Field:
        return field.better(Field(pos, affine, self.compare(pos, affine)), margin)

    def propagate(self, field: Field, distances: tuple[int, ...]) -> Field:
        """Tries what the neighbours at these distances would say, continued to here."""
        rows = torch.arange(self.height, device=field.pos.device)
        columns = torch.arange(self.width, device=field.pos.device)
        for distance in distances:
            for down, right in beside(distance):
                from_row = (rows - down).clamp(0, self.height - 1)
                from_column = (columns - right).clamp(0, self.width - 1)
                affine = field.affine[:, :, from_row][..., from_column]
                way = torch.stack(
                    torch.meshgrid(
                        (rows - from_row) * self.step[0], (columns - from_column) * self.step[1], indexing="ij"
                    )
                )
                pos = field.pos[:, from_row][..., from_column] + _through(affine, way)
                same = self._apart(field.pos - pos, field.affine - affine) <= NEAR
                field = field.where(same, self.try_places(field, pos, affine))
        return field

    def _apart(self, pos: Tensor, affine: Tensor) -> Tensor:
        """By how many samples of the cell map places differ at most in the surroundings (h, w), from the differences of
        positions (2, h, w) and maps (2, 2, h, w)."""
        samples = (self.ratio / MAP_STEP).view(2, 1, 1)
        bend = (affine * self.step.view(2, 1, 1) * samples[:, None]).abs().sum(1)
        return ((pos * samples).abs() + RADIUS * bend).sum(0)

    def search(self, field: Field, distance: float) -> Field:
        """Tries the eight places around, `distance` pixels of the level away."""
        for way in steps_around(distance):
            step = torch.tensor(way, device=field.pos.device).view(2, 1, 1) * self.unit
            field = self.try_places(field, field.pos + step, field.affine)
        return field

    def perturb(self, field: Field, generator: torch.Generator, shift: float, bend: float) -> Field:
        """Tries four random changes of place (`shift` pixels of the level) and affine map."""
        for step, change in self.changes(generator, shift, bend):
            field = self.try_places(field, field.pos + step, field.affine + change)
        return field

    def changes(self, generator: torch.Generator, shift: float, bend: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Four random changes of all places (2, h, w) and affine maps (2, 2, h, w)."""
        for _ in range(4):
            step = torch.randn(2, self.height, self.width, generator=generator) * shift * self.unit
            change = torch.randn(2, 2, self.height, self.width, generator=generator) * bend
            yield step.to(self.lr.device), change.to(self.lr.device)

    def fit(self, field: Field, margin: float, radius: int = FIT_RADIUS) -> Field:
        """Tries the affine map that fits the neighbours' places best, those that disagree counting little."""
        known = F.pad(field.score.clamp(0, 1)[None] ** 4, (radius,) * 4)  # nothing is known outside
        places = F.pad(field.pos, (radius,) * 4, mode="replicate")
        around = torch.cat([places, known])
        bands = [self._fit_rows(field, around, rows, radius) for rows in self._bands()]
        pos, affine = (torch.cat(parts, -2) for parts in zip(*bands, strict=True))
        return self.try_places(field, pos, affine, margin)

    def _bands(self) -> Iterator[slice]:
        rows = max(1, _CHUNK // self.width)
        return (slice(start, min(start + rows, self.height)) for start in range(0, self.height, rows))

    def _fit_rows(self, field: Field, around: Tensor, rows: slice, radius: int) -> tuple[Tensor, Tensor]:
        """Robust local least squares for these rows: places (2, r, w) and affine maps (2, 2, r, w). `around` holds
        place and weight (3, h + 2*radius, w + 2*radius) of every cell and of what lies beyond the border."""
        offset = neighbours(radius, field.pos.device)
        band = around[None, :, rows.start : rows.stop + 2 * radius]
        seen = F.unfold(band, 2 * radius + 1).view(3, -1, rows.stop - rows.start, self.width)
        places, known = seen[:2], seen[2]
        basis = torch.cat([torch.ones_like(offset[:1]), offset])
        ridge = torch.diag(torch.tensor([0.3, 8.0, 8.0], device=offset.device))
        pos, affine = field.pos[:, rows], field.affine[:, :, rows]
        for tolerance in (3.0, 2.0, 1.0):
            predicted = pos[:, None] + torch.einsum("abhw,bk->akhw", affine, offset * self.step[:, None])
            error = places - predicted
            distance = error.square().sum(0) / (tolerance * self.unit) ** 2
            weight = known / (1 + distance) ** 2
            normal = torch.einsum("ik,khw,jk->hwij", basis, weight, basis) + ridge
            right = torch.einsum("ik,khw,akhw->hwia", basis, weight, error)
            change = torch.linalg.solve(normal, right)
            pos = pos + change[..., 0, :].permute(2, 0, 1)
            affine = affine + (change[..., 1:, :] / self.step[:, None]).permute(3, 2, 0, 1)
        return pos, affine


def beside(distance: int) -> tuple[tuple[int, int], ...]:
    """How far down and right a cell is from the four neighbours at a distance."""
    return (0, distance), (0, -distance), (distance, 0), (-distance, 0)


def steps_around(distance: float) -> list[tuple[float, float]]:
    """The eight steps, down and right, to the places around."""
    ways = (-distance, 0.0, distance)
    return [(down, right) for down in ways for right in ways if down or right]


def refine(level: Level, field: Field, generator: torch.Generator, *, thorough: bool) -> Field:
    """The field after rounds of trying; `thorough` for one that starts from whole cells."""
    if thorough:
        field = level.search(field, 1.0)
        field = level.fit(field, margin=-0.01)
        for distances in ((1, 2, 1), (1, 4, 1), (1, 8, 2)):
            field = level.fit(level.propagate(field, distances), margin=-2.0)
    for distances, step in (((1, 2, 1), 0.5), ((1, 4, 1), 0.25)):
        field = level.propagate(level.perturb(field, generator, 0.5, 0.03), distances)
        field = level.fit(level.search(field, step), margin=-0.01)
    if thorough:
        field = level.propagate(level.perturb(field, generator, 0.25, 0.02), (1, 2, 1))
    return level.search(field, 0.12)


def smoothed(level: Level, field: Field, allowance: float) -> Field:
    """The field of a degraded picture, with fitted places where these explain it nearly as well as free ones do.

    Which place correlates best is decided by parts of a pixel by what degraded the picture, and smooth places are
    nearer the truth. Where they leave more unexplained than that can be, by `allowance` in the mean square, the scene
    moves less smoothly. The scores stay those of free places, as noise lowers those of right ones enough."""
    lr, side = level.lr[None], 2 * RADIUS + 1
    contrast = (local_mean(lr.square(), side) - local_mean(lr, side).square()).mean(1, keepdim=True)
    free = field
    for radius in _SMOOTHING:
        smooth = field
        for _ in range(2):
            smooth = level.fit(smooth, -torch.inf, radius)
        unexplained = contrast * (free.score.square() - smooth.score * smooth.score.abs())
        field = field.where(local_mean(unexplained, side)[0, 0] >= allowance, smooth)
    return Field(field.pos, field.affine, free.score)


def carried(coarse: Field, coarse_level: Level, level: Level) -> Field:
    """The field of a coarser level carried over to `level`."""
    here = level.centres()
    index = [
        (here[axis] / coarse_level.step[axis]).long().clamp(max=size - 1)
        for axis, size in enumerate((coarse_level.height, coarse_level.width))
    ]
    affine = coarse.affine[:, :, index[0], index[1]]
    way = here - coarse_level.centres()[:, index[0], index[1]]
    pos = coarse.pos[:, index[0], index[1]] + _through(affine, way)
    return Field(pos, affine, level.compare(pos, affine))


def _through(affine: Tensor, way: Tensor) -> Tensor:
    """Steps (2, h, w) as the maps (2, 2, h, w) show them: (2, h, w)."""
    return torch.addcmul(affine[:, 0] * way[0], affine[:, 1], way[1])
