"""Results that shrink back to their input, up to the border."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from refsr_cli.images import Picture, read_image, to_tensor
from refsr_cli.inference.runner import FRAME, runner_for
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.backprojection import back_project, difference_from
from refsr_cli.layers.resample import downscale, local_mean, upscale
from refsr_cli.models import build
from refsr_cli.packaged import packaged
from refsr_cli.weights.store import load_model

PHOTO = packaged("examples/images") / "kodak" / "kodim08.png"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_results_shrink_nearer_to_the_input(scale):
    lr = to_tensor(read_image(PHOTO).pixels[100:160, 200:280])
    blurry = upscale(lr, scale).clamp(0, 1)
    better = back_project(blurry, difference_from(lr), scale)
    errors = [float((downscale(x, scale) - lr).square().mean()) for x in (blurry, better)]
    assert errors[1] < 0.5 * errors[0]
    assert better.min() >= 0 and better.max() <= 1


def test_what_shrinks_to_the_input_stays():
    lr = torch.full((1, 3, 16, 16), 0.3)
    hr = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(back_project(hr, difference_from(lr), 4), hr, rtol=0, atol=1e-5)


def projected_as_a_whole(sr: torch.Tensor, lr: torch.Tensor, scale: int) -> torch.Tensor:
    """The definition, slowly: later steps compute the whole picture, and change the surroundings of wrong tone."""
    for step in range(16):
        missing = lr - downscale(sr, scale)
        off = local_mean(missing, 9).abs().amax(1, keepdim=True) > 2 / 255
        if step and not off.any():
            break
        around = F.interpolate(F.max_pool2d(off.float(), 9, 1, 4), scale_factor=scale).bool() | (step == 0)
        sr = torch.where(around, (sr + upscale(missing, scale)).clamp(0, 1), sr)
        if not off.any():
            break
    return sr


@pytest.mark.parametrize(("top", "left"), [(0, 0), (20, 30), (42, 57)])
@pytest.mark.parametrize("scale", [2, 4])
def test_steps_around_wrong_tone_are_those_of_the_whole(scale, top, left):
    lr = to_tensor(read_image(PHOTO).pixels[100:160, 200:280]).clone()
    rows, columns = np.mgrid[:18, :23]
    lr[..., top : top + 18, left : left + 23] = torch.from_numpy((rows + columns) % 2).float()
    dark = upscale(lr, scale).sub(0.02).clamp(0, 1) ** 1.1
    by_parts = back_project(dark, difference_from(lr), scale)
    torch.testing.assert_close(by_parts, projected_as_a_whole(dark, lr, scale), rtol=0, atol=1e-6)


def packaged_upscaler(weights: str) -> Upscaler:
    return Upscaler(load_model(None, None, weights).model, device="cpu", precision="fp32", self_ensemble=False)


def picture(pixels: np.ndarray) -> Picture:
    return Picture(pixels.astype(np.uint8), None, "png", None, None, None)


@pytest.mark.parametrize("weights", ["edsr-baseline-x4", "edsr-baseline-x2"])
@pytest.mark.parametrize("color", [(200, 30, 90), (255, 255, 255), (0, 0, 0), (255, 0, 0)])
def test_one_colour_stays_one_colour_up_to_the_border(weights, color):
    flat = np.tile(np.array(color), (64, 64, 1))
    large = packaged_upscaler(weights)(picture(flat)).pixels.astype(int)
    assert np.abs(large - color).max() <= 3


@pytest.mark.parametrize("weights", ["edsr-baseline-x4", "edsr-baseline-x2"])
def test_fine_patterns_keep_their_tone(weights):
    rows, columns = np.mgrid[:64, :64]
    dots = np.where((rows % 2 == 0) & (columns % 2 == 0), 0, 255)
    for pattern in (dots, 255 - dots):
        pixels = np.repeat(pattern[..., None], 3, 2)
        large = packaged_upscaler(weights)(picture(pixels)).pixels
        assert abs(float(large.mean()) - float(pixels.mean())) <= 3


def test_tiles_are_framed_and_projected_as_the_whole_is():
    model = load_model(None, None, "edsr-baseline-x2").model
    pixels = read_image(PHOTO).pixels[:150, :170]
    whole, tiled = (
        Upscaler(model, device="cpu", precision="fp32", self_ensemble=False, tile=tile)(picture(pixels)).pixels
        for tile in (0, 40)
    )
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_a_framed_net_answers_inside_as_it_does_alone():
    model = build("edsr-baseline", 2, {"blocks": 2, "features": 8}).eval()
    lr = to_tensor(read_image(PHOTO).pixels[:50, :60])
    alone, framed = (runner_for(model, framed=its)(lr) for its in (False, True))
    inside = slice(2 * model.receptive_field, -2 * model.receptive_field)
    torch.testing.assert_close(framed[..., inside, inside], alone[..., inside, inside], rtol=0, atol=1e-5)
    assert not torch.allclose(framed, alone, atol=1e-4)


def test_the_frame_is_the_picture_mirrored():
    """Running a picture that is mirrored by hand gives the same."""
    model = build("edsr-baseline", 2, {"blocks": 2, "features": 8}).eval()
    pixels = read_image(PHOTO).pixels[:30, :40]
    by_hand = np.pad(pixels, ((FRAME, FRAME), (FRAME, FRAME), (0, 0)), mode="symmetric")
    expected = model(to_tensor(by_hand)).clamp(0, 1)[..., 2 * FRAME : -2 * FRAME, 2 * FRAME : -2 * FRAME]
    torch.testing.assert_close(runner_for(model, framed=True)(to_tensor(pixels)), expected.detach(), rtol=0, atol=1e-5)


def test_as_published_is_the_net_alone():
    model = build("edsr-baseline", 2, {"blocks": 2, "features": 8}).eval()
    pixels = read_image(PHOTO).pixels[:30, :40]
    result = Upscaler(model, device="cpu", precision="fp32", self_ensemble=False, as_published=True)(picture(pixels))
    expected = model(to_tensor(pixels)).clamp(0, 1).mul(255).add(0.5).floor()[0].permute(1, 2, 0)
    assert np.abs(result.pixels.astype(int) - expected.detach().numpy()).max() <= 1


def test_bicubic_stays_what_it_is(tmp_path: Path):
    pixels = read_image(PHOTO).pixels[:40, :40]
    result = Upscaler(build("bicubic", 4), device="cpu", self_ensemble=False)(picture(pixels)).pixels
    expected = upscale(to_tensor(pixels), 4).clamp(0, 1).mul(255).add(0.5).floor()[0].permute(1, 2, 0).numpy()
    assert np.abs(result.astype(int) - expected).max() <= 1
