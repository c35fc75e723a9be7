"""All that changes while a net is trained: advanced step by step, saved whole, restored exactly."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from refsr_cli.config import TrainConfig
from refsr_cli.errors import BadData, BadSetting, OutOfMemory, RefsrError
from refsr_cli.files import replacing
from refsr_cli.inference.device import pick_precision
from refsr_cli.inference.memory import is_out_of_memory
from refsr_cli.models import MODELS, SRModel, build
from refsr_cli.training.lessons import Lesson
from refsr_cli.weights.files import save_weights
from refsr_cli.weights.store import load_model

STATE = "state.pt"
"""Name of the checkpoint in a run directory."""


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate after `step` steps: a function of the step alone, so that resuming needs no state."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "halving":
        return config.learning_rate * 0.5 ** (step // config.halve_every)
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Run:
    """All that changes while training, and how it is saved and restored."""

    def __init__(self, config: TrainConfig, device: torch.device, out: Path) -> None:
        self.config, self.device, self.out = config, device, out
        self.step, self.best = 0, -math.inf
        self._losses: list[Tensor] = []
        torch.manual_seed(config.seed)
        self.model = self._build().to(device).to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(self.model, multi_avg_fn=self._average)
        self.learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.learned, lr=config.learning_rate, fused=device.type == "cuda")
        self.generator = torch.Generator().manual_seed(config.seed)
        self.dtype = pick_precision(config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self._forward: Callable[..., Any] | None = None
        if config.resume:
            self._restore(config.resume / STATE)

    def _build(self) -> SRModel:
        config = self.config
        model = build(config.model, config.scale)
        if not any(True for _ in model.parameters()):
            raise BadSetting(f"model '{config.model}' has nothing to train")
        if config.fold_tail and not model.foldable:
            raise BadSetting(f"model '{config.model}' has no linear tail to fold; leave --fold-tail out")
        start = config.init_from or MODELS[config.model].start
        if start and not config.resume:
            model.start_from(load_model(None, None, start).model, start)
        return model.train()

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], _: Tensor | int) -> None:
        """The moving average's update, quicker in the first steps so that the untrained net is soon forgotten."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    def advance(self, lesson: Lesson) -> None:
        """One optimiser step; of one lesson all. Raises OutOfMemory."""
        try:
            self._losses.append(self._advance(lesson))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory("not enough memory for a training step; lower --batch or --patch") from None

    def _advance(self, lesson: Lesson) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.config)
        loss = lesson.loss(self._forward or self._prepared(lesson), self.generator)
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

    def _prepared(self, lesson: Lesson) -> Callable[..., Any]:
        """What the lesson trains, compiled where that was asked for, in the precision chosen."""
        own = lesson.forward(self.model)
        forward = torch.compile(own) if self.config.compile else own

        def run(*inputs: Any) -> Any:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                return forward(*inputs)

        self._forward = run
        return run

    @property
    def smoothed(self) -> SRModel:
        """The net with averaged weights."""
        return cast(SRModel, self.averaged.module)

    def take_loss(self) -> float:
        """Mean loss of the steps since it was last taken. Raises RefsrError when it is not a number."""
        loss = self._mean_loss()
        self._losses.clear()
        return loss

    def _mean_loss(self) -> float:
        loss = float(torch.stack(self._losses).mean())
        if not math.isfinite(loss):
            raise RefsrError(f"the loss is {loss} at step {self.step}; lower --learning-rate or set --clip")
        return loss

    def note_quality(self, psnr: float) -> bool:
        """Whether the averaged weights are the best so far; then they are kept as `best.safetensors`."""
        if psnr <= self.best:
            return False
        self.best = psnr
        self._save_weights("best.safetensors")
        self.save()
        return True

    def _save_weights(self, name: str) -> None:
        metadata = {"step": str(self.step)}
        save_weights(self.out / name, self.smoothed, self.config.model, metadata)

    def save(self) -> None:
        """Writes the averaged weights and all that is needed to go on. Raises RefsrError rather than keep weights
        that have become no numbers."""
        if self._losses:
            self._mean_loss()
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
