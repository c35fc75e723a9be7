"""Published weight files give the output that their own code gives; what cannot be loaded safely is refused."""

import collections
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from refsr_cli.errors import BadSetting, BadWeights, UnknownName
from refsr_cli.models import build
from refsr_cli.models.edsr import DIV2K_MEAN
from refsr_cli.weights.files import save_weights
from refsr_cli.weights.formats import PUBLISHED, load_any

Tensors = dict[str, Tensor]
SCALES = [2, 3, 4, 8]


# The published definitions, written out


def convolution(generator: torch.Generator, name: str, n_in: int, n_out: int, size: int = 3) -> Tensors:
    spread = 1 / (n_in * size**2) ** 0.5
    weight = spread * torch.randn(n_out, n_in, size, size, generator=generator)
    return {f"{name}.weight": weight, f"{name}.bias": 0.1 * torch.randn(n_out, generator=generator)}


def mean_shift(name: str, sign: int, rgb_range: float = 255.0) -> Tensors:
    return {
        f"{name}.weight": torch.eye(3).view(3, 3, 1, 1),
        f"{name}.bias": sign * rgb_range * torch.tensor(DIV2K_MEAN),
    }


def stages(scale: int) -> list[int]:
    """The factors of the pixel shuffles."""
    return [3] if scale == 3 else [2] * (scale.bit_length() - 1)


def edsr_pytorch(
    generator: torch.Generator, features: int, blocks: int, scale: int, rgb_range: float = 255.0
) -> Tensors:
    """A state dict as EDSR-PyTorch writes it."""
    tensors = {**mean_shift("sub_mean", -1, rgb_range), **mean_shift("add_mean", 1, rgb_range)}
    tensors |= convolution(generator, "head.0", 3, features)
    for i in range(blocks):
        for j in (0, 2):
            tensors |= convolution(generator, f"body.{i}.body.{j}", features, features)
    tensors |= convolution(generator, f"body.{blocks}", features, features)
    for i, factor in enumerate(stages(scale)):
        tensors |= convolution(generator, f"tail.0.{2 * i}", features, features * factor**2)
    return tensors | convolution(generator, "tail.1", features, 3)


def basicsr(generator: torch.Generator, features: int, blocks: int, scale: int) -> Tensors:
    """A state dict as BasicSR writes it."""
    tensors = convolution(generator, "conv_first", 3, features)
    for i in range(blocks):
        for j in (1, 2):
            tensors |= convolution(generator, f"body.{i}.conv{j}", features, features)
    tensors |= convolution(generator, "conv_after_body", features, features)
    for i, factor in enumerate(stages(scale)):
        tensors |= convolution(generator, f"upsample.{2 * i}", features, features * factor**2)
    return tensors | convolution(generator, "conv_last", features, 3)


def apply(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    """One convolution as a sum over the taps of its kernel, zeros beyond the border."""
    weight, bias = tensors[f"{name}.weight"].to(x), tensors[f"{name}.bias"].to(x)
    size = weight.shape[-1]
    height, width = x.shape[-2:]
    padded = F.pad(x, [size // 2] * 4)
    taps = [(i, j) for i in range(size) for j in range(size)]
    parts = [
        torch.einsum("oc,nchw->nohw", weight[:, :, i, j], padded[..., i : i + height, j : j + width]) for i, j in taps
    ]
    return torch.stack(parts).sum(0) + bias.view(1, -1, 1, 1)


def shuffle(x: Tensor, factor: int) -> Tensor:
    """Channel c * factor**2 + i * factor + j goes to row i and column j of each cell."""
    n, channels, height, width = x.shape
    out = x.new_zeros(n, channels // factor**2, height * factor, width * factor)
    for i in range(factor):
        for j in range(factor):
            out[..., i::factor, j::factor] = x[:, i * factor + j :: factor**2]
    return out


def trunk(tensors: Tensors, x: Tensor, blocks: int, scale: int, res_scale: float, names: Callable[..., str]) -> Tensor:
    x = shallow = apply(tensors, names("first"), x)
    for i in range(blocks):
        x = x + res_scale * apply(tensors, names("second", i), apply(tensors, names("block", i), x).clamp(min=0))
    x = shallow + apply(tensors, names("after", blocks), x)
    for i, factor in enumerate(stages(scale)):
        x = shuffle(apply(tensors, names("up", 2 * i), x), factor)
    return apply(tensors, names("last"), x)


def edsr_pytorch_names(part: str, i: int = 0) -> str:
    return {
        "first": "head.0",
        "block": f"body.{i}.body.0",
        "second": f"body.{i}.body.2",
        "after": f"body.{i}",
        "up": f"tail.0.{i}",
        "last": "tail.1",
    }[part]


def basicsr_names(part: str, i: int = 0) -> str:
    return {
        "first": "conv_first",
        "block": f"body.{i}.conv1",
        "second": f"body.{i}.conv2",
        "after": "conv_after_body",
        "up": f"upsample.{i}",
        "last": "conv_last",
    }[part]


def run_edsr_pytorch(tensors: Tensors, image: Tensor, blocks: int, scale: int, res_scale: float) -> Tensor:
    """Pixels 0..255 through the mean shifts, which are convolutions; back to 0..1."""
    x = apply(tensors, "sub_mean", image * 255)
    return apply(tensors, "add_mean", trunk(tensors, x, blocks, scale, res_scale, edsr_pytorch_names)) / 255


def run_unit_range(tensors: Tensors, image: Tensor, blocks: int, scale: int, res_scale: float) -> Tensor:
    """The same with rgb_range 1: pixels 0..1 all the way."""
    x = apply(tensors, "sub_mean", image)
    return apply(tensors, "add_mean", trunk(tensors, x, blocks, scale, res_scale, edsr_pytorch_names))


def run_super_image(tensors: Tensors, image: Tensor, blocks: int, scale: int, res_scale: float) -> Tensor:
    """Pixels 0..1; the mean shifts are in the file but never applied."""
    return trunk(tensors, image, blocks, scale, res_scale, edsr_pytorch_names)


def run_basicsr(tensors: Tensors, image: Tensor, blocks: int, scale: int, res_scale: float) -> Tensor:
    """The mean comes from the code, not from the file."""
    mean = torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1).to(image)
    return trunk(tensors, (image - mean) * 255, blocks, scale, res_scale, basicsr_names) / 255 + mean


def assert_same_output(path: Path, expected: Callable[[Tensor], Tensor], **choice: object) -> None:
    image = torch.rand(1, 3, 6, 5)
    with torch.inference_mode():
        found = load_any(path, **choice).model(image).double()
        wanted = expected(image.double())
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def keep(tensors: object, path: Path, **options: object) -> Path:
    torch.save(tensors, path, **options)
    return path


def refusal(path: Path, **choice: object) -> str:
    """What is said of a bad file: one line that names it."""
    with pytest.raises(BadWeights) as error:
        load_any(path, **choice)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


# The same output as the published code


@pytest.mark.parametrize("scale", SCALES)
def test_edsr_pytorch(tmp_path, generator, scale):
    tensors = edsr_pytorch(generator, 5, 3, scale)
    path = keep(tensors, tmp_path / "edsr.pt")
    assert_same_output(path, lambda image: run_edsr_pytorch(tensors, image, 3, scale, 1.0))
    loaded = load_any(path)
    assert loaded.model.scale == scale and loaded.metadata["source"] == "edsr-pytorch"
    assert loaded.model.config.value_range == 255 and loaded.model.config.mean == DIV2K_MEAN


@pytest.mark.parametrize("wrapper", ["params", "params_ema"])
@pytest.mark.parametrize("scale", SCALES)
def test_basicsr(tmp_path, generator, scale, wrapper):
    tensors = basicsr(generator, 5, 3, scale)
    path = keep({wrapper: tensors}, tmp_path / "edsr.pth")
    assert_same_output(path, lambda image: run_basicsr(tensors, image, 3, scale, 1.0))
    loaded = load_any(path)
    assert loaded.model.scale == scale and loaded.metadata["source"] == "basicsr"


@pytest.mark.parametrize("scale", SCALES[:3])
def test_super_image_by_file_name(tmp_path, generator, scale):
    tensors = edsr_pytorch(generator, 5, 3, scale)
    path = keep({f"module.{key}": value for key, value in tensors.items()}, tmp_path / f"pytorch_model_{scale}x.pt")
    assert_same_output(path, lambda image: run_super_image(tensors, image, 3, scale, 1.0))
    loaded = load_any(path)
    assert loaded.metadata["source"] == "super-image" and loaded.metadata["res_scale"] == "1"
    assert "read as super-image" in loaded.metadata["note"]


def test_super_image_by_its_config(tmp_path, generator):
    tensors = edsr_pytorch(generator, 5, 3, 2)
    path = keep(tensors, tmp_path / "renamed.pt")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "EDSR", "n_resblocks": 3, "res_scale": 0.5}))
    assert_same_output(path, lambda image: run_super_image(tensors, image, 3, 2, 0.5))
    assert load_any(path, flavour="edsr-pytorch").metadata["source"] == "edsr-pytorch"
    assert load_any(path, res_scale=0.25).model.config.res_scale == 0.25


@pytest.mark.parametrize("scale", SCALES)
def test_super_image_itself(tmp_path, scale):
    """The package's own net, and its own file."""
    package = pytest.importorskip("super_image")
    config = package.EdsrConfig(scale=scale, n_resblocks=3, n_feats=8, res_scale=0.5)
    theirs = package.EdsrModel(config).eval()
    theirs.save_pretrained(str(tmp_path))
    (path,) = tmp_path.glob("*.pt")
    assert_same_output(path, lambda image: theirs.double()(image))
    assert load_any(path).model.scale == scale


def test_super_images_mdsr_is_another_net(tmp_path):
    package = pytest.importorskip("super_image")
    path = keep(package.MdsrModel(package.MdsrConfig(scale=2)).state_dict(), tmp_path / "pytorch_model_2x.pt")
    assert "MDSR of super-image, which is another net" in refusal(path)


@pytest.mark.parametrize("content", ["[]", "{", '{"model_type": "bert"}'])
def test_another_config_beside_the_file_says_nothing(tmp_path, generator, content):
    (tmp_path / "config.json").write_text(content)
    assert load_any(keep(edsr_pytorch(generator, 4, 1, 2), tmp_path / "a.pt")).metadata["source"] == "edsr-pytorch"


def test_super_image_by_flavour(tmp_path, generator):
    tensors = edsr_pytorch(generator, 4, 2, 2)
    path = keep(tensors, tmp_path / "a.pt")
    assert_same_output(path, lambda image: run_super_image(tensors, image, 2, 2, 1.0), flavour="super-image")


@pytest.mark.parametrize(("rgb_range", "run"), [(255.0, run_edsr_pytorch), (1.0, run_unit_range)])
def test_torchsr_says_its_range_in_the_mean_shift(tmp_path, generator, rgb_range, run):
    tensors = edsr_pytorch(generator, 4, 2, 3, rgb_range)
    path = keep(tensors, tmp_path / "edsr64_x3.pt")
    assert_same_output(path, lambda image: run(tensors, image, 2, 3, 1.0), flavour="torchsr")


def test_the_authors_scale_residuals_at_256_features(tmp_path, generator):
    tensors = edsr_pytorch(generator, 256, 1, 2)
    path = keep(tensors, tmp_path / "a.pt")
    assert_same_output(path, lambda image: run_edsr_pytorch(tensors, image, 1, 2, 0.1))
    assert load_any(path).metadata["res_scale"] == "0.1"
    assert load_any(path, flavour="super-image").metadata["res_scale"] == "1"
    assert load_any(path, res_scale=0.3).model.config.res_scale == 0.3


@pytest.mark.parametrize(("size", "name"), [((64, 16), "edsr-baseline"), ((64, 3), "edsr")])
def test_the_model_is_named_by_its_size(tmp_path, generator, size, name):
    assert load_any(keep(edsr_pytorch(generator, *size, 2), tmp_path / "a.pt")).name == name


def test_a_mean_of_its_own(tmp_path, generator):
    tensors = edsr_pytorch(generator, 4, 1, 2)
    tensors["sub_mean.bias"], tensors["add_mean.bias"] = torch.tensor([[-51.0, -102, -153], [51, 102, 153]])
    path = keep(tensors, tmp_path / "a.pt")
    assert load_any(path).model.config.mean == pytest.approx((0.2, 0.4, 0.6))
    assert_same_output(path, lambda image: run_edsr_pytorch(tensors, image, 1, 2, 1.0))


# Containers


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "generator.",
        "netG.",
        "module._orig_mod.",
        "model.",
        "net.",
        "net_g.",
        "net_g.module.",
    ],
)
@pytest.mark.parametrize(
    "wrapper", ["params_ema", "params", "state_dict", "model_state_dict", "model", "net", "generator"]
)
def test_wrappers_and_prefixes(tmp_path, generator, wrapper, prefix):
    tensors = edsr_pytorch(generator, 4, 1, 2)
    checkpoint = {"epoch": 3, wrapper: collections.OrderedDict((prefix + k, v) for k, v in tensors.items())}
    loaded = load_any(keep(checkpoint, tmp_path / "a.pth"))
    assert torch.equal(loaded.model.state_dict()["head.weight"], tensors["head.0.weight"])


def test_averaged_weights_come_first(tmp_path, generator):
    plain, averaged = basicsr(generator, 4, 1, 2), basicsr(generator, 4, 1, 2)
    loaded = load_any(keep({"params": plain, "params_ema": averaged}, tmp_path / "a.pth"))
    assert torch.equal(loaded.model.state_dict()["head.weight"], averaged["conv_first.weight"])


def test_published_keys_in_safetensors(tmp_path, generator):
    tensors = edsr_pytorch(generator, 4, 2, 4)
    save_file(tensors, tmp_path / "edsr.safetensors")
    assert_same_output(tmp_path / "edsr.safetensors", lambda image: run_edsr_pytorch(tensors, image, 2, 4, 1.0))
    (tmp_path / "edsr.bin").write_bytes((tmp_path / "edsr.safetensors").read_bytes())
    assert load_any(tmp_path / "edsr.bin").model.scale == 4


def test_half_precision_and_the_old_container(tmp_path, generator):
    tensors = {key: value.half() for key, value in basicsr(generator, 4, 1, 2).items()}
    path = keep(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert_same_output(path, lambda image: run_basicsr(tensors, image, 1, 2, 1.0))


def test_our_own_files_come_through(tmp_path, generator):
    model = build("edsr-baseline", 3, {"features": 4, "blocks": 1})
    save_weights(tmp_path / "net.safetensors", model, "edsr-baseline", {"recipe": "short"})
    loaded = load_any(tmp_path / "net.safetensors")
    assert loaded.metadata["recipe"] == "short" and "note" not in loaded.metadata
    for choice in ({"flavour": "basicsr"}, {"res_scale": 0.1}):
        with pytest.raises(BadSetting, match="leave out flavour, res_scale and rgb_mean"):
            load_any(tmp_path / "net.safetensors", **choice)


def test_published_weights_can_be_kept_as_ours(tmp_path, generator):
    tensors = edsr_pytorch(generator, 5, 2, 2)
    loaded = load_any(keep(tensors, tmp_path / "pytorch_model_2x.pt"))
    save_weights(tmp_path / "net.safetensors", loaded.model, loaded.name, loaded.metadata)
    assert_same_output(tmp_path / "net.safetensors", lambda image: run_super_image(tensors, image, 2, 2, 1.0))


def test_notes_belong_to_the_file_they_were_read_from(tmp_path, generator):
    loaded = load_any(keep(edsr_pytorch(generator, 4, 1, 2), tmp_path / "a.pt"))
    save_weights(tmp_path / "net.safetensors", loaded.model, loaded.name, loaded.metadata)
    again = load_any(tmp_path / "net.safetensors").metadata
    assert again["source"] == "edsr-pytorch" and "note" not in again


# Files that do not fit


def test_truncated_dict(tmp_path, generator):
    tensors = edsr_pytorch(generator, 4, 3, 2)
    del tensors["body.1.body.2.bias"], tensors["tail.1.weight"]
    message = refusal(keep(tensors, tmp_path / "a.pt"))
    assert "2 missing (body.1.body.2.bias, tail.1.weight)" in message and "unexpected" not in message


def test_extra_keys(tmp_path, generator):
    tensors = edsr_pytorch(generator, 4, 1, 2) | {
        "body.0.conv1.weight": torch.zeros(4, 4, 3, 3),
        "head.weight": torch.ones(1),
    }
    message = refusal(keep(tensors, tmp_path / "a.pt"))
    assert "2 unexpected (body.0.conv1.weight, head.weight)" in message and "missing" not in message


def test_exchanged_tensors(tmp_path, generator):
    tensors = basicsr(generator, 4, 2, 2)
    tensors["conv_last.weight"], tensors["upsample.0.weight"] = (
        tensors["upsample.0.weight"],
        tensors["conv_last.weight"],
    )
    message = refusal(keep(tensors, tmp_path / "a.pt"))
    assert "conv_last.weight is 16x4x3x3 instead of 3x4x3x3" in message
    assert "upsample.0.weight is 3x4x3x3 instead of 16x4x3x3" in message


def test_grey_images(tmp_path, generator):
    tensors = edsr_pytorch(generator, 4, 1, 2) | convolution(generator, "head.0", 1, 4)
    assert "not for RGB images" in refusal(keep(tensors, tmp_path / "a.pt"))


def test_infinite_values(tmp_path, generator):
    tensors = edsr_pytorch(generator, 4, 1, 2)
    tensors["body.1.bias"][0] = float("inf")
    assert "tensor 'body.1.bias' holds NaN or infinite values" in refusal(keep(tensors, tmp_path / "a.pt"))


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(4).to_sparse(),
        torch.zeros(4, device="meta"),
        torch.zeros(4, dtype=torch.complex64),
    ],
    ids=["sparse", "meta", "complex"],
)
def test_tensors_that_are_no_plain_arrays(tmp_path, generator, odd):
    message = refusal(keep(edsr_pytorch(generator, 4, 1, 2) | {"body.1.bias": odd}, tmp_path / "a.pt"))
    assert "a.pt: tensor 'body.1.bias' is not a plain array" in message or "pickled" in message


def test_a_checkpoint_that_holds_itself(tmp_path):
    endless: dict[str, object] = {}
    endless["params"] = endless
    assert "params are not tensors" in refusal(keep(endless, tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sub_mean.weight": torch.ones(3, 3, 1, 1)}, "sub_mean that is not a plain shift"),
        ({"add_mean.weight": torch.eye(3)}, "add_mean that is not a plain shift"),
        ({"add_mean.bias": torch.zeros(3)}, "adds another mean than it subtracts"),
        ({"sub_mean.bias": torch.zeros(1)}, "adds another mean than it subtracts"),
    ],
)
def test_shifts_that_are_none(tmp_path, generator, changed, words):
    assert words in refusal(keep(edsr_pytorch(generator, 4, 1, 2) | changed, tmp_path / "a.pt"))


def test_the_wrong_flavour(tmp_path, generator):
    path = keep(edsr_pytorch(generator, 4, 1, 2), tmp_path / "a.pt")
    assert "not laid out as basicsr; it looks like edsr-pytorch or torchsr or super-image" in refusal(
        path, flavour="basicsr"
    )
    with pytest.raises(UnknownName, match="did you mean 'super-image'"):
        load_any(path, flavour="superimage")


@pytest.mark.parametrize(
    ("keys", "family"),
    [
        (("head.0.weight", "pre_process.0.0.body.0.weight", "body.0.body.0.weight"), "MDSR"),
        (
            ("head.0.0.weight", "pre_process.2.0.body.0.0.weight", "body.0.body.0.0.weight"),
            "MDSR of super-image, which is another net",
        ),
        (("conv_first.weight", "body.0.conv1.weight", "upconv1.weight", "conv_hr.weight"), "MSRResNet of BasicSR"),
        (
            ("conv_block1.0.weight", "upsampling.1.running_mean"),
            "SRGAN-PyTorch's net of August 2021, which is another net",
        ),
        (
            ("conv_block1.0.weight", "trunk.0.rc_block.0.weight", "upsampling.0.weight", "conv_block3.0.weight"),
            "SRGAN-PyTorch's net of early September 2021, which is another net",
        ),
        (("conv1.0.weight", "subpixel_conv.0.conv.weight"), "SRGAN-PyTorch's net of early 2021, which is another net"),
        (("_orig_mod.conv1.0.weight", "_orig_mod.trunk.0.rcb.0.weight"), "SRResNet"),
        (("conv1.0.weight", "dcb1.0.conv1.weight"), "SRDenseNet"),
        (("conv.conv.weight", "dense_blocks.0.block.0.conv.weight"), "SRDenseNet"),
    ],
)
def test_families_that_are_known_but_not_read(tmp_path, keys, family):
    path = keep({key: torch.zeros(1) for key in keys}, tmp_path / "a.pth")
    row = next(row for row in PUBLISHED.values() if row.family == family)
    if row.read is None:
        assert f"looks like {family}, whose published weights" in refusal(path)


def test_unknown_layout(tmp_path):
    message = refusal(keep(nn.Linear(2, 2).state_dict(), tmp_path / "a.pt"))
    assert "unknown layout (first keys: weight, bias)" in message and "basicsr" in message


@pytest.mark.parametrize(
    "content", [{}, [1, 2], torch.zeros(3), {"params": {}}, {"epoch": 3, "best": torch.zeros(1)}, 7]
)
def test_no_state_dict(tmp_path, content):
    assert "torch.save(net.state_dict(), 'weights.pt')" in refusal(keep(content, tmp_path / "a.pt"))


# Files that only their own code could load


class Net(nn.Module):
    """Stands for the net of a training code."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3)


class Trap:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"epoch": 1, "model": net}])
def test_whole_modules(tmp_path, zipped, wrap):
    path = keep(wrap(Net()), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert f"a pickled {Net.__module__}.Net" in message and "torch.save(net.state_dict(), 'weights.pt')" in message


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    """A trap that must not have sprung by the end of the test, though it would."""
    target = tmp_path / "sprung"
    yield Trap(target)
    assert not target.exists()
    pickle.loads(pickle.dumps(Trap(target)))
    assert target.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_traps_in_a_checkpoint(tmp_path, generator, trap, zipped):
    checkpoint = {"params": edsr_pytorch(generator, 4, 1, 2), "optimizer": trap}
    message = refusal(keep(checkpoint, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped))
    assert "mkdir" in message and "refuses" in message


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_traps_in_a_bare_pickle(tmp_path, trap, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(trap, protocol))
    refusal(tmp_path / "a.pkl")


def test_traps_in_an_early_tar(tmp_path, trap):
    with tarfile.open(tmp_path / "a.pth.tar", "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(trap)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert "a tar checkpoint of an early PyTorch" in refusal(tmp_path / "a.pth.tar")


def test_programs(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/version", b"3\n")
    assert "TorchScript" in refusal(tmp_path / "a.pt")


def damaged_zips(tmp_path: Path, generator: torch.Generator) -> Iterator[bytes]:
    whole = keep(edsr_pytorch(generator, 4, 1, 2), tmp_path / "whole.pt").read_bytes()
    yield from (whole[:100], whole[: len(whole) // 2], whole[:-1])
    yield whole[:120] + b"\xff" * 40 + whole[160:]
    yield b"PK\x03\x04"
    yield os.urandom(500)
    yield b"just text"


def test_damaged_files(tmp_path, generator):
    for content in damaged_zips(tmp_path, generator):
        path = tmp_path / "a.pt"
        path.write_bytes(content)
        assert "download it again" in refusal(path)


def test_missing_and_empty_files(tmp_path):
    assert "there is no weight file" in refusal(tmp_path / "a.pt")
    (tmp_path / "a.pt").touch()
    assert "is empty" in refusal(tmp_path / "a.pt")


def test_of_several_nets_the_one_that_enlarges_is_read(tmp_path, generator):
    """As MMagic saves them: the moving average beside the net itself, a discriminator, and a counter."""
    tensors = edsr_pytorch(generator, 4, 1, 2)
    other = {f"generator.{key}": torch.zeros_like(value) for key, value in tensors.items()}
    beside = {"step_counter": torch.zeros(1), "discriminator.conv.weight": torch.zeros(3)}
    averaged = {f"generator_ema.{key}": value for key, value in tensors.items()}
    path = keep({"state_dict": {**other, **averaged, **beside}}, tmp_path / "iter.pth")
    expected = load_any(keep(tensors, tmp_path / "plain.pth")).model.state_dict()
    found = load_any(path).model.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    alone = load_any(keep({**{k.replace("_ema", ""): v for k, v in averaged.items()}, **beside}, tmp_path / "b.pth"))
    assert all(torch.equal(value, alone.model.state_dict()[key]) for key, value in expected.items())


def test_a_program_is_named_as_such(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(BadWeights, match="is an ONNX program"):
        load_any(tmp_path / "net.onnx")
