"""SRResNet: Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network",
CVPR 2017, Fig. 4: the generator, trained for mean squared error."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from refsr_cli.errors import BadSetting
from refsr_cli.layers.blocks import conv, exactly, factors_of
from refsr_cli.layers.resample import upscale
from refsr_cli.models.base import SRModel


@dataclass(frozen=True, kw_only=True)
class SRResNetConfig:
    """The numbers that tell one SRResNet from another; the defaults are the paper's."""

    features: int = 64
    """Width of every hidden layer."""
    blocks: int = 16
    """Residual blocks."""
    kernel_io: int = 9
    """Side of the first and of the last kernel."""
    global_skip: bool = True
    """Whether what the first layer gives is added to what the blocks make of it."""
    upsampler: str = "pixelshuffle"
    """Or `bicubic`: between the convolutions of the tail the features are interpolated."""


class NormBlock(nn.Module):
    """`x + norm(conv(prelu(norm(conv(x)))))`.   (N, F, H, W) -> same"""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(features, features, bias=False), nn.BatchNorm2d(features)
        self.prelu = nn.PReLU()
        self.conv2, self.norm2 = conv(features, features, bias=False), nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.norm2(self.conv2(self.prelu(self.norm1(self.conv1(x)))))
        return x + residual


class Interpolation(nn.Module):
    """Bicubic interpolation of features.   (N, F, H, W) -> (N, F, factor*H, factor*W)"""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return upscale(x, self.factor)


def enlarging(features: int, factor: int, upsampler: Literal["pixelshuffle", "bicubic"]) -> nn.Sequential:
    """One stage of the tail: convolution, enlargement, PReLU.   (N, F, H, W) -> (N, F, factor*H, factor*W)"""
    if upsampler == "pixelshuffle":
        return nn.Sequential(conv(features, features * factor**2), nn.PixelShuffle(factor), nn.PReLU())
    return nn.Sequential(conv(features, features), Interpolation(factor), nn.PReLU())


class SRResNet(SRModel):
    """Wide first layer, normalised residual blocks with a global skip, sub-pixel tail, wide last layer; RGB in [0, 1]
    throughout.   (N, 3, H, W) -> (N, 3, scale*H, scale*W)"""

    scales = (2, 3, 4, 8)
    scale_specific = ("upsample.",)
    dense_parts = ("head", "body", "after")

    def __init__(self, config: SRResNetConfig, scale: int) -> None:
        super().__init__(scale)
        if config.kernel_io % 2 == 0:
            raise BadSetting(f"kernel_io is odd, not {config.kernel_io}")
        if config.upsampler not in ("pixelshuffle", "bicubic"):
            raise BadSetting(f"upsampler is pixelshuffle or bicubic, not {config.upsampler}")
        self.config: SRResNetConfig = config
        features = config.features
        self.head = nn.Sequential(conv(3, features, config.kernel_io), nn.PReLU())
        self.body = nn.Sequential(*(NormBlock(features) for _ in range(config.blocks)))
        self.after = nn.Sequential(conv(features, features, bias=False), nn.BatchNorm2d(features))
        stages = (enlarging(features, factor, config.upsampler) for factor in factors_of(scale))  # type: ignore[arg-type]
        self.upsample = nn.Sequential(*stages)
        self.tail = conv(features, 3, config.kernel_io)

    @property
    def receptive_field(self) -> int:
        radius, side = self.config.kernel_io // 2 + 2.0 * self.config.blocks + 1, 1.0
        for factor in factors_of(self.scale):
            radius += side  # the convolution
            radius += 2 * side if self.config.upsampler == "bicubic" else 0
            side /= factor
        return math.ceil(radius + self.config.kernel_io // 2 * side)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.head(lr)
        deep = self.after(self.body(shallow))
        deep = shallow + deep if self.config.global_skip else deep
        return exactly(self.tail, self.upsample(deep))
