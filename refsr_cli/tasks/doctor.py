"""What refsr has to work with on this machine, and whether it works."""

import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from refsr_cli import __version__
from refsr_cli.data.benchmarks import BENCHMARKS, find_data_root
from refsr_cli.errors import RefsrError
from refsr_cli.images import Picture
from refsr_cli.inference.device import pick_device, pick_precision, processor_name
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.weights.manifest import read_manifest
from refsr_cli.weights.store import RESTORER, default_model, find_weights, load_model

EXTRAS = {
    "av": "videos (pip install 'refsr[video]')",
    "lmdb": "training photos in one file (pip install 'refsr[lmdb]')",
    "tensorboard": "curves of a training (pip install 'refsr[tensorboard]')",
    "onnxruntime": "refsr bench compares with it",
    "openvino": "refsr bench compares with it",
}
"""Packages that refsr uses where they are installed, and for what."""
_COLOUR = (200, 30, 90)
_CLOSE = 3
"""Levels of 255 by which a picture of one colour may come back in another."""


@dataclass(frozen=True)
class Finding:
    """One thing that was examined."""

    topic: str
    text: str
    works: bool = True
    """Whether it is as it must be."""
    kind: str = "finding"


def examine() -> Iterator[Finding]:
    """Versions, device, weights, extras, data, and a small picture enlarged. Nothing is fetched."""
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("refsr", f"{__version__}, {system}")
    yield Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield from _checked("device", _device)
    yield from _checked("weights", _weights)
    for name, purpose in EXTRAS.items():
        try:
            yield Finding(name, f"{version(name)}: {purpose}")
        except PackageNotFoundError:
            yield Finding(name, f"not installed: {purpose}")
    root = find_data_root()
    there = [name for name, spec in BENCHMARKS.items() if any((root / folder).is_dir() for folder in spec.folders)]
    yield Finding("data", f"{root}: {', '.join(there) or 'no data set'}")
    yield from _checked("self-test", _enlarged)


def _checked(topic: str, examined: Callable[[], str]) -> Iterator[Finding]:
    """What `examined` gives; where it fails, why."""
    try:
        yield Finding(topic, examined())
    except (RefsrError, RuntimeError, OSError) as error:
        yield Finding(topic, str(error).splitlines()[0] if str(error) else type(error).__name__, works=False)


def _device() -> str:
    device = pick_device("auto")
    precision = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}[pick_precision("auto", device)]
    memory = ""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        memory = f", {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    limited = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    name = processor_name(device) + (f", {limited} of them for this process" if device.type == "cpu" else "")
    return f"{device}: {name}{memory}; pictures are computed in {precision}"


def _weights() -> str:
    """Those in the package, each compared with its checksum."""
    names = [record.id for record in read_manifest() if record.repo is None]
    for name in names:
        find_weights(None, None, name, offline=True)
    chosen = default_model(4)
    return f"{', '.join(names)}; {chosen[0] if chosen else 'none'} is used where none is named"


def _enlarged() -> str:
    """A picture of one colour, whose colour must come back, through restoration and the net."""
    chosen = default_model(4)
    if chosen is None:
        raise RefsrError("no weights are packaged")
    restorer = Upscaler(load_model(RESTORER, 1).model, self_ensemble=False)
    upscaler = Upscaler(load_model(*chosen).model, self_ensemble=False, restorer=restorer, restore=1.0)
    pixels = np.full((48, 48, 3), _COLOUR, np.uint8)
    result = upscaler(Picture(pixels, None, "png", None, None, None), 4).pixels
    wrong = int(np.abs(result.astype(int) - _COLOUR).max())
    if result.shape != (192, 192, 3) or wrong > _CLOSE:
        raise RefsrError(f"a picture of one colour came back {wrong} levels off; try --precision fp32, and report this")
    return "a picture of one colour was restored and enlarged, and kept its colour"
