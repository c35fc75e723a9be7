"""All that changes while a net is trained: advanced step by step, saved whole, restored exactly."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from refsr_cli.config import CONFIG, TrainConfig
from refsr_cli.errors import BadData, BadSetting, OutOfMemory, RefsrError
from refsr_cli.files import replacing, write_atomically
from refsr_cli.inference.compiled import compiled
from refsr_cli.inference.device import pick_precision
from refsr_cli.inference.memory import is_out_of_memory
from refsr_cli.losses import ADVERSARIAL
from refsr_cli.models import MODELS, SRModel, build, numbers_of
from refsr_cli.training.group import Group
from refsr_cli.training.journal import Journal
from refsr_cli.training.lessons import Lesson
from refsr_cli.training.optimizers import apply_options, learning_rate_at, learning_rate_share, optimizer_of
from refsr_cli.weights.files import save_weights
from refsr_cli.weights.store import load_model

STATE = "state.pt"
"""Name of the checkpoint in a run directory."""
WEIGHTS, BEST = "model.safetensors", "best.safetensors"
"""Names of the averaged weights there: the last, and those that scored best."""
_MOST_IN_A_ROW = 50
"""Batches that may be left out one after the other."""


class Run:
    """All that changes while training, and how it is saved and restored."""

    def __init__(self, config: TrainConfig, group: Group, out: Path) -> None:
        self.config, self.group, self.device, self.out = config, group, group.device, out
        self.step, self.skipped, self.best = 0, 0, -math.inf
        self.lesson: Lesson | None = None
        self.origin: str | None = None
        """What the first weights are."""
        self.journal: Journal | None = None
        """Where this is the process that writes."""
        self._lesson_state: dict[str, Any] | None = None
        self._state_before_batch: tuple[Tensor, dict[str, Any]] | None = None
        """What a batch that is not finished was drawn with."""
        self._losses: list[dict[str, Tensor]] = []
        self._usual, self._in_a_row = math.nan, 0
        torch.manual_seed(config.seed)
        begun = bool(config.resume) and (out / STATE).exists()  # else it was interrupted before the first step
        if config.resume and not begun and (out / WEIGHTS).exists():
            raise BadData(f"cannot resume: {out / STATE} is missing; begin anew from --init-from {out / WEIGHTS}")
        self.model = self._build(begun).to(self.device).to(memory_format=torch.channels_last)
        group.broadcast(self.model)
        self.averaged = AveragedModel(self.model, multi_avg_fn=self._average)
        self.learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_of(self._parameter_groups(), config, self.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.dtype = pick_precision(config.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self._forward: Callable[..., Any] | None = None
        if begun:
            self._restore(self.out / STATE)
        if self.step > config.steps:
            raise BadSetting(f"{out} has {self.step:,} steps already; --steps {config.steps:,} is fewer")

    def _build(self, begun: bool) -> SRModel:
        config = self.config
        model = build(config.model, config.scale, numbers_of(config.model, config.numbers))
        if not any(True for _ in model.parameters()):
            raise BadSetting(f"model '{config.model}' has nothing to train")
        if config.fold_tail and (not model.foldable or model.merges_refs):
            raise BadSetting(f"model '{config.model}' has no linear tail to fold; leave --fold-tail out")
        if model.merges_refs and config.loss != TrainConfig.loss:
            raise BadSetting(f"model '{config.model}' has a loss of its own; leave --loss out")
        if config.stage != "restore":
            matcher = getattr(model, "correspondence", None)
            if matcher is None:
                raise BadSetting(f"--stage {config.stage} is for nets that match by learned features; leave it out")
            model.requires_grad_(False)
            matcher.requires_grad_(True)
        if config.only is not None:
            kept = [weight for name, weight in model.named_parameters() if not name.startswith(config.only)]
            for weight in kept:
                weight.requires_grad_(False)
            if not any(weight.requires_grad for weight in model.parameters()):
                names = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
                raise BadSetting(f"no weight that could be trained begins with '{config.only}'; there are {names}")
        start = config.first_weights if config.init_from else MODELS[config.model].start
        if model.merges_refs and not start:
            raise BadSetting(f"model '{config.model}' keeps the net that it starts from; leave --init-from none out")
        if start and not begun:
            source = load_model(None, None, start).model
            self.origin = model.start_from(source, start, partly=config.init_partly)
        return model.train()

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """What is learned, by the share of the learning rate that it gets."""
        groups: dict[float, list[Tensor]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(learning_rate_share(self.model, name), []).append(parameter)
        return [{"params": parameters, "share": share} for share, parameters in groups.items()]

    def teach(self, lesson: Lesson) -> None:
        """What the net is to learn from now on. Raises BadData where an earlier training learned something else."""
        self.lesson = lesson
        if self._lesson_state is None:
            return
        try:
            lesson.load_state_dict(self._lesson_state)
        except (RuntimeError, LookupError, TypeError, ValueError):
            raise BadData(
                f"cannot resume: {self.out / STATE} was trained with another --loss or --critic, or with photos read "
                "in another way (--stream)"
            ) from None

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], _: Tensor | int) -> None:
        """The moving average's update, quicker in the first steps so that the untrained net is soon forgotten."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    def advance(self, interrupted: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """One optimiser step. Yields how many pieces of its batch are done after each but the last; where `interrupted`
        is true there, no step is made, and what is saved is as it was before. Raises OutOfMemory, and RefsrError after
        too many batches in a row that had to be left out."""
        try:
            yield from self._advance(interrupted)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                "not enough memory for a training step; lower --micro-batch, --batch or --patch"
            ) from None

    def _advance(self, interrupted: Callable[[], bool]) -> Iterator[int]:
        assert self.lesson is not None, "there is something to teach"
        learning_rate = learning_rate_at(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("share", 1.0)  # earlier checkpoints have none
        torch.manual_seed(
            (self.config.seed * 1_000_003 + self.step) % 2**63
        )  # of layers that leave something out by chance
        forward = self._forward or self._prepared(self.lesson)
        self._state_before_batch = self._randomness() if self.lesson.pieces > 1 else None
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        if self.step == self.config.pixels_first:
            self._usual = math.nan  # other terms may come in, and the loss is another
        for done, piece in enumerate(self.lesson.losses(forward, self.generator, self.step), 1):
            self.scaler.scale(torch.stack(list(piece.values())).sum()).backward()
            terms = {name: term.detach() + terms.get(name, 0) for name, term in piece.items()}
            if done < self.lesson.pieces:
                yield done
                if interrupted():
                    return
        self._state_before_batch = None
        self.step += 1
        if self.config.skip_above and self._explodes(terms):
            return
        self.group.share(self.model)
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.averaged.update_parameters(self.model)
        self._losses.append(terms)

    def _randomness(self) -> tuple[Tensor, dict[str, Any]]:
        """What the next batch depends on."""
        return self.generator.get_state(), self.lesson.state_dict() if self.lesson else {}

    def _explodes(self, terms: Mapping[str, Tensor]) -> bool:
        """Whether a batch is to be left out, as its loss is not what it usually is. What critics say is not looked at:
        it has no usual, and may be negative."""
        loss = torch.stack(list(terms.values())).sum()
        sizes = [term for name, term in terms.items() if name not in ADVERSARIAL]
        size = float(self.group.mean(torch.stack(sizes).sum())) if sizes else 0.0
        if not math.isfinite(float(self.group.mean(loss))) or size > self.config.skip_above * self._usual:
            self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
            if self._in_a_row == _MOST_IN_A_ROW:
                raise RefsrError(
                    f"the loss of {_MOST_IN_A_ROW} batches in a row is far above the usual {self._usual:.3g} at step "
                    f"{self.step:,}; lower --learning-rate or set --clip"
                )
            return True
        self._usual = size if math.isnan(self._usual) else 0.99 * self._usual + 0.01 * size
        self._in_a_row = 0
        return False

    def _prepared(self, lesson: Lesson) -> Callable[..., Any]:
        """What the lesson trains, compiled where that was asked for, in the precision chosen."""
        own = lesson.forward(self.model)
        forward = compiled(own) if self.config.compile else own

        def run(*inputs: Any) -> Any:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                return forward(*inputs)

        self._forward = run
        return run

    @property
    def smoothed(self) -> SRModel:
        """The net with averaged weights."""
        return cast(SRModel, self.averaged.module)

    def keep_settings(self) -> None:
        """Writes the config for `resumed`, with paths that hold from any working directory. Raises BadFile."""
        fields = asdict(self.config)
        resolved = {name: str(value.resolve()) for name, value in fields.items() if isinstance(value, Path)}
        for name in ("val", "init_from"):
            if fields[name] and Path(fields[name]).exists():
                resolved[name] = str(Path(fields[name]).resolve())
        write_atomically(self.out / CONFIG, json.dumps({**fields, **resolved}, indent=2).encode())

    def take_losses(self) -> dict[str, float]:
        """Mean terms of the loss of the steps since they were last taken; none when all were left out.

        Raises RefsrError when one is not a number."""
        terms = self._mean_losses()
        self._losses.clear()
        return terms

    def _mean_losses(self) -> dict[str, float]:
        names = self._losses[0] if self._losses else {}
        terms = {
            name: float(self.group.mean(torch.stack([row[name] for row in self._losses]).mean())) for name in names
        }
        if not math.isfinite(sum(terms.values())):
            shown = sum(terms.values())
            raise RefsrError(f"the loss is {shown} at step {self.step}; lower --learning-rate or set --clip")
        return terms

    def note_quality(self, psnr: float) -> bool:
        """Whether the averaged weights are the best so far; then they are kept as `best.safetensors`."""
        if psnr <= self.best:
            return False
        self.best = psnr
        self._save_weights(BEST)
        self.save()
        return True

    def _save_weights(self, name: str) -> None:
        metadata = {"step": str(self.step)}
        self.smoothed.scale = self.config.scale
        save_weights(self.out / name, self.smoothed, self.config.model, metadata)

    def save(self) -> None:
        """Writes the averaged weights and all that is needed to go on. Raises RefsrError rather than keep weights
        that have become no numbers."""
        self._mean_losses()
        if not self.group.leads:
            return
        self._save_weights(WEIGHTS)
        generator, lesson = self._state_before_batch or self._randomness()
        state = {
            "step": self.step,
            "best": self.best,
            "skipped": self.skipped,
            "usual": self._usual,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generator": generator,
            "lesson": lesson,
        }
        with replacing(self.out / STATE) as unfinished:
            torch.save(state, unfinished)

    def _restore(self, path: Path) -> None:
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            apply_options(self.optimizer, self.config)
            if state["scaler"] and self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            self.generator.set_state(state["generator"].cpu())
            self.step, self.best = int(state["step"]), float(state["best"])
            self.skipped, self._usual = int(state["skipped"]), float(state["usual"])
            self._lesson_state = state["lesson"]
        except (RuntimeError, LookupError, TypeError, AttributeError, ValueError, OSError, EOFError, UnpicklingError):
            raise BadData(f"cannot resume: {path} is damaged, or the checkpoint of another net") from None
