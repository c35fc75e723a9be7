"""Training examples by number, made when they are needed by several processes: which ones a batch has depends on its
number alone, so that a training goes on as if it had never been interrupted."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from refsr_cli.errors import BadData

TRIES = 100
"""Examples in a row that may be unfit."""


class _Batches(Sampler[list[int]]):
    """Numbers of the windows of one batch after the other, without end, from the batch `first` on."""

    def __init__(self, size: int, part: slice, first: int) -> None:
        self.size, self.part, self.first = size, part, first

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.first
        while True:
            yield list(range(batch * self.size, (batch + 1) * self.size))[self.part]
            batch += 1


def _serve(_: int) -> None:
    """A reading process leaves the signals that a terminal sends to all of its processes to the one that trains, and
    ends with it, however that ends: it may be waiting for somebody to take what it has made."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    Finalize(None, _end, exitpriority=-100)  # after all that the queues have to do


def _end() -> None:
    """Ends the process before Python is taken down: a thread that still hands out a batch nobody waits for would be
    stopped within C++, which aborts."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with_the_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


class Numbered:
    """Batches of examples, without end. Each example is some tensors, and how many were unfit before it was made."""

    def __init__(
        self, examples: Dataset[Any], unfit: str, device: torch.device, *, batch: int, part: slice, workers: int
    ) -> None:
        """`unfit` says of `TRIES` examples what is wrong with them. Only `part` of each batch is made, where several
        processes share it."""
        self.device, self.size, self.part = device, batch, part
        self.unusable = 0
        """Pictures so far that could not be used; one may be counted several times."""
        self._examples, self._unfit, self._workers = examples, unfit, workers
        self.drawn = 0
        """Batches so far."""
        self._loading: Iterator[Any] | None = None

    def next_batch(self) -> list[Tensor]:
        """The tensors of the next batch, each for all of its examples. Raises BadData where too many in a row are
        unfit."""
        if self._loading is None:
            self._loading = iter(self._loader())
        *tensors, failed = next(self._loading)
        self.drawn += 1
        self.unusable += int(failed.sum())
        if int(failed.max()) == TRIES:
            raise BadData(f"{TRIES} {self._unfit}")
        return list(tensors)

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._examples,
            batch_sampler=_Batches(self.size, self.part, self.drawn),
            num_workers=self._workers,
            multiprocessing_context="spawn" if self._workers else None,
            worker_init_fn=_serve,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # so that beginning to read takes no random number of the training's
        )

    def state_dict(self) -> dict[str, int]:
        """How many batches were drawn."""
        return {"drawn": self.drawn, "unusable": self.unusable}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where the other stood."""
        self.drawn, self.unusable, self._loading = state["drawn"], state["unusable"], None

    def close(self) -> None:
        """Ends the processes that read."""
        self._loading = None
