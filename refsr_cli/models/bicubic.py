"""MATLAB's bicubic interpolation as a model without parameters: the baseline of every table."""

from dataclasses import dataclass

from torch import Tensor

from refsr_cli.layers.resample import upscale
from refsr_cli.models.base import SRModel


@dataclass(frozen=True, kw_only=True)
class BicubicConfig:
    """Nothing to choose."""


class Bicubic(SRModel):
    """(N, 3, H, W) -> (N, 3, scale*H, scale*W), equal to MATLAB's `imresize` in floating point."""

    scales = (1, 2, 3, 4, 8)
    interpolates = True

    def __init__(self, config: BicubicConfig, scale: int) -> None:
        super().__init__(scale)
        self.config = config

    @property
    def receptive_field(self) -> int:
        return 3 if self.scale > 1 else 0

    def forward(self, lr: Tensor) -> Tensor:
        return upscale(lr, self.scale)
