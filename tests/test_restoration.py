"""How degraded a picture is, what is done about it, and what its file proves."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refsr_cli.config import EvaluateConfig, TrainConfig, resumed
from refsr_cli.data.benchmarks import Benchmark, open_benchmark
from refsr_cli.data.degradations import CELLS, SyntheticDegradation, parse_degradation
from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.errors import BadSetting
from refsr_cli.images import Picture, decode_image, read_image, to_tensor
from refsr_cli.images.exif import upright
from refsr_cli.images.jpeg import encode_jpeg
from refsr_cli.inference.passes import blended
from refsr_cli.inference.results import finished
from refsr_cli.inference.runner import merger_for, runner_for
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.resample import blurred, downscale, upscale
from refsr_cli.models import build
from refsr_cli.packaged import packaged
from refsr_cli.recipes import settings_of
from refsr_cli.reference.offer import Offer, offered
from refsr_cli.reference.transfer import Shown
from refsr_cli.reference.trust import add_detail, local_rms
from refsr_cli.restoration.blocks import from_frequencies, jpeg_step, nearest_quality, to_frequencies
from refsr_cli.restoration.blur import SOFT
from refsr_cli.restoration.consistency import KnownInput
from refsr_cli.restoration.degradation import Degradation, degraded_alike, estimate_degradation
from refsr_cli.restoration.strength import automatic_strength, plan_restoration
from refsr_cli.tasks.evaluate import MeasuredCell, evaluate, evaluate_degraded
from refsr_cli.tasks.train import train
from refsr_cli.training.records import Step
from refsr_cli.weights.files import load_weights
from refsr_cli.weights.store import load_model

KODAK = packaged("examples/images") / "kodak"
CPU = torch.device("cpu")


def degraded(text: str, scale: int = 2) -> list[Picture]:
    """The packaged photos, shrunk and degraded."""
    benchmark = replace(open_benchmark(str(KODAK)), degradations=(parse_degradation(text),))
    return [sample.lr for sample in benchmark.samples(scale)]


# what files say


@given(quality=st.integers(1, 100), subsampling=st.sampled_from(["4:2:0", "4:2:2", "4:4:4"]))
def test_a_jpegs_quality_is_read_off_its_tables(quality, subsampling):
    pixels = np.full((16, 16, 3), 90, np.uint8)
    picture = decode_image(encode_jpeg(pixels, quality, subsampling), "p")
    assert picture.jpeg is not None
    assert picture.jpeg.sampling[0] == {"4:2:0": (2, 2), "4:2:2": (2, 1), "4:4:4": (1, 1)}[subsampling]
    assert nearest_quality(jpeg_step(picture.jpeg.tables[0])) == pytest.approx(quality, abs=1)


def test_tables_are_row_by_row():
    """The first row of the standard's table at quality 50 is 16 11 10 16 24 40 51 61."""
    picture = decode_image(encode_jpeg(np.zeros((8, 8, 3), np.uint8), 50), "p")
    assert picture.jpeg is not None
    assert picture.jpeg.tables[0][:8] == (16, 11, 10, 16, 24, 40, 51, 61)


def saved(**options) -> bytes:
    file = io.BytesIO()
    rows, columns = np.mgrid[:48, :64]
    mode = options.pop("mode", "RGB")
    image = Image.fromarray(np.stack([4 * rows, 3 * columns, rows + columns], -1).astype(np.uint8)).convert(mode)
    image.save(file, "JPEG", **options)
    return file.getvalue()


def test_kinds_of_jpeg_have_a_coding_or_none():
    assert len(decode_image(saved(mode="L"), "grey").jpeg.tables) == 1  # type: ignore[union-attr]
    for other in (saved(mode="CMYK"), saved(keep_rgb=True)):  # steps are known, and nothing of luma
        picture = decode_image(other, "other")
        assert picture.jpeg is not None and not picture.jpeg.has_luma
        known = estimate_degradation(picture)
        assert known.jpeg_quality == pytest.approx(75, abs=1) and known.luma_table is None
    assert decode_image(saved(progressive=True), "progressive").jpeg is not None
    odd = [[1 + (7 * k) % 255 for k in range(64)], [255] * 64]
    coding = decode_image(saved(qtables=odd), "odd").jpeg
    assert coding is not None and sorted(coding.tables[0]) == sorted(odd[0])
    assert coding.tables[1] == (255,) * 64


def test_a_file_without_a_coding_goes_on_as_an_estimate():
    """A table that is missing, or says 0."""
    plain = decode_image(saved(quality=40), "p")
    assert plan_restoration(replace(plain, jpeg=None), None).strength >= 0


def test_other_formats_say_nothing(tmp_path):
    assert read_image(sorted(KODAK.glob("*.png"))[0]).jpeg is None


# what pixels say


def test_clean_photos_show_no_jpeg_and_little_noise():
    for picture in degraded("clean", 2) + degraded("clean", 4):
        found = estimate_degradation(picture)
        assert found.jpeg_step == 0 and found.noise < 1.5
        assert automatic_strength(found) == 0


@pytest.mark.parametrize("sigma", [3.0, 5.0, 10.0, 25.0])
def test_noise_is_estimated_to_a_tenth(sigma):
    for picture in degraded(f"noise:{sigma:g}"):
        assert estimate_degradation(picture).noise == pytest.approx(sigma, rel=0.12)


@pytest.mark.parametrize("scale", [2, 4])
def test_noise_under_a_fine_jpeg_is_found_and_fine_texture_hardly_ever_taken_for_it(scale):
    """Its colours show next to none of it."""
    for noisy, clean in zip(degraded("noise:8+jpeg:92", scale), degraded("jpeg:92", scale), strict=True):
        assert estimate_degradation(noisy).noise > 2.5 and plan_restoration(noisy, None).strength > 0.8
        assert estimate_degradation(clean).noise < 2


@pytest.mark.parametrize("sigma", [0.5, 0.6, 0.8])
@pytest.mark.parametrize("besides", ["", "+noise:2", "+jpeg:92"])
def test_blur_is_estimated_in_clean_and_in_lightly_damaged_photos(sigma, besides):
    for picture in degraded(f"blur:{sigma:g}{besides}"):
        assert estimate_degradation(picture).blur == pytest.approx(sigma, abs=0.15)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_clean_photos_are_not_soft(scale):
    for picture in degraded("clean", scale):
        assert estimate_degradation(picture).blur < SOFT


def test_pictures_without_detail_are_not_soft():
    rows, columns = np.mgrid[:200, :200]
    for plane in (0 * rows, rows / 2 + columns / 2, 255.0 * (rows // 25 % 2), 127 + 40 * np.sin(columns / 9)):
        pixels = np.repeat(plane[..., None], 3, 2).astype(np.uint8)
        assert estimate_degradation(Picture(pixels, None, "png", None, None, None)).blur < SOFT


def test_soft_photos_are_restored_nearer_to_sharp_ones():
    restorer = Upscaler(load_model("restorer", 1).model, device="cpu", precision="fp32", self_ensemble=False)
    for soft, sharp in zip(degraded("blur:0.8", 4), degraded("clean", 4), strict=True):
        plan = plan_restoration(soft, None)
        assert plan.strength == 1 and plan.degradation.found
        before, after = (np.square(x.pixels.astype(float) - sharp.pixels).mean() for x in (soft, restorer(soft)))
        assert after < 0.8 * before


def test_grey_noise_on_a_smooth_picture_is_noise():
    rows, columns = np.mgrid[:128, :128]
    smooth = (80 + rows / 4 + columns / 3)[..., None]
    noisy = smooth + 6 * np.random.default_rng(0).standard_normal((128, 128, 1))
    for channels in (1, 3):
        pixels = np.repeat(noisy, channels, 2).round().clip(0, 255).astype(np.uint8)
        found = estimate_degradation(Picture(pixels, None, "png", None, None, None))
        assert found.noise == pytest.approx(6, rel=0.12)


@pytest.mark.parametrize("quality", [30, 50, 75, 85])
def test_a_png_that_was_a_jpeg_shows_its_quality(quality):
    for picture in degraded(f"jpeg:{quality}"):
        found = estimate_degradation(replace(picture, jpeg=None))
        assert found.jpeg is None
        assert found.jpeg_quality == pytest.approx(quality, abs=2)


@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.sampled_from([1, 3]), deep=st.booleans())
def test_any_picture_can_be_estimated(height, width, channels, deep):
    kind = np.uint16 if deep else np.uint8
    pixels = np.random.default_rng(height).integers(0, np.iinfo(kind).max, (height, width, channels)).astype(kind)
    found = estimate_degradation(Picture(pixels, None, "png", None, None, None))
    assert 0 <= automatic_strength(found) <= 1


def test_sixteen_bits_are_estimated_like_eight():
    eight = degraded("noise:8")[0]
    sixteen = replace(eight, pixels=eight.pixels.astype(np.uint16) * 257)
    assert estimate_degradation(sixteen).noise == pytest.approx(estimate_degradation(eight).noise, rel=1e-3)


def test_strength_rises_with_what_is_wrong():
    jpegs = [automatic_strength(Degradation(None, jpeg_step(table_of(quality)))) for quality in (100, 98, 95, 75, 30)]
    assert jpegs == sorted(jpegs) and jpegs[0] == 0 and jpegs[-1] == 1
    noises = [automatic_strength(Degradation(noise=sigma)) for sigma in (0, 1, 2, 5, 20)]
    assert noises == sorted(noises) and noises[1] == 0 and noises[-1] == 1


def table_of(quality: int) -> tuple[int, ...]:
    jpeg = decode_image(encode_jpeg(np.zeros((8, 8, 3), np.uint8), quality), "p").jpeg
    assert jpeg is not None
    return jpeg.tables[0]


def test_what_is_asked_for_counts_more_than_what_is_found():
    (picture, *_) = degraded("jpeg:30")
    assert plan_restoration(picture, 0.4).strength == 0.4
    assert plan_restoration(picture, 0.0).strength == 0.0
    assert plan_restoration(picture, None).strength == 1.0


# blocks


def test_block_transform_is_scipys():
    plane = torch.rand(16, 24, dtype=torch.float64)
    coefficients = to_frequencies(plane)
    expected = scipy.fft.dctn(plane[8:16, 16:24].numpy(), norm="ortho")
    np.testing.assert_allclose(coefficients[1, 2].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(from_frequencies(coefficients), plane, rtol=0, atol=1e-6)


# what a file proves


def known(picture: Picture) -> KnownInput:
    return KnownInput(picture.pixels, estimate_degradation(picture))


@pytest.mark.parametrize("quality", [30, 75, 90])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_what_was_there_before_a_jpeg_is_explained_and_another_picture_is_not(quality, subsampling):
    before = read_image(sorted(KODAK.glob("*.png"))[0]).pixels[100:196, 100:228]
    picture = decode_image(encode_jpeg(before, quality, subsampling), "p")
    residual = known(picture).part(0, 0, 96, 128, CPU)
    truth = to_tensor(before)
    at_rest, moved, duller = (
        float(residual(x).square().mean().sqrt()) for x in (truth, truth.roll(1, -1), 0.8 * truth + 0.1)
    )
    assert at_rest < 0.6 / 255
    assert moved > 3 * at_rest and duller > 3 * at_rest
    plain = float((truth - to_tensor(picture.pixels)).square().mean().sqrt())
    assert plain > 2 * at_rest  # pixel by pixel the truth would seem a mistake


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_known_in_its_own_orientation(orientation):
    """Sides that are no multiple of 8: blocks of the upright picture then begin elsewhere."""
    stored = read_image(sorted(KODAK.glob("*.png"))[0]).pixels[100:189, 100:215]
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(file, "JPEG", quality=50, exif=exif)
    picture = decode_image(file.getvalue(), "p")
    truth = upright(stored, orientation)
    assert picture.pixels.shape == truth.shape
    residual = known(picture).part(0, 0, picture.height, picture.width, CPU)(to_tensor(truth))
    assert float(local_rms(residual)[..., 12:-12, 12:-12].max()) < 1.5 / 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_what_was_there_before_is_degraded_alike_to_the_last_bit(orientation, subsampling):
    stored = read_image(sorted(KODAK.glob("*.png"))[0]).pixels[100:189, 100:215]
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(file, "JPEG", quality=61, subsampling=subsampling, exif=exif)
    picture = decode_image(file.getvalue(), "p")
    again = degraded_alike(upright(stored, orientation), estimate_degradation(picture))
    np.testing.assert_array_equal(again, picture.pixels)


def test_a_pattern_that_repeats_is_neither_a_jpeg_nor_noise():
    """The same block everywhere has coefficients that are multiples of something by chance."""
    rows, columns = np.mgrid[:64, :64]
    for pattern in (
        (rows % 2) * (columns % 2),
        (rows + columns) % 2,
        (rows % 4 < 2),
        (rows % 8 < 3) & (columns % 8 > 4),
    ):
        for low, high in ((0, 255), (30, 200), (255, 0)):
            pixels = np.where(pattern, high, low).astype(np.uint8)[..., None].repeat(3, 2)
            found = estimate_degradation(Picture(pixels, None, "png", None, None, None))
            assert found.jpeg_step == 0 and found.noise < 1e-3


def test_soft_clean_grey_and_deep_pictures_are_degraded_alike():
    before = read_image(sorted(KODAK.glob("*.png"))[0]).pixels[100:189, 100:215]
    np.testing.assert_array_equal(degraded_alike(before, Degradation()), before)
    soft = degraded_alike(before, Degradation(blur=0.8))
    expected = blurred(to_tensor(before), 0.8).mul(255).add(0.5).floor()[0].permute(1, 2, 0)
    assert np.abs(soft - expected.numpy()).max() <= 1
    compressed = degraded_alike(before[..., :1], Degradation(jpeg_step=100.0))
    np.testing.assert_array_equal(compressed, decode_image(encode_jpeg(before[..., :1], 50), "p").pixels)
    deep = degraded_alike(before.astype(np.uint16) * 257, Degradation(jpeg_step=100.0))
    assert deep.shape == before.shape


def test_a_reference_that_shows_the_scene_gives_back_all_that_degrading_took():
    """What the net makes of the picture, and what it misses on a reference degraded alike: the scene itself."""
    hr = to_tensor(read_image(sorted(KODAK.glob("*.png"))[0]).pixels[100:228, 100:260])
    clean = downscale(hr, 4).clamp(0, 1).mul(255).round().div(255)
    degradation = Degradation(jpeg_step=50.0)
    pixels = clean.mul(255)[0].permute(1, 2, 0).numpy().astype(np.uint8)
    lr = to_tensor(degraded_alike(pixels, degradation))
    shown = Shown(hr, hr, torch.zeros(1, 1, 128, 160), torch.ones(1, 1, 32, 40))
    run = runner_for(load_model(None, None, "edsr-baseline-x4").model)
    alone, alike = (offered(run, lr, shown, [degradation.quality], its) for its in (None, lr))
    torch.testing.assert_close(alike.base + alike.detail, hr, rtol=0, atol=1e-5)
    lacking, full = (float((hr - offer.base - offer.detail).abs().mean()) for offer in (alone, alike))
    assert lacking > 1 / 255 > full


def test_parts_of_a_jpeg_know_what_the_whole_knows():
    before = read_image(sorted(KODAK.glob("*.png"))[0]).pixels[100:196, 100:228]
    picture = decode_image(encode_jpeg(before, 40), "p")
    other = to_tensor(before).roll(2, -2)
    whole = local_rms(known(picture).part(0, 0, 96, 128, CPU)(other))
    part = local_rms(known(picture).part(11, 21, 85, 115, CPU)(other[..., 11:85, 21:115]))
    inside = part[..., 24:-24, 24:-24]
    torch.testing.assert_close(inside, whole[..., 35:61, 45:91], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", ["clean", "jpeg:75", "noise:6"])
def test_detail_that_contradicts_the_input_is_made_to_agree_and_not_lost(cell):
    """The truth in another tone is the right detail with a wrong mean: the tone goes, the detail stays."""
    hr = to_tensor(read_image(sorted(KODAK.glob("*.png"))[0]).pixels[100:356, 100:420])
    lr = parse_degradation(cell).shrink(hr, 4, "p")
    picture = Picture(lr.mul(255).round()[0].permute(1, 2, 0).numpy().astype(np.uint8), None, "png", None, None, None)
    if cell.startswith("jpeg"):
        picture = decode_image(encode_jpeg(picture.pixels, 75), "p")
    residual = known(picture).part(0, 0, picture.height, picture.width, CPU)
    lr = to_tensor(picture.pixels)
    base = upscale(degrade_bicubic(hr, 4), 4).clamp(0, 1)  # as of a restored picture
    one = torch.ones_like(base[:, :1])
    offer = Offer(lr, base, hr - base, hr - hr, 0 * one, torch.ones_like(lr[:, :1]), 0 * lr, 0 * lr)
    sr, trust = add_detail(offer, hr - base + 4 / 255, one, residual)
    wrong, moved = hr + 4 / 255, hr.roll(8, -1)

    def error(x):
        return float((x - hr)[..., 32:-32, 32:-32].square().mean())

    assert error(sr) < 0.9 * error(wrong.clamp(0, 1)) < 0.5 * error(base)
    assert float(trust[..., 32:-32, 32:-32].mean()) > 0.9
    _, withdrawn = add_detail(offer, moved - base, one, residual)
    assert float(withdrawn.mean()) < 0.1
    torch.testing.assert_close(add_detail(offer, moved - base, 0 * one, residual)[0], base, rtol=0, atol=0)


@pytest.mark.parametrize("cell", ["jpeg:90", "jpeg:75", "jpeg:40"])
def test_results_contradict_less_of_what_is_known_and_gain_by_it(cell, monkeypatch):
    """Beside the same run whose results are made to shrink to the restored picture instead; on the photos together, of
    which one or another loses some thousandths of a decibel."""
    truths = [to_tensor(read_image(path).pixels[96:352, 200:520]) for path in sorted(KODAK.glob("*.png"))]
    shrunk = [parse_degradation(cell).shrink(hr, 2, "p")[0].permute(1, 2, 0).mul(255).round() for hr in truths]
    pictures = [decode_image(encode_jpeg(lr.numpy().astype(np.uint8), int(cell[5:])), "p") for lr in shrunk]
    model, restorer = load_model(None, None, "edsr-baseline-x2").model, load_model("restorer", 1).model
    upscaler = Upscaler(model, device="cpu", precision="fp32", self_ensemble=False)
    upscaler.restorer = Upscaler(restorer, device="cpu", precision="fp32", self_ensemble=False)
    heeding = [to_tensor(upscaler(picture).pixels) for picture in pictures]
    monkeypatch.setattr(Degradation, "certain", False)
    heedless = [to_tensor(upscaler(picture).pixels) for picture in pictures]
    gains = []
    for hr, picture, one, other in zip(truths, pictures, heeding, heedless, strict=True):
        residual = known(picture).part(0, 0, picture.height, picture.width, CPU)
        contradiction = [float(residual(downscale(x, 2)).square().mean()) for x in (one, other)]
        assert contradiction[0] < 0.8 * contradiction[1]
        errors = [float((x - hr).square().mean()) for x in (one, other)]
        gains.append(math.log10(errors[1] / errors[0]))
    assert sum(gains) > 0


def test_tiles_of_a_jpeg_are_as_the_whole():
    picture = decode_image(encode_jpeg(read_image(sorted(KODAK.glob("*.png"))[0]).pixels[:150, :170], 60), "p")
    model = load_model(None, None, "edsr-baseline-x2").model
    restorer = Upscaler(load_model("restorer", 1).model, device="cpu", precision="fp32", self_ensemble=False)
    whole, tiled = (
        Upscaler(model, device="cpu", precision="fp32", self_ensemble=False, tile=tile, restorer=restorer)(picture)
        for tile in (0, 40)
    )
    difference = np.abs(whole.pixels.astype(int) - tiled.pixels)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_noise_explains_differences_of_its_size():
    (picture, *_) = degraded("noise:6")
    (clean, *_) = degraded("clean")
    residual = known(picture).part(0, 0, picture.height, picture.width, CPU)
    assert float(local_rms(residual(to_tensor(clean.pixels))).mean()) < 0.6 / 255
    assert float(local_rms(residual(to_tensor(clean.pixels).roll(2, -1))).mean()) > 4 / 255


# restoring


def brightening() -> Upscaler:
    """A net that keeps the size and makes all pixels brighter by 10."""
    model = build("restorer", 1, {"features": 8, "blocks": 1})
    torch.nn.init.zeros_(model.tail.weight)
    torch.nn.init.constant_(model.tail.bias, 16 * 10 / 255)
    return Upscaler(model, device="cpu", precision="fp32", self_ensemble=False)


def enlarged(picture: Picture, **options) -> tuple[np.ndarray, float]:
    bicubic = Upscaler(build("bicubic", 2), device="cpu", self_ensemble=False, **options)
    result = finished(bicubic.enlarge(picture, 2 * picture.height, 2 * picture.width))
    return result.picture.pixels.astype(int), result.restoration.strength


def test_an_untrained_restorer_changes_nothing():
    model = build("restorer", 1).eval()
    x = torch.rand(1, 3, 20, 22)
    with torch.inference_mode():
        assert torch.equal(model(x), x)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_pictures_are_restored_as_strongly_as_asked(strength):
    picture = Picture(np.full((24, 30, 3), 100, np.uint8), None, "png", None, None, None)
    pixels, used = enlarged(picture, restorer=brightening(), restore=strength)
    assert used == strength
    assert np.abs(pixels - (100 + 10 * strength)).max() <= 1


def test_clean_pictures_are_left_as_they_are():
    (picture, *_) = degraded("clean")
    alone, _ = enlarged(picture)
    automatic, strength = enlarged(picture, restorer=brightening())
    off, none = enlarged(picture, restorer=brightening(), restore=0.0)
    assert strength == none == 0
    np.testing.assert_array_equal(automatic, alone)
    np.testing.assert_array_equal(off, alone)


def test_alpha_is_not_restored():
    (jpeg, *_) = degraded("jpeg:30")
    alpha = np.full(jpeg.pixels.shape[:2], 200, np.uint8)
    bicubic = Upscaler(build("bicubic", 2), device="cpu", self_ensemble=False, restorer=brightening())
    result = finished(bicubic.enlarge(replace(jpeg, alpha=alpha), 2 * jpeg.height, 2 * jpeg.width)).picture
    assert result.alpha is not None and (result.alpha == 200).all()


@given(strength=st.floats(0, 1))
def test_blending_is_linear(strength):
    before, after = (np.random.default_rng(seed).integers(0, 256, (5, 4, 3)).astype(np.uint8) for seed in (0, 1))
    expected = before + strength * (after.astype(float) - before)
    assert np.abs(blended(before, after, strength) - expected).max() <= 0.5 + 1e-4


def test_tiles_restore_as_the_whole_does():
    (picture, *_) = degraded("jpeg:30")
    whole, tiled = (
        Upscaler(load_model("restorer", 1).model, device="cpu", precision="fp32", self_ensemble=False, tile=tile)
        for tile in (0, 48)
    )
    one, two = (finished(its.scale_up_alike([picture.pixels], 1))[0].astype(int) for its in (whole, tiled))
    assert np.abs(one - two).max() <= 1 and (one != two).mean() < 1e-3


@pytest.mark.parametrize("cell", ["jpeg:50", "jpeg:30", "noise:5", "noise:10", "noise:3+jpeg:80"])
def test_the_packaged_weights_bring_pictures_nearer_to_what_they_were(cell):
    """At the size that degraded pictures have, on photos that they were not trained on."""
    restorer = Upscaler(load_model("restorer", 1).model, device="cpu", precision="fp32", self_ensemble=False)
    for dirty, clean in zip(degraded(cell, 4), degraded("clean", 4), strict=True):
        (restored,) = finished(restorer.scale_up_alike([dirty.pixels], 1))
        before, after = (np.square(x.astype(float) - clean.pixels).mean() for x in (dirty.pixels, restored))
        assert after < 0.97 * before


def test_a_benchmark_may_be_shrunk_first():
    benchmark = Benchmark("photos", KODAK, "y", limit=1, shrunk=4)
    sample = next(benchmark.samples(1))
    photo = to_tensor(read_image(benchmark.paths()[0]).pixels)
    expected = downscale(photo, 4).clamp(0, 1)
    torch.testing.assert_close(sample.hr, expected, rtol=0, atol=0.51 / 255)
    torch.testing.assert_close(to_tensor(sample.lr.pixels), sample.hr, rtol=0, atol=1e-6)


def test_a_synthetic_degradation_of_nothing_is_the_papers():
    hr = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(
        SyntheticDegradation().shrink(hr, 4, "x"), downscale(hr, 4).clamp(0, 1), rtol=0, atol=0.51 / 255
    )


def test_merging_that_was_learned_of_clean_pictures_is_not_for_degraded_ones():
    lr = torch.rand(1, 3, 6, 7)
    base, detail = torch.rand(1, 3, 24, 28), torch.rand(1, 3, 24, 28) / 10
    offer = Offer(lr, base, detail, detail, detail[:, :1] ** 2, lr[:, :1], lr / 10, lr)
    for conditioned in (False, True):
        model = build("refnet", 4, {"trunk_features": 4, "trunk_blocks": 1, "conditioned": conditioned}).eval()
        torch.nn.init.normal_(model.merger.tail.weight)
        qualities = torch.zeros_like(lr), torch.ones_like(lr)
        clean, degraded = (merger_for(model)(replace(offer, quality=its))[0] for its in qualities)
        assert not torch.equal(clean, detail)
        assert torch.equal(degraded, detail) is not conditioned


def test_a_merger_that_becomes_conditioned_begins_as_it_was():
    before = build("refnet", 4, {"trunk_features": 4, "trunk_blocks": 1}).eval()
    torch.nn.init.normal_(before.merger.tail.weight, std=0.1)
    after = build("refnet", 4, {"trunk_features": 4, "trunk_blocks": 1, "conditioned": True}).eval()
    after.start_from(before, "before")
    lr, detail = torch.rand(1, 3, 6, 7), torch.rand(1, 3, 24, 28) / 10
    offer = Offer(lr, torch.rand(1, 3, 24, 28), detail, detail, detail[:, :1] ** 2, lr[:, :1], lr / 10, lr)
    with torch.inference_mode():
        for one, other in zip(before.merge(offer), after.merge(offer), strict=True):
            torch.testing.assert_close(one, other)


def test_noise_in_a_jpeg_of_fine_steps_is_noise():
    rng = np.random.default_rng(0)
    smooth = np.tile(np.linspace(60, 180, 192)[:, None, None], (1, 192, 3))
    noisy = (smooth + 12 * rng.standard_normal(smooth.shape)).round().clip(0, 255).astype(np.uint8)
    picture = decode_image(encode_jpeg(noisy, 100, "4:4:4"), "p")
    assert plan_restoration(picture, None).strength == 1
    quiet = decode_image(encode_jpeg(smooth.round().astype(np.uint8), 100, "4:4:4"), "p")
    assert plan_restoration(quiet, None).strength == 0


def test_what_is_asked_for_in_vain_is_refused():
    photos = str(KODAK)
    with pytest.raises(BadSetting, match="leave it out"):
        list(evaluate(EvaluateConfig(dataset=photos, model="bicubic", restore=1.0, limit=1)))
    with pytest.raises(BadSetting, match="keeps the size"):
        list(evaluate(EvaluateConfig(dataset=photos, model="restorer", scale=4, limit=1)))
    with pytest.raises(BadSetting, match="--degrade"):
        list(train(TrainConfig(model="restorer", scale=1)))
    with pytest.raises(BadSetting, match="conditioned=true"):
        list(train(TrainConfig(model="refnet", degrade="photo")))


def test_every_way_to_degrade_is_measured_beside_bicubic(tmp_path):
    config = EvaluateConfig(
        dataset=str(KODAK), model="bicubic", degrade="all", limit=1, plot=tmp_path / "p.png", csv=tmp_path / "c.csv"
    )
    rows = [record for record in evaluate_degraded(config) if isinstance(record, MeasuredCell)]
    assert [row.degradation for row in rows] == list(CELLS)
    assert all(abs(row.gain) < 1e-6 for row in rows)
    assert rows[0].psnr > rows[1].psnr > rows[3].psnr > rows[5].psnr  # clean, JPEG 95, 75, 30
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 1 + len(CELLS)
    with pytest.raises(BadSetting, match="exists already"):
        list(evaluate_degraded(config))


def test_a_restorer_learns(tmp_path):
    """Weights change, resuming gives the same, and degraded photos are what is validated on."""
    settings = {"batch": 2, "patch": 16, "steps": 4, "validate_every": 4, "device": "cpu", "precision": "fp32"}
    common = {
        **settings_of("restorer"),
        **settings,
        "numbers": ("features=8", "blocks=1"),
        "data": KODAK,
        "val": str(KODAK),
    }
    list(train(TrainConfig(**common, out=tmp_path / "straight")))
    stopped = train(TrainConfig(**common, log_every=1, out=tmp_path / "broken"))
    next(record for record in stopped if isinstance(record, Step) and record.step == 2)
    stopped.close()
    *_, validation, _ = train(resumed(tmp_path / "broken", {}))
    one, two = (load_weights(tmp_path / name / "model.safetensors").model for name in ("straight", "broken"))
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
    assert one.state_dict()["tail.bias"].abs().max() > 0
    assert validation.scale == 1 and 25 < validation.psnr < 45
