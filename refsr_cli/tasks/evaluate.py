"""PSNR and SSIM of a net on a test set, beside those of bicubic interpolation."""

import csv
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

from refsr_cli.config import EvaluateConfig
from refsr_cli.data.benchmarks import open_benchmark
from refsr_cli.files import make_folder, write_atomically
from refsr_cli.images import to_tensor, write_image
from refsr_cli.inference.upscaler import Upscaler, Using
from refsr_cli.metrics import protocol_named, score
from refsr_cli.models import build
from refsr_cli.weights.store import load_model


@dataclass(frozen=True)
class Opened:
    """What is about to be measured, and how."""

    dataset: str
    scale: int
    protocol: str
    description: str
    lr: str
    """Where the low-resolution images come from."""
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
    kind: str = "measured"


@dataclass(frozen=True)
class Summary:
    """Means over the images (of each image's figure, as the papers do it)."""

    dataset: str
    count: int
    model: str
    scale: int
    protocol: str
    self_ensemble: bool
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float
    seconds: float
    kind: str = "summary"


def evaluate(
    config: EvaluateConfig, on_download: Callable[[int, int | None], None] | None = None
) -> Iterator[Using | Opened | Measured | Summary]:
    """Scores a net on every image of a dataset."""
    benchmark = open_benchmark(config.dataset, config.data_root, limit=config.limit, lr_dir=config.lr_dir)
    name = config.protocol or benchmark.protocol
    protocol = protocol_named(name)
    loaded = load_model(
        config.model,
        config.scale,
        config.weights,
        on_progress=on_download,
        flavour=config.flavour,
        res_scale=config.res_scale,
    )
    upscaler = Upscaler(
        loaded.model,
        device=config.device,
        precision=config.precision,
        self_ensemble=config.self_ensemble,
        tile=config.tile,
        memory=config.memory,
    )
    bicubic = Upscaler(build("bicubic", config.scale), device="cpu", self_ensemble=False)
    yield upscaler.using(loaded.name, loaded.metadata.get("note"))
    lr = str(config.lr_dir) if config.lr_dir else "made with MATLAB's bicubic"
    yield Opened(benchmark.name, config.scale, name, protocol.description, lr)

    if config.save:
        make_folder(config.save)
    rows: list[Measured] = []
    for sample in benchmark.samples(config.scale):
        begin = time.perf_counter()
        sr = upscaler(sample.lr, config.scale)
        seconds = time.perf_counter() - begin
        ours, plain = (
            score(to_tensor(image.pixels), sample.hr, config.scale, protocol)
            for image in (sr, bicubic(sample.lr, config.scale))
        )
        if config.save:
            write_image(config.save / f"{Path(sample.name).stem}_x{config.scale}.png", sr)
        rows.append(Measured(sample.name, ours.psnr, ours.ssim, plain.psnr, plain.ssim, seconds))
        yield rows[-1]
    if config.csv:
        _write_csv(config.csv, rows)
    yield Summary(
        dataset=benchmark.name,
        count=len(rows),
        model=loaded.name,
        scale=config.scale,
        protocol=name,
        self_ensemble=upscaler.self_ensemble,
        psnr=fmean(row.psnr for row in rows),
        ssim=fmean(row.ssim for row in rows),
        bicubic_psnr=fmean(row.bicubic_psnr for row in rows),
        bicubic_ssim=fmean(row.bicubic_ssim for row in rows),
        seconds=sum(row.seconds for row in rows),
    )


def _write_csv(path: Path, rows: list[Measured]) -> None:
    """One row an image."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(
        text, fieldnames=[field.name for field in fields(Measured) if field.name != "kind"], extrasaction="ignore"
    )
    table.writeheader()
    table.writerows(asdict(row) for row in rows)
    write_atomically(path, text.getvalue().encode())
