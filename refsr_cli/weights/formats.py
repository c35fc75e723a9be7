"""Published weight files: how each family names its tensors, and what its files do not say.

Supporting another family is one more row in PUBLISHED.
"""

import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refsr_cli.errors import BadSetting, BadWeights, UnknownName
from refsr_cli.models import MODELS
from refsr_cli.models.edsr import DIV2K_MEAN
from refsr_cli.weights.files import FORMAT, Loaded, as_float32, assemble, read_safetensors, rebuild, require_file

Tensors = dict[str, Tensor]
Naming = Callable[[str], str]
"""The published name of one of our keys."""

_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Where training codes keep the weights inside a checkpoint; the first one that is there counts."""

_PREFIXES = ("module.", "_orig_mod.", "generator.", "netG.")
"""Added to every key by data parallelism, by compilation, and by training codes with two nets."""

_REMEDY = (
    "in the code it comes from, load it and run torch.save(net.state_dict(), 'weights.pt'), then give refsr that file"
)


@dataclass(frozen=True)
class Contents:
    """What a published file turns out to hold."""

    model: str
    scale: int
    config: dict[str, Any]
    naming: Naming
    dropped: tuple[str, ...] = ()
    """Prefixes of tensors that our net has no place for, after they were checked."""


@dataclass(frozen=True)
class Flavour:
    """One publisher's way to write one family of nets."""

    family: str
    marks: tuple[str, ...]
    """Beginnings of keys (patterns) that together only this family has."""
    read: Callable[[Path, Tensors, float | None], Contents] | None = None
    """From the path, the tensors and the wanted `res_scale`; None for a family that is known but not supported."""


def load_any(path: Path, *, flavour: str | None = None, res_scale: float | None = None) -> Loaded:
    """Builds the net of a weight file: ours, or a published one whose layout is recognised by its keys.

    `flavour` is a key of PUBLISHED; without it, files of super-image are told by their name or their config.json, and
    everything else is read as the first row that fits. `res_scale` is the factor on each residual, which published
    files do not hold. The metadata of a published file says how it was read: `source`, and `res_scale` where it
    matters. No code in the file is run.

    Raises BadWeights for any file that cannot be used, UnknownName for an unknown `flavour`, and BadSetting where
    either argument is given for our own file.
    """
    if flavour is not None and flavour not in PUBLISHED:
        raise UnknownName("flavour of weights", flavour, PUBLISHED)
    metadata, tensors = _read(path)
    if metadata.get("format") == FORMAT:
        if flavour is not None or res_scale is not None:
            raise BadSetting(f"{path} was written by refsr and says all of itself; leave out flavour and res_scale")
        return rebuild(path, metadata, tensors)
    tensors = _without_prefixes(tensors)
    source = _choose(path, tensors, flavour)
    read = PUBLISHED[source].read
    if read is None:
        raise BadWeights(f"{path} looks like {PUBLISHED[source].family}, whose published weights refsr cannot read")
    contents = read(path, tensors, res_scale)
    used = {key: value for key, value in tensors.items() if not key.startswith(contents.dropped)}
    model = assemble(path, contents.model, contents.scale, contents.config, used, contents.naming)
    return Loaded(model, contents.model, _metadata(source, contents))


def _metadata(source: str, contents: Contents) -> dict[str, str]:
    metadata = {"source": source}
    note = f"read as {source}"
    if "res_scale" in contents.config:
        metadata["res_scale"] = f"{contents.config['res_scale']:g}"
        note += f", whose files do not say res_scale: taken as {metadata['res_scale']}"
    return {**metadata, "note": note}


# Reading files


def _read(path: Path) -> tuple[dict[str, str], Tensors]:
    require_file(path)
    if _is_safetensors(path):
        return read_safetensors(path)
    return {}, as_float32(path, _unwrapped(path, _read_checkpoint(path)))


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its beginning: eight bytes of length and a JSON object."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_checkpoint(path: Path) -> Any:
    """What `torch.save` wrote, as far as it is made of tensors and plain containers. Raises BadWeights."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice for people who write checkpoints
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            pickled = f"{path} holds a pickled {refused[1]}, which only running its code could load"
            raise BadWeights(f"{pickled}, so refsr refuses it; {_REMEDY}") from None
    except Exception as error:  # a damaged pickle or zip can raise anything
        if ".tar format" in str(error) or "TorchScript" in str(error):
            kind = "TorchScript program" if "TorchScript" in str(error) else "tar checkpoint of an early PyTorch"
            raise BadWeights(f"{path} is a {kind}, which cannot be loaded safely; {_REMEDY}") from None
    raise BadWeights(f"{path} is neither a whole PyTorch checkpoint nor safetensors; copy or download it again")


def _unwrapped(path: Path, checkpoint: Any) -> Tensors:
    """The state dict inside a checkpoint. Raises BadWeights."""
    for _ in _WRAPPERS:  # not without end: a pickle can hold itself
        if isinstance(checkpoint, dict):
            inner = (checkpoint[key] for key in _WRAPPERS if isinstance(checkpoint.get(key), dict))
            checkpoint = next(inner, checkpoint)
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise BadWeights(f"{path} holds no state dict but a {type(checkpoint).__name__}; {_REMEDY}")
    other = [str(key) for key, value in checkpoint.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if other:
        raise BadWeights(f"{path} holds no plain state dict: {', '.join(other[:4])} are not tensors; {_REMEDY}")
    return dict(checkpoint)


def _without_prefixes(tensors: Tensors) -> Tensors:
    """`tensors` without the prefixes that every key shares."""
    while True:
        prefix = next((p for p in _PREFIXES if tensors and all(key.startswith(p) for key in tensors)), None)
        if prefix is None:
            return tensors
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}


# Telling flavours apart


def _choose(path: Path, tensors: Tensors, wanted: str | None) -> str:
    """The name of the flavour that a file is to be read as. Raises BadWeights."""
    fitting = [name for name, row in PUBLISHED.items() if _has_marks(tensors, row)]
    if not fitting:
        keys = ", ".join(list(tensors)[:4])
        raise BadWeights(f"{path} has an unknown layout (first keys: {keys}); known: {', '.join(_readable())}")
    choices = [name for name in fitting if PUBLISHED[name].family == PUBLISHED[fitting[0]].family]
    if wanted is None:
        return "super-image" if "super-image" in choices and _from_super_image(path) else choices[0]
    if wanted not in choices:
        raise BadWeights(f"{path} is not laid out as {wanted}; it looks like {' or '.join(choices)}")
    return wanted


def _has_marks(tensors: Tensors, row: Flavour) -> bool:
    return all(any(re.match(mark, key) for key in tensors) for mark in row.marks)


def _readable() -> list[str]:
    return [name for name, row in PUBLISHED.items() if row.read]


def _from_super_image(path: Path) -> bool:
    return bool(re.fullmatch(r"pytorch_model_\dx\.pt", path.name)) or "n_resblocks" in _sibling_config(path)


def _sibling_config(path: Path) -> dict[str, Any]:
    """The config.json that super-image keeps beside its weights; empty where there is none."""
    try:
        config = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


# EDSR


def _rename(*rules: tuple[str, str]) -> Naming:
    """A naming that applies the first rule (pattern at the start of our key, replacement) that matches."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def theirs(key: str) -> str:
        pattern, replacement = next(rule for rule in compiled if rule[0].match(key))
        return pattern.sub(replacement, key, count=1)

    return theirs


_EDSR_PYTORCH = _rename(
    (r"head\.", "head.0."),
    (r"body\.(\d+)\.conv1\.", r"body.\1.body.0."),
    (r"body\.(\d+)\.conv2\.", r"body.\1.body.2."),
    (r"", ""),
)
_BASICSR = _rename(
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
    head = tensors[naming("head.weight")]
    if head.dim() != 4 or head.shape[1] != 3:
        raise BadWeights(f"{path} is not for RGB images: {naming('head.weight')} is {tuple(head.shape)}")
    features = head.shape[0]
    blocks = 1 + max((i for i in range(len(tensors)) if naming(f"body.{i}.conv1.weight") in tensors), default=-1)
    config = {"features": features, "blocks": blocks, "res_scale": 0.1 if features == 256 else 1.0}
    config |= pixels(path, tensors)
    if res_scale is not None:
        config["res_scale"] = res_scale
    return Contents(
        _edsr_name(features, blocks), _edsr_scale(tensors, naming), config, naming, ("sub_mean.", "add_mean.")
    )


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
    res_scale = _sibling_config(path).get("res_scale", 1.0)
    if not isinstance(res_scale, int | float):
        raise BadWeights(f"{path.with_name('config.json')} says res_scale {res_scale!r}, which is not a number")
    return {"value_range": 1.0, "mean": (0.0, 0.0, 0.0), "res_scale": float(res_scale)}


_EDSR_MARKS = (r"head\.0\.weight", r"body\.0\.body\.0\.weight")

PUBLISHED: Mapping[str, Flavour] = {
    "mdsr": Flavour("MDSR", (r"head\.0\.", r"pre_process\.")),
    "edsr-pytorch": Flavour("EDSR", _EDSR_MARKS, partial(_edsr, naming=_EDSR_PYTORCH, pixels=_edsr_pixels)),
    "torchsr": Flavour("EDSR", _EDSR_MARKS, partial(_edsr, naming=_EDSR_PYTORCH, pixels=_edsr_pixels)),
    "super-image": Flavour("EDSR", _EDSR_MARKS, partial(_edsr, naming=_EDSR_PYTORCH, pixels=_super_image_pixels)),
    "basicsr": Flavour(
        "EDSR of BasicSR",
        (r"conv_first\.weight", r"conv_after_body\."),
        partial(_edsr, naming=_BASICSR, pixels=_basicsr_pixels),
    ),
    "msrresnet": Flavour("MSRResNet of BasicSR", (r"conv_first\.", r"upconv1\.", r"conv_hr\.")),
    "srresnet": Flavour("SRResNet", (r"conv1\.0\.", r"trunk\.0\.rcb\.0\.")),
    "srdensenet": Flavour("SRDenseNet", (r"conv1\.0\.", r"dcb1\.0\.conv1\.")),
    "srdensenet-yjn870": Flavour("SRDenseNet", (r"dense_blocks\.0\.block\.0\.",)),
}
"""Rows from the most to the least particular; of rows of one family the first is the default."""
