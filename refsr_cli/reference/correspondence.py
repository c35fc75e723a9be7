"""Learned features by which a picture is found in a reference, patch by patch, in memory that does not grow with
either: Jiang et al., "Robust Reference-based Super-Resolution via C2-Matching", CVPR 2021, section 3.2."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from refsr_cli.layers.vgg import VGGStem
from refsr_cli.reference.descriptors import CELL
from refsr_cli.reference.patches import PATCH, likest, match_patches

_FOR_BANDS, _COPIES, _FEWEST = 0.3, 3, 8
"""Part of the memory for the features of each of the two pictures, how often matching holds them, and how many rows of
patches are matched at once at least."""


class Correspondence(nn.Module):
    """Two stems whose features are alike where the enlarged picture and a reference show the same."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.picture, self.reference = VGGStem(widths), VGGStem(widths)
        self.reference.load_state_dict(self.picture.state_dict())  # alike from the start, as both are in the paper

    def forward(self, picture: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 4*h, 4*w) and (N, 3, 4*h', 4*w') to (N, 256, h, w) and (N, 256, h', w')."""
        return self.picture(picture)[2], self.reference(reference)[2]

    def match(self, picture: Tensor, reference: Tensor, count: int, memory: int | None) -> tuple[Tensor, Tensor]:
        """`match_patches` of the features of a picture (1, 3, 4*h, 4*w) in those of a reference, which are made band by
        band, of both, where those of the whole would take more than `memory` bytes."""
        rows = []
        for first, stop in self._bands(picture, memory):
            here = self._features(self.picture, picture, first, stop, memory)
            found = []
            for start, end in self._bands(reference, memory):
                there = self._features(self.reference, reference, start, end, memory)
                pos, score = match_patches(here, there, count)
                found.append((pos + pos.new_tensor([start, 0]).view(2, 1, 1), score))
            rows.append(likest(found, count))
        return torch.cat([pos for pos, _, _ in rows], 2), torch.cat([score for _, score, _ in rows], 1)

    def _bands(self, picture: Tensor, memory: int | None) -> list[tuple[int, int]]:
        """The rows of cells whose patches are looked for, or among, at once: first and after the last."""
        height, width = (side // CELL for side in picture.shape[-2:])
        if memory is None:
            return [(0, height)]
        row_bytes = 4 * width * _COPIES * self.picture.conv3_1.out_channels
        rows = max(_FEWEST, int(memory * _FOR_BANDS) // row_bytes - PATCH + 1)
        patches = height - PATCH + 1
        count = -(-patches // rows)
        edges = [patches * number // count for number in range(count + 1)]
        return [(first, stop + PATCH - 1) for first, stop in pairwise(edges)]

    def _features(self, stem: VGGStem, picture: Tensor, first: int, stop: int, memory: int | None) -> Tensor:
        """Of the rows of cells `first` <= row < `stop`, (C, rows, w)."""
        strips = stem.strips(picture.shape[3], CELL * first, CELL * stop, memory)
        return torch.cat([stem.strip(picture, *rows)[2] for rows in strips], 2)[0]
