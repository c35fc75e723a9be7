"""One training loop for every net: optimiser steps, moving average, validation, exact resume."""

import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import torch

from refsr_cli.config import TrainConfig
from refsr_cli.data.benchmarks import Benchmark, find_training_photos, open_benchmark, trial_photos
from refsr_cli.data.folders import find_images
from refsr_cli.data.pairs import PairWindows, find_pairs
from refsr_cli.data.photos import PhotoSet
from refsr_cli.data.reference_sets import choose_references, targets_among
from refsr_cli.errors import BadData, BadSetting, RefsrError
from refsr_cli.files import make_folder, write_atomically
from refsr_cli.images import read_rgb8, to_tensor
from refsr_cli.inference.device import pick_device
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.metrics import PROTOCOLS, score
from refsr_cli.training.lessons import Enlarging, Lesson, Merging
from refsr_cli.training.loop import Clock, interrupts_deferred
from refsr_cli.training.offers import OfferSet, Preparing, prepare, prepared_folder
from refsr_cli.training.run import STATE, Run, learning_rate_at

PACE_STEPS = 10
"""Steps after which the time for all of them is foretold."""


@dataclass(frozen=True)
class Started:
    """What is about to be trained, and on what."""

    model: str
    scale: int
    photos: int
    pairs: int
    """Pictures with references."""
    skipped: int
    parameters: int
    """Those that are learned."""
    device: str
    out: Path
    trial: bool
    """No data was given: the few packaged photos are used, which is enough to try the command and no more."""
    kind: str = "started"


@dataclass(frozen=True)
class Pace:
    """Measured on the first few steps: how long all of it will take on this machine."""

    steps: int
    steps_per_second: float
    remaining_seconds: float
    kind: str = "pace"


@dataclass(frozen=True)
class Step:
    """Progress, every `log_every` steps."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    steps_per_second: float
    remaining_seconds: float
    kind: str = "step"


@dataclass(frozen=True)
class Validation:
    """Mean scores of the averaged weights on the validation images."""

    step: int
    dataset: str
    protocol: str
    psnr: float
    ssim: float
    best: bool
    kind: str = "validation"


Logged = TypeVar("Logged", Step, Validation)


@dataclass(frozen=True)
class Finished:
    """Where the trained weights lie."""

    step: int
    weights: Path
    best: Path
    seconds: float
    kind: str = "finished"


def train(config: TrainConfig) -> Iterator[Started | Preparing | Pace | Step | Validation | Finished]:
    """Trains a net and leaves `model.safetensors` (last), `best.safetensors`, `state.pt` and `config.json` in the run
    directory. An interrupt is taken after the step in hand; everything written is whole."""
    device = pick_device(config.device)
    out = config.resume or config.out or Path("runs") / f"{config.model}-x{config.scale}"
    if not config.resume and (out / STATE).exists():
        raise BadSetting(f"{out} holds a training already; go on with --resume {out}, or give another --out")
    run = Run(config, device, out)
    benchmark = open_benchmark(config.val, config.data_root) if config.val else trial_photos()
    next(benchmark.samples(config.scale))  # what is wrong with it is said now, not hours later
    lesson = yield from _prepare_lesson(run)
    write_atomically(out / "config.json", _as_json(config).encode())

    begin = saved = time.monotonic()
    clock = Clock()
    with interrupts_deferred() as interrupted, _saved_when_closed(run):
        while run.step < config.steps and not interrupted.is_set():
            run.advance(lesson)
            if clock.tick() == PACE_STEPS:
                pace = clock.pace
                yield Pace(config.steps, pace, (config.steps - run.step) / pace)
            milestone = run.step == config.steps or run.step % config.validate_every == 0
            save = milestone or time.monotonic() - saved > config.checkpoint_minutes * 60
            if save or run.step % config.log_every == 0:
                loss, pace = run.take_loss(), clock.lap()
                remaining = (config.steps - run.step) / pace
                yield _log(out, Step(run.step, config.steps, loss, learning_rate_at(run.step, config), pace, remaining))
            if save:
                run.save()
                saved = time.monotonic()
            if milestone and not interrupted.is_set():
                with clock.stopped():
                    yield _log(out, _validate(run, benchmark))
        if interrupted.is_set():
            run.save()
            raise KeyboardInterrupt(f"step {run.step:,} is saved, go on with --resume {out}")
    yield Finished(run.step, out / "model.safetensors", out / "best.safetensors", time.monotonic() - begin)


@contextmanager
def _saved_when_closed(run: Run) -> Iterator[None]:
    """Nobody reads on (the terminal is gone, the pipe is closed): what was learned is kept."""
    try:
        yield
    except GeneratorExit:
        run.save()
        raise


def _log(out: Path, record: Logged) -> Logged:
    """Appends the record to `log.jsonl` in the run directory."""
    with (out / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")
    return record


def _validate(run: Run, benchmark: Benchmark) -> Validation:
    """Scores the averaged weights, and keeps them when they are the best so far."""
    upscaler = Upscaler(run.smoothed, device=str(run.device), precision="fp32", self_ensemble=False)
    protocol = PROTOCOLS[benchmark.protocol]
    scores = []
    paths = benchmark.paths()
    with_refs = run.model.merges_refs and bool(targets_among(paths))
    for path in paths:
        sample = benchmark.sample(path, run.config.scale)
        refs = choose_references("all", paths, path)[0] if with_refs else None
        sr = to_tensor(upscaler(sample.lr, refs=refs).pixels)
        scores.append(score(sr, sample.hr, run.config.scale, protocol))
    psnr, ssim = fmean(item.psnr for item in scores), fmean(item.ssim for item in scores)
    best = run.note_quality(psnr)
    return Validation(run.step, benchmark.name, benchmark.protocol, psnr, ssim, best)


def _as_json(config: TrainConfig) -> str:
    """The config for `resumed`, with paths that hold from any working directory."""
    fields = asdict(config)
    resolved = {name: str(value.resolve()) for name, value in fields.items() if isinstance(value, Path)}
    if config.val and Path(config.val).exists():
        resolved["val"] = str(Path(config.val).resolve())
    return json.dumps({**fields, **resolved}, indent=2)


def _prepare_lesson(run: Run) -> Generator[Started | Preparing, None, Lesson]:
    """What `run` is to be taught, from the photos and pairs that its config names, else from the packaged photos. The
    run directory is made once they are known to be good."""
    config, device = run.config, run.device
    data = config.data or find_training_photos(config.data_root)
    trial = data is None and not (run.model.merges_refs and config.pairs)
    if trial:
        data = trial_photos().folder

    def started(photos: int, pairs: int, skipped: int) -> Started:
        make_folder(run.out)
        learned = sum(parameter.numel() for parameter in run.learned)
        return Started(config.model, config.scale, photos, pairs, skipped, learned, str(device), run.out, trial)

    if not run.model.merges_refs:
        assert data is not None, "pairs are for nets that merge references"
        read, skipped = _read_photos(data, config, device)
        yield started(read.count, 0, skipped)
        return Enlarging(read, config)
    pairs = find_pairs(config.pairs) if config.pairs else []
    photos = find_images(data) if data else []
    yield started(len(photos), len(pairs), 0)
    windows = PairWindows(photos, pairs, config.patch * run.model.scale, config.foreign, config.seed)
    net = run.smoothed.eval()
    folder = prepared_folder(config.prepared or run.out / "samples", windows, net)
    workers = config.workers if config.workers is not None else os.cpu_count() or 1
    yield from prepare(windows, net, config.samples, folder, device, workers)
    return Merging(OfferSet(folder, config.samples, device), config)


def _read_photos(folder: Path, config: TrainConfig, device: torch.device) -> tuple[PhotoSet, int]:
    """The training photos, decoded, and how many files could not be read."""
    paths = find_images(folder)
    decoded = []
    for path in paths:
        try:
            decoded.append(read_rgb8(path))
        except RefsrError:
            continue
    if not decoded:
        raise BadData(f"{folder} holds no image that can be read")
    photos = PhotoSet(decoded, config.scale, config.patch, device)
    return photos, len(paths) - photos.count
