"""What is taken of the detail that references offer: what the input contradicts, and what nothing supports, is not."""

import numpy as np
import pytest
import torch

from refsr_cli.data.degradations import parse_degradation
from refsr_cli.images import Picture, read_image, read_rgb8, to_pixels, to_tensor
from refsr_cli.inference.results import finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.resample import blurred, downscale, upscale
from refsr_cli.packaged import packaged
from refsr_cli.reference.bank import RefBank, open_reference
from refsr_cli.reference.offer import Offer
from refsr_cli.reference.trust import SUPPORT_RADIUS, add_detail
from refsr_cli.weights.store import load_model

KODAK = packaged("examples/images") / "kodak" / "kodim05.png"
BLUR = 0.7


@pytest.fixture(scope="module")
def hr() -> torch.Tensor:
    return to_tensor(read_image(KODAK).pixels[96:352, 128:416])


def offer_of(hr: torch.Tensor, blur: float) -> Offer:
    """What a reference that is the picture itself offers to it, blurred by `blur` low-resolution pixels."""
    lr = downscale(hr, 4).clamp(0, 1)
    base = upscale(blurred(lr, blur) if blur else lr, 4).clamp(0, 1)
    quality = torch.zeros_like(lr)
    quality[:, 2] = blur
    return Offer(lr, base, hr - base, hr - hr, (hr - hr)[:, :1], torch.ones_like(lr[:, :1]), 0 * lr, quality)


def nothing_contradicts(shrunk: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(shrunk)


@pytest.mark.parametrize("blur", [0, BLUR])
@pytest.mark.parametrize("side", [12, 160])
def test_a_blurred_picture_takes_no_detail_that_has_none_around(hr, blur, side):
    offer = offer_of(hr, blur)
    trust = torch.zeros_like(offer.base[:, :1])
    trust[..., 40 : 40 + side, 40 : 40 + side] = 1
    sr, left = add_detail(offer, offer.detail, trust, nothing_contradicts)
    if blur and side == 12:
        assert torch.equal(sr, offer.base) and not left.any()
    else:
        torch.testing.assert_close(left, trust)
        torch.testing.assert_close(sr, offer.base + trust * offer.detail)


def test_detail_all_over_is_taken_up_to_the_border_and_of_small_pictures(hr):
    for part in (hr, hr[..., :32, :32]):
        offer = offer_of(part, BLUR)
        trust = torch.full_like(offer.base[:, :1], 0.2)
        _, left = add_detail(offer, offer.detail, trust, nothing_contradicts)
        torch.testing.assert_close(left, trust)


def test_a_little_blur_withdraws_in_part(hr):
    left = []
    for blur in (0.3, 0.45, 0.6):
        offer = offer_of(hr, blur)
        trust = torch.zeros_like(offer.base[:, :1])
        trust[..., 100:112, 100:112] = 1
        left.append(float(add_detail(offer, offer.detail, trust, nothing_contradicts)[1].sum() / trust.sum()))
    assert left == pytest.approx([0.4, 0.1, 0.0], abs=1e-4)


def test_support_reaches_as_far_as_is_said(hr):
    """What is done to a pixel depends on nothing beyond the radius that tiles are widened by."""
    offer = offer_of(hr, BLUR)
    row = column = 4 * SUPPORT_RADIUS + 8
    trust = torch.rand_like(offer.base[:, :1]) * 0.2
    _, before = add_detail(offer, offer.detail, trust, nothing_contradicts)
    near, far = trust.clone(), trust.clone()
    near[..., row + 4 * (SUPPORT_RADIUS - 2) :, :] = 1
    far[..., row + 4 * (SUPPORT_RADIUS + 1) :, :] = 1
    _, changed = add_detail(offer, offer.detail, near, nothing_contradicts)
    _, kept = add_detail(offer, offer.detail, far, nothing_contradicts)
    assert torch.equal(kept[..., :row, :column], before[..., :row, :column])
    assert not torch.equal(changed[..., row - 4 : row, :column], before[..., row - 4 : row, :column])


def test_tiles_of_a_blurred_picture_are_as_the_whole():
    """A tall one: the surroundings that a tile is computed with are hundreds of pixels."""
    photos = sorted(KODAK.parent.glob("*.png"))[:3]
    hr = torch.cat([to_tensor(read_image(photo).pixels)[..., :512, 100:228] for photo in photos], 2)
    lr = parse_degradation("blur:0.7").shrink(hr, 4, "p")
    picture = Picture(to_pixels(lr, np.zeros((1, 1, 3), np.uint8)), None, "png", None, None, None)
    net, restorer = load_model("refnet", 4).model, load_model("restorer", 1).model
    restore = Upscaler(restorer, device="cpu", precision="fp32", self_ensemble=False)
    results = []
    for tile in (0, 128):
        upscaler = Upscaler(net, device="cpu", precision="fp32", self_ensemble=False, tile=tile, restorer=restore)
        plan = upscaler.plan(picture)
        assert plan.degradation.softness, "the blur was not found"
        refs = RefBank([open_reference("r", lambda: read_rgb8(photos[1])[:, 10:500, 90:240])])
        results.append(finished(upscaler.enlarge(picture, *hr.shape[2:], refs, plan)))
    whole, tiled = results
    assert whole.trust is not None and tiled.trust is not None and whole.trust.mean() > 20
    assert np.abs(whole.picture.pixels.astype(int) - tiled.picture.pixels).max() <= 1
    assert np.abs(whole.trust.astype(int) - tiled.trust).max() <= 1
