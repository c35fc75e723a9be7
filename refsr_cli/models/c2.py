"""C2-Matching: Jiang et al., "Robust Reference-based Super-Resolution via C2-Matching", CVPR 2021."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refsr_cli.layers.alignment import DynamicAggregation
from refsr_cli.layers.blocks import ResBlock, conv
from refsr_cli.models.matched import Matched, MatchedConfig, lrelu
from refsr_cli.reference.textures import Textures

_FARTHEST = 32
"""Low-resolution pixels: at half of that the rest is rounding, with EDSR's sixteen blocks too."""


@dataclass(frozen=True, kw_only=True)
class C2Config(MatchedConfig):
    """The numbers of a C2-Matching net; the defaults are those of the paper."""

    features: int = 64
    blocks: int = 16
    """Residual blocks at each of the three sizes, and before them."""


class _Stage(nn.Module):
    """One size: what is taken from the reference, and the body after it."""

    def __init__(self, features: int, texture: int, blocks: int, groups: int, tail: nn.Module) -> None:
        super().__init__()
        self.offset1 = conv(features + texture, texture)
        self.offset2 = conv(texture, texture)
        self.aggregation = DynamicAggregation(texture, groups)
        self.head = conv(features + texture, features)
        self.body = nn.Sequential(*(ResBlock(features) for _ in range(blocks)))
        self.tail = tail

    def forward(self, x: Tensor, textures: Textures, factor: int) -> Tensor:
        guess = lrelu(self.offset1(torch.cat([x, textures.unmoved(factor)], 1)))
        aligned = self.aggregation(textures.map(factor), lrelu(self.offset2(guess)), textures.places(factor))
        merged = lrelu(self.head(torch.cat([x, lrelu(aligned)], 1)))
        answer: Tensor = self.tail(self.body(merged) + x)
        return answer


class C2Restoration(nn.Module):
    """From the picture to the largest of three sizes, at each with what the reference shows.

    (N, 3, h, w) -> (N, 3, 4*h, 4*w), to be added to the bilinear base
    """

    def __init__(self, config: C2Config) -> None:
        super().__init__()
        features = config.features
        self.head = conv(3, features)
        self.content = nn.Sequential(*(ResBlock(features) for _ in range(config.blocks)))
        tails = (
            nn.Sequential(conv(features, 4 * features), nn.PixelShuffle(2), nn.LeakyReLU(0.1)),
            nn.Sequential(conv(features, 4 * features), nn.PixelShuffle(2), nn.LeakyReLU(0.1)),
            nn.Sequential(conv(features, features // 2), nn.LeakyReLU(0.1), conv(features // 2, 3)),
        )
        self.small, self.medium, self.large = (
            _Stage(features, texture, config.blocks, config.groups, tail)
            for texture, tail in zip(config.textures[::-1], tails, strict=True)
        )

    def forward(self, lr: Tensor, base: Tensor, textures: Textures) -> Tensor:
        x: Tensor = self.content(lrelu(self.head(lr)))
        for stage, factor in ((self.small, 1), (self.medium, 2), (self.large, 4)):
            x = stage(x, textures, factor)
        return x


class C2(Matched):
    """The net of the paper.   (N, 3, h, w) and `Textures` -> (N, 3, 4*h, 4*w)"""

    def __init__(self, config: C2Config, scale: int) -> None:
        super().__init__(scale, config)
        self.config: C2Config = config
        self.restoration = C2Restoration(config)

    @property
    def receptive_field(self) -> int:
        """That of its convolutions, at low resolution, twice and four times that, and of the nine votes; of a deep net
        as far as anything is seen to change, since one block after the other hardly hands on what is far away."""
        body = 2 * self.config.blocks + 5
        return min(_FARTHEST, 1 + 2 * self.config.blocks + body + -(-body // 2) + -(-body // 4) + 2)
