"""Training photos that are read when they are needed, by several processes: folders of any size, and LMDB files."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.data.numbered import TRIES, Numbered
from refsr_cli.data.photos import detail, dihedral, random_turns
from refsr_cli.errors import BadData, RefsrError
from refsr_cli.images import read_rgb8

MARGIN = 4
"""Low-resolution pixels around a crop that count when it is made from the high-resolution one."""


class Photos(Protocol):
    """Photos by number, each read when it is asked for: (3, H, W) uint8. Raises RefsrError for one that is damaged."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Tensor: ...


@dataclass(frozen=True)
class Files:
    """Photos that are files."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        return read_rgb8(self.paths[number])


class _Windows(Dataset[tuple[Tensor, int]]):
    """The window numbered so, always the same, and how many photos could not be used for it."""

    def __init__(self, photos: Photos, side: int, candidates: int, seed: int) -> None:
        self.photos, self.side, self.candidates, self.seed = photos, side, candidates, seed

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        chance = random.Random(f"{self.seed} {number}")
        for failed in range(TRIES):
            try:
                photo = self.photos[chance.randrange(len(self.photos))]
            except RefsrError:
                continue
            if min(photo.shape[1:]) >= self.side:
                windows = torch.stack([self._window(photo, chance) for _ in range(self.candidates)])
                return windows[int(detail(windows.float()).argmax())], failed
        return torch.zeros(3, self.side, self.side, dtype=torch.uint8), TRIES

    def _window(self, photo: Tensor, chance: random.Random) -> Tensor:
        top, left = (chance.randrange(size - self.side + 1) for size in photo.shape[1:])
        return photo[:, top : top + self.side, left : left + self.side]


class PhotoStream(Numbered):
    """Pairs of crops like those of `PhotoSet`, from photos that need not fit into memory. Which crops a batch has
    depends on its number and the seed alone, not on the processes that read."""

    def __init__(
        self,
        photos: Photos,
        scales: Sequence[int],
        patch: int,
        device: torch.device,
        *,
        batch: int,
        candidates: int = 1,
        part: slice = slice(None),
        seed: int = 0,
        workers: int = 0,
        augment: bool = True,
    ) -> None:
        """Raises BadData where there is no photo."""
        if not len(photos):
            raise BadData("there is no photo to learn from")
        self.count, self.patch, self.augment = len(photos), patch, augment
        side = max(scales) * (patch + 2 * MARGIN)
        windows, unfit = _Windows(photos, side, candidates, seed), f"cannot be read or are smaller than {side} pixels"
        super().__init__(windows, f"photos in a row {unfit}", device, batch=batch, part=part, workers=workers)

    def draw(self, scale: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The next batch, turned and mirrored by the CPU `generator` unless that was switched off: lr (N, 3, patch,
        patch), hr (N, 3, scale*patch, scale*patch), float in [0, 1]. Raises BadData where too many photos in a
        row cannot be used."""
        (windows,) = self.next_batch()
        side = scale * (self.patch + 2 * MARGIN)
        around = windows[..., :side, :side].to(self.device, non_blocking=True).float().div(255)
        lr = degrade_bicubic(around, scale)[..., MARGIN:-MARGIN, MARGIN:-MARGIN].mul(255).round().div(255)
        inside = slice(scale * MARGIN, side - scale * MARGIN)
        turns = random_turns(self.size, generator, augment=self.augment)[self.part]
        return dihedral(lr, turns), dihedral(around[..., inside, inside], turns)
