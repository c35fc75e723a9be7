"""Speed, memory and quality of the ways to enlarge a picture, side by side on this machine."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from refsr_cli import __version__
from refsr_cli.bench.contenders import CONTENDERS, Task, fitting, operations
from refsr_cli.bench.growth import Growth, growths
from refsr_cli.bench.report import html_report
from refsr_cli.bench.rounds import Run, benches, by_turns, convolution_peak
from refsr_cli.config import BenchConfig
from refsr_cli.data.benchmarks import Benchmark, Sample
from refsr_cli.engine import Progress, columns
from refsr_cli.errors import BadSetting, Failed, RefsrError, UnknownName
from refsr_cli.files import make_room_for, write_atomically, write_table
from refsr_cli.images import Picture, Pixels, read_rgb8, to_tensor
from refsr_cli.inference.device import pick_device, processor_name
from refsr_cli.metrics import PROTOCOLS, score
from refsr_cli.models import MODELS
from refsr_cli.packaged import packaged


@dataclass(frozen=True)
class Comparing:
    """Where it is measured, and what the machine can do at best."""

    processor: str
    threads: int
    torch: str
    refsr: str
    peak_fp32: float
    """Operations a second in the convolution that it is best at."""
    peak_bf16: float
    rounds: int
    kind: str = "comparing"


@dataclass(frozen=True)
class Timing:
    """One contender on one picture: medians over the rounds."""

    model: str
    variant: str
    what: str
    scale: int
    width: int
    height: int
    milliseconds: float
    spread: float
    """Half of what the middle half of the rounds differs by, as a part of the median."""
    megapixels_per_second: float
    """Of the result."""
    ratio_to_plain: float | None
    """How many times as fast, round by round; None where plain did not run."""
    peak_share: float | None
    """Part of the machine's best speed in convolutions that the net's own are done at."""
    peak_mib: float | None
    """By how much memory grew while it ran."""
    psnr: float | None
    """Of luma against the truth, where one was given."""
    kind: str = "timing"


@dataclass(frozen=True)
class NotRun:
    """A contender that could not take part."""

    model: str
    variant: str
    message: str
    kind: str = "not_run"


@dataclass(frozen=True)
class Reported:
    """The report that was written."""

    path: Path
    kind: str = "reported"


def bench(config: BenchConfig) -> Iterator[Comparing | Progress | Timing | NotRun | Failed | Growth | Reported]:
    """Runs every contender by turns. Raises RefsrError where none can be run."""
    names = _contenders(config)
    for model in config.models:
        if model not in MODELS:
            raise UnknownName("model", model, MODELS)
        if config.scale not in MODELS[model].net.scales:
            raise BadSetting(f"model '{model}' has no scale {config.scale}")
    if config.output:
        if config.output.exists() and not config.output.is_file():
            raise BadSetting(f"{config.output} is not a file; give another --output")
        if config.output.exists() and not config.overwrite:
            raise BadSetting(f"{config.output} exists already; give --overwrite, or another --output")
    pictures = _pictures(config)
    tasks = [
        Task(model, config.scale, config.device, config.weights, trained=config.truth is not None)
        for model in config.models
    ]
    if config.output:
        make_room_for(config.output)
    counts = [{folded: operations(task, folded=folded) for folded in (False, True)} for task in tasks]
    fp32, bf16 = (convolution_peak(config.device, precision) for precision in (torch.float32, torch.bfloat16))
    processor = processor_name(pick_device(config.device))
    yield Comparing(processor, torch.get_num_threads(), torch.__version__, __version__, fp32, bf16, config.rounds)
    rows: list[Timing] = []
    grown: list[Growth] = []
    for task, counted in zip(tasks, counts, strict=True):
        for pixels, truth in pictures:
            yield from _timed(config, task, names, pixels, truth, {False: fp32, True: bf16}, counted, rows)
        if config.growth:
            for its in growths(task):
                grown.append(its)
                yield its
    if not rows and not grown:
        raise RefsrError("nothing could be run; there is nothing to report")
    if config.output:
        write_report(config.output, rows, grown, processor)
        yield Reported(config.output)


def _timed(
    config: BenchConfig,
    task: Task,
    names: Sequence[str],
    pixels: Pixels,
    truth: Sample | None,
    peaks: Mapping[bool, float],
    counted: Mapping[bool, float],
    rows: list[Timing],
) -> Iterator[Progress | Timing | NotRun | Failed]:
    """One picture: processes of its own, so that memory that an earlier one left does not count. What is told goes to
    `rows` too."""
    height, width = pixels.shape[:2]
    label = f"{task.model} {width}x{height}"
    with benches(names, task) as (opened, failed):
        turns = by_turns(opened, pixels, config.rounds)
        yield Progress(label, 0, config.rounds + 1)
        while True:
            try:
                yield Progress(label, next(turns), config.rounds + 1)
            except StopIteration as end:
                runs, gone = end.value
                break
        results = {its.name: its.result() for its in opened if truth is not None and its.name in runs}
    for name, message in {**failed, **gone}.items():
        named = name in config.against
        yield Failed(f"{task.model} {name}", message) if named else NotRun(task.model, name, message)
    for name in runs:
        its = CONTENDERS[name]
        work = counted[its.own or its.folded] * its.passes * height * width if its.runs_net else 0.0
        psnr = _psnr(results[name], truth, config.scale) if truth is not None and its.trained else None
        best = work / peaks[name.endswith("bf16")]
        rows.append(_timing(task, name, pixels, runs[name], runs.get("plain"), best, psnr))
        yield rows[-1]


def _contenders(config: BenchConfig) -> list[str]:
    """Raises UnknownName and BadSetting."""
    there = fitting(config.device)
    for name in config.against:
        if name not in CONTENDERS:
            raise UnknownName("contender", name, CONTENDERS)
        if name not in there:
            its = CONTENDERS[name]
            hint = f" on the device '{config.device}'" if its.installed else f"; it needs {' and '.join(its.needs)}"
            raise BadSetting(f"'{name}' cannot run here{hint}")
    if config.against:
        return list(dict.fromkeys(("plain", *config.against)))
    return [name for name in there if not CONTENDERS[name].when_named]


def _pictures(config: BenchConfig) -> list[tuple[Pixels, Sample | None]]:
    """What is enlarged, and the truth where there is one."""
    if config.truth:
        sample = Benchmark("truth", config.truth.parent, "y").sample(config.truth, config.scale)
        if sample.lr.pixels.shape[2] != 3:
            raise BadSetting(f"--truth {config.truth} is grey; give a picture with colours")
        return [(sample.lr.pixels, sample)]
    photo = read_rgb8(packaged("examples/images") / "kodak" / "kodim08.png").permute(1, 2, 0).numpy()
    return [(filled(photo, *size), None) for size in config.sizes]


def filled(photo: Pixels, width: int, height: int) -> Pixels:
    """A picture of any size, of mirrored copies of a photo."""
    pad = ((0, max(0, height - photo.shape[0])), (0, max(0, width - photo.shape[1])), (0, 0))
    return np.ascontiguousarray(np.pad(photo, pad, mode="reflect")[:height, :width])


def _psnr(pixels: Pixels, truth: Sample, scale: int) -> float:
    sr = truth.cut(Picture(pixels, None, "png", None, None, None))
    return score(to_tensor(sr.pixels), truth.hr, scale, PROTOCOLS["y"]).psnr


def _timing(
    task: Task,
    name: str,
    pixels: Pixels,
    runs: Sequence[Run],
    plain: Sequence[Run] | None,
    best: float,
    psnr: float | None,
) -> Timing:
    """`best`: seconds that its convolutions take at the machine's peak."""
    seconds = [run.seconds for run in runs[1:]]
    middle = median(seconds)
    quarters = np.quantile(seconds, (0.25, 0.75))
    ratios = [a.seconds / b.seconds for a, b in zip(plain[1:], runs[1:], strict=True)] if plain else []
    height, width = pixels.shape[:2]
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return Timing(
        model=task.model,
        variant=name,
        what=CONTENDERS[name].what,
        scale=task.scale,
        width=width,
        height=height,
        milliseconds=1000 * middle,
        spread=float(quarters[1] - quarters[0]) / 2 / middle,
        megapixels_per_second=width * height * task.scale**2 / 1e6 / middle,
        ratio_to_plain=median(ratios) if ratios else None,
        peak_share=best / middle if best else None,
        peak_mib=max(peaks) / 2**20 if peaks else None,
        psnr=psnr,
    )


def _finite(value: Any) -> Any:
    """None for what JSON does not know: the PSNR of a result without any error."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(path: Path, rows: Sequence[Timing], grown: Sequence[Growth], processor: str) -> None:
    """As the suffix of `path` says. Raises BadFile."""
    table = [{name: _finite(value) for name, value in columns(row).items()} for row in rows]
    if path.suffix.lower() == ".csv":
        write_table(path, table)
    elif path.suffix.lower() == ".json":
        told = {"processor": processor, "timings": table, "growth": [columns(its) for its in grown]}
        write_atomically(path, json.dumps(told, indent=1).encode())
    else:
        write_atomically(path, html_report(processor, table, [columns(its) for its in grown]).encode())
