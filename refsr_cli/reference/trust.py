"""How far the references are believed, pixel by pixel, and what is made of them.

Nothing here is learned: agreement of the votes, correlation of the match, and the low-resolution picture itself, which
a true detail leaves as it is. A net may have learned to judge better; the last word is always the picture's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.layers.backprojection import Residual, difference_from
from refsr_cli.layers.ramp import ramp
from refsr_cli.layers.resample import downscale, local_mean, upscale
from refsr_cli.reference.offer import Offer

_SCORES, _SCORES_DEGRADED = (0.7, 0.95), (0.5, 0.85)
"""Correlations from which a match is used at all, and in full; what degraded a picture lowers those of right ones."""
_DEGRADED = 0.2
"""Sum of `Offer.quality` from which a picture counts as degraded, in part below."""
_RESEMBLANCE = (0.5, 0.6)
"""Correlations below which nothing is believed, whatever was learned, and from which that is free."""
_DISAGREEMENT = 2.0
_EVIDENCE = (0.1, 0.9)
"""Evidence from which detail is taken at all, and in full: a foreign picture gives a little everywhere."""
_DOUBT = 1 / 3
"""By what part of that which evidence lacks to be full it counts for less where a picture was degraded, and is
satisfied by more: detail is then taken from an evidence of 0.3 on."""
_TOLERANCE = 0.2 / 255
"""Root mean square of a difference at low resolution that rounding alone may leave."""
TRUST_RADIUS = 20
"""Low-resolution pixels around one that can change its trust: shrinking and enlarging, veto, its widening, votes."""
_VETO_AREA = 9
"""Low-resolution pixels, a side, over which consistency is judged."""
_SUPPORT_AREA = 25
"""Low-resolution pixels, a side, over which trust is averaged where a picture is blurred."""
SUPPORT_RADIUS = _SUPPORT_AREA // 2 + 1
"""Radius of that area, and one pixel for interpolating its mean."""
_SUPPORT = (0.07, 0.18)
"""Mean trust there from which detail in a blurred picture is taken at all, and in full."""
_BLURRED = 0.5
"""σ, in pixels, from which a picture counts as blurred, in part below."""
_TAKEN_AREA = 5
"""Low-resolution pixels, a side, around those where detail is taken, that shrinking reads."""


def evidence(offer: Offer) -> Tensor:
    """How likely the detail is right, in [0, 1], by votes that agree and matches that correlate.

    (N, 1, scale*h, scale*w)"""
    area = 2 * offer.scale + 1
    energy = local_mean(offer.detail.square().mean(1, keepdim=True), area)
    spread = local_mean(offer.variance, area)
    degraded = (_up(offer.quality.sum(1, keepdim=True), offer.scale) / _DEGRADED).clamp(max=1)
    low, high = (clean + (other - clean) * degraded for clean, other in zip(_SCORES, _SCORES_DEGRADED, strict=True))
    agreed = energy / (energy + _DISAGREEMENT * spread + 1e-8) * ramp(_up(offer.score, offer.scale), (low, high))
    return (agreed + _DOUBT * degraded * (agreed - _EVIDENCE[1])).clamp(0, 1)


def resembles(offer: Offer) -> Tensor:
    """0 where a match correlates so little that nothing in it can be believed, else 1, with a ramp between: the floor
    under whatever was learned.   (N, 1, scale*h, scale*w)"""
    return ramp(_up(offer.score, offer.scale), _RESEMBLANCE)


def gate(offer: Offer) -> Tensor:
    """By how much the detail is taken, in [0, 1], where nothing was learned about it: (N, 1, scale*h, scale*w)."""
    return ramp(evidence(offer), _EVIDENCE)


def add_detail(offer: Offer, detail: Tensor, trust: Tensor, residual: Residual | None = None) -> tuple[Tensor, Tensor]:
    """`offer.base + trust * detail`, clamped, changed where detail is taken so that it shrinks to `offer.lr`, with the
    trust that is left.

    What contradicts the low-resolution picture is enlarged and taken away. Where the result is worse explained than the
    base even so, the detail is a mistake, whatever its score: it is withdrawn there. A blurred picture contradicts no
    edge for being too sharp: where detail is found in few places of it only, it is withdrawn too. `detail` and `trust`
    are what `merge` makes of the offer. `residual` is what contradicts the input where less is known of it than every
    pixel, as of a JPEG. Returns sr and trust.
    """
    contradicting = residual or difference_from(offer.lr)
    added = (offer.base + trust * detail).clamp(0, 1)
    taken = F.max_pool2d(F.max_pool2d(trust, offer.scale), _TAKEN_AREA, 1, _TAKEN_AREA // 2) > 0
    wrong = contradicting(downscale(added, offer.scale)) * taken
    added = (added - upscale(wrong, offer.scale)).clamp(0, 1)
    plain, detailed = (local_rms(contradicting(downscale(x, offer.scale))) for x in (offer.base, added))
    allowed = (detailed <= plain + _TOLERANCE).float()
    allowed = -F.max_pool2d(-allowed, 3, stride=1, padding=1)
    kept = _up(F.avg_pool2d(allowed, 3, stride=1, padding=1, count_include_pad=False), offer.scale)
    kept = kept * _supported(trust * kept, offer)
    return torch.lerp(offer.base, added, kept), trust * kept


def _supported(trust: Tensor, offer: Offer) -> Tensor:
    """What part of the detail is left where a blurred picture has little of it around: (N, 1, scale*h, scale*w)."""
    blurred = _up(offer.quality[:, 2:], offer.scale) / _BLURRED
    around = F.avg_pool2d(
        F.avg_pool2d(trust, offer.scale), _SUPPORT_AREA, 1, _SUPPORT_AREA // 2, count_include_pad=False
    )
    return torch.lerp(torch.ones_like(trust), _up(ramp(around, _SUPPORT), offer.scale), blurred.clamp(max=1))


def local_rms(difference: Tensor) -> Tensor:
    """Root mean square over channels and the area that consistency is judged by.   (N, C, h, w) -> (N, 1, h, w)"""
    error = difference.square().mean(1, keepdim=True)
    pooled = F.avg_pool2d(error, _VETO_AREA, stride=1, padding=_VETO_AREA // 2, count_include_pad=False)
    return pooled.clamp(min=0).sqrt()


def _up(x: Tensor, scale: int) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode="bilinear")
