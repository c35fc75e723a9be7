"""Maps that are too large to be held."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Strips:
    """A map (1, C, H, W) in strips of rows that are made when they are read. As reading between pixels is linear, what
    is read in the whole is the sum of what is read in the strips."""

    spans: tuple[tuple[int, int], ...]
    """First row of each strip, and the row after its last."""
    make: Callable[[int], Tensor]
    """From the number of a strip to its (1, C, rows, W'), which may be narrower than the map."""

    def above(self, row: int) -> "Strips":
        """The strips that end at `row` or before."""
        return replace(self, spans=tuple(span for span in self.spans if span[1] <= row))

    def at(self, place: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The strips that are read at `place` (..., 2, H, W), row and column, and that place in each; where none is,
        the first, which has nothing there."""
        rows = place.select(-3, 0)
        spans = enumerate(self.spans)
        touched = [number for number, (first, stop) in spans if bool(((rows > first - 1) & (rows < stop)).any())]
        for number in touched or [0]:
            yield self.make(number), place - place.new_tensor([self.spans[number][0], 0]).view(2, 1, 1)
