"""SRDenseNet: Tong et al., "Image Super-Resolution Using Dense Skip Connections", ICCV 2017."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from refsr_cli.errors import BadSetting
from refsr_cli.layers.blocks import Upsampler, conv, exactly, factors_of, upsampler_radius
from refsr_cli.layers.colour import from_ycbcr, to_ycbcr
from refsr_cli.layers.resample import upscale
from refsr_cli.models.base import SRModel


@dataclass(frozen=True, kw_only=True)
class SRDenseNetConfig:
    """The numbers that tell one SRDenseNet from another; the defaults are the paper's SRDenseNet_All."""

    skips: str = "all"
    """What is enlarged: `h`, what the last block gives; `hl`, that and the first layer's; `all`, every block's, and
    each block sees all before it."""
    blocks: int = 8
    layers: int = 8
    """Convolutions in a block, each of which sees those before it in the block."""
    growth: int = 16
    """Features that each of them adds; the first layer gives as many as a block."""
    bottleneck: int = 256
    """Features that are enlarged."""
    bottleneck_relu: bool = True
    """Whether the 1x1 bottleneck of `all` is followed by a ReLU; published codes differ."""
    kernel: int = 3
    """Side of the transposed convolutions that enlarge by 2; published codes have 3 or 2."""
    upsampler: str = "deconvolution"
    """Or `pixelshuffle`, which leaves no checkerboard."""
    luma_only: bool = True
    """Whether the net sees and makes luma, while colour is interpolated; else RGB."""


class DenseBlock(nn.Module):
    """Convolutions that see all before them in the block, but what goes into the block only the first.

    (N, in_channels, H, W) -> (N, layers * growth, H, W), at least 0
    """

    def __init__(self, in_channels: int, growth: int, layers: int) -> None:
        super().__init__()
        widths = [in_channels, *(growth * layer for layer in range(1, layers))]
        self.layers = nn.ModuleList(conv(width, growth) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.layers
        seen = first(x).relu()
        for layer in others:
            seen = torch.cat([seen, layer(seen).relu()], 1)
        return seen  # type: ignore[no-any-return]


def deconvolution(in_channels: int, out_channels: int, factor: int, kernel: int) -> nn.ConvTranspose2d:
    """A transposed convolution that enlarges by exactly `factor`; by 3 its kernel is always 3."""
    kernel = 3 if factor == 3 else kernel
    overlap = kernel - factor
    return nn.ConvTranspose2d(
        in_channels, out_channels, kernel, stride=factor, padding=(overlap + 1) // 2, output_padding=overlap % 2
    )


class SRDenseNet(SRModel):
    """First layer, dense blocks, transposed convolutions, last layer; a ReLU after all but the last.

    (N, 3, H, W) -> (N, 3, scale*H, scale*W)
    """

    scales = (2, 3, 4, 8)
    scale_specific = ("upsample.",)

    def __init__(self, config: SRDenseNetConfig, scale: int) -> None:
        super().__init__(scale)
        if config.skips not in ("h", "hl", "all"):
            raise BadSetting(f"skips is h, hl or all, not {config.skips}")
        if config.kernel not in (2, 3):
            raise BadSetting(f"kernel is 2 or 3, not {config.kernel}")
        if config.upsampler not in ("deconvolution", "pixelshuffle"):
            raise BadSetting(f"upsampler is deconvolution or pixelshuffle, not {config.upsampler}")
        self.config: SRDenseNetConfig = config
        channels, width = 1 if config.luma_only else 3, config.growth * config.layers
        self.luma_only = config.luma_only
        self.head = conv(channels, width)
        inputs = [width * (block + 1 if config.skips == "all" else 1) for block in range(config.blocks)]
        self.body = nn.ModuleList(DenseBlock(seen, config.growth, config.layers) for seen in inputs)
        joined = {"h": width, "hl": 2 * width, "all": width * (config.blocks + 1)}[config.skips]
        self.bottleneck: nn.Module = nn.Identity()
        if config.skips == "all":
            self.bottleneck = conv(joined, config.bottleneck, 1)
            joined = config.bottleneck
        self.upsample = self._upsampler(joined, scale)
        self.tail = conv(config.bottleneck, channels)
        for module in self.modules():  # as He et al. 2015: else nothing is left of a picture after 70 layers
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def _upsampler(self, joined: int, scale: int) -> nn.Sequential:
        features, stages = self.config.bottleneck, list[nn.Module]()
        if self.config.upsampler == "pixelshuffle":
            return nn.Sequential(conv(joined, features, 1), Upsampler(features, scale), nn.ReLU())
        for factor in factors_of(scale):
            stages += [deconvolution(joined, features, factor, self.config.kernel), nn.ReLU()]
            joined = features
        return nn.Sequential(*stages)

    @property
    def receptive_field(self) -> int:
        radius = 1.0 + self.config.blocks * self.config.layers
        if self.config.upsampler == "pixelshuffle":
            return math.ceil(radius + upsampler_radius(self.scale))
        side = 1.0
        for factor in factors_of(self.scale):
            radius += side if self.config.kernel == 3 and factor == 2 else 0
            side /= factor
        return max(math.ceil(radius + side), 2)

    def _net(self, x: Tensor) -> Tensor:
        seen = [self.head(x).relu()]
        for block in self.body:
            seen.append(block(torch.cat(seen, 1) if self.config.skips == "all" else seen[-1]))
        joined = {"h": seen[-1:], "hl": [seen[0], seen[-1]], "all": seen}[self.config.skips]
        x = self.bottleneck(torch.cat(joined, 1))
        x = x.relu() if self.config.skips == "all" and self.config.bottleneck_relu else x
        return exactly(self.tail, self.upsample(x))

    def forward(self, lr: Tensor) -> Tensor:
        if not self.luma_only:
            return self._net(lr)
        coded = to_ycbcr(lr)
        y = self._net(coded[:, :1])
        return from_ycbcr(torch.cat([y, upscale(coded[:, 1:], self.scale)], 1))
