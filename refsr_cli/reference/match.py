"""Where each low-resolution pixel of a picture is found in a reference: the record every matcher gives.

Positions are absolute and continuous: pixel `k` of an image spans `k` to `k + 1`, so its centre is at `k + 0.5`, and
halving an image halves every position. They survive cropping, tiling and any size of reference, unlike a flow.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Match:
    """For each low-resolution pixel (a cell) its place in a reference."""

    pos: Tensor
    """(2, h, w) row and column of the cell's centre, in pixels of the reference."""
    affine: Tensor
    """(2, 2, h, w) by how much the place moves when the cell moves by a quarter of its side down and right."""
    score: Tensor
    """(h, w) correlation of the surroundings, in [-1, 1]."""
    ref_id: Tensor
    """(h, w) number of the reference."""
    tone: Tensor
    """(4, h, w) contrast, and what is to be added in RGB, that make the reference as bright there as the picture."""

    def crop(self, top: int, left: int, bottom: int, right: int) -> "Match":
        """The cells `top` <= row < `bottom`, `left` <= column < `right`."""
        rows, columns = slice(top, bottom), slice(left, right)
        parts = (self.pos, self.affine, self.score, self.ref_id, self.tone)
        return Match(*(value[..., rows, columns] for value in parts))

    def stretched(self, down: float, right: float) -> "Match":
        """This match with a reference whose height and width are multiplied by `down` and `right`."""
        ratio = torch.tensor([down, right], device=self.pos.device)
        return replace(self, pos=self.pos * ratio.view(2, 1, 1), affine=self.affine * ratio.view(2, 1, 1, 1))

    def where(self, keep: Tensor, other: "Match") -> "Match":
        """This match for the cells of which `keep` (h, w) is true, `other` for the rest."""
        return Match(
            torch.where(keep, self.pos, other.pos),
            torch.where(keep, self.affine, other.affine),
            torch.where(keep, self.score, other.score),
            torch.where(keep, self.ref_id, other.ref_id),
            torch.where(keep, self.tone, other.tone),
        )
