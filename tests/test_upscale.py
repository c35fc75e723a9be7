"""`refsr upscale`: what is written where, what is kept, what is refused."""

import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refsr_cli.config import UpscaleConfig
from refsr_cli.errors import BadData, BadFile, BadSetting, Failed
from refsr_cli.images import Picture, read_image, reading, to_tensor, write_image
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.metrics import PROTOCOLS, score
from refsr_cli.packaged import packaged
from refsr_cli.targets import RefSkipped
from refsr_cli.tasks.upscale import Progress, Skipped, Total, Upscaled, upscale

KODAK = packaged("examples/images") / "kodak"


@pytest.fixture
def source(tmp_path) -> Path:
    """A small part of a photo, in a folder of its own."""
    path = tmp_path / "photos" / "in.png"
    path.parent.mkdir()
    pixels = read_image(KODAK / "kodim23.png").pixels[100:124, 100:132]
    write_image(path, Picture(pixels, None, "png", None, None, None))
    return path


def run(*inputs: object, **settings):
    """What became of each file."""
    given = {"model": "bicubic", "device": "cpu", **settings}
    records = list(upscale(UpscaleConfig(inputs=tuple(map(str, inputs)), **given)))
    return [record for record in records if isinstance(record, Upscaled | Skipped | RefSkipped | Failed)]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_default_name_is_next_to_the_input(source):
    (record,) = run(source)
    assert isinstance(record, Upscaled)
    assert Path(record.target) == source.with_name("in_x4.png")
    assert size(source.with_name("in_x4.png")) == (record.width, record.height) == (128, 96)


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_scales(source, scale):
    run(source, scale=scale)
    assert size(source.with_name(f"in_x{scale}.png")) == (32 * scale, 24 * scale)


def test_sizes(source, tmp_path):
    run(source, size=(200, 100), output=tmp_path / "a.png")
    run(source, long_side=100, output=tmp_path / "b.png")
    assert size(tmp_path / "a.png") == (200, 100)
    assert size(tmp_path / "b.png") == (100, 75)


def test_the_named_file_decides_the_format(source, tmp_path):
    for name, format in (("a.jpg", "JPEG"), ("b.webp", "WEBP"), ("c.tif", "TIFF"), ("d.bmp", "BMP")):
        run(source, output=tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.format == format
    run(source, format="webp")
    assert size(source.with_name("in_x4.webp")) == (128, 96)


def test_a_folder_keeps_its_tree(source, tmp_path):
    deeper = source.parent / "more" / "Ünïcödé näme.png"
    deeper.parent.mkdir()
    shutil.copy(source, deeper)
    (source.parent / "notes.txt").write_text("not an image")
    records = run(source.parent, output=tmp_path / "out", recursive=True)
    assert all(isinstance(record, Upscaled) for record in records)
    written = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*")}
    assert written == {Path("in.png"), Path("more") / deeper.name}
    run(source.parent)
    assert [path.name for path in (tmp_path / "photos_x4").iterdir()] == ["in.png"], "not recursive unless asked"


def test_patterns_and_a_mix(source, tmp_path):
    for name in ("b1.png", "b2.png"):
        shutil.copy(source, source.with_name(name))
    records = run(source.parent / "b*.png", source, source, output=tmp_path / "out")
    assert [Path(record.target).name for record in records] == ["b1.png", "b2.png", "in.png"]
    for name in ("b1_x4.png", "b1_2.png", "b3_x4.png"):
        shutil.copy(source, source.with_name(name))
    records = run(source.parent / "b*.png", output=tmp_path / "again")  # a result of b1, but none of the others
    assert [Path(record.target).name for record in records if isinstance(record, Upscaled)] == [
        "b1.png", "b1_2.png", "b2.png", "b3_x4.png",
    ]  # fmt: skip


def test_one_bad_file_does_not_stop_the_others(source, tmp_path):
    (source.parent / "broken.png").write_bytes(b"")
    records = run(source.parent, tmp_path / "nowhere.png", output=tmp_path / "out")
    failed = {Path(record.path).name for record in records if isinstance(record, Failed)}
    assert failed == {"broken.png", "nowhere.png"}
    assert [Path(record.target).name for record in records if isinstance(record, Upscaled)] == ["in.png"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["in.png"]


def test_what_is_there_is_kept(source):
    target = source.with_name("in_x4.png")
    target.write_bytes(b"precious")
    (record,) = run(source)
    assert isinstance(record, Failed) and "--overwrite" in record.message
    (record,) = run(source, skip_existing=True)
    assert isinstance(record, Skipped)
    assert target.read_bytes() == b"precious"
    (record,) = run(source, overwrite=True)
    assert isinstance(record, Upscaled) and size(target) == (128, 96)


def test_an_input_is_not_overwritten_unless_asked(source):
    before = source.read_bytes()
    with pytest.raises(BadSetting, match="would be overwritten"):
        run(source, output=source)
    with pytest.raises(BadSetting, match="would be overwritten"):
        run(source.parent, output=source.parent)
    assert source.read_bytes() == before
    run(source, output=source, overwrite=True)
    assert size(source) == (128, 96)


def test_two_inputs_for_one_output_are_refused(source, tmp_path):
    twin = tmp_path / "twin" / "in.png"
    twin.parent.mkdir()
    shutil.copy(source, twin)
    with pytest.raises(BadSetting, match="would both be written"):
        run(source, twin, output=tmp_path / "out")
    with pytest.raises(BadSetting, match="name a folder"):
        run(source, twin, output=tmp_path / "one.png")
    assert not (tmp_path / "out").exists()


def test_a_second_run_over_the_same_folder(source):
    """The results of the first are among the inputs now."""
    run(source)
    with pytest.raises(BadSetting, match=r"in_x4\.png is an input and would be overwritten by the result of .*in\.png"):
        run(source, source.with_name("in_x4.png"), format="png")
    (refused,) = run(source.parent / "*.png")  # a pattern does not mean them
    assert isinstance(refused, Failed) and Path(refused.path).name == "in.png" and "exists already" in refused.message
    run(source.parent, output=source.parent / "large")
    again = run(source.parent, output=source.parent / "large", recursive=True, skip_existing=True)
    assert again and all(isinstance(record, Skipped) for record in again), "results are not taken for inputs"


def test_the_total_of_several_files(source, tmp_path):
    (source.parent / "broken.png").write_bytes(b"")
    config = UpscaleConfig(inputs=(str(source.parent),), output=tmp_path / "out", model="bicubic", device="cpu")
    total = list(upscale(config))[-1]
    assert isinstance(total, Total) and (total.upscaled, total.skipped, total.failed) == (1, 0, 1)


def test_special_files_are_left_alone(source, tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "pipe.png")
    (record,) = run(tmp_path / "pipe.png", output=tmp_path / "out.png")
    assert isinstance(record, Failed) and "regular file" in record.message
    (record,) = run(source, output=tmp_path / "pipe.png", overwrite=True)
    assert isinstance(record, Failed) and (tmp_path / "pipe.png").is_fifo()
    link = tmp_path / "link.png"
    link.symlink_to(link)
    with pytest.raises(BadFile):
        run(source, output=link)


@pytest.fixture(scope="module")
def pot() -> Path:
    """A low-resolution photo, with two others of the same thing in `ref`."""
    return packaged("examples/images") / "flowerpot"


@pytest.fixture
def part(pot, tmp_path) -> Path:
    """A part of the photo, so that it does not take long."""
    picture = read_image(pot / "LR/flowerpot.png")
    path = tmp_path / "part.png"
    write_image(path, replace(picture, pixels=picture.pixels[80:140, 50:110]))
    return path


@pytest.fixture
def view(pot, tmp_path) -> Path:
    """A small part of another photo of the same thing."""
    picture = read_image(next((pot / "ref").iterdir()))
    path = tmp_path / "a view.png"
    write_image(path, replace(picture, pixels=picture.pixels[200:296, 200:296]))
    return path


def test_references_make_it_better_and_say_so(pot, part, tmp_path):
    trust = tmp_path / "trust.png"
    sheet = tmp_path / "sheet.jpg"
    records = run(part, refs=(str(pot / "ref"),), output=tmp_path / "with.png", trust_map=trust, compare=sheet)
    (done,) = [record for record in records if isinstance(record, Upscaled)]
    assert {Path(use.path).name for use in done.refs} == {path.name for path in (pot / "ref").iterdir()}
    assert sum(use.share for use in done.refs) > 0.5
    assert read_image(trust).pixels.shape == (240, 240, 1)
    assert size(sheet)[0] > 5 * 360, "five columns: a place was found to be shown closely"
    run(part, output=tmp_path / "without.png")
    hr = to_tensor(read_image(pot / "HR/flowerpot.png").pixels)[..., 320:560, 200:440]
    with_refs, without = (
        score(to_tensor(read_image(tmp_path / f"{name}.png").pixels), hr, 4, PROTOCOLS["y"]).psnr
        for name in ("with", "without")
    )
    assert with_refs > without + 2


def test_references_of_every_kind(pot, part, tmp_path):
    photo = read_image(next((pot / "ref").iterdir()))
    rgb = photo.pixels[200:500, 100:420]
    deep = rgb.astype(np.uint16) * 257
    opaque = np.full(rgb.shape[:2], 255, np.uint8)
    folder = tmp_path / "refs"
    folder.mkdir()
    blank = Picture(rgb, None, "png", None, None, None)
    write_image(folder / "deep.png", replace(blank, pixels=deep))
    write_image(folder / "grey.png", replace(blank, pixels=rgb[..., 1:2]))
    write_image(folder / "alpha.png", replace(blank, alpha=opaque))
    write_image(folder / "tiny.png", replace(blank, pixels=rgb[:1, :1]))
    (folder / "broken.png").write_bytes((folder / "grey.png").read_bytes()[:100])
    records = run(part, refs=(str(folder / "*.png"),), output=tmp_path / "out.png")
    left_out = {Path(record.path).name for record in records if isinstance(record, RefSkipped)}
    assert left_out == {"tiny.png", "broken.png"}
    (done,) = [record for record in records if isinstance(record, Upscaled)]
    used = {Path(use.path).name for use in done.refs}
    assert used in ({"grey.png", "deep.png"}, {"grey.png", "alpha.png"}), "the deep and the opaque one show the same"


def test_references_that_cannot_be_used(pot, part, source, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    with pytest.raises(BadData, match="no reference is left"):
        run(part, refs=(str(broken),))
    with pytest.raises(BadData, match="nowhere"):
        run(part, refs=("nowhere.png",))
    with pytest.raises(BadSetting, match="give --ref too"):
        run(part, trust_map=tmp_path / "trust.png")
    with pytest.raises(BadSetting, match="one file for 2 images"):
        run(part, pot / "LR", refs=(str(pot / "ref"),), trust_map=tmp_path / "trust.png")
    with pytest.raises(BadSetting, match="another file of this command"):
        run(part, refs=(str(pot / "ref"),), output=tmp_path / "a.png", compare=tmp_path / "a.png")
    with pytest.raises(BadSetting, match="exists already"):
        (tmp_path / "trust.png").write_bytes(b"")
        run(part, refs=(str(pot / "ref"),), trust_map=tmp_path / "trust.png")


def test_a_folder_of_references_holds_the_input_and_results_too(view, part, tmp_path):
    """Neither teaches anything: they are left out, and it is said. One that is named itself is taken."""
    album = tmp_path / "album"
    (album / "more").mkdir(parents=True)
    write_image(album / "view.png", read_image(view))
    write_image(album / "more" / "deep.png", read_image(view))
    for name in ("in.png", "in_x4.png", "in_800x600.png", "other_x4.png"):
        write_image(album / name, read_image(part))

    def used(*refs: str, **settings) -> set[str]:
        records = run(
            album / "in.png", refs=refs, output=tmp_path / "out.png", overwrite=True, model="bicubic", **settings
        )
        left_out.update(Path(record.path).name for record in records if isinstance(record, RefSkipped))
        (done,) = [record for record in records if isinstance(record, Upscaled)]
        assert done.references == len(done.refs)
        return {Path(use.path).name for use in done.refs}

    left_out: set[str] = set()
    assert used(str(album)) == {"view.png", "other_x4.png"}
    assert left_out == {"in.png", "in_x4.png", "in_800x600.png"}
    assert used(str(album / "view.png"), str(album / "in.png")) == {"view.png", "in.png"}
    assert used(str(album / "more")) == {"deep.png"} == used(str(album / "more"), recursive=True)
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    write_image(tmp_path / "outer" / "inner" / "view.png", read_image(part))
    with pytest.raises(BadData, match="is a folder without images; --recursive"):
        used(str(tmp_path / "outer"))
    assert used(str(tmp_path / "outer"), recursive=True) == {"view.png"}
    with pytest.raises(BadSetting, match="--ref is empty"):
        used("")


def test_pictures_of_a_folder_help_each_other(view, part, tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    write_image(album / "a.png", read_image(part))
    write_image(album / "b.png", read_image(view))
    records = run(album, refs=(str(album),), output=tmp_path / "out", model="bicubic", scale=2)
    helped = {Path(r.source).name: [Path(use.path).name for use in r.refs] for r in records if isinstance(r, Upscaled)}
    assert helped == {"a.png": ["b.png"], "b.png": ["a.png"]}


def test_references_are_not_overwritten(view, part, tmp_path):
    before = view.read_bytes()
    for option in ("output", "trust_map", "compare"):
        with pytest.raises(BadSetting, match="would be overwritten"):
            run(part, refs=(str(view),), overwrite=True, **{option: view})
    assert view.read_bytes() == before


@pytest.mark.parametrize("option", ["trust_map", "compare"])
@pytest.mark.parametrize("name", ["map", "map.xyz"])
def test_names_of_extras_are_checked_first(part, pot, tmp_path, option, name):
    with pytest.raises(BadSetting, match="let its name end in"):
        run(part, refs=(str(pot / "ref"),), **{option: tmp_path / name})


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1)])
def test_the_smallest_images(tmp_path, shape):
    path = tmp_path / "tiny.png"
    write_image(path, Picture(np.full((*shape, 3), 77, np.uint8), None, "png", None, None, None))
    (record,) = run(path, self_ensemble=True)
    assert isinstance(record, Upscaled) and (record.height, record.width) == (4 * shape[0], 4 * shape[1])
    assert (read_image(Path(record.target)).pixels == 77).all()


def test_depth_grey_and_alpha_are_kept(tmp_path):
    ramp = np.linspace(0, 900, 24 * 32).reshape(24, 32, 1).astype(np.uint16)  # dark: 8 bit would lose it
    for name, picture in {
        "grey16.png": Picture(ramp, None, "png", None, None, None),
        "rgb16.tif": Picture(ramp.repeat(3, 2), None, "tiff", None, None, None),
        "rgba.png": Picture(
            np.full((24, 32, 3), 200, np.uint8), np.eye(24, 32, dtype=np.uint8) * 255, "png", *[None] * 3
        ),
        "grey.webp": Picture(np.full((24, 32, 1), 90, np.uint8), None, "webp", None, None, None),
    }.items():
        write_image(tmp_path / name, picture)
        before = read_image(tmp_path / name)
        (record,) = run(tmp_path / name)
        after = read_image(Path(record.target))
        assert after.pixels.dtype == before.pixels.dtype, name
        assert after.pixels.shape[2] == before.pixels.shape[2], name
        assert (after.alpha is None) == (before.alpha is None), name
        assert abs(after.pixels.mean() - before.pixels.mean()) < 0.02 * before.pixels.mean() + 1, name


def test_progress_adds_up_to_the_whole(source):
    records = upscale(UpscaleConfig(inputs=(str(source),), model="bicubic", device="cpu", tile=16, scale=8))
    progress = [record for record in records if isinstance(record, Progress)]
    assert len(progress) > 2 and progress[0].done == 0
    assert progress[-1].done == progress[-1].total == 32 * 24
    assert all(earlier.done < later.done for earlier, later in pairwise(progress))


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 5},
        {"scale": 2, "size": (10, 10)},
        {"size": (0, 10)},
        {"long_side": 0},
        {"quality": 101},
        {"overwrite": True, "skip_existing": True},
        {"memory": 0},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(BadSetting):
        UpscaleConfig(inputs=("in.png",), **settings)


def test_a_tile_or_a_result_out_of_range(source):
    with pytest.raises(BadSetting, match="--tile must be at least 16"):
        run(source, tile=7)
    (record,) = run(source, size=(100_000, 100_000))
    assert isinstance(record, Failed) and "--allow-large" in record.message


def test_what_cannot_be_written_is_said_before_computing(source, tmp_path):
    (record,) = run(source, size=(20_000, 100), format="webp")
    assert isinstance(record, Failed) and "16383" in record.message
    with pytest.raises(BadSetting, match="contradict"):
        run(source, output=tmp_path / "o.png", format="webp")
    named = source.with_name("photo.jfif")
    shutil.copy(source, named)
    (record,) = run(named)
    assert isinstance(record, Upscaled) and record.target.endswith("photo_x4.png")


def test_an_unknown_format_or_model_names_the_nearest(source, tmp_path):
    with pytest.raises(BadSetting, match="did you mean 'webp'"):
        run(source, format="wepb")
    with pytest.raises(BadSetting, match="did you mean 'edsr'"):
        run(source, model="edrs")
    with pytest.raises(BadSetting, match=r"cannot be written as \.gif"):
        run(source, output=tmp_path / "out.gif")


def test_small_pictures_that_are_alike_are_enlarged_at_once(tmp_path, monkeypatch):
    """With what each gives alone; other sizes, alpha and a damaged file between them break a group, nothing else."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = read_image(KODAK / "kodim08.png").pixels
    for number in range(12):
        side = 30 if number == 8 else 24
        part = np.ascontiguousarray(pixels[20 * number : 20 * number + side, 50:80])
        alpha = np.full((side, 30), 200, np.uint8) if number == 10 else None
        write_image(folder / f"{number:02}.png", Picture(part, alpha, "png", None, None, None))
    (folder / "05.png").write_bytes(b"no picture")
    groups: list[int] = []
    at_once = Upscaler.enlarge_alike

    def counted(self, pictures, *arguments):
        groups.append(len(pictures))
        return at_once(self, pictures, *arguments)

    monkeypatch.setattr(Upscaler, "enlarge_alike", counted)
    config = UpscaleConfig(inputs=(str(folder),), model="edsr-baseline", device="cpu", precision="fp32")
    records = list(upscale(config))
    assert groups == [5, 2]  # 0 to 4, 6 and 7; 9 and 11 have the one with alpha between them
    told = [record for record in records if isinstance(record, Upscaled | Failed)]
    paths = [Path(record.path if isinstance(record, Failed) else record.source) for record in told]
    assert [path.stem for path in paths] == [f"{number:02}" for number in range(12)]
    assert isinstance(told.pop(5), Failed)
    for record in told:
        name = tmp_path / "alone.png"
        source = Path(record.source)
        run(source, model="edsr-baseline", precision="fp32", output=name, overwrite=True)
        one, other = read_image(Path(record.target)), read_image(name)
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1 and (one.pixels != other.pixels).mean() < 1e-2
        assert (one.alpha is None) == (other.alpha is None)
        steps = [its for its in records if isinstance(its, Progress) and its.source == record.source]
        assert steps[-1].done == steps[-1].total


def test_a_broken_link_does_not_stop_those_before_it(source, tmp_path):
    (source.parent / "z.png").symlink_to(tmp_path / "nowhere")
    made, failed = run(source, source.parent / "z.png", output=tmp_path / "out")
    assert isinstance(made, Upscaled) and isinstance(failed, Failed) and "z.png" in failed.message


def test_a_size_of_another_shape_may_not_go_by_way_of_a_vast_one(source, tmp_path):
    (failed,) = run(source, size=(2**17, 4), output=tmp_path / "a.png")
    assert isinstance(failed, Failed) and "a size of its shape" in failed.message


def test_large_references_are_read_when_that_is_asked_for(source, monkeypatch):
    other = source.with_name("other.png")
    shutil.copy(KODAK / "kodim05.png", other)
    monkeypatch.setattr(reading, "LARGE", 200_000)
    with pytest.raises(BadData):
        run(source, model="edsr-baseline", refs=(str(other),))
    assert isinstance(run(source, model="edsr-baseline", refs=(str(other),), allow_large=True)[0], Upscaled)
