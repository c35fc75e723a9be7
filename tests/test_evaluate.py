"""`refsr eval`: published figures, protocols, low-resolution folders, tables."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from refsr_cli.config import EvaluateConfig
from refsr_cli.data.benchmarks import BENCHMARKS, open_benchmark
from refsr_cli.data.reference_sets import choose_references, targets_among
from refsr_cli.errors import BadData, BadSetting, Failed, UnknownName
from refsr_cli.images import Picture, read_image, to_tensor, write_image
from refsr_cli.metrics import PROTOCOLS, score
from refsr_cli.packaged import packaged
from refsr_cli.tasks.evaluate import Measured, Opened, Summary, evaluate

FLOWERPOT = packaged("examples/images") / "flowerpot"


def summary_of(**settings) -> Summary:
    (*_, last) = evaluate(EvaluateConfig(device="cpu", **settings))
    assert isinstance(last, Summary)
    return last


@pytest.mark.parametrize(
    ("dataset", "scale", "psnr", "ssim"),
    [
        ("Set5", 2, 33.66, 0.9299),
        ("Set5", 3, 30.39, 0.8682),
        ("Set5", 4, 28.42, 0.8104),
        ("Set14", 4, 26.00, 0.7027),
        ("B100", 4, 25.96, 0.6675),
    ],
)
def test_published_bicubic_figures(shared_data, dataset, scale, psnr, ssim):
    result = summary_of(dataset=str(shared_data / "eval" / dataset), model="bicubic", scale=scale)
    assert result.count == BENCHMARKS[dataset].count
    assert result.protocol == "y"
    assert result.psnr == pytest.approx(psnr, abs=0.03)
    assert result.ssim == pytest.approx(ssim, abs=0.002)
    assert (result.psnr, result.ssim) == (result.bicubic_psnr, result.bicubic_ssim)


def test_protocols_differ_as_the_papers_say(shared_data):
    """RGB reads 1.5 to 2 dB lower than luma on the same images."""
    folder = str(shared_data / "eval" / "Set5")
    luma, rgb = (summary_of(dataset=folder, model="bicubic", protocol=name).psnr for name in ("y", "rgb"))
    assert rgb == pytest.approx(26.70, abs=0.03)
    assert 1.5 < luma - rgb < 2


def test_given_low_resolution_images_are_used(tmp_path):
    made = summary_of(dataset=str(FLOWERPOT), model="bicubic")
    given = summary_of(dataset=str(FLOWERPOT), model="bicubic", lr_dir=FLOWERPOT / "LR")
    assert given.psnr == pytest.approx(made.psnr, abs=0.01)
    lr = read_image(FLOWERPOT / "LR" / "flowerpot.png")
    black = Picture(np.zeros_like(lr.pixels), None, "png", None, None, None)
    write_image(tmp_path / "flowerpotx4.png", black)  # as DIV2K names them
    assert summary_of(dataset=str(FLOWERPOT), model="bicubic", lr_dir=tmp_path).psnr < 15
    for folder, problem in ((FLOWERPOT / "LR", "that is not scale 2"), (tmp_path, "has no low-resolution image for")):
        config = EvaluateConfig(dataset=str(FLOWERPOT), model="bicubic", lr_dir=folder, scale=2, device="cpu")
        (*_, failed) = evaluate(config)
        assert isinstance(failed, Failed) and problem in failed.message


def test_table_and_images_are_written(tmp_path):
    records = list(
        evaluate(
            EvaluateConfig(
                dataset=str(FLOWERPOT), model="bicubic", save=tmp_path / "out", csv=tmp_path / "table.csv", device="cpu"
            )
        )
    )
    (measured,) = [record for record in records if isinstance(record, Measured)]
    (row,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert row["image"] == "flowerpot.png"
    assert float(row["psnr"]) == measured.psnr
    truth = read_image(FLOWERPOT / "HR" / "flowerpot.png")
    assert read_image(tmp_path / "out" / "flowerpot_x4.png").pixels.shape == truth.pixels.shape


def test_nothing_is_overwritten_unasked(tmp_path):
    settings = {"dataset": str(FLOWERPOT), "model": "bicubic", "csv": tmp_path / "table.csv", "save": tmp_path}
    (tmp_path / "flowerpot_x4.png").write_bytes(b"precious")
    with pytest.raises(BadSetting, match="exists already"):
        summary_of(**settings)
    assert (tmp_path / "flowerpot_x4.png").read_bytes() == b"precious"
    summary_of(**settings, overwrite=True)
    assert (tmp_path / "table.csv").exists()


def test_one_bad_image_does_not_stop_the_others(tmp_path):
    good = read_image(FLOWERPOT / "HR" / "flowerpot.png")
    for name, pixels in {"good.png": good.pixels[:64, :64], "tiny.png": good.pixels[:12, :12]}.items():
        write_image(tmp_path / name, Picture(pixels, None, "png", None, None, None))
    (tmp_path / "broken.png").write_bytes(b"")
    records = list(evaluate(EvaluateConfig(dataset=str(tmp_path), model="bicubic", device="cpu")))
    (failed,) = [record for record in records if isinstance(record, Failed)]
    assert "broken.png" in failed.path
    summary = records[-1]
    assert isinstance(summary, Summary) and (summary.count, summary.failed, summary.undefined) == (2, 1, 1)
    assert math.isfinite(summary.psnr) and math.isfinite(summary.ssim)


def test_an_incomplete_set_is_said_so(tmp_path):
    (tmp_path / "Set5").mkdir()
    write_image(tmp_path / "Set5" / "a.png", read_image(FLOWERPOT / "HR" / "flowerpot.png"))
    opened = next(
        record
        for record in evaluate(EvaluateConfig(dataset="Set5", data_root=tmp_path, model="bicubic"))
        if isinstance(record, Opened)
    )
    assert opened.note == "Set5 has 5 images, and 1 were found"


def test_the_protocol_is_named_with_the_score():
    opened = next(r for r in evaluate(EvaluateConfig(dataset=str(FLOWERPOT), model="bicubic")) if isinstance(r, Opened))
    assert opened.protocol == "y" and opened.description == PROTOCOLS["y"].description


def test_limit_takes_the_first_images():
    assert summary_of(dataset=str(FLOWERPOT.parent / "kodak"), model="bicubic", limit=2, scale=8).count == 2


def test_named_datasets_are_found_under_the_data_root(tmp_path):
    folder = tmp_path / "Set5" / "HR"
    folder.mkdir(parents=True)
    assert open_benchmark("Set5", tmp_path).folder == folder
    assert open_benchmark("set5", tmp_path).protocol == "y"
    with pytest.raises(BadData) as error:
        open_benchmark("Urban100", tmp_path)
    assert str(tmp_path / "Urban100" / "HR") in str(error.value) and "$REFSR_DATA" in str(error.value)


def test_data_root_from_the_environment(tmp_path, monkeypatch):
    (tmp_path / "B100").mkdir()
    monkeypatch.setenv("REFSR_DATA", str(tmp_path))
    assert open_benchmark("B100").folder == tmp_path / "B100"


def test_what_is_refused(tmp_path):
    with pytest.raises(BadData, match="neither a folder nor a known dataset"):
        summary_of(dataset="nonsense", model="bicubic")
    with pytest.raises(UnknownName, match="did you mean 'ntire'"):
        summary_of(dataset=str(FLOWERPOT), model="bicubic", protocol="ntir")
    with pytest.raises(BadData, match="holds no image"):
        summary_of(dataset=str(tmp_path), model="bicubic")


def test_every_dataset_names_a_known_protocol():
    assert all(spec.protocol in PROTOCOLS and spec.folders for spec in BENCHMARKS.values())
    assert Path(BENCHMARKS["DIV2K"].folders[0]).name == "DIV2K_valid_HR"


@pytest.fixture
def reference_set(tmp_path) -> Path:
    """One picture in CUFED5's layout, with a reference that overlaps it and one that does not."""
    for name, (folder, left) in {"001_0": ("kodim08", 0), "001_1": ("kodim08", 30), "001_2": ("kodim23", 0)}.items():
        photo = read_image(packaged("examples/images") / "kodak" / f"{folder}.png")
        part = photo.pixels[200:328, 200 + left : 328 + left]
        write_image(tmp_path / f"{name}.png", Picture(part, None, "png", None, None, None))
    return tmp_path


@pytest.mark.parametrize(
    ("refs", "least", "most"),
    [
        ("all", 0.8, 99),
        ("1", 0.8, 99),
        ("L1", 0.8, 99),
        ("L2", -0.05, 0.5),
        ("truth", 8, 99),
        ("noise", -0.02, 0.02),
    ],
)
def test_references_of_a_set(reference_set, refs, least, most):
    result = summary_of(dataset=str(reference_set), refs=refs, weights="edsr-baseline-x4")
    assert (result.count, result.refs) == (1, refs)
    assert result.alone_psnr is not None and result.ref_share is not None
    assert least <= result.psnr - result.alone_psnr <= most
    assert result.worst_gain == result.psnr - result.alone_psnr


def test_masa_pads_before_shrinking_and_scores_the_image_itself(tmp_path):
    photo = read_image(packaged("examples/images") / "kodak" / "kodim08.png")
    part = photo.pixels[100:170, 200:299]  # 70 x 99: 26 and 29 pixels are missing to multiples of 32
    write_image(tmp_path / "a.png", Picture(part, None, "png", None, None, None))
    sample = open_benchmark(str(tmp_path)).sample(tmp_path / "a.png", 4, PROTOCOLS["masa"].pad_to)
    assert (sample.lr.width, sample.lr.height) == (128 // 4, 96 // 4)
    assert (sample.top, sample.left) == (13, 14) and sample.hr.shape == (1, 3, 70, 99)
    padded = np.pad(part, ((13, 13), (14, 15), (0, 0)), mode="edge")
    again = Picture(padded, None, "png", None, None, None)
    assert np.array_equal(sample.cut(again).pixels, part)
    (tmp_path / "b").mkdir()
    write_image(tmp_path / "b" / "padded.png", again)
    plain = open_benchmark(str(tmp_path / "b")).sample(tmp_path / "b" / "padded.png", 4)
    assert np.array_equal(plain.lr.pixels, sample.lr.pixels)
    scores = {name: summary_of(dataset=str(tmp_path / "b"), model="bicubic", protocol=name) for name in ("y", "masa")}
    assert scores["masa"].count == 1 and scores["masa"].psnr != scores["y"].psnr


def test_c2_shrinks_and_enlarges_as_pillow_does(tmp_path):
    photo = (
        PIL.Image.open(packaged("examples/images") / "kodak" / "kodim08.png").convert("RGB").crop((200, 100, 296, 172))
    )
    photo.save(tmp_path / "a.png")
    small = photo.resize((24, 18), PIL.Image.Resampling.BICUBIC)
    large = small.resize((96, 72), PIL.Image.Resampling.BICUBIC)
    result = summary_of(dataset=str(tmp_path), model="bicubic", protocol="c2")
    assert result.lr == "made with Pillow's bicubic"
    truth, plain = (to_tensor(np.asarray(image)) for image in (photo, large))
    assert result.bicubic_psnr == pytest.approx(score(plain, truth, 4, PROTOCOLS["c2"]).psnr, abs=1e-9)
    assert abs(result.bicubic_psnr - summary_of(dataset=str(tmp_path), model="bicubic", protocol="y").psnr) > 1e-3
    sample = replace(open_benchmark(str(tmp_path)), convention="pillow").sample(tmp_path / "a.png", 4)
    assert np.array_equal(sample.lr.pixels, np.asarray(small))


def test_a_set_scored_without_its_references(reference_set):
    without = summary_of(dataset=str(reference_set), refs="none", weights="edsr-baseline-x4")
    assert (without.count, without.refs, without.alone_psnr) == (1, None, None)
    (reference_set / "002_0.png").write_bytes((reference_set / "001_0.png").read_bytes())
    one_of_two = summary_of(dataset=str(reference_set), refs="L1", weights="edsr-baseline-x4")
    assert (one_of_two.count, one_of_two.with_refs) == (2, 1)
    assert one_of_two.alone_psnr == pytest.approx(without.psnr)


@pytest.mark.parametrize(
    ("refs", "message"),
    [("L5", "no picture of the set has that reference"), ("unrelated", "a set of at least two pictures")],
)
def test_references_that_a_set_does_not_have(reference_set, refs, message):
    with pytest.raises(BadSetting, match=message):
        summary_of(dataset=str(reference_set), model="bicubic", refs=refs)
    for path in reference_set.glob("*_[1-9].png"):
        path.unlink()
    with pytest.raises(BadSetting, match=f"--refs {refs} needs a set with references"):
        summary_of(dataset=str(reference_set), model="bicubic", refs=refs)


def test_unrelated_references_are_never_ones_own(reference_set):
    """Also when only the first picture is scored: they come from the whole set."""
    paths = []
    for path in sorted(reference_set.glob("001_*.png")):
        other = reference_set / path.name.replace("001", "002")
        other.write_bytes(path.read_bytes())
    paths = targets_among(sorted(reference_set.iterdir()))
    bank, _ = choose_references("unrelated", paths, paths[0])
    assert [Path(reference.name).name[:3] for reference in bank.references] == ["002"] * len(bank)
    limited = summary_of(dataset=str(reference_set), model="bicubic", refs="unrelated", limit=1)
    assert (limited.count, limited.with_refs) == (1, 1)


def test_references_of_a_broken_set(reference_set):
    (reference_set / "001_1.png").write_bytes(b"")
    records = list(evaluate(EvaluateConfig(dataset=str(reference_set), model="bicubic", refs="all", device="cpu")))
    (failed,) = [record for record in records if isinstance(record, Failed)]
    assert "001_1.png" in failed.path and isinstance(records[-1], Summary)
    with pytest.raises(BadSetting, match="--refs is all, none"):
        summary_of(dataset=str(reference_set), model="bicubic", refs="best")
