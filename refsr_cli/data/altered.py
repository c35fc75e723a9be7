"""Photos as another camera, another day or another hand would have given them, by how much is asked for: what the
robustness of nets with references is measured by. The same pixels give the same pixels."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.layers.resample import resize


@dataclass(frozen=True)
class Alteration:
    """One way to change a photo."""

    change: Callable[[Tensor, float], Tensor]
    """(3, H, W) uint8 and by how much -> (3, H', W') uint8."""
    least: float
    most: float
    tried: tuple[float, ...]
    """Amounts at which nets are compared."""


def jittered(photo: Tensor, amount: float) -> Tensor:
    """Brighter and more colourful by `amount`, flatter by as much, its hues turned by a quarter of it: the far end of
    the colour jitter that DATSR's code trains with at 0.2."""
    pixels = photo.float() / 255 * (1 + amount)
    grey = _grey(pixels)
    pixels = (pixels - grey.mean()) * (1 - amount) + grey.mean()
    grey = _grey(pixels)
    pixels = grey + (pixels - grey) * (1 + amount)
    return _rounded(255 * torch.einsum("ab,bhw->ahw", _hue(amount / 4), pixels))


def _grey(pixels: Tensor) -> Tensor:
    return torch.einsum("c,chw->hw", torch.tensor([0.299, 0.587, 0.114]), pixels)


def _hue(turns: float) -> Tensor:
    """The rotation about the grey axis (Rodrigues), in full turns: 3x3."""
    axis = torch.full((3,), 3**-0.5)
    cross = torch.linalg.cross(torch.eye(3), axis.expand(3, 3))
    angle = 2 * math.pi * turns
    parts = (math.cos(angle) * torch.eye(3), math.sin(angle) * cross, (1 - math.cos(angle)) * axis.outer(axis))
    return torch.stack(parts).sum(0)


def noisy(photo: Tensor, amount: float) -> Tensor:
    """With Gaussian noise of that deviation, of 255."""
    return _rounded(photo + amount * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0)))


def rotated(photo: Tensor, amount: float) -> Tensor:
    """Counterclockwise, whole, black around it; by right angles without any loss."""
    if amount % 90 == 0:
        return photo.rot90(round(amount / 90), (1, 2)).contiguous()
    cos, sin = math.cos(math.radians(amount)), math.sin(math.radians(amount))
    sides = torch.tensor(photo.shape[1:])
    turn = torch.tensor([[cos, sin], [-sin, cos]])  # of (row, column) in the result to those in the photo
    height, width = (turn.abs() @ sides.float()).ceil().int().tolist()
    offset = [torch.arange(side) - (side - 1) / 2 for side in (height, width)]
    source = torch.einsum("ab,bhw->ahw", turn, torch.stack(torch.meshgrid(*offset, indexing="ij")))
    lookup = (2 * source / sides.view(2, 1, 1)).flip(0).permute(1, 2, 0)[None]
    return _rounded(F.grid_sample(photo[None].float(), lookup, mode="bicubic", align_corners=False)[0])


def rescaled(photo: Tensor, amount: float) -> Tensor:
    """In another size, antialiased."""
    height, width = (max(1, round(side * amount)) for side in photo.shape[1:])
    return _rounded(resize(photo[None].float(), height, width)[0])


def _rounded(pixels: Tensor) -> Tensor:
    return pixels.clamp(0, 255).round().to(torch.uint8)


ALTERATIONS: Mapping[str, Alteration] = {
    "jitter": Alteration(jittered, 0.0, 1.0, (0.2, 0.4)),
    "noise": Alteration(noisy, 0.0, 255.0, (10.0, 30.0)),
    "rotate": Alteration(rotated, -360.0, 360.0, (10.0, 45.0, 90.0, 180.0)),
    "scale": Alteration(rescaled, 0.1, 2.0, (0.5, 0.7, 1.4)),
}
"""By the names that `--refs NAME:AMOUNT` has for them."""
