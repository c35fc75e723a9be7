"""How strongly a picture is restored before it is enlarged."""

from dataclasses import dataclass

from refsr_cli.images import Picture
from refsr_cli.reference.offer import CLEAN, Quality
from refsr_cli.restoration.blur import SOFT
from refsr_cli.restoration.degradation import Degradation, estimate_degradation

_JPEG_FROM, _JPEG_FULL = 2.0, 30.0
"""Steps, as `Degradation.jpeg_step` counts them, from which a JPEG is restored, and in full: qualities 99 and 85."""
_JPEG_LEAST = 0.25
"""Strength for the finest steps. On 14 validation photos quality 95 did best at about 0.5, 90 between that and 0.75,
and 75 at 1."""
_NOISE_FROM, _NOISE_FULL = 1.5, 3.0
"""σ of 255 from which noise is removed, and in full: clean pictures of fine texture are estimated at up to 1.2."""
_BLUR_FULL = 0.6
"""σ in pixels from which a soft picture is restored in full; from `SOFT` on in part."""


@dataclass(frozen=True)
class Restoration:
    """What is known of how a picture was degraded, and how strongly that is removed."""

    degradation: Degradation
    strength: float
    """0 (nothing is done) to 1."""

    @property
    def quality(self) -> Quality:
        """Of what is restored, for those who merge references; clean where nothing is done."""
        return self.degradation.quality if self.strength else CLEAN


NOTHING = Restoration(Degradation(), 0.0)


def automatic_strength(degradation: Degradation) -> float:
    """0 for a clean picture, rising with JPEG's steps, with noise and with blur to 1."""
    jpeg = 0.0
    if degradation.jpeg_step >= _JPEG_FROM:
        jpeg = _JPEG_LEAST + (1 - _JPEG_LEAST) * _rise(degradation.jpeg_step, 0, _JPEG_FULL)
    noise = _rise(degradation.noise, _NOISE_FROM, _NOISE_FULL)
    return round(max(jpeg, noise, _rise(degradation.blur, SOFT, _BLUR_FULL)), 2)


def plan_restoration(picture: Picture, strength: float | None) -> Restoration:
    """What is to be done to `picture`: by what is known of it where `strength` is None, else as strongly as asked."""
    if strength == 0:
        return NOTHING
    degradation = estimate_degradation(picture)
    return Restoration(degradation, automatic_strength(degradation) if strength is None else strength)


def _rise(x: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (x - low) / (high - low)))
