"""How soft a picture is, estimated from its sharpest places.

A Gaussian blur weakens what alternates from pixel to pixel far more than what alternates every two pixels. In photos
that were shrunk without blur, the ratio of the two is nearly the same in the sharpest places of each.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_FINE = (1.0, -4.0, 6.0, -4.0, 1.0)
"""Strongest at the highest frequency that pixels can hold."""
_MIDDLE = (1.0, 0.0, -2.0, 0.0, 1.0)
"""Strongest at half of it, nothing at the highest."""
_AREA, _STEP = 12, 6
"""Side of the squares that energies are measured in, and from one to the next."""
_SHARPEST = 0.1
"""Part of the squares that have most of the middle frequencies: edges and texture."""
_ENERGY = 25.0
"""Mean square of the middle frequencies, of 255², below which a square shows too little."""
_FEWEST = 16
"""Squares below which nothing is estimated."""
_LOG_RATIOS = (-2.7, -1.87, -1.23, -0.87, -0.53, -0.20, 0.13, 0.40, 0.78)
"""Median over 41 validation photos, shrunk by 4, of the logarithm of fine by middle energy, for each of `_SIGMAS`."""
_SIGMAS = (1.3, 1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.0)

SOFT = 0.4
"""σ from which a picture is soft: only few that were not blurred are estimated so."""
WIDEST = _SIGMAS[0]


def estimate_blur(luma: Tensor) -> float:
    """σ in pixels of the Gaussian that would make (H, W) in 0..255 as soft as it is, from 0 to 1.3; 0 where too little
    can be seen of it. Clean photos are below `SOFT` in 98 of 100."""
    if min(luma.shape) < _AREA + len(_FINE):
        return 0.0
    fine, middle = (_energies(luma, taps) for taps in (_FINE, _MIDDLE))
    sharp = middle >= max(float(torch.quantile(middle, 1 - _SHARPEST)), _ENERGY)
    if int(sharp.sum()) < _FEWEST:
        return 0.0
    ratio = float((fine[sharp] / middle[sharp]).median().clamp(min=1e-6).log())
    return float(np.interp(ratio, _LOG_RATIOS, _SIGMAS))


def _energies(luma: Tensor, taps: tuple[float, ...]) -> Tensor:
    """Mean square in each square, of both directions: (n,)."""
    kernel, reach = torch.tensor(taps).view(1, 1, 1, -1), len(taps) // 2
    along = F.conv2d(luma[None, None], kernel)[..., reach:-reach, :]
    across = F.conv2d(luma[None, None], kernel.mT)[..., reach:-reach]
    return torch.cat([F.avg_pool2d(x.square(), _AREA, _STEP).flatten() for x in (along, across)])
