"""Weight files of any origin: read without running code, told apart, and laid into our nets."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refsr_cli.errors import BadSetting, BadWeights, UnknownName
from refsr_cli.weights.contents import Contents, Tensors
from refsr_cli.weights.files import FORMAT, Loaded, as_float32, assemble, read_safetensors, rebuild, require_file
from refsr_cli.weights.layouts import PUBLISHED, Flavour, sibling_config

_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net", "generator_ema", "generator")
"""Where training codes keep the weights inside a checkpoint; the first one that is there counts."""

_NETS = ("generator_ema.", "net_g_ema.", "generator.", "net_g.", "netG.")
"""What training codes with several nets call the one that enlarges; the first one that is there counts."""

_COMPANIONS = ("generator", "discriminator", "net_", "netD.", "step_counter", "data_preprocessor.", "perceptual_loss.")
"""How the other keys of such a file begin."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Added to every key by data parallelism, by compilation, and by what holds the net."""

_REMEDY = (
    "in the code it comes from, load it and run torch.save(net.state_dict(), 'weights.pt'), then give refsr that file"
)


def load_any(
    path: Path,
    *more: Path,
    flavour: str | None = None,
    res_scale: float | None = None,
    rgb_mean: tuple[float, float, float] | None = None,
) -> Loaded:
    """Builds the net of a weight file: ours, or a published one whose layout is recognised by its keys. The parts of a
    reference net may be published in several files.

    `flavour` is a key of PUBLISHED; without it, files of super-image are told by their name or their config.json, and
    everything else is read as the first row that fits. `res_scale` is the factor on each residual, and `rgb_mean` the
    mean colour that is subtracted, which BasicSR keeps in its code: published files do not hold them. The metadata of
    a published file says how it was read: `source`, and `res_scale` where it matters. No code in the file is run.

    Raises BadWeights for any file that cannot be used, UnknownName for an unknown `flavour`, and BadSetting where
    an argument is given for our own file, or a mean for one that says its own.
    """
    if flavour is not None and flavour not in PUBLISHED:
        raise UnknownName("flavour of weights", flavour, PUBLISHED)
    metadata, tensors = _read(path)
    if metadata.get("format") == FORMAT:
        if more:
            raise BadSetting(f"{path} was written by refsr and is a whole net; leave out {more[0]}")
        if flavour is not None or res_scale is not None or rgb_mean is not None:
            said = "leave out flavour, res_scale and rgb_mean"
            raise BadSetting(f"{path} was written by refsr and says all of itself; {said}")
        return rebuild(path, metadata, tensors)
    tensors = _without_prefixes(tensors)
    for other in more:
        rest = _without_prefixes(_read(other)[1])
        if both := next((key for key in rest if key in tensors), None):
            raise BadWeights(f"{other} and {path} both hold {both}; name each part of a net once")
        tensors |= rest
    source = _choose(path, tensors, flavour)
    read = PUBLISHED[source].read
    if read is None:
        raise BadWeights(f"{path} looks like {PUBLISHED[source].family}, whose published weights refsr cannot read")
    contents = read(path, tensors, res_scale)
    if rgb_mean is not None:
        if not contents.mean_assumed:
            raise BadSetting(f"{path} contains the mean colour of its net, or needs none; leave out rgb_mean")
        contents.config["mean"] = rgb_mean
    used = {key: value for key, value in tensors.items() if not key.startswith(contents.dropped)} | contents.changed
    model = assemble(path, contents.model, contents.scale, contents.config, used, contents.naming)
    return Loaded(model, contents.model, _metadata(source, contents))


def _metadata(source: str, contents: Contents) -> dict[str, str]:
    metadata, taken = {"source": source}, []
    if "res_scale" in contents.config:
        metadata["res_scale"] = f"{contents.config['res_scale']:g}"
        taken.append(f"res_scale as {metadata['res_scale']}")
    if contents.mean_assumed:
        taken.append(f"the mean colour as {', '.join(f'{value:g}' for value in contents.config['mean'])}")
    note = f"read as {source}" + (f", whose files do not contain all: {' and '.join(taken)}" if taken else "")
    return {**metadata, "note": note}


# Reading files


def read_tensors(path: Path) -> Tensors:
    """The tensors of any weight file by their names, without what every name begins with. Raises BadWeights."""
    return _without_prefixes(_read(path)[1])


def _read(path: Path) -> tuple[dict[str, str], Tensors]:
    require_file(path)
    if path.suffix.lower() == ".onnx":
        raise BadWeights(f"{path} is an ONNX program, from which no net is rebuilt; give the weights it was made from")
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
    if isinstance(checkpoint, dict) and {"averaged", "optimizer", "lesson"} <= set(checkpoint):
        beside = path.with_name("model.safetensors")
        raise BadWeights(f"{path} is the checkpoint of a training; its weights are {beside}")
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
    """`tensors` without the prefixes that every key shares; of several nets the one that enlarges."""
    while True:
        shared = [prefix for prefix in _PREFIXES if tensors and all(key.startswith(prefix) for key in tensors)]
        if all(key.startswith((*_NETS, *_COMPANIONS)) for key in tensors):
            shared += [prefix for prefix in _NETS if any(key.startswith(prefix) for key in tensors)]
        if not shared:
            return tensors
        tensors = {key.removeprefix(shared[0]): its for key, its in tensors.items() if key.startswith(shared[0])}


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
    return bool(re.fullmatch(r"pytorch_model_\dx\.pt", path.name)) or "n_resblocks" in sibling_config(path)
