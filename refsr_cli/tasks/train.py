"""One training loop for every net: optimiser steps, moving average, validation, exact resume."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from statistics import fmean
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from refsr_cli.config import TrainConfig
from refsr_cli.data.benchmarks import Benchmark, find_training_photos, open_benchmark, trial_photos
from refsr_cli.data.folders import find_images
from refsr_cli.data.photos import PhotoSet
from refsr_cli.errors import BadData, BadSetting, RefsrError
from refsr_cli.files import make_folder, replacing, write_atomically
from refsr_cli.images import read_rgb8, to_tensor
from refsr_cli.inference.device import pick_device, pick_precision
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.metrics import PROTOCOLS, score
from refsr_cli.models import SRModel, build
from refsr_cli.weights.files import save_weights
from refsr_cli.weights.formats import load_any

STATE = "state.pt"
"""Name of the checkpoint in a run directory."""
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
    data = config.data or find_training_photos(config.data_root)
    photos, skipped = _read_photos(data or trial_photos().folder, config, device)
    benchmark = open_benchmark(config.val, config.data_root) if config.val else trial_photos()
    make_folder(out)
    write_atomically(out / "config.json", json.dumps(asdict(config), indent=2, default=str).encode())
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    yield Started(config.model, config.scale, photos.count, skipped, parameters, str(device), out, trial=data is None)

    begin = saved = time.monotonic()
    clock = _Clock()
    losses: list[Tensor] = []
    with _interrupts_deferred() as interrupted:
        for step in range(run.step + 1, config.steps + 1):
            losses.append(run.advance(photos))
            clock.tick()
            if clock.steps == PACE_STEPS and clock.first:
                pace = clock.lap()
                yield Pace(config.steps, pace, (config.steps - step) / pace)
            if step % config.log_every == 0 or step == config.steps:
                loss, pace = float(torch.stack(losses).mean()), clock.lap()
                losses.clear()
                if not math.isfinite(loss):
                    raise RefsrError(f"the loss is {loss} at step {step}; lower --learning-rate or set --clip")
                remaining = (config.steps - step) / pace
                yield Step(step, config.steps, loss, learning_rate_at(step, config), pace, remaining)
            if step % config.validate_every == 0 or step == config.steps:
                with clock.stopped():
                    yield run.validate(benchmark)
            if interrupted.is_set():
                break
            if time.monotonic() - saved > config.checkpoint_minutes * 60:
                run.save()
                saved = time.monotonic()
        run.save()
    if interrupted.is_set():
        raise KeyboardInterrupt
    yield Finished(run.step, out / "model.safetensors", out / "best.safetensors", time.monotonic() - begin)


class _Clock:
    """Steps a second, lap by lap."""

    def __init__(self) -> None:
        self.steps, self.first, self._pace, self._begin = 0, True, 0.0, time.monotonic()

    def tick(self) -> None:
        self.steps += 1

    def lap(self) -> float:
        """The pace since the last lap."""
        if self.steps:
            self._pace = self.steps / (time.monotonic() - self._begin)
        self.steps, self.first, self._begin = 0, False, time.monotonic()
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
        self.averaged = AveragedModel(self.model, avg_fn=self._average)
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

    def _average(self, averaged: Tensor, current: Tensor, _: Tensor | int) -> Tensor:
        """The moving average's update, quicker in the first steps so that the untrained net is soon forgotten."""
        return torch.lerp(current, averaged, min(self.config.ema, (1 + self.step) / (10 + self.step)))

    def advance(self, photos: PhotoSet) -> Tensor:
        """One optimiser step; the loss, still on the device."""
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
        self.smoothed.train()
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
        except (RuntimeError, KeyError, ValueError, EOFError, UnpicklingError):
            raise BadData(f"cannot resume: {path} is damaged, or the checkpoint of another net") from None
        self.scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["generator"].cpu())
        self.step, self.best = state["step"], state["best"]


def _start_from(model: SRModel, config: TrainConfig) -> None:
    """Copies the weights of `--init-from`; from a net for another scale all but those that belong to its scale."""
    assert config.init_from
    source = load_any(config.init_from).model
    left_out = () if source.scale == model.scale else model.scale_specific
    weights = {name: value for name, value in source.state_dict().items() if not name.startswith(left_out)}
    wanted = {name for name in model.state_dict() if not name.startswith(left_out)}
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError:
        wanted = set()
    if wanted != set(weights):
        raise BadSetting(f"{config.init_from} is not for model '{config.model}': its layers differ")


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
    return PhotoSet(decoded, config.scale, config.patch, device), len(paths) - len(decoded)


@contextmanager
def _interrupts_deferred() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event instead of breaking a step in two; they can in the main thread only."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.signal(number, lambda *_: event.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
