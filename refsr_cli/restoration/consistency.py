"""What a picture's file proves about the picture that was there before it was degraded.

Detail taken from a reference must leave the input explained. Of a clean input every pixel is known. Of a JPEG the file
says between which two values each coefficient of the DCT lay; of a noisy one pixels are known to its σ.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.images import Pixels, to_tensor
from refsr_cli.layers.backprojection import Residual
from refsr_cli.layers.resample import blurred, local_mean
from refsr_cli.reference.trust import local_rms
from refsr_cli.restoration.blocks import BLOCK, from_frequencies, jpeg_luma, to_frequencies
from refsr_cli.restoration.blur import WIDEST
from refsr_cli.restoration.degradation import Degradation
from refsr_cli.restoration.strength import Restoration

_ROUNDING = 0.6
"""Half a level that pixels were rounded by, in the unit of an orthonormal coefficient, with some room."""
_COLOUR_OF_CHROMA = 1.772
"""Blue less luma for one level of Cb."""
_RED, _BLUE = 0.299, 0.114
"""Weights in luma (ITU-R BT.601): those colours change by that leave luma as it is."""
_CHROMA_AREA = 17
"""Pixels a side over which chroma is compared: the blocks of halved chroma are 16 wide, and coarsely quantised but for
their mean."""
KNOWN_HALO = 2 * (BLOCK + math.ceil(4 * WIDEST))
"""Pixels that consistency depends on beyond those of a clean input: the rest of a block, and the widest blur, once
where a result is made consistent and again where it is judged."""
_STEP_OF_ERROR = 0.08
"""Root mean square, of 255, by which a JPEG whose luma is not known is wrong, for a percent of step."""
_NOISE_ROOM = 1.1
"""By how much the noise of an area may exceed the estimate."""


@dataclass(frozen=True)
class KnownInput:
    """A degraded input, as its file gave it.   Results that do not contradict it gain 0.01 to 0.07 dB of JPEGs."""

    pixels: Pixels
    """(H, W, C), before it was restored."""
    degradation: Degradation

    def part(self, top: int, left: int, bottom: int, right: int, device: torch.device) -> Residual:
        """What contradicts the pixels `top` <= row < `bottom`, `left` <= column < `right`."""
        known = self._coded(top, left, bottom, right, device)
        blur = self.degradation.softness
        return (lambda shrunk: known(blurred(shrunk, blur))) if blur else known

    def _coded(self, top: int, left: int, bottom: int, right: int, device: torch.device) -> Residual:
        """What contradicts them after blur."""
        lr = to_tensor(self.pixels[top:bottom, left:right]).to(device)
        steps = self.degradation.luma_table
        if steps is None:
            coarse = self.degradation.jpeg_step * _STEP_OF_ERROR
            return _Noisy(lr, max(self.degradation.noise, coarse) / 255)
        row, column = self.degradation.grid_offset(*self.pixels.shape[:2])
        table = torch.tensor(steps, device=device).view(BLOCK, BLOCK).float()
        mean = _COLOUR_OF_CHROMA * self.degradation.chroma_step / (2 * BLOCK * 255)
        return _JpegBlocks(lr, table, ((row - top) % BLOCK, (column - left) % BLOCK), mean)


def known_input(pixels: Pixels, plan: Restoration) -> KnownInput | None:
    """What is known of `pixels` (H, W, C) that are restored by `plan`; None where they are taken as they are."""
    return KnownInput(pixels, plan.degradation) if plan.strength and plan.degradation.found else None


class _Noisy:
    def __init__(self, lr: Tensor, sigma: float) -> None:
        self._lr, self._allowed = lr, _NOISE_ROOM * sigma

    def __call__(self, shrunk: Tensor) -> Tensor:
        difference = shrunk - self._lr
        return difference * (1 - self._allowed / local_rms(difference).clamp(min=1e-6)).clamp(min=0)


class _JpegBlocks:
    """Quantised luma, and the mean of chroma."""

    def __init__(self, lr: Tensor, table: Tensor, offset: tuple[int, int], chroma_reach: float) -> None:
        """`lr` (1, 3, h, w) in [0, 1], whose blocks begin `offset` pixels from its upper left corner, and the mean of
        whose chroma is known to `chroma_reach`."""
        self._chroma_reach = chroma_reach
        self._size = lr.shape[-2:]
        self._before = [-first % BLOCK for first in offset]
        coefficients = self._coefficients(255 * jpeg_luma(lr))
        middle = (coefficients / table).round() * table
        reach = table / 2 + _ROUNDING
        self._low, self._high = middle - reach, middle + reach
        self._chroma = local_mean(_chroma(lr), _CHROMA_AREA)

    def __call__(self, shrunk: Tensor) -> Tensor:
        coefficients = self._coefficients(255 * jpeg_luma(shrunk))
        outside = coefficients - coefficients.clamp(self._low, self._high)
        (top, left), (height, width) = self._before, self._size
        luma = from_frequencies(outside)[..., top : top + height, left : left + width] / 255
        chroma = local_mean(_chroma(shrunk), _CHROMA_AREA) - self._chroma
        blue, red = F.softshrink(chroma, self._chroma_reach).split(1, 1)
        return luma + torch.cat([red, -(_RED * red + _BLUE * blue) / (1 - _RED - _BLUE), blue], 1)

    def _coefficients(self, luma: Tensor) -> Tensor:
        """Of (1, 1, h, w), continued to whole blocks: (1, 1, m, n, 8, 8)."""
        top, left = self._before
        bottom, right = (-(size + first) % BLOCK for size, first in zip(self._size, self._before, strict=True))
        padded = F.pad(luma - 128, (left, right, top, bottom), mode="replicate")
        return to_frequencies(padded)


def _chroma(x: Tensor) -> Tensor:
    """Blue and red less luma: (1, 2, h, w)."""
    return x[:, [2, 0]] - jpeg_luma(x)
