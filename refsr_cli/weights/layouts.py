"""Published weight files: how each family names its tensors, and what its files do not say.

Supporting another family is one more row in PUBLISHED.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from refsr_cli.errors import BadWeights
from refsr_cli.models import MODELS
from refsr_cli.models.edsr import DIV2K_MEAN
from refsr_cli.weights.contents import Contents, Naming, Tensors, count_layers, first_layer, kernel_of, renamed
from refsr_cli.weights.reference_layouts import read_c2, read_datsr
from refsr_cli.weights.srresnet_layouts import (
    SRRESNET,
    early_srresnet,
    read_flat_srresnet,
    read_msrresnet,
    read_srresnet,
)


@dataclass(frozen=True)
class Flavour:
    """One publisher's way to write one family of nets."""

    family: str
    marks: tuple[str, ...]
    """Beginnings of keys (patterns) that together only this family has."""
    read: Callable[[Path, Tensors, float | None], Contents] | None = None
    """From the path, the tensors and the wanted `res_scale`; None for a family that is known but not supported."""


def sibling_config(path: Path) -> dict[str, Any]:
    """The config.json that super-image keeps beside its weights; empty where there is none."""
    try:
        config = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


# EDSR and MDSR

_EDSR_PYTORCH = renamed(
    (r"head\.", "head.0."),
    (r"body\.(\d+)\.conv1\.", r"body.\1.body.0."),
    (r"body\.(\d+)\.conv2\.", r"body.\1.body.2."),
    (r"", ""),
)
_BASICSR = renamed(
    (r"head\.", "conv_first."),
    (r"body\.\d+\.(?=weight|bias)", "conv_after_body."),
    (r"tail\.0\.", "upsample."),
    (r"tail\.1\.", "conv_last."),
    (r"", ""),
)


def _edsr(
    path: Path,
    tensors: Tensors,
    res_scale: float | None,
    *,
    naming: Naming,
    pixels: Callable[[Path, Tensors], dict[str, Any]],
) -> Contents:
    """Reads the size of an EDSR off its shapes; `pixels` gives the config's `value_range` and `mean`.

    `res_scale` is 0.1 at 256 features and 1 otherwise, as trained by the authors, unless it is given.
    """
    features = first_layer(path, tensors, naming("head.weight")).shape[0]
    blocks = count_layers(tensors, lambda i: naming(f"body.{i}.conv1.weight"))
    config: dict[str, Any] = {"features": features, "blocks": blocks, "res_scale": 0.1 if features == 256 else 1.0}
    config |= pixels(path, tensors)
    if res_scale is not None:
        config["res_scale"] = res_scale
    shifts = ("sub_mean.", "add_mean.")
    assumed = config["mean"] == DIV2K_MEAN and not any(key.startswith(shifts) for key in tensors)
    name, scale = _edsr_name(features, blocks), _edsr_scale(tensors, naming)
    return Contents(name, scale, config, naming, shifts, mean_assumed=assumed)


def _edsr_name(features: int, blocks: int) -> str:
    """The row of MODELS with these numbers; `edsr` for any other size."""
    sizes = {name: (MODELS[name].config.features, MODELS[name].config.blocks) for name in ("edsr", "edsr-baseline")}
    return next((name for name, size in sizes.items() if size == (features, blocks)), "edsr")


def _edsr_scale(tensors: Tensors, naming: Naming) -> int:
    """3 where the first upsampling convolution makes 9 channels of each; else 2 for every such convolution."""
    stages = [tensors[key] for key in (naming(f"tail.0.{i}.weight") for i in (0, 2, 4)) if key in tensors]
    if stages and stages[0].dim() == 4 and stages[0].shape[0] == 9 * stages[0].shape[1]:
        return 3
    return int(2 ** max(len(stages), 1))


def _edsr_pixels(path: Path, tensors: Tensors) -> dict[str, Any]:
    """`value_range` and `mean` from the frozen shifts of input and output, which must undo each other."""
    if not any(key.startswith(("sub_mean.", "add_mean.")) for key in tensors):
        return {"value_range": 255.0, "mean": DIV2K_MEAN}
    identity = torch.eye(3).view(3, 3, 1, 1)
    subtracted, added = (tensors.get(f"{side}_mean.bias") for side in ("sub", "add"))
    for side in ("sub", "add"):
        weight = tensors.get(f"{side}_mean.weight")
        if weight is None or weight.shape != identity.shape or not torch.allclose(weight, identity, atol=1e-4):
            raise BadWeights(f"{path} has a {side}_mean that is not a plain shift of the mean, as EDSR's is")
    if subtracted is None or added is None or subtracted.shape != (3,) or not torch.allclose(subtracted, -added):
        raise BadWeights(f"{path} adds another mean than it subtracts, which no EDSR does")
    value_range = 255.0 if subtracted.abs().max() > 1 else 1.0
    mean = -subtracted / value_range
    if torch.allclose(mean, torch.tensor(DIV2K_MEAN), atol=1e-4):
        return {"value_range": value_range, "mean": DIV2K_MEAN}
    return {"value_range": value_range, "mean": tuple(mean.tolist())}


def _basicsr_pixels(path: Path, tensors: Tensors) -> dict[str, Any]:
    """BasicSR keeps the mean in its code, not in its files."""
    return {"value_range": 255.0, "mean": DIV2K_MEAN}


def _super_image_pixels(path: Path, tensors: Tensors) -> dict[str, Any]:
    """super-image feeds [0, 1] and never applies the shifts that its files hold; its config.json may say res_scale."""
    res_scale = sibling_config(path).get("res_scale", 1.0)
    if not isinstance(res_scale, int | float):
        raise BadWeights(f"{path.with_name('config.json')} says res_scale {res_scale!r}, which is not a number")
    return {"value_range": 1.0, "mean": (0.0, 0.0, 0.0), "res_scale": float(res_scale)}


_MDSR = renamed(
    (r"head\.", "head.0."),
    (r"((?:body|pre_process\.\d+)\.\d+)\.conv1\.", r"\1.body.0."),
    (r"((?:body|pre_process\.\d+)\.\d+)\.conv2\.", r"\1.body.2."),
    (r"tail\.", "tail.0."),
    (r"", ""),
)


def _mdsr(path: Path, tensors: Tensors, res_scale: float | None) -> Contents:
    """An MDSR for scales 2, 3 and 4, in this order; residuals are not scaled unless it is said."""
    features, blocks = (
        first_layer(path, tensors, "head.0.weight").shape[0],
        count_layers(tensors, lambda i: f"body.{i}.body.0.weight"),
    )
    config = {"features": features, "blocks": blocks, "res_scale": 1.0 if res_scale is None else res_scale}
    config |= _edsr_pixels(path, tensors)
    name = "mdsr-baseline" if blocks == MODELS["mdsr-baseline"].config.blocks else "mdsr"
    return Contents(name, 4, config, _MDSR, ("sub_mean.", "add_mean."))


# SRDenseNet

_SRDENSENET = renamed(
    (r"head\.", "conv1.0."),
    *((rf"body\.(\d+)\.layers\.{i}\.", rf"body.\1.conv{i + 1}.") for i in range(8)),
    (r"bottleneck\.", "conv2."),
    *((rf"upsample\.{2 * i}\.", f"upsampling.{i}.upsample_block.0.") for i in range(3)),
    (r"tail\.", "conv3."),
)
_YJN870 = renamed(
    (r"head\.", "conv.conv."),
    (r"body\.(\d+)\.layers\.(\d+)\.", r"dense_blocks.\1.block.\2.conv."),
    (r"bottleneck\.", "bottleneck.0."),
    (r"upsample\.", "deconv."),
    (r"tail\.", "reconstruction."),
)


def _lornatang(key: str) -> str:
    """Blocks are counted from 1."""
    return re.sub(r"^body\.(\d+)\.", lambda match: f"dcb{int(match[1]) + 1}.0.", _SRDENSENET(key))


def _early_lornatang(key: str) -> str:
    """As the same code named its layers before."""
    return re.sub(
        r"^upsampling\.(\d+)\.upsample_block\.0", lambda match: f"upsampling.{2 * int(match[1])}", _lornatang(key)
    )


def _srdensenet(
    path: Path, tensors: Tensors, res_scale: float | None, *, naming: Naming, relu: bool, newest_first: bool
) -> Contents:
    """An SRDenseNet_All. `relu` tells whether one follows the bottleneck; `newest_first`, whether of all before it a
    block sees first what the last one gave, and kernels are as large as what they enlarge by."""
    head = first_layer(path, tensors, naming("head.weight"), (1, 3))
    growth = kernel_of(path, tensors, naming("body.0.layers.0.weight")).shape[0]
    stage = kernel_of(path, tensors, naming("upsample.0.weight"))
    blocks = count_layers(tensors, lambda i: naming(f"body.{i}.layers.0.weight"))
    scale = 2 ** sum(naming(f"upsample.{2 * i}.weight") in tensors for i in range(3))
    config = {
        "skips": "all",
        "blocks": blocks,
        "layers": head.shape[0] // growth,
        "growth": growth,
        "bottleneck": stage.shape[1],
        "bottleneck_relu": relu,
        "kernel": 2 if newest_first else 3,
        "luma_only": head.shape[1] == 1,
    }
    if not newest_first:
        return Contents("srdensenet", scale, config, naming)
    keys = [*(naming(f"body.{block}.layers.0.weight") for block in range(blocks)), naming("bottleneck.weight")]
    changed = {key: torch.cat(kernel_of(path, tensors, key).split(head.shape[0], 1)[::-1], 1) for key in keys}
    return Contents("srdensenet", 3 if stage.shape[2] == 3 else scale, config, naming, changed=changed)


# SPAN

_SPAN = renamed(
    (r"head\.0\.", "conv_1."),
    (r"body\.(\d+)\.first\.0\.", r"block_\1.c1_r."),
    (r"body\.(\d+)\.second\.0\.", r"block_\1.c2_r."),
    (r"body\.(\d+)\.third\.0\.", r"block_\1.c3_r."),
    (r"after\.0\.", "conv_2."),
    (r"join\.0\.", "conv_cat."),
    (r"tail\.", "upsampler.0."),
)
_SPAN_EXPANDED = {"widen": "conv.0", "conv": "conv.1", "narrow": "conv.2", "skip": "sk"}


def _span_naming(key: str, *, expanded: bool) -> str:
    """Blocks are counted from 1; beside four convolutions lies what they amounted to when the net was last run."""
    theirs = re.sub(r"^block_(\d+)", lambda match: f"block_{int(match[1]) + 1}", _SPAN(key))
    if not re.match(r"conv_[12]\.|block_", theirs):
        return theirs
    if not expanded:
        return re.sub(r"(weight|bias)$", r"eval_conv.\1", theirs)
    layer, part, value = theirs.rsplit(".", 2)
    return f"{layer}.{_SPAN_EXPANDED[part]}.{value}"


def _span(path: Path, tensors: Tensors, res_scale: float | None) -> Contents:
    """A SPAN, as it was trained where the file holds that, else merged; a file with `no_norm` subtracts no mean."""
    expanded = "conv_1.sk.weight" in tensors
    features = first_layer(path, tensors, "conv_1.sk.weight" if expanded else "conv_1.eval_conv.weight").shape[0]
    blocks = count_layers(tensors, lambda i: f"block_{i + 1}.c1_r.{'sk' if expanded else 'eval_conv'}.weight")
    scale = round((kernel_of(path, tensors, "upsampler.0.weight").shape[0] / 3) ** 0.5)
    config: dict[str, Any] = {"features": features, "blocks": blocks, "expanded": expanded}
    normed = "no_norm" not in tensors
    config |= {"mean": DIV2K_MEAN} if normed else {"value_range": 1.0, "mean": (0.0, 0.0, 0.0)}
    stale = tuple(key for key in tensors if ".eval_conv." in key) if expanded else ()
    naming = partial(_span_naming, expanded=expanded)
    return Contents("span", scale, config, naming, (*stale, "no_norm"), mean_assumed=normed)


_EDSR_MARKS = (r"head\.0\.weight", r"body\.0\.body\.0\.weight")

PUBLISHED: Mapping[str, Flavour] = {
    "datsr": Flavour("DATSR", (r"dyn_agg_restore\.unet_head\.",), read_datsr),
    "mrefsr": Flavour("MRefSR", (r"dyn_agg_restore\.head_small\.conv_emb1\.",)),
    "c2": Flavour("C2-Matching", (r"dyn_agg_restore\.small_dyn_agg\.",), read_c2),
    "matcher": Flavour("the matching of C2-Matching or DATSR without the net", (r"feature_extraction_image1\.",)),
    "vgg19": Flavour("VGG-19, a part of C2-Matching and DATSR", (r"features\.0\.", r"features\.10\.")),
    "super-image-mdsr": Flavour("MDSR of super-image, which is another net", (r"head\.0\.0\.", r"pre_process\.")),
    "mdsr": Flavour("MDSR", (r"head\.0\.", r"pre_process\."), _mdsr),
    "edsr-pytorch": Flavour("EDSR", _EDSR_MARKS, partial(_edsr, naming=_EDSR_PYTORCH, pixels=_edsr_pixels)),
    "torchsr": Flavour("EDSR", _EDSR_MARKS, partial(_edsr, naming=_EDSR_PYTORCH, pixels=_edsr_pixels)),
    "super-image": Flavour("EDSR", _EDSR_MARKS, partial(_edsr, naming=_EDSR_PYTORCH, pixels=_super_image_pixels)),
    "basicsr": Flavour(
        "EDSR of BasicSR",
        (r"conv_first\.weight", r"conv_after_body\."),
        partial(_edsr, naming=_BASICSR, pixels=_basicsr_pixels),
    ),
    "msrresnet": Flavour("MSRResNet of BasicSR", (r"conv_first\.", r"upconv1\.", r"conv_hr\."), read_msrresnet),
    "srresnet": Flavour("SRResNet", (r"conv1\.0\.", r"trunk\.0\.rcb\.0\."), partial(read_srresnet, naming=SRRESNET)),
    "srresnet-2021": Flavour(
        "SRResNet",
        (r"conv_block1\.0\.", r"trunk\.0\.rcb\.0\.", r"upsampling\.0\.weight"),
        partial(read_flat_srresnet, block="rcb"),
    ),
    "srresnet-early": Flavour(
        "SRResNet", (r"conv_block1\.0\.", r"trunk\.0\.rcb\.0\."), partial(read_srresnet, naming=early_srresnet)
    ),
    "srresnet-2021-tanh": Flavour(
        "SRGAN-PyTorch's net of early September 2021, which is another net", (r"conv_block1\.0\.", r"conv_block3\.0\.")
    ),
    "srresnet-2021-september": Flavour(
        "SRResNet", (r"conv_block1\.0\.", r"trunk\.0\.rc_block\.0\."), partial(read_flat_srresnet, block="rc_block")
    ),
    "srresnet-2021-august": Flavour(
        "SRGAN-PyTorch's net of August 2021, which is another net",
        (r"conv_block1\.0\.", r"upsampling\.1\.running_mean"),
    ),
    "srresnet-2021-early": Flavour(
        "SRGAN-PyTorch's net of early 2021, which is another net", (r"conv1\.0\.", r"subpixel_conv\.0\.")
    ),
    "span": Flavour("SPAN", (r"conv_cat\.", r"block_1\.c1_r\."), _span),
    "srdensenet": Flavour(
        "SRDenseNet",
        (r"conv1\.0\.", r"dcb1\.0\.conv1\.", r"upsampling\.0\.upsample_block"),
        partial(_srdensenet, naming=_lornatang, relu=False, newest_first=True),
    ),
    "srdensenet-early": Flavour(
        "SRDenseNet",
        (r"conv1\.0\.", r"dcb1\.0\.conv1\."),
        partial(_srdensenet, naming=_early_lornatang, relu=False, newest_first=True),
    ),
    "srdensenet-yjn870": Flavour(
        "SRDenseNet",
        (r"dense_blocks\.0\.block\.0\.",),
        partial(_srdensenet, naming=_YJN870, relu=True, newest_first=False),
    ),
}
"""Rows from the most to the least particular; of rows of one family the first is the default."""
