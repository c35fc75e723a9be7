"""Video files: pictures out of them, and larger ones into another, with the sound as it was. Needs PyAV."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from refsr_cli.config import VIDEOS
from refsr_cli.errors import BadFile, BadImage, BadSetting
from refsr_cli.files import replacing
from refsr_cli.images import Pixels

_BT709, _BT601, _STUDIO, _FULL = 1, 5, 1, 2
"""As FFmpeg's scaler counts matrices and ranges."""
_HIGH_DEFINITION = 720
"""Lines from which on a video that does not name its matrix is taken to use BT.709."""
_LOSS = {"libx264": {"crf": "16", "preset": "medium", "bf": "0"}, "libvpx-vp9": {"crf": "24", "b": "0"}}
"""Hardly visible; no frame refers to later ones, so that parts can be put one after the other."""


@dataclass(frozen=True)
class Clip:
    """What a video file says of itself."""

    path: Path
    width: int
    height: int
    frames: int
    """Their number, or a guess where the file does not say."""
    rate: Fraction
    unit: Fraction
    """Seconds in which times are counted."""


@dataclass(frozen=True)
class Frame:
    """One picture of a clip: (H, W, 3) uint8 RGB, upright; its time in the clip's units."""

    pixels: Pixels
    time: int


def is_video(path: Path) -> bool:
    """By the name."""
    return path.suffix.lower() in VIDEOS


def open_clip(path: Path) -> Clip:
    """Raises BadImage for a file that is no video, and BadSetting where PyAV is missing."""
    with _reading(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        count = stream.frames or round(seconds * rate)
        turned = any(frame.rotation % 180 for frame in _first(stream))
        size = (stream.height, stream.width) if turned else (stream.width, stream.height)
        return Clip(path, *size, count, Fraction(rate), Fraction(stream.time_base))


def read_frames(clip: Clip, first: int = 0) -> Iterator[Frame]:
    """The frames of a clip from the one numbered `first` on. Raises BadImage where the file is damaged."""
    with _reading(clip.path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number >= first:
                yield Frame(_rgb(frame), number if frame.pts is None else frame.pts)


def write_part(path: Path, clip: Clip, frames: Iterable[Frame], codec: str) -> None:
    """Some frames, larger than they were, encoded by themselves. Raises BadFile."""
    av = _library()
    with replacing(path) as unfinished, av.open(str(unfinished), "w", format="nut") as container:
        stream: Any = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=clip.rate, options=_LOSS.get(codec, {"qscale": "2"}))
                stream.height, stream.width = frame.pixels.shape[:2]
                stream.pix_fmt, stream.time_base = "yuv420p", clip.unit
                context = stream.codec_context
                context.time_base = clip.unit
                context.colorspace = context.color_primaries = context.color_trc = _BT709
                context.color_range = _STUDIO
                context.flags |= av.codec.context.Flags.global_header
            container.mux(stream.encode(_encodable(av, frame, clip.unit)))
        if stream is not None:
            container.mux(stream.encode(None))


def join_parts(parts: Sequence[Path], clip: Clip, target: Path) -> None:
    """The parts one after the other, with the sound of `clip`, as `target`. Raises BadFile."""
    av = _library()
    with replacing(target) as unfinished, av.open(str(clip.path)) as source:
        try:
            with av.open(str(unfinished), "w", format=_container(target)) as container:
                with av.open(str(parts[0])) as first:
                    video = container.add_stream_from_template(first.streams.video[0])
                sounds = {stream: container.add_stream_from_template(stream) for stream in source.streams.audio}
                heard = _heard(source, list(sounds))
                waiting = next(heard, None)
                for packet in _packets(av, parts):
                    while waiting is not None and waiting.dts * waiting.time_base <= packet.dts * packet.time_base:
                        waiting.stream = sounds[waiting.stream]
                        container.mux(waiting)
                        waiting = next(heard, None)
                    packet.stream = video
                    container.mux(packet)
                while waiting is not None:
                    waiting.stream = sounds[waiting.stream]
                    container.mux(waiting)
                    waiting = next(heard, None)
        except (av.error.FFmpegError, ValueError) as error:
            raise BadFile(f"{target} cannot be written with the sound of {clip.path} ({error}); try .mkv") from None


def codec_for(target: Path) -> str:
    """The encoder for a file. Raises BadSetting for an ending that is not one of VIDEOS."""
    if not is_video(target):
        raise BadSetting(f"{target} cannot be written as a video; use {', '.join(VIDEOS)}")
    if target.suffix.lower() == ".webm":
        return "libvpx-vp9"
    return "libx264" if "libx264" in _library().codecs_available else "mpeg4"


def _packets(av: ModuleType, parts: Sequence[Path]) -> Iterator[Any]:
    for part in parts:
        with av.open(str(part)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.dts is not None:
                    yield packet


def _heard(source: Any, sounds: list[Any]) -> Iterator[Any]:
    """The packets of the sound, in order of time."""
    if sounds:
        yield from (packet for packet in source.demux(*sounds) if packet.dts is not None)


def _container(target: Path) -> str:
    names = {".mkv": "matroska", ".m4v": "mp4"}
    suffix = target.suffix.lower()
    return names.get(suffix, suffix[1:])


def _first(stream: Any) -> list[Any]:
    return [next(stream.container.decode(stream))]


def _rgb(frame: Any) -> Pixels:
    matrix = frame.colorspace if frame.colorspace in (_BT709, _BT601) else None
    if matrix is None:
        matrix = _BT709 if frame.height >= _HIGH_DEFINITION else _BT601
    studio = {"src_color_range": frame.color_range or _STUDIO, "dst_color_range": _FULL}
    pixels = frame.reformat(format="rgb24", src_colorspace=matrix, dst_colorspace=matrix, **studio).to_ndarray()
    upright: Pixels = np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))
    return upright


def _encodable(av: ModuleType, frame: Frame, unit: Fraction) -> Any:
    rgb = av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")
    ranges = {"src_color_range": _FULL, "dst_color_range": _STUDIO}
    made = rgb.reformat(format="yuv420p", src_colorspace=_BT709, dst_colorspace=_BT709, **ranges)
    made.pts, made.time_base = frame.time, unit
    return made


@contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream."""
    av = _library()
    if not path.is_file():
        raise BadImage(f"{path} is not there")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadImage(f"{path} has no pictures, only sound")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.error.FFmpegError, StopIteration) as error:
        raise BadImage(f"{path} cannot be read as a video: {error or 'it has no frame'}") from None


def _library() -> ModuleType:
    try:
        import av
    except ImportError:
        raise BadSetting("videos need one more package: pip install 'refsr[video]'") from None
    module: ModuleType = av
    return module
