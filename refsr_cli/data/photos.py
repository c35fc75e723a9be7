"""Training photos decoded once into one block of bytes; crops are gathered from it wherever it lies, CPU or GPU."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from refsr_cli.data.degrade import degrade_bicubic, modcrop
from refsr_cli.errors import BadData

_LARGEST_CROP = 24
"""Fewer pixels than this may a given low-resolution image show beyond its photo, which is cropped to a multiple."""


@dataclass(frozen=True)
class _Block:
    """Images of any sizes, laid end to end: `pixels` uint8; `start`, `height`, `width` (M,) of each image."""

    pixels: Tensor
    start: Tensor
    height: Tensor
    width: Tensor

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


class _Packing:
    """Images laid end to end as they come, so that none is held twice."""

    def __init__(self) -> None:
        self._bytes, self._sizes = bytearray(), list[tuple[int, int]]()

    def add(self, image: Tensor) -> None:
        """(3, H, W) uint8."""
        self._bytes.extend(image.contiguous().numpy().data.cast("B"))
        self._sizes.append((image.shape[1], image.shape[2]))

    def block(self, device: torch.device) -> _Block:
        """All that were added, at least one."""
        height, width = torch.tensor(self._sizes, device=device).unbind(1)
        sizes = 3 * height * width
        pixels = torch.frombuffer(self._bytes, dtype=torch.uint8).to(device)
        return _Block(pixels=pixels, start=sizes.cumsum(0) - sizes, height=height, width=width)


class PhotoSet:
    """Pairs of crops from photos that are all in memory, for one scale or several."""

    def __init__(
        self,
        photos: Iterable[Tensor],
        scales: Sequence[int],
        patch: int,
        device: torch.device,
        given: Iterable[Mapping[int, Tensor]] | None = None,
    ) -> None:
        """`photos` are (3, H, W) uint8, taken one by one; those smaller than a crop of `patch` low-resolution pixels
        are left out.

        The low-resolution images are made from whole photos, so that a crop has no border of its own, unless they are
        `given`: for each photo those of each scale, which begin at its upper left corner.
        Raises BadData when no photo is left, and for a low-resolution image that is not of its photo's size.
        """
        side = max(scales) * patch
        large, small = _Packing(), {scale: _Packing() for scale in scales}
        self.count, self.patch = 0, patch
        for photo, its in zip(photos, repeat(None) if given is None else given, strict=False):
            image = modcrop(photo, math.lcm(*scales))
            if min(image.shape[1:]) < side:
                continue
            large.add(image)
            for scale in scales:
                small[scale].add(_shrunk(image, scale, device) if its is None else _fitted(its[scale], image, scale))
            self.count += 1
        if not self.count:
            raise BadData(f"no photo is as large as a crop of {side} pixels; give larger photos or a smaller patch")
        self._hr = large.block(device)
        self._lr = {scale: packing.block(device) for scale, packing in small.items()}
        area = (self._hr.height * self._hr.width).cpu().double()
        self._share = area / area.sum()

    def _draw(self, lr: _Block, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """`count` positions, every pixel of the set as likely as any other: image, top, left in low-resolution."""
        device = lr.pixels.device
        image = torch.multinomial(self._share, count, replacement=True, generator=generator).to(device)
        where = torch.rand(2, count, generator=generator).to(device)
        top = (where[0] * (lr.height[image] - self.patch + 1)).long()
        left = (where[1] * (lr.width[image] - self.patch + 1)).long()
        return image, top, left

    def batch(
        self,
        size: int,
        scale: int,
        generator: torch.Generator,
        candidates: int = 1,
        part: slice = slice(None),
        *,
        augment: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """`size` random pairs, turned and mirrored unless `augment` is false: lr (size, 3, patch, patch), hr (size, 3,
        scale*patch, scale*patch). Only `part` of them, where several processes share a batch: all draw the same
        numbers.

        Each crop is the most detailed of `candidates` drawn (largest mean gradient), as photos are mostly soft.
        All randomness comes from `generator`, a CPU generator, so that a run can be continued exactly.
        """
        lr = self._lr[scale]
        image, top, left = (x.view(candidates, size)[:, part] for x in self._draw(lr, size * candidates, generator))
        if candidates > 1:
            crops = lr.crops(image.flatten(), top.flatten(), left.flatten(), self.patch)
            best = detail(crops).view(image.shape).argmax(0, keepdim=True)
            image, top, left = (x.gather(0, best) for x in (image, top, left))
        small = lr.crops(image[0], top[0], left[0], self.patch)
        large = self._hr.crops(image[0], top[0] * scale, left[0] * scale, self.patch * scale)
        turns = random_turns(size, generator, augment=augment)[part]
        return dihedral(small, turns), dihedral(large, turns)


def _shrunk(image: Tensor, scale: int, device: torch.device) -> Tensor:
    """(3, H, W) uint8 to the low-resolution image that a file of it would hold."""
    lr = degrade_bicubic(image[None].to(device).float().div(255), scale)[0]
    return lr.mul(255).round().to(torch.uint8).cpu()


def _fitted(lr: Tensor, hr: Tensor, scale: int) -> Tensor:
    """The part of a given low-resolution image that shows `hr`. Raises BadData for one of another size."""
    height, width = (size // scale for size in hr.shape[1:])
    if not (0 <= lr.shape[1] - height < _LARGEST_CROP and 0 <= lr.shape[2] - width < _LARGEST_CROP):
        raise BadData(
            f"a photo of {hr.shape[2]}x{hr.shape[1]} has a low-resolution image of {lr.shape[2]}x{lr.shape[1]}: "
            f"that is not scale {scale}"
        )
    return lr[:, :height, :width]


def detail(x: Tensor) -> Tensor:
    """Mean absolute gradient of each image.   (B, 3, H, W) -> (B,)"""
    return x.diff(dim=-1).abs().mean((1, 2, 3)) + x.diff(dim=-2).abs().mean((1, 2, 3))


def random_turns(count: int, generator: torch.Generator, *, augment: bool) -> Tensor:
    """For each of `count` images one of the eight orientations, or always the first: (count,) for `dihedral`."""
    return torch.randint(8 if augment else 1, (count,), generator=generator)


def dihedral(x: Tensor, turns: Tensor) -> Tensor:
    """Each square image (B, C, H, W) in one of the eight orientations, `turns` (B,) in 0..7: transpose, flip down, flip
    right."""
    flags = turns.to(x.device).view(-1, 1, 1, 1)
    x = torch.where((flags & 4).bool(), x.transpose(-1, -2), x)
    x = torch.where((flags & 2).bool(), x.flip(-2), x)
    return torch.where((flags & 1).bool(), x.flip(-1), x)


class PhotoDraws:
    """Batches of one size from a `PhotoSet`."""

    def __init__(
        self, photos: PhotoSet, size: int, candidates: int = 1, part: slice = slice(None), *, augment: bool = True
    ) -> None:
        self.photos, self.size, self.candidates, self.part, self.augment = photos, size, candidates, part, augment
        self.unusable = 0

    def draw(self, scale: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The next batch, as `PhotoSet.batch` gives it."""
        return self.photos.batch(self.size, scale, generator, self.candidates, self.part, augment=self.augment)

    def state_dict(self) -> dict[str, int]:
        """Nothing: the generator knows where it stands."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing is taken up."""

    def close(self) -> None:
        """There is nothing to end."""
