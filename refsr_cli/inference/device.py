"""Which device and which number format to compute with, and how results leave it."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from refsr_cli.errors import BadSetting
from refsr_cli.layers.winograd import WideByWinograd


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where it is there, else the CPU. Raises BadSetting for a device that cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise BadSetting(f"device is auto, cpu, cuda, cuda:N or mps, not '{name}'; try --device cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadSetting(f"device '{name}' cannot be used ({reason}); try --device cpu") from None
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU or a CPU that computes with it, and float32 elsewhere."""
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name in known:
        return known[name]
    if name != "auto":
        raise BadSetting(f"precision is auto, {', '.join(known)}, not '{name}'")
    if device.type == "cpu":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it
        return torch.bfloat16 if native is not None and native() else torch.float32
    if device.type != "cuda":
        return torch.float32
    with torch.cuda.device(device):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def processor_name(device: torch.device) -> str:
    """What computes on `device`: the GPU's name, or the processor's with its cores."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


@contextmanager
def computing(device: torch.device, precision: torch.dtype, *, plain: bool = False) -> Iterator[None]:
    """Layers that are run in it compute on `device` in `precision`, and unless `plain`, in the fastest way known that
    is exact but for rounding."""
    exact = precision == torch.float32
    quick = WideByWinograd() if exact and device.type == "cpu" and not plain else nullcontext()
    with torch.autocast(device.type, precision, enabled=not exact), quick:
        yield


class Fetched:
    """What a device has computed, on its way to the CPU: a GPU goes on with the next meanwhile."""

    def __init__(self, x: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if x.device.type == "cuda":
            self._x = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
            self._x.copy_(x, non_blocking=True)
            self._arrived = torch.cuda.current_stream(x.device).record_event()
        else:
            self._x = x.cpu()

    def numpy(self) -> np.ndarray:
        """The values, waited for."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._x.numpy()
