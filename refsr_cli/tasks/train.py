"""One training loop for every net: optimiser steps, moving average, validation, exact resume."""

import math
import os
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from refsr_cli.config import TrainConfig
from refsr_cli.data.benchmarks import Benchmark, find_training_photos, trial_photos
from refsr_cli.data.degradations import parse_mix
from refsr_cli.data.folders import find_photos
from refsr_cli.data.lmdb import is_lmdb
from refsr_cli.data.pair_stream import PairStream
from refsr_cli.data.pairs import PairWindows, find_pairs
from refsr_cli.data.reference_sets import targets_among
from refsr_cli.engine import Progress
from refsr_cli.errors import BadSetting, RefsrError
from refsr_cli.files import make_folder
from refsr_cli.inference.device import pick_device
from refsr_cli.inference.runner import runner_for
from refsr_cli.losses import pixel_loss_of
from refsr_cli.models import MODELS, fingerprint, numbers_of
from refsr_cli.recipes import RECIPES
from refsr_cli.training.group import Group, grouped_device, joined
from refsr_cli.training.journal import STEPS, Journal
from refsr_cli.training.lessons import SHRUNK, Enlarging, Lesson, Merging, RestorationTask
from refsr_cli.training.loop import Clock, interrupts_deferred
from refsr_cli.training.offers import Degrading, OfferSet, Preparing, prepare, prepared_folder
from refsr_cli.training.optimizers import learning_rate_at
from refsr_cli.training.pace import PACE_STEPS, StepBudget, advanced, estimated
from refsr_cli.training.photos import DegradedExamples, open_examples
from refsr_cli.training.records import Finished, Pace, Reading, Started, Step
from refsr_cli.training.reference_lessons import Corresponding, Restoring
from refsr_cli.training.run import BEST, STATE, WEIGHTS, Run
from refsr_cli.training.validation import Validation, open_validation, validate_once
from refsr_cli.weights.store import RESTORER, load_model

_MANY_PHOTOS = 50
"""From so many on it is said that they are being read."""
_CLEAN_WINDOWS = 0.3
"""Part of the windows with references that nothing happens to: references give most to clean pictures."""


def train(
    config: TrainConfig,
) -> Iterator[Reading | Started | Preparing | Progress | Pace | Step | Validation | Finished]:
    """Trains a net and leaves `model.safetensors` (last), `best.safetensors`, `state.pt` and `config.json` in the run
    directory. An interrupt is taken after the step in hand, or after the piece in hand of a batch that is taken in
    pieces; everything written is whole.

    Of the processes that `torchrun` starts together only the first gives records and writes.
    """
    with joined(pick_device(grouped_device(config.device))) as group:
        records = _train(config, group)
        if group.leads:
            yield from records
        else:
            deque(records, maxlen=0)


def _train(
    config: TrainConfig, group: Group
) -> Iterator[Reading | Started | Preparing | Progress | Pace | Step | Validation | Finished]:
    out, began = config.resume or config.out or _usual_folder(config), time.monotonic()
    if not config.resume and (out / STATE).exists():
        raise BadSetting(f"{out} holds a training already; go on with --resume {out}, or give another --out")
    if not (config.resume or config.init_from) and config.recipe and RECIPES[config.recipe].from_x2:
        config = replace(config, init_from=_weights_for_2(config))
    group.wait()  # nobody may write there before all have looked
    run = Run(replace(config, minutes=None), group, out)  # the time is that of this command, not of the run
    if config.pairs and not (run.model.merges_refs or run.model.needs_ref):
        raise BadSetting(f"--pairs is for nets that take references, and {config.model} does not")
    if config.prepared and not run.model.merges_refs:
        raise BadSetting(f"--prepared is for nets that merge references, and {config.model} does not")
    if config.degrade and run.model.merges_refs and not run.model.merges_degraded:
        raise BadSetting("--degrade needs a net that is given how degraded its input is; add --set conditioned=true")
    if run.model.restores and (not config.degrade or config.loss != TrainConfig.loss):
        raise BadSetting(f"{config.model} has a loss of its own and undoes --degrade; give that, without --loss")
    if config.patch % run.model.multiple_of:
        raise BadSetting(
            f"--patch must be a multiple of {run.model.multiple_of} for {config.model}, not {config.patch}"
        )
    data = config.data or find_training_photos(config.data_root)
    benchmark = open_validation(config, data)
    next(benchmark.samples(config.scale))  # what is wrong with it is said now, not hours later
    lesson = yield from _prepare_lesson(run, data, benchmark)
    run.teach(lesson)
    if config.resume and group.leads:  # only now: settings that the checkpoint does not take are not kept
        run.keep_settings()
    begin = saved = time.monotonic()
    clock = Clock()
    with closing(lesson), interrupts_deferred() as interrupted, _saved_when_closed(run):
        stop = group.any(interrupted.is_set())
        if run.step and _is_milestone(run) and not stop:
            yield from validate_once(run, benchmark)  # what an interruption left undone
        budget = StepBudget(run, began + 60 * config.minutes) if config.minutes else None
        while run.step < run.config.steps and not stop:
            before = run.step
            for done in advanced(run, lesson.pieces, lambda: group.any(interrupted.is_set()), estimate=not budget):
                yield done if isinstance(done, Pace) else Progress("this step", done, lesson.pieces)
            if stop := run.step == before:
                break
            done = clock.tick()
            if budget:
                budget.step(done)
            if done == PACE_STEPS:
                yield estimated(run, clock.pace)
            save = _is_milestone(run) or group.any(time.monotonic() - saved > config.checkpoint_minutes * 60)
            if save or run.step % config.log_every == 0:
                terms, pace = run.take_losses(), clock.lap()
                yield _noted(run, _progress(run, terms, pace))
            if save:
                run.save()
                saved = time.monotonic()
            stop = group.any(interrupted.is_set())
            if _is_milestone(run) and not stop:
                with clock.stopped():
                    yield from validate_once(run, benchmark)
                if budget:
                    budget.validated(done)
        if stop:
            run.save()
            raise KeyboardInterrupt(f"step {run.step:,} is saved, go on with --resume {out}")
    seconds = time.monotonic() - begin
    best = out / BEST if (out / BEST).exists() else None
    yield Finished(run.step, out / WEIGHTS, best, seconds, lesson.unusable)


def _is_milestone(run: Run) -> bool:
    """Whether the weights of this step are to be scored."""
    return run.step == run.config.steps or run.step % run.config.validate_every == 0


def _weights_for_2(config: TrainConfig) -> str | None:
    """For scale 3 or 4, those of the same net for 2 that are on this machine: trained here, packaged, or fetched
    before."""
    if config.model not in MODELS or config.scale not in (3, 4):
        return None
    wanted = replace(MODELS[config.model].config, **numbers_of(config.model, config.numbers))
    here = _usual_folder(replace(config, scale=2))
    for name in (str(here / BEST), str(here / WEIGHTS), f"{config.model}-x2"):
        try:
            source = load_model(None, None, name, offline=True).model
        except RefsrError:
            continue
        if (source.config, source.scale) == (wanted, 2):
            return name
    return None


def _usual_folder(config: TrainConfig) -> Path:
    spec = MODELS.get(config.model)
    return Path("runs") / (config.model if spec and spec.net.multi_scale else f"{config.model}-x{config.scale}")


def _progress(run: Run, terms: dict[str, float], pace: float) -> Step:
    config = run.config
    loss = sum(terms.values()) if terms else math.nan
    rate, remaining = learning_rate_at(run.step, config), (config.steps - run.step) / pace
    return Step(run.step, config.steps, loss, terms, run.skipped, rate, pace, remaining)


@contextmanager
def _saved_when_closed(run: Run) -> Iterator[None]:
    """Nobody reads on (the terminal is gone, the pipe is closed): what was learned is kept."""
    try:
        yield
    except GeneratorExit:
        run.save()
        raise


def _noted(run: Run, record: Step) -> Step:
    """The record, once it stands in the run's journal."""
    if run.journal:
        terms = {f"loss {name}": value for name, value in record.terms.items()} if len(record.terms) > 1 else {}
        rest = {name: getattr(record, name) for name in ("skipped", "learning_rate", "steps_per_second")}
        run.journal.note(STEPS, {"step": record.step, "loss": record.loss, **terms, **rest})
    return record


def _prepare_lesson(
    run: Run, data: Path | None, benchmark: Benchmark
) -> Generator[Reading | Started | Preparing, None, Lesson]:
    """What `run` is to be taught, from the photos in `data` and the pairs that its config names, else from the packaged
    photos. The run directory is made once they are known to be good."""
    config, device = run.config, run.device
    refs = run.model.merges_refs or run.model.needs_ref
    trial = data is None and not (refs and config.pairs)
    if trial:
        data = trial_photos().folder

    def started(photos: int, pairs: int, skipped: int) -> Started:
        if run.group.leads:
            make_folder(run.out)
            if not config.resume:
                run.keep_settings()
            run.journal = Journal(run.out, run.step)
        learned = sum(parameter.numel() for parameter in run.learned)
        notes = [run.origin] if run.origin else []
        if config.recipe and RECIPES[config.recipe].goes_on and not config.first_weights:
            notes.append(f"recipe '{config.recipe}' goes on from a trained net; --init-from names it")
        if getattr(run.model, "correspondence", None) and config.stage == "restore" and not config.first_weights:
            notes.append("places are looked for by untrained features; --stage teacher and match come first")
        if refs and config.stage == "restore" and not targets_among(benchmark.paths()):
            notes.append(f"{benchmark.name} has no references: what is learned does not show there; give another --val")
        note = "; ".join(notes) or None
        return Started(config.model, config.scale, photos, pairs, skipped, learned, str(device), run.out, trial, note)

    own_loss = run.model.merges_refs or run.model.restores or config.stage != "restore"
    if (refs or own_loss) and config.micro_batch is not None:
        raise BadSetting(f"--micro-batch is for nets that enlarge without references, not for {config.model}")
    if config.pixels_first and (own_loss or pixel_loss_of(config.loss, luma_only=False) is None):
        raise BadSetting("--pixels-first needs a --loss with a term of pixels, such as 1*L1, and others beside it")
    if not refs:
        assert data is not None, "pairs are for nets that take references"
        scales = run.model.scales if run.model.multi_scale else (run.model.scale,)
        if not is_lmdb(data) and (number := len(find_photos(data, config.train_range))) >= _MANY_PHOTOS:
            yield Reading(number)
        examples, count, skipped = open_examples(config, data, SHRUNK if run.model.restores else scales, run.group)
        lesson: Lesson
        if isinstance(examples, DegradedExamples) and run.model.restores:
            lesson = RestorationTask(examples)
        else:
            lesson = Enlarging(examples, config, run.model, run.group)
        yield started(count, 0, skipped)
        return lesson
    pairs = find_pairs(config.pairs) if config.pairs else []
    photos = find_photos(data, config.train_range) if data else []
    yield started(len(photos), len(pairs), 0)
    if config.ease and not (run.model.needs_ref and config.stage == "restore" and photos):
        raise BadSetting("--ease is for a net that needs references, in stage restore, with --data of photos")
    ease = config.ease * config.batch
    windows = PairWindows(
        photos, pairs, config.patch * run.model.scale, config.foreign, config.seed, ease, config.jitter
    )
    workers = config.workers if config.workers is not None else os.cpu_count() or 1
    if run.model.needs_ref:
        return _referring_lesson(run, windows, workers)
    degrading = _degrading(config, device)
    folder = prepared_folder(config.prepared or run.out / "samples", windows, degrading)
    if run.group.leads:
        yield from prepare(windows, config.samples, folder, device, workers, degrading)
    run.group.wait()
    return Merging(OfferSet(folder, config.samples, run.smoothed.eval(), device), config, run.group)


def _degrading(config: TrainConfig, device: torch.device) -> Degrading | None:
    """How windows are degraded and restored, where the config says so. Raises BadWeights without what restores."""
    if not config.degrade:
        return None
    restorer = load_model(RESTORER, 1).model.to(device)
    mix = replace(parse_mix(config.degrade), clean=_CLEAN_WINDOWS)
    return Degrading(mix, runner_for(restorer, framed=True), fingerprint(restorer))


def _referring_lesson(run: Run, windows: PairWindows, workers: int) -> Lesson:
    """For a net that needs references, in the stage that is asked for."""
    config, group = run.config, run.group
    workers = max(1, workers // group.world) if workers else 0
    laid = run.model.most_references == 1  # over the picture, at its size; else as large as what is made of a photo
    side = windows.side if laid else windows.side * 5 // 4 // 4 * 4
    part = group.part(config.batch)
    stream = PairStream(
        windows, side, run.device, batch=config.batch, part=part, workers=workers, augment=config.augment
    )
    if config.stage == "restore":
        return Restoring(stream, config, run.model, group)
    teacher = load_model(config.model, config.scale, config.teacher).model.to(run.device) if config.teacher else None
    return Corresponding(stream, config, run.model, teacher)
