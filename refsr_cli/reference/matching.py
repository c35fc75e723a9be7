"""Finding a low-resolution picture in a reference: every place is looked at once, coarsely; then the match is refined
level by level, to fractions of a pixel.

A first look at a few hundred places tells how the reference is turned, mirrored and scaled against the picture.
"""

import math

import torch
from torch import Tensor

from refsr_cli.layers.colour import LUMA
from refsr_cli.layers.products import products
from refsr_cli.layers.ramp import ramp
from refsr_cli.layers.resample import resize
from refsr_cli.reference.compiled_level import open_level
from refsr_cli.reference.descriptors import (
    CELL,
    MAP_STEP,
    cell_map,
    describe,
    describe_map,
    describe_turned,
    pyramid_level,
    turned_map,
)
from refsr_cli.reference.field import Field, Level, carried, refine, smoothed
from refsr_cli.reference.match import Match
from refsr_cli.reference.offer import CLEAN, Quality

_COMPARISONS = 2**29
"""Pairs of cells that the exhaustive look may compare, for each view; above that it is taken at a coarser level."""
_QUERIES, _CANDIDATES = 2**9, 2**12
"""How many of each are compared at once: fixed, so that the result does not depend on the memory at hand."""
_SURVEY_SIDE, _SURVEY_QUERIES, _SURVEY_CANDIDATES = 48, 128, 2**17
_SCALES = (0.5, 0.71, 1.0, 1.41, 2.0)
_LARGEST_WORKED = 2**24
"""Pixels that a reference may be enlarged to; one of more pixels is worked on as it is, or shrunk."""
_PREFERENCE = 0.02
"""By how much another scale or turn must be better than none."""
_MOST_TURNS, _SMALLEST_SHARE = 3, 0.1
_SMALLEST_SIDE = 16
"""Cells a side below which a level says too little."""
_ENLARGED = (0.15, 0.4)
"""Areas of the reference, for one of the picture, up to which a match counts for nothing, and from which in full."""
_JPEG_COLOUR = 0.5
"""Part of the colour that a JPEG is compared by: less is left of it than of brightness, mostly at half resolution."""
_JPEG_ERROR, _NOISE_ERROR = 15 / 255**2, 4 / 255**2
"""Mean squared error that free places explain of what is left of a JPEG's errors and of noise after restoration, for
each unit of a `Quality`."""


def match_reference(lr: Tensor, reference: Tensor, ref_id: int = 0, quality: Quality = CLEAN) -> Match:
    """Where each pixel of `lr` (3, h, w) is found in `reference` (3, H, W), both float RGB in [0, 1], which is
    numbered `ref_id`. `quality` is that of the picture before it was restored.

    The result depends on these alone. Cost grows about linearly with pixels.
    """
    jpeg, noise, _ = quality
    colour = _JPEG_COLOUR if jpeg else 1.0
    lr, reference = muted(lr, colour), muted(reference, colour)
    scale, turns = survey(lr, reference)
    height, width = reference.shape[-2:]
    worked = resize(reference[None], max(1, round(height * scale)), max(1, round(width * scale)))[0]
    start = _first_level(lr, worked)
    level = open_level(lr, worked, start)
    field = _look_everywhere(level, turns)
    generator = torch.Generator().manual_seed(0)
    field = refine(level, field, generator, thorough=True)
    for number in range(start - 1, -1, -1):
        coarse, level = level, open_level(lr, worked, number)
        field = refine(level, carried(field, coarse, level), generator, thorough=False)
    allowance = jpeg * _JPEG_ERROR + noise * _NOISE_ERROR
    if allowance:
        field = smoothed(level, field, allowance)
    tone = level.tone(field)
    match = Match(
        pos=field.pos,
        affine=field.affine,
        score=field.score * _like_sized(field.affine),
        ref_id=torch.full_like(field.score, ref_id, dtype=torch.long),
        tone=torch.cat([tone[:1], muted(tone[1:], 1 / colour)]),
    )
    return match.stretched(height / worked.shape[1], width / worked.shape[2])


def muted(rgb: Tensor, colour: float) -> Tensor:
    """(3, H, W) with that part of its colour, as bright as before."""
    if colour == 1:
        return rgb
    grey = (rgb * rgb.new_tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True) / sum(LUMA)
    return torch.lerp(grey, rgb, colour)


def _like_sized(affine: Tensor) -> Tensor:
    """1 where maps (2, 2, h, w) leave areas about as large as the survey has made them, and 0 where they show a small
    part of the reference much enlarged: such parts are smooth, correlate with any edge, and have no detail to give."""
    return ramp(affine.permute(2, 3, 0, 1).det().abs(), _ENLARGED)


def exhaustive(queries: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the descriptors `queries` (n, 147) the best score (n,) among all samples of a cell map and its
    position (2, n); the first of equals. Memory does not grow with the map."""
    score = queries.new_full((len(queries),), -torch.inf)
    pos = queries.new_zeros(2, len(queries))
    for descriptors, positions in describe_map(cells, _CANDIDATES):
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            best, index = products(queries[part], descriptors).max(1)
            wins = best > score[part]
            score[part] = torch.where(wins, best, score[part])
            pos[:, part] = torch.where(wins, positions[:, index], pos[:, part])
    return score, pos


def survey(lr: Tensor, reference: Tensor) -> tuple[float, list[Tensor]]:
    """By what the reference should be resized to be as large as the picture, and how it is turned against it.

    The turns (2, 2) are orthogonal; there are several when parts of the picture agree with different ones.
    """
    number, small, places = _survey_places(lr)
    turns = _turns(lr.device)
    queries = torch.stack([describe_turned(small, places, turn) for turn in turns])
    best, chosen, shares = -math.inf, 1.0, torch.ones(1)
    for scale, likely in _scales(lr, reference).items():
        height, width = (max(1, round(side * scale / 2**number)) for side in reference.shape[-2:])
        cells = cell_map(resize(reference[None], height, width)[0])
        tried = len(turns) if likely and cells[0].numel() <= _SURVEY_CANDIDATES else 1
        scores = exhaustive(queries[:tried].flatten(0, 1), cells)[0].view(tried, -1)
        quality = scores.mean(1)
        quality[0] += _PREFERENCE
        if float(quality.max()) + _PREFERENCE * (scale == 1) > best:
            best, chosen = float(quality.max()) + _PREFERENCE * (scale == 1), scale
            scores[0] += _PREFERENCE
            shares = scores.argmax(0).bincount(minlength=tried) / scores.shape[1]
    order = shares.argsort(descending=True, stable=True)[:_MOST_TURNS].tolist()
    return chosen, [turns[index] for index in order if index == order[0] or shares[index] >= _SMALLEST_SHARE]


def likeness(lr: Tensor, thumbnail: Tensor) -> float:
    """How much of `lr` (3, h, w) seems to be in a small picture (3, H, W), at most 1, whatever its size."""
    _, small, places = _survey_places(lr)
    queries = describe_turned(small, places, torch.eye(2, device=lr.device))
    shrink = (_SURVEY_SIDE / min(lr.shape[-2:])) * math.sqrt(lr.shape[-2] * lr.shape[-1])
    size = math.sqrt(thumbnail.shape[-2] * thumbnail.shape[-1])
    best = -math.inf
    for scale in (0.71, 1.0, 1.41):
        height, width = (max(1, round(side * CELL * shrink * scale / size)) for side in thumbnail.shape[-2:])
        cells = cell_map(resize(thumbnail[None], height, width)[0])
        best = max(best, float(exhaustive(queries, cells)[0].mean()))
    return best


def _survey_places(lr: Tensor) -> tuple[int, Tensor, Tensor]:
    """The pyramid level of the survey, the picture there, and the row and column (2, n) of well textured cells spread
    over it."""
    number = max(0, round(math.log2(max(1, min(lr.shape[-2:])) / _SURVEY_SIDE)))
    small = pyramid_level(lr, number)
    length = describe(small).norm(dim=1)
    textured = length.argsort(descending=True, stable=True)[: max(1, len(length) // 2)].sort().values
    chosen = textured[:: max(1, len(textured) // _SURVEY_QUERIES)]
    return number, small, torch.stack([chosen // small.shape[2], chosen % small.shape[2]])


def _scales(lr: Tensor, reference: Tensor) -> dict[float, bool]:
    """Scales around the same size of pixels, and around the same size of pictures, the likeliest first; for each
    whether it is likely enough for turned references to be tried at it."""
    fitting = math.sqrt(lr.shape[-2] * lr.shape[-1] * CELL**2 / (reference.shape[-2] * reference.shape[-1]))
    centres = (1.0,) if 0.6 < fitting < 1.7 else (1.0, fitting)
    scales = {min(2.0, centre * scale): 0.6 < scale < 1.7 for centre in centres for scale in _SCALES}
    largest = max(1.0, math.sqrt(_LARGEST_WORKED / (reference.shape[-2] * reference.shape[-1])))
    tried = (item for item in scales.items() if item[0] <= largest)
    return dict(sorted(tried, key=lambda item: abs(math.log(item[0]))))


def _turns(device: torch.device) -> list[Tensor]:
    """Upright, then the seven other turns by 45 degrees, then all of them mirrored."""
    angles = [math.radians(45 * number) for number in range(8)]
    turns = [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles]
    upright = torch.tensor(turns, device=device)
    return [*upright, *(upright @ torch.tensor([[1.0, 0.0], [0.0, -1.0]], device=device))]


def _look_everywhere(level: Level, turns: list[Tensor]) -> Field:
    """The best place of all for each cell, in whole half-cells."""
    shape = (level.height, level.width)
    found, queries = None, level.descriptors(slice(0, level.height * level.width))
    for turn in turns:
        cells, places = turned_map(level.cells, turn)
        score, where = exhaustive(queries, cells)
        row, column = where.long() // MAP_STEP
        pos = places[:, row, column] / level.ratio.view(2, 1)
        affine = turn.view(2, 2, 1, 1).expand(2, 2, *shape)
        field = Field(pos.view(2, *shape), affine, score.view(shape))
        found = field if found is None else found.better(field)
    assert found is not None, "there is always one turn"
    return found


def _first_level(lr: Tensor, reference: Tensor) -> int:
    cells = lr.shape[-2] * lr.shape[-1]
    samples = reference.shape[-2] * reference.shape[-1] / 4
    level = 0
    while cells * samples / 16**level > _COMPARISONS and min(lr.shape[-2:]) >> (level + 1) >= _SMALLEST_SIDE:
        level += 1
    return level
