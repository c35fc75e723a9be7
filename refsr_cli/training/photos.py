"""The photos that a training names, opened in the way that suits them: in memory, or read as they are needed."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from refsr_cli.config import TrainConfig
from refsr_cli.data.benchmarks import lr_file
from refsr_cli.data.degradations import MARGIN, DegradationMix, DegradedCrops, degrade_crops, parse_mix
from refsr_cli.data.folders import find_photos
from refsr_cli.data.lmdb import LmdbPhotos, is_lmdb
from refsr_cli.data.photos import PhotoDraws, PhotoSet
from refsr_cli.data.stream import Files, PhotoStream
from refsr_cli.errors import BadData, BadSetting, RefsrError
from refsr_cli.images import read_rgb8, size_of
from refsr_cli.training.group import Group

MANY = 4000
MOST_BYTES = 8 * 2**30
"""Photos, and bytes of them when they are decoded, above which they are read as they are needed, where it is not said
otherwise: DIV2K is kept in memory."""


_READERS, _AT_ONCE = 8, 16
"""Threads that decode photos, and how many photos they decode before these are packed."""


class Examples(Protocol):
    """Batches of crops."""

    @property
    def unusable(self) -> int:
        """Photos that turned out not to be usable when they were needed; one may be counted several times."""
        ...

    def draw(self, scale: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The next batch: lr (N, 3, h, w) and hr (N, 3, scale*h, scale*w), float in [0, 1]."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where they stand."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        ...

    def close(self) -> None:
        """Ends what runs beside."""
        ...


class DegradedExamples:
    """Examples drawn with a margin, and degraded as they are drawn: never twice alike, and the same again for the same
    generator."""

    def __init__(self, examples: Examples, mix: DegradationMix, size: int, part: slice) -> None:
        """`examples` are the `part` of batches of `size`, `MARGIN` larger on every side than what is drawn here."""
        self.examples, self.mix, self.size, self.part = examples, mix, size, part

    @property
    def unusable(self) -> int:
        return self.examples.unusable

    def draw(self, scale: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        crops = self.draw_crops(scale, generator)
        return crops.lr, crops.hr

    def draw_crops(self, scale: int, generator: torch.Generator) -> DegradedCrops:
        """The next batch, with the crops as they were before they were degraded."""
        lr, hr = self.examples.draw(scale, generator)
        return degrade_crops(lr, hr, self.mix, self.size, self.part, generator)

    def state_dict(self) -> dict[str, Any]:
        return self.examples.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.examples.load_state_dict(state)

    def close(self) -> None:
        self.examples.close()


def open_examples(config: TrainConfig, data: Path, scales: Sequence[int], group: Group) -> tuple[Examples, int, int]:
    """`open_photos`, degraded where the config says how."""
    if not config.degrade:
        return open_photos(config, data, scales, group)
    mix = parse_mix(config.degrade)
    wide = replace(config, patch=config.patch + 2 * MARGIN)
    examples, count, skipped = open_photos(wide, data, scales, group)
    return DegradedExamples(examples, mix, config.batch, group.part(config.batch)), count, skipped


def open_photos(config: TrainConfig, data: Path, scales: Sequence[int], group: Group) -> tuple[Examples, int, int]:
    """The photos in `data`, how many they are, and how many of them could not be used (none, as far as is known, where
    they are read later). Raises BadData and BadSetting."""
    part = group.part(config.batch)
    paths = [] if is_lmdb(data) else find_photos(data, config.train_range)
    streamed = config.stream if config.stream is not None else is_lmdb(data) or _are_many(paths)
    if not streamed:
        if is_lmdb(data):
            raise BadSetting("--no-stream is for folders; an LMDB file is read as it is needed")
        photos, skipped = _decoded(config, paths, data, scales, group.device)
        return PhotoDraws(photos, config.batch, config.candidates, part, augment=config.augment), photos.count, skipped
    if config.lr_dir:
        raise BadSetting("--lr-dir is for photos that are all in memory; give --no-stream, or leave it out")
    if config.train_range and is_lmdb(data):
        raise BadSetting("--data-range is for folders, whose files have names")
    stream = PhotoStream(
        LmdbPhotos(data) if is_lmdb(data) else Files(paths),
        scales,
        config.patch,
        group.device,
        batch=config.batch,
        augment=config.augment,
        candidates=config.candidates,
        part=part,
        seed=config.seed,
        workers=config.workers if config.workers is not None else max(1, (os.cpu_count() or 1) // group.world),
    )
    return stream, stream.count, 0


def _decoded(
    config: TrainConfig, paths: Sequence[Path], data: Path, scales: Sequence[int], device: torch.device
) -> tuple[PhotoSet, int]:
    read = 0

    def pair(path: Path) -> tuple[Tensor, Mapping[int, Tensor]] | None:
        try:
            return read_rgb8(path), _given(config.lr_dir, path, scales) if config.lr_dir else {}
        except BadData:  # a low-resolution file is missing, not damaged
            raise
        except RefsrError:
            return None

    def pairs() -> Iterator[tuple[Tensor, Mapping[int, Tensor]]]:
        nonlocal read
        with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as readers:
            for first in range(0, len(paths), _AT_ONCE):  # decoded images do not pile up
                for found in readers.map(pair, paths[first : first + _AT_ONCE]):
                    if found is not None:
                        read += 1
                        yield found
        if not read:
            raise BadData(f"{data} holds no image that can be read")

    large, small = tee(pairs())
    given = (its for _, its in small) if config.lr_dir else None
    decoded = PhotoSet((photo for photo, _ in large), scales, config.patch, device, given)
    return decoded, len(paths) - decoded.count


def _are_many(paths: Sequence[Path]) -> bool:
    """Whether photos are too many to be kept in memory; only their sizes are read, and not of more than MANY."""
    return len(paths) > MANY or sum(3 * width * height for width, height in map(size_of, paths)) > MOST_BYTES


def _given(folder: Path, photo: Path, scales: Sequence[int]) -> dict[int, Tensor]:
    """The low-resolution pictures of a photo. Raises BadData where one is missing."""
    return {scale: read_rgb8(lr_file(_lr_folder(folder, scale), photo, scale)) for scale in scales}


def _lr_folder(folder: Path, scale: int) -> Path:
    """DIV2K keeps each scale in a folder of its own."""
    return next((below for below in (folder / f"X{scale}", folder / f"x{scale}") if below.is_dir()), folder)
