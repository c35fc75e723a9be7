"""One training loop for every net: optimiser steps, moving average, validation, exact resume."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from statistics import fmean
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from refsr_cli.config import TrainConfig
from refsr_cli.data.benchmarks import Benchmark, find_training_photos, open_benchmark, trial_photos
from refsr_cli.data.folders import find_images
from refsr_cli.data.photos import PhotoSet
from refsr_cli.errors import BadData, BadSetting, OutOfMemory, RefsrError
from refsr_cli.files import make_folder, replacing, write_atomically
from refsr_cli.images import read_rgb8, to_tensor
from refsr_cli.inference.device import pick_device, pick_precision
from refsr_cli.inference.memory import is_out_of_memory
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.metrics import PROTOCOLS, score
from refsr_cli.models import SRModel, build
from refsr_cli.weights.files import save_weights
from refsr_cli.weights.store import load_model

STATE = "state.pt"
"""Name of the checkpoint in a run directory."""
_INTERRUPTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PACE_STEPS = 10
"""Steps after which the time for all of them is foretold."""


@dataclass(frozen=True)
class Started:
    """What is about to be trained, and on what."""

    model: str
    scale: int
    photos: int
    skipped: int
    parameters: int
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


def train(config: TrainConfig) -> Iterator[Started | Pace | Step | Validation | Finished]:
    """Trains a net and leaves `model.safetensors` (last), `best.safetensors`, `state.pt` and `config.json` in the run
    directory. An interrupt is taken after the step in hand; everything written is whole."""
    device = pick_device(config.device)
    out = config.resume or config.out or Path("runs") / f"{config.model}-x{config.scale}"
    if not config.resume and (out / STATE).exists():
        raise BadSetting(f"{out} holds a training already; go on with --resume {out}, or give another --out")
    run = _Run(config, device, out)
    benchmark = open_benchmark(config.val, config.data_root) if config.val else trial_photos()
    next(benchmark.samples(config.scale))  # what is wrong with it is said now, not hours later
    data = config.data or find_training_photos(config.data_root)
    photos, skipped = _read_photos(data or trial_photos().folder, config, device)
    make_folder(out)
    write_atomically(out / "config.json", _as_json(config).encode())
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    yield Started(config.model, config.scale, photos.count, skipped, parameters, str(device), out, trial=data is None)

    begin = saved = time.monotonic()
    clock = _Clock()
    losses: list[Tensor] = []
    with _interrupts_deferred() as interrupted, _saved_when_closed(run):
        while run.step < config.steps and not interrupted.is_set():
            losses.append(run.advance(photos))
            if clock.tick() == PACE_STEPS:
                pace = clock.pace
                yield Pace(config.steps, pace, (config.steps - run.step) / pace)
            last = run.step == config.steps
            due = time.monotonic() - saved > config.checkpoint_minutes * 60
            if run.step % config.log_every == 0 or last or due or interrupted.is_set():
                loss = float(torch.stack(losses).mean())
                losses.clear()
                if not math.isfinite(loss):
                    raise RefsrError(f"the loss is {loss} at step {run.step}; lower --learning-rate or set --clip")
                pace = clock.lap()
                remaining = (config.steps - run.step) / pace
                yield run.log(Step(run.step, config.steps, loss, learning_rate_at(run.step, config), pace, remaining))
            if due:
                run.save()
                saved = time.monotonic()
            if (run.step % config.validate_every == 0 or last) and not interrupted.is_set():
                run.save()
                with clock.stopped():
                    yield run.log(run.validate(benchmark))
        run.save()
    if interrupted.is_set():
        raise KeyboardInterrupt(f"step {run.step:,} is saved, go on with --resume {out}")
    yield Finished(run.step, out / "model.safetensors", out / "best.safetensors", time.monotonic() - begin)


@contextmanager
def _saved_when_closed(run: "_Run") -> Iterator[None]:
    """Nobody reads on (the terminal is gone, the pipe is closed): what was learned is kept."""
    try:
        yield
    except GeneratorExit:
        run.save()
        raise


def _as_json(config: TrainConfig) -> str:
    """The config for `resumed`, with paths that hold from any working directory."""
    fields = asdict(config)
    resolved = {name: str(value.resolve()) for name, value in fields.items() if isinstance(value, Path)}
    if config.val and Path(config.val).exists():
        resolved["val"] = str(Path(config.val).resolve())
    return json.dumps({**fields, **resolved}, indent=2)


class _Clock:
    """Steps a second, lap by lap. The first step, which warms up, does not count."""

    def __init__(self) -> None:
        self._steps, self._total, self._begin, self._pace = 0, 0, time.monotonic(), 0.0

    def tick(self) -> int:
        """Counts a step; how many there were in all."""
        self._total += 1
        if self._total == 1:
            self._begin = time.monotonic()
        else:
            self._steps += 1
        return self._total

    @property
    def pace(self) -> float:
        """Steps a second since the last lap."""
        return self._steps / max(1e-9, time.monotonic() - self._begin) if self._steps else self._pace or 1.0

    def lap(self) -> float:
        """The pace since the last lap; begins a new one."""
        self._pace = self.pace
        self._steps, self._begin = 0, time.monotonic()
        return self._pace

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens inside does not count."""
        begin = time.monotonic()
        yield
        self._begin += time.monotonic() - begin


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate after `step` steps: a function of the step alone, so that resuming needs no state."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "halving":
        return config.learning_rate * 0.5 ** (step // config.halve_every)
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class _Run:
    """All that changes while training, and how it is saved and restored."""

    def __init__(self, config: TrainConfig, device: torch.device, out: Path) -> None:
        self.config, self.device, self.out = config, device, out
        self.step, self.best = 0, -math.inf
        torch.manual_seed(config.seed)
        self.model = self._build().to(device).to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(self.model, multi_avg_fn=self._average)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, fused=device.type == "cuda")
        self.generator = torch.Generator().manual_seed(config.seed)
        self.dtype = pick_precision(config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        forward = self.model.forward_folded if config.fold_tail else self.model.forward
        self._forward = torch.compile(forward) if config.compile else forward
        if config.resume:
            self._restore(config.resume / STATE)

    def _build(self) -> SRModel:
        config = self.config
        model = build(config.model, config.scale)
        if not any(True for _ in model.parameters()):
            raise BadSetting(f"model '{config.model}' has nothing to train")
        if config.fold_tail and not model.foldable:
            raise BadSetting(f"model '{config.model}' has no linear tail to fold; leave --fold-tail out")
        if config.init_from and not config.resume:
            _start_from(model, config)
        return model.train()

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], _: Tensor | int) -> None:
        """The moving average's update, quicker in the first steps so that the untrained net is soon forgotten."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    def log(self, record: Logged) -> Logged:
        """Appends the record to `log.jsonl` in the run directory."""
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        return record

    def advance(self, photos: PhotoSet) -> Tensor:
        """One optimiser step; the loss, still on the device. Raises OutOfMemory."""
        try:
            return self._advance(photos)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory("not enough memory for a training step; lower --batch or --patch") from None

    def _advance(self, photos: PhotoSet) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.config)
        lr, hr = photos.batch(self.config.batch, self.generator, self.config.candidates)
        lr = lr.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            sr = self._forward(lr)
        border = self.config.scale if self.config.fold_tail else 0
        inside = slice(border, hr.shape[-1] - border)
        loss = F.l1_loss(sr.float()[..., inside, inside], hr[..., inside, inside])
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.averaged.update_parameters(self.model)
        self.step += 1
        return loss.detach()

    @property
    def smoothed(self) -> SRModel:
        """The net with averaged weights."""
        return cast(SRModel, self.averaged.module)

    def validate(self, benchmark: Benchmark) -> Validation:
        """Scores the averaged weights, and keeps them as `best.safetensors` when they are the best so far."""
        upscaler = Upscaler(self.smoothed, device=str(self.device), precision="fp32", self_ensemble=False)
        protocol = PROTOCOLS[benchmark.protocol]
        scores = []
        for sample in benchmark.samples(self.config.scale):
            sr = to_tensor(upscaler(sample.lr).pixels)
            scores.append(score(sr, sample.hr, self.config.scale, protocol))
        psnr, ssim = fmean(item.psnr for item in scores), fmean(item.ssim for item in scores)
        is_best = psnr > self.best
        if is_best:
            self.best = psnr
            self._save_weights("best.safetensors")
        return Validation(self.step, benchmark.name, benchmark.protocol, psnr, ssim, is_best)

    def _save_weights(self, name: str) -> None:
        metadata = {"step": str(self.step)}
        save_weights(self.out / name, self.smoothed, self.config.model, metadata)

    def save(self) -> None:
        """Writes the averaged weights and all that is needed to go on."""
        self._save_weights("model.safetensors")
        state = {
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generator": self.generator.get_state(),
        }
        with replacing(self.out / STATE) as unfinished:
            torch.save(state, unfinished)

    def _restore(self, path: Path) -> None:
        if not path.is_file():
            raise BadData(f"cannot resume: {path} is not there; name the run directory of an earlier training")
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"] and self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            self.generator.set_state(state["generator"].cpu())
            self.step, self.best = int(state["step"]), float(state["best"])
        except (RuntimeError, LookupError, TypeError, AttributeError, ValueError, EOFError, UnpicklingError):
            raise BadData(f"cannot resume: {path} is damaged, or the checkpoint of another net") from None


def _start_from(model: SRModel, config: TrainConfig) -> None:
    """Copies the weights of `--init-from`; from a net for another scale all but those that belong to its scale."""
    source = load_model(None, None, config.init_from)
    if source.model.config != model.config:
        raise BadSetting(f"{config.init_from} is another net: {source.model.config}, not {model.config}")
    left_out = () if source.model.scale == model.scale else model.scale_specific
    weights = {name: value for name, value in source.model.state_dict().items() if not name.startswith(left_out)}
    model.load_state_dict(weights, strict=not left_out)


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


@contextmanager
def _interrupts_deferred() -> Iterator[threading.Event]:
    """SIGINT, SIGTERM and SIGHUP set the event instead of breaking a step in two; a second one breaks off.

    Only the main thread can hear them.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = {number: signal.signal(number, note) for number in _INTERRUPTS}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
