"""Exact matching of learned features: the likest 3x3 patch of a reference for every patch of a picture, as C2-Matching
(Jiang et al., CVPR 2021) and DATSR (Cao et al., ECCV 2022) look for it, in memory that does not grow with either.

The correlation of two patches is the sum of that of their nine cells, so that cells are compared once, not nine times.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.layers.products import products

PATCH = 3
"""Cells a side."""
_TINY = 1e-5
"""Length below which a patch counts as empty."""
_PAIRS, _PAIRS_OF_GPU = 2**18, 2**24
"""Pairs of cells that are compared at once: what a CPU's cache holds, what keeps a GPU busy."""


def match_patches(query: Tensor, reference: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The `count` likest patches of `reference` (C, h', w') for each one of `query` (C, h, w), in falling order:
    row and column of their upper left cells (count, 2, h-2, w-2), int64, and the cosine
    (count, h-2, w-2). Cells are brought to unit length first.

    Raises ValueError where a picture is smaller than a patch, or has fewer patches than asked for.
    """
    height, width = query.shape[1] - PATCH + 1, query.shape[2] - PATCH + 1
    wide = reference.shape[2] - PATCH + 1
    if min(height, width, wide, reference.shape[1] - PATCH + 1) < 1:
        raise ValueError("a picture is smaller than a patch")
    if wide * (reference.shape[1] - PATCH + 1) < count:
        raise ValueError(f"the reference has fewer than {count} patches")
    query, reference = F.normalize(query, dim=0), F.normalize(reference, dim=0)
    long, length = patch_length(reference), patch_length(query)
    score = query.new_full((count, height, width), -torch.inf)
    index = torch.zeros_like(score, dtype=torch.long)
    for row, first, cosine in _correlations(query, reference, 1 / long.clamp(min=_TINY)):
        found, where = _highest(cosine.flatten(1), count)
        merged = torch.cat([score[:, row], found])
        places = torch.cat([index[:, row], where + first * wide])
        # a stable sort keeps the earlier of equals before the later
        order = merged.argsort(dim=0, descending=True, stable=True)[:count]
        score[:, row], index[:, row] = merged.gather(0, order), places.gather(0, order)
    return torch.stack([index // wide, index % wide], 1), score / length.clamp(min=_TINY)


def likest(found: Sequence[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of several searches for the same patches, each as `match_patches` gives them, the `count` likest of all: their
    places, their cosines, and where they stood (count, h, w) in all of the searches; of equals the earlier."""
    pos, score = torch.cat([its for its, _ in found]), torch.cat([its for _, its in found])
    order = score.argsort(dim=0, descending=True, stable=True)[:count]
    return pos.gather(0, order[:, None].expand(-1, 2, -1, -1)), score.gather(0, order), order


def _highest(cosine: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest `count` of each row of (n, m), or all there are, and where they stand: (count, n) each."""
    if count == 1:  # many times faster than `topk`
        best, where = cosine.max(1)
        return best[None], where[None]
    best, where = cosine.topk(min(count, cosine.shape[1]), dim=1)
    return best.T, where.T


def patch_length(cells: Tensor) -> Tensor:
    """(C, h, w) to (h-2, w-2): the length of every patch."""
    squares = cells.square().sum(0)[None, None]
    return F.avg_pool2d(squares, PATCH, stride=1)[0, 0].mul(PATCH**2).sqrt()


def _correlations(query: Tensor, reference: Tensor, weight: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """The row of some patches of `query` (C, h, w), the first row of some of `reference` (C, h', w'), and how these
    correlate (w-2, rows, w'-2), times the `weight` (h'-2, w'-2) of the latter. For each row of patches of `query` those
    of `reference` come once each, from above to below.

    A row of cells of one is compared with a band of rows of the other that moves down with it, so that of the nine
    terms of a patch those of a row are summed once, and the three rows of it are the last that were compared.
    """
    (_, height, width), (_, tall, wide) = query.shape, reference.shape
    rows, others = (cells.permute(1, 2, 0).contiguous() for cells in (query, reference))
    band = max(1, (_PAIRS_OF_GPU if query.is_cuda else _PAIRS) // (width * wide))
    for lag in range(PATCH - height, tall - PATCH + 1, band):
        held: deque[tuple[int, Tensor]] = deque(maxlen=PATCH)
        for row in range(max(0, -lag - band + 1), min(height, tall - lag)):
            start, stop = max(0, row + lag), min(tall, row + lag + band)
            pairs = products(rows[row], others[start:stop].flatten(0, 1)).view(width, stop - start, wide)
            across = pairs[:-2, :, :-2] + pairs[1:-1, :, 1:-1]
            across += pairs[2:, :, 2:]
            held.append((start, across))
            top, first = row - PATCH + 1, held[0][0]
            count = stop - PATCH + 1 - first
            if len(held) < PATCH or count < 1:
                continue
            upper, middle, lower = (
                part[:, first + down - begin :][:, :count] for down, (begin, part) in enumerate(held)
            )
            total = upper + middle
            total += lower
            yield top, first, total.mul_(weight[first : first + count])
