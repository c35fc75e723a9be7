"""Scoring the averaged weights while a net is trained."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from torch import Tensor

from refsr_cli.config import TrainConfig
from refsr_cli.data.benchmarks import Benchmark, open_benchmark, trial_photos
from refsr_cli.data.degradations import CELLS, CLEAN
from refsr_cli.data.reference_sets import choose_references, targets_among
from refsr_cli.images import to_tensor
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.resample import resize
from refsr_cli.losses import pixel_loss_of
from refsr_cli.metrics import PROTOCOLS, Scores, score
from refsr_cli.models import MODELS
from refsr_cli.training.journal import SHOWN, VALIDATION, middle
from refsr_cli.training.lessons import SHRUNK
from refsr_cli.training.run import Run
from refsr_cli.weights.store import RESTORER, load_model


@dataclass(frozen=True)
class Validation:
    """Mean scores of the averaged weights on the validation images, at one scale."""

    step: int
    scale: int
    dataset: str
    protocol: str
    psnr: float
    ssim: float
    loss: float | None
    """Mean of the training's loss of pixels, such as L1; None for a loss that has none."""
    best: bool
    """Whether the mean over the net's scales is the best so far."""
    kind: str = "validation"


def open_validation(config: TrainConfig, data: Path | None) -> Benchmark:
    """What is scored on: what was named, else DIV2K's own images beside its photos, else the packaged photos."""
    beside = data / "DIV2K_valid_HR" if data else None
    if config.val:
        benchmark = open_benchmark(config.val, config.data_root)
    elif beside and beside.is_dir():
        benchmark = Benchmark("DIV2K", beside, "ntire")
    else:
        benchmark = trial_photos()
    if not config.degrade:
        return replace(benchmark, span=config.val_range)
    restores = config.model in MODELS and MODELS[config.model].net.restores
    cells = [cell for cell in CELLS.values() if not (restores and cell == CLEAN)]  # which has no PSNR before training
    return replace(
        benchmark,
        span=config.val_range,
        degradations=tuple(cells),
        shrunk=max(SHRUNK) if restores else 1,
    )


def validate_once(run: Run, benchmark: Benchmark) -> Iterator[Validation]:
    """One process scores the weights, where they were not scored already; the others wait for it."""
    scored = run.config.stage == "restore"  # else what is learned does not show in a result
    if scored and run.journal and not run.journal.has_validation(run.step):
        yield from _validate(run, benchmark)
    run.group.wait()


def _validate(run: Run, benchmark: Benchmark) -> list[Validation]:
    """Scores the averaged weights at each scale of the net, and keeps them when they are the best so far."""
    model = run.smoothed
    scales = model.scales if model.multi_scale else (model.scale,)
    means = {scale: _scored(run, benchmark, scale) for scale in scales}
    best = run.note_quality(fmean(mean.psnr for mean in means.values()))
    assert run.journal is not None, "it is this process that keeps it"
    for scale, mean in means.items():
        loss = {} if mean.loss is None else {"loss": mean.loss}
        scores = {"psnr": mean.psnr, "ssim": mean.ssim, **loss}
        run.journal.note(VALIDATION, {"step": run.step, "scale": scale, **scores})
    run.journal.draw_curves()
    return [
        Validation(run.step, scale, benchmark.name, benchmark.protocol, mean.psnr, mean.ssim, mean.loss, best)
        for scale, mean in means.items()
    ]


@dataclass(frozen=True)
class _Means:
    psnr: float
    ssim: float
    loss: float | None


def _scored(run: Run, benchmark: Benchmark, scale: int) -> _Means:
    """Means over the validation images. The middle of some is kept: bicubic, net, truth."""
    run.smoothed.scale = scale
    made_ready = partial(Upscaler, device=str(run.device), precision="fp32", self_ensemble=False)
    restores = run.config.degrade and run.model.merges_refs  # as pictures are before references are merged
    upscaler = made_ready(run.smoothed, restorer=made_ready(load_model(RESTORER, 1).model) if restores else None)
    scores: list[Scores] = []
    losses: list[float] = []
    merges = run.model.merges_refs or run.model.restores  # which have losses of their own
    pixel_loss = None if merges else pixel_loss_of(run.config.loss, luma_only=run.model.luma_only)
    crops: list[list[Tensor]] = []
    paths = benchmark.paths()
    with_refs = (run.model.merges_refs or run.model.needs_ref) and bool(targets_among(paths))
    for path in paths:
        sample = benchmark.sample(path, scale)
        refs = choose_references("all", paths, path)[0] if with_refs else None
        sr = to_tensor(upscaler(sample.lr, refs=refs).pixels)
        scores.append(score(sr, sample.hr, scale, PROTOCOLS[benchmark.protocol]))
        if pixel_loss:
            losses.append(float(pixel_loss(sr, sample.hr.expand_as(sr))))
        if len(crops) < SHOWN:
            plain = resize(to_tensor(sample.lr.pixels), *sample.hr.shape[-2:])
            crops.append([middle(image) for image in (plain, sr, sample.hr)])
    if run.journal:
        run.journal.keep_crops(run.step, scale, crops)
    loss = fmean(losses) if losses else None
    return _Means(fmean(item.psnr for item in scores), fmean(item.ssim for item in scores), loss)
