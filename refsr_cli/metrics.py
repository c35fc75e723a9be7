"""PSNR and SSIM, and the named protocols under which the field's papers report them.

All arithmetic is in float64 on pixel values in 0..255, rounded to 8 bit first as a saved file would be.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.errors import UnknownName
from refsr_cli.layers.colour import LUMA
from refsr_cli.layers.resample import Convention


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is compared: which channels, and how many high-resolution pixels are dropped at each border."""

    channels: Literal["y", "rgb"]
    shave: int
    """Pixels dropped at each border, besides `shave_scales` times the scale."""
    shave_scales: int
    description: str
    weights: Literal["matlab", "ttsr"] = "matlab"
    """How luma is weighed."""
    bicubic: Convention = "matlab"
    """Whose bicubic interpolation makes low-resolution images, and is compared with."""
    pad_to: int = 1
    """The high-resolution image is continued, on all sides alike, to a multiple of this before it is shrunk; what is
    scored is the image itself."""

    def border(self, scale: int) -> int:
        return self.shave + self.shave_scales * scale


PROTOCOLS: dict[str, Protocol] = {
    "y": Protocol(
        channels="y", shave=0, shave_scales=1, description="luma, shave = scale: Set5, Set14, B100, Urban100"
    ),
    "rgb": Protocol(channels="rgb", shave=0, shave_scales=1, description="RGB, shave = scale"),
    "ntire": Protocol(channels="rgb", shave=6, shave_scales=1, description="RGB, shave = scale + 6: DIV2K validation"),
    "srgan": Protocol(channels="y", shave=4, shave_scales=0, description="luma, shave = 4"),
    "c2": Protocol(
        channels="y",
        shave=4,
        shave_scales=0,
        bicubic="pillow",
        description="luma, shave = 4, shrunk by Pillow: C2-Matching and DATSR on CUFED5",
    ),
    "ttsr": Protocol(
        channels="y", shave=0, shave_scales=0, weights="ttsr", description="luma in TTSR's weights, whole image: TTSR"
    ),
    "masa": Protocol(
        channels="y", shave=0, shave_scales=0, pad_to=32, description="luma, padded to 32 before shrinking: MASA-SR"
    ),
}


def protocol_named(name: str) -> Protocol:
    """Raises UnknownName for a protocol that is not in PROTOCOLS."""
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


@dataclass(frozen=True)
class Scores:
    """PSNR in dB and SSIM of one image."""

    psnr: float
    ssim: float


_LUMA = {"matlab": LUMA, "ttsr": (65.738 / 256, 129.057 / 256, 25.064 / 256)}


def luma(rgb: Tensor, weights: Literal["matlab", "ttsr"] = "matlab") -> Tensor:
    """Studio-range BT.601 luma, MATLAB's `rgb2ycbcr`, or nearly that as TTSR's code has it.

    (N, 3, H, W) in 0..255 -> (N, 1, H, W) in 16..235"""
    factors = torch.tensor(_LUMA[weights], dtype=torch.float64, device=rgb.device).view(1, 3, 1, 1)
    return 16 + (rgb * factors).sum(1, keepdim=True)


def psnr(a: Tensor, b: Tensor) -> float:
    """10 log10(255² / mean squared difference) over all values of two images in 0..255; inf when equal."""
    error = (a.double() - b.double()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def ssim(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004 with an 11x11 Gaussian window (sigma 1.5), valid positions only, mean over channels.

    `a` and `b` are (1, C, H, W) in 0..255. An image smaller than the window has no valid position: nan.
    """
    if min(a.shape[-2:]) < 11:
        return float("nan")
    offset = torch.arange(11, dtype=torch.float64, device=a.device) - 5
    taps = torch.exp(-(offset**2) / (2 * 1.5**2))
    taps = taps / taps.sum()

    def blur(x: Tensor) -> Tensor:
        rows = F.conv2d(x, taps.view(1, 1, 11, 1))
        return F.conv2d(rows, taps.view(1, 1, 1, 11))

    x, y = (image.double().transpose(0, 1) for image in (a, b))
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    quotient = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((quotient / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def score(sr: Tensor, hr: Tensor, scale: int, protocol: Protocol) -> Scores:
    """Scores of `sr` (1, 3, H, W) against `hr` (1, 3 or 1, H, W), both in [0, 1].

    A grey `hr` (one channel) is compared as it is with the mean of the three channels of `sr`: its values are the
    luma already, as in the published figures of Set14.
    """
    if hr.shape[1] == 1:
        sr = sr.mean(1, keepdim=True)
    border = min(protocol.border(scale), (min(hr.shape[-2:]) - 1) // 2)
    pair = [image.double().clamp(0, 1).mul(255).round() for image in (sr, hr)]
    if protocol.channels == "y" and hr.shape[1] == 3:
        pair = [luma(image, protocol.weights) for image in pair]
    height, width = hr.shape[-2:]
    a, b = (image[..., border : height - border, border : width - border] for image in pair)
    return Scores(psnr(a, b), ssim(a, b))
