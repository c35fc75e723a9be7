"""How much memory a net takes for each pixel, and so how large a tile may be."""

from collections.abc import Callable
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refsr_cli.models import SRModel

SMALLEST_TILE = 16
"""Side in input pixels below which a tile is not worth its halo."""

_PROBE, _GUIDED_PROBE = 16, 32
"""Sides of the inputs that are measured on."""
_KEPT = 1.25
"""Room for what stays alive across layers (the skip, the padded input) and for the allocator's rounding."""


def bytes_per_pixel(model: SRModel) -> float:
    """Peak bytes of activations for each input pixel, measured on a small input in float32.

    Of a net of convolutions the largest layer's input and output together; of one with a linear tail as it is when
    that is folded. Of a net that needs references all that is held at once while it runs on a part of a picture.
    """
    return _KEPT * (_held_per_pixel(model) if model.needs_ref else _largest_per_pixel(model))


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that are made, until nobody holds them; of layers made of others, what these make
    only outside of inference mode."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._now, self.peak = 0, 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        for its in tree_leaves(answer):
            if isinstance(its, Tensor) and id(its.untyped_storage()) not in self._counted:
                self._count(its.untyped_storage())
        return answer

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        self._counted.add(id(storage))
        finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, which: int, size: int) -> None:
        self._counted.discard(which)
        self._now -= size


def _held_per_pixel(model: SRModel) -> float:
    with torch.no_grad():  # not in inference mode, where layers made of others tell nothing of what they hold
        lr = torch.zeros(1, 3, _GUIDED_PROBE, _GUIDED_PROBE, device=next(model.parameters()).device)
        guide = model.look(lr, [])
        with Held() as held:
            model(lr, guide)
    peak: float = held.peak / _GUIDED_PROBE**2
    return peak


def trained_bytes_per_pixel(model: SRModel) -> float:
    """Bytes for each input pixel of what all layers of a net of convolutions give, which training keeps in float32
    until the gradient is known."""
    return 4 * sum(output for _, output in _layers(model, model))


def _largest_per_pixel(model: SRModel) -> float:
    sizes = [3.0 * (1 + model.scale**2)]
    if model.foldable:  # in its body, where the skip and a block's input, middle and output are held
        layers = _layers(model, lambda lr: sizes.append(4.0 * model.body_output(lr).shape[1]))
    else:
        layers = _layers(model, model)
    return 4 * max([*sizes, *(taken + given for taken, given in layers)])


def _layers(model: SRModel, run: Callable[[Tensor], object]) -> list[tuple[float, float]]:
    """How many values each layer that `run` comes by takes and gives for each pixel of an input."""
    sizes: list[tuple[float, float]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append((sum(x.numel() for x in inputs) / _PROBE**2, output.numel() / _PROBE**2))

    leaves = [module for module in model.modules() if not list(module.children()) and module is not model]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with torch.inference_mode():
            run(torch.zeros(1, 3, _PROBE, _PROBE, device=next((p.device for p in model.parameters()), None)))
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


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


def tile_side(pixel_bytes: float, halo: int, memory: int | None, device: torch.device, held: int = 0) -> int:
    """The side of a square tile, without its halo, whose computation takes about `memory` bytes, less those `held`.

    It is at least SMALLEST_TILE. Where no memory is asked for it is at least twice the halo, so that a net that sees
    far does not compute the same pixels again and again.
    """
    side = int((max(0, (memory or default_memory(device)) - held) / pixel_bytes) ** 0.5) - 2 * halo
    return max(SMALLEST_TILE if memory else 2 * halo, side, SMALLEST_TILE)
