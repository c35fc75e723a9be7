"""References of any size and number, and the match of a picture with all of them together."""

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refsr_cli.layers.resample import local_mean, scaled_bytes
from refsr_cli.reference.descriptors import CELL
from refsr_cli.reference.match import Match
from refsr_cli.reference.matching import likeness, match_reference
from refsr_cli.reference.offer import CLEAN, Quality
from refsr_cli.reference.transfer import Source

MOST_REFERENCES = 8
"""References matched in full; of more than these the likest are taken."""
SMALLEST_SIDE = 16
"""Pixels a side below which a reference has nothing to show."""
_THUMBNAIL_PIXELS = 256 * 256
_MOST_PIXELS = 24_000_000
"""Above which a reference is made smaller to be matched, though not to be read."""
_SMOOTH = 9
"""Cells, a side, over which scores are averaged before one reference is preferred to another."""


@dataclass(frozen=True)
class Reference:
    """One reference image, which is decoded when it is asked for."""

    name: str
    load: Callable[[], Tensor]
    """Gives (3, H, W) uint8 RGB."""
    digest: str
    """Of the pixels: what is in the file decides, never its name or place."""
    thumbnail: Tensor
    """(3, h, w) uint8, about 256x256 pixels: all that is kept of it, as there may be thousands."""
    size: tuple[int, int]
    """Height and width."""


def open_reference(name: str, load: Callable[[], Tensor]) -> Reference:
    """Decodes the image once, to know it again. Raises what `load` raises."""
    image = load()
    height, width = image.shape[-2:]
    shrink = min(1.0, (_THUMBNAIL_PIXELS / (height * width)) ** 0.5)
    digest = hashlib.sha256(f"{height}x{width}".encode() + image.numpy().tobytes()).hexdigest()
    return Reference(name, load, digest, scaled_bytes(image, shrink), (height, width))


class RefBank:
    """References without duplicates, in an order of their content: that in which they were named means nothing."""

    def __init__(self, references: Sequence[Reference]) -> None:
        unique = {reference.digest: reference for reference in reversed(references)}
        self.references = [unique[digest] for digest in sorted(unique)]

    def __len__(self) -> int:
        return len(self.references)

    def chosen(self, lr: Tensor, most: int = MOST_REFERENCES) -> list[Reference]:
        """The `most` references likest `lr` (3, h, w), or all there are, in order of content."""
        if len(self.references) <= most:
            return self.references
        by_likeness = sorted(
            self.references, key=lambda reference: -likeness(lr, reference.thumbnail.to(lr.device) / 255)
        )
        likest = {reference.digest for reference in by_likeness[:most]}
        return [reference for reference in self.references if reference.digest in likest]


def match_all(
    lr: Tensor, references: Sequence[Reference], scale: int = CELL, quality: Quality = CLEAN
) -> Generator[int, None, tuple[Match, list[Source]]]:
    """The best match of each pixel of `lr` (3, h, w) in any of the references, and what to read of them in `scale`
    times its size, as the match numbers them; `quality` is that of the picture before it was restored. Yields the
    number of low-resolution pixels matched since it last yielded."""
    best, best_score, sources = None, None, []
    for number, reference in enumerate(references):
        image = reference.load()
        seen = scaled_bytes(image, min(1.0, (_MOST_PIXELS / (image.shape[1] * image.shape[2])) ** 0.5))
        ratio = (image.shape[1] / seen.shape[1], image.shape[2] / seen.shape[2])
        match = match_reference(lr, seen.to(lr.device).float() / 255, number, quality).stretched(*ratio)
        sources.append(Source.of(image, match, scale))
        score = local_mean(match.score[None, None], _SMOOTH)[0, 0]
        if best is None or best_score is None:
            best, best_score = match, score
        else:
            best = best.where(score <= best_score, match)
            best_score = torch.maximum(score, best_score)
        yield lr.shape[-2] * lr.shape[-1]
    if best is None:
        raise ValueError("there is no reference")
    return best, sources
