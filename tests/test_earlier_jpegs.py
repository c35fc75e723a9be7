"""Pictures that were JPEGs before, whatever they were saved as since, and those that only resemble one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refsr_cli.config import EvaluateConfig
from refsr_cli.errors import BadSetting
from refsr_cli.images import Picture, Pixels, decode_image, read_image
from refsr_cli.images.jpeg import encode_jpeg
from refsr_cli.packaged import packaged
from refsr_cli.restoration.degradation import Degradation, estimate_degradation
from refsr_cli.restoration.strength import plan_restoration
from refsr_cli.tasks.evaluate import evaluate

PHOTOS = sorted((packaged("examples/images") / "kodak").glob("*.png"))


def photo(number: int, height: int = 240, width: int = 320) -> Pixels:
    """A part of a packaged photo, at full size."""
    return read_image(PHOTOS[number]).pixels[40 : 40 + height, 100 : 100 + width]


def saved(pixels: Pixels, *qualities: int) -> Picture:
    """The picture after it was saved as a JPEG so many times."""
    picture = png(pixels)
    for quality in qualities:
        picture = decode_image(encode_jpeg(picture.pixels, quality, "4:2:0"), "p")
    return picture


def png(pixels: Pixels) -> Picture:
    return Picture(np.ascontiguousarray(pixels), None, "png", None, None, None)


def estimated(pixels: Pixels) -> Degradation:
    return estimate_degradation(png(pixels))


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(("first", "second"), [(30, 98), (40, 95), (50, 100), (60, 92), (40, 90)])
def test_a_jpeg_that_was_a_coarser_one_is_restored_as_that(number, first, second):
    picture = saved(photo(number), first, second)
    assert picture.jpeg is not None
    found = plan_restoration(picture, None)
    assert found.strength == 1 and found.degradation.jpeg_quality == pytest.approx(first, abs=2)
    assert not found.degradation.certain  # the file's tables allow too little


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("qualities", [(90,), (95,), (98,), (100,), (96, 92), (95, 95)])
def test_a_fine_jpeg_that_was_no_coarser_one_is_what_its_file_says(number, qualities):
    picture = saved(photo(number), *qualities)
    assert estimate_degradation(picture).jpeg == picture.jpeg


@given(orientation=st.integers(0, 7), height=st.integers(225, 240), width=st.integers(305, 320))
@settings(max_examples=12, deadline=None)
def test_a_turned_png_shows_the_jpeg_that_it_was(orientation, height, width):
    pixels = saved(photo(1, height, width), 40).pixels
    turned = np.rot90(pixels, orientation % 4)
    found = estimated(turned[::-1] if orientation >= 4 else turned)
    assert found.jpeg_quality == pytest.approx(40, abs=3)


@given(seed=st.integers(0, 1000), bend=st.floats(-1, 1), grey=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_gradient_is_no_jpeg(seed, bend, grey):
    draw = np.random.default_rng(seed)
    down, right = np.mgrid[:1:192j, :1:256j]
    planes = []
    for _ in range(1 if grey else 3):
        plane = draw.normal() * down + draw.normal() * right + bend * (down**2 + right**2)
        low, high = draw.uniform(0, 255, 2)
        planes.append(low + (high - low) * (plane - plane.min()) / np.ptp(plane))
    assert estimated(np.stack(planes, -1).round().astype(np.uint8)).jpeg_step == 0


@pytest.mark.parametrize("module", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("offset", [0, 3, 4, 8])
def test_a_matrix_code_is_no_jpeg_and_one_saved_as_jpeg_is(module, offset):
    code = np.random.default_rng(5).integers(0, 2, (40, 40)) * 255
    pixels = np.full((256, 256, 3), 255, np.uint8)
    drawn = np.kron(code, np.ones((module, module)))[: 256 - offset, : 256 - offset]
    pixels[offset : offset + drawn.shape[0], offset : offset + drawn.shape[1]] = drawn[..., None]
    assert plan_restoration(png(pixels), None).strength == 0
    assert plan_restoration(saved(pixels, 60), None).strength == 1


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_pixels_that_were_repeated_have_no_noise(factor):
    small = np.random.default_rng(factor).integers(40, 210, (80, 80, 3))
    large = np.kron(small, np.ones((factor, factor, 1))).astype(np.uint8)
    assert estimated(small.astype(np.uint8)).noise > 10
    assert estimated(large).noise == 0


def test_a_degradation_of_no_name_is_refused():
    with pytest.raises(BadSetting, match="--degrade"):
        list(evaluate(EvaluateConfig(dataset=str(PHOTOS[0].parent), model="bicubic", degrade="", limit=1)))
