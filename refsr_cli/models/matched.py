"""What nets share that restore with features of references at places found by matching: C2-Matching, DATSR."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.layers.resample import continued, resize
from refsr_cli.layers.vgg import VGGStem
from refsr_cli.models.base import SRModel
from refsr_cli.models.edsr import EDSR, EDSRConfig
from refsr_cli.reference.descriptors import CELL
from refsr_cli.reference.matching import match_reference
from refsr_cli.reference.patches import PATCH, match_patches
from refsr_cli.reference.textures import Textures, as_textures, in_one_map, in_strips, side_by_side

_STRIP = 2**18
"""Pixels of a picture that are encoded at once."""

Matching = Literal["learned", "fixed"]
"""By features that were trained for it, as published; or by refsr's own search, which has no weights."""


@dataclass(frozen=True, kw_only=True)
class MatchedConfig:
    """The numbers that these nets share; the defaults are those of the papers."""

    groups: int = 8
    """Runs of channels that are read at places of their own."""
    textures: tuple[int, int, int] = (64, 128, 256)
    """Widths of the features of references, at stride 1, 2 and 4; those of VGG-19."""
    matching: Matching = "learned"
    matched: tuple[int, int, int] = (64, 128, 256)
    """Widths of the features that places are found by; those of VGG-16."""
    trunk_blocks: int = field(default=0, metadata={"omissible": True})
    """Of an EDSR 64 wide whose result is what the net adds to; 0 is a bilinear enlargement, as in the papers."""


class Correspondence(nn.Module):
    """Two stems whose features are alike where the enlarged picture and a reference show the same: Jiang et al.,
    "Robust Reference-based Super-Resolution via C2-Matching", CVPR 2021, section 3.2."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.picture, self.reference = VGGStem(widths), VGGStem(widths)
        self.reference.load_state_dict(self.picture.state_dict())  # alike from the start, as both are in the paper

    def forward(self, picture: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 4*h, 4*w) and (N, 3, 4*h', 4*w') to (N, 256, h, w) and (N, 256, h', w')."""
        return self.picture(picture)[2], self.reference(reference)[2]

    def in_strips(self, picture: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """The same, a few rows after the other, so that what lies between takes little."""
        pairs = ((self.picture, picture), (self.reference, reference))
        here, there = (
            torch.cat([stem.strip(x, CELL * first, CELL * stop)[2] for first, stop in _strips(x)], 2)
            for stem, x in pairs
        )
        return here, there


class Matched(SRModel):
    """Enlarges by 4 with `restoration`, a net that takes the picture, a base of the size of the result and `Textures`.

    `look` is done once for a whole picture, `forward` for any part of it.
    """

    scales = (CELL,)
    needs_ref = True
    slower: ClassVar[Mapping[str, float]] = {
        f"{size}.aggregation.conv_offset_mask": share for size, share in (("medium", 0.1), ("small", 0.01))
    }

    def __init__(self, scale: int, config: MatchedConfig, matches: int = 1) -> None:
        super().__init__(scale)
        self.matches = matches
        learned = config.matching == "learned"
        self.correspondence = Correspondence(config.matched).requires_grad_(False) if learned else None
        self.stem = VGGStem(config.textures)
        for module in self.stem.children():  # of random weights the usual ones fade: the picture would drown it
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        trunk = EDSRConfig(blocks=config.trunk_blocks)
        self.trunk = EDSR(trunk, scale).requires_grad_(False) if config.trunk_blocks else None
        self.restoration: Any
        """(lr, base, textures) -> what is added to the base."""

    def look(self, lr: Tensor, references: Sequence[Tensor], memory: int | None = None) -> Textures:
        """What is to be known of `references` (N, 3, H, W) each, of any sizes, to enlarge `lr` (N, 3, h, w); without
        one the picture itself, enlarged, is the reference. Features that would take more than `memory` bytes are made
        strip by strip when they are read."""
        lr = continued(lr, 1, PATCH)
        large = enlarged(lr)
        whole = [_in_cells(reference) for reference in references or [large]]
        if len(lr) > 1:
            return side_by_side([self.look(lr[i : i + 1], [its[i : i + 1] for its in whole]) for i in range(len(lr))])
        with torch.no_grad(), torch.autocast(lr.device.type, enabled=False):  # fewer bits make likeness a draw
            found = [self._match(lr, large, reference) for reference in whole]
        heights = [reference.shape[2] // CELL for reference in whole]
        return as_textures(self._maps(whole, heights, memory), heights, found, (lr.shape[2], lr.shape[3]))

    def _maps(self, whole: Sequence[Tensor], heights: Sequence[int], memory: int | None) -> Mapping[int, Any]:
        """The features of the references, by stride."""
        one, two, three = self.config.textures
        cell_bytes = 4 * (CELL**2 * one + (CELL // 2) ** 2 * two + three)  # float32
        cells = [reference.shape[2] * reference.shape[3] // CELL**2 for reference in whole]
        if memory is None or sum(cells) * cell_bytes <= memory:
            features = [[self._encoded(its, *rows) for rows in _strips(its)] for its in whole]
            return {
                stride: in_one_map([torch.cat([part[stride] for part in parts], 2) for parts in features], stride)
                for stride in (1, 2, CELL)
            }
        parts = [_strips(reference) for reference in whole]
        kept = max(1, memory // (_STRIP // CELL**2 * cell_bytes))
        return in_strips(lambda number, *rows: self._encoded(whole[number], *rows), heights, parts, kept)

    def _encoded(self, reference: Tensor, first: int, stop: int) -> dict[int, Tensor]:
        """The features of the rows of cells `first` <= row < `stop`, by stride."""
        one, two, three = self.stem.strip(reference, CELL * first, CELL * stop)
        return {1: one, 2: two, 4: F.relu(three)}

    def _match(self, lr: Tensor, large: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """As `match_patches`, of one picture in one reference."""
        if self.correspondence is not None:
            picture, other = self.correspondence.in_strips(large, reference)
            return match_patches(picture[0], other[0], self.matches)
        match = match_reference(lr[0], reference[0])
        inner = slice(PATCH // 2, -(PATCH // 2))
        middle = match.pos[:, inner, inner] / CELL - 0.5
        return (middle - PATCH // 2)[None], match.score[None, inner, inner]

    def forward(self, lr: Tensor, textures: Textures) -> Tensor:  # type: ignore[override]
        if self.trunk is None:
            base = F.interpolate(lr, scale_factor=CELL, mode="bilinear", align_corners=False)
        else:
            base = self.trunk(lr)
        added: Tensor = self.restoration(lr, base, textures)
        return base + added

    def start_from(self, source: SRModel, name: str, *, partly: bool = False) -> str:
        """From another net of its kind; or, if it has a trunk, from the EDSR that is to be it."""
        if self.trunk is None or partly or not isinstance(source, EDSR):
            return super().start_from(source, name, partly=partly)
        return f"trunk: {self.trunk.become(source, name)}"


def enlarged(lr: Tensor) -> Tensor:
    """(N, 3, h, w) to (N, 3, 4*h, 4*w), bicubically, rounded to 8 bit as a file is: what is matched with references."""
    return resize(lr, CELL * lr.shape[2], CELL * lr.shape[3]).clamp(0, 1).mul(255).round().div(255)


def _strips(picture: Tensor) -> list[tuple[int, int]]:
    """The rows of cells of a picture (1, 3, 4*h, W) that are encoded together, first and after the last."""
    height, rows = picture.shape[2] // CELL, max(1, _STRIP // CELL // picture.shape[3])
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


def _in_cells(reference: Tensor) -> Tensor:
    """Continued to whole cells, at least one patch of them."""
    return continued(reference, CELL, CELL * PATCH)


def lrelu(x: Tensor) -> Tensor:
    """With a slope of 0.1, as all of these nets have it."""
    return F.leaky_relu(x, 0.1)
