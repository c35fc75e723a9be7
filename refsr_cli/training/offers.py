"""What references show of windows, made once and kept: matching is not learned, so a merger is trained on what it gave.

Nothing that is kept depends on the net whose result is merged with it: that is run when a training begins."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from refsr_cli import __version__
from refsr_cli.data.degradations import DegradationMix, degrade_windows
from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.data.pairs import PairWindows
from refsr_cli.data.photos import dihedral, random_turns
from refsr_cli.errors import BadData, RefsrError
from refsr_cli.files import make_folder, write_atomically
from refsr_cli.images import to_pixels, to_tensor
from refsr_cli.inference.results import finished
from refsr_cli.inference.runner import Runner, runner_for
from refsr_cli.layers.resample import downscale
from refsr_cli.models import SRModel
from refsr_cli.reference.bank import RefBank, match_all, open_reference
from refsr_cli.reference.compiled_warp import warp
from refsr_cli.reference.descriptors import CELL
from refsr_cli.reference.offer import Offer, offered
from refsr_cli.reference.transfer import Shown
from refsr_cli.restoration.degradation import COARSE, Degradation, degraded_alike
from refsr_cli.restoration.strength import NOTHING, Restoration, automatic_strength

_SHARD = 16
"""Samples in a file."""
_FIELDS = ("lr", "mean", "own", "variance", "score", "alike", "quality", "hr")
_COLOURED = ("lr", "base", "detail", "own", "misfit", "hr")
"""What has three colours."""
_AT_ONCE = 8
"""Windows that the net enlarges together."""


@dataclass(frozen=True)
class Preparing:
    """Progress of the preparation."""

    done: int
    count: int
    skipped: int
    """Of those done, how many gave nothing."""
    problems: tuple[str, ...]
    """Why, each said once."""
    remaining_seconds: float
    kind: str = "preparing"


@dataclass(frozen=True)
class Degrading:
    """How windows are degraded, and restored again as pictures are before they are enlarged."""

    mix: DegradationMix
    restore: Runner
    signature: str
    """The same for the same weights of what restores."""

    def degraded(self, hr: Tensor, generator: torch.Generator) -> tuple[Tensor, Restoration]:
        """The low-resolution window of (1, 3, 4*h, 4*w), and how it is to be restored."""
        crops = degrade_windows(hr, CELL, self.mix, 1, slice(None), generator)
        step = float(crops.jpeg_step)  # known as it would be estimated
        noise, blur = (float(sigma) if step < COARSE else 0.0 for sigma in (crops.noise, crops.blur))
        known = Degradation(None, step, noise, blur)
        return crops.lr, Restoration(known, automatic_strength(known))

    def restored(self, lr: Tensor, strength: float) -> Tensor:
        """(1, 3, h, w) restored so strongly."""
        return torch.lerp(lr, self.restore(lr), strength).mul(255).round().div(255) if strength else lr


class _Samples(Dataset[dict[str, Tensor] | str]):
    """The sample of each number: what `offered` takes in half precision, and `hr`; the reason where a picture is
    unfit."""

    def __init__(self, windows: PairWindows, device: torch.device, degrading: Degrading | None) -> None:
        self.windows, self.device, self.degrading = windows, device, degrading

    @torch.inference_mode()
    def __getitem__(self, number: int) -> dict[str, Tensor] | str:
        try:
            window, images, _ = self.windows[number]
            bank = RefBank([open_reference("window", partial(Tensor.clone, image)) for image in images])
        except RefsrError as error:
            return str(error)
        hr = window[None].to(self.device).float() / 255
        lr, plan = degrade_bicubic(hr, CELL), NOTHING
        if self.degrading:
            lr, plan = self.degrading.degraded(hr, torch.Generator().manual_seed(number))
            lr = self.degrading.restored(lr, plan.strength)
        shown = warp(*finished(match_all(lr[0], bank.chosen(lr[0]), CELL, plan.quality)))
        alike = downscale(shown.mean, CELL).clamp(0, 1)
        if self.degrading and plan.strength:
            shrunk = to_pixels(alike, window.permute(1, 2, 0).numpy())
            alike = to_tensor(degraded_alike(shrunk, plan.degradation)).to(self.device)
            alike = self.degrading.restored(alike, plan.strength)
        tensors = {**vars(shown), "lr": lr, "alike": alike, "quality": torch.tensor([plan.quality])}
        return {**{name: tensor[0].half().cpu() for name, tensor in tensors.items()}, "hr": window.contiguous()}


def prepared_folder(parent: Path, windows: PairWindows, degrading: Degrading | None = None) -> Path:
    """The folder in `parent` for the samples of these windows, and of no others."""
    digest = hashlib.sha256(f"{__version__} {_FIELDS} {windows.signature}".encode())
    if degrading:
        digest.update(f"{degrading.mix} {degrading.signature}".encode())
    return parent / digest.hexdigest()[:16]


def prepare(
    windows: PairWindows,
    count: int,
    folder: Path,
    device: torch.device,
    workers: int,
    degrading: Degrading | None = None,
) -> Iterator[Preparing]:
    """Writes `count` samples to `folder`, some to a file; files that are there already are kept."""
    make_folder(folder)
    missing = {path: numbers for path, numbers in _shards(folder, count) if not path.exists()}
    ends = {numbers[-1]: path for path, numbers in missing.items()}
    numbers = [number for several in missing.values() for number in several]
    skipped, begin, samples = 0, time.monotonic(), list[dict[str, Tensor]]()
    problems: dict[str, None] = {}
    loader = DataLoader(
        _Samples(windows, device, degrading),
        batch_size=None,
        sampler=numbers,
        num_workers=workers if device.type == "cpu" else 0,
        in_order=True,
    )
    for done, (number, sample) in enumerate(zip(numbers, loader, strict=True), 1):
        if isinstance(sample, str):
            skipped += 1
            problems[sample] = None
        else:
            samples.append(sample)
        if number in ends:
            if samples:
                stacked = {name: torch.stack([row[name] for row in samples]) for name in samples[0]}
                write_atomically(ends[number], save(stacked))
            samples = []
            remaining = (time.monotonic() - begin) / done * (len(numbers) - done)
            yield Preparing(count - len(numbers) + done, count, skipped, tuple(problems), remaining)


def _shards(folder: Path, count: int) -> Iterator[tuple[Path, range]]:
    """The files of `count` samples, and the numbers of those in each."""
    for first in range(0, count, _SHARD):
        stop = min(first + _SHARD, count)
        yield folder / f"{first:06d}-{stop:06d}.safetensors", range(first, stop)


class OfferSet:
    """The first `count` prepared samples in memory, as they are offered to a net."""

    @torch.inference_mode()
    def __init__(self, folder: Path, count: int, model: SRModel, device: torch.device) -> None:
        """`model` enlarges; what it has learned of merging makes no difference. Raises BadData when a file is
        damaged, or there is not one sample."""
        shards = []
        for path in (path for path, _ in _shards(folder, count) if path.exists()):
            try:
                shard = load_file(path)
                shards.append({name: shard[name] for name in _FIELDS})
            except (OSError, SafetensorError, KeyError) as error:
                raise BadData(f"{path} is damaged ({error}); remove it, and it is made again") from None
        if not shards:
            raise BadData("no window could be prepared: no picture can be read, or none is as large as a window")
        run = runner_for(model.to(device), plain=True)
        offers = [
            _offer(run, {name: kept[first : first + _AT_ONCE].to(device) for name, kept in shard.items()})
            for shard in shards
            for first in range(0, len(shard["hr"]), _AT_ONCE)
        ]
        self._tensors = {name: torch.cat([offer[name] for offer in offers]) for name in offers[0]}
        self.count = len(self._tensors["hr"])

    def batch(
        self, size: int, generator: torch.Generator, part: slice = slice(None), *, augment: bool = True
    ) -> tuple[Offer, Tensor]:
        """`size` random samples, turned, mirrored, their colours exchanged unless `augment` is false, with the truth
        (size, 3, H, W) float in [0, 1]; only `part` of them where several processes share a batch."""
        chosen = torch.randint(self.count, (size,), generator=generator)[part]
        turns = random_turns(size, generator, augment=augment)[part]
        colours = torch.randperm(3, generator=generator) if augment else torch.arange(3)
        tensors = {}
        for name, values in self._tensors.items():
            drawn = dihedral(values[chosen.to(values.device)].float(), turns)
            tensors[name] = drawn[:, colours.to(drawn.device)] if name in _COLOURED else drawn
        hr = tensors.pop("hr") / 255
        return Offer(**tensors), hr


def _offer(run: Runner, kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an `Offer` in half precision, and `hr`, of a few samples."""
    lr, alike, *shown = (kept[name].float() for name in ("lr", "alike", "mean", "own", "variance", "score"))
    offer = offered(run, lr, Shown(*shown), kept["quality"].tolist(), alike)
    return {**{name: tensor.half() for name, tensor in vars(offer).items()}, "hr": kept["hr"]}
