"""Published files of MDSR, SRResNet and SRDenseNet give the output that their own code gives."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from refsr_cli.cli import app
from refsr_cli.errors import BadSetting, BadWeights
from refsr_cli.models import build
from refsr_cli.models.edsr import DIV2K_MEAN
from refsr_cli.weights.formats import load_any
from refsr_cli.weights.store import load_model

Tensors = dict[str, Tensor]


def weights(generator: torch.Generator, name: str, *shape: int, bias: bool = True) -> Tensors:
    """A convolution, or its transpose, of which `shape` has the outputs first."""
    spread = (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
    tensors = {f"{name}.weight": spread * torch.randn(*shape, generator=generator)}
    return tensors | ({f"{name}.bias": 0.1 * torch.randn(shape[0], generator=generator)} if bias else {})


def norm(generator: torch.Generator, name: str, features: int) -> Tensors:
    """Batch normalisation that has seen something."""
    return {
        f"{name}.weight": 1 + 0.2 * torch.randn(features, generator=generator),
        f"{name}.bias": 0.1 * torch.randn(features, generator=generator),
        f"{name}.running_mean": 0.1 * torch.randn(features, generator=generator),
        f"{name}.running_var": 0.5 + torch.rand(features, generator=generator),
        f"{name}.num_batches_tracked": torch.tensor(9),
    }


def conv(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    weight, bias = tensors[f"{name}.weight"].to(x), tensors.get(f"{name}.bias")
    return F.conv2d(x, weight, None if bias is None else bias.to(x), padding=weight.shape[-1] // 2)


def normalised(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    weight, bias, mean, variance = (
        tensors[f"{name}.{part}"].to(x).view(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def prelu(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, tensors[f"{name}.weight"].to(x) * x)


def deconvolved(tensors: Tensors, name: str, x: Tensor, factor: int) -> Tensor:
    """A transposed convolution as a sum over what each pixel gives to those around it."""
    weight, bias = tensors[f"{name}.weight"].to(x), tensors[f"{name}.bias"].to(x)
    side = weight.shape[-1]
    height, width = (factor * length for length in x.shape[-2:])
    padding = (side - factor + 1) // 2
    large = x.new_zeros(len(x), weight.shape[1], height + side, width + side)
    for i in range(side):
        for j in range(side):
            given = torch.einsum("io,nihw->nohw", weight[:, :, i, j], x)
            large[..., i : i + height : factor, j : j + width : factor] += given
    return large[..., padding : padding + height, padding : padding + width] + bias.view(1, -1, 1, 1)


def assert_same_output(path: Path, expected: Callable[[Tensor], Tensor], scale: int, **choice: object) -> None:
    image = torch.rand(1, 3, 7, 6)
    with torch.inference_mode():
        model = load_model(None, scale, str(path), **choice).model
        assert model.scale == scale
        found, wanted = model(image).double(), expected(image.double())
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()


def keep(tensors: object, path: Path) -> Path:
    torch.save(tensors, path)
    return path


# MDSR of EDSR-PyTorch


def mdsr(generator: torch.Generator, features: int, blocks: int) -> Tensors:
    tensors = weights(generator, "head.0", features, 3, 3, 3)
    for side, sign in (("sub", -1), ("add", 1)):
        tensors[f"{side}_mean.weight"] = torch.eye(3).view(3, 3, 1, 1)
        tensors[f"{side}_mean.bias"] = sign * 255 * torch.tensor(DIV2K_MEAN)
    for number, scale in enumerate((2, 3, 4)):
        for block in range(2):
            for layer in (0, 2):
                tensors |= weights(generator, f"pre_process.{number}.{block}.body.{layer}", features, features, 5, 5)
        for stage, factor in enumerate([3] if scale == 3 else [2] * (scale // 2)):
            tensors |= weights(generator, f"upsample.{number}.{2 * stage}", features * factor**2, features, 3, 3)
    for block in range(blocks):
        for layer in (0, 2):
            tensors |= weights(generator, f"body.{block}.body.{layer}", features, features, 3, 3)
    return (
        tensors
        | weights(generator, f"body.{blocks}", features, features, 3, 3)
        | weights(generator, "tail.0", 3, features, 3, 3)
    )


def run_mdsr(tensors: Tensors, image: Tensor, blocks: int, scale: int, res_scale: float = 1.0) -> Tensor:
    def block(name: str, x: Tensor, factor: float = 1.0) -> Tensor:
        return x + factor * conv(tensors, f"{name}.body.2", conv(tensors, f"{name}.body.0", x).relu())

    number = scale - 2
    x = conv(tensors, "head.0", conv(tensors, "sub_mean", 255 * image))
    x = entered = block(f"pre_process.{number}.1", block(f"pre_process.{number}.0", x))
    for count in range(blocks):
        x = block(f"body.{count}", x, res_scale)
    x = conv(tensors, f"body.{blocks}", x) + entered
    for stage, factor in enumerate([3] if scale == 3 else [2] * (scale // 2)):
        x = F.pixel_shuffle(conv(tensors, f"upsample.{number}.{2 * stage}", x), factor)
    return conv(tensors, "add_mean", conv(tensors, "tail.0", x)) / 255


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_mdsr(tmp_path, generator, scale):
    tensors = mdsr(generator, 5, 3)
    path = keep(tensors, tmp_path / "mdsr.pt")
    assert_same_output(path, lambda image: run_mdsr(tensors, image, 3, scale), scale)
    assert_same_output(path, lambda image: run_mdsr(tensors, image, 3, scale, 0.5), scale, res_scale=0.5)


@pytest.mark.parametrize(("blocks", "name"), [(16, "mdsr-baseline"), (80, "mdsr")])
def test_mdsr_by_its_size(tmp_path, generator, blocks, name):
    loaded = load_any(keep(mdsr(generator, 2, blocks), tmp_path / "a.pt"))
    assert loaded.name == name and loaded.model.config.blocks == blocks


def test_mdsr_for_other_scales_is_refused(tmp_path, generator):
    tensors = mdsr(generator, 4, 1)
    tensors = {key: value for key, value in tensors.items() if not key.startswith(("pre_process.2", "upsample.2"))}
    with pytest.raises(BadWeights, match=r"12 missing \(pre_process\.2\.0\.body\.0\.weight"):
        load_any(keep(tensors, tmp_path / "two_scales.pt"))


# SRResNet of SRGAN-PyTorch


def srresnet(generator: torch.Generator, features: int, blocks: int, scale: int, kernel: int) -> Tensors:
    def slope() -> Tensor:
        return 0.3 * torch.rand(1, generator=generator)

    tensors = weights(generator, "conv1.0", features, 3, kernel, kernel) | {"conv1.1.weight": slope()}
    for block in range(blocks):
        for layer in (0, 3):
            name = f"trunk.{block}.rcb.{layer}"
            tensors |= weights(generator, name, features, features, 3, 3, bias=False)
            tensors |= norm(generator, f"trunk.{block}.rcb.{layer + 1}", features)
        tensors[f"trunk.{block}.rcb.2.weight"] = slope()
    tensors |= weights(generator, "conv2.0", features, features, 3, 3, bias=False) | norm(
        generator, "conv2.1", features
    )
    for stage, factor in enumerate([3] if scale == 3 else [2] * (scale.bit_length() - 1)):
        name = f"upsampling.{stage}.upsample_block"
        tensors |= weights(generator, f"{name}.0", features * factor**2, features, 3, 3) | {f"{name}.2.weight": slope()}
    return tensors | weights(generator, "conv3", 3, features, kernel, kernel)


def run_srresnet(tensors: Tensors, image: Tensor, blocks: int, scale: int) -> Tensor:
    x = shallow = prelu(tensors, "conv1.1", conv(tensors, "conv1.0", image))
    for block in range(blocks):
        name = f"trunk.{block}.rcb"
        inner = prelu(tensors, f"{name}.2", normalised(tensors, f"{name}.1", conv(tensors, f"{name}.0", x)))
        x = x + normalised(tensors, f"{name}.4", conv(tensors, f"{name}.3", inner))
    x = shallow + normalised(tensors, "conv2.1", conv(tensors, "conv2.0", x))
    for stage, factor in enumerate([3] if scale == 3 else [2] * (scale.bit_length() - 1)):
        name = f"upsampling.{stage}.upsample_block"
        x = prelu(tensors, f"{name}.2", F.pixel_shuffle(conv(tensors, f"{name}.0", x), factor))
    return conv(tensors, "conv3", x)


@pytest.mark.parametrize(("kernel", "name"), [(9, "srresnet"), (3, "srresnet-3x3")])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_srresnet(tmp_path, generator, scale, kernel, name):
    tensors = srresnet(generator, 6, 2, scale, kernel)
    path = keep({"epoch": 3, "state_dict": tensors}, tmp_path / f"SRResNet_x{scale}.pth.tar")
    assert_same_output(path, lambda image: run_srresnet(tensors, image, 2, scale), scale)
    assert load_any(path).name == name


def test_srresnet_compiled_and_of_early_days(tmp_path, generator):
    tensors = srresnet(generator, 6, 2, 4, 9)
    early = {
        key.replace("conv", "conv_block", 1) if key[:4] == "conv" else key: value for key, value in tensors.items()
    }
    for number, state in enumerate(({f"_orig_mod.{key}": value for key, value in tensors.items()}, early)):
        path = keep({"state_dict": state}, tmp_path / f"{number}.pth.tar")
        assert_same_output(path, lambda image: run_srresnet(tensors, image, 2, 4), 4)


@pytest.mark.parametrize("block", ["rcb", "rc_block"])
@pytest.mark.parametrize("scale", [2, 4])
def test_srresnet_of_2021(tmp_path, generator, block, scale):
    """The layers of the tail stood in one row then, and a block had two names."""
    tensors = srresnet(generator, 6, 2, scale, 9)

    def renamed(key):
        key = key.replace("conv", "conv_block", 1) if key[:4] == "conv" else key.replace(".rcb.", f".{block}.")
        stage, _, rest = key.removeprefix("upsampling.").partition(".upsample_block.")
        layer, _, part = rest.partition(".")
        return f"upsampling.{3 * int(stage) + int(layer)}.{part}" if rest else key

    path = keep({renamed(key): value for key, value in tensors.items()}, tmp_path / "a.pth")
    assert_same_output(path, lambda image: run_srresnet(tensors, image, 2, scale), scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_msrresnet_of_basicsr(tmp_path, generator, scale):
    factors = [2, 2] if scale == 4 else [scale]
    tensors = weights(generator, "conv_first", 6, 3, 3, 3)
    for block in range(3):
        tensors |= weights(generator, f"body.{block}.conv1", 6, 6, 3, 3)
        tensors |= weights(generator, f"body.{block}.conv2", 6, 6, 3, 3)
    for number, factor in enumerate(factors, 1):
        tensors |= weights(generator, f"upconv{number}", 6 * factor**2, 6, 3, 3)
    tensors |= weights(generator, "conv_hr", 6, 6, 3, 3) | weights(generator, "conv_last", 3, 6, 3, 3)

    def run(image: Tensor) -> Tensor:
        def leaky(x: Tensor) -> Tensor:
            return torch.maximum(x, 0.1 * x)

        x = leaky(conv(tensors, "conv_first", image))
        for block in range(3):
            x = x + conv(tensors, f"body.{block}.conv2", conv(tensors, f"body.{block}.conv1", x).clamp(min=0))
        for number, factor in enumerate(factors, 1):
            x = leaky(F.pixel_shuffle(conv(tensors, f"upconv{number}", x), factor))
        base = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
        return conv(tensors, "conv_last", leaky(conv(tensors, "conv_hr", x))) + base

    path = keep({"params": tensors}, tmp_path / "a.pth")
    assert_same_output(path, run, scale)
    assert load_any(path).name == "msrresnet"


def test_a_mean_that_no_file_says_is_taken_from_the_user(tmp_path, generator):
    """BasicSR subtracts `rgb_mean` of its options and keeps that out of its files; EDSR-PyTorch's hold theirs."""
    small = build("edsr", 2, {"features": 6, "blocks": 1, "res_scale": 1.0}).eval()
    theirs = {"head": "conv_first", "body.0.conv": "body.0.conv", "body.1": "conv_after_body", "tail.0": "upsample"}
    theirs |= {"tail.1": "conv_last"}
    state = {}
    for key, value in small.state_dict().items():
        own = next(name for name in theirs if key.startswith(name))
        state[key.replace(own, theirs[own], 1)] = value
    path, mean = keep({"params": state}, tmp_path / "EDSR.pth"), (0.5, 0.4, 0.3)
    assert "the mean colour as 0.4488" in load_any(path).metadata["note"]
    loaded = load_any(path, rgb_mean=mean)
    assert loaded.model.config.mean == mean and "the mean colour as 0.5, 0.4, 0.3" in loaded.metadata["note"]
    image, shift = torch.rand(1, 3, 7, 6), torch.tensor(mean).view(1, 3, 1, 1)
    shallow = conv(state, "conv_first", 255 * (image - shift))
    deep = shallow + conv(state, "body.0.conv2", conv(state, "body.0.conv1", shallow).clamp(min=0))
    deep = shallow + conv(state, "conv_after_body", deep)
    large = conv(state, "conv_last", F.pixel_shuffle(conv(state, "upsample.0", deep), 2))
    torch.testing.assert_close(loaded.model.eval()(image), large / 255 + shift, rtol=0, atol=1e-4)
    hr = keep({"params": state, "other": 1}, tmp_path / "again.pth")
    told = CliRunner().invoke(app, ["weights", "inspect", str(hr), "--rgb-mean", "0.5,0.4"])
    assert told.exit_code == 2 and "0.4488,0.4371,0.4040" in " ".join(told.output.split())
    told = CliRunner().invoke(app, ["weights", "inspect", str(hr), "--rgb-mean", "114,111,103"])
    assert told.exit_code == 2 and "three numbers in 0 to 1" in " ".join(told.output.split())
    ours = CliRunner().invoke(app, ["weights", "inspect", "edsr-baseline-x2", "--rgb-mean", "0.5,0.4,0.3"])
    assert ours.exit_code == 2 and "says all of itself" in " ".join(ours.output.split())
    other = keep(srresnet(generator, 6, 2, 2, 9), tmp_path / "srresnet.pth")
    with pytest.raises(BadSetting, match="leave out rgb_mean"):
        load_any(other, rgb_mean=mean)


def test_srresnet_truncated(tmp_path, generator):
    tensors = srresnet(generator, 6, 2, 4, 9)
    del tensors["trunk.0.rcb.1.running_mean"], tensors["conv3.bias"]
    with pytest.raises(BadWeights, match=r"2 missing \(trunk\.0\.rcb\.1\.running_mean, conv3\.bias\)"):
        load_any(keep(tensors, tmp_path / "a.pth.tar"))


# SRDenseNet


def srdensenet(generator: torch.Generator, channels: int, scale: int, kernel: int, bottleneck: int = 12) -> Tensors:
    """Three blocks of eight layers that add two features each, named as SRDenseNet-PyTorch names them."""
    tensors = weights(generator, "conv1.0", 16, channels, 3, 3)
    for block in range(1, 4):
        tensors |= weights(generator, f"dcb{block}.0.conv1", 2, 16 * block, 3, 3)
        for layer in range(2, 9):
            tensors |= weights(generator, f"dcb{block}.0.conv{layer}", 2, 2 * (layer - 1), 3, 3)
    tensors |= weights(generator, "conv2", bottleneck, 64, 1, 1)
    for stage, factor in enumerate([3] if scale == 3 else [2] * (scale.bit_length() - 1)):
        side = factor if kernel == 2 else kernel
        tensors |= weights(generator, f"upsampling.{stage}.upsample_block.0", bottleneck, bottleneck, side, side)
    return tensors | weights(generator, "conv3", channels, bottleneck, 3, 3)


def run_srdensenet(tensors: Tensors, x: Tensor, scale: int, *, relu: bool, newest_first: bool) -> Tensor:
    """As the two codes have it; they lay side by side in different orders what a block sees."""
    seen = conv(tensors, "conv1.0", x).relu()
    for block in range(1, 4):
        made = conv(tensors, f"dcb{block}.0.conv1", seen).relu()
        for layer in range(2, 9):
            made = torch.cat([made, conv(tensors, f"dcb{block}.0.conv{layer}", made).relu()], 1)
        seen = torch.cat([made, seen] if newest_first else [seen, made], 1)
    x = conv(tensors, "conv2", seen)
    x = x.relu() if relu else x
    for stage, factor in enumerate([3] if scale == 3 else [2] * (scale.bit_length() - 1)):
        x = deconvolved(tensors, f"upsampling.{stage}.upsample_block.0", x, factor).relu()
    return conv(tensors, "conv3", x)


def yjn870(tensors: Tensors) -> Tensors:
    """The same tensors under the names of the other code."""

    def theirs(key: str) -> str:
        parts = key.split(".")
        if parts[0].startswith("dcb"):
            return f"dense_blocks.{int(parts[0][3:]) - 1}.block.{int(parts[2][4:]) - 1}.conv.{parts[3]}"
        if parts[0] == "upsampling":
            return f"deconv.{2 * int(parts[1])}.{parts[4]}"
        renamed = {"conv1": "conv.conv", "conv2": "bottleneck.0", "conv3": "reconstruction"}[parts[0]]
        return f"{renamed}.{parts[-1]}"

    return {theirs(key): value for key, value in tensors.items()}


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_srdensenet(tmp_path, generator, scale):
    tensors = srdensenet(generator, 3, scale, 2)
    path = keep({"state_dict": tensors}, tmp_path / "SRDenseNet.pth.tar")
    assert_same_output(path, lambda image: run_srdensenet(tensors, image, scale, relu=False, newest_first=True), scale)


def test_srdensenet_of_early_days(tmp_path, generator):
    tensors = srdensenet(generator, 3, 4, 2)
    early = {
        key.replace("upsampling.0.upsample_block.0", "upsampling.0").replace(
            "upsampling.1.upsample_block.0", "upsampling.2"
        ): value
        for key, value in tensors.items()
    }
    path = keep(early, tmp_path / "a.pth")
    assert_same_output(path, lambda image: run_srdensenet(tensors, image, 4, relu=False, newest_first=True), 4)


@pytest.mark.parametrize("scale", [2, 4])
def test_srdensenet_of_the_other_code(tmp_path, generator, scale):
    tensors = srdensenet(generator, 3, scale, 3)
    path = keep(yjn870(tensors), tmp_path / "srdensenet_x4.pth")
    assert_same_output(path, lambda image: run_srdensenet(tensors, image, scale, relu=True, newest_first=False), scale)


def test_srdensenet_of_luma_interpolates_colour(tmp_path, generator):
    """Of RGB that is coded as published files want it, the net sees the luma alone."""
    tensors = srdensenet(generator, 1, 4, 3)
    path = keep(yjn870(tensors), tmp_path / "srdensenet_x4.pth")
    factors = torch.tensor([65.481, 128.553, 24.966]).double().view(1, 3, 1, 1) / 255
    image = torch.rand(1, 3, 7, 6)
    with torch.inference_mode():
        sr = load_any(path).model(image).double()
        y = 16 / 255 + (factors * image.double()).sum(1, keepdim=True)
        wanted = run_srdensenet(tensors, y, 4, relu=True, newest_first=False)
    assert (16 / 255 + (factors * sr).sum(1, keepdim=True) - wanted).abs().max() <= 2e-5 * wanted.abs().max()


def test_srdensenet_without_a_layer_is_refused(tmp_path, generator):
    tensors = srdensenet(generator, 1, 4, 2)
    del tensors["dcb2.0.conv5.weight"]
    with pytest.raises(BadWeights, match=r"1 missing \(dcb2\.0\.conv5\.weight\)"):
        load_any(keep(tensors, tmp_path / "a.pth"))
    del tensors["conv2.weight"]
    with pytest.raises(BadWeights, match=r"conv2\.weight is missing"):
        load_any(keep(tensors, tmp_path / "b.pth"))
