"""PSNR and SSIM of a net on a test set, beside those of bicubic interpolation."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from refsr_cli.config import EvaluateConfig
from refsr_cli.data.benchmarks import Benchmark, download_benchmark, open_benchmark
from refsr_cli.data.degradations import CELLS, parse_degradation
from refsr_cli.data.reference_sets import check_choice, choose_references, require_references
from refsr_cli.data.remote import Fetching
from refsr_cli.engine import Progress, columns, open_upscaler
from refsr_cli.errors import BadSetting, Failed, RefsrError
from refsr_cli.files import make_folder, write_table
from refsr_cli.images import Picture, to_tensor, write_image
from refsr_cli.inference.results import Using, finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.metrics import Scores, protocol_named, score
from refsr_cli.models import build
from refsr_cli.plots import plot_gains

_CONVENTION_NAMES = {"matlab": "MATLAB's", "pillow": "Pillow's"}


@dataclass(frozen=True)
class Opened:
    """What is about to be measured, and how."""

    dataset: str
    scale: int
    protocol: str
    description: str
    lr: str
    """Where the low-resolution images come from."""
    note: str | None
    refs: str | None = None
    """Which references are used; None for a set without."""
    images: int = 0
    kind: str = "opened"


@dataclass(frozen=True)
class Measured:
    """The scores of one image."""

    image: str
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float
    seconds: float
    restoration: float = 0.0
    """How strongly the low-resolution image was restored first, 0 to 1."""
    references: int | None = None
    """How many there were."""
    alone_psnr: float | None = None
    """Of the net without references."""
    ref_share: float | None = None
    """Part of the picture where references were used."""
    kind: str = "measured"


@dataclass(frozen=True)
class Summary:
    """Means over the images (of each image's figure, as the papers do it)."""

    dataset: str
    count: int
    failed: int
    """Images that could not be read."""
    model: str
    scale: int
    protocol: str
    self_ensemble: bool
    precision: str
    lr: str
    """Where the low-resolution images come from."""
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float
    undefined: int
    """Images left out of a mean, since their PSNR or SSIM is not a number."""
    seconds: float
    restoration: float = 0.0
    """Mean strength of restoration."""
    unread_refs: int = 0
    """References that could not be read."""
    refs: str | None = None
    """Which references there were; None for a set without."""
    alone_psnr: float | None = None
    with_refs: int | None = None
    """Images that had references."""
    gain: float | None = None
    worst_gain: float | None = None
    """What references gained on those images on average, and on the one that gained least, in dB."""
    ref_share: float | None = None
    """Part of those images where references were used."""
    kind: str = "summary"


@dataclass(frozen=True)
class MeasuredCell:
    """Means over the images, all degraded in one way."""

    degradation: str
    """As `--degrade` takes it."""
    count: int
    psnr: float
    ssim: float
    bicubic_psnr: float
    """Of bicubic interpolation of the same degraded images."""
    gain: float
    """Over bicubic, in dB."""
    worst_gain: float
    """Of the image that gained least."""
    restoration: float
    """Mean strength of restoration, 0 to 1."""
    seconds: float
    """An image."""
    ref_gain: float | None = None
    """What references gained over the same net without, in dB; None for a set without."""
    worst_ref_gain: float | None = None
    kind: str = "measured_cell"


@dataclass(frozen=True)
class CellsPlotted:
    """The picture of the gains."""

    path: Path
    kind: str = "plotted"


def evaluate(
    config: EvaluateConfig, on_download: Callable[[int, int | None], None] | None = None
) -> Iterator[Fetching | Using | Opened | Measured | Failed | Summary]:
    """Scores a net on every image of a dataset."""
    if config.download:
        yield from download_benchmark(config.dataset, config.data_root)
    benchmark = open_benchmark(
        config.dataset, config.data_root, limit=config.limit, lr_dir=config.lr_dir, span=config.index_range
    )
    degradation = parse_degradation("clean" if config.degrade is None else config.degrade)
    name = config.protocol or benchmark.protocol
    protocol = protocol_named(name)
    benchmark = replace(benchmark, degradations=(degradation,), convention=protocol.bicubic)
    check_choice(config.refs)
    paths = benchmark.paths()
    targets = _targets(config, benchmark, paths)
    everything = replace(benchmark, limit=None, span=None).paths()
    with_refs = require_references(config.refs, everything)
    upscaler, using = open_upscaler(config, config.scale, on_download, with_refs=with_refs)
    interpolation = build("bicubic", config.scale, {"convention": protocol.bicubic})
    bicubic = Upscaler(interpolation, device="cpu", self_ensemble=False)
    yield using
    lr = str(config.lr_dir) if config.lr_dir else f"made with {_CONVENTION_NAMES[protocol.bicubic]} bicubic"
    lr += f", {config.degrade}" if config.degrade else ""
    note = None
    if benchmark.full and not config.limit and len(paths) != benchmark.full:
        note = f"{benchmark.name} has {benchmark.full} images, and {len(paths)} were found"
    refs_used = config.refs if with_refs else None
    yield Opened(benchmark.name, config.scale, name, protocol.description, lr, note, refs_used, len(paths))

    rows: list[Measured] = []
    unread_refs = 0
    for path in paths:
        try:
            sample = benchmark.sample(path, config.scale, protocol.pad_to)
        except RefsrError as error:
            yield Failed(str(path), str(error))
            continue
        refs = None
        if with_refs:
            refs, unread = choose_references(config.refs, everything, path)
            yield from unread
            unread_refs += len(unread)
        begin = time.perf_counter()
        size = sample.lr.height * config.scale, sample.lr.width * config.scale
        enlarged = finished(upscaler.enlarge(sample.lr, *size, refs))
        seconds = time.perf_counter() - begin
        sr = sample.cut(enlarged.picture)

        def scores(picture: Picture, hr: Tensor = sample.hr) -> Scores:
            return score(to_tensor(picture.pixels), hr, config.scale, protocol)

        ours, plain = scores(sr), scores(sample.cut(bicubic(sample.lr, config.scale)))
        row = Measured(
            sample.name, ours.psnr, ours.ssim, plain.psnr, plain.ssim, seconds, enlarged.restoration.strength
        )
        if refs is not None:
            alone = scores(sample.cut(upscaler(sample.lr, config.scale))).psnr if refs else ours.psnr
            share = sum(use.share for use in enlarged.uses)
            row = replace(row, references=len(refs), alone_psnr=alone, ref_share=share)
        rows.append(row)
        yield row
        if path in targets:
            make_folder(targets[path].parent)
            write_image(targets[path], sr)
    if not rows:
        return
    if config.csv:
        write_table(config.csv, [columns(row) for row in rows])
    yield Summary(
        dataset=benchmark.name,
        count=len(rows),
        failed=len(paths) - len(rows),
        model=using.model,
        scale=config.scale,
        protocol=name,
        self_ensemble=upscaler.self_ensemble,
        precision=using.precision,
        lr=lr,
        psnr=_mean(row.psnr for row in rows),
        ssim=_mean(row.ssim for row in rows),
        bicubic_psnr=_mean(row.bicubic_psnr for row in rows),
        bicubic_ssim=_mean(row.bicubic_ssim for row in rows),
        undefined=sum(not math.isfinite(row.psnr + row.ssim) for row in rows),
        seconds=sum(row.seconds for row in rows),
        restoration=fmean(row.restoration for row in rows),
        unread_refs=unread_refs,
        **(_about_references(config.refs, rows) if with_refs else {}),
    )


def _about_references(refs: str, rows: list[Measured]) -> dict[str, Any]:
    helped = [row for row in rows if row.references]
    gains = [row.psnr - (row.alone_psnr or 0) for row in helped]
    return {
        "refs": refs,
        "alone_psnr": _mean(row.alone_psnr or 0 for row in rows),
        "with_refs": len(helped),
        "gain": _mean(gains) if helped else 0.0,
        "worst_gain": min(gains, default=0.0),
        "ref_share": _mean(row.ref_share or 0 for row in helped) if helped else 0.0,
    }


def _targets(config: EvaluateConfig, benchmark: Benchmark, paths: list[Path]) -> dict[Path, Path]:
    """Where each result goes. Raises BadSetting when anything is there already, unless it may be overwritten."""
    targets: dict[Path, Path] = {}
    if config.save:
        for path in paths:
            name = Path(benchmark.name_of(path))
            targets[path] = config.save / name.with_name(f"{name.stem}_x{config.scale}.png")
    if len(set(targets.values())) < len(targets):
        raise BadSetting(f"two images of {benchmark.folder} differ only in their suffix; rename one to use --save")
    there = [path for path in (*targets.values(), config.csv) if path and path.exists()]
    if there and not config.overwrite:
        raise BadSetting(f"{there[0]} exists already; give --overwrite, or another --save or --csv")
    for folder in (config.save, config.csv.parent if config.csv else None):
        if folder:
            make_folder(folder)
    return targets


def _mean(values: Iterable[float]) -> float:
    """The mean of those that are numbers: an image equal to its truth has no PSNR, a tiny one no SSIM."""
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan


def evaluate_degraded(
    config: EvaluateConfig, on_download: Callable[[int, int | None], None] | None = None
) -> Iterator[Fetching | Using | Opened | Progress | Failed | MeasuredCell | CellsPlotted]:
    """Scores a net with each of CELLS in turn: a table, and a plot of the gains over bicubic."""
    rows: list[MeasuredCell] = []
    plot, count = config.plot, 0
    for name in CELLS:
        measured: list[Measured] = []
        for record in _one_cell(config, name, on_download, first=not rows):
            if isinstance(record, Using) and not rows:
                plot = plot or Path(f"degraded-{record.model}-x{config.scale}.png")
                _check_free(config, plot)
            if isinstance(record, Opened):
                count = record.images
            if isinstance(record, Measured):
                measured.append(record)
                yield Progress(name, len(measured), count)
            elif isinstance(record, Summary):
                rows.append(_row(name, record, measured))
                yield rows[-1]
            elif not rows:
                yield record
    if not rows:
        return
    if config.csv:
        write_table(config.csv, [columns(row) for row in rows])
    assert plot is not None, "it was named when the net was opened"
    title = f"{Path(config.dataset).name} x{config.scale}"
    plot_gains(plot, title, "dB gained over bicubic", {row.degradation: (row.gain, row.worst_gain) for row in rows})
    yield CellsPlotted(plot)


def _one_cell(
    config: EvaluateConfig, name: str, on_download: Callable[[int, int | None], None] | None, *, first: bool
) -> Iterator[Fetching | Using | Opened | Measured | Failed | Summary]:
    download = config.download and first
    return evaluate(replace(config, degrade=name, plot=None, csv=None, download=download), on_download)


def _check_free(config: EvaluateConfig, plot: Path) -> None:
    for path in (plot, config.csv):
        if path and path.exists() and not config.overwrite:
            raise BadSetting(f"{path} exists already; give --overwrite, or another --plot or --csv")
        if path:
            make_folder(path.parent)


def _row(name: str, summary: Summary, measured: list[Measured]) -> MeasuredCell:
    return MeasuredCell(
        degradation=name,
        count=summary.count,
        psnr=summary.psnr,
        ssim=summary.ssim,
        bicubic_psnr=summary.bicubic_psnr,
        gain=summary.psnr - summary.bicubic_psnr,
        worst_gain=min(row.psnr - row.bicubic_psnr for row in measured),
        restoration=summary.restoration,
        seconds=summary.seconds / summary.count,
        ref_gain=summary.gain,
        worst_ref_gain=summary.worst_gain,
    )
