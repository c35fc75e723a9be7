"""MSRResNet: SRResNet without batch norm, as ESRGAN (Wang et al. 2018) compares with and BasicSR publishes it."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.layers.blocks import ResBlock, conv, exactly, factors_of
from refsr_cli.models.base import SRModel

_SLOPE = 0.1


@dataclass(frozen=True, kw_only=True)
class MSRResNetConfig:
    """The numbers of an MSRResNet."""

    features: int = 64
    """Width of every hidden layer."""
    blocks: int = 16


class MSRResNet(SRModel):
    """Residual blocks, a sub-pixel tail with activations, and a bilinear enlargement that the net adds to; RGB in
    [0, 1] throughout.   (N, 3, H, W) -> (N, 3, scale*H, scale*W)"""

    scales = (2, 3, 4)
    scale_specific = ("upsample.",)
    dense_parts = ("body",)

    def __init__(self, config: MSRResNetConfig, scale: int) -> None:
        super().__init__(scale)
        self.config: MSRResNetConfig = config
        features = config.features
        self.head = conv(3, features)
        self.body = nn.Sequential(*(ResBlock(features) for _ in range(config.blocks)))
        self.upsample = nn.ModuleList(conv(features, features * factor**2) for factor in factors_of(scale))
        self.after, self.tail = conv(features, features), conv(features, 3)

    @property
    def receptive_field(self) -> int:
        sides = [1.0]
        for factor in factors_of(self.scale):
            sides.append(sides[-1] / factor)
        return math.ceil(1 + 2 * self.config.blocks + sum(sides[:-1]) + 2 * sides[-1])

    def forward(self, lr: Tensor) -> Tensor:
        x = self.body(F.leaky_relu(self.head(lr), _SLOPE))
        for layer, factor in zip(self.upsample, factors_of(self.scale), strict=True):
            x = F.leaky_relu(F.pixel_shuffle(layer(x), factor), _SLOPE)
        base = F.interpolate(lr, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return exactly(self.tail, F.leaky_relu(self.after(x), _SLOPE)) + base
