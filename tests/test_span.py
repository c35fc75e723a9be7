"""SPAN: the published net by a slow definition, its files, and merging."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.config import ConvertConfig
from refsr_cli.errors import BadSetting
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.models import build
from refsr_cli.models.edsr import DIV2K_MEAN
from refsr_cli.models.span import SPAN, ExpandedConv
from refsr_cli.tasks.weights import convert
from refsr_cli.weights.files import load_weights, save_weights
from refsr_cli.weights.formats import load_any

Tensors = dict[str, Tensor]
SMALL = {"features": 6, "blocks": 3}


def published(scale: int, features: int = 6, blocks: int = 3) -> Tensors:
    """A file of the official code, as training leaves it: `eval_conv` holds something old."""
    draw = torch.Generator().manual_seed(scale)
    tensors: Tensors = {}

    def layer(name: str, out: int, into: int, side: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(out, into, side, side, generator=draw) / (into * side**2) ** 0.5
        tensors[f"{name}.bias"] = 0.1 * torch.randn(out, generator=draw)

    def expanded(name: str, out: int, into: int) -> None:
        layer(f"{name}.sk", out, into, 1)
        layer(f"{name}.conv.0", 2 * into, into, 1)
        layer(f"{name}.conv.1", 2 * out, 2 * into, 3)
        layer(f"{name}.conv.2", out, 2 * out, 1)
        layer(f"{name}.eval_conv", out, into, 3)

    expanded("conv_1", features, 3)
    for block in range(blocks):
        for number in (1, 2, 3):
            expanded(f"block_{block + 1}.c{number}_r", features, features)
    layer("conv_cat", features, 4 * features, 1)
    expanded("conv_2", features, features)
    layer("upsampler.0", 3 * scale**2, features, 3)
    return tensors


def convolved(tensors: Tensors, name: str, x: Tensor, padding: int = 0) -> Tensor:
    return F.conv2d(x, tensors[f"{name}.weight"].double(), tensors[f"{name}.bias"].double(), padding=padding)


def in_parts(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    """What the four convolutions give far from the border, one after the other, and beside."""
    inner = convolved(tensors, f"{name}.conv.1", convolved(tensors, f"{name}.conv.0", x), padding=1)
    return convolved(tensors, f"{name}.conv.2", inner) + convolved(tensors, f"{name}.sk", x)


def original(tensors: Tensors, lr: Tensor, scale: int, blocks: int = 3) -> Tensor:
    """The forward pass of the paper's Figure 2, right but for a border as wide as its reach."""
    x = shallow = in_parts(tensors, "conv_1", (lr.double() - torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1)) * 255)
    first = inner = x
    for block in range(1, blocks + 1):
        inner = F.silu(in_parts(tensors, f"block_{block}.c1_r", x))
        y = in_parts(tensors, f"block_{block}.c3_r", F.silu(in_parts(tensors, f"block_{block}.c2_r", inner)))
        x = (y + x) * (torch.sigmoid(y) - 0.5)
        first = x if block == 1 else first
    joined = torch.cat([shallow, in_parts(tensors, "conv_2", x), first, inner], 1)
    return F.pixel_shuffle(convolved(tensors, "upsampler.0", convolved(tensors, "conv_cat", joined), 1), scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_published_file_gives_what_the_paper_defines(tmp_path, scale):
    tensors = published(scale)
    torch.save({"params_ema": tensors}, tmp_path / "span.pth")
    net = load_any(tmp_path / "span.pth").model
    assert isinstance(net, SPAN) and net.scale == scale and net.config.expanded
    lr = torch.rand(1, 3, 30, 28)
    with torch.no_grad():
        found, expected = net(lr).double(), original(tensors, lr, scale)
    edge = scale * net.receptive_field
    assert found.shape == expected.shape
    assert (found - expected)[..., edge:-edge, edge:-edge].abs().max() < 1e-4 * expected.abs().max()


def test_a_file_of_merged_weights_is_read_too(tmp_path):
    tensors = published(4)
    torch.save(tensors, tmp_path / "whole.pth")
    net = load_any(tmp_path / "whole.pth").model.merged()
    merged = {key: value for key, value in tensors.items() if ".sk." not in key and ".conv." not in key}
    theirs = dict(net.named_modules())
    for name, key in (("conv_1", "head.0"), ("block_2.c3_r", "body.1.third.0"), ("conv_2", "after.0")):
        merged[f"{name}.eval_conv.weight"] = theirs[key].weight.detach()
        merged[f"{name}.eval_conv.bias"] = theirs[key].bias.detach()
    torch.save(merged, tmp_path / "merged.pth")
    read = load_any(tmp_path / "merged.pth").model
    assert not read.config.expanded
    for key in ("head.0", "body.1.third.0", "after.0", "join.0", "tail"):
        assert torch.equal(dict(read.named_modules())[key].weight, theirs[key].weight)
    assert torch.equal(dict(read.named_modules())["body.0.first.0"].weight, tensors["block_1.c1_r.eval_conv.weight"])


def test_a_file_without_a_mean_is_read_as_such(tmp_path):
    torch.save(published(2) | {"no_norm": torch.zeros(1)}, tmp_path / "span.pth")
    config = load_any(tmp_path / "span.pth").model.config
    assert (config.value_range, config.mean) == (1.0, (0.0, 0.0, 0.0))


def test_the_net_has_the_size_of_the_paper():
    assert sum(value.numel() for value in build("span", 4).parameters()) == 426_288
    assert build("span", 4).receptive_field == 21


@pytest.mark.parametrize(("channels", "features"), [(3, 8), (8, 8), (8, 5)])
def test_four_convolutions_are_one(channels, features):
    layer = ExpandedConv(channels, features)
    x = torch.rand(1, channels, 9, 11)
    with torch.no_grad():
        inner = layer.conv(layer.widen(x))
        expected = layer.narrow(inner) + layer.skip(x)
    found = layer(x)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=0, atol=1e-5)
    found.square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in layer.parameters())


def test_merging_changes_nothing_but_the_number_of_layers():
    net = build("span", 3, {**SMALL, "expanded": True}).eval()
    lr = torch.rand(1, 3, 12, 9)
    with torch.no_grad():
        torch.testing.assert_close(net.merged()(lr), net(lr), rtol=1e-4, atol=1e-3)
    assert net.merged().merged().config == build("span", 3, SMALL).config


def test_a_training_goes_on_from_a_merged_net():
    merged = build("span", 4, SMALL)
    net = build("span", 4, {**SMALL, "expanded": True})
    count = len(net.state_dict())
    assert net.start_from(merged, "it") == f"{count} of {count} weights are those of it"
    lr = torch.rand(1, 3, 10, 10)
    with torch.no_grad():
        torch.testing.assert_close(net(lr), merged(lr), rtol=1e-4, atol=1e-3)
    net(lr).abs().mean().backward()
    assert all(value.grad is not None for value in net.parameters())
    back = build("span", 4, SMALL)
    assert "another" not in back.start_from(net, "it")
    with torch.no_grad():
        torch.testing.assert_close(back(lr), merged(lr), rtol=1e-4, atol=1e-3)
    larger = build("span", 2, {**SMALL, "expanded": True})
    larger.start_from(merged, "it")
    assert torch.equal(larger.after[0].merged()[0], net.after[0].merged()[0])
    with pytest.raises(BadSetting, match="another net"):
        build("span", 4, {"features": 7, "expanded": True}).start_from(merged, "it")


def test_files_to_be_run_are_merged(tmp_path):
    net = build("span", 2, {**SMALL, "expanded": True}).eval()
    save_weights(tmp_path / "trained.safetensors", net, "span", {})
    list(convert(ConvertConfig(weights=str(tmp_path / "trained.safetensors"), output=tmp_path / "a.safetensors")))
    read = load_weights(Path(tmp_path / "a.safetensors")).model
    assert not read.config.expanded
    assert not Upscaler(net, device="cpu").model.config.expanded
    lr = torch.rand(1, 3, 12, 9)
    with torch.no_grad():
        torch.testing.assert_close(read.eval()(lr), net(lr), rtol=1e-4, atol=1e-3)
