"""Pictures of any size in bounded memory: tiles with a halo, so that the result equals that of the whole picture.

A tile sees `halo` pixels more than it answers for. Where the halo is the net's receptive field, no pixel of the
answer depends on where the tiles were cut.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from refsr_cli.errors import OutOfMemory, RefsrError
from refsr_cli.images import Pixels, to_pixels, to_tensor
from refsr_cli.inference.memory import SMALLEST_TILE, is_out_of_memory
from refsr_cli.inference.runner import Runner
from refsr_cli.layers.resample import resize

RESIZE_HALO = 4
"""Input pixels that the antialiased kernel of `resized` can reach."""


@dataclass(frozen=True)
class Tile:
    """A part of the low-resolution picture: `top` <= row < `bottom`, `left` <= column < `right`."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def grown(self, halo: int, height: int, width: int, step: int = 1) -> "Tile":
        """With at least `halo` more pixels on every side, to multiples of `step`, within a picture of `height` by
        `width`."""
        return Tile(
            max(0, self.top - halo) // step * step,
            max(0, self.left - halo) // step * step,
            min(height, -(-(self.bottom + halo) // step) * step),
            min(width, -(-(self.right + halo) // step) * step),
        )

    def within(self, other: "Tile", scale: int) -> tuple[slice, slice]:
        """Rows and columns of this tile in the result of `other`, which contains it, at `scale`."""
        rows = slice((self.top - other.top) * scale, (self.bottom - other.top) * scale)
        return rows, slice((self.left - other.left) * scale, (self.right - other.left) * scale)

    def split(self, side: int) -> Iterator["Tile"]:
        """Parts of about equal size, none longer than `side`, that cover the tile once, row by row."""
        for top, bottom in _even_cuts(self.top, self.bottom, side):
            for left, right in _even_cuts(self.left, self.right, side):
                yield Tile(top, left, bottom, right)


TileRunner = Callable[[Tensor, Tile], Tensor]
"""Like a runner, of the part of the picture that is given beside it; a fourth channel of the answer is its trust."""


def everywhere(run: Runner) -> TileRunner:
    """`run` as it is: where in the picture it works makes no difference to it."""
    return lambda lr, _: run(lr)


def resized(run: TileRunner, scale: int) -> TileRunner:
    """`run` at its own, larger scale, then shrunk with antialiasing to `scale` times the input."""

    def run_and_shrink(lr: Tensor, tile: Tile) -> Tensor:
        height, width = lr.shape[-2:]
        return resize(run(lr, tile), height * scale, width * scale).clamp(0, 1)

    return run_and_shrink


def _even_cuts(start: int, end: int, side: int) -> list[tuple[int, int]]:
    count = max(1, -(-(end - start) // side))
    edges = [start + (end - start) * number // count for number in range(count + 1)]
    return list(pairwise(edges))


def run_tiles(
    run: TileRunner,
    pixels: Pixels,
    scale: int,
    *,
    tile: int | None,
    halo: int,
    device: torch.device,
    step: int = 1,
) -> Generator[int, None, tuple[Pixels, Pixels | None]]:
    """`run` over `pixels` (H, W, C) in tiles of side `tile` (None: in one piece): (scale*H, scale*W, C), same dtype,
    and the trust map (scale*H, scale*W) uint8 where `run` gives one.

    What a tile sees begins at multiples of `step`, as a net whose layers halve or have windows sees the whole picture.
    Each tile is converted, computed and rounded by itself, so that no picture is ever held in floating point.
    Yields the number of input pixels of each tile done; the result is the generator's return value. A tile for which
    the memory does not suffice is split, and so are those after it. Raises OutOfMemory when even the smallest tile
    does not fit, RefsrError when the net answers with something that is not a number.
    """
    height, width = pixels.shape[:2]
    whole = Tile(0, 0, height, width)
    target = np.empty((height * scale, width * scale, pixels.shape[2]), pixels.dtype)
    trust: Pixels | None = None
    side = tile or max(height, width)
    waiting = deque(whole.split(side))
    while waiting:
        part = waiting.popleft()
        if max(part.bottom - part.top, part.right - part.left) > side:
            waiting.extendleft(reversed(list(part.split(side))))
            continue
        seen = part.grown(halo, height, width, step)
        window = to_tensor(pixels[seen.top : seen.bottom, seen.left : seen.right])
        try:
            sr = run(window.to(device), seen)[(..., *part.within(seen, scale))].cpu()
        except (RuntimeError, MemoryError) as error:
            side = _smaller(side, part, error)
            waiting.appendleft(part)
            continue
        if not torch.isfinite(sr).all():
            raise RefsrError("the net's answer is not a number; try --precision fp32, or other weights")
        rows, columns = part.within(whole, scale)
        target[rows, columns] = to_pixels(sr[:, :3], pixels)
        if sr.shape[1] > 3:
            trust = np.zeros(target.shape[:2], np.uint8) if trust is None else trust
            trust[rows, columns] = sr[0, 3].mul(255).round().numpy().astype(np.uint8)
        yield part.area
    return target, trust


def _smaller(side: int, part: Tile, error: Exception) -> int:
    """Half of the side of `part`, when `error` says that memory ran out; else raises it."""
    if not is_out_of_memory(error):
        raise error
    half = min(side, max(part.bottom - part.top, part.right - part.left)) // 2
    if half < SMALLEST_TILE:
        raise OutOfMemory(
            f"not enough memory even for a tile of {2 * half} pixels; close other programs or use a smaller --model"
        ) from None
    return half
