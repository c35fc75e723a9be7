"""Warping by compiled code, on a CPU: equal to `transfer.py` but for rounding, in a fifth of the time and memory."""

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch

from refsr_cli.reference.descriptors import CELL
from refsr_cli.reference.kernels import kernels, share
from refsr_cli.reference.match import Match
from refsr_cli.reference.transfer import VOTERS, Shown, Source, voting, warp_tensors

_ROWS = 64
"""High-resolution rows done at once, so that what is added up stays in a processor's cache."""


def warp(match: Match, references: Sequence[Source], scale: int = CELL) -> Shown:
    """The references as `match`, of h x w cells, shows them in `scale` times its size; they are numbered as in it."""
    compiled = kernels("warp_kernels") if match.pos.device.type == "cpu" else None
    if compiled is None:
        return warp_tensors(match, references, scale)
    height, width = (scale * side for side in match.score.shape)
    total, own = (np.empty((3, height, width), np.float32) for _ in range(2))
    variance = np.empty((1, height, width), np.float32)
    work = partial(_rows, compiled, _Warping(compiled, match, references, scale), total, own, variance)
    share(work, height, _ROWS)
    mean, own_match, spread = (torch.from_numpy(array)[None] for array in (total, own, variance))
    return Shown(mean, own_match, spread, match.score[None, None])


class _Warping:
    """What compiled code is handed."""

    def __init__(self, compiled: ModuleType, match: Match, references: Sequence[Source], scale: int) -> None:
        parts = (match.pos, match.affine, match.ref_id, match.tone)
        self.cells = compiled.Cells(*(part.contiguous().numpy() for part in parts), scale)
        self.radius = scale // 2
        self.images = {
            number: (references[number].interleaved.numpy(), np.float32(references[number].ratio))
            for number in match.ref_id.unique().tolist()
        }
        self.voters = {shift: compiled.Voters(*_along(match, scale, *shift)) for shift in VOTERS}


def _along(match: Match, scale: int, down: int, right: int) -> list[Any]:
    """From which cells the pixels along both sides are shown, and how far each is from their middle."""
    sides = zip(match.score.shape, (down, right), strict=True)
    return [part.flatten().numpy() for side, shift in sides for part in voting(side, scale, shift, match.pos.device)]


def _rows(
    compiled: ModuleType,
    warping: _Warping,
    total: np.ndarray,
    own: np.ndarray,
    variance: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Fills in the rows `start` to before `stop` of all three."""
    for begin in range(start, stop, _ROWS):
        end = min(begin + _ROWS, stop)
        first, last = max(0, begin - warping.radius), min(total.shape[1], end + warping.radius)
        shown = np.empty((3, last - first, total.shape[2]), np.float32)
        sums, detail, squares = (np.zeros((3, end - begin, total.shape[2]), np.float32) for _ in range(3))
        for shift, voters in warping.voters.items():
            for number, (image, ratio) in warping.images.items():
                compiled.vote(image, ratio, number, warping.cells, voters, compiled.TAPS, shown, first)
            if shift == (0, 0):
                own[:, begin:end] = shown[:, begin - first : end - first]
            compiled.count(shown, first, begin, warping.radius, sums, detail, squares)
        compiled.conclude(sums, detail, squares, np.float32(len(VOTERS)), variance[0, begin:end])
        total[:, begin:end] = sums
