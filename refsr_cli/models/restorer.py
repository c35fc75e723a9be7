"""Restorer: our own net that removes what JPEG, noise and a little blur did to a picture before it is enlarged.

It keeps the size, so that one file serves every super-resolution net and scale."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.layers.blocks import ResBlock, conv, exactly
from refsr_cli.models.base import SRModel

_UNSHUFFLE = 2
"""The body works on pixels of 2x2 (as FFDNet, Zhang et al. 2018): for the same work its receptive field is twice as
wide."""
_RESIDUAL = 0.1
_CONTRAST, _CORRECTION = 4.0, 1 / 16
"""The input is spread to [-2, 2], and corrections are a sixteenth of what the tail gives: layers then work on numbers
near 1, and a step of the optimiser changes pixels by less than they are wrong."""


@dataclass(frozen=True, kw_only=True)
class RestorerConfig:
    """Size of a Restorer."""

    features: int = 96
    """Width of every hidden layer, at half of the resolution."""
    blocks: int = 10
    """Residual blocks in the body."""


class Restorer(SRModel):
    """EDSR's residual body at half resolution, and a residual over the whole: `lr + correction`. Untrained it changes
    nothing.   (N, 3, H, W) -> (N, 3, H, W), H and W even"""

    scales = (1,)
    restores = True
    multiple_of = _UNSHUFFLE
    scale_specific = ()
    dense_parts = ("head", "body")

    def __init__(self, config: RestorerConfig, scale: int) -> None:
        super().__init__(scale)
        self.config: RestorerConfig = config
        channels = 3 * _UNSHUFFLE**2
        self.head = conv(channels, config.features)
        blocks = (ResBlock(config.features) for _ in range(config.blocks))
        self.body = nn.Sequential(*blocks, conv(config.features, config.features))
        self.tail = conv(config.features, channels)
        self._initialise()

    def _initialise(self) -> None:
        """Weights that keep the size of features (He et al. 2015), with a tenth of it in each residual. PyTorch's own
        let features fade, and training then stays for thousands of steps at the identity, which is hard to beat."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        for block in self.body:
            last = block.conv2 if isinstance(block, ResBlock) else block
            assert isinstance(last, nn.Conv2d)
            last.weight.data.mul_(_RESIDUAL)
        nn.init.zeros_(self.tail.weight)

    @property
    def receptive_field(self) -> int:
        """Head, tail, the body's last convolution and two in each block, and what shuffling adds."""
        return _UNSHUFFLE * (3 + 2 * self.config.blocks) + _UNSHUFFLE - 1

    def forward(self, lr: Tensor) -> Tensor:
        shallow: Tensor = self.head(F.pixel_unshuffle((lr - 0.5) * _CONTRAST, _UNSHUFFLE))
        correction = exactly(self.tail, shallow + self.body(shallow))
        return lr + _CORRECTION * F.pixel_shuffle(correction, _UNSHUFFLE)
