"""A net from outside the package, run by refsr's tiles and self-ensemble.   python examples/own_model.py"""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from refsr_cli.images import read_image, write_image
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.models import SRModel


class Nearest(SRModel):
    """Every pixel repeated: the simplest net there is."""

    scales = (2,)

    @property
    def receptive_field(self) -> int:
        return 0

    def forward(self, lr: Tensor) -> Tensor:
        return F.interpolate(lr, scale_factor=self.scale, mode="nearest")


photo = Path(__file__).parent / "images" / "flowerpot" / "LR" / "flowerpot.png"
enlarged = Upscaler(Nearest(2), self_ensemble=True, tile=64)(read_image(photo))
write_image(Path("nearest.png"), enlarged)
print(f"nearest.png: {enlarged.width}x{enlarged.height}")
