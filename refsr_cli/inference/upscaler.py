"""A net made ready for pictures: device, precision, tiles, self-ensemble, passes and alpha in one place."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from refsr_cli.errors import BadSetting
from refsr_cli.images import Picture, Pixels, bleed_color, to_tensor
from refsr_cli.inference.device import pick_device, pick_precision
from refsr_cli.inference.guided import GUIDED_BYTES, GUIDED_HALO, RefUse, guided, uses
from refsr_cli.inference.memory import SMALLEST_TILE, bytes_per_pixel, default_memory, tile_side
from refsr_cli.inference.referred import REFERRED_BYTES, look, referred, turned, turned_back
from refsr_cli.inference.runner import ensembled, merger_for, runner_for
from refsr_cli.inference.tiling import RESIZE_HALO, TileRunner, everywhere, resized, run_tiles
from refsr_cli.layers.resample import resize
from refsr_cli.models import SRModel
from refsr_cli.reference.bank import MOST_REFERENCES, RefBank, Reference, match_all
from refsr_cli.reference.match import Match

Result = TypeVar("Result")

_FOR_REFERENCES = 4
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
    ) -> None:
        """`tile` is the side of a tile in input pixels, 0 for the whole picture at once, None for what fits into
        `memory` bytes (None: a part of what the device has). `self_ensemble` None: on a GPU. Raises BadSetting."""
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.self_ensemble = self.device.type == "cuda" if self_ensemble is None else self_ensemble
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        if tile and tile < SMALLEST_TILE:
            raise BadSetting(f"--tile must be at least {SMALLEST_TILE}, not {tile}")
        if tile and not model.tileable:
            raise BadSetting("this model cannot work in tiles; use --tile off")
        self.scale, self.tile, self.memory = model.scale, tile, memory
        self._pixel_bytes = bytes_per_pixel(self.model)
        self._run = runner_for(self.model, self.precision)

    def using(self, name: str, note: str | None = None) -> Using:
        """A record of the choices made; `name` is what the net is known as."""
        precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.precision]
        return Using(name, self.scale, str(self.device), precision, self.self_ensemble, note)

    def scale_up(
        self, pixels: Pixels, scale: int, refs: RefBank | None = None
    ) -> Generator[int, None, tuple[Pixels, Guidance | None]]:
        """One pass over (H, W, C) to (scale*H, scale*W, C), `scale` at most the net's own, and what references
        did. Yields the number of input pixels done since it last yielded."""
        if self.model.needs_ref:
            return (yield from self._refer(pixels, scale, refs))
        if self.model.multi_scale:
            self.model.scale = min(its for its in self.model.scales if its >= scale)
        net, halo = self._run, self.model.receptive_field
        if self.self_ensemble:
            net = ensembled(net)
        run, match, chosen, pixel_bytes = everywhere(net), None, [], self._pixel_bytes
        if refs:
            lr = to_tensor(pixels)[0].to(self.device)
            chosen = refs.chosen(lr)
            match, sources = yield from match_all(lr, chosen, self.model.scale)
            merge = merger_for(self.model, self.precision)
            run = guided(net, merge, self.model.scale, match, sources)
            halo += GUIDED_HALO + self.model.merge_radius
            pixel_bytes += GUIDED_BYTES
        if scale != self.model.scale:
            run, halo = resized(run, scale), halo + RESIZE_HALO
        large, trust = yield from self._in_tiles(run, pixels, scale, halo, pixel_bytes)
        if match is None or trust is None:
            return large, None
        return large, Guidance(trust, match, tuple(chosen), uses(chosen, match, trust, scale))

    def _in_tiles(
        self, run: TileRunner, pixels: Pixels, scale: int, halo: int, pixel_bytes: float
    ) -> Generator[int, None, tuple[Pixels, Pixels | None]]:
        tile = self.tile
        if tile is None and self.model.tileable:
            tile = tile_side(pixel_bytes, halo, self.memory, self.device)
        step = self.model.multiple_of
        return (yield from run_tiles(run, pixels, scale, tile=tile or None, halo=halo, device=self.device, step=step))

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
        model, halo = self.model, self.model.receptive_field + RESIZE_HALO
        memory = (self.memory or default_memory(self.device)) // _FOR_REFERENCES
        guide = look(model, to_tensor(pixels).to(self.device), chosen, orientation, self.precision, memory)
        run = referred(model, guide, self.precision)
        if scale != model.scale:
            run = resized(run, scale)
        pixel_bytes = self._pixel_bytes + REFERRED_BYTES
        large, _ = yield from self._in_tiles(run, turned(pixels, orientation), scale, halo, pixel_bytes)
        return turned_back(large, orientation), guide.shares(len(chosen))

    def resize_to(
        self, pixels: Pixels, height: int, width: int, refs: RefBank | None = None
    ) -> Generator[int, None, tuple[Pixels, Guidance | None]]:
        """(H, W, C) to (height, width, C): passes of the net until it is large enough, then shrunk. References help
        the first pass. Yields and gives as `scale_up` does."""
        factor = max(height / pixels.shape[0], width / pixels.shape[1])
        guidance: Guidance | None = None
        for number, scale in enumerate(plan_passes(factor, self.scale)):
            if number == 0:
                pixels, guidance = yield from self.scale_up(pixels, scale, refs)
            else:
                pixels, _ = yield from self.scale_up(pixels, scale)
        return shrink(pixels, height, width), guidance

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
