"""Videos: every frame at its time, colours as they were, the sound untouched; nothing is done twice."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from refsr_cli.config import UpscaleConfig
from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.errors import BadImage, BadSetting, Failed
from refsr_cli.images import Picture, read_image
from refsr_cli.inference.results import finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.models import build
from refsr_cli.tasks.upscale import upscale
from refsr_cli.tasks.video import PART, Progress, Skipped, UpscaledVideo, upscale_videos
from refsr_cli.video import open_clip, read_frames

av = pytest.importorskip("av")
WIDTH, HEIGHT, COUNT = 48, 32, 2 * PART + 10
UNEVEN = [3 * number + number % 2 for number in range(COUNT)]
"""Times of the frames: a rate that varies."""
COLOUR = (200, 40, 90)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A walk over a photo, with a tone."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    photo = read_image(trial_photos().folder / "kodim08.png").pixels
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30, options={"crf": "4"})
        video.width, video.height, video.pix_fmt, video.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, 90)
        video.codec_context.time_base = Fraction(1, 90)
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for number, time in enumerate(UNEVEN):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(photo[400 : 400 + HEIGHT, 2 * number : 2 * number + WIDTH]), format="rgb24"
            )
            frame.pts, frame.time_base = time, Fraction(1, 90)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number in range(30):
            wave = np.sin(np.arange(1024 * number, 1024 * (number + 1)) * 0.3)[None].astype(np.float32) * 0.3
            heard = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            heard.rate, heard.pts = 8000, 1024 * number
            container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
    return path


def small_clip(path: Path, *, count: int = 7, codec: str = "libx264", **colours: int) -> Path:
    """Some plain frames of an odd shape, with a short tone in MP3."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options={"crf": "4"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for name, value in colours.items():
            setattr(video.codec_context, name, value)
        sound = container.add_stream("mp3", rate=44100, layout="mono")
        sound.metadata["language"], container.metadata["title"] = "deu", "A film"
        matrix = {6: 5}.get(colours.get("colorspace", 6), colours.get("colorspace", 5))
        for _ in range(count):
            rgb = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), COLOUR, np.uint8), format="rgb24")
            made = {"src_color_range": 2, "dst_color_range": 1, "src_colorspace": matrix, "dst_colorspace": matrix}
            container.mux(video.encode(rgb.reformat(format="yuv420p", **made)))
        container.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
        silence.rate, silence.pts = 44100, 0
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


def run(*inputs: Path, **settings) -> Iterator[object]:
    given = {"scale": 2, "model": "bicubic", **settings}
    return upscale_videos(UpscaleConfig(inputs=tuple(map(str, inputs)), **given))


def psnr_of(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((one.astype(float) - two) ** 2), 1e-9)))


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def test_every_frame_larger_at_its_time(clip, tmp_path):
    out = tmp_path / "large.mp4"
    records = list(run(clip, output=out))
    done = records[-1]
    assert isinstance(done, UpscaledVideo) and (done.width, done.height, done.frames, done.kept) == (96, 64, COUNT, 0)
    told = [record.done for record in records if isinstance(record, Progress)]
    assert told == list(range(COUNT + 1))
    before, after = open_clip(clip), open_clip(out)
    assert (after.width, after.height, after.frames) == (96, 64, COUNT)
    upscaler = Upscaler(build("bicubic", 2))
    times = []
    for small, large in zip(read_frames(before), read_frames(after), strict=True):
        wanted = finished(upscaler.enlarge(Picture(small.pixels, None, "png", None, None, None), 64, 96)).picture.pixels
        error = (large.pixels.astype(float) - wanted.astype(float)).mean((0, 1))
        assert np.abs(error).max() < 2.5, "the colours have a cast"
        assert psnr_of(large.pixels, wanted) > 30
        times.append((small.time * before.unit, large.time * after.unit))
    assert all(one == two for one, two in times), "frames are shown at other times"
    assert sound_of(out) == sound_of(clip)
    assert not list(tmp_path.glob(".*")), "parts are left over"


def test_what_was_done_is_kept(clip, tmp_path):
    whole, broken = tmp_path / "whole.mp4", tmp_path / "broken.mp4"
    list(run(clip, output=whole))
    stopped = run(clip, output=broken)
    next(record for record in stopped if isinstance(record, Progress) and record.done == PART + 5)
    stopped.close()
    assert not broken.exists()
    *_, done = run(clip, output=broken)
    assert isinstance(done, UpscaledVideo) and (done.frames, done.kept) == (COUNT, PART)
    for one, two in zip(read_frames(open_clip(whole)), read_frames(open_clip(broken)), strict=True):
        assert one.time == two.time and psnr_of(one.pixels, two.pixels) > 32  # x264 may encode the same in two ways
    stopped = run(clip, output=tmp_path / "other.mp4")
    next(record for record in stopped if isinstance(record, Progress) and record.done == PART + 5)
    stopped.close()
    *_, done = run(clip, output=tmp_path / "other.mp4", size=(64, 64), scale=None)
    assert isinstance(done, UpscaledVideo) and done.kept == 0, "parts of another request are not used"


def test_names_and_files_that_are_there(clip, tmp_path):
    video = tmp_path / "a.mkv"
    *_, made = run(clip, output=video, size=(50, 34), scale=None)
    assert isinstance(made, UpscaledVideo)
    *_, done = run(video)
    assert isinstance(done, UpscaledVideo) and Path(done.target) == tmp_path / "a_x2.mkv"
    assert sound_of(tmp_path / "a_x2.mkv") == sound_of(clip)
    assert isinstance(next(iter(run(video, skip_existing=True))), Skipped)
    (*_, refused) = run(video)
    assert isinstance(refused, Failed) and "--overwrite" in refused.message


@pytest.mark.parametrize(
    "colours",
    [
        {},
        {"colorspace": 1, "color_primaries": 1, "color_trc": 1},
        {"colorspace": 6, "color_primaries": 6, "color_trc": 6},
        {"colorspace": 9, "color_primaries": 9, "color_trc": 14},
    ],
)
def test_colours_shape_and_titles_are_kept(tmp_path, colours):
    source, target = small_clip(tmp_path / "a.mkv", **colours), tmp_path / "b.mkv"
    *_, done = run(source, output=target)
    assert isinstance(done, UpscaledVideo) and (done.frames, done.kept) == (7, 0)
    before, after = open_clip(source), open_clip(target)
    assert (after.colours, after.pixel_shape, after.sounds) == (before.colours, Fraction(4, 3), ("mp3",))
    if colours:
        assert after.colours == tuple(colours.values())
    for frame in read_frames(after):
        # two trips to YCbCr and back lose up to two levels each; another matrix would be off by more than ten
        assert np.abs(frame.pixels.astype(float).mean((0, 1)) - COLOUR).max() < 4.5
    with av.open(str(target)) as container:
        assert container.metadata["title"] == "A film" and container.streams.audio[0].metadata["language"] == "deu"


def test_what_a_file_cannot_hold_is_said_before_any_work(tmp_path):
    source = small_clip(tmp_path / "a.mkv")
    (*others, refused) = run(source, output=tmp_path / "b.webm")
    assert isinstance(refused, Failed) and "cannot hold the sound" in refused.message and "mp3" in refused.message
    assert not [record for record in others if isinstance(record, Progress)]
    hdr = small_clip(tmp_path / "hdr.mkv", colorspace=9, color_primaries=9, color_trc=16)
    (*_, refused) = run(hdr)
    assert isinstance(refused, Failed) and "HDR (PQ)" in refused.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "hdr.mkv"]


def test_a_clip_shorter_than_a_part_is_kept_too(tmp_path, monkeypatch):
    """It was interrupted between its last frame and the joining; with other weights nothing of it is used."""
    source = small_clip(tmp_path / "a.mkv")

    def interrupted(*_):
        raise KeyboardInterrupt

    for weights, kept in (("edsr-baseline-x2", 7), ("edsr-baseline-x4", 0)):
        with monkeypatch.context() as patched:
            patched.setattr("refsr_cli.tasks.video.join_parts", interrupted)
            with pytest.raises(KeyboardInterrupt):
                list(run(source, model=None, weights="edsr-baseline-x2", scale=2, overwrite=True))
        *_, done = run(source, model=None, weights=weights, scale=2, overwrite=True)
        assert isinstance(done, UpscaledVideo) and (done.frames, done.kept) == (7, kept)


def test_patterns_and_folders(tmp_path):
    for name in ("a.mkv", "b.mkv"):
        small_clip(tmp_path / name, count=2)
    done = [record for record in run(tmp_path / "*.mkv") if isinstance(record, UpscaledVideo)]
    assert [Path(record.target).name for record in done] == ["a_x2.mkv", "b_x2.mkv"]
    again = list(run(tmp_path / "*.mkv", skip_existing=True))
    assert [Path(record.source).name for record in again if isinstance(record, Skipped)] == ["a.mkv", "b.mkv"]
    for path in tmp_path.glob("*_x2.mkv"):
        path.unlink()
    (missing,) = upscale(UpscaleConfig(inputs=(str(tmp_path),)))
    assert isinstance(missing, Failed) and f"{tmp_path / '*'}.mkv" in missing.message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"refs": ("a.png",)}, "--ref is for pictures"),
        ({"quality": 50}, "--quality is for pictures"),
        ({"output": Path("a.gif")}, "cannot be written as a video"),
    ],
)
def test_what_videos_do_not_have(clip, settings, said):
    with pytest.raises(BadSetting, match=said):
        list(run(clip, **settings))


def test_bad_videos(clip, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nonsense" * 100)
    (tmp_path / "b.mp4").write_bytes(b"")
    records = [record for record in run(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4") if record]
    failed = [record for record in records if isinstance(record, Failed)]
    assert [record.message.partition(":")[0].removeprefix(f"{tmp_path}/") for record in failed] == [
        "a.mp4 cannot be read as a video",
        "b.mp4 cannot be read as a video",
        "c.mp4 is not there",
    ]
    with pytest.raises(BadImage):
        open_clip(tmp_path / "a.mp4")
    (*_, odd) = run(clip, size=(65, 64), scale=None, output=tmp_path / "d.mp4")
    assert isinstance(odd, Failed) and "even" in odd.message
    assert not list(tmp_path.glob(".*.parts")) and not (tmp_path / "d.mp4").exists()
