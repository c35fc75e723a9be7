"""Our own weight files: safetensors whose metadata rebuilds the net."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from refsr_cli.errors import BadSetting, BadWeights
from refsr_cli.files import digest, write_atomically
from refsr_cli.layers.unfilled import Unfilled
from refsr_cli.models import MODELS, SRModel, build

FORMAT = "refsr"
"""Value of `format` in the metadata of our own files."""

_TRUNK = "trunk."
"""Beginning of the names of the weights of a single-image net within another net."""
_BESIDE = ("trunk", "trunk_sha256")
"""In the metadata of a file that leaves them out: the name of the file beside it that holds them, and its checksum."""

_SHOWN = 4
"""So many keys of each kind of difference are named; the rest is counted."""


@dataclass(frozen=True)
class Loaded:
    """A net with its weights, and what its file says of itself."""

    model: SRModel
    name: str
    metadata: dict[str, str]


def save_weights(
    path: Path,
    model: SRModel,
    name: str,
    metadata: dict[str, str],
    dtype: torch.dtype | None = None,
    trunk: Path | None = None,
) -> None:
    """Writes `model` as safetensors whose metadata names the model, its config and its scale, and holds `metadata`.

    A `note` in `metadata` belongs to the file that it was read from, and is left out.

    `dtype` (torch.float16) makes the file smaller; `load_weights` gives float32 again. `trunk` is one of our files, to
    be kept beside this one, that holds the model's trunk, which is then left out. Raises BadSetting for a model without
    parameters or with another trunk, and BadFile where the file system refuses.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if not tensors:
        raise BadSetting(f"model '{name}' has no weights to save")
    lasting = {key: value for key, value in metadata.items() if key not in ("note", *_BESIDE)}
    if trunk:
        held = _as_trunk(trunk)
        own_trunk = {key: value for key, value in tensors.items() if key.startswith(_TRUNK)}
        if held.keys() != own_trunk.keys() or not all(torch.equal(held[key], own_trunk[key].float()) for key in held):
            raise BadSetting(f"{trunk} is not the trunk of this {name}; name the file that is, or leave --trunk out")
        tensors = {key: value for key, value in tensors.items() if key not in held}
        lasting |= dict(zip(_BESIDE, (trunk.name, digest(trunk)), strict=True))
    if dtype:
        tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}
    own = {"format": FORMAT, "model": name, "scale": str(model.scale), "config": json.dumps(asdict(model.config))}
    write_atomically(path, _in_order(save(tensors, {**lasting, **own})))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata in the order of their names, so that the same weights give the same file:
    the library writes them in another order each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(len(text) + -len(text) % 8)  # the format wants tensors aligned
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def load_weights(path: Path) -> Loaded:
    """Builds the net that a refsr weight file describes, in float32 on the CPU. No code in the file is run.

    Raises BadWeights for any file that `save_weights` did not write, or that was damaged since.
    """
    metadata, tensors = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise BadWeights(f"{path} was not written by refsr: its metadata does not name a model, a scale and a config")
    return rebuild(path, metadata, tensors)


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, floating point ones as float32. Raises BadWeights."""
    require_file(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, ValueError) as error:
        raise BadWeights(
            f"{path} is not a whole safetensors file ({_first_line(error)}); copy or download it again"
        ) from None
    return metadata, as_float32(path, tensors)


def require_file(path: Path) -> None:
    """Raises BadWeights, with what to do, where `path` is missing, a folder, empty, or only points at the real file."""
    if path.is_dir():
        raise BadWeights(f"{path} is a folder; name the weight file in it")
    if not path.exists():
        raise BadWeights(f"there is no weight file {path}; check the name")
    if not path.is_file():
        raise BadWeights(f"{path} is not a regular file; name one that holds the weights")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise BadWeights(f"cannot read {path}: {error.strerror}") from None
    if not start:
        raise BadWeights(f"{path} is empty; copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise BadWeights(
            f"{path} is a Git LFS pointer, not the weights themselves; run 'git lfs pull' where it came from"
        )


def as_float32(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with floating point ones as float32. Raises BadWeights where one holds NaN, infinity or no numbers."""
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            raise BadWeights(f"{path}: tensor '{key}' is not a plain array of real numbers; use another checkpoint")
        if value.is_floating_point() and not value.float().isfinite().all():
            raise BadWeights(f"{path} is damaged: tensor '{key}' holds NaN or infinite values; use another checkpoint")
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def rebuild(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> Loaded:
    """The net that the metadata of our own file describes, filled with `tensors`. Raises BadWeights."""
    absent = [key for key in ("model", "scale", "config") if key not in metadata]
    if absent:
        raise BadWeights(f"{path} is damaged: its metadata lacks {', '.join(absent)}; save it again")
    name, scale = metadata["model"], metadata["scale"]
    if name not in MODELS:
        raise BadWeights(f"{path} is for model '{name}', which this refsr does not have; update refsr")
    if not scale.isdecimal():
        raise BadWeights(f"{path} is damaged: its metadata says scale '{scale[:20]}'; save it again")
    config = _read_config(path, name, metadata["config"])
    if beside := trunk_beside(path, metadata):
        tensors = tensors | _as_trunk(beside)
    return Loaded(assemble(path, name, int(scale), config, tensors), name, metadata)


def trunk_beside(path: Path, metadata: Mapping[str, str]) -> Path | None:
    """The file beside `path`, or what that links to, that holds the trunk which `path` leaves out; None where it is
    whole. Raises BadWeights where that file is missing or another."""
    name, expected = (metadata.get(key) for key in _BESIDE)
    if name is None:
        return None
    if name != Path(name).name or name in ("", "..") or len(name) > 200:
        raise BadWeights(f"{path} is damaged: its metadata says trunk '{name[:20]}'; copy or download it again")
    places = [its.with_name(name) for its in (path, path.resolve())]
    beside = next((place for place in places if place.is_file()), None)
    if beside is None:
        raise BadWeights(
            f"{path} leaves out its trunk, which is {places[0].name} beside it, and that is missing; "
            "put both in one folder, or install refsr again"
        )
    if digest(beside) != expected:
        raise BadWeights(
            f"{beside} is damaged or not the file that holds the trunk of {path}; "
            "copy both again, or install refsr again"
        )
    return beside


def _as_trunk(path: Path) -> dict[str, Tensor]:
    return {f"{_TRUNK}{key}": value for key, value in read_safetensors(path)[1].items()}


def assemble(
    path: Path,
    name: str,
    scale: int,
    config: dict[str, Any],
    tensors: Mapping[str, Tensor],
    theirs: Callable[[str], str] = lambda key: key,
) -> SRModel:
    """The net `name`, filled strictly: every tensor is used, and every parameter is filled.

    `theirs` gives the name that the file uses for one of our keys. Raises BadWeights with a short list of differences.
    """
    try:
        with torch.device("meta"), Unfilled():
            expected = build(name, scale, config).state_dict()
    except (BadSetting, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise BadWeights(f"{path} describes a net that cannot be built: {_first_line(error)}") from None
    difference = _difference({theirs(key): value for key, value in expected.items()}, tensors)
    if difference:
        raise BadWeights(f"{path} does not fit model '{name}' x{scale}: {difference}; use a file made for this model")
    with Unfilled():
        model = build(name, scale, config)
    model.load_state_dict({key: tensors[theirs(key)] for key in expected})
    return model


def _read_config(path: Path, name: str, text: str) -> dict[str, Any]:
    """The fields of the model's config, each of the type that it has in MODELS."""
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise BadWeights(f"{path} is damaged: the config in its metadata is not a JSON object; save it again")
    known = {field.name: getattr(MODELS[name].config, field.name) for field in fields(MODELS[name].config)}
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise BadWeights(f"{path} has config fields unknown to model '{name}': {_listed(unknown)}; update refsr")
    return {key: _as_field(path, key, value, known[key]) for key, value in config.items()}


def _as_field(path: Path, key: str, value: Any, example: Any) -> Any:
    """`value` from JSON as a config field like `example`: a list becomes a tuple, an integer may stand for a float."""
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(example, float) and type(value) is int:
        value = float(value)
    numbers = [number for number in (value if isinstance(value, tuple) else (value,)) if isinstance(number, float)]
    if type(value) is not type(example) or not all(map(math.isfinite, numbers)):
        raise BadWeights(f"{path} is damaged: its config says {key} = {json.dumps(value)[:40]}; save it again")
    return value


def _difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What keeps `found` from filling `expected`, in a line; empty when nothing does."""
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    reshaped = [
        f"{key} is {_shape(found[key])} instead of {_shape(value)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(f"{len(keys)} {kind} ({_listed(keys)})" for kind, keys in kinds.items() if keys)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
