"""Convolutional blocks of the EDSR family (Lim et al., "Enhanced Deep Residual Networks for Single Image
Super-Resolution", CVPRW 2017)."""

import math

import torch
from torch import Tensor, nn

from refsr_cli.errors import BadSetting


def conv(in_channels: int, out_channels: int, kernel: int = 3, *, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps height and width: zero padding of `kernel // 2`."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)


def exactly(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)` in the precision of its weights also under autocast: for a last layer, whose 8 bits of mantissa would
    band the picture."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(next(layer.parameters()).dtype))  # type: ignore[no-any-return]


def factors_of(scale: int) -> list[int]:
    """The factors in which a tail enlarges: 3 at once, powers of 2 by twos. Raises BadSetting for other scales."""
    if scale == 3:
        return [3]
    if scale >= 2 and math.log2(scale).is_integer():
        return [2] * int(math.log2(scale))
    raise BadSetting(f"an upsampler has scale 3 or a power of 2, not {scale}")


class ResBlock(nn.Module):
    """`x + res_scale * conv(relu(conv(x)))`, without normalisation (EDSR, Fig. 2c).   (N, F, H, W) -> same"""

    def __init__(self, features: int, kernel: int = 3, res_scale: float = 1.0) -> None:
        super().__init__()
        self.conv1 = conv(features, features, kernel)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(features, features, kernel)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.conv2(self.relu(self.conv1(x))), alpha=self.res_scale)


class Upsampler(nn.Sequential):
    """Sub-pixel upsampling: a 3x3 convolution and a pixel shuffle for every factor of 2, or one pair for 3.

    (N, F, H, W) -> (N, F, scale*H, scale*W). There is no activation, so the whole is linear.
    """

    def __init__(self, features: int, scale: int) -> None:
        stages: list[nn.Module] = []
        for factor in factors_of(scale):
            stages += [conv(features, features * factor**2), nn.PixelShuffle(factor)]
        super().__init__(*stages)


def upsampler_radius(scale: int) -> float:
    """Radius of the receptive field of `Upsampler` and one 3x3 convolution after it, in pixels of its input."""
    if scale == 3:
        return 1 + 1 / 3
    return sum(0.5**stage for stage in range(int(math.log2(scale)) + 1))
