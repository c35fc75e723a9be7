"""What nets share that restore with features of references at places found by matching: C2-Matching, DATSR."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.layers.resample import continued, resize_by_pillow
from refsr_cli.layers.strips import Strips
from refsr_cli.layers.vgg import VGG_WIDTHS, VGGStem
from refsr_cli.models.base import SRModel
from refsr_cli.models.edsr import EDSR, EDSRConfig
from refsr_cli.reference.correspondence import Correspondence
from refsr_cli.reference.descriptors import CELL
from refsr_cli.reference.matching import match_reference
from refsr_cli.reference.patches import PATCH
from refsr_cli.reference.textures import Textures, as_textures, begins, in_one_map, side_by_side

Matching = Literal["learned", "fixed"]
"""By features that were trained for it, as published; or by refsr's own search, which has no weights."""


@dataclass(frozen=True, kw_only=True)
class MatchedConfig:
    """The numbers that these nets share; the defaults are those of the papers."""

    groups: int = 8
    """Runs of channels that are read at places of their own."""
    textures: tuple[int, int, int] = VGG_WIDTHS
    """Widths of the features of references, at stride 1, 2 and 4; those of VGG-19, whose weights are not trained."""
    matching: Matching = "learned"
    matched: tuple[int, int, int] = (64, 128, 256)
    """Widths of the features that places are found by; those of VGG-16."""
    trunk_blocks: int = field(default=0, metadata={"omissible": True})
    """Of an EDSR 64 wide whose result is what the net adds to; 0 is a bilinear enlargement, as in the papers."""


class Matched(SRModel):
    """Enlarges by 4 with `restoration`, a net that takes the picture, a base of the size of the result and `Textures`.

    `look` is done once for a whole picture, `forward` for any part of it.
    """

    scales = (CELL,)
    needs_ref = True
    slower: ClassVar[Mapping[str, float]] = {
        f"{size}.{part}": share
        for size, share in (("medium", 0.1), ("small", 0.01))
        for part in ("offset", "aggregation.conv_offset_mask")
    }
    """All layers that make offsets at the two smaller sizes, as in the authors' training code."""

    def __init__(self, scale: int, config: MatchedConfig, matches: int = 1) -> None:
        super().__init__(scale)
        self.matches = matches
        learned = config.matching == "learned"
        self.correspondence = Correspondence(config.matched).requires_grad_(False) if learned else None
        self.stem = VGGStem(config.textures).requires_grad_(config.textures != VGG_WIDTHS)  # VGG's own weights stay
        for module in self.stem.children():  # of random weights the usual ones fade: the picture would drown it
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        trunk = EDSRConfig(blocks=config.trunk_blocks)
        self.trunk = EDSR(trunk, scale).requires_grad_(False) if config.trunk_blocks else None
        self.restoration: Any
        """(lr, base, textures) -> what is added to the base."""

    def look(self, lr: Tensor, references: Sequence[Tensor], memory: int | None = None) -> Textures:
        """What is to be known of `references` (N, 3, H, W) each, of any sizes, to enlarge `lr` (N, 3, h, w); without
        one the picture itself, enlarged, is the reference. Of features those of the smallest stride, which cost least,
        are made strip by strip when they are read, where all would take more than `memory` bytes."""
        lr = continued(lr, 1, PATCH)
        large = enlarged(lr)
        whole = [_in_cells(reference, self.matches) for reference in references or [large]]
        if len(lr) > 1:
            return side_by_side([self.look(lr[i : i + 1], [its[i : i + 1] for its in whole]) for i in range(len(lr))])
        with torch.no_grad(), torch.autocast(lr.device.type, enabled=False):  # fewer bits make likeness a draw
            found = [self._match(lr, large, reference, memory) for reference in whole]
        heights = [reference.shape[2] // CELL for reference in whole]
        maps = self._maps(whole, begins(heights), memory)
        return as_textures(maps, heights, found, (lr.shape[2], lr.shape[3]))

    def _maps(
        self, whole: Sequence[Tensor], starts: Sequence[int], memory: int | None
    ) -> Mapping[int, Tensor | Strips]:
        """The features of the references by stride, those of each from its row in `starts` on."""
        parts = [
            (CELL * start, reference, first, stop)
            for start, reference in zip(starts, whole, strict=True)
            for first, stop in self.stem.strips(reference.shape[3], 0, reference.shape[2], memory)
        ]
        rows, columns = starts[-1] + whole[-1].shape[2] // CELL, max(its.shape[3] for its in whole) // CELL
        held: list[int] = []
        for stride, width in zip((CELL, 2, 1), reversed(self.config.textures), strict=True):
            size = 4 * width * rows * columns * (CELL // stride) ** 2  # float32
            if memory is None or size <= memory:
                held.append(stride)
                memory = None if memory is None else memory - size

        def encoded(part: tuple[int, Tensor, int, int], largest: int) -> dict[int, Tensor]:
            _, reference, first, stop = part
            features = self.stem.strip(reference, first, stop, largest)
            return {1 << n: F.relu(its) if 1 << n == CELL else its for n, its in enumerate(features)}

        def streamed(stride: int) -> Strips:
            spans = tuple(((start + first) // stride, (start + stop) // stride) for start, _, first, stop in parts)
            return Strips(spans, lambda number: encoded(parts[number], stride)[stride])

        made = (((part[0] + part[2]) // CELL, encoded(part, max(held))) for part in parts) if held else ()
        maps = in_one_map(((row, {stride: its[stride] for stride in held}) for row, its in made), rows, columns)
        return {stride: maps[stride] if stride in held else streamed(stride) for stride in (1, 2, CELL)}

    def _match(self, lr: Tensor, large: Tensor, reference: Tensor, memory: int | None) -> tuple[Tensor, Tensor]:
        """As `match_patches`, of one picture in one reference."""
        if self.correspondence is not None:
            return self.correspondence.match(large, reference, self.matches, memory)
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
    """(N, 3, h, w) to (N, 3, 4*h, 4*w), by Pillow as in the authors' code: what is matched with references."""
    return resize_by_pillow(lr, CELL * lr.shape[2], CELL * lr.shape[3])


def _in_cells(reference: Tensor, patches: int) -> Tensor:
    """Continued to whole cells, at least so many patches of them."""
    return continued(reference, CELL, CELL * (PATCH + patches - 1))


def lrelu(x: Tensor) -> Tensor:
    """With a slope of 0.1, as all of these nets have it."""
    return F.leaky_relu(x, 0.1)
