"""Video files: pictures out of them, and larger ones into another, with the sound as it was. Needs PyAV."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from refsr_cli.config import VIDEOS
from refsr_cli.errors import BadFile, BadImage, BadSetting
from refsr_cli.files import replacing
from refsr_cli.images import Pixels

_BT709, _SMPTE170M, _STUDIO, _FULL = 1, 6, 1, 2
"""As a stream counts matrices, primaries, transfers, and ranges."""
_UNSAID = (0, 2)
_SCALERS = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""A stream's matrices, as FFmpeg's scaler counts them."""
_HDR = {16: "PQ", 18: "HLG"}
"""Transfers that more than eight bits are needed for."""
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
    pixel_shape: Fraction | None
    """Width of a pixel by its height, where it is no square."""
    colours: tuple[int, int, int]
    """Matrix, primaries, transfer."""
    sounds: tuple[str, ...]
    """Codecs of its sound."""


@dataclass(frozen=True)
class Frame:
    """One picture of a clip: (H, W, 3) uint8 RGB, upright; its time in the clip's units."""

    pixels: Pixels
    time: int


def is_video(path: Path) -> bool:
    """By the name."""
    return path.suffix.lower() in VIDEOS


def open_clip(path: Path) -> Clip:
    """Raises BadImage for a file that is no video, or one that eight bits cannot hold, and BadSetting where PyAV is
    missing."""
    with _reading(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = stream.duration * stream.time_base if stream.duration else Fraction(container.duration or 0, 10**6)
        count = stream.frames or round(seconds * rate)
        sounds = tuple(sound.codec_context.codec.canonical_name for sound in container.streams.audio)
        frame = next(container.decode(stream))
        if frame.color_trc in _HDR:
            raise BadImage(
                f"{path} is HDR ({_HDR[frame.color_trc]}), which 8 bits cannot hold; make an SDR video of it"
            )
        size, shape = (stream.width, stream.height), stream.sample_aspect_ratio
        if frame.rotation % 180:
            size, shape = size[::-1], shape and 1 / shape
        return Clip(
            path, *size, count, Fraction(rate), Fraction(stream.time_base), shape or None, _colours(frame), sounds
        )


def read_frames(clip: Clip, first: int = 0) -> Iterator[Frame]:
    """The frames of a clip from the one numbered `first` on. Raises BadImage where the file is damaged."""
    with _reading(clip.path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number >= first:
                yield Frame(_rgb(frame, clip.colours[0]), number if frame.pts is None else frame.pts)


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
                context.colorspace, context.color_primaries, context.color_trc = clip.colours
                context.color_range = _STUDIO
                if clip.pixel_shape:
                    context.sample_aspect_ratio = clip.pixel_shape
                context.flags |= av.codec.context.Flags.global_header
            container.mux(stream.encode(_encodable(av, frame, clip)))
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
                container.metadata.update(source.metadata)
                for stream, its in sounds.items():
                    its.metadata.update(stream.metadata)
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


def check_sound(clip: Clip, target: Path) -> None:
    """Raises BadFile where a file such as `target` cannot hold the sound of `clip`, which is not encoded again."""
    av = _library()
    with av.open(BytesIO(), "w", format=_container(target)) as container:
        unfit = [codec for codec in clip.sounds if codec not in container.supported_codecs]
    if unfit:
        raise BadFile(f"{target.suffix} cannot hold the sound of {clip.path} ({unfit[0]}); name it .mkv, which can")


def codec_for(target: Path) -> str:
    """The encoder for a file. Raises BadSetting for an ending that is not one of VIDEOS."""
    if not is_video(target):
        raise BadSetting(f"{target} cannot be written as a video; use {', '.join(VIDEOS)}")
    if target.suffix.lower() == ".webm":
        return "libvpx-vp9"
    return "libx264" if "libx264" in _library().codecs_available else "mpeg4"


def _packets(av: ModuleType, parts: Sequence[Path]) -> Iterator[Any]:
    """The pictures as they were encoded: in order of time, as none refers to a later one."""
    for part in parts:
        with av.open(str(part)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.pts is not None:
                    packet.dts = packet.pts
                    yield packet


def _heard(source: Any, sounds: list[Any]) -> Iterator[Any]:
    """The packets of the sound, in order of time."""
    if sounds:
        yield from (packet for packet in source.demux(*sounds) if packet.dts is not None)


def _container(target: Path) -> str:
    names = {".mkv": "matroska", ".m4v": "mp4"}
    suffix = target.suffix.lower()
    return names.get(suffix, suffix[1:])


def _colours(frame: Any) -> tuple[int, int, int]:
    """Matrix, primaries and transfer; the usual ones where the file does not say."""
    usual = _BT709 if frame.height >= _HIGH_DEFINITION else _SMPTE170M
    matrix = int(frame.colorspace) if frame.colorspace in _SCALERS else usual
    primaries, transfer = (
        usual if value in _UNSAID else int(value) for value in (frame.color_primaries, frame.color_trc)
    )
    return matrix, primaries, transfer


def _rgb(frame: Any, matrix: int) -> Pixels:
    its = _SCALERS[matrix]
    ranges = {"src_color_range": frame.color_range or _STUDIO, "dst_color_range": _FULL}
    pixels = frame.reformat(format="rgb24", src_colorspace=its, dst_colorspace=its, **ranges).to_ndarray()
    upright: Pixels = np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))
    return upright


def _encodable(av: ModuleType, frame: Frame, clip: Clip) -> Any:
    rgb, its = av.VideoFrame.from_ndarray(frame.pixels, format="rgb24"), _SCALERS[clip.colours[0]]
    ranges = {"src_color_range": _FULL, "dst_color_range": _STUDIO}
    made = rgb.reformat(format="yuv420p", src_colorspace=its, dst_colorspace=its, **ranges)
    made.pts, made.time_base = frame.time, clip.unit
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
