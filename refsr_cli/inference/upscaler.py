"""A net made ready for pictures: device, precision, tiles, self-ensemble, passes and alpha in one place."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from refsr_cli.errors import BadSetting
from refsr_cli.images import Picture, Pixels, bleed_color, to_tensor
from refsr_cli.inference.device import pick_device, pick_precision
from refsr_cli.inference.guided import GUIDED_BYTES, GUIDED_HALO, RefUse, guided, uses
from refsr_cli.inference.memory import SMALLEST_TILE, bytes_per_pixel, default_memory, tile_side
from refsr_cli.inference.referred import look, referred, turned, turned_back
from refsr_cli.inference.runner import Runner, ensembled, merger_for, runner_for
from refsr_cli.inference.tiling import RESIZE_HALO, Tiled, TileRunner, everywhere, resized, run_tiles
from refsr_cli.layers.resample import resize
from refsr_cli.models import SRModel
from refsr_cli.reference.bank import MOST_REFERENCES, RefBank, Reference, match_all
from refsr_cli.reference.match import Match

Result = TypeVar("Result")

_WINDOW = 1024
"""Side in pixels of what a GPU looks at, at once, of a larger picture."""
_BUSY = 2 * _WINDOW**2
"""Pixels that keep a GPU busy."""
_TINY, _FEW = 48 * 48, 8
"""Up to so many pixels a CPU is faster with a few pictures at once."""
_FOR_REFERENCES = 2
"""One part in so many of the memory is for features of references, where a net needs them."""


@dataclass(frozen=True)
class Using:
    """Which net is run, and how."""

    model: str
    scale: int
    device: str
    precision: str
    self_ensemble: bool
    note: str | None
    kind: str = "using"


@dataclass(frozen=True)
class Enlarged:
    """A picture made larger, and what references did for it."""

    picture: Picture
    trust: Pixels | None = None
    """(H, W) uint8, 255 where a reference is fully believed; None without references."""
    uses: tuple[RefUse, ...] = ()
    match: Match | None = None
    references: tuple[Reference, ...] = ()
    """As `match` numbers them."""


@dataclass(frozen=True)
class Guidance:
    """What references did in one pass; trust and match are there for nets that merge what references offer."""

    trust: Pixels | None
    match: Match | None
    references: tuple[Reference, ...]
    uses: tuple[RefUse, ...]


class Upscaler:
    """Makes pictures larger with one net, to any size.

    A factor that is not the net's scale is reached by passes of the net and by shrinking with antialiasing: 2 with a
    net for 4 is its result at half size, 8 is a pass of 4 and then one of 2.
    """

    def __init__(
        self,
        model: SRModel,
        *,
        device: str = "auto",
        precision: str = "auto",
        self_ensemble: bool | None = None,
        tile: int | None = None,
        memory: int | None = None,
        compile: bool = False,
    ) -> None:
        """`tile` is the side of a tile in input pixels, 0 for the whole picture at once, None for what fits into
        `memory` bytes (None: a part of what the device has). `self_ensemble` None: on a GPU. `compile`: before the
        first picture. Raises BadSetting."""
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.self_ensemble = self.device.type == "cuda" if self_ensemble is None else self_ensemble
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        if tile and tile < SMALLEST_TILE:
            raise BadSetting(f"--tile must be at least {SMALLEST_TILE}, not {tile}")
        if tile and not model.tileable:
            raise BadSetting("this model cannot work in tiles; use --tile off")
        if compile and model.needs_ref:
            raise BadSetting("a model that looks at references first is not compiled; leave out --compile")
        self.scale, self.tile, self.memory = model.scale, tile, memory
        self._run = runner_for(self.model, self.precision, compile=compile)

    @cached_property
    def _pixel_bytes(self) -> float:
        return bytes_per_pixel(self.model)

    def using(self, name: str, note: str | None = None) -> Using:
        """A record of the choices made; `name` is what the net is known as."""
        precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.precision]
        return Using(name, self.scale, str(self.device), precision, self.self_ensemble, note)

    def scale_up(
        self, pixels: Pixels, scale: int, refs: RefBank | None = None
    ) -> Generator[int, None, tuple[Pixels, Guidance | None]]:
        """One pass over (H, W, C) to (scale*H, scale*W, C), `scale` at most the net's own, and what references
        did. Yields the number of input pixels done since it last yielded, 0 when references were looked at."""
        if self.model.needs_ref:
            return (yield from self._refer(pixels, scale, refs))
        if not refs:
            (large,) = yield from self.scale_up_alike([pixels], scale)
            return large, None
        net, halo = self._net_for(scale)
        lr = to_tensor(pixels)[0].to(self.device)
        chosen = refs.chosen(lr)
        match, sources = yield from match_all(lr, chosen, self.model.scale)
        run = guided(net, merger_for(self.model, self.precision), self.model.scale, match, sources)
        halo += GUIDED_HALO + self.model.merge_radius
        ((large, trust),) = yield from self._in_tiles(run, [pixels], scale, halo, self._pixel_bytes + GUIDED_BYTES)
        assert trust is not None, "what is guided has a trust"
        return large, Guidance(trust, match, tuple(chosen), uses(chosen, match, trust, scale))

    def scale_up_alike(self, pictures: Sequence[Pixels], scale: int) -> Generator[int, None, list[Pixels]]:
        """`scale_up` of several of one size and kind, without references."""
        net, halo = self._net_for(scale)
        alone = len(pictures) == 1 and self.device.type != "cuda"  # its tiles are no faster together
        batch = 1 if alone else self._at_once(*pictures[0].shape[:2])
        results = yield from self._in_tiles(everywhere(net), pictures, scale, halo, self._pixel_bytes, batch)
        return [large for large, _ in results]

    def together(self, height: int, width: int) -> int:
        """How many pictures of that size, without references, are best given to `enlarge_alike`; 1 where it cannot take
        them."""
        whole = max(height, width) <= _WINDOW and not self.model.needs_ref
        return self._at_once(height, width) if whole else 1

    def _at_once(self, height: int, width: int) -> int:
        """How many pictures of a size, or tiles of a larger one, are computed at once."""
        area = min(height, _WINDOW) * min(width, _WINDOW)
        if self.device.type != "cuda":
            return _FEW if area <= _TINY else 1
        fitting = (self.memory or default_memory(self.device)) / self._pixel_bytes
        return max(1, int(min(_BUSY, fitting)) // area)

    def _net_for(self, scale: int) -> tuple[Runner, int]:
        """What enlarges by `scale` at least, and how far it sees."""
        if self.model.multi_scale:
            self.model.scale = min(its for its in self.model.scales if its >= scale)
        return ensembled(self._run) if self.self_ensemble else self._run, self.model.receptive_field

    def _in_tiles(
        self,
        run: TileRunner,
        pictures: Sequence[Pixels],
        scale: int,
        halo: int,
        pixel_bytes: float,
        batch: int = 1,
        held: int = 0,
    ) -> Generator[int, None, list[Tiled]]:
        """`run`, which enlarges by the net's scale and `held` so many bytes before, over all of the pictures, to
        `scale`."""
        if scale != self.model.scale:
            run, halo = resized(run, scale), halo + RESIZE_HALO
        tile = self.tile
        if tile is None and self.model.tileable:
            seen = halo + self.model.multiple_of - 1
            tile = tile_side(pixel_bytes, seen, self.memory, self.device, held)
            if self.device.type == "cuda":
                tile = min(tile, max(_WINDOW - 2 * halo, 2 * halo))
        device, step = self.device, self.model.multiple_of
        return (
            yield from run_tiles(
                run, pictures, scale, tile=tile or None, halo=halo, device=device, step=step, batch=batch
            )
        )

    def _refer(
        self, pixels: Pixels, scale: int, refs: RefBank | None
    ) -> Generator[int, None, tuple[Pixels, Guidance | None]]:
        """`scale_up` with a net that needs references, and looks at them for the whole picture first."""
        most = min(self.model.most_references or MOST_REFERENCES, MOST_REFERENCES)
        chosen = refs.chosen(to_tensor(pixels)[0].to(self.device), most) if refs else []
        if not self.self_ensemble:
            large, shares = yield from self._refer_turned(pixels, scale, chosen, 0)
        else:  # 16 bits, so that the mean is taken before it is rounded
            fine = pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * 257
            total = np.zeros((scale * pixels.shape[0], scale * pixels.shape[1], pixels.shape[2]), np.float32)
            for orientation in range(8):
                large, shares = yield from self._refer_turned(fine, scale, chosen, orientation)
                total += large
            large = np.rint(total / (8 if fine is pixels else 8 * 257)).astype(pixels.dtype)
        uses = tuple(RefUse(its.name, share, None, like) for its, (share, like) in zip(chosen, shares, strict=True))
        return large, Guidance(None, None, tuple(chosen), uses) if chosen else None

    def _refer_turned(
        self, pixels: Pixels, scale: int, chosen: Sequence[Reference], orientation: int
    ) -> Generator[int, None, tuple[Pixels, list[tuple[float, float | None]]]]:
        """In one orientation: the result, upright, and what the net says of each reference."""
        model, halo = self.model, self.model.receptive_field
        memory = (self.memory or default_memory(self.device)) // _FOR_REFERENCES
        guide = look(model, to_tensor(pixels).to(self.device), chosen, orientation, self.precision, memory)
        yield 0
        run = referred(model, guide, self.precision)
        upright = [turned(pixels, orientation)]
        parts = self._in_tiles(run, upright, scale, halo, self._pixel_bytes, held=guide.held_bytes)
        ((large, _),) = yield from parts
        return turned_back(large, orientation), guide.shares(len(chosen))

    def resize_to(
        self, pixels: Pixels, height: int, width: int, refs: RefBank | None = None
    ) -> Generator[int, None, tuple[Pixels, Guidance | None]]:
        """(H, W, C) to (height, width, C): passes of the net until it is large enough, then shrunk. References help
        the first pass. Yields and gives as `scale_up` does."""
        if not refs and not self.model.needs_ref:
            (large,) = yield from self._resize_alike([pixels], height, width)
            return large, None
        factor = max(height / pixels.shape[0], width / pixels.shape[1])
        guidance: Guidance | None = None
        for number, scale in enumerate(plan_passes(factor, self.scale)):
            if number == 0:
                pixels, guidance = yield from self.scale_up(pixels, scale, refs)
            else:
                pixels, _ = yield from self.scale_up(pixels, scale)
        return shrink(pixels, height, width), guidance

    def _resize_alike(self, pictures: Sequence[Pixels], height: int, width: int) -> Generator[int, None, list[Pixels]]:
        """`resize_to` of several of one size and kind, without references."""
        large = list(pictures)
        for scale in plan_passes(max(height / large[0].shape[0], width / large[0].shape[1]), self.scale):
            large = yield from self.scale_up_alike(large, scale)
        return [shrink(its, height, width) for its in large]

    def enlarge_alike(
        self, pictures: Sequence[Picture], height: int, width: int
    ) -> Generator[int, None, list[Picture]]:
        """`enlarge` of pictures of one size and kind that have no alpha, without references; `together` says when that
        is faster than one by one."""
        large = yield from self._resize_alike([picture.pixels for picture in pictures], height, width)
        return [replace(picture, pixels=pixels) for picture, pixels in zip(pictures, large, strict=True)]

    def enlarge(
        self, picture: Picture, height: int, width: int, refs: RefBank | None = None
    ) -> Generator[int, None, Enlarged]:
        """The picture at another size, alpha with the same net; all else of it kept. Yields as `scale_up` does, in
        all `work(picture, height, width, refs)`."""
        colors = picture if picture.alpha is None else bleed_color(picture)
        pixels, guidance = yield from self.resize_to(colors.pixels, height, width, refs)
        large = replace(picture, pixels=pixels)
        if picture.alpha is not None:
            alpha, _ = yield from self.resize_to(picture.alpha[..., None], height, width)
            large = replace(large, alpha=alpha[..., 0])
        if guidance is None:
            return Enlarged(large)
        trust = None if guidance.trust is None else shrink(guidance.trust[..., None], height, width)[..., 0]
        return Enlarged(large, trust, guidance.uses, guidance.match, guidance.references)

    def work(self, picture: Picture, height: int, width: int, refs: RefBank | None = None) -> int:
        """How many input pixels all passes of `enlarge` have together, matching counted as a pass."""
        area, total = picture.height * picture.width, 0
        for scale in plan_passes(max(height / picture.height, width / picture.width), self.scale):
            total += area
            area *= scale**2
        passes = total if picture.alpha is None else 2 * total
        if self.model.needs_ref:
            return passes * (8 if self.self_ensemble else 1)
        return passes + (min(len(refs), MOST_REFERENCES) * picture.height * picture.width if refs and total else 0)

    def __call__(self, picture: Picture, scale: int | None = None, refs: RefBank | None = None) -> Picture:
        """`enlarge` by a whole factor (None: the net's scale), in one call."""
        scale = scale or self.scale
        return finished(self.enlarge(picture, picture.height * scale, picture.width * scale, refs)).picture


def finished(steps: Generator[int, None, Result]) -> Result:
    """What a generator gives in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


def plan_passes(factor: float, model_scale: int) -> list[int]:
    """The scales of successive passes of a net of `model_scale` whose product is at least `factor`.

    Every pass but the last is at the net's own scale: 8 with a net for 4 is [4, 2]. So is a single pass for a factor
    that is not whole, since its result is shrunk anyway. Empty when `factor` is at most 1.
    """
    passes: list[int] = []
    while factor > 1 + 1e-9:
        needed = math.ceil(factor - 1e-9)
        single = not passes and needed <= model_scale and needed - factor > 1e-9
        passes.append(model_scale if single else min(model_scale, needed))
        factor /= passes[-1]
    return passes


def shrink(pixels: Pixels, height: int, width: int) -> Pixels:
    """(H, W, C) to (height, width, C), antialiased, one channel at a time so that little is held in floating point."""
    if pixels.shape[:2] == (height, width):
        return pixels
    target = np.empty((height, width, pixels.shape[2]), pixels.dtype)
    for channel in range(pixels.shape[2]):
        plane = torch.from_numpy(pixels[..., channel].astype(np.float32))
        resized_plane = resize(plane[None, None], height, width)
        target[..., channel] = resized_plane[0, 0].clamp(0, np.iinfo(pixels.dtype).max).add(0.5).numpy()
    return target
