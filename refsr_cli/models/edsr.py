"""EDSR: Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPRW 2017."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refsr_cli.errors import BadSetting
from refsr_cli.layers.blocks import ResBlock, Upsampler, conv, exactly, upsampler_radius
from refsr_cli.models.base import SRModel

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K's training photos in [0, 1]; published EDSR weights expect it subtracted."""


@dataclass(frozen=True, kw_only=True)
class EDSRConfig:
    """The numbers that tell one EDSR from another; the defaults are the paper's baseline."""

    features: int = 64
    """Width of every hidden layer."""
    blocks: int = 16
    """Residual blocks in the body."""
    res_scale: float = 1.0
    """Factor on each residual; the paper uses 0.1 at 256 features so that training stays stable."""
    value_range: float = 255.0
    """The net works on pixels in [0, value_range]."""
    mean: tuple[float, float, float] = DIV2K_MEAN
    """Subtracted from the input and added to the output, in [0, 1]; (0, 0, 0) switches the shift off."""


class EDSR(SRModel):
    """Head, residual body with a global skip, linear sub-pixel tail.   (N, 3, H, W) -> (N, 3, scale*H, scale*W)"""

    scales = (2, 3, 4, 8)
    foldable = True
    dense_parts = ("head", "body")

    def __init__(self, config: EDSRConfig, scale: int) -> None:
        super().__init__(scale)
        self.config: EDSRConfig = config
        self.head = conv(3, config.features)
        blocks = (ResBlock(config.features, res_scale=config.res_scale) for _ in range(config.blocks))
        self.body = nn.Sequential(*blocks, conv(config.features, config.features))
        self.tail = nn.Sequential(Upsampler(config.features, scale), conv(config.features, 3))
        mean = torch.tensor(config.mean).view(1, 3, 1, 1)
        self.mean: Tensor
        self.register_buffer("mean", mean, persistent=False)

    @property
    def receptive_field(self) -> int:
        return math.ceil(2 + 2 * self.config.blocks + upsampler_radius(self.scale))

    def body_output(self, lr: Tensor) -> Tensor:
        shallow: Tensor = self.head((lr - self.mean) * self.config.value_range)
        residual: Tensor = self.body(shallow)
        return shallow + residual

    def expand(self, x: Tensor) -> Tensor:
        upsample, reconstruct = self.tail
        return exactly(reconstruct, upsample(x)) / self.config.value_range + self.mean

    def forward(self, lr: Tensor) -> Tensor:
        return self.expand(self.body_output(lr))

    def become(self, source: "EDSR", name: str) -> str:
        """`start_from`, for the trunk of another net, which is kept as it is: from an EDSR that is like it in all,
        scale included. Raises BadSetting."""
        if (source.config, source.scale) != (self.config, self.scale):
            raise BadSetting(
                f"{name} is not the trunk of this net: it is another net, {source.config} for scale {source.scale}"
            )
        return self.start_from(source, name)
