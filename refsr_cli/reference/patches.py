"""Exact matching of learned features: the likest 3x3 patch of a reference for every patch of a picture, as C2-Matching
(Jiang et al., CVPR 2021) and DATSR (Cao et al., ECCV 2022) look for it, in memory that does not grow with either.

The correlation of two patches is the sum of that of their nine cells, so that cells are compared once, not nine times.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 3
"""Cells a side."""
_TINY = 1e-5
"""Length below which a patch counts as empty."""
_PAIRS = 2**24
"""Pairs of cells that are compared at once: fixed, so that the result does not depend on the memory at hand."""


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
    # queries are taken in bands of rows, and so are references for each
    rows = max(1, int(_PAIRS**0.5) // query.shape[2])
    best_rows, scores = [], []
    for top in range(0, height, rows):
        part = query[:, top : min(top + rows, height) + PATCH - 1]
        score = query.new_full((count, part.shape[1] - PATCH + 1, width), -torch.inf)
        index = torch.zeros_like(score, dtype=torch.long)
        for first, cosine in _correlations(part, reference, long):
            found, where = cosine.topk(min(count, cosine.shape[-1]), dim=-1)
            merged = torch.cat([score, found.movedim(-1, 0)])
            places = torch.cat([index, where.movedim(-1, 0) + first * wide])
            # a stable sort keeps the earlier of equals before the later
            order = merged.argsort(dim=0, descending=True, stable=True)[:count]
            score, index = merged.gather(0, order), places.gather(0, order)
        best_rows.append(index)
        scores.append(score)
    index, score = torch.cat(best_rows, 1), torch.cat(scores, 1) / length.clamp(min=_TINY)
    return torch.stack([index // wide, index % wide], 1), score


def patch_length(cells: Tensor) -> Tensor:
    """(C, h, w) to (h-2, w-2): the length of every patch."""
    squares = cells.square().sum(0)[None, None]
    return F.avg_pool2d(squares, PATCH, stride=1)[0, 0].mul(PATCH**2).sqrt()


def _correlations(part: Tensor, reference: Tensor, long: Tensor) -> Iterator[tuple[int, Tensor]]:
    """For bands of patches of the reference: the first row, and the correlation of all patches of `part` with them,
    divided by their length `long` (rows, columns, patches of the band)."""
    high, wide = part.shape[1] - PATCH + 1, part.shape[2] - PATCH + 1
    band = max(1, _PAIRS // (part.shape[1] * part.shape[2] * reference.shape[2]))
    for first in range(0, long.shape[0], band):
        stop = min(first + band, long.shape[0])
        cells = reference[:, first : stop + PATCH - 1]
        pairs = (part.flatten(1).T @ cells.flatten(1)).view(*part.shape[1:], *cells.shape[1:])
        total = pairs.new_zeros(high, wide, stop - first, long.shape[1])
        for down in range(PATCH):
            for right in range(PATCH):
                total += pairs[
                    down : down + high, right : right + wide, down : down + stop - first, right : right + long.shape[1]
                ]
        yield first, (total / long[first:stop].clamp(min=_TINY)).flatten(2)
