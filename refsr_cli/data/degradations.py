"""What happens to a picture between the scene and the file: blur, shrinking, noise, JPEG, in this order.

`SyntheticDegradation` is one such way with fixed amounts, for evaluation (`jpeg:75`, `noise:3+jpeg:80`).
`DegradationMix` draws one for each training crop from ranges (`photo`, or `blur:0-0.8+noise:0-10+jpeg:30-95`). The
order is that of BSRGAN (Zhang et al. 2021) without its shuffling; a second JPEG on a shifted grid follows FBCNN (Jiang
et al. 2021).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.errors import BadSetting
from refsr_cli.images.jpeg import recompressed
from refsr_cli.layers.resample import Convention, blurred, mirror

_LIMITS = {"blur": (0.0, 5.0), "noise": (0.0, 100.0), "jpeg": (1.0, 100.0)}
"""Smallest and largest amounts: σ of the blur in low-resolution pixels, σ of the noise of 255, JPEG quality."""
_TERM = re.compile(r"(?P<name>[a-z]+):(?P<low>\d+(\.\d+)?)(-(?P<high>\d+(\.\d+)?))?")


@dataclass(frozen=True)
class SyntheticDegradation:
    """One way a low-resolution picture comes about, beside being shrunk."""

    blur: float = 0.0
    """σ of a Gaussian in low-resolution pixels, before shrinking."""
    noise: float = 0.0
    """σ of Gaussian noise, of 255, independent in every pixel and channel."""
    jpeg: int | None = None
    """Quality as libjpeg counts it, chroma at half resolution; None is no JPEG."""

    def shrink(self, hr: Tensor, scale: int, name: str, convention: Convention = "matlab") -> Tensor:
        """(1, C, scale*h, scale*w) in [0, 1] to (1, C, h, w), rounded to 8 bit; all but the JPEG, which belongs to the
        file. The noise depends on `name` alone."""
        lr = degrade_bicubic(blurred(hr, scale * self.blur) if self.blur else hr, scale, convention)
        if not self.noise:
            return lr
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        noise = torch.randn(lr.shape, generator=torch.Generator().manual_seed(seed))
        return _rounded(lr + noise * self.noise / 255)


CLEAN = SyntheticDegradation()

CELLS: Mapping[str, SyntheticDegradation] = {
    "clean": CLEAN,
    "jpeg:95": SyntheticDegradation(jpeg=95),
    "jpeg:90": SyntheticDegradation(jpeg=90),
    "jpeg:75": SyntheticDegradation(jpeg=75),
    "jpeg:50": SyntheticDegradation(jpeg=50),
    "jpeg:30": SyntheticDegradation(jpeg=30),
    "noise:2": SyntheticDegradation(noise=2),
    "noise:5": SyntheticDegradation(noise=5),
    "noise:10": SyntheticDegradation(noise=10),
    "noise:3+jpeg:80": SyntheticDegradation(noise=3, jpeg=80),
    "blur:0.6": SyntheticDegradation(blur=0.6),
    "blur:0.6+jpeg:90": SyntheticDegradation(blur=0.6, jpeg=90),
}
"""What `refsr eval --degrade all` measures, one row each."""


def parse_degradation(text: str) -> SyntheticDegradation:
    """`jpeg:75`, `noise:5`, `blur:0.8`, sums of them with `+`, or `clean`. Raises BadSetting."""
    if text == "clean":
        return CLEAN
    amounts = _parsed(text, ranges=False)
    quality = amounts["jpeg"][0] if "jpeg" in amounts else None
    if quality is not None and quality != int(quality):
        raise BadSetting(f"the quality of a JPEG is a whole number, not {quality:g}, in --degrade {text}")
    return SyntheticDegradation(
        amounts.get("blur", (0.0, 0.0))[0],
        amounts.get("noise", (0.0, 0.0))[0],
        None if quality is None else int(quality),
    )


def _parsed(text: str, *, ranges: bool) -> dict[str, tuple[float, float]]:
    """The lowest and highest amount by name."""
    example = "blur:0-0.8+noise:0-10+jpeg:30-95" if ranges else "jpeg:75, noise:5, blur:0.8 or noise:3+jpeg:80"
    amounts: dict[str, tuple[float, float]] = {}
    for term in text.split("+"):
        match = _TERM.fullmatch(term.strip())
        if not match or match["name"] not in _LIMITS or match["name"] in amounts or (match["high"] and not ranges):
            raise BadSetting(f"--degrade takes {example}, not '{text}'")
        low, high = float(match["low"]), float(match["high"] or match["low"])
        least, most = _LIMITS[match["name"]]
        if not least <= low <= high <= most:
            raise BadSetting(f"{match['name']} in --degrade is between {least:g} and {most:g}, not {term.strip()}")
        amounts[match["name"]] = low, high
    return amounts


@dataclass(frozen=True, kw_only=True)
class DegradationMix:
    """Ranges that degradations of training crops are drawn from. Each of the three happens to a part of the crops
    only, so that there are also crops with one of them alone."""

    blur: tuple[float, float] | None = None
    noise: tuple[float, float] | None = None
    jpeg: tuple[float, float] | None = None
    """Best and worst quality are the ends; quantisation steps, not qualities, are spread between them, fine ones more
    often."""
    clean: float = 0.1
    """Part of the crops that nothing happens to."""
    parts: tuple[float, float, float] = (0.25, 0.6, 0.6)
    """Parts of the others that blur, noise and JPEG happen to."""
    low_noise: float = 3.0
    """Half of the noise is below this: uniform σ would teach the clean end too rarely."""
    grey_noise: float = 0.3
    """Part of the noise that is the same in all channels."""
    shot_noise: float = 0.3
    """Part of the noise that grows with the square root of the light."""
    full_chroma: float = 0.4
    """Part of the JPEGs whose chroma has full resolution."""
    twice: float = 0.2
    """Part of the JPEGs that are cropped by 1 to 7 pixels and compressed again."""


MIXES: Mapping[str, DegradationMix] = {"photo": DegradationMix(blur=(0.0, 0.8), noise=(0.0, 10.0), jpeg=(30.0, 95.0))}
"""By the names that `refsr train --degrade` has for them."""


def parse_mix(text: str) -> DegradationMix:
    """A name in MIXES, or ranges such as `noise:0-10+jpeg:30-95`. Raises BadSetting."""
    if text in MIXES:
        return MIXES[text]
    try:
        amounts = _parsed(text, ranges=True)
    except BadSetting as error:
        raise BadSetting(f"{error}; or a name: {', '.join(MIXES)}") from None
    return DegradationMix(blur=amounts.get("blur"), noise=amounts.get("noise"), jpeg=amounts.get("jpeg"))


MARGIN = 12
"""Low-resolution pixels around a crop that are drawn with it: a JPEG's grid then begins anywhere, and blur and
shrinking see what is beside the crop."""
_PHASES = 8
"""Positions of a crop in the grid of a JPEG, along each side."""


class _Draws:
    """Random numbers for every crop of a batch, all drawn at once by one generator: a process that shares the batch
    with others sees the same."""

    def __init__(self, size: int, part: slice, generator: torch.Generator) -> None:
        self._size, self._part, self._generator = size, part, generator

    def uniform(self) -> Tensor:
        return torch.rand(self._size, generator=self._generator)[self._part]

    def whole(self, low: int, high: int) -> Tensor:
        """`low` <= numbers < `high`."""
        return torch.randint(low, high, (self._size,), generator=self._generator)[self._part]

    def chance(self, probability: float) -> Tensor:
        return self.uniform() < probability

    def between(self, ends: tuple[float, float] | None) -> Tensor:
        low, high = ends or (0.0, 0.0)
        return low + (high - low) * self.uniform()


@dataclass(frozen=True)
class DegradedCrops:
    """Crops of a batch, float in [0, 1], and what happened to them."""

    lr: Tensor
    """(N, 3, h, w) degraded."""
    clean: Tensor
    """(N, 3, h, w) as they were before."""
    hr: Tensor
    """(N, 3, scale*h, scale*w) at high resolution."""
    blur: Tensor
    """(N,) σ in low-resolution pixels."""
    noise: Tensor
    """(N,) σ of 255."""
    jpeg_step: Tensor
    """(N,) size of the last quantisation in percent of libjpeg's quality 50; 0 without."""


def degrade_crops(
    lr: Tensor, hr: Tensor, mix: DegradationMix, size: int, part: slice, generator: torch.Generator
) -> DegradedCrops:
    """The middle of windows `lr` (N, 3, h + 2*MARGIN, w + 2*MARGIN), float in [0, 1], degraded by `mix`. `hr` are the
    same windows at high resolution; they are the `part` of a batch of `size`.

    All randomness is from the CPU `generator`, so that a training can be resumed bit for bit."""
    draws = _Draws(size, part, generator)
    spared = draws.chance(mix.clean)
    blur = draws.between(mix.blur) * (draws.chance(mix.parts[0]) & ~spared)
    noise = _noise_levels(mix, draws) * (draws.chance(mix.parts[1]) & ~spared)
    grey, shot = draws.chance(mix.grey_noise), draws.chance(mix.shot_noise)
    seeds = draws.whole(0, 2**62)
    compressed = draws.chance(mix.parts[2]) & ~spared & (mix.jpeg is not None)
    first, last = (_qualities(mix.jpeg, draws) for _ in range(2))
    full_chroma, twice = draws.chance(mix.full_chroma), draws.chance(mix.twice) & compressed
    corners = [(draws.whole(0, _PHASES), draws.whole(0, _PHASES)) for _ in range(2)]

    scale = hr.shape[-1] // lr.shape[-1]
    crops = []
    for k in range(len(lr)):
        x = lr[k : k + 1]
        if blur[k] > 0:
            x = degrade_bicubic(blurred(hr[k : k + 1], scale * float(blur[k])), scale)
        if noise[k] > 0:
            chance = torch.Generator().manual_seed(int(seeds[k]))
            x = _with_noise(x, float(noise[k]), grey=bool(grey[k]), shot=bool(shot[k]), generator=chance)
        for happens, quality, (top, left) in ((twice, first, corners[0]), (compressed, last, corners[1])):
            if happens[k]:
                x = _jpeg(x, int(quality[k]), int(top[k]), int(left[k]), full_chroma=bool(full_chroma[k]))
        crops.append(_middle(x))
    steps = torch.tensor([_step(float(quality)) for quality in last]) * compressed
    return DegradedCrops(torch.cat(crops), _middle(lr), _middle(hr, scale), blur, noise, steps)


def degrade_windows(
    hr: Tensor, scale: int, mix: DegradationMix, size: int, part: slice, generator: torch.Generator
) -> DegradedCrops:
    """Like `degrade_crops`, of whole windows `hr` (N, 3, scale*h, scale*w), which are mirrored beyond their border."""
    around = mirror(hr, scale * MARGIN)
    return degrade_crops(degrade_bicubic(around, scale), around, mix, size, part, generator)


def _middle(x: Tensor, scale: int = 1) -> Tensor:
    inside = slice(scale * MARGIN, -scale * MARGIN)
    return x[..., inside, inside]


def _noise_levels(mix: DegradationMix, draws: _Draws) -> Tensor:
    low, high = mix.noise or (0.0, 0.0)
    middle = min(max(low, mix.low_noise), high)
    below, above, pick = draws.between((low, middle)), draws.between((middle, high)), draws.chance(0.5)
    return torch.where(pick, below, above)


def _qualities(ends: tuple[float, float] | None, draws: _Draws) -> Tensor:
    """Qualities whose quantisation steps are spread between those of the ends, fine ones more often."""
    worst, best = ends or (100.0, 100.0)
    coarse, fine = _step(worst), _step(best)
    steps = fine + (coarse - fine) * draws.uniform() ** 1.5
    return torch.where(steps <= 100, 100 - steps / 2, 5000 / steps).round().clamp(1, 100).long()


def _step(quality: float) -> float:
    """libjpeg's factor on its standard quantisation tables, in percent (`jpeg_quality_scaling`)."""
    return 200 - 2 * quality if quality >= 50 else 5000 / quality


def _with_noise(x: Tensor, sigma: float, *, grey: bool, shot: bool, generator: torch.Generator) -> Tensor:
    noise = torch.randn((1, 1 if grey else 3, *x.shape[-2:]), generator=generator).to(x.device) * sigma / 255
    return _rounded(x + noise * (2 * x.clamp(0, 1)).sqrt() if shot else x + noise)


def _jpeg(x: Tensor, quality: int, top: int, left: int, *, full_chroma: bool) -> Tensor:
    """(1, 3, H, W) in [0, 1] with all that is below `top` and right of `left` as it comes back from a JPEG file."""
    pixels = x[0, :, top:, left:].mul(255).round().to(torch.uint8).cpu()
    result = x.clone()
    result[0, :, top:, left:] = as_jpeg(pixels, quality, full_chroma=full_chroma).to(x.device).float().div(255)
    return result


def as_jpeg(pixels: Tensor, quality: int, *, full_chroma: bool = False) -> Tensor:
    """(3, H, W) uint8 on the CPU as it comes back from a JPEG file."""
    rows = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    decoded = recompressed(rows, quality, "4:4:4" if full_chroma else "4:2:0")
    return torch.from_numpy(decoded).permute(2, 0, 1).contiguous()


def _rounded(x: Tensor) -> Tensor:
    return x.clamp(0, 1).mul(255).round().div(255)
