"""Checks of speed: nets against the device's peak, a video, and training."""

import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from refsr_cli.bench.contenders import fitting
from refsr_cli.checks.results import Effort, Seen
from refsr_cli.config import BenchConfig, TrainConfig, UpscaleConfig
from refsr_cli.errors import Failed
from refsr_cli.images import read_rgb8
from refsr_cli.packaged import packaged
from refsr_cli.tasks.bench import Comparing, NotRun, Timing, bench
from refsr_cli.tasks.train import train
from refsr_cli.tasks.video import UpscaledVideo, upscale_videos
from refsr_cli.training.records import Step

_PHOTOS = packaged("examples/images") / "kodak"
_HALF = 0.5
"""Part of the peak that a wide net is to reach on a GPU."""


def race(device: torch.device, effort: Effort) -> Iterator[Seen]:
    """`refsr bench` in bf16, self-ensemble included."""
    there = fitting(str(device))
    config = BenchConfig(
        models=effort.racing,
        sizes=((effort.side, effort.side),),
        against=tuple(name for name in ("refsr-bf16", "refsr+bf16") if name in there) or ("refsr", "refsr+"),
        rounds=effort.rounds,
        device=str(device),
    )
    for record in bench(config):
        if isinstance(record, Comparing):
            figure = f"{record.peak_fp32 / 1e12:.2f} TFLOP/s in fp32, {record.peak_bf16 / 1e12:.2f} in bf16"
            yield Seen("convolutions at best", figure)
        elif isinstance(record, Timing):
            share = record.peak_share or 0.0
            ratio = "" if record.ratio_to_plain is None else f", {record.ratio_to_plain:.1f}x plain"
            figure = f"{record.milliseconds:.1f} ms, {share:.0%} of the peak{ratio}"
            asked = device.type == "cuda" and record.model == "edsr" and record.variant != "plain"
            what = f"{record.model} {record.width}x{record.height} {record.variant}"
            yield Seen(what, figure, share >= _HALF if asked else None)
        elif isinstance(record, NotRun | Failed):
            yield Seen("refsr bench", record.message, False)


def clip(device: torch.device, effort: Effort) -> Iterator[Seen]:
    """A walk over a photo, as a video."""
    if not find_spec("av"):
        yield Seen("a video", "PyAV is not installed")
        return
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "walk.mp4", Path(folder) / "large.mp4"
        _write_clip(source, effort.count)
        config = UpscaleConfig(inputs=(str(source),), output=target, scale=2, device=str(device))
        for record in upscale_videos(config):
            if isinstance(record, Failed):
                yield Seen("a video", record.message, False)
            elif isinstance(record, UpscaledVideo):
                whole = record.frames == effort.count and target.exists()
                size = f"{record.width}x{record.height}"
                figure = f"{record.frames} frames of {size}, {record.frames / record.seconds:.1f} a second"
                yield Seen("a video", figure, whole)


def _write_clip(path: Path, count: int) -> None:
    import av

    photo = read_rgb8(_PHOTOS / "kodim08.png").permute(1, 2, 0).numpy()
    height, width = 256, 384
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            part = photo[number : number + height, number : number + width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part.copy(), format="rgb24")))
        container.mux(stream.encode(None))


def training(device: torch.device, effort: Effort) -> Iterator[Seen]:
    """Some seconds of training an EDSR-baseline, as the recipes have it."""
    with TemporaryDirectory() as folder:
        config = TrainConfig(
            model="edsr-baseline",
            data=_PHOTOS,
            val=str(_PHOTOS),
            out=Path(folder) / "run",
            steps=1_000_000,
            batch=effort.batch,
            fold_tail=True,
            validate_every=1_000_000,
            log_every=2 if device.type == "cpu" else 50,
            device=str(device),
            precision="auto",
            compile=device.type == "cuda",
        )
        pace, loss, begin = 0.0, float("nan"), time.monotonic()
        for record in train(config):
            if isinstance(record, Step):
                pace, loss = record.steps_per_second, record.loss
                if time.monotonic() - begin >= effort.training:
                    break
        figure = f"{pace:.1f} steps a second of {effort.batch} crops, loss {loss:.4f}"
        yield Seen("edsr-baseline x4", figure, pace > 0 and loss == loss)
