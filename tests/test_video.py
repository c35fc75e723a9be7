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
from refsr_cli.inference.upscaler import Upscaler, finished
from refsr_cli.models import build
from refsr_cli.tasks.video import PART, Progress, Skipped, UpscaledVideo, upscale_videos
from refsr_cli.video import open_clip, read_frames

av = pytest.importorskip("av")
WIDTH, HEIGHT, COUNT = 48, 32, 2 * PART + 10
UNEVEN = [3 * number + number % 2 for number in range(COUNT)]
"""Times of the frames: a rate that varies."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A walk over a photo, with a tone."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    photo = read_image(trial_photos().folder / "kodim23.png").pixels
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30, options={"crf": "4"})
        video.width, video.height, video.pix_fmt, video.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, 90)
        video.codec_context.time_base = Fraction(1, 90)
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for number, time in enumerate(UNEVEN):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(photo[100 : 100 + HEIGHT, 2 * number : 2 * number + WIDTH]), format="rgb24"
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


def run(*inputs: Path, **settings) -> Iterator[object]:
    given = {"scale": 2, "model": "bicubic", **settings}
    return upscale_videos(UpscaleConfig(inputs=tuple(map(str, inputs)), **given))


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
        assert 10 * np.log10(255**2 / np.mean((large.pixels.astype(float) - wanted) ** 2)) > 30
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
        assert one.time == two.time and np.array_equal(one.pixels, two.pixels)
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
