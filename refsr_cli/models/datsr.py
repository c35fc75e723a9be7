"""DATSR: Cao et al., "Reference-based Image Super-Resolution with Deformable Attention Transformer", ECCV 2022."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from refsr_cli.layers.alignment import DynamicAggregation
from refsr_cli.layers.blocks import ResBlock, conv
from refsr_cli.layers.swin import SwinBody
from refsr_cli.models.matched import Matched, MatchedConfig, lrelu
from refsr_cli.reference.textures import Textures

_FARTHEST = 10.0
"""Pixels by which a learned offset may change a place."""
_DROP = 0.1
"""Largest part of the blocks that training leaves out."""


@dataclass(frozen=True, kw_only=True)
class DATSRConfig(MatchedConfig):
    """The numbers of a DATSR; the defaults are those of the paper."""

    features: int = 128
    depths: tuple[int, ...] = (4, 4)
    """Swin blocks in each group of each of the five bodies."""
    heads: tuple[int, ...] = (4, 4)
    window: int = 8
    mlp_ratio: float = 2.0
    matches: int = 1
    """Places looked at for each cell; the paper has 1, its code 2 as well."""
    relevance: bool = field(default=True, metadata={"omissible": True})
    """Whether the correlation of a match counts in what is read there: the relevance mask of equation 4."""
    content_blocks: int = field(default=8, metadata={"omissible": True})
    """Of a branch that published files hold and nothing uses; 0 leaves it out."""


class _Stage(nn.Module):
    """Reference-based deformable attention, and the Swin body that aggregates what it gives."""

    def __init__(self, config: DATSRConfig, texture: int, tail: nn.Module) -> None:
        super().__init__()
        features = config.features
        self.relevance = config.relevance
        self.offset1 = conv(features + 2 * texture, texture)
        self.offset2 = conv(texture, texture)
        self.aggregation = DynamicAggregation(texture, config.groups, bound=_FARTHEST)
        self.head = conv(features + texture, features)
        self.body = SwinBody(features, config.depths, config.heads, config.window, config.mlp_ratio, _DROP)
        self.tail = tail

    def forward(self, x: Tensor, skip: Tensor | None, textures: Textures, factor: int) -> Tensor:
        """`skip` is what the encoder had at this size, where there is one; before the tail."""
        count = textures.score.shape[1]
        seen = [self._attended(x, textures, factor, which) for which in range(count)]
        if count > 1:
            share = torch.stack([textures.scores(factor, which) for which in range(count)]).softmax(0)
            aligned = (share * torch.stack(seen)).sum(0)
        else:
            aligned = seen[0]
        merged = torch.cat([x if skip is None else x + skip, aligned], 1)
        answer: Tensor = self.body(lrelu(self.head(merged))) + x
        return answer

    def _attended(self, x: Tensor, textures: Textures, factor: int, which: int) -> Tensor:
        around = [x, textures.warped(factor, which), textures.unmoved(factor)]
        guess = lrelu(self.offset2(lrelu(self.offset1(torch.cat(around, 1)))))
        place = textures.places(factor, which)
        score = textures.scores(factor, which) if self.relevance else None
        return lrelu(self.aggregation(textures.map(factor), guess, place, score))


class Content(nn.Module):
    """A branch of the published net whose result is overwritten: kept so that its files fit, and never run."""

    def __init__(self, features: int, blocks: int) -> None:
        super().__init__()
        self.conv_first = conv(3, features)
        self.body = nn.Sequential(*(ResBlock(features) for _ in range(blocks)))
        self.requires_grad_(False)


class DATSRRestoration(nn.Module):
    """A U-Net over three sizes.   (N, 3, 4*h, 4*w) bilinear base, h and w multiples of 8 -> same, to be added to it"""

    def __init__(self, config: DATSRConfig) -> None:
        super().__init__()
        features = config.features
        one, two, three = config.textures
        self.content = Content(features, config.content_blocks) if config.content_blocks else None
        self.head = conv(3, features)

        def halving() -> nn.Module:
            return nn.Conv2d(features, features, 3, stride=2, padding=1)

        def doubling() -> nn.Module:
            return nn.Sequential(conv(features, 4 * features), nn.PixelShuffle(2), nn.LeakyReLU(0.1))

        reconstruct = conv(features // 2, 3)
        last = nn.Sequential(conv(features, features // 2), nn.LeakyReLU(0.1), reconstruct)
        self.down_large = _Stage(config, one, halving())
        self.down_medium = _Stage(config, two, halving())
        self.up_small = _Stage(config, three, doubling())
        self.up_medium = _Stage(config, two, doubling())
        self.up_large = _Stage(config, one, last)
        for module in self.modules():  # its code has normal values of 0.02, which fade to nothing over so many layers
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all have one
        nn.init.zeros_(reconstruct.weight)  # at first nothing is added to the base
        for module in self.modules():
            if isinstance(module, DynamicAggregation):
                module.reset_offsets()

    def forward(self, lr: Tensor, base: Tensor, textures: Textures) -> Tensor:
        large = self.head(base)
        medium = self.down_large.tail(self.down_large(large, None, textures, 4))
        small = self.down_medium.tail(self.down_medium(medium, None, textures, 2))
        x = self.up_small.tail(self.up_small(small, None, textures, 1))
        x = self.up_medium.tail(self.up_medium(x, medium, textures, 2))
        answer: Tensor = self.up_large.tail(self.up_large(x, large, textures, 4))
        return answer


class DATSR(Matched):
    """The net of the paper.   (N, 3, h, w), multiples of 8, and `Textures` -> (N, 3, 4*h, 4*w)"""

    multiple_of = 8

    def __init__(self, config: DATSRConfig, scale: int) -> None:
        super().__init__(scale, config, config.matches)
        self.config: DATSRConfig = config
        self.restoration = DATSRRestoration(config)

    @property
    def receptive_field(self) -> int:
        """Beyond which hardly anything changes: attention reaches further, but weakly."""
        return 16
