"""Weight files: what they are, and ours made of others."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from refsr_cli.config import ConvertConfig, InspectConfig, SliceConfig
from refsr_cli.errors import BadSetting, BadWeights
from refsr_cli.files import digest, replacing
from refsr_cli.layers.vgg import STEM, VGGStem, imagenet_stem
from refsr_cli.weights.files import Loaded, save_weights, trunk_beside
from refsr_cli.weights.formats import load_any, read_tensors
from refsr_cli.weights.hub import Progress
from refsr_cli.weights.store import Found, find_weights


@dataclass(frozen=True)
class Inspected:
    """What a weight file is."""

    path: Path
    bytes: int
    sha256: str
    layout: str
    """`refsr`, or a key of PUBLISHED."""
    model: str
    scales: list[int]
    parameters: int
    config: dict[str, Any]
    """The numbers of the net."""
    metadata: dict[str, str]
    """What else the file says of itself, or how it was read."""
    licence: str | None
    """Where the file is one that refsr knows."""
    kind: str = "inspected"


@dataclass(frozen=True)
class Converted:
    """A file of ours that was written."""

    path: Path
    bytes: int
    model: str
    scale: int
    layout: str
    """Of the file that it was made of."""
    kind: str = "converted"


@dataclass(frozen=True)
class Slicing:
    """What is about to be read."""

    source: str
    kind: str = "slicing"


@dataclass(frozen=True)
class Sliced:
    """The part of VGG-19 that was written."""

    path: Path
    bytes: int
    kind: str = "sliced"


def inspect(config: InspectConfig, on_progress: Progress | None = None) -> Iterator[Inspected]:
    """One record. Raises BadWeights for a file that cannot be used, with the reason."""
    found, loaded = _load(config, on_progress)
    path, record, model = found.path, found.record, loaded.model
    yield Inspected(
        path,
        path.stat().st_size,
        digest(path),
        loaded.metadata.get("source", "refsr"),
        loaded.name,
        list(model.scales) if model.multi_scale else [model.scale],
        sum(parameter.numel() for parameter in model.parameters()),
        asdict(model.config),
        {key: text for key, text in loaded.metadata.items() if key not in ("format", "model", "scale", "config")},
        record.license if record else None,
    )


def convert(config: ConvertConfig, on_progress: Progress | None = None) -> Iterator[Converted]:
    """Writes one file. Raises BadWeights for a file that cannot be used, and BadSetting for one that is there or for
    another trunk than its own."""
    found, loaded = _load(config, on_progress)
    path = found.path
    beside = path if found.source == "file" else Path(path.name)  # what was fetched lies in the cache
    out = config.output or beside.with_suffix(".safetensors")
    if out.exists() and (out.samefile(path) or not config.overwrite):
        how = "give another --output" if out.samefile(path) else "--overwrite replaces it"
        raise BadSetting(f"{out} is there already; {how}")
    for trunk in (config.trunk, trunk_beside(path, loaded.metadata)):
        if trunk and out.exists() and trunk.exists() and out.samefile(trunk):
            raise BadSetting(f"{out} holds the trunk of the net; give another --output")
    if config.trunk and config.trunk.absolute().parent != out.absolute().parent:
        raise BadSetting(f"--trunk must lie beside {out}, where it will be looked for")
    kept = {key: text for key, text in loaded.metadata.items() if key in ("source", "res_scale", "step")}
    save_weights(out, loaded.model.merged(), loaded.name, kept, torch.float16 if config.half else None, config.trunk)
    layout = loaded.metadata.get("source", "refsr")
    yield Converted(out, out.stat().st_size, loaded.name, loaded.model.scale, layout)


def slice_vgg(config: SliceConfig) -> Iterator[Slicing | Sliced]:
    """Writes the five convolutions of VGG-19 that reference nets use. Raises BadSetting for a file that is there, and
    BadWeights where VGG-19 cannot be had or is something else."""
    if config.output.exists() and not config.overwrite:
        raise BadSetting(f"{config.output} is there already; --overwrite replaces it")
    if config.weights and config.output.exists() and config.output.samefile(config.weights):
        raise BadSetting(f"{config.output} is what is to be read; give another --output")
    yield Slicing(str(config.weights or "VGG-19's ImageNet weights (548 MB), from torchvision or its cache"))
    stem = imagenet_stem(fetch=True) if config.weights is None else read_tensors(config.weights)
    wanted = [f"{beginning}{kind}" for beginning in STEM for kind in ("weight", "bias")]
    absent = [key for key in wanted if key not in (stem or {})]
    if stem is None or absent:
        raise BadWeights(f"{config.weights} is not VGG-19: it lacks {absent[0]}")
    for key, its in zip(wanted, VGGStem().state_dict().values(), strict=True):
        if stem[key].shape != its.shape:
            found, usual = (" x ".join(map(str, shape)) for shape in (stem[key].shape, its.shape))
            raise BadWeights(f"{config.weights} is not VGG-19: {key} is {found}, not {usual}")
    with replacing(config.output) as unfinished:
        save_file({key: stem[key].contiguous() for key in wanted}, unfinished)
    yield Sliced(config.output, config.output.stat().st_size)


def _load(config: InspectConfig, on_progress: Progress | None) -> tuple[Found, Loaded]:
    names = (config.weights,) if isinstance(config.weights, str) else config.weights
    found, *more = (find_weights(None, config.scale, name, on_progress=on_progress) for name in names)
    record = found.record
    flavour = config.flavour or (record.flavour if record else None)
    res_scale = config.res_scale if config.res_scale is not None else (record.res_scale if record else None)
    parts = (part.path for part in more)
    return found, load_any(found.path, *parts, flavour=flavour, res_scale=res_scale, rgb_mean=config.rgb_mean)
