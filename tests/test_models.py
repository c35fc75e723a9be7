"""What every net in MODELS promises, and what sets each of them apart."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.errors import BadSetting, UnknownName
from refsr_cli.images import Picture
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.folding import BORDER
from refsr_cli.layers.resample import upscale
from refsr_cli.models import MODELS, SRModel, build
from refsr_cli.models.edsr import DIV2K_MEAN
from refsr_cli.reference.offer import Offer
from refsr_cli.reference.trust import gate
from refsr_cli.weights.files import load_weights, save_weights

EVERY_SCALE = [(name, scale) for name, spec in MODELS.items() for scale in spec.net.scales]

ALONE = [(name, scale) for name, scale in EVERY_SCALE if not MODELS[name].net.needs_ref]
"""Nets that enlarge without references too."""

_STEM, _MATCHER = 555_328, 1_110_656
"""Five convolutions of VGG; two such stems."""
PARAMETERS = {
    "bicubic": {1: 0, 2: 0, 3: 0, 4: 0, 8: 0},
    "c2": {4: 8_865_547 + _STEM + _MATCHER},
    "datsr": {4: 18_026_971 + _STEM + _MATCHER},
    "edsr": {2: 40_729_603, 3: 43_680_003, 4: 43_089_923, 8: 45_450_243},
    "edsr-baseline": {2: 1_369_859, 3: 1_554_499, 4: 1_517_571, 8: 1_665_283},
    "mdsr": dict.fromkeys((2, 3, 4), 7_953_987),
    "mdsr-baseline": dict.fromkeys((2, 3, 4), 3_227_203),
    "msrresnet": {2: 1_369_859, 3: 1_554_499, 4: 1_517_571},
    "refnet": {4: 1_517_571 + (183 * 64 * 9 + 64) + 13 * (64 * 64 * 9 + 64)},
    "restorer": {1: (12 * 96 * 9 + 96) + 21 * (96 * 96 * 9 + 96) + (96 * 12 * 9 + 12)},
    "srdensenet": {2: 2_069_505, 3: 2_069_505, 4: 2_659_585, 8: 2_659_585 + 256 * 256 * 9 + 256},
    "srdensenet-h": {2: 963_329, 3: 963_329, 4: 1_553_409, 8: 1_553_409 + 256 * 256 * 9 + 256},
    "srdensenet-hl": {2: 1_258_241, 3: 1_258_241, 4: 1_848_321, 8: 1_848_321 + 256 * 256 * 9 + 256},
    "srresnet": {2: 1_399_637, 3: 1_584_277, 4: 1_547_350, 8: 1_695_063},
    "span": {2: 410_700, 3: 417_195, 4: 426_288},  # as the official code has when it is merged
    "ssen": {4: 2_916_121 + 38_720 + 3 * (126 * 64 * 9 + 126)},  # the strided convolutions, and eight groups of offsets
    "ssen-large": {4: 4_097_817 + 38_720 + 3 * (126 * 64 * 9 + 126)},
    "srresnet-3x3": {2: 1_371_989, 3: 1_556_629, 4: 1_519_702, 8: 1_667_415},
}
"""Parameters for each scale, as published (rounded, in millions) and as counted in the published files."""


def build_small(name: str, scale: int) -> SRModel:
    """The net with few features and blocks, in float64, so that every layer is there but quick and exact."""
    small: dict[str, Any] = {"features": 6, "blocks": 2, "trunk_features": 6, "trunk_blocks": 2}
    small |= {"layers": 3, "growth": 4, "bottleneck": 8, "groups": 2, "textures": (4, 6, 8), "content_blocks": 1}
    small |= {"depths": (2, 1), "heads": (2, 2), "window": 4, "extractor_blocks": 1}
    small |= {"conditioned": True}
    known = {field.name for field in fields(MODELS[name].config)}
    model = build(name, scale, {key: value for key, value in small.items() if key in known}).double().eval()
    if name == "restorer":  # which begins by changing nothing
        torch.nn.init.normal_(model.tail.weight, std=0.1)
    return model


def random_lr(model: SRModel, height: int = 7, width: int = 10) -> Tensor:
    """A batch of two, not square, whose sides are near those asked for and fit the net."""
    step = model.multiple_of
    return torch.rand(2, 3, height + -height % step, width + -width % step, dtype=torch.float64)


def enlarge(model: SRModel, lr: Tensor) -> Tensor:
    """With references of other sizes where the net needs some."""
    if not model.needs_ref:
        return model(lr)
    generator = torch.Generator().manual_seed(7)
    refs = [
        torch.rand(1, 3, *size, generator=generator).to(lr).expand(len(lr), -1, -1, -1) for size in ((37, 52), (61, 40))
    ]
    return model(lr, model.look(lr, refs))


def random_offer(model: SRModel, lr: Tensor) -> Offer:
    """What references might offer to `lr` and its enlargement."""
    base = model(lr)
    detail, own, variance = (torch.rand_like(base) * size for size in (0.1, 0.02, 0.001))
    score = torch.rand_like(lr[:, :1]) * 0.2 + 0.75
    return Offer(lr, base, detail, own, variance[:, :1], score, torch.rand_like(lr) * 0.1, torch.rand_like(lr))


@pytest.mark.parametrize(("name", "scale"), EVERY_SCALE)
def test_output_is_scale_times_the_input_and_depends_on_nothing_else(name: str, scale: int) -> None:
    model = build_small(name, scale)
    lr = random_lr(model)
    before = lr.clone()
    sr = enlarge(model, lr)
    assert sr.shape == (2, 3, scale * lr.shape[2], scale * lr.shape[3])
    assert torch.isfinite(sr).all()
    assert torch.equal(enlarge(model, lr), sr), "a second run gives another answer"
    assert torch.equal(lr, before), "the input was changed in place"
    torch.testing.assert_close(enlarge(model, lr[1:]), sr[1:], msg="an image of a batch depends on the others")


@pytest.mark.parametrize(("name", "scale"), EVERY_SCALE)
def test_gradient_reaches_the_input_and_every_parameter(name: str, scale: int) -> None:
    model = build_small(name, scale)
    frozen = {key for key, leaf in model.named_parameters() if model.needs_ref and not leaf.requires_grad}
    never = {key for key in frozen if not key.startswith("trunk.")}
    model.requires_grad_(True)
    lr = random_lr(model).requires_grad_()
    if model.needs_ref:
        for parameter in model.parameters():  # some begin at nought, and would let nothing through
            torch.nn.init.normal_(parameter, std=0.1)
    loss = enlarge(model, lr).square().sum()
    if model.multi_scale:  # what belongs to the other scales is reached through them
        for its in model.scales:
            model.scale = its
            loss = loss + model(lr).square().sum()
    if model.merges_refs:
        for parameter in model.parameters():  # some begin at nought, and would let nothing through
            torch.nn.init.normal_(parameter, std=0.1)
        loss = model(lr).square().sum() + sum(answer.square().sum() for answer in model.merge(random_offer(model, lr)))
    loss.backward()
    for key, leaf in [("the input", lr), *model.named_parameters()]:
        if key in never:  # features that places are found by, and a branch that only published files have
            assert leaf.grad is None, key
            continue
        assert leaf.grad is not None and leaf.grad.abs().max() > 0, key


@pytest.mark.parametrize(("name", "scale"), EVERY_SCALE)
def test_number_of_parameters(name: str, scale: int) -> None:
    with torch.device("meta"):
        model = build(name, scale)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name][scale]


@pytest.mark.parametrize(("name", "scale"), EVERY_SCALE)
def test_what_is_saved_is_loaded(name: str, scale: int, tmp_path: Path) -> None:
    """The same net, of the same numbers, that gives the same result."""
    model = build_small(name, scale).float()
    if not list(model.parameters()):
        pytest.skip(f"{name} has no weights")
    save_weights(tmp_path / "net.safetensors", model, name, {})
    loaded = load_weights(tmp_path / "net.safetensors")
    assert (loaded.name, loaded.model.scale, loaded.model.config) == (name, scale, model.config)
    lr = random_lr(model).float()
    assert torch.equal(enlarge(loaded.model.eval(), lr), enlarge(model, lr))


@pytest.mark.parametrize(("name", "scale"), ALONE)
def test_tiles_make_up_the_whole(name: str, scale: int) -> None:
    picture = Picture(np.random.default_rng(0).integers(0, 256, (45, 39, 3), np.uint8), None, "png", None, None, None)
    model = build_small(name, scale).float()
    whole, tiled = (Upscaler(model, device="cpu", tile=tile)(picture).pixels.astype(int) for tile in (0, 16))
    assert np.abs(whole - tiled).max() <= 1 and (whole != tiled).mean() < 1e-3


def reach(model: SRModel) -> int:
    """How many pixels away an input pixel can be and still change an output pixel, by the gradient."""
    middle = model.receptive_field + 2
    middle += -middle % model.multiple_of
    side = 2 * middle + model.multiple_of
    lr = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    inside = slice(model.scale * middle, model.scale * (middle + 1))
    model(lr)[..., inside, inside].square().sum().backward()
    assert lr.grad is not None
    return int((lr.grad.abs().sum((0, 1)).nonzero() - middle).abs().max())


@pytest.mark.parametrize(("name", "scale"), ALONE)
def test_no_pixel_beyond_the_receptive_field_counts(name: str, scale: int) -> None:
    model = build_small(name, scale)
    assert model.receptive_field - 2 <= reach(model) <= model.receptive_field


@pytest.mark.parametrize("blocks", [1, 5])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_edsr_sees_as_far_as_its_receptive_field(scale: int, blocks: int) -> None:
    model = build("edsr", scale, {"features": 4, "blocks": blocks}).double()
    assert reach(model) == model.receptive_field


@pytest.mark.parametrize(("name", "scale"), [pair for pair in EVERY_SCALE if MODELS[pair[0]].net.foldable])
def test_folded_forward_is_forward_but_for_the_border(name: str, scale: int) -> None:
    model = build_small(name, scale)
    lr, border = random_lr(model), BORDER * scale
    inside = (..., slice(border, -border), slice(border, -border))
    torch.testing.assert_close(model.forward_folded(lr)[inside], model(lr)[inside], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "scale"), ALONE)
def test_what_is_merged_is_trusted_between_not_at_all_and_fully(name: str, scale: int) -> None:
    model = build_small(name, scale)
    lr = random_lr(model)
    with torch.no_grad():
        offer = random_offer(model, lr)
        detail, trust = model.merge(offer)
    assert detail.shape == offer.base.shape and trust.shape == offer.base[:, :1].shape
    assert trust.min() >= 0 and trust.max() <= 1
    if not model.merges_refs:
        assert torch.equal(detail, offer.detail) and torch.equal(trust, gate(offer))


@pytest.mark.parametrize(("name", "scale"), [pair for pair in EVERY_SCALE if MODELS[pair[0]].net.merges_refs])
def test_an_untrained_merger_takes_what_the_formula_takes(name: str, scale: int) -> None:
    model = build_small(name, scale)
    with torch.no_grad():
        offer = random_offer(model, random_lr(model))
        detail, trust = model.merge(offer)
    assert torch.equal(detail, offer.detail)
    assert (trust - gate(offer)).abs().max() < 0.06


@pytest.mark.parametrize(("name", "scale"), [pair for pair in EVERY_SCALE if MODELS[pair[0]].net.merges_refs])
def test_merging_sees_no_further_than_its_radius(name: str, scale: int) -> None:
    model = build_small(name, scale)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    middle = model.merge_radius + 2
    side = 2 * middle + 1
    with torch.no_grad():
        offer = random_offer(model, torch.rand(1, 3, side, side, dtype=torch.float64))
    inputs = [value.requires_grad_() for value in vars(offer).values()]
    inside = slice(scale * middle, scale * (middle + 1))
    sum(answer[..., inside, inside].square().sum() for answer in model.merge(offer)).backward()
    reaches = []
    for leaf in inputs:
        seen = leaf.grad.abs().sum((0, 1)).nonzero() // (leaf.shape[-1] // side) - middle
        reaches.append(int(seen.abs().max()))
    assert model.merge_radius - 4 <= max(reaches) <= model.merge_radius


def test_merging_can_be_differentiated() -> None:
    model = build_small("refnet", 4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        offer = random_offer(model, torch.rand(1, 3, 3, 2, dtype=torch.float64))
    names = ("detail", "own", "base", "score")

    def answers(*values: Tensor) -> tuple[Tensor, Tensor]:
        return model.merge(replace(offer, **dict(zip(names, values, strict=True))))

    assert torch.autograd.gradcheck(answers, [getattr(offer, name).requires_grad_() for name in names])


def test_a_reference_net_starts_from_its_trunk_and_leaves_it_alone() -> None:
    model = build("refnet", 4, {"trunk_features": 6, "trunk_blocks": 2})
    trunk = build("edsr-baseline", 4, {"features": 6, "blocks": 2})
    model.start_from(trunk, "a trunk")
    lr = torch.rand(1, 3, 9, 8)
    assert torch.equal(model(lr), trunk(lr))
    assert all(key.startswith("merger.") for key, value in model.named_parameters() if value.requires_grad)
    with pytest.raises(BadSetting, match="a file is not the trunk of this net"):
        model.start_from(build("edsr-baseline", 4, {"features": 6, "blocks": 1}), "a file")
    with pytest.raises(BadSetting, match="a file is another net"):
        model.start_from(build("refnet", 4, {"trunk_features": 6, "trunk_blocks": 1}), "a file")


@pytest.mark.parametrize(
    ("scale", "source_scale", "new"),
    [(2, 4, []), (4, 2, ["tail.0.2"]), (3, 2, ["tail.0.0"]), (8, 2, ["tail.0.2", "tail.0.4"])],
)
def test_a_net_for_another_scale_keeps_what_edsrs_authors_keep(scale: int, source_scale: int, new: list[str]) -> None:
    """Their code leaves those weights of the tail as they are whose shapes differ: the first stage of a tail for 4 or 8
    has the shape of that for 2, and the last convolution is the same for all."""
    small = {"features": 6, "blocks": 1}
    for partly in (False, True):
        model, source = build("edsr-baseline", scale, small), build("edsr-baseline", source_scale, small)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model.start_from(source, "a file", partly=partly)
        theirs = source.state_dict()
        kept = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert kept == {key for key in before if key.rpartition(".")[0] not in new}
        assert all(torch.equal(model.state_dict()[key], theirs[key]) for key in kept)


def test_bicubic_is_matlabs() -> None:
    lr = torch.rand(1, 3, 5, 9)
    assert torch.equal(build("bicubic", 3)(lr), upscale(lr, 3))


@pytest.mark.parametrize(("scale", "factors"), [(2, [2]), (3, [3]), (4, [2, 2]), (8, [2, 2, 2])])
def test_edsr_is_the_net_of_the_paper(scale: int, factors: list[int]) -> None:
    model = build_small("edsr", scale)
    weights = model.state_dict()

    def conv(x: Tensor, key: str) -> Tensor:
        return F.conv2d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], padding=1)

    lr = random_lr(model)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).double().view(1, 3, 1, 1)
    head = conv(255 * lr - 255 * mean, "head")
    x = head
    for block in ("body.0", "body.1"):
        x = x + 0.1 * conv(conv(x, f"{block}.conv1").relu(), f"{block}.conv2")
    x = conv(x, "body.2") + head
    for stage, factor in enumerate(factors):
        x = F.pixel_shuffle(conv(x, f"tail.0.{2 * stage}"), factor)
    torch.testing.assert_close(model(lr), conv(x, "tail.1") / 255 + mean)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_edsr_shifts_the_mean_inside(scale: int) -> None:
    model = build_small("edsr", scale)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    expected = torch.tensor(DIV2K_MEAN).double().view(1, 3, 1, 1).expand(2, 3, 7 * scale, 10 * scale)
    torch.testing.assert_close(model(random_lr(model)), expected)


def test_edsr_weights_hold_no_mean() -> None:
    model = build("edsr-baseline", 2)
    assert set(model.state_dict()) == {key for key, _ in model.named_parameters()}


def test_edsr_scales_its_residuals_by_a_tenth() -> None:
    assert build("edsr", 2, {"features": 4}).get_submodule("body.0").res_scale == 0.1
    assert build("edsr-baseline", 2).get_submodule("body.0").res_scale == 1


@pytest.mark.parametrize(
    ("name", "scale", "config", "wanted"),
    [
        ("srresnet-3x3", 2, {"blocks": 8}, 780_109),
        ("srresnet-3x3", 2, {"blocks": 12}, 1_076_049),
        ("srresnet-3x3", 2, {"blocks": 24}, 1_963_869),
        ("srdensenet", 4, {"luma_only": False}, 2_666_499),
        ("srdensenet-hl", 4, {"luma_only": False}, 1_855_235),
        ("srdensenet-h", 4, {"luma_only": False}, 1_560_323),
        ("srdensenet", 4, {"kernel": 2}, 2_004_225),
        ("srdensenet-hl", 4, {"kernel": 2}, 1_192_961),
        ("srdensenet-h", 4, {"kernel": 2}, 1_061_889),
    ],
)
def test_number_of_parameters_of_variants(name: str, scale: int, config: dict[str, Any], wanted: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build(name, scale, config).parameters()) == wanted


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("srresnet", {"upsampler": "bicubic"}),
        ("srresnet", {"global_skip": False}),
        ("srresnet-3x3", {}),
        ("srdensenet", {"upsampler": "pixelshuffle"}),
        ("srdensenet", {"luma_only": False, "kernel": 2, "bottleneck_relu": False}),
    ],
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_options_of_a_net(name: str, config: dict[str, Any], precision: torch.dtype) -> None:
    """Each makes another net, which enlarges, learns, and in lower precision does about the same."""
    torch.manual_seed(1)
    model = build(name, 4, {"blocks": 2, **config}).eval()
    lr = torch.rand(1, 3, 12, 10)
    plain = model(lr)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        sr = model(lr)
    assert sr.shape == (1, 3, 48, 40)
    assert (sr.float() - plain).abs().max() <= 0.1 * plain.std() + 0.02
    sr.float().square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_without_the_global_skip_the_input_stage_is_not_added() -> None:
    """The two differ by what the head gives, sent through the same tail."""
    lr = torch.rand(1, 3, 8, 8)
    with_skip, without = (build("srresnet", 2, {"blocks": 1, "global_skip": skip}).eval() for skip in (True, False))
    without.load_state_dict(with_skip.state_dict())
    assert not torch.allclose(with_skip(lr), without(lr))
    for net in (with_skip, without):
        for parameter in net.head.parameters():
            torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(with_skip(lr), without(lr))


def test_build_replaces_numbers_of_one_net_only() -> None:
    narrow = build("edsr-baseline", 2, {"features": 8})
    assert sum(parameter.numel() for parameter in narrow.parameters()) < PARAMETERS["edsr-baseline"][2]
    assert MODELS["edsr-baseline"].config.features == 64


def test_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown model 'esdr'; did you mean 'edsr'"):
        build("esdr", 4)


@pytest.mark.parametrize("scale", [0, 1, 5])
def test_a_scale_that_the_net_does_not_have_names_those_it_has(scale: int) -> None:
    with pytest.raises(BadSetting, match=f"'edsr' has no scale {scale}; it has 2, 3, 4, 8"):
        build("edsr", scale)


def test_an_unknown_number_is_refused_by_name() -> None:
    with pytest.raises(BadSetting, match=r"'edsr' cannot be built from .*'wings'"):
        build("edsr", 4, {"wings": 2})
