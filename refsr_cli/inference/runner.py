"""A net as a function from picture to picture. A wrapper takes a runner and gives a runner."""

from collections.abc import Callable

import torch
from torch import Tensor

from refsr_cli.inference.cpu.fused import fused_on_cpu
from refsr_cli.inference.device import computing
from refsr_cli.inference.fast import fast
from refsr_cli.layers.resample import continued, mirror
from refsr_cli.models import SRModel, merge_by_formula
from refsr_cli.reference.offer import Offer

Runner = Callable[[Tensor], Tensor]
"""`(N, 3, H, W)` float in [0, 1] to `(N, 3, scale*H, scale*W)` float32, clamped to [0, 1]."""
Merge = Callable[[Offer], tuple[Tensor, Tensor]]
"""`SRModel.merge`: from an offer to the detail that is taken, and the trust in it, float32."""


FRAME = 6
"""Low-resolution pixels that are mirrored around what is run `framed`. A flat picture is then flat up to its border, to
1 of 255, where nets that pad with zeros give it a frame of another colour."""


def runner_for(
    model: SRModel,
    precision: torch.dtype = torch.float32,
    *,
    plain: bool = False,
    compile: bool = False,
    framed: bool = False,
    self_ensemble: bool = False,
) -> Runner:
    """Runs `model`, in evaluation mode, on any size: pads to `multiple_of`, crops back, clamps. `plain` is without what
    makes it fast, to the last bit as it was trained; `compile` compiles it first; `framed` mirrors the picture around
    itself, so that it does not end at its border; `self_ensemble` is for the mean of eight orientations, clamped."""
    step, frame = model.multiple_of, FRAME if framed else 0
    forward = model.eval() if plain else fast(model.eval(), precision, compile=compile, border=not framed)

    @torch.inference_mode()
    def run(lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        around = mirror(lr, frame) if frame else lr
        padded = continued(around, step).contiguous(memory_format=torch.channels_last)
        with computing(lr.device, precision, plain=plain or compile):
            sr = forward(padded)
        first, scale = frame * model.scale, model.scale
        return sr[..., first : first + height * scale, first : first + width * scale].float()

    whole = ensembled(run) if self_ensemble else run
    return torch.inference_mode()(lambda lr: whole(lr).clamp_(0, 1))


def merger_for(model: SRModel, precision: torch.dtype = torch.float32) -> Merge:
    """`model.merge`, computed as `runner_for` computes, its answers float32. What was learned of clean pictures alone
    takes too little for degraded ones, and the formula is used instead."""
    quick = fused_on_cpu(model.eval(), precision)

    @torch.inference_mode()
    def merged(offer: Offer) -> tuple[Tensor, Tensor]:
        learned = model.merges_degraded or not offer.quality.any()
        with computing(offer.lr.device, precision):
            detail, trust = (quick.merge if learned else merge_by_formula)(offer)
        return detail.float(), trust.float()

    return merged


def orient(x: Tensor, orientation: int) -> Tensor:
    """One of the eight orientations of (N, C, H, W), 0..7: transposed (4), then flipped down (2), then right (1)."""
    if orientation & 4:
        x = x.transpose(-1, -2)
    if orientation & 2:
        x = x.flip(-2)
    return x.flip(-1) if orientation & 1 else x


def restore(x: Tensor, orientation: int) -> Tensor:
    """Undoes `orient`."""
    if orientation & 1:
        x = x.flip(-1)
    if orientation & 2:
        x = x.flip(-2)
    return x.transpose(-1, -2) if orientation & 4 else x


_STACKED = 64 * 64
"""Pixels of a picture up to which it is faster to run several at once."""


def ensembled(run: Runner) -> Runner:
    """Geometric self-ensemble, the "+" of EDSR+ and MDSR+ (Lim et al. 2017, section 3.3): the mean of `run`, which need
    not clamp, over the eight orientations of its input, summed as they come, before any rounding. Those of a small
    picture that have the same size are run together."""

    def run_all(lr: Tensor) -> Tensor:
        together = 4 if lr.shape[-2] * lr.shape[-1] <= _STACKED else 1
        total: Tensor | float = 0.0
        for first in range(0, 8, together):
            orientations = range(first, first + together)
            answers = run(torch.cat([orient(lr, its) for its in orientations])).chunk(together)
            for orientation, answer in zip(orientations, answers, strict=True):
                total = total + restore(answer, orientation)
        assert isinstance(total, Tensor)
        return total / 8

    return run_all
