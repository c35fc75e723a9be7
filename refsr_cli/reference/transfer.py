"""What the references show at each place of a picture: warped to it, with the spread of what neighbouring cells say.

Every high-resolution pixel is shown by the matches of all cells around it, each through its own affine map. Where they
agree the reference can be trusted; where they differ it cannot, and their variance tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.layers.resample import local_mean, scaled_bytes
from refsr_cli.reference.descriptors import CELL
from refsr_cli.reference.match import Match

VOTES_RADIUS = 2
"""Cells around a pixel, on each side, whose matches are asked."""
_BLOCK, _REACH = 1024, 4
"""Side of the parts in which a reference is read, and the pixels around one that interpolation may need."""
_ALIASING = 1.3
"""Pixels of a reference for one of the result, along a side, above which it is made smaller first."""


@dataclass(frozen=True)
class Source:
    """A reference in the size in which it is read."""

    image: Tensor
    """(3, H, W) uint8."""
    ratio: tuple[float, float]
    """Its height and width for those of the reference, as positions are in pixels of that."""

    @classmethod
    def of(cls, image: Tensor, match: Match, scale: int) -> "Source":
        """`image` (3, H, W) uint8, made smaller where it shows things so much larger than a picture enlarged by
        `scale` does that reading single pixels would alias."""
        stretch = float(match.affine.permute(2, 3, 0, 1).det().abs().sqrt().median()) * CELL / scale
        if stretch < _ALIASING:
            return cls(image, (1.0, 1.0))
        small = scaled_bytes(image, 1 / stretch)
        return cls(small, (small.shape[1] / image.shape[1], small.shape[2] / image.shape[2]))


@dataclass(frozen=True)
class Shown:
    """What the references show at each place of a picture."""

    mean: Tensor
    """(1, 3, scale*h, scale*w) mean of the votes."""
    own: Tensor
    """(1, 3, scale*h, scale*w) what the match of the pixel's own cell shows: sharper than the mean, and less sure."""
    variance: Tensor
    """(1, 1, scale*h, scale*w) variance of the detail in the votes."""
    score: Tensor
    """(1, 1, h, w) correlation of the match."""


def warp(match: Match, references: Sequence[Source], scale: int = CELL) -> Shown:
    """The references as `match`, of h x w cells, shows them in `scale` times its size; they are numbered as in it."""
    height, width = match.score.shape
    total = torch.zeros(1, 3, scale * height, scale * width, device=match.pos.device)
    detail_total, detail_squares = torch.zeros_like(total), torch.zeros_like(total)
    votes, own = 0, total
    for down in range(-VOTES_RADIUS, VOTES_RADIUS + 1):
        for right in range(-VOTES_RADIUS, VOTES_RADIUS + 1):
            vote = _vote(match, references, scale, down, right)
            detail = vote - local_mean(vote, scale // 2 * 2 + 1)  # only what is finer than a cell counts
            total += vote
            own = vote if down == right == 0 else own
            detail_total += detail
            detail_squares += detail.square()
            votes += 1
    variance = (detail_squares / votes - (detail_total / votes).square()).clamp(min=0).mean(1, keepdim=True)
    return Shown(total / votes, own, variance, match.score[None, None])


def _vote(match: Match, references: Sequence[Source], scale: int, down: int, right: int) -> Tensor:
    """(1, 3, scale*h, scale*w): every pixel as the match of the cell `down` and `right` before its own shows it, as
    bright as the picture is."""
    height, width = match.score.shape
    row, from_row = _pixels_and_cells(height, scale, down, match.pos.device)
    column, from_column = _pixels_and_cells(width, scale, right, match.pos.device)
    way_down = row - CELL * (from_row + 0.5)
    way_right = column - CELL * (from_column + 0.5)
    affine = match.affine[:, :, from_row][..., from_column]
    pos = match.pos[:, from_row][..., from_column] + affine[:, 0] * way_down[:, None] + affine[:, 1] * way_right
    ref_id = match.ref_id[from_row][:, from_column]
    shown = torch.empty(3, *ref_id.shape, device=pos.device)
    for number in ref_id.unique().tolist():
        chosen = ref_id == number
        source = references[number]
        ratio = torch.tensor(source.ratio, device=pos.device).view(2, 1)
        shown[:, chosen] = sample(source.image, pos[:, chosen] * ratio)
    tone = match.tone[:, from_row][..., from_column]
    return (shown * tone[:1] + tone[1:])[None]


def _pixels_and_cells(cells: int, scale: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one side: the position of every high-resolution pixel, CELL to a cell, and the cell that is asked."""
    pixel = torch.arange(scale * cells, device=device)
    return (pixel + 0.5) * (CELL / scale), (pixel // scale - shift).clamp(0, cells - 1)


def sample(image: Tensor, pos: Tensor) -> Tensor:
    """(3, H, W) uint8 read at positions (2, n), bicubically, continued beyond its border: (3, n) float in about [0, 1].

    Only blocks of the image that are read are converted, so that its size does not matter.
    """
    height, width = image.shape[-2:]
    values = torch.empty(3, pos.shape[1], device=pos.device)
    block_row = (pos[0] / _BLOCK).long().clamp(0, (height - 1) // _BLOCK)
    block_column = (pos[1] / _BLOCK).long().clamp(0, (width - 1) // _BLOCK)
    across = (width - 1) // _BLOCK + 1
    block = block_row * across + block_column
    for number in block.unique().tolist():
        inside = block == number
        top, left = (max(0, start * _BLOCK - _REACH) for start in divmod(number, across))
        bottom, right = ((start + 1) * _BLOCK + _REACH for start in divmod(number, across))
        window = image[None, :, top:bottom, left:right].to(pos.device).float() / 255
        origin = torch.tensor([top, left], device=pos.device).view(2, 1)
        size = torch.tensor(window.shape[-2:], device=pos.device).view(2, 1)
        grid = (2 * (pos[:, inside] - origin) / size - 1).flip(0).T.view(1, 1, -1, 2)
        read = F.grid_sample(window, grid, mode="bicubic", padding_mode="border", align_corners=False)
        values[:, inside] = read[0, :, 0]
    return values
