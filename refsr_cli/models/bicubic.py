"""Bicubic interpolation as a model without parameters: the baseline of every table."""

from dataclasses import dataclass

from torch import Tensor

from refsr_cli.layers.resample import Convention, resize_by_pillow, upscale
from refsr_cli.models.base import SRModel


@dataclass(frozen=True, kw_only=True)
class BicubicConfig:
    """MATLAB's interpolation, which most papers compare with, or Pillow's."""

    convention: Convention = "matlab"


class Bicubic(SRModel):
    """(N, 3, H, W) -> (N, 3, scale*H, scale*W): MATLAB's `imresize` in floating point, or Pillow's of 8 bit."""

    scales = (1, 2, 3, 4, 8)
    interpolates = True

    def __init__(self, config: BicubicConfig, scale: int) -> None:
        super().__init__(scale)
        self.config = config

    @property
    def receptive_field(self) -> int:
        return 3 if self.scale > 1 else 0

    def forward(self, lr: Tensor) -> Tensor:
        if self.config.convention == "pillow":
            return resize_by_pillow(lr, self.scale * lr.shape[2], self.scale * lr.shape[3])
        return upscale(lr, self.scale)
