"""What a net makes of references of many kinds: others of the scene, of nothing, and changed ones."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from refsr_cli.config import EvaluateConfig
from refsr_cli.data.benchmarks import Sample, download_benchmark, open_benchmark
from refsr_cli.data.degradations import parse_degradation
from refsr_cli.data.reference_sets import STRESS, choose_references, is_there, require_references
from refsr_cli.data.remote import Fetching
from refsr_cli.engine import Progress, columns, open_upscaler
from refsr_cli.errors import BadData, BadSetting, Failed, RefsrError
from refsr_cli.files import make_folder, write_table
from refsr_cli.images import to_tensor
from refsr_cli.inference.results import Using, finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.metrics import Protocol, protocol_named, score
from refsr_cli.plots import plot_gains
from refsr_cli.reference.bank import RefBank


@dataclass(frozen=True)
class Stressing:
    """What is about to be tried."""

    dataset: str
    scale: int
    protocol: str
    description: str
    images: int
    tries: int
    left_out: tuple[str, ...]
    """Kinds that no image has."""
    kind: str = "stressing"


@dataclass(frozen=True)
class Stressed:
    """What one kind of reference did, over the images that have it."""

    refs: str
    """As `--refs` takes it."""
    count: int
    psnr: float
    alone_psnr: float
    """Of the net without references, on the same images."""
    gain: float
    worst_gain: float
    ref_share: float
    """Part of the pictures where references were used."""
    seconds: float
    """A picture."""
    kind: str = "stressed"


@dataclass(frozen=True)
class Plotted:
    """The picture of the gains."""

    path: Path
    kind: str = "plotted"


_MOST = 100.0
"""PSNR in dB that counts for a result equal to its truth."""


@dataclass(frozen=True)
class _Try:
    psnr: float
    alone: float
    share: float
    seconds: float


def endure(
    config: EvaluateConfig, on_download: Callable[[int, int | None], None] | None = None
) -> Iterator[Fetching | Using | Stressing | Progress | Failed | Stressed | Plotted]:
    """Scores a net with each kind of reference in turn."""
    if config.download:
        yield from download_benchmark(config.dataset, config.data_root)
    benchmark = open_benchmark(
        config.dataset, config.data_root, limit=config.limit, lr_dir=config.lr_dir, span=config.index_range
    )
    name = config.protocol or benchmark.protocol
    protocol = protocol_named(name)
    degradation = parse_degradation(config.degrade or "clean")
    benchmark = replace(benchmark, degradations=(degradation,), convention=protocol.bicubic)
    paths, everything = benchmark.paths(), open_benchmark(config.dataset, config.data_root).paths()
    require_references("L1", everything)
    upscaler, using = open_upscaler(config, config.scale, on_download, with_refs=True)
    plot = config.plot or Path(f"stress-{using.model}-x{config.scale}.png")
    for path in (plot, config.csv):
        if path and path.exists() and not config.overwrite:
            raise BadSetting(f"{path} exists already; give --overwrite, or another --plot or --csv")
        if path:
            make_folder(path.parent)
    yield using
    choices = [choice for choice in STRESS if is_there(choice, everything)]
    left_out = tuple(choice for choice in STRESS if choice not in choices)
    yield Stressing(benchmark.name, config.scale, name, protocol.description, len(paths), len(choices), left_out)

    alone: dict[Path, float] = {}
    for path in paths:
        try:
            sample = benchmark.sample(path, config.scale, protocol.pad_to)
        except RefsrError as error:
            yield Failed(str(path), str(error))
            continue
        psnr = _scored(upscaler, sample, config.scale, protocol, None)[0]
        if math.isfinite(psnr):  # else it is equal to its truth, and nothing can be gained
            alone[path] = psnr
        yield Progress("without references", len(alone), len(paths))
    if not alone:
        raise BadData(f"no image of {benchmark.folder} can be read and scored")
    rows = []
    for choice in choices:
        tries = []
        for number, path in enumerate(alone):
            refs, unread = choose_references(choice, everything, path)
            yield from unread
            if refs:
                sample = benchmark.sample(path, config.scale, protocol.pad_to)
                psnr, share, seconds = _scored(upscaler, sample, config.scale, protocol, refs)
                tries.append(_Try(min(psnr, _MOST), alone[path], share, seconds))
            yield Progress(choice, number + 1, len(alone))
        if tries:
            rows.append(_summed(choice, tries))
            yield rows[-1]
    if config.csv:
        write_table(config.csv, [columns(row) for row in rows])
    plot_gains(
        plot,
        f"{using.model} x{config.scale} on {benchmark.name}",
        "dB gained over no references",
        {row.refs: (row.gain, row.worst_gain) for row in rows},
    )
    yield Plotted(plot)


def _scored(
    upscaler: Upscaler, sample: Sample, scale: int, protocol: Protocol, refs: RefBank | None
) -> tuple[float, float, float]:
    """PSNR, part of the picture where references were used, seconds."""
    begin = time.perf_counter()
    enlarged = finished(upscaler.enlarge(sample.lr, sample.lr.height * scale, sample.lr.width * scale, refs))
    seconds = time.perf_counter() - begin
    scores = score(to_tensor(sample.cut(enlarged.picture).pixels), sample.hr, scale, protocol)
    return scores.psnr, sum(use.share for use in enlarged.uses), seconds


def _summed(choice: str, tries: Sequence[_Try]) -> Stressed:
    gains = [its.psnr - its.alone for its in tries]
    return Stressed(
        refs=choice,
        count=len(tries),
        psnr=fmean(its.psnr for its in tries),
        alone_psnr=fmean(its.alone for its in tries),
        gain=fmean(gains),
        worst_gain=min(gains),
        ref_share=fmean(its.share for its in tries),
        seconds=fmean(its.seconds for its in tries),
    )
