"""RefNet: our own compact reference net. A finished single-image net, and a small one that has learned how far to
believe what references offer, and how to mend it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.layers.blocks import ResBlock, conv
from refsr_cli.layers.resample import local_mean, upscale
from refsr_cli.models.base import SRModel
from refsr_cli.models.edsr import EDSR, EDSRConfig
from refsr_cli.reference.descriptors import CELL
from refsr_cli.reference.offer import Offer
from refsr_cli.reference.trust import evidence, resembles

_QUALITY = 3
"""Channels of `Offer.quality`."""
_DETAIL = 10.0
"""Details are about a tenth as large as what a net likes."""
_STEEPNESS, _SLACK = 6.0, 0.05
"""How sharply evidence turns into trust before anything is learned, and by how much the sigmoid overshoots, so that
trust can be nothing and all."""


@dataclass(frozen=True, kw_only=True)
class RefNetConfig:
    """The numbers of a RefNet."""

    trunk_features: int = 64
    trunk_blocks: int = 16
    """Width and blocks of the single-image net, an EDSR."""
    features: int = 64
    blocks: int = 6
    """Width and residual blocks of the net that merges."""
    conditioned: bool = False
    """Whether merging is given how degraded the picture was; files from before there was this are not."""


class Merger(nn.Module):
    """From all that is known about an offer: what is to be changed in its detail, and in the trust in it.

    It works on low-resolution pixels, the high-resolution ones of each as channels. At first it changes nothing.
    """

    channels = 3 * CELL**2 * 3 + 2 * CELL**2 + 3 + 3 + 1

    def __init__(self, features: int, blocks: int, *, conditioned: bool) -> None:
        super().__init__()
        self.conditioned = conditioned
        self.head = conv(self.channels + (_QUALITY if conditioned else 0), features)
        self.body = nn.Sequential(*(ResBlock(features) for _ in range(blocks)))
        self.tail = conv(features, 4 * CELL**2)
        nn.init.zeros_(self.tail.weight)
        assert self.tail.bias is not None
        nn.init.zeros_(self.tail.bias)

    def forward(self, offer: Offer, likely: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 4*h, 4*w) to be added to the detail, (N, 1, 4*h, 4*w) to the logit of the trust. `likely` is the
        evidence for the offer."""
        changed = self.tail(self.body(self.head(self._inputs(offer, likely))))
        changed = F.pixel_shuffle(changed, CELL).to(offer.detail.dtype)
        return changed[:, :3] / _DETAIL, changed[:, 3:]

    def _inputs(self, offer: Offer, likely: Tensor) -> Tensor:
        """(N, channels, h, w), put together part by part, since each takes as much memory as the result."""
        number, _, height, width = offer.lr.shape
        shape = number, self.channels + (_QUALITY if self.conditioned else 0), height, width
        inputs = torch.empty(shape, dtype=offer.lr.dtype, device=offer.lr.device, memory_format=torch.channels_last)
        filled = 0
        for part in self._parts(offer, likely):
            inputs[:, filled : filled + part.shape[1]] = part
            filled += part.shape[1]
        return inputs

    def _parts(self, offer: Offer, likely: Tensor) -> Iterator[Tensor]:
        yield F.pixel_unshuffle(offer.detail, CELL) * _DETAIL
        yield F.pixel_unshuffle(offer.own, CELL) * _DETAIL
        yield F.pixel_unshuffle(offer.base - upscale(offer.lr, CELL), CELL) * _DETAIL
        yield F.pixel_unshuffle(offer.variance, CELL).sqrt() * _DETAIL
        yield F.pixel_unshuffle(likely, CELL)
        yield offer.lr - local_mean(offer.lr, 9)
        yield offer.misfit * _DETAIL
        yield offer.score
        if self.conditioned:
            yield offer.quality


class RefNet(SRModel):
    """An EDSR that is kept as it is, and a `Merger`. Without references it is the EDSR, bit by bit.

    (N, 3, H, W) -> (N, 3, 4*H, 4*W); `merge` as in SRModel.
    """

    scales = (CELL,)
    merges_refs = True
    foldable = True
    dense_parts = ("trunk.head", "trunk.body", "merger.head", "merger.body")

    def __init__(self, config: RefNetConfig, scale: int) -> None:
        super().__init__(scale)
        self.config: RefNetConfig = config
        trunk = EDSRConfig(features=config.trunk_features, blocks=config.trunk_blocks)
        self.trunk = EDSR(trunk, scale).requires_grad_(False)
        self.merger = Merger(config.features, config.blocks, conditioned=config.conditioned)

    @property
    def merges_degraded(self) -> bool:  # type: ignore[override]
        return self.config.conditioned

    @property
    def receptive_field(self) -> int:
        return self.trunk.receptive_field

    @property
    def merge_radius(self) -> int:  # type: ignore[override]
        """Two convolutions a block, head and tail, and the mean of the picture around."""
        return 2 * self.config.blocks + 2 + 4

    def body_output(self, lr: Tensor) -> Tensor:
        return self.trunk.body_output(lr)

    def expand(self, x: Tensor) -> Tensor:
        return self.trunk.expand(x)

    def forward(self, lr: Tensor) -> Tensor:
        return self.trunk(lr)  # type: ignore[no-any-return]

    def merge(self, offer: Offer) -> tuple[Tensor, Tensor]:
        likely = evidence(offer)
        change, doubt = self.merger(offer, likely)
        trust = (1 + 2 * _SLACK) * torch.sigmoid(_STEEPNESS * (likely - 0.5) + doubt) - _SLACK
        return offer.detail + change, trust.clamp(0, 1) * resembles(offer)

    def start_from(self, source: SRModel, name: str, *, partly: bool = False) -> str:
        """From another RefNet, or from the EDSR that is to be its trunk."""
        if isinstance(source, EDSR):
            return self.trunk.become(source, name)
        if isinstance(source, RefNet) and source.config == replace(self.config, conditioned=False) != self.config:
            theirs = source.state_dict()
            theirs["merger.head.weight"] = F.pad(theirs["merger.head.weight"], (0, 0, 0, 0, 0, _QUALITY))
            self.load_state_dict(theirs)  # what it is given besides makes no difference yet
            return f"all weights are those of {name}, which was not conditioned"
        return super().start_from(source, name, partly=partly)
