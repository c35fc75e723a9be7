"""Faster ways to the same result."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from refsr_cli.errors import BadSetting, RefsrError
from refsr_cli.images import read_image, to_tensor
from refsr_cli.inference.compiled import compiled
from refsr_cli.inference.fast import fast
from refsr_cli.inference.runner import runner_for
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.winograd import WideByWinograd, winograd
from refsr_cli.models import MODELS, build
from refsr_cli.packaged import packaged
from refsr_cli.weights.store import load_model

FOLDABLE = [(name, scale) for name, spec in MODELS.items() if spec.net.foldable for scale in spec.net.scales]
PHOTO = to_tensor(read_image(packaged("examples/images") / "kodak" / "kodim08.png").pixels[100:260, 150:330])


def small(name: str, scale: int) -> torch.nn.Module:
    features = {"trunk_features": 8, "trunk_blocks": 2} if name == "refnet" else {"features": 8, "blocks": 2}
    return build(name, scale, features).eval()


@pytest.mark.parametrize(("name", "scale"), FOLDABLE)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=12, deadline=None)
def test_every_size_with_its_border_is_that_of_the_plain_net(name, scale, height, width):
    """In double precision, so that nothing but rounding of 1e-16 can differ."""
    model = small(name, scale).double()
    lr = PHOTO[..., :height, :width].double()
    with torch.inference_mode():
        torch.testing.assert_close(fast(model)(lr), model(lr), rtol=0, atol=1e-11)


@pytest.mark.parametrize("weights", ["edsr-baseline-x4", "edsr-baseline-x2", "refnet-x4"])
def test_trained_nets_give_the_same_picture(weights):
    """To the rounding of 8 bit: a pixel may fall to the other side of a half, no more."""
    model = load_model(None, None, weights).model.eval()
    with torch.inference_mode():
        plain, quick = model(PHOTO).clamp(0, 1), runner_for(model)(PHOTO)
    assert float((plain - quick).abs().max()) < 1e-3 / 255
    pixels = [x.mul(255).round().to(torch.uint8).numpy().astype(int) for x in (plain, quick)]
    difference = np.abs(pixels[0] - pixels[1])
    assert difference.max() <= 1 and difference.mean() < 1e-4


def test_a_net_for_several_scales_keeps_a_tail_for_each():
    model = small("mdsr-baseline", 4)
    quick = fast(model)
    with torch.inference_mode():
        for scale in (2, 4, 3, 2):
            model.scale = scale
            torch.testing.assert_close(quick(PHOTO), model(PHOTO), rtol=0, atol=1e-4)


def test_nets_of_neither_a_linear_tail_nor_dense_convolutions_run_as_they_are():
    model = build("srdensenet", 4)
    assert fast(model) is model


def test_half_the_bits_cost_next_to_nothing():
    """bfloat16 in the body: at least 50 dB from float32, on trained weights."""
    model = load_model(None, None, "edsr-baseline-x4").model.eval()
    exact, rough = (runner_for(model, precision)(PHOTO) for precision in (torch.float32, torch.bfloat16))
    assert rough.dtype == torch.float32
    error = float((exact - rough).square().mean())
    assert error > 0 and -10 * np.log10(error) >= 50


@given(
    count=st.integers(1, 2),
    height=st.integers(3, 30),
    width=st.integers(3, 30),
    channels=st.integers(1, 9),
    features=st.integers(1, 9),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    biased=st.booleans(),
    last=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_winograd_is_convolution(count, height, width, channels, features, padding, biased, last):
    draw = torch.Generator().manual_seed(height * 31 + width)
    x = torch.randn(count, channels, height, width, generator=draw, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    weight = torch.randn(features, channels, 3, 3, generator=draw, dtype=torch.float64)
    bias = torch.randn(features, generator=draw, dtype=torch.float64) if biased else None
    expected = F.conv2d(x, weight, bias, padding=padding)
    torch.testing.assert_close(winograd(x, weight, bias, padding), expected, rtol=0, atol=1e-11)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a compiler for C++")
@pytest.mark.parametrize("name", ["edsr-baseline", "srresnet"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_compiled_net_gives_the_same(name, precision):
    model = build(name, 2, {"blocks": 2, "features": 8}).eval()
    plain, quick = (runner_for(model, precision, compile=its) for its in (False, True))
    for photo in (PHOTO, PHOTO[..., :40, :56]):
        torch.testing.assert_close(
            quick(photo), plain(photo), rtol=0, atol=1e-5 if precision == torch.float32 else 2e-2
        )


def test_what_cannot_be_compiled_is_said_in_a_sentence(monkeypatch):
    def broken(graph, inputs):
        raise FileNotFoundError("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    with pytest.raises(RefsrError, match=r"cannot be compiled here \([^\n]*no compiler here\); leave out --compile$"):
        runner_for(build("edsr-baseline", 2, {"blocks": 1, "features": 8}).eval(), compile=True)(PHOTO)
    with pytest.raises(RuntimeError, match="out of memory"):
        compiled(raising_memory)()
    with pytest.raises(BadSetting, match="--compile"):
        Upscaler(build("ssen", 4), compile=True)


@torch.compiler.disable
def raising_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


def multiplications(model: torch.nn.Module, *, plain: bool) -> int:
    """Twice those of all layers, as a runner has them computed in fp32."""
    with FlopCounterMode(display=False) as counter:
        runner_for(model, plain=plain)(PHOTO)
    return counter.get_total_flops()


def test_wide_nets_do_a_part_of_the_multiplications_for_the_same_picture():
    wide = build("edsr", 2, {"features": 128, "blocks": 3}).eval()
    fewer, all_of_them = (multiplications(wide, plain=its) for its in (False, True))
    assert fewer < 0.5 * all_of_them
    with torch.inference_mode():
        difference = runner_for(wide)(PHOTO) - runner_for(wide, plain=True)(PHOTO)
    assert float(difference.abs().max()) < 1e-3 / 255


def test_narrow_nets_and_other_layers_are_left_as_they_are():
    for layer in (
        torch.nn.Conv2d(128, 128, 3, stride=2, padding=1),
        torch.nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        torch.nn.Conv2d(128, 128, 3, padding="same"),
        torch.nn.Conv2d(256, 256, 3, groups=2),
        torch.nn.Conv2d(128, 128, 5, padding=2),
        torch.nn.Conv2d(64, 128, 3, padding=1),
    ):
        x = torch.rand(1, layer.in_channels, 64, 64)
        with torch.inference_mode():
            expected = layer(x)
            with WideByWinograd():
                assert torch.equal(layer(x), expected)
