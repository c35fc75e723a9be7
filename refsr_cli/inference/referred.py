"""Nets that need references: looked at once for a whole picture, then restored part by part."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from refsr_cli.allocator import give_back
from refsr_cli.images import Pixels
from refsr_cli.inference.device import computing
from refsr_cli.inference.runner import orient
from refsr_cli.inference.tiling import Part, TileRunner
from refsr_cli.layers.resample import continued, scaled_bytes
from refsr_cli.models import Guide, SRModel
from refsr_cli.reference.bank import Reference

ROOM = 0.5
"""How far beyond black and white results go of which several are averaged before they are clamped."""


@torch.inference_mode()
def look(
    model: SRModel, lr: Tensor, references: Sequence[Reference], orientation: int, precision: torch.dtype, memory: int
) -> Guide:
    """What `model` is to know of the references for `lr` (1, 3, h, w), both turned to `orientation`. A reference of
    more pixels than the result is made as small as that, so that memory depends on the result alone; features of
    references take about `memory` bytes at most."""
    most = lr.shape[2] * lr.shape[3] * model.scale**2
    images = []
    for reference in references:
        image = reference.load()
        small = scaled_bytes(image, min(1.0, (most / (image.shape[1] * image.shape[2])) ** 0.5))
        images.append(orient(small[None].to(lr.device).float() / 255, orientation))
    with computing(lr.device, precision):
        return model.look(orient(lr, orientation), images, memory)


def referred(model: SRModel, guide: Guide, precision: torch.dtype, room: float = 0.0) -> TileRunner:
    """`model` on any part of the picture that `guide` is for: padded to `multiple_of`, cropped back, clamped to
    [-room, 1 + room], and that scaled to [0, 1]."""
    step = model.multiple_of
    size: tuple[int, ...] = ()

    @torch.inference_mode()
    def run_tile(lr: Tensor, parts: Sequence[Part]) -> Tensor:
        nonlocal size
        height, width = lr.shape[-2:]
        if size != (height, width):
            size = height, width
            give_back()
        padded = continued(lr, step)
        more = padded.shape[2] - height, padded.shape[3] - width
        part = guide.crop(*parts[0].tile.corners).padded(*more)
        with computing(lr.device, precision):
            sr: Tensor = model(padded, part)
        sr = sr[..., : height * model.scale, : width * model.scale].float()
        return ((sr + room) / (1 + 2 * room)).clamp(0, 1)

    return run_tile


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """`orient` of (H, W, C)."""
    if orientation & 4:
        pixels = pixels.transpose(1, 0, 2)
    if orientation & 2:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels[:, ::-1] if orientation & 1 else pixels)


def turned_back(pixels: Pixels, orientation: int) -> Pixels:
    """Undoes `turned`."""
    if orientation & 1:
        pixels = pixels[:, ::-1]
    if orientation & 2:
        pixels = pixels[::-1]
    return pixels.transpose(1, 0, 2) if orientation & 4 else pixels
