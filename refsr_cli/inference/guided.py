"""Any single-image net, helped by references."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.images import Pixels, to_tensor
from refsr_cli.inference.runner import Merge, Runner
from refsr_cli.inference.tiling import Part, TileRunner
from refsr_cli.layers.backprojection import Residual, back_project, difference_from
from refsr_cli.reference.bank import Reference
from refsr_cli.reference.compiled_warp import warp
from refsr_cli.reference.match import Match
from refsr_cli.reference.offer import Quality, offered
from refsr_cli.reference.transfer import VOTES_RADIUS, Source
from refsr_cli.reference.trust import SUPPORT_RADIUS, TRUST_RADIUS, add_detail
from refsr_cli.restoration.consistency import KNOWN_HALO, KnownInput

GUIDED_BYTES = 2000.0
"""Bytes for each low-resolution pixel that guidance takes besides the net: what is offered, and what merging makes."""
_UNSEEN = 1 / 255
"""Largest change in the place of a low-resolution pixel up to which a reference was not used there, whatever its trust:
a clear sky is as sure as it is empty."""
_USED = 26
"""Trust, in 0..255, above which a reference counts as used."""


@dataclass(frozen=True)
class RefUse:
    """What one reference did for a picture."""

    path: str
    share: float
    """Part of the picture, in [0, 1], where it was used."""
    trust: float | None
    """Mean trust there; None for a net that does not tell how far it believes a reference."""
    likeness: float | None = None
    """Of such a net, how like what it found is on average, as a cosine; None where it does not look for anything."""


@dataclass(frozen=True)
class RestoredInput:
    """A picture that was degraded, and restored before it is enlarged."""

    known: KnownInput
    """What its file gave."""
    strength: float
    """Of its restoration."""
    alike: Pixels | None = None
    """(h, w, C) what the references show, shrunk, degraded as the picture was and restored as it was."""

    @property
    def quality(self) -> Quality:
        """How degraded it was."""
        return self.known.degradation.quality


def guided_halo(restored: RestoredInput | None) -> int:
    """Low-resolution pixels that guidance depends on beyond those that the net itself does."""
    return VOTES_RADIUS + TRUST_RADIUS + (KNOWN_HALO + SUPPORT_RADIUS if restored else 0)


def shown_by(match: Match, sources: Sequence[Source], scale: int) -> TileRunner:
    """What the references show, in `scale` times the size of the picture, as `match` places them."""
    return lambda _, parts: warp(match.crop(*parts[0].tile.corners), sources, scale).mean


def guided(
    run: Runner,
    merge: Merge,
    scale: int,
    match: Match,
    sources: Sequence[Source],
    restored: RestoredInput | None = None,
    *,
    project: bool = True,
) -> TileRunner:
    """`run`, which enlarges by `scale`, and what it misses on the references, merged by `merge`. The answers have the
    trust as fourth channel, 0 where nothing was changed that could be seen.

    `match` is of the whole picture, `sources` are numbered as in it. `restored` is for a picture that was. `project`
    makes results shrink to the picture, with and without references alike.
    """

    @torch.inference_mode()
    def run_tile(lr: Tensor, parts: Sequence[Part]) -> Tensor:
        tile = parts[0].tile
        shown = warp(match.crop(*tile.corners), sources, scale)
        residual: Residual = difference_from(lr)
        if restored is None or restored.alike is None:
            offer = offered(run, lr, shown)
        else:
            alike = to_tensor(restored.alike[tile.top : tile.bottom, tile.left : tile.right]).to(lr.device)
            offer = offered(run, lr, shown, [restored.quality], alike)
            residual = restored.known.part(*tile.corners, lr.device)
        del shown  # a part of it is in the offer
        sr, trust = add_detail(offer, *merge(offer), residual)
        base = offer.base
        if project:
            projection = residual if restored is None or restored.known.degradation.certain else difference_from(lr)
            base, sr = (back_project(its, projection, scale) for its in (base, sr))
            changed = (sr - base).abs().amax(1, keepdim=True) > _UNSEEN / 2
            trust = torch.maximum(trust, changed / 255)  # where only what is beside a detail was taken
        added = F.max_pool2d((sr - base).abs().amax(1, keepdim=True), scale)
        seen = F.interpolate((added > _UNSEEN).float(), scale_factor=scale)
        return torch.cat([sr, trust * seen], 1)

    return run_tile


def uses(references: Sequence[Reference], match: Match, trust: Pixels, scale: int) -> tuple[RefUse, ...]:
    """How much of the picture each reference helped; `trust` (scale*h, scale*w) in 0..255, `match` of h x w cells."""
    height, width = match.score.shape
    cells = torch.from_numpy(trust).view(height, scale, width, scale).float().mean((1, 3))
    shares = []
    for number, reference in enumerate(references):
        used = (match.ref_id.cpu() == number) & (cells >= _USED)
        mean = float(cells[used].mean()) / 255 if used.any() else 0.0
        shares.append(RefUse(reference.name, float(used.float().mean()), mean))
    return tuple(shares)
