"""MDSR: one net for several scales. Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution",
CVPRW 2017, Fig. 5."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refsr_cli.layers.blocks import ResBlock, Upsampler, conv, exactly, upsampler_radius
from refsr_cli.models.base import SRModel
from refsr_cli.models.edsr import EDSRConfig

_PRE_KERNEL = 5


@dataclass(frozen=True, kw_only=True)
class MDSRConfig(EDSRConfig):
    """The numbers that tell one MDSR from another, which are those of an EDSR: `blocks` and `res_scale` are of the body
    that all scales share. The defaults are the paper's baseline."""


class MDSR(SRModel):
    """Shared head, two 5x5 residual blocks for each scale, shared residual body, linear sub-pixel upsampler for each
    scale, shared last layer; only what belongs to `scale` runs.   (N, 3, H, W) -> (N, 3, scale*H, scale*W)"""

    scales = (2, 3, 4)
    multi_scale = True
    foldable = True
    dense_parts = ("head", "pre_process.0", "pre_process.1", "pre_process.2", "body")

    def __init__(self, config: MDSRConfig, scale: int) -> None:
        super().__init__(scale)
        self.config: MDSRConfig = config
        features = config.features
        self.head = conv(3, features)
        pairs = ((ResBlock(features, _PRE_KERNEL), ResBlock(features, _PRE_KERNEL)) for _ in self.scales)
        self.pre_process = nn.ModuleList(nn.Sequential(*pair) for pair in pairs)
        blocks = (ResBlock(features, res_scale=config.res_scale) for _ in range(config.blocks))
        self.body = nn.Sequential(*blocks, conv(features, features))
        self.upsample = nn.ModuleList(Upsampler(features, its) for its in self.scales)
        self.tail = conv(features, 3)
        mean = torch.tensor(config.mean).view(1, 3, 1, 1)
        self.mean: Tensor
        self.register_buffer("mean", mean, persistent=False)

    @property
    def receptive_field(self) -> int:
        pre = 4 * (_PRE_KERNEL // 2)
        return math.ceil(2 + pre + 2 * self.config.blocks + upsampler_radius(self.scale))

    def body_output(self, lr: Tensor) -> Tensor:
        pre_process = self.pre_process[self.scales.index(self.scale)]
        shallow: Tensor = pre_process(self.head((lr - self.mean) * self.config.value_range))
        residual: Tensor = self.body(shallow)
        return shallow + residual

    def expand(self, x: Tensor) -> Tensor:
        upsample = self.upsample[self.scales.index(self.scale)]
        return exactly(self.tail, upsample(x)) / self.config.value_range + self.mean

    def forward(self, lr: Tensor) -> Tensor:
        return self.expand(self.body_output(lr))
