"""A level whose places are tried by compiled code, on a CPU: equal but for rounding, and several times as fast."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.reference.descriptors import FLAT, MAP_STEP, RADIUS
from refsr_cli.reference.field import (
    BETTER,
    FIT_RADIUS,
    LEAST_CONTRAST,
    MOST_CONTRAST,
    NEAR,
    TONE_NOISE,
    Field,
    Level,
    beside,
    steps_around,
)
from refsr_cli.reference.kernels import kernels, share


def open_level(lr: Tensor, reference: Tensor, level: int) -> Level:
    """The `Level` of a picture (3, h, w) and a reference (3, H, W), both float in [0, 1]."""
    compiled = kernels("field_kernels") if lr.device.type == "cpu" else None
    return Level(lr, reference, level) if compiled is None else CompiledLevel(lr, reference, level, compiled)


class CompiledLevel(Level):
    """Places are handed to compiled code as (6, n): row and column in samples of the cell map, and by how much each
    moves from one cell to the next, down and right."""

    def __init__(self, lr: Tensor, reference: Tensor, level: int, compiled: ModuleType) -> None:
        super().__init__(lr, reference, level)
        self._kernels = compiled
        padded = F.pad(self.lr[None], (RADIUS,) * 4, mode="replicate")[0]
        down, right = (np.ascontiguousarray(its) for its in self.window.numpy())
        self._samples = self.ratio / MAP_STEP
        """(2,) samples of the cell map for each pixel of the reference."""
        self._pair = compiled.Pair(
            *_planes(self.cells),
            *self.cells.shape[1:],
            *_planes(padded),
            width=self.width,
            around=((down + RADIUS) * padded.shape[2] + right + RADIUS).astype(np.int32),
            down=down,
            right=right,
            own=np.empty((self.height * self.width, 4), np.float32),
            flat=np.float32(FLAT * (3 * len(down)) ** 0.5),
        )
        self._run(compiled.prepare)

    def compare(self, pos: Tensor, affine: Tensor) -> Tensor:
        score = np.empty(self.height * self.width, np.float32)
        self._run(self._kernels.compare, self._places(pos, affine), score)
        return torch.from_numpy(score).view(self.height, self.width)

    def propagate(self, field: Field, distances: tuple[int, ...]) -> Field:
        places, score = self._held(field)
        new_places, new_score = np.empty_like(places), np.empty_like(score)
        for distance in distances:
            for down, right in beside(distance):
                changed = places, score, new_places, new_score
                self._run(self._kernels.propagate, *changed, down, right, np.float32(BETTER), np.float32(NEAR))
                places, score, new_places, new_score = new_places, new_score, places, score
        return self._field(places, score)

    def search(self, field: Field, distance: float) -> Field:
        places, score = self._held(field)
        steps = torch.tensor(steps_around(distance)) * self.unit * self._samples
        self._run(self._kernels.search, places, score, steps.numpy(), np.float32(BETTER))
        return self._field(places, score)

    def perturb(self, field: Field, generator: torch.Generator, shift: float, bend: float) -> Field:
        places, score = self._held(field)
        for step, change in self.changes(generator, shift, bend):
            others = self._places(step, change)
            others += places
            self._run(self._kernels.attempt, places, score, others, np.float32(BETTER))
        return self._field(places, score)

    def fit(self, field: Field, margin: float, radius: int = FIT_RADIUS) -> Field:
        places, score = self._held(field)
        new_places, new_score = np.empty_like(places), np.empty_like(score)
        per_sample = (1 / (self._samples * self.unit)).numpy()
        changed = places, score, new_places, new_score
        self._run(self._kernels.fit, *changed, radius, per_sample, np.float32(margin))
        return self._field(new_places, new_score)

    def tone(self, field: Field) -> Tensor:
        tones = np.empty((4, self.height * self.width), np.float32)
        known = TONE_NOISE**2 * 3 * self.window.shape[1]
        numbers = (np.float32(number) for number in (known, LEAST_CONTRAST, MOST_CONTRAST))
        self._run(self._kernels.tone, self._places(field.pos, field.affine), *numbers, tones)
        return torch.from_numpy(tones).view(4, self.height, self.width)

    def _held(self, field: Field) -> tuple[np.ndarray, np.ndarray]:
        """The places (6, n) and scores (n,) of a field, to be changed."""
        return self._places(field.pos, field.affine), field.score.flatten().numpy().copy()

    def _places(self, pos: Tensor, affine: Tensor) -> np.ndarray:
        rows = pos.flatten(1) * self._samples[:, None]
        ways = affine.flatten(2) * self.step[:, None] * self._samples[:, None, None]
        return torch.cat([rows, ways.flatten(0, 1)]).contiguous().numpy()

    def _field(self, places: np.ndarray, score: np.ndarray) -> Field:
        rows, ways = torch.from_numpy(places).split([2, 4])
        pos = rows / self._samples[:, None]
        affine = ways.view(2, 2, -1) / (self.step[:, None] * self._samples[:, None, None])
        shape = self.height, self.width
        return Field(pos.view(2, *shape), affine.view(2, 2, *shape), torch.from_numpy(score).view(shape))

    def _run(self, kernel: Callable[..., None], *arguments: Any) -> None:
        """`kernel` over all cells."""
        share(partial(kernel, self._pair, *arguments), self.height * self.width)


def _planes(image: Tensor) -> list[np.ndarray]:
    """Each channel of (3, h, w), flat."""
    return [channel.contiguous().flatten().numpy() for channel in image]
