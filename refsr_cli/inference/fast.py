"""The same result in less time: convolutions on a CPU fused with what is around them, and what enlarges, where it is
linear, as one convolution at low resolution. Its border, where that is not exact, is made the long way from thin
strips."""

from collections.abc import Callable

import torch
from torch import Tensor

from refsr_cli.inference.compiled import compiled
from refsr_cli.inference.cpu.fused import fused_on_cpu
from refsr_cli.layers.folding import BORDER, KERNEL, apply_folded
from refsr_cli.models import SRModel

_STRIP = BORDER + KERNEL // 2
"""Pixels that decide about the `BORDER` outermost."""


def fast(
    model: SRModel, precision: torch.dtype = torch.float32, *, compile: bool = False, border: bool = True
) -> Callable[[Tensor], Tensor]:
    """`model.forward`, equal but for rounding, in the fastest way known for it, most of it compiled if asked for. Its
    weights must not change. Without `border` the outermost `BORDER` low-resolution pixels need not be right."""
    fused = model if compile else fused_on_cpu(model, precision)
    if model.foldable:
        return _Folded(fused, model, compile, border)
    return compiled(model) if compile else fused


class _Folded:
    def __init__(self, fused: SRModel, model: SRModel, compile: bool, border: bool) -> None:
        """`fused` computes the body for `model`, whose scale may be set at any time."""
        self.fused, self.model, self.border = fused, model, border
        self._body = compiled(model.body_output) if compile else fused.body_output
        self._tails: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, lr: Tensor) -> Tensor:
        model, scale = self.model, self.model.scale
        self.fused.scale = scale
        x = self._body(lr)
        if min(x.shape[-2:]) < 2 * _STRIP:
            return model.expand(x)
        if scale not in self._tails:
            weight, bias = model.folded(x.shape[1])
            self._tails[scale] = weight.to(x.dtype), bias
        sr = apply_folded(*self._tails[scale], x, scale)
        if not self.border:
            return sr
        edge = scale * BORDER
        sr[..., :edge, :] = model.expand(x[..., :_STRIP, :])[..., :edge, :]
        sr[..., -edge:, :] = model.expand(x[..., -_STRIP:, :])[..., -edge:, :]
        sr[..., :edge] = model.expand(x[..., :_STRIP])[..., :edge]
        sr[..., -edge:] = model.expand(x[..., -_STRIP:])[..., -edge:]
        return sr
