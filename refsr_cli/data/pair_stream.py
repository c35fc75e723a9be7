"""Windows with a reference each, made when they are needed, by several processes."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from refsr_cli.data.pairs import PairWindows
from refsr_cli.data.photos import dihedral
from refsr_cli.data.stream import Batches, left_to_the_parent
from refsr_cli.errors import BadData, RefsrError

_TRIES = 100
"""Windows in a row that may be unfit."""


class _Pairs(Dataset[tuple[Tensor, Tensor, int]]):
    """The window numbered so and its first reference, of one size each, and how many were unfit before it."""

    def __init__(self, windows: PairWindows, side: int) -> None:
        self.windows, self.side = windows, side

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, int]:
        for failed in range(_TRIES):
            try:
                window, references = self.windows[number + failed * 1_000_000_007]
            except RefsrError:
                continue
            return window.contiguous(), _fitted(references[0], self.side), failed
        empty = torch.zeros(3, self.windows.side, self.windows.side, dtype=torch.uint8)
        return empty, _fitted(empty, self.side), _TRIES


def _fitted(image: Tensor, side: int) -> Tensor:
    """The middle of an image (3, H, W), continued where it is smaller: (3, side, side)."""
    for dim in (1, 2):
        first = max(0, (image.shape[dim] - side) // 2)
        image = image.narrow(dim, first, min(side, image.shape[dim]))
    around = (0, side - image.shape[2], 0, side - image.shape[1])
    return (
        F.pad(image[None].float(), around, mode="replicate")[0].to(torch.uint8) if any(around) else image.contiguous()
    )


class PairStream:
    """Batches without end; the same ones for the same windows, however many processes make them."""

    def __init__(
        self, windows: PairWindows, side: int, device: torch.device, *, batch: int, part: slice, workers: int
    ) -> None:
        """`side` of the references. Only `part` of each batch is given, where several processes share it."""
        self.device, self.unusable = device, 0
        self._pairs, self._size, self._part, self._workers = _Pairs(windows, side), batch, part, workers
        self._drawn = 0
        self._loading: Iterator[Any] | None = None

    def draw(self, generator: torch.Generator, *, apart: bool = False) -> tuple[Tensor, Tensor]:
        """The next windows (N, 3, side, side) and references, float in [0, 1], turned, mirrored and with their colours
        exchanged alike by the CPU `generator`; `apart` turns references otherwise. Raises BadData where too many in a
        row are unfit."""
        if self._loading is None:
            self._loading = iter(self._loader())
        windows, references, failed = next(self._loading)
        self._drawn += 1
        self.unusable += int(failed.sum())
        if int(failed.max()) == _TRIES:
            raise BadData(
                f"{_TRIES} windows in a row are unfit: no picture can be read, or none is as large as a window"
            )
        turns = torch.randint(8, (2, self._size), generator=generator)[:, self._part]
        colours = torch.randperm(3, generator=generator).to(self.device)
        hr, ref = (x.to(self.device, non_blocking=True)[:, colours].float() / 255 for x in (windows, references))
        return dihedral(hr, turns[0]), dihedral(ref, turns[1 if apart else 0])

    def _loader(self) -> DataLoader[tuple[Tensor, Tensor, int]]:
        return DataLoader(
            self._pairs,
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
