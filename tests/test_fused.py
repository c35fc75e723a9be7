"""Fused convolutions compute what the layers compute one by one."""

import pytest
import torch
from torch import Tensor, nn

from refsr_cli.images import read_image, to_tensor
from refsr_cli.inference.cpu import fused
from refsr_cli.inference.cpu.fused import fused_on_cpu, fusing_works
from refsr_cli.inference.device import computing
from refsr_cli.inference.fast import fast
from refsr_cli.models import SRModel, build
from refsr_cli.packaged import packaged
from refsr_cli.weights.store import load_model

CPU = torch.device("cpu")
TRAINED = [("edsr-baseline", 4), ("edsr-baseline", 2), ("restorer", 1), ("refnet", 4)]
UNTRAINED = [("edsr-baseline", 3), ("mdsr-baseline", 3), ("srresnet", 4)]
here = pytest.mark.skipif(not fusing_works(torch.float32), reason="this torch has no fused convolutions")


def photo(side: int = 48) -> Tensor:
    """(1, 3, side, side) of a real photo."""
    pixels = read_image(packaged("examples/images") / "kodak/kodim08.png").pixels[100 : 100 + side, 200 : 200 + side]
    return to_tensor(pixels).contiguous(memory_format=torch.channels_last)


def prepared(name: str, scale: int) -> SRModel:
    torch.manual_seed(0)
    model = load_model(name, scale).model if (name, scale) in TRAINED else build(name, scale)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as after training
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return model.eval().to(memory_format=torch.channels_last)


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(-10 * (x.float() - truth).square().mean().log10())


@here
@torch.inference_mode()
@pytest.mark.parametrize(("name", "scale"), TRAINED + UNTRAINED)
def test_nets_give_the_same_in_fp32(name, scale):
    model, lr = prepared(name, scale), photo()
    quick = fused_on_cpu(model, torch.float32)
    assert quick is not model
    if name == "srresnet":  # its batch normalisation is folded into weights
        torch.testing.assert_close(quick(lr), model(lr), rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(quick(lr), model(lr), rtol=0, atol=0)


@pytest.mark.skipif(not fusing_works(torch.bfloat16), reason="this torch has no fused convolutions")
@torch.inference_mode()
@pytest.mark.parametrize(("name", "scale"), TRAINED)
def test_trained_nets_are_as_exact_in_bf16_as_one_by_one(name, scale):
    model, lr = prepared(name, scale), photo(96)
    truth = model(lr)
    with computing(CPU, torch.bfloat16):
        alone, quick = (psnr(its(lr), truth) for its in (model, fused_on_cpu(model, torch.bfloat16)))
    assert quick >= 54 and quick >= alone - 1.5


@here
@torch.inference_mode()
def test_the_net_itself_is_left_as_it_is():
    model = prepared("edsr-baseline", 4)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    layers = [type(layer) for layer in model.modules()]
    fused_on_cpu(model, torch.bfloat16)(photo(16))
    assert [type(layer) for layer in model.modules()] == layers
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@here
@torch.inference_mode()
def test_one_net_of_several_scales_follows_its_scale():
    model, lr = prepared("mdsr-baseline", 2), photo(40)
    quick = fast(model)
    for scale in (2, 4, 3):
        model.scale = scale
        torch.testing.assert_close(quick(lr), model(lr), rtol=0, atol=1e-5)


def test_without_the_calls_the_net_is_run_as_it_is(monkeypatch):
    model = prepared("restorer", 1)

    class NoCalls:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(name)

    fusing_works.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", NoCalls())
    try:
        assert fused_on_cpu(model, torch.float32) is model
    finally:
        fusing_works.cache_clear()


def test_calls_that_compute_something_else_are_not_used(monkeypatch):
    model = prepared("restorer", 1)
    fusing_works.cache_clear()
    monkeypatch.setattr(fused._Adding, "forward", lambda self, x, other: other)
    try:
        assert fused_on_cpu(model, torch.float32) is model
    finally:
        fusing_works.cache_clear()


def convolution(stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, stride, 1, groups=groups)


class SkipUsedTwice(nn.Module):
    """Its first sum must not be overwritten by the second, since the third reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = convolution(), convolution(), convolution()

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.first(x)
        z = self.second(y).add(0) + y
        return y + torch.add(z, self.third(z), alpha=0.1)


class SumWithItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = convolution(), convolution()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(x)
        return torch.add(z, y, alpha=0.5) + (y + y) + torch.add(self.second(y), x, alpha=0.3)


ODD = {
    "skip used twice": SkipUsedTwice,
    "sum with itself": SumWithItself,
    "one slope a channel": lambda: nn.Sequential(convolution(), nn.PReLU(8)),
    "one slope": lambda: nn.Sequential(convolution(), nn.PReLU(), convolution(), nn.SiLU()),
    "groups": lambda: nn.Sequential(convolution(groups=2), nn.ReLU(), convolution()),
    "strides": lambda: nn.Sequential(convolution(2), nn.ReLU(), convolution(2)),
    "batch norm before ReLU": lambda: nn.Sequential(convolution(), nn.BatchNorm2d(8), nn.ReLU()),
    "batch norm alone": lambda: nn.Sequential(nn.BatchNorm2d(8), convolution()),
    "leaky": lambda: nn.Sequential(convolution(), nn.LeakyReLU(0.2), convolution(), nn.GELU()),
}


@here
@torch.inference_mode()
@pytest.mark.parametrize("kind", ODD)
def test_any_mixture_of_layers_gives_the_same(kind):
    torch.manual_seed(1)
    part = ODD[kind]().eval()
    for layer in part.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.weight, 0.5, 2)
    x = torch.randn(2, 8, 15, 18)
    before = x.clone()
    torch.testing.assert_close(fused._fused(part, torch.float32)(x), part(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)
