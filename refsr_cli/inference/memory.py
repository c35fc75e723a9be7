"""How much memory a net takes for each pixel, and so how large a tile may be."""

import torch
from torch import Tensor, nn

from refsr_cli.models import SRModel

SMALLEST_TILE = 16
"""Side in input pixels below which a tile is not worth its halo."""

_PROBE = 16
_KEPT = 1.25
"""Room for what stays alive across layers (the skip, the padded input) and for the allocator's rounding."""


def bytes_per_pixel(model: SRModel) -> float:
    """Peak bytes of activations for each input pixel: the largest layer's input and output together, in float32, of a
    net with a linear tail as it is when that is folded.

    Measured on a small input, so it holds for any net of convolutional layers.
    """
    sizes = [3.0 * (1 + model.scale**2)]

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(float(sum(x.numel() for x in inputs) + output.numel()) / _PROBE**2)

    leaves = [module for module in model.modules() if not list(module.children()) and module is not model]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with torch.inference_mode():
            lr = torch.zeros(1, 3, _PROBE, _PROBE, device=next((p.device for p in model.parameters()), None))
            if model.foldable:  # in its body, where the skip and a block's input, middle and output are held
                sizes.append(4.0 * model.body_output(lr).shape[1])
            else:
                model(*([lr, model.look(lr, [])] if model.needs_ref else [lr]))
    finally:
        for hook in hooks:
            hook.remove()
    return 4 * _KEPT * max(sizes)


def default_memory(device: torch.device) -> int:
    """Bytes that computing may take where nothing is asked for: half of what is free on a GPU, 1 GiB elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] // 2)
    return 2**30


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` is a device's or the system's way of saying that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    signs = ("out of memory", "can't allocate memory", "not enough memory", "_alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)


def tile_side(pixel_bytes: float, halo: int, memory: int | None, device: torch.device) -> int:
    """The side of a square tile, without its halo, whose computation takes about `memory` bytes.

    It is at least SMALLEST_TILE. Where no memory is asked for it is at least twice the halo, so that a net that sees
    far does not compute the same pixels again and again.
    """
    side = int(((memory or default_memory(device)) / pixel_bytes) ** 0.5) - 2 * halo
    return max(SMALLEST_TILE if memory else 2 * halo, side, SMALLEST_TILE)
