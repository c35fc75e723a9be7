"""What nets are taught that need references: to restore with them, and to find places in them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.config import TrainConfig
from refsr_cli.data.degradations import degrade_windows, parse_mix
from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.data.pair_stream import PairStream
from refsr_cli.layers.alignment import pixel_grid
from refsr_cli.losses import Objective
from refsr_cli.models import SRModel
from refsr_cli.models.matched import enlarged
from refsr_cli.training.group import Group
from refsr_cli.training.optimizers import learning_rate_at

_CORNER = 9.0
"""Pixels by which a corner of a window is moved at most, to see it from elsewhere: C2-Matching, section 3.2."""
_BORDER = 10.0
"""Pixels from the border within which a place is not looked for."""
_NEAR = 4
"""Cells around a place that are no wrong answer by the margin, and `_BESIDE` that are none by the soft choice."""
_BESIDE = 1.0
_SOFTNESS = 0.07
"""Of the cosines among which that choice is made."""
_TEMPERATURE, _DISTILLED = 0.15, 15.0
"""Of the correlations that a student is to have like its teacher, and the weight of that."""


class _Shrinking:
    """Low-resolution windows, degraded where the config says how."""

    def __init__(self, config: TrainConfig, scale: int, stream: PairStream) -> None:
        self._mix = parse_mix(config.degrade) if config.degrade else None
        self._scale, self._stream = scale, stream

    def __call__(self, hr: Tensor, generator: torch.Generator) -> Tensor:
        if self._mix is None:
            return degrade_bicubic(hr, self._scale)
        return degrade_windows(hr, self._scale, self._mix, self._stream.size, self._stream.part, generator).lr


class Restoring:
    """Windows and references; a net is told how far its result is from the truth."""

    pieces = 1

    def __init__(self, stream: PairStream, config: TrainConfig, model: SRModel, group: Group) -> None:
        """Raises what `Objective` raises."""
        self.stream, self.model, self._config = stream, model, config
        self._apart = model.most_references == 1  # what is not matched is to be searched for, in the end
        self._ease = config.ease
        self._shrink = _Shrinking(config, model.scale, stream)
        self._objective = Objective(
            config.loss,
            group.device,
            sides=[config.patch * model.scale],
            critic=config.critic,
            luma_only=model.luma_only,
            share=group.share,
        )

    @property
    def unusable(self) -> int:
        return self.stream.unusable

    def forward(self, model: SRModel) -> Callable[..., Any]:
        def run(lr: Tensor, ref: Tensor) -> Tensor:
            sr: Tensor = model(lr, model.look(lr, [ref]))
            return sr

        return run

    def losses(self, forward: Callable[..., Any], generator: torch.Generator, step: int) -> Iterator[dict[str, Tensor]]:
        hr, ref = self.stream.draw(generator, apart=self._apart and self.stream.drawn >= self._ease)
        sr = forward(self._shrink(hr, generator), ref).float()
        rate, pixels_only = learning_rate_at(step, self._config), step < self._config.pixels_first
        yield self._objective(sr, hr, rate, generator, pixels_only=pixels_only)

    def state_dict(self) -> dict[str, Any]:
        return {"objective": self._objective.state_dict(), "examples": self.stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._objective.load_state_dict(state["objective"])
        self.stream.load_state_dict(state["examples"])

    def close(self) -> None:
        self.stream.close()


class Corresponding:
    """Windows and the same seen from elsewhere: features of a place are to be alike, those of others not (C2-Matching,
    section 3.2). The teacher sees both sharply; a student sees the one as it is enlarged, and is told what the teacher
    makes of both (section 3.2.2)."""

    pieces = 1

    def __init__(self, stream: PairStream, config: TrainConfig, model: SRModel, teacher: SRModel | None) -> None:
        self.stream, self.scale, self.contrast = stream, model.scale, config.contrast
        self.sharp = config.stage == "teacher"
        self._shrink = _Shrinking(config, model.scale, stream)
        self.taught_by = self.forward(teacher) if teacher is not None else None

    @property
    def unusable(self) -> int:
        return self.stream.unusable

    def forward(self, model: SRModel) -> Callable[..., Any]:
        correspond: Any = model.correspondence

        def run(shown: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
            picture, reference = correspond(shown, there)
            return F.normalize(picture.float(), dim=1), F.normalize(reference.float(), dim=1)

        return run

    def losses(self, forward: Callable[..., Any], generator: torch.Generator, step: int) -> Iterator[dict[str, Tensor]]:
        here, _ = self.stream.draw(generator)
        there, places = seen_from_elsewhere(here, self.scale, generator)
        shown = here if self.sharp else enlarged(self._shrink(here, generator))
        found = [
            _Places(own, other, (place + 0.5) / self.scale - 0.5, _well_inside(place, here.shape[-1]))
            for own, other, place in zip(*forward(shown, there), places, strict=True)
        ]
        apart = _Places.margin if self.contrast == "margin" else _Places.soft
        terms: dict[str, Tensor] = {self.contrast: torch.stack([apart(its) for its in found]).mean()}
        if self.taught_by is not None:
            with torch.no_grad():
                wanted = [
                    _Places(own, other, its.place, its.valid)
                    for own, other, its in zip(*self.taught_by(here, there), found, strict=True)
                ]
            taught = [
                F.kl_div(its.correlation(), told.correlation(), reduction="batchmean", log_target=True)
                for its, told in zip(found, wanted, strict=True)
            ]
            terms["taught"] = _DISTILLED * torch.stack(taught).mean()
        yield terms

    def state_dict(self) -> dict[str, Any]:
        return {"examples": self.stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["examples"])

    def close(self) -> None:
        self.stream.close()


def seen_from_elsewhere(x: Tensor, scale: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, 3, S, S) through random homographies, each of which moves the corners by at most `_CORNER` pixels, and where
    the middle of each cell of `scale` pixels went: (N, 2, S/scale, S/scale), row and column in pixels."""
    side = x.shape[-1]
    corners = torch.tensor([[0.0, 0.0], [0.0, side - 1], [side - 1, 0.0], [side - 1, side - 1]])
    moved = corners + (2 * torch.rand(len(x), 4, 2, generator=generator) - 1) * _CORNER
    forth = homography(corners.expand(len(x), -1, -1), moved)
    back = homography(moved, corners.expand(len(x), -1, -1))
    grid = pixel_grid(side, side, corners).flatten(1).T
    lookup = (2 * through(back, grid) + 1) / side - 1
    lookup = lookup.flip(2).view(len(x), side, side, 2).to(x)
    seen = F.grid_sample(x, lookup, mode="bilinear", padding_mode="zeros", align_corners=False)
    cells = side // scale
    middles = pixel_grid(cells, cells, corners).flatten(1).T * scale + (scale - 1) / 2
    return seen, through(forth, middles).transpose(1, 2).view(len(x), 2, cells, cells).to(x)


def homography(source: Tensor, target: Tensor) -> Tensor:
    """(N, 3, 3) that takes the four points `source` (N, 4, 2) to `target`: eight equations of the direct linear
    transform."""
    (a, b), (c, d) = source.unbind(2), target.unbind(2)
    one, none = torch.ones_like(a), torch.zeros_like(a)
    upper = torch.stack([a, b, one, none, none, none, -a * c, -b * c], 2)
    lower = torch.stack([none, none, none, a, b, one, -a * d, -b * d], 2)
    solved = torch.linalg.solve(torch.cat([upper, lower], 1).double(), torch.cat([c, d], 1)[..., None].double())
    return torch.cat([solved[..., 0], torch.ones_like(solved[:, :1, 0])], 1).view(-1, 3, 3).float()


def through(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (M, 2) through each of (N, 3, 3): (N, M, 2)."""
    moved = F.pad(points, (0, 1), value=1.0) @ matrix.transpose(1, 2)
    return moved[..., :2] / moved[..., 2:]


def _well_inside(place: Tensor, side: int) -> Tensor:
    """Which of the cells are seen in the other window too: (h*w,) bool."""
    flat = place.flatten(1)
    return ((flat > _BORDER) & (flat < side - 1 - _BORDER)).all(0)


class _Places:
    """Features of the cells of two windows, and where each cell of the one is in the other."""

    def __init__(self, own: Tensor, other: Tensor, place: Tensor, valid: Tensor) -> None:
        """(C, h, w) twice, of unit length; `place` (2, h, w) in cells, `valid` (h*w,) where it is inside."""
        self.own, self.other, self.place, self.valid = own.flatten(1), other.flatten(1), place, valid
        self.sides = (own.shape[1], own.shape[2])
        self.cells = pixel_grid(*self.sides, own).flatten(1)
        self.its = place.flatten(1)[:, valid]
        self.here = self.own.T[valid]
        lookup = (2 * (self.its + 0.5) / torch.tensor(other.shape[1:], device=own.device).view(2, 1) - 1).flip(0)
        read = F.grid_sample(other[None], lookup.T.view(1, 1, -1, 2), align_corners=False, padding_mode="border")
        self.there = F.normalize(read[0, :, 0].T, dim=1)

    def margin(self) -> Tensor:
        """By how much the likest wrong place, in either direction, is too near: mean of 1 + right - wrong above 0."""
        right = 2 - 2 * (self.here * self.there).sum(1)
        wrong = torch.minimum(*(2 - 2 * wrong.amax(1) for wrong in self._wrong(_NEAR)))
        return F.relu(1 + right - wrong).mean()

    def soft(self) -> Tensor:
        """How unlikely the right place is among all that there are, in either direction: mean of -log of it (InfoNCE,
        van den Oord et al. 2018). Every wrong place counts, not the likest alone."""
        right = (self.here * self.there).sum(1, keepdim=True)
        choices = [torch.cat([right, wrong], 1) / _SOFTNESS for wrong in self._wrong(_BESIDE)]
        return -torch.stack([choice.log_softmax(1)[:, 0].mean() for choice in choices]).mean()

    def _wrong(self, near: float) -> tuple[Tensor, Tensor]:
        """Cosines (n, h*w) of each place here with the cells there, and the other way; those near it are left out."""
        return (
            (self.here @ self.other).masked_fill(self._around(self.its, near), -torch.inf),
            (self.there @ self.own).masked_fill(self._around(self.cells[:, self.valid], near), -torch.inf),
        )

    def _around(self, place: Tensor, near: float) -> Tensor:
        """Which cells (n, h*w) are `near` each `place` (2, n), by rows and by columns."""
        rows, columns = (
            (its[:, None] - torch.arange(size, device=its.device)).abs() <= near
            for its, size in zip(place.unbind(), self.sides, strict=True)
        )
        both: Tensor = rows[:, :, None] & columns[:, None]
        return both.flatten(1)

    def correlation(self) -> Tensor:
        """Log of how likely each place (n,) here is each one (n,) there."""
        return ((self.here @ self.there.T) / _TEMPERATURE).log_softmax(1)
