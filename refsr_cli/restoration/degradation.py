"""What is known of how a picture was degraded: from its file where that says it, else estimated from its pixels."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.images import Picture, Pixels, to_pixels, to_tensor
from refsr_cli.images.jpeg import JpegCoding, recompressed, recompressed_as
from refsr_cli.layers.resample import blurred
from refsr_cli.reference.offer import Quality
from refsr_cli.restoration.blocks import (
    BLOCK,
    LUMA,
    estimate_jpeg_step,
    jpeg_luma,
    jpeg_step,
    libjpeg_table,
    nearest_quality,
    transposed,
)
from refsr_cli.restoration.blur import SOFT, estimate_blur

_ESTIMATED_ON = 1024
"""Side of the middle part of a large picture that is estimated on."""
_LAPLACIAN = (1.0, -2.0, 1.0)
"""The noise of a pixel passes this difference, applied along both sides, six times as strong, and smooth pictures
vanish (Immerkær 1996)."""
_AREA, _STEP = 8, 4
"""Side of the squares that noise is measured in, and from one to the next."""
_QUIET = 0.1
"""Part of the squares that are quieter than the one that is taken: those show noise, the others the scene."""
_QUIET_SHARE = 0.80 * 0.81
"""Mean absolute value of such a square of pure noise, for σ = 1: that of a normal variable, in a quiet square."""
_QUIETEST, _QUIETEST_SHARE = 0.02, 0.80
"""The same for the luma of a compressed picture, whose colours show no noise: of few squares only, since its scene is
in nearly all of them, and on the safe side by a third."""
_UNCLIPPED = (2.0, 253.0)
"""Values, of 255, that are surely not cut off at black or white."""
COARSE = 30.0
"""Size of JPEG's steps, quality 85, from which what looks like noise or blur may be what they did."""
_COARSER = 1.5
"""Ratio of estimated steps to those of the file from which the picture was another JPEG before."""
_FEW_LEVELS = 0.35
"""Part of the values between darkest and brightest, of any channel, below which those are few."""
_MANY_EQUAL = 0.4
"""Part of the neighbouring pixels, next to each other and one above the other, from which on there is no noise: of
noise of σ = 1.5 a fifth are equal in one channel."""
_LUMA_NOISE = math.hypot(*LUMA)
"""σ of luma for noise of σ = 1 in each channel."""
_FEWEST = 60
"""Squares below which nothing is estimated: fewer may all show texture."""
_EVEN = 1.02, 1.35
"""Ratios of the median square to a quiet one between which it is noise that both show: a scene is not so even, and
noise not so even as a pattern that repeats."""


@dataclass(frozen=True)
class Degradation:
    """What is known of how a picture came about; clean where nothing is."""

    jpeg: JpegCoding | None = None
    """The coding of the file that the pixels were read from, where nothing coarser came before."""
    jpeg_step: float = 0.0
    """Size of the luma quantisation steps in percent of the JPEG standard's example table (100 is libjpeg's quality
    50, 50 its 75); 0 where there was no JPEG."""
    noise: float = 0.0
    """σ of 255."""
    blur: float = 0.0
    """σ in pixels of a Gaussian, estimated; few clean pictures are estimated at `SOFT` or more."""

    @property
    def softness(self) -> float:
        """σ of the blur where it is more than clean pictures are estimated at, else 0."""
        return self.blur if self.blur >= SOFT else 0.0

    @property
    def found(self) -> bool:
        """Whether anything was."""
        return self.jpeg_step > 0 or self.noise > 0 or self.softness > 0

    @property
    def certain(self) -> bool:
        """Whether a result may be changed by what is known: of a JPEG whose file states its tables, and that was not
        blurred before. Noise, blur and tables that are estimated are not sure enough."""
        return self.jpeg is not None and self.jpeg.has_luma and not self.softness

    @property
    def quality(self) -> Quality:
        """For those who merge references."""
        return self.jpeg_step / 100, self.noise / 10, self.softness

    @property
    def luma_table(self) -> tuple[int, ...] | None:
        """The 64 luma steps, row by row of the upright picture; None without JPEG."""
        if self.jpeg is not None and not self.jpeg.has_luma:
            return None
        if self.jpeg is None:
            return libjpeg_table(nearest_quality(self.jpeg_step)) if self.jpeg_step else None
        table = self.jpeg.tables[0]
        return transposed(table) if self.jpeg.orientation >= 5 else table

    @property
    def chroma_step(self) -> float:
        """The step of the mean of a block of chroma; like that of luma where it is not known."""
        if self.jpeg is not None and len(self.jpeg.tables) > 1:
            return self.jpeg.tables[1][0]
        return self.luma_table[0] if self.luma_table else 0.0

    def grid_offset(self, height: int, width: int) -> tuple[int, int]:
        """Row and column, in 0..7, where a block of the upright picture of that size begins: blocks begin at the upper
        left corner of the file's own orientation."""
        turn = self.jpeg.orientation if self.jpeg else 1
        from_bottom, from_right = turn in (3, 4, 7, 8), turn in (2, 3, 6, 7)
        return height % BLOCK if from_bottom else 0, width % BLOCK if from_right else 0

    @property
    def jpeg_quality(self) -> int | None:
        """The libjpeg quality with steps of about that size; None without JPEG."""
        return nearest_quality(self.jpeg_step) if self.jpeg_step else None


def estimate_degradation(picture: Picture) -> Degradation:
    """What is known of `picture`. A JPEG file says its steps itself; of other files they are estimated, as a PNG may
    have been a JPEG before, and so may a JPEG of fine steps have been one of coarser steps."""
    rgb = _middle(picture.pixels)
    luma, coding = jpeg_luma(rgb)[0], picture.jpeg
    step = jpeg_step(coding.tables[0]) if coding else 0.0
    if step < COARSE and not _has_few_levels(rgb):
        earlier = estimate_jpeg_step(luma, (picture.height % BLOCK, picture.width % BLOCK))
        if earlier > _COARSER * step:
            step, coding = earlier, None
    if step >= COARSE:
        return Degradation(coding, step)
    return Degradation(coding, step, estimate_noise(rgb, compressed=step > 0), estimate_blur(luma))


def degraded_alike(pixels: Pixels, known: Degradation) -> Pixels:
    """Other pixels (H, W, C), of the size of those that `known` is of, blurred and compressed as these were. Noise is
    left out: restoring takes most of it away."""
    if known.softness:
        pixels = to_pixels(blurred(to_tensor(pixels), known.softness), pixels)
    if known.jpeg_quality is None:
        return pixels
    eight_bits = to_pixels(to_tensor(pixels), np.empty((1, 1, pixels.shape[2]), np.uint8)).astype(np.uint8)
    if known.jpeg and known.jpeg.has_luma:
        return recompressed_as(eight_bits, known.jpeg)
    return recompressed(eight_bits, known.jpeg_quality)


def _middle(pixels: Pixels) -> Tensor:
    """The middle of (H, W, C) as (C, h, w) float in 0..255, from a multiple of 8 on: the grid of a JPEG stays."""
    for dim in (0, 1):
        first = max(0, pixels.shape[dim] - _ESTIMATED_ON) // 2 // 8 * 8
        pixels = pixels[first : first + _ESTIMATED_ON] if dim == 0 else pixels[:, first : first + _ESTIMATED_ON]
    peak = 255 if pixels.dtype.itemsize == 1 else 65535
    return torch.from_numpy(pixels.astype("float32")).permute(2, 0, 1) * (255 / peak)


def _has_few_levels(rgb: Tensor) -> bool:
    """Whether a picture (C, H, W) in 0..255 was drawn or reduced to few levels, which no JPEG leaves."""
    levels = [channel.round().unique() for channel in rgb]
    return all(len(its) < _FEW_LEVELS * float(its[-1] - its[0] + 1) for its in levels)


def estimate_noise(rgb: Tensor, *, compressed: bool = False) -> float:
    """σ of the noise of a picture (3 or 1, H, W) in 0..255; 0 where it cannot be distinguished from the scene.

    Scenes have fine texture in luma, hardly any in the differences between colours, and sensor noise has both: of the
    quiet squares of each the smaller σ counts. Where colours do not differ (grey pictures and grey noise), luma counts
    if it is as noisy nearly everywhere, as a scene is not. JPEG takes noise from colours first: of a `compressed`
    picture the quietest squares of luma count as well. Fine texture everywhere is then noise of up to 2."""
    inside = ((rgb > _UNCLIPPED[0]) & (rgb < _UNCLIPPED[1])).all(0)[1:-1, 1:-1].float()
    if min(inside.shape, default=0) < _AREA:
        return 0.0
    usable = -F.max_pool2d(-inside[None], _AREA, _STEP)[0] > 0
    if int(usable.sum()) < _FEWEST:
        return 0.0
    if all(_equal_neighbours(rgb, inside, dim) > _MANY_EQUAL for dim in (1, 2)):  # enlarged by repeating pixels
        return 0.0
    loudness = _loudness(jpeg_luma(rgb)[0], usable)
    quietest = float(torch.quantile(loudness, _QUIETEST)) / _QUIETEST_SHARE if compressed else 0.0
    luma, evenness = _quiet_squares(loudness)
    colour = 0.0
    if len(rgb) == 3:
        luma /= _LUMA_NOISE
        differences = [_loudness((rgb[number] - rgb[1]) / 2**0.5, usable) for number in (0, 2)]
        colour = min(luma, *(_quiet_squares(difference)[0] for difference in differences))
    if colour >= 1 or not _EVEN[0] < evenness <= _EVEN[1]:
        return max(colour, quietest)
    grey = luma if len(rgb) == 1 else luma * _LUMA_NOISE
    return max(colour, grey, quietest)


def _equal_neighbours(rgb: Tensor, inside: Tensor, dim: int) -> float:
    """The part of the pixels `inside` (H-2, W-2) of (C, H, W) that equal their next one along `dim`."""
    middle = rgb[:, 1:-1, 1:-1]
    following = rgb.narrow(dim, 2, middle.shape[dim])
    following = following.narrow(3 - dim, 1, middle.shape[3 - dim])
    return float(((middle == following).all(0) * inside).sum() / inside.sum())


def _loudness(plane: Tensor, usable: Tensor) -> Tensor:
    """Mean absolute value of what noise leaves of (H, W), in each of the `usable` squares."""
    taps = torch.tensor(_LAPLACIAN)
    kernel = (taps[:, None] * taps / 6).view(1, 1, 3, 3)
    return F.avg_pool2d(F.conv2d(plane[None, None], kernel).abs(), _AREA, _STEP)[0, 0][usable]


def _quiet_squares(loudness: Tensor) -> tuple[float, float]:
    """σ of the noise in the quiet squares, and how much louder the median square is."""
    quiet, middle = (float(torch.quantile(loudness, part)) for part in (_QUIET, 0.5))
    return quiet / _QUIET_SHARE, middle / max(quiet, 1e-6)
