"""Which device and which number format to compute with."""

import torch

from refsr_cli.errors import BadSetting


def pick_device(name: str) -> torch.device:
    """`auto` is the first of CUDA, MPS and CPU that is there. Raises BadSetting for a device that is not."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadSetting(f"device '{name}' cannot be used ({reason}); try --device cpu") from None
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that has it and float32 elsewhere, so that a CPU gives the exact result."""
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name in known:
        return known[name]
    if name != "auto":
        raise BadSetting(f"precision is auto, {', '.join(known)}, not '{name}'")
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
