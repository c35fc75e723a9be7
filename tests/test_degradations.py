"""What low-resolution pictures go through: JPEG, noise, blur, in evaluation and in training."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from refsr_cli.data.benchmarks import open_benchmark
from refsr_cli.data.degradations import (
    CELLS,
    MARGIN,
    MIXES,
    DegradationMix,
    SyntheticDegradation,
    blurred,
    degrade_crops,
    degrade_windows,
    parse_degradation,
    parse_mix,
)
from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.data.photos import PhotoDraws, PhotoSet
from refsr_cli.errors import BadSetting
from refsr_cli.images import read_rgb8
from refsr_cli.packaged import packaged
from refsr_cli.training.photos import DegradedExamples

KODAK = packaged("examples/images") / "kodak"
WHOLE = slice(None)


@pytest.fixture(scope="module")
def windows() -> tuple[Tensor, Tensor]:
    """Eight windows of a photo with a margin, at a quarter of the size and whole."""
    photo = read_rgb8(sorted(KODAK.glob("*.png"))[0]).float()[None] / 255
    side = 4 * (32 + 2 * MARGIN)
    hr = torch.cat([photo[..., top : top + side, left : left + side] for top in (0, 160) for left in (0, 80, 160, 240)])
    return degrade_bicubic(hr, 4), hr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clean", SyntheticDegradation()),
        ("jpeg:75", SyntheticDegradation(jpeg=75)),
        ("noise:2.5", SyntheticDegradation(noise=2.5)),
        ("jpeg:80+noise:3", SyntheticDegradation(noise=3, jpeg=80)),
        ("blur:0.6+noise:1+jpeg:90", SyntheticDegradation(blur=0.6, noise=1, jpeg=90)),
    ],
)
def test_a_degradation_is_read_in_any_order(text, expected):
    assert parse_degradation(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "jpeg:0",
        "jpeg:101",
        "jpeg:75.5",
        "jpeg",
        "jpeg:",
        "webp:75",
        "noise:-1",
        "noise:nan",
        "jpeg:75+jpeg:50",
        "",
        "+",
    ],
)
def test_what_is_no_degradation_is_one_sentence(text):
    with pytest.raises(BadSetting) as raised:
        parse_degradation(text)
    assert "--degrade" in str(raised.value) and "\n" not in str(raised.value)


def test_every_cell_has_the_name_that_gives_it():
    assert {name: parse_degradation(name) for name in CELLS} == CELLS


def test_mixes_have_names_or_ranges():
    assert parse_mix("photo") is MIXES["photo"]
    assert parse_mix("noise:0-10+jpeg:30-95") == DegradationMix(noise=(0, 10), jpeg=(30, 95))
    for wrong in ("foto", "noise:10-0", "jpeg:0-95"):
        with pytest.raises(BadSetting):
            parse_mix(wrong)


@given(sigma=st.floats(0.3, 3))
def test_blur_is_that_of_a_slow_gaussian(sigma):
    x = torch.zeros(1, 2, 31, 29, dtype=torch.float64)
    x[0, 0, 15, 14] = 1
    rows, columns = torch.meshgrid(torch.arange(31) - 15, torch.arange(29) - 14, indexing="ij")
    expected = torch.exp(-(rows**2 + columns**2).double() / (2 * sigma**2))
    torch.testing.assert_close(blurred(x, sigma)[0, 0], expected / expected.sum(), rtol=0, atol=2e-4)
    assert blurred(x, sigma)[0, 1].abs().max() == 0


def test_blur_is_scikit_images(photo: Tensor):
    from skimage.filters import gaussian

    x = photo[None].double() / 255
    expected = gaussian(x[0].numpy(), sigma=1.2, mode="nearest", truncate=4, channel_axis=0)
    np.testing.assert_allclose(blurred(x, 1.2)[0].numpy(), expected, rtol=0, atol=1e-6)


def test_noise_has_the_deviation_asked_for_and_is_the_same_each_time(photo: Tensor):
    hr = 0.25 + 0.5 * photo[None].float() / 255  # away from black and white, where it would be cut off
    clean, noisy = (SyntheticDegradation(noise=noise).shrink(hr, 4, "name") for noise in (0, 8))
    assert float((noisy - clean).std() * 255) == pytest.approx(8, rel=0.03)
    assert abs(float((noisy - clean).mean() * 255)) < 0.5
    again, other = (SyntheticDegradation(noise=8).shrink(hr, 4, name) for name in ("name", "other"))
    assert torch.equal(noisy, again) and not torch.equal(noisy, other)


def test_low_resolution_images_are_pillows_jpegs():
    benchmark = replace(open_benchmark(str(KODAK), limit=1), degradations=(SyntheticDegradation(jpeg=60),))
    clean = open_benchmark(str(KODAK), limit=1).sample(benchmark.paths()[0], 4).lr
    sample = benchmark.sample(benchmark.paths()[0], 4)
    file = io.BytesIO()
    Image.fromarray(clean.pixels).save(file, "JPEG", quality=60)
    np.testing.assert_array_equal(sample.lr.pixels, np.asarray(Image.open(file)))
    assert sample.lr.jpeg is not None and sample.lr.jpeg.sampling == ((2, 2), (1, 1), (1, 1))


def test_grey_images_become_grey_jpegs(tmp_path, photo: Tensor):
    Image.fromarray(photo[0].numpy()).save(tmp_path / "grey.png")
    benchmark = replace(open_benchmark(str(tmp_path)), degradations=(SyntheticDegradation(jpeg=60),))
    assert next(benchmark.samples(2)).lr.pixels.shape[2] == 1


def test_several_degradations_are_taken_by_turns():
    cells = tuple(CELLS.values())[:2]
    benchmark = replace(open_benchmark(str(KODAK), limit=2), degradations=cells)
    first, second = benchmark.samples(4)
    assert first.lr.jpeg is None and second.lr.jpeg is not None


def test_clean_crops_are_the_middle_of_their_windows(windows):
    lr, hr = windows
    crops = degrade_crops(lr, hr, DegradationMix(clean=1.0), 8, WHOLE, torch.Generator())
    assert torch.equal(crops.lr, lr[..., MARGIN:-MARGIN, MARGIN:-MARGIN])
    assert torch.equal(crops.clean, crops.lr)
    assert torch.equal(crops.hr, hr[..., 4 * MARGIN : -4 * MARGIN, 4 * MARGIN : -4 * MARGIN])
    assert not crops.noise.any() and not crops.jpeg_step.any()


def only(**happens) -> DegradationMix:
    """One kind, to every crop."""
    parts = tuple(float(name in happens) for name in ("blur", "noise", "jpeg"))
    return DegradationMix(**{"clean": 0.0, "parts": parts, "twice": 0.0, **happens})


def test_crops_get_the_noise_that_they_are_said_to_have(windows):
    lr, hr = windows
    lr, hr = (0.25 + 0.5 * x for x in (lr, hr))
    mix = only(noise=(2.0, 12.0), shot_noise=0.0, grey_noise=0.0)
    crops = degrade_crops(lr, hr, mix, 8, WHOLE, torch.Generator().manual_seed(1))
    measured = 255 * (crops.lr - crops.clean).flatten(1).std(1)
    torch.testing.assert_close(measured, crops.noise, rtol=0.1, atol=0.2)
    assert crops.noise.min() >= 2 and crops.noise.max() <= 12 and crops.noise.unique().numel() == 8


def test_grey_noise_is_the_same_in_all_channels(windows):
    lr, hr = (0.25 + 0.5 * x for x in windows)
    grey = DegradationMix(clean=0, parts=(0, 1, 0), noise=(5.0, 5.0), low_noise=5, grey_noise=1.0, shot_noise=0.0)
    difference = degrade_crops(lr, hr, grey, 8, WHOLE, torch.Generator().manual_seed(0))
    noise = (difference.lr - difference.clean) * 255
    assert (noise[:, 0] - noise[:, 1]).abs().max() <= 1.001  # but for rounding


def test_jpeg_grids_begin_anywhere(windows):
    """Differences across the sides of blocks are larger; where they lie must vary from crop to crop."""
    lr, hr = windows
    mix = only(jpeg=(10.0, 10.0), full_chroma=1.0)
    phases = set()
    for seed in range(6):
        crops = degrade_crops(lr, hr, mix, 8, WHOLE, torch.Generator().manual_seed(seed))
        steps = crops.lr.diff(dim=-1).abs().mean((1, 2))
        phases |= {int(row[: 8 * (len(row) // 8)].view(-1, 8).mean(0).argmax()) for row in steps}
    assert len(phases) >= 6


def test_a_second_jpeg_leaves_two_grids(windows):
    lr, hr = windows
    once, twice = (only(jpeg=(20.0, 20.0), twice=part) for part in (0.0, 1.0))
    errors = [
        float((crops.lr - crops.clean).square().mean())
        for crops in (degrade_crops(lr, hr, mix, 8, WHOLE, torch.Generator().manual_seed(3)) for mix in (once, twice))
    ]
    assert errors[1] > 1.1 * errors[0]


def test_blurred_crops_are_blurred_before_they_are_shrunk(windows):
    lr, hr = windows
    crops = degrade_crops(lr, hr, only(blur=(0.8, 0.8)), 8, WHOLE, torch.Generator().manual_seed(0))
    expected = degrade_bicubic(blurred(hr, 3.2), 4)[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert float((crops.lr - expected).abs().max()) <= 1.001 / 255
    assert float((crops.clean - expected).abs().max()) > 10 / 255


@pytest.mark.parametrize("parts", [[slice(0, 8)], [slice(0, 4), slice(4, 8)]])
def test_processes_that_share_a_batch_degrade_as_one_does(windows, parts):
    lr, hr = windows
    whole = degrade_crops(lr, hr, MIXES["photo"], 8, WHOLE, torch.Generator().manual_seed(5)).lr
    shared = [
        degrade_crops(lr[part], hr[part], MIXES["photo"], 8, part, torch.Generator().manual_seed(5)).lr
        for part in parts
    ]
    assert torch.equal(whole, torch.cat(shared))


def test_draws_go_on_from_the_generators_state():
    photos = [read_rgb8(path) for path in sorted(KODAK.glob("*.png"))]
    draws = PhotoDraws(PhotoSet(photos, (4,), 16 + 2 * MARGIN, torch.device("cpu")), 4, candidates=2)
    examples = DegradedExamples(draws, MIXES["photo"], 4, WHOLE)
    generator = torch.Generator().manual_seed(2)
    examples.draw(4, generator)
    state = generator.get_state()
    following = examples.draw(4, generator)
    resumed = examples.draw(4, torch.Generator().set_state(state))
    assert following[0].shape == (4, 3, 16, 16) and following[1].shape == (4, 3, 64, 64)
    assert all(torch.equal(one, two) for one, two in zip(following, resumed, strict=True))


def test_whole_windows_stay_in_place():
    hr = torch.rand(2, 3, 96, 96)
    crops = degrade_windows(hr, 4, DegradationMix(clean=1.0), 2, WHOLE, torch.Generator())
    torch.testing.assert_close(crops.lr, degrade_bicubic(hr, 4), rtol=0, atol=1.001 / 255)
    assert torch.equal(crops.hr, hr)
