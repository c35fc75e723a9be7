"""Pictures of any size in bounded memory: tiles with a halo, so that the result equals that of the whole picture.

A tile sees `halo` pixels more than it answers for. Where the halo is the net's receptive field, no pixel of the
answer depends on where the tiles were cut.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from refsr_cli.errors import OutOfMemory, RefsrError
from refsr_cli.images import Pixels, rounded, to_tensor
from refsr_cli.inference.device import Fetched
from refsr_cli.inference.memory import SMALLEST_TILE, is_out_of_memory
from refsr_cli.inference.runner import Runner
from refsr_cli.layers.backprojection import RADIUS, Residual, back_project, difference_from
from refsr_cli.layers.resample import resize
from refsr_cli.restoration.consistency import KnownInput

CONSISTENT_HALO = RADIUS
"""Input pixels that `consistent` depends on beyond what it runs, but for fine screens."""
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
    def corners(self) -> tuple[int, int, int, int]:
        return self.top, self.left, self.bottom, self.right

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    def window(self, halo: int, height: int, width: int, step: int = 1, least: tuple[int, int] = (0, 0)) -> "Tile":
        """With at least `halo` more pixels on every side, within a picture of `height` by `width`, from a multiple of
        `step` to one; in a picture that is as large, at least of the size `least`."""
        top, bottom = _window(self.top, self.bottom, halo, height, step, least[0])
        left, right = _window(self.left, self.right, halo, width, step, least[1])
        return Tile(top, left, bottom, right)

    def within(self, other: "Tile", scale: int) -> tuple[slice, slice]:
        """Rows and columns of this tile in the result of `other`, which contains it, at `scale`."""
        rows = slice((self.top - other.top) * scale, (self.bottom - other.top) * scale)
        return rows, slice((self.left - other.left) * scale, (self.right - other.left) * scale)

    def split(self, side: int, halo: int = 0) -> Iterator["Tile"]:
        """Parts that cover the tile once, row by row, none of them longer than `side` but for what they have, at the
        border, instead of a `halo`: with it all see about as much."""
        for top, bottom in _even_cuts(self.top, self.bottom, side, halo):
            for left, right in _even_cuts(self.left, self.right, side, halo):
                yield Tile(top, left, bottom, right)


@dataclass(frozen=True)
class Part:
    """A tile of one of several pictures."""

    picture: int
    tile: Tile


TileRunner = Callable[[Tensor, Sequence[Part]], Tensor]
"""Like a runner, of the parts of pictures that are given beside it; a fourth channel of the answer is its trust."""
Tiled = tuple[Pixels, Pixels | None]
"""A picture (scale*H, scale*W, C), and its trust (scale*H, scale*W) uint8 where it has one."""


def everywhere(run: Runner) -> TileRunner:
    """`run` as it is: where in the picture it works makes no difference to it."""
    return lambda lr, _: run(lr)


def resized(run: TileRunner, scale: int) -> TileRunner:
    """`run` at its own, larger scale, then shrunk with antialiasing to `scale` times the input."""

    def run_and_shrink(lr: Tensor, parts: Sequence[Part]) -> Tensor:
        height, width = lr.shape[-2:]
        return resize(run(lr, parts), height * scale, width * scale).clamp(0, 1)

    return run_and_shrink


def consistent(run: TileRunner, scale: int, known: Sequence[KnownInput | None]) -> TileRunner:
    """`run`, which enlarges by `scale`, changed so that what its results shrink to does not contradict the pictures, or
    what is `known` for certain of each where it was degraded."""

    def run_and_project(lr: Tensor, parts: Sequence[Part]) -> Tensor:
        residuals = [
            _residual(known[part.picture], part.tile, its) for part, its in zip(parts, lr.split(1), strict=True)
        ]

        def residual(shrunk: Tensor) -> Tensor:
            return torch.cat([each(its) for each, its in zip(residuals, shrunk.split(1), strict=True)])

        return back_project(run(lr, parts), residual, scale)

    return run_and_project


def _residual(known: KnownInput | None, tile: Tile, lr: Tensor) -> Residual:
    return known.part(*tile.corners, lr.device) if known and known.degradation.certain else difference_from(lr)


def _window(first: int, last: int, halo: int, length: int, step: int, least: int) -> tuple[int, int]:
    begin = max(0, min(first - halo, length - least)) // step * step
    return begin, min(length, -(-max(last + halo, begin + least) // step) * step)


def _even_cuts(start: int, end: int, side: int, halo: int) -> list[tuple[int, int]]:
    inner = end - start - 2 * halo
    count = max(1, -(-inner // side))
    cuts = [start + halo + inner * number // count for number in range(1, count)]
    return list(pairwise([start, *cuts, end]))


def run_tiles(
    run: TileRunner,
    pictures: Sequence[Pixels],
    scale: int,
    *,
    tile: int | None,
    halo: int,
    device: torch.device,
    step: int = 1,
    batch: int = 1,
) -> Generator[int, None, list[Tiled]]:
    """`run` over pictures (H, W, C) of one size and kind, in tiles of side `tile` (None: in one piece), of which up to
    `batch` are computed at once, of whichever picture.

    What a tile sees begins at multiples of `step`, as a net whose layers halve or have windows sees the whole picture.
    Tiles are converted, computed and rounded by themselves, so that no picture is ever held in floating point.
    Yields the number of input pixels of the tiles done; the results are the generator's return value. Where the memory
    does not suffice, tiles are computed one by one, then split, and so are those after them. Raises OutOfMemory when
    even the smallest tile does not fit, RefsrError when the net answers with something that is not a number.
    """
    work = _Work(pictures, scale, tile, halo, step, batch)
    computing: list[_Answer] = []  # on a GPU, while the answers before are put into their places
    while work.waiting or computing:
        parts, windows = work.take()
        try:
            answers = _compute(run, windows, parts, work, device)
        except (RuntimeError, MemoryError) as error:
            work.put_back(parts, error)
            continue
        if device.type == "cuda":
            answers, computing = computing, answers
        for answer in answers:
            work.place(answer)
        if answers:
            yield sum(answer.part.tile.area for answer in answers)
    return list(zip(work.targets, work.trusts, strict=True))


@dataclass(frozen=True)
class _Answer:
    part: Part
    pixels: Fetched
    """(h, w, C), as the picture holds them."""
    trust: Fetched | None
    finite: Fetched


class _Work:
    """What is to be done and what is done."""

    def __init__(
        self, pictures: Sequence[Pixels], scale: int, tile: int | None, halo: int, step: int, batch: int
    ) -> None:
        self.pictures, self.scale, self._halo, self._step, self._batch = pictures, scale, halo, step, batch
        height, width = pictures[0].shape[:2]
        self._whole = Tile(0, 0, height, width)
        self.targets = [np.empty((height * scale, width * scale, its.shape[2]), its.dtype) for its in pictures]
        self.trusts: list[Pixels | None] = [None] * len(pictures)
        tiles = list(self._whole.split(tile or max(height, width), halo))
        self._plan(Part(number, tile) for number in range(len(pictures)) for tile in tiles)

    def _plan(self, parts: Iterable[Part]) -> None:
        self.waiting = deque(parts)
        windows = [part.tile.window(self._halo, *self._whole.size) for part in self.waiting]
        self._least = max(its.size[0] for its in windows), max(its.size[1] for its in windows)

    def take(self) -> tuple[list[Part], list[Tile]]:
        """The next ones, and what is looked at for each, which is of one size, also for those that are taken later:
        what is computed at once must be, and what is computed one after the other then fits where the last one was."""
        taken: list[Part] = []
        windows: list[Tile] = []
        while self.waiting and len(taken) < self._batch:
            window = self.waiting[0].tile.window(self._halo, *self._whole.size, self._step, self._least)
            if windows and window.size != windows[0].size:
                break
            taken.append(self.waiting.popleft())
            windows.append(window)
        return taken, windows

    def put_back(self, parts: Sequence[Part], error: Exception) -> None:
        """For later, fewer at once or in smaller tiles, when `error` says that memory ran out; else raises it."""
        if not is_out_of_memory(error):
            raise error
        self.waiting.extendleft(reversed(parts))
        if len(parts) > 1:
            self._batch = len(parts) // 2
            return
        side = max(parts[0].tile.size) // 2
        if side < SMALLEST_TILE:
            raise OutOfMemory(
                f"not enough memory even for a tile of {2 * side} pixels; close other programs or use a smaller --model"
            ) from None
        self._batch = 1
        self._plan(Part(its.picture, tile) for its in self.waiting for tile in its.tile.split(side))

    def place(self, answer: _Answer) -> None:
        """Puts it where it belongs."""
        if not answer.finite.numpy():
            raise RefsrError("the net's answer is not a number; try --precision fp32, or other weights")
        number, (rows, columns) = answer.part.picture, answer.part.tile.within(self._whole, self.scale)
        self.targets[number][rows, columns] = answer.pixels.numpy()
        if answer.trust is not None:
            trust = self.trusts[number]
            if trust is None:
                self.trusts[number] = trust = np.zeros(self.targets[number].shape[:2], np.uint8)
            trust[rows, columns] = answer.trust.numpy()


def _compute(
    run: TileRunner, windows: Sequence[Tile], parts: Sequence[Part], work: _Work, device: torch.device
) -> list[_Answer]:
    seen = [
        to_tensor(work.pictures[part.picture][window.top : window.bottom, window.left : window.right])
        for part, window in zip(parts, windows, strict=True)
    ]
    if not seen:
        return []
    places = [Part(part.picture, window) for part, window in zip(parts, windows, strict=True)]
    answers = run(torch.cat(seen).to(device, non_blocking=True), places)
    return [_answer(part, window, sr, work) for part, window, sr in zip(parts, windows, answers, strict=True)]


def _answer(part: Part, window: Tile, sr: Tensor, work: _Work) -> _Answer:
    sr = sr[(..., *part.tile.within(window, work.scale))]
    trust = sr[3].mul(255).round().to(torch.uint8) if len(sr) > 3 else None
    pixels = rounded(sr[:3], work.pictures[part.picture])
    return _Answer(part, Fetched(pixels), None if trust is None else Fetched(trust), Fetched(torch.isfinite(sr.sum())))
