"""`import refsr_cli as refsr`: what goes in comes out larger, whatever kind it is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import refsr_cli as refsr
from refsr_cli.errors import BadImage, BadSetting
from refsr_cli.images import read_image
from refsr_cli.packaged import packaged

FLOWERPOT = packaged("examples/images") / "flowerpot"
FAST = {"model": "bicubic"}


@pytest.fixture(scope="module")
def photo() -> PIL.Image.Image:
    return PIL.Image.open(FLOWERPOT / "LR/flowerpot.png").convert("RGB").crop((40, 30, 88, 70))


@pytest.fixture(scope="module")
def result(photo) -> np.ndarray:
    return np.asarray(refsr.upscale(photo, 2, restore=0.0))


def test_every_kind_comes_back_as_it_was_and_shows_the_same(photo, result, tmp_path):
    array = np.asarray(photo)
    assert result.shape == (80, 96, 3) and result.dtype == np.uint8
    photo.save(tmp_path / "a.png")
    assert np.array_equal(refsr.upscale(array, 2, restore=0.0), result)
    assert np.array_equal(refsr.upscale(tmp_path / "a.png", 2, restore=0.0), result)
    assert np.array_equal(refsr.upscale(str(tmp_path / "a.png"), 2, restore=0.0), result)
    assert np.array_equal(refsr.upscale((tmp_path / "a.png").read_bytes(), 2, restore=0.0), result)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    assert torch.equal(refsr.upscale(tensor, 2, restore=0.0), torch.from_numpy(result.copy()).permute(2, 0, 1))
    for dtype, white in ((np.uint16, 65535), (np.float32, 1.0), (np.float64, 1.0)):
        large = refsr.upscale((array / 255 * white).astype(dtype), 2, restore=0.0)
        assert large.dtype == dtype and np.abs(large / white - result / 255).max() < 0.6 / 255
    for kind in (torch.float32, torch.float16):
        large = refsr.upscale((tensor.float() / 255)[None].to(kind), 2, restore=0.0)
        assert large.shape == (1, 3, 80, 96) and large.dtype == kind
        assert (large[0].float() * 255 - torch.from_numpy(result.copy()).permute(2, 0, 1)).abs().max() < 1.1


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("P", 3), ("1", 1), ("CMYK", 3)]
)
def test_pil_images_of_every_mode(photo, mode, channels):
    large = refsr.upscale(photo.convert(mode), 2, **FAST)
    assert large.size == (96, 80) and len(large.getbands()) == channels
    grey = np.asarray(large.convert("L")).astype(int)
    if mode != "1":
        assert np.abs(grey - np.asarray(photo.convert("L").resize((96, 80), 3))).mean() < 12


def test_sixteen_bits_and_a_profile_stay(photo):
    deep = PIL.Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    large = refsr.upscale(deep, 2, **FAST)
    assert large.mode == "I;16" and len(np.unique(np.asarray(large))) > 300
    tagged = photo.copy()
    tagged.info["icc_profile"] = b"profile"
    assert refsr.upscale(tagged, 2, **FAST).info["icc_profile"] == b"profile"


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1), (20, 24, 2), (20, 24, 3), (20, 24, 4)])
def test_arrays_keep_their_channels(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert refsr.upscale(array, 2, **FAST).shape == (40, 48, *shape[2:])
    assert refsr.upscale(array, size=(30, 25), **FAST).shape == (25, 30, *shape[2:])


def test_references_help(photo):
    truth = np.asarray(PIL.Image.open(FLOWERPOT / "HR/flowerpot.png").convert("RGB")).astype(float)
    lr = read_image(FLOWERPOT / "LR/flowerpot.png").pixels[10:74, 10:90]
    part = truth[40:296, 40:360]
    refs = sorted((FLOWERPOT / "ref").iterdir())
    errors = []
    for given in ((), (refs[0],), (PIL.Image.open(refs[0]), np.asarray(PIL.Image.open(refs[1])))):
        large = refsr.upscale(lr, refs=given).astype(float)
        assert large.shape == part.shape
        errors.append(((large - part) ** 2).mean())
    assert errors[1] < 0.7 * errors[0] and errors[2] < 0.7 * errors[0]


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        (7, {}, "not int"),
        (np.zeros((4, 4), np.int32), {}, "uint8, uint16 or float"),
        (np.full((4, 4), 1.5), {}, r"in \[0, 1\]"),
        (np.full((4, 4), np.nan), {}, r"in \[0, 1\]"),
        (np.zeros((4, 4, 5), np.uint8), {}, "1 to 4 channels"),
        (np.zeros((0, 4), np.uint8), {}, "1 to 4 channels"),
        (torch.zeros(2, 3, 4, 4), {}, "1 to 4 channels"),
        (np.zeros((4, 4), np.uint8), {"scale": 0}, "from 1 to 16"),
        (np.zeros((4, 4), np.uint8), {"scale": 2, "size": (8, 8)}, "not both"),
        (np.zeros((4, 4), np.uint8), {"size": (8, 0)}, "width and height"),
        (np.zeros((4, 4), np.uint8), {"restore": 2.0}, "restore"),
    ],
)
def test_what_cannot_be(image, options, said):
    with pytest.raises(BadSetting, match=said):
        refsr.upscale(image, **options)


def test_files_that_cannot_be_read(tmp_path):
    for image in (tmp_path / "none.png", b"nonsense"):
        with pytest.raises(BadImage):
            refsr.upscale(image)


def test_names_are_there_and_cost_nothing_before_they_are_used():
    assert set(refsr.__all__) == set(dir(refsr)) and all(getattr(refsr, name) for name in refsr.__all__)
    with pytest.raises(AttributeError, match="no attribute 'upscaled'"):
        _ = refsr.upscaled
    code = "import sys, refsr_cli; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    root = Path(refsr.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "set()\n"
