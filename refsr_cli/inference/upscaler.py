"""A net made ready for pictures: device, precision, tiles, self-ensemble, passes and alpha in one place."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from refsr_cli.errors import BadSetting
from refsr_cli.images import Picture, Pixels, bleed_color, to_tensor
from refsr_cli.inference.device import pick_device, pick_precision
from refsr_cli.inference.guided import GUIDED_BYTES, RefUse, RestoredInput, guided, guided_halo, shown_by, uses
from refsr_cli.inference.memory import SMALLEST_TILE, bytes_per_pixel, default_memory, tile_side
from refsr_cli.inference.passes import blended, plan_passes, shrink
from refsr_cli.inference.referred import ROOM, look, referred, turned, turned_back
from refsr_cli.inference.results import Enlarged, Guidance, Using, finished
from refsr_cli.inference.runner import Merge, Runner, merger_for, runner_for
from refsr_cli.inference.tiling import (
    CONSISTENT_HALO,
    RESIZE_HALO,
    Tiled,
    TileRunner,
    consistent,
    everywhere,
    resized,
    run_tiles,
)
from refsr_cli.layers.backprojection import PROJECTING_BYTES
from refsr_cli.models import SRModel
from refsr_cli.reference.bank import MOST_REFERENCES, RefBank, Reference, match_all
from refsr_cli.reference.match import Match
from refsr_cli.reference.offer import CLEAN
from refsr_cli.reference.transfer import Source
from refsr_cli.restoration.consistency import KNOWN_HALO, KnownInput, known_input
from refsr_cli.restoration.degradation import degraded_alike
from refsr_cli.restoration.strength import NOTHING, Restoration, plan_restoration

_WINDOW = 1024
"""Side in pixels of what a GPU looks at, at once, of a larger picture."""
_BUSY = 2 * _WINDOW**2
"""Pixels that keep a GPU busy."""
_TINY, _FEW = 48 * 48, 8
"""Up to so many pixels a CPU is faster with a few pictures at once."""
_FOR_REFERENCES = 2
"""One part in so many of the memory is for features of references, where a net needs them."""


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
        as_published: bool = False,
        restorer: "Upscaler | None" = None,
        restore: float | None = None,
    ) -> None:
        """`tile` is the side of a tile in input pixels, 0 for the whole picture at once, None for what fits into
        `memory` bytes (None: a part of what the device has). `self_ensemble` None: on a GPU. `compile`: before the
        first picture. `as_published`: the net alone, without the mirrored border and the back-projection that make
        results better. `restorer` runs a net that keeps the size, which restores pictures first, as strongly as
        `restore` says, 0 to 1 (None: by what is known of each picture). Raises BadSetting."""
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.self_ensemble = self.device.type == "cuda" if self_ensemble is None else self_ensemble
        self.model = model.merged().eval().to(self.device).to(memory_format=torch.channels_last)
        if tile and tile < SMALLEST_TILE:
            raise BadSetting(f"--tile must be at least {SMALLEST_TILE}, not {tile}")
        if tile and not model.tileable:
            raise BadSetting("this model cannot work in tiles; use --tile off")
        if compile and model.needs_ref:
            raise BadSetting("a model that looks at references first is not compiled; leave out --compile")
        self.scale, self.tile, self.memory = model.scale, tile, memory
        self.restorer, self.restore = restorer, restore
        self._run = runner_for(
            self.model,
            self.precision,
            compile=compile,
            framed=model.tileable and not (as_published or model.interpolates),
            self_ensemble=self.self_ensemble,
        )
        self._consistent = not (as_published or model.interpolates or model.needs_ref or model.restores)

    @cached_property
    def _merge(self) -> Merge:
        return merger_for(self.model, self.precision)

    @cached_property
    def _pixel_bytes(self) -> float:
        projecting = PROJECTING_BYTES * self.model.scale**2 if self._consistent else 0.0
        return max(bytes_per_pixel(self.model), projecting)

    def using(self, name: str, note: str | None = None) -> Using:
        """A record of the choices made; `name` is what the net is known as."""
        precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.precision]
        return Using(name, self.scale, str(self.device), precision, self.self_ensemble, note)

    def scale_up(
        self, pixels: Pixels, scale: int, refs: RefBank | None = None, before: RestoredInput | None = None
    ) -> Generator[int, None, tuple[Pixels, Guidance | None]]:
        """One pass over (H, W, C) to (scale*H, scale*W, C), `scale` at most the net's own, and what references did.
        `before` is what the pixels were where they were restored. Yields the number of input pixels done since it
        last yielded, 0 when references were looked at."""
        if self.model.needs_ref:
            return (yield from self._refer(pixels, scale, refs))
        if not refs:
            (large,) = yield from self.scale_up_alike([pixels], scale)
            return large, None
        net, halo = self._net_for(scale)
        lr = to_tensor(pixels)[0].to(self.device)
        chosen = refs.chosen(lr)
        match, sources = yield from match_all(lr, chosen, self.model.scale, before.quality if before else CLEAN)
        if before:
            before = replace(before, alike=(yield from self._alike(pixels, match, sources, before)))
        run = guided(net, self._merge, self.model.scale, match, sources, before, project=self._consistent)
        halo += guided_halo(before) + self.model.merge_radius + (CONSISTENT_HALO if self._consistent else 0)
        ((large, trust),) = yield from self._in_tiles(run, [pixels], scale, halo, self._pixel_bytes + GUIDED_BYTES)
        assert trust is not None, "what is guided has a trust"
        return large, Guidance(trust, match, tuple(chosen), uses(chosen, match, trust, scale))

    def _alike(
        self, pixels: Pixels, match: Match, sources: Sequence[Source], before: RestoredInput
    ) -> Generator[int, None, Pixels]:
        """What the references show, shrunk to the size of `pixels`, degraded and restored as these were."""
        shown = shown_by(match, sources, self.model.scale)
        ((shrunk, _),) = yield from self._in_tiles(shown, [pixels], 1, 0, GUIDED_BYTES)
        return (yield from self._restored(degraded_alike(shrunk, before.known.degradation), before.strength))

    def scale_up_alike(
        self, pictures: Sequence[Pixels], scale: int, known: Sequence[KnownInput | None] | None = None
    ) -> Generator[int, None, list[Pixels]]:
        """`scale_up` of several of one size and kind, without references. `known` is what results are not to contradict
        where that is not the pixels."""
        net, halo = self._net_for(scale)
        alone = len(pictures) == 1 and self.device.type != "cuda"  # its tiles are no faster together
        batch = 1 if alone else self._at_once(*pictures[0].shape[:2])
        run = everywhere(net)
        if self._consistent:
            known = known or [None] * len(pictures)
            run = consistent(run, self.model.scale, known)
            halo += CONSISTENT_HALO + (KNOWN_HALO if any(known) else 0)
        results = yield from self._in_tiles(run, pictures, scale, halo, self._pixel_bytes, batch)
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
        return self._run, self.model.receptive_field

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
        tiles = run_tiles(run, pictures, scale, tile=tile or None, halo=halo, device=device, step=step, batch=batch)
        return (yield from tiles)

    def _refer(
        self, pixels: Pixels, scale: int, refs: RefBank | None
    ) -> Generator[int, None, tuple[Pixels, Guidance | None]]:
        """`scale_up` with a net that needs references, and looks at them for the whole picture first."""
        most = min(self.model.most_references or MOST_REFERENCES, MOST_REFERENCES)
        chosen = refs.chosen(to_tensor(pixels)[0].to(self.device), most) if refs else []
        if not self.self_ensemble:
            large, shares = yield from self._refer_turned(pixels, scale, chosen, 0)
        else:  # 16 bits and room beyond black and white, so that the mean is taken before it is rounded and clamped
            fine = pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) * 257
            total = np.zeros((scale * pixels.shape[0], scale * pixels.shape[1], pixels.shape[2]), np.float32)
            for orientation in range(8):
                large, shares = yield from self._refer_turned(fine, scale, chosen, orientation, ROOM)
                total += large
            mean = (1 + 2 * ROOM) * total / (8 * 65535) - ROOM
            white = np.iinfo(pixels.dtype).max
            large = np.rint(mean.clip(0, 1) * white).astype(pixels.dtype)
        uses = tuple(RefUse(its.name, share, None, like) for its, (share, like) in zip(chosen, shares, strict=True))
        return large, Guidance(None, None, tuple(chosen), uses) if chosen else None

    def _refer_turned(
        self, pixels: Pixels, scale: int, chosen: Sequence[Reference], orientation: int, room: float = 0.0
    ) -> Generator[int, None, tuple[Pixels, list[tuple[float, float | None]]]]:
        """In one orientation: the result, upright, with `room` as `referred` has it, and what the net says of each
        reference."""
        model, halo = self.model, self.model.receptive_field
        memory = (self.memory or default_memory(self.device)) // _FOR_REFERENCES
        guide = look(model, to_tensor(pixels).to(self.device), chosen, orientation, self.precision, memory)
        yield 0
        run = referred(model, guide, self.precision, room)
        upright = [turned(pixels, orientation)]
        parts = self._in_tiles(run, upright, scale, halo, self._pixel_bytes, held=guide.held_bytes)
        ((large, _),) = yield from parts
        return turned_back(large, orientation), guide.shares(len(chosen))

    def resize_to(
        self, pixels: Pixels, height: int, width: int, refs: RefBank | None = None, before: RestoredInput | None = None
    ) -> Generator[int, None, tuple[Pixels, Guidance | None]]:
        """(H, W, C) to (height, width, C): passes of the net until it is large enough, then shrunk. References help
        the first pass. Takes, yields and gives what `scale_up` does."""
        if self.model.restores and pixels.shape[:2] != (height, width):
            raise BadSetting("this net keeps the size; give another --model to enlarge, or --scale 1 to refsr eval")
        if not refs and not self.model.needs_ref:
            (large,) = yield from self._resize_alike([pixels], height, width, [before.known if before else None])
            return large, None
        factor = max(height / pixels.shape[0], width / pixels.shape[1])
        guidance: Guidance | None = None
        for number, scale in enumerate(plan_passes(factor, self.scale)):
            if number == 0:
                pixels, guidance = yield from self.scale_up(pixels, scale, refs, before)
            else:
                pixels, _ = yield from self.scale_up(pixels, scale)
        return shrink(pixels, height, width), guidance

    def _resize_alike(
        self, pictures: Sequence[Pixels], height: int, width: int, known: Sequence[KnownInput | None]
    ) -> Generator[int, None, list[Pixels]]:
        """`resize_to` of several of one size and kind, without references; the first pass heeds what is `known`."""
        large = list(pictures)
        factor = max(height / large[0].shape[0], width / large[0].shape[1])
        for number, scale in enumerate(plan_passes(factor, self.scale)):
            large = yield from self.scale_up_alike(large, scale, None if number else known)
        return [shrink(its, height, width) for its in large]

    def enlarge_alike(
        self, pictures: Sequence[Picture], height: int, width: int, plans: Sequence[Restoration] | None = None
    ) -> Generator[int, None, list[Enlarged]]:
        """`enlarge` of pictures of one size and kind that have no alpha, without references; `together` says when that
        is faster than one by one."""
        plans = plans or [self.plan(picture) for picture in pictures]
        restored, known = [], []
        for picture, plan in zip(pictures, plans, strict=True):
            restored.append((yield from self._restored(picture.pixels, plan.strength)))
            known.append(known_input(picture.pixels, plan))
        large = yield from self._resize_alike(restored, height, width, known)
        return [
            Enlarged(replace(picture, pixels=pixels, jpeg=None), plan)
            for picture, pixels, plan in zip(pictures, large, plans, strict=True)
        ]

    @property
    def restores(self) -> bool:
        """Whether pictures are restored where they need it."""
        return self.restorer is not None and self.restore != 0

    def plan(self, picture: Picture) -> Restoration:
        """How `enlarge` restores `picture`."""
        return plan_restoration(picture, self.restore) if self.restores else NOTHING

    def _restored(self, pixels: Pixels, strength: float) -> Generator[int, None, Pixels]:
        """(H, W, C) without what degraded it, as far as `strength` says. Yields as `scale_up` does."""
        if not self.restorer or not strength:
            return pixels
        (restored,) = yield from self.restorer.scale_up_alike([pixels], 1)
        return blended(pixels, restored, strength)

    def enlarge(
        self,
        picture: Picture,
        height: int,
        width: int,
        refs: RefBank | None = None,
        plan: Restoration | None = None,
    ) -> Generator[int, None, Enlarged]:
        """The picture at another size, alpha with the same net; all else of it kept. It is restored first, by `plan`
        (None: its own). Yields as `scale_up` does, in all `work(picture, height, width, refs, plan)`."""
        colors = picture if picture.alpha is None else bleed_color(picture)
        plan = plan or self.plan(picture)
        restored = yield from self._restored(colors.pixels, plan.strength)
        known = known_input(colors.pixels, plan)
        before = RestoredInput(known, plan.strength) if known else None
        pixels, guidance = yield from self.resize_to(restored, height, width, refs, before)
        large = replace(picture, pixels=pixels, jpeg=None)
        if picture.alpha is not None:
            alpha, _ = yield from self.resize_to(picture.alpha[..., None], height, width)
            large = replace(large, alpha=alpha[..., 0])
        if guidance is None:
            return Enlarged(large, plan)
        trust = None if guidance.trust is None else shrink(guidance.trust[..., None], height, width)[..., 0]
        return Enlarged(large, plan, trust, guidance.uses, guidance.match, guidance.references)

    def work(
        self,
        picture: Picture,
        height: int,
        width: int,
        refs: RefBank | None = None,
        plan: Restoration | None = None,
    ) -> int:
        """How many input pixels all passes of `enlarge` have together, restoring and matching counted as a pass."""
        plan = plan or self.plan(picture)
        pixels = area = picture.height * picture.width
        restoring, total = pixels if plan.strength else 0, 0
        for scale in plan_passes(max(height / picture.height, width / picture.width), self.scale):
            total += area
            area *= scale**2
        passes = total if picture.alpha is None else 2 * total
        if self.model.needs_ref:
            return restoring + passes * (8 if self.self_ensemble else 1)
        if not refs or not total:
            return restoring + passes
        found = restoring and plan.degradation.found
        return restoring + passes + (min(len(refs), MOST_REFERENCES) + (2 if found else 0)) * pixels

    def __call__(self, picture: Picture, scale: int | None = None, refs: RefBank | None = None) -> Picture:
        """`enlarge` by a whole factor (None: the net's scale), in one call."""
        scale = scale or self.scale
        return finished(self.enlarge(picture, picture.height * scale, picture.width * scale, refs)).picture
