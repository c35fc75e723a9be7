"""Training photos that are read when they are needed, by several processes: folders of any size, and LMDB files."""

import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.data.photos import detail, dihedral
from refsr_cli.errors import BadData, RefsrError
from refsr_cli.images import read_rgb8

MARGIN = 4
"""Low-resolution pixels around a crop that count when it is made from the high-resolution one."""
_TRIES = 100
"""Photos in a row that may be unreadable or too small."""


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
        for failed in range(_TRIES):
            try:
                photo = self.photos[chance.randrange(len(self.photos))]
            except RefsrError:
                continue
            if min(photo.shape[1:]) >= self.side:
                windows = torch.stack([self._window(photo, chance) for _ in range(self.candidates)])
                return windows[int(detail(windows.float()).argmax())], failed
        return torch.zeros(3, self.side, self.side, dtype=torch.uint8), _TRIES

    def _window(self, photo: Tensor, chance: random.Random) -> Tensor:
        top, left = (chance.randrange(size - self.side + 1) for size in photo.shape[1:])
        return photo[:, top : top + self.side, left : left + self.side]


class Batches(Sampler[list[int]]):
    """Numbers of the windows of one batch after the other, without end, from the batch `first` on."""

    def __init__(self, size: int, part: slice, first: int) -> None:
        self.size, self.part, self.first = size, part, first

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.first
        while True:
            yield list(range(batch * self.size, (batch + 1) * self.size))[self.part]
            batch += 1


def left_to_the_parent(_: int) -> None:
    """Signals that a terminal sends to all of its processes are taken by the one that trains."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class PhotoStream:
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
    ) -> None:
        """Raises BadData where there is no photo."""
        if not len(photos):
            raise BadData("there is no photo to learn from")
        self.count, self.patch, self.device = len(photos), patch, device
        self.unusable = 0
        """Photos so far that could not be read, or were smaller than a crop; one may be counted several times."""
        self._size, self._part, self._workers = batch, part, workers
        self._windows = _Windows(photos, max(scales) * (patch + 2 * MARGIN), candidates, seed)
        self._drawn = 0
        self._loading: Iterator[Any] | None = None

    def draw(self, scale: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The next batch, turned and mirrored by the CPU `generator`: lr (N, 3, patch, patch), hr (N, 3, scale*patch,
        scale*patch), float in [0, 1]. Raises BadData where too many photos in a row cannot be used."""
        if self._loading is None:
            self._loading = iter(self._loader())
        windows, failed = next(self._loading)
        self._drawn += 1
        self.unusable += int(failed.sum())
        if int(failed.max()) == _TRIES:
            raise BadData(f"{_TRIES} photos in a row cannot be read or are smaller than {self._windows.side} pixels")
        side = scale * (self.patch + 2 * MARGIN)
        around = windows[..., :side, :side].to(self.device, non_blocking=True).float().div(255)
        lr = degrade_bicubic(around, scale)[..., MARGIN:-MARGIN, MARGIN:-MARGIN].mul(255).round().div(255)
        inside = slice(scale * MARGIN, side - scale * MARGIN)
        turns = torch.randint(8, (self._size,), generator=generator)[self._part]
        return dihedral(lr, turns), dihedral(around[..., inside, inside], turns)

    def _loader(self) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            self._windows,
            batch_sampler=Batches(self._size, self._part, self._drawn),
            num_workers=self._workers,
            multiprocessing_context="spawn" if self._workers else None,
            worker_init_fn=left_to_the_parent,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # so that beginning to read takes no random number of the training's
        )

    def state_dict(self) -> dict[str, int]:
        """How many batches were drawn."""
        return {"drawn": self._drawn, "unusable": self.unusable}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where the other stream stood."""
        self._drawn, self.unusable, self._loading = state["drawn"], state["unusable"], None

    def close(self) -> None:
        """Ends the processes that read."""
        self._loading = None
