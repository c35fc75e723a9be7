"""What the references show at each place of a picture: warped to it, with the spread of what neighbouring cells say.

Every high-resolution pixel is shown by the matches of all cells around it, each through its own affine map. Where they
agree the reference can be trusted; where they differ it cannot, as their variance shows. On a CPU `compiled_warp.py`
does the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType

import torch
from torch import Tensor

from refsr_cli.layers.resample import grid_sample, local_mean, scaled_bytes
from refsr_cli.reference.descriptors import CELL
from refsr_cli.reference.match import Match

VOTES_RADIUS = 2
"""Cells around a pixel, on each side, among which are those whose matches are read."""
VOTERS = tuple((down, right) for down in (-2, 0, 2) for right in (-2, 0, 2))
"""Those cells: all 25 gain 0.01 dB more in 2.8 times the time, the inner nine 0.15 dB less."""
_BLOCK, _REACH = 2048, 4
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

    @cached_property
    def interleaved(self) -> Tensor:
        """`image` as (H, W, 3), whose pixels lie side by side."""
        return self.image.permute(1, 2, 0).contiguous()

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


def warp_tensors(match: Match, references: Sequence[Source], scale: int = CELL) -> Shown:
    """The references as `match`, of h x w cells, shows them in `scale` times its size; they are numbered as in it."""
    height, width = match.score.shape
    total = torch.zeros(1, 3, scale * height, scale * width, device=match.pos.device)
    detail_total, detail_squares = torch.zeros_like(total), torch.zeros_like(total)
    own, votes = total, len(VOTERS)
    for down, right in VOTERS:
        vote = _vote(match, references, scale, down, right)
        detail = vote - local_mean(vote, scale // 2 * 2 + 1)  # only what is finer than a cell counts
        total += vote
        own = vote if down == right == 0 else own
        detail_total += detail
        detail_squares += detail.square()
    variance = (detail_squares / votes - (detail_total / votes).square()).clamp(min=0).mean(1, keepdim=True)
    return Shown(total / votes, own, variance, match.score[None, None])


def _vote(match: Match, references: Sequence[Source], scale: int, down: int, right: int) -> Tensor:
    """(1, 3, scale*h, scale*w): every pixel as the match of the cell `down` and `right` before its own shows it, as
    bright as the picture is."""
    height, width = match.score.shape
    from_row, way_down = voting(height, scale, down, match.pos.device)
    from_column, way_right = voting(width, scale, right, match.pos.device)
    columns = from_column.repeat_interleave(scale)

    def in_rows(of_cells: Tensor) -> Tensor:
        """(..., h, w) of the cells that are asked, for every pixel of a row of pixels: (..., h, 1, scale*w)."""
        return of_cells.index_select(-2, from_row).index_select(-1, columns).unsqueeze(-2)

    affine = in_rows(match.affine)
    pos = torch.addcmul(in_rows(match.pos) + affine[:, 1] * way_right.flatten(), affine[:, 0], way_down[..., None])
    ref_id = in_rows(match.ref_id).expand(pos.shape[1:]).flatten()
    shown, pos = pos.new_empty(3, len(ref_id)), pos.flatten(1)
    for number, chosen in _each(ref_id):
        source = references[number]
        shown[:, chosen] = sample(source.image, pos[:, chosen] * torch.tensor(source.ratio).to(pos).view(2, 1))
    tone = in_rows(match.tone)
    bright = torch.addcmul(tone[1:], shown.view(3, height, scale, -1), tone[:1])
    return bright.view(1, 3, scale * height, scale * width)


def voting(cells: int, scale: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one side: the cell `shift` before each, and how far each pixel of a cell is from the middle of that, CELL
    to a cell: (cells) and (cells, scale)."""
    cell = torch.arange(cells, device=device)
    asked = (cell - shift).clamp(0, cells - 1)
    return asked, CELL * (cell - asked - 0.5)[:, None] + (torch.arange(scale, device=device) + 0.5) * (CELL / scale)


def _each(numbers: Tensor) -> Iterator[tuple[int, Tensor | EllipsisType]]:
    """The numbers in (n), and where each is: often there is but one."""
    if len(numbers) and numbers.min() == numbers.max():
        yield int(numbers[0]), ...
        return
    for number in numbers.unique().tolist():
        yield number, numbers == number


def sample(image: Tensor, pos: Tensor) -> Tensor:
    """(3, H, W) uint8 read at positions (2, n), bicubically, continued beyond its border: (3, n) float in about [0, 1].

    Only blocks of the image that are read are converted, so that its size does not matter.
    """
    values, size = pos.new_empty(3, pos.shape[1]), pos.new_tensor(image.shape[1:]).view(2, 1)
    if not values.numel():
        return values
    within = pos.clamp(torch.zeros_like(size), size - 1)
    start, stop = within.amin(1, keepdim=True).floor(), within.amax(1, keepdim=True)
    row, column = ((within - start) / _BLOCK).long()
    across = int(column.max()) + 1
    for number, inside in _each(row * across + column):
        block = start + _BLOCK * pos.new_tensor(divmod(number, across)).view(2, 1)
        top, left = (block - _REACH).clamp(min=0).long().flatten().tolist()
        bottom, right = (torch.minimum(block + _BLOCK, stop) + _REACH).ceil().long().flatten().tolist()
        window = image[:, top:bottom, left:right].to(pos.device).float() / 255
        origin, sides = pos.new_tensor([top, left]).view(2, 1), pos.new_tensor(window.shape[1:]).view(2, 1)
        values[:, inside] = grid_sample(
            window, 2 * (pos[:, inside] - origin) / sides - 1, "bicubic", align_corners=False
        )
    return values
