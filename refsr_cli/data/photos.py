"""Training photos decoded once into one block of bytes; crops are gathered from it wherever it lies, CPU or GPU."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from refsr_cli.data.degrade import degrade_bicubic, modcrop
from refsr_cli.errors import BadData


@dataclass(frozen=True)
class _Block:
    """Images of any sizes, laid end to end: `pixels` uint8; `start`, `height`, `width` (M,) of each image."""

    pixels: Tensor
    start: Tensor
    height: Tensor
    width: Tensor

    @classmethod
    def of(cls, images: list[Tensor], device: torch.device) -> "_Block":
        """From (3, H, W) uint8 images."""
        sizes = torch.tensor([image.numel() for image in images])
        pixels = torch.empty(int(sizes.sum()), dtype=torch.uint8, device=device)
        for part, image in zip(pixels.split(sizes.tolist()), images, strict=True):
            part.copy_(image.reshape(-1))
        return cls(
            pixels=pixels,
            start=(sizes.cumsum(0) - sizes).to(device),
            height=torch.tensor([image.shape[1] for image in images], device=device),
            width=torch.tensor([image.shape[2] for image in images], device=device),
        )

    def crops(self, image: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
        """The crops of `size` at `top`, `left` (B,) of the images numbered `image` (B,): (B, 3, size, size) float."""

        def spread(x: Tensor) -> Tensor:
            return x.view(-1, 1, 1, 1)

        offset = torch.arange(size, device=self.pixels.device)
        height, width = spread(self.height[image]), spread(self.width[image])
        channel = torch.arange(3, device=self.pixels.device).view(1, 3, 1, 1)
        rows = spread(top) + offset.view(1, 1, -1, 1)
        columns = spread(left) + offset.view(1, 1, 1, -1)
        index = spread(self.start[image]) + (channel * height + rows) * width + columns
        return self.pixels[index].float().div(255)


class PhotoSet:
    """Pairs of crops from photos that are all in memory."""

    def __init__(self, photos: Iterable[Tensor], scale: int, patch: int, device: torch.device) -> None:
        """`photos` are (3, H, W) uint8; those smaller than a crop of `patch` low-resolution pixels are left out.

        The low-resolution images are made from whole photos, so that a crop has no border of its own.
        Raises BadData when no photo is left.
        """
        hr_images, lr_images = [], []
        for photo in photos:
            hr = modcrop(photo, scale)
            if min(hr.shape[1:]) < scale * patch:
                continue
            lr = degrade_bicubic(hr[None].to(device).float().div(255), scale)[0]
            lr_images.append(lr.mul(255).round().to(torch.uint8).cpu())
            hr_images.append(hr)
        if not hr_images:
            raise BadData(
                f"no photo is as large as a crop of {scale * patch} pixels; give larger photos or a smaller patch"
            )
        self.count = len(hr_images)
        self.scale, self.patch = scale, patch
        self._hr, self._lr = _Block.of(hr_images, device), _Block.of(lr_images, device)
        area = (self._lr.height * self._lr.width).cpu().double()
        self._share = area / area.sum()

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """`count` positions, every pixel of the set as likely as any other: image, top, left in low-resolution."""
        device = self._lr.pixels.device
        image = torch.multinomial(self._share, count, replacement=True, generator=generator).to(device)
        where = torch.rand(2, count, generator=generator).to(device)
        top = (where[0] * (self._lr.height[image] - self.patch + 1)).long()
        left = (where[1] * (self._lr.width[image] - self.patch + 1)).long()
        return image, top, left

    def batch(self, size: int, generator: torch.Generator, candidates: int = 1) -> tuple[Tensor, Tensor]:
        """`size` random pairs, turned and mirrored: lr (size, 3, patch, patch), hr (size, 3, scale*patch, scale*patch).

        Each crop is the most detailed of `candidates` drawn (largest mean gradient), as photos are mostly soft.
        All randomness comes from `generator`, a CPU generator, so that a run can be continued exactly.
        """
        image, top, left = self._draw(size * candidates, generator)
        if candidates > 1:
            detail = _detail(self._lr.crops(image, top, left, self.patch)).view(candidates, size)
            best = detail.argmax(0) * size + torch.arange(size, device=detail.device)
            image, top, left = image[best], top[best], left[best]
        lr = self._lr.crops(image, top, left, self.patch)
        hr = self._hr.crops(image, top * self.scale, left * self.scale, self.patch * self.scale)
        turns = torch.randint(8, (size,), generator=generator)
        return dihedral(lr, turns), dihedral(hr, turns)


def _detail(x: Tensor) -> Tensor:
    """Mean absolute gradient of each image.   (B, 3, H, W) -> (B,)"""
    return x.diff(dim=-1).abs().mean((1, 2, 3)) + x.diff(dim=-2).abs().mean((1, 2, 3))


def dihedral(x: Tensor, turns: Tensor) -> Tensor:
    """Each square image (B, C, H, W) in one of the eight orientations, `turns` (B,) in 0..7: transpose, flip down, flip
    right."""
    flags = turns.to(x.device).view(-1, 1, 1, 1)
    x = torch.where((flags & 4).bool(), x.transpose(-1, -2), x)
    x = torch.where((flags & 2).bool(), x.flip(-2), x)
    return torch.where((flags & 1).bool(), x.flip(-1), x)
