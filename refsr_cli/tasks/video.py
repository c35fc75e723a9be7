"""Videos enlarged frame by frame; what is done is kept, and the same command goes on from there."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from refsr_cli import __version__
from refsr_cli.config import DEFAULT_SCALE, UpscaleConfig
from refsr_cli.data.folders import match_files, without_results
from refsr_cli.engine import Progress, Skipped, open_upscaler
from refsr_cli.errors import BadImage, BadSetting, Failed, RefsrError
from refsr_cli.files import make_folder, write_atomically
from refsr_cli.images import Picture
from refsr_cli.inference.results import Using, finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.models import fingerprint
from refsr_cli.restoration.strength import NOTHING, Restoration
from refsr_cli.video import (
    Clip,
    Frame,
    check_sound,
    codec_for,
    is_video,
    join_parts,
    open_clip,
    read_frames,
    write_part,
)

_FLAT = 8.0
"""Standard deviation of the pixels of a frame, of 255, below which it is as good as black, as clips often begin."""
PART = 48
"""Frames that are encoded together, and lost at most when it is interrupted."""


@dataclass(frozen=True)
class UpscaledVideo:
    """One video written."""

    source: str
    target: str
    width: int
    height: int
    frames: int
    kept: int
    """Frames of these that an earlier run had done."""
    seconds: float
    kind: str = "video"


def upscale_videos(
    config: UpscaleConfig, on_download: Callable[[int, int | None], None] | None = None
) -> Iterator[Using | Progress | UpscaledVideo | Skipped | Failed]:
    """Enlarges every input, all of them videos. What is wrong with the request is raised, what is wrong with one file
    is yielded as Failed."""
    sources = [path for name in config.inputs for path in _named(name)]
    for option, value in (("--ref", config.refs), ("--format", config.format), ("--quality", config.quality)):
        if value:
            raise BadSetting(f"{option} is for pictures, not for videos")
    targets = {source: _target(source, config) for source in sources}
    if len({target.resolve() for target in targets.values()}) < len(sources):
        raise BadSetting(f"--output {config.output} names one file for {len(sources)} videos; name a folder instead")
    jobs = {s: t for s, t in targets.items() if not (config.skip_existing and t.exists())}
    yield from (Skipped(str(source), str(target)) for source, target in targets.items() if source not in jobs)
    if not jobs:
        return
    codecs = {source: codec_for(target) for source, target in jobs.items()}
    upscaler, using = open_upscaler(config, None if config.weights else config.scale or DEFAULT_SCALE, on_download)
    yield using
    for source, target in jobs.items():
        try:
            if target.exists() and not config.overwrite:
                raise BadImage(f"{target} exists already; give --overwrite, --skip-existing or another --output")
            clip = open_clip(source)
            check_sound(clip, target)
            yield from _upscale_one(clip, target, upscaler, using, config, codecs[source])
        except (RefsrError, OSError) as error:
            yield Failed(str(source), str(error))


def _upscale_one(
    clip: Clip, target: Path, upscaler: Upscaler, using: Using, config: UpscaleConfig, codec: str
) -> Iterator[Progress | UpscaledVideo]:
    begin = time.perf_counter()
    width, height = _size(clip, config)
    folder = target.with_name(f".{target.name}.parts")
    plan = _plan(clip, upscaler)
    restorer = fingerprint(upscaler.restorer.model) if upscaler.restorer else None
    made: dict[str, object] = {"restoration": plan.strength, "restorer": restorer, "as_published": config.as_published}
    made |= {"width": width, "height": height, "codec": codec, "refsr": __version__}
    _open_parts(folder, {**_told(clip), **asdict(using), "net": fingerprint(upscaler.model), **made})
    parts = sorted(folder.glob("*.nut"))  # each named after the frames that are done with it
    kept = done = int(parts[-1].stem) if parts else 0
    frames, at_once = read_frames(clip, done), upscaler.together(clip.height, clip.width)
    yield Progress(str(clip.path), done, max(done, clip.frames))
    while True:
        larger: list[Frame] = []
        while group := list(islice(frames, min(at_once, PART - len(larger)))):
            pictures = [_picture(frame) for frame in group]
            if at_once == 1:
                large = [finished(upscaler.enlarge(pictures[0], height, width, plan=plan))]
            else:
                large = finished(upscaler.enlarge_alike(pictures, height, width, [plan] * len(pictures)))
            for frame, enlarged in zip(group, large, strict=True):
                larger.append(replace(frame, pixels=enlarged.picture.pixels))
                done += 1
                yield Progress(str(clip.path), done, max(done, clip.frames))
        if larger:
            parts.append(folder / f"{done:09d}.nut")
            write_part(parts[-1], clip, larger, codec)
        if len(larger) < PART:
            break
    if not parts:
        raise BadImage(f"{clip.path} has no frame")
    join_parts(parts, clip, target)
    shutil.rmtree(folder)
    seconds = time.perf_counter() - begin
    yield UpscaledVideo(str(clip.path), str(target), width, height, done, kept, seconds)


def _plan(clip: Clip, upscaler: Upscaler) -> Restoration:
    """How all frames are restored, by the first one that is not of one colour: it must not change between frames."""
    if not upscaler.restores:
        return NOTHING
    first = next((frame for frame in islice(read_frames(clip, 0), PART) if frame.pixels.std() > _FLAT), None)
    return upscaler.plan(_picture(first)) if first else NOTHING


def _picture(frame: Frame) -> Picture:
    return Picture(frame.pixels, None, "png", None, None, None)


def _told(clip: Clip) -> dict[str, str | int]:
    """What tells a file from another, or from what it was."""
    status = clip.path.stat()
    return {"source": str(clip.path.resolve()), "bytes": status.st_size, "changed": status.st_mtime_ns}


def _open_parts(folder: Path, about: dict[str, object]) -> None:
    """Makes the folder for parts; those of another request are removed."""
    file, text = folder / "about.json", json.dumps(about, sort_keys=True)
    if folder.is_dir() and not (file.is_file() and file.read_text("utf-8") == text):
        shutil.rmtree(folder)
    make_folder(folder)
    write_atomically(file, text.encode())


def _size(clip: Clip, config: UpscaleConfig) -> tuple[int, int]:
    """Width and height to reach, even, as the encoders ask for. Raises BadSetting for an odd --size."""
    if config.size:
        if config.size[0] % 2 or config.size[1] % 2:
            raise BadSetting(f"--size {config.size[0]}x{config.size[1]}: the sides of a video are even")
        return config.size
    width, height = (max(2, side - side % 2) for side in config.size_for(clip.width, clip.height))
    return width, height


def _named(name: str) -> list[Path]:
    """The videos that `name`, a path or a pattern, stands for."""
    path = Path(name)
    return [path] if path.exists() else without_results(match_files(name, is_video)) or [path]


def _target(source: Path, config: UpscaleConfig) -> Path:
    if config.output is None:
        return source.with_name(f"{source.stem}_{config.label}{source.suffix}")
    return config.output if config.output.suffix and not config.output.is_dir() else config.output / source.name
