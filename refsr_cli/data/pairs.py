"""Pictures with references to train on: found in folders, or made from single photos."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.data.degradations import as_jpeg
from refsr_cli.data.folders import find_images
from refsr_cli.data.reference_sets import references_of, targets_among
from refsr_cli.errors import BadData, BadImage
from refsr_cli.images import read_rgb8
from refsr_cli.layers.resample import resize, scaled_bytes

_LONGEST = 1024
"""Pixels a side to which photos are shrunk: nearer to a scene than that, sensors show little but blur and noise."""
_MOST_REFERENCES = 2
_MIDDLE = (0.5, 0.5)
AGAIN = 1_000_000_007
"""What is added to the number of a window that is unfit, for another in its place."""
_COPIES = 0.25
"""Part of the views made from photos that are the photo itself, moved by whole pixels."""
_EMPTY = 0.15
"""Part of the foreign references that show nothing at all: noise, or one colour."""


@dataclass(frozen=True)
class Pair:
    """A picture and photos of the same scene."""

    target: Path
    references: tuple[Path, ...]


class Window(NamedTuple):
    """A part of a picture, and what is to be its references."""

    pixels: Tensor
    """(3, side, side) uint8."""
    references: list[Tensor]
    """(3, H, W) uint8 each."""
    centre: tuple[float, float]
    """Where in a reference, as parts of its height and width, the same is likeliest to be seen."""


def find_pairs(folder: Path) -> list[Pair]:
    """The pairs in `folder`, in order of name. It is laid out like CUFED (`input/NAME` and `ref/NAME`), like CUFED5
    (`NAME_0.png` and `NAME_1.png` and so on), or it holds folders, each with views of one scene; the last two can be
    mixed.

    Raises BadData when it is none of these.
    """
    if (folder / "input").is_dir() and (folder / "ref").is_dir():
        references = {path.relative_to(folder / "ref").with_suffix(""): path for path in find_images(folder / "ref")}
        inputs = [(path, path.relative_to(folder / "input").with_suffix("")) for path in find_images(folder / "input")]
        pairs = [Pair(path, (references[name],)) for path, name in inputs if name in references]
    else:
        found = find_images(folder)
        own = [path for path in found if path.parent == folder]
        pairs = [Pair(path, tuple(references_of(path))) for path in targets_among(own)]
        pairs += _views([path for path in found if path.parent != folder])
    pairs = [pair for pair in pairs if pair.references]
    if not pairs:
        raise BadData(
            f"{folder} holds no pairs: it needs input/NAME and ref/NAME, or NAME_0.png and NAME_1.png, "
            "or a folder of views for each scene"
        )
    return pairs


def _views(found: Sequence[Path]) -> list[Pair]:
    """Every picture with the others in its folder, the nearest in order of name first."""
    scenes: dict[Path, list[Path]] = defaultdict(list)
    for path in found:
        scenes[path.parent].append(path)
    pairs = []
    for views in scenes.values():
        for here, view in enumerate(views):
            others = sorted((abs(number - here), number) for number in range(len(views)) if number != here)
            pairs.append(Pair(view, tuple(views[number] for _, number in others)))
    return pairs


class PairWindows:
    """Windows of pictures with what is to be their references: real pairs, photos against changed views of themselves,
    and references that show something else. Each is made anew from its number, whoever asks and in whatever order."""

    def __init__(
        self,
        photos: Sequence[Path],
        pairs: Sequence[Pair],
        side: int,
        foreign: float,
        seed: int,
        ease: int = 0,
        jitter: bool = False,
    ) -> None:
        """`side` of the windows in high-resolution pixels, `foreign` the part of them without a reference of the same
        scene. Over the first `ease` windows views of photos go from the picture itself, in place, to as far from it as
        they may be, and pairs come in. `jitter` changes the colours of the references of pairs. Raises BadData when
        there is neither a photo nor a pair."""
        if not photos and not pairs:
            raise BadData("there are no photos and no pairs to train on")
        self.photos, self.pairs, self.side, self.foreign, self.seed = photos, pairs, side, foreign, seed
        self.ease, self.jitter = ease, jitter

    @property
    def signature(self) -> str:
        """The same for the same windows: names and sizes of the files stand for what is in them."""
        pictures = [*([photo] for photo in self.photos), *([pair.target, *pair.references] for pair in self.pairs)]
        files = [[f"{path.name}:{path.stat().st_size}" for path in several] for several in pictures]
        return repr((self.side, self.foreign, self.seed, len(self.photos), files, *(["jitter"] if self.jitter else [])))

    def __getitem__(self, number: int) -> Window:
        """Raises BadImage, and BadData for a picture that is too small."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        chance = torch.rand(2, generator=generator).tolist()
        far = min(1.0, number % AGAIN / self.ease) if self.ease else 1.0
        real = bool(self.pairs) and (not self.photos or chance[1] < 0.5 * far)
        if real:
            pair = self.pairs[_pick(len(self.pairs), generator)]
            target = _opened(pair.target)
            top, left = _place(target, self.side, generator)
        else:
            target = _opened(self.photos[_pick(len(self.photos), generator)])
            top, left = _most_detailed([_place(target, self.side, generator) for _ in range(4)], target, self.side)
        window = target[:, top : top + self.side, left : left + self.side]
        if chance[0] < self.foreign:
            return Window(window, [self._foreign(generator)], _MIDDLE)
        if real:
            height, width = target.shape[1:]
            centre = ((top + self.side / 2) / height, (left + self.side / 2) / width)
            references = _readable(pair.references)
            if self.jitter:
                references = [_jittered(reference, generator) for reference in references]
            return Window(window, references, centre)
        count = 1 + _pick(_MOST_REFERENCES, generator)
        views = [made_view(target, top, left, self.side, generator, far) for _ in range(count)]
        return Window(window, views, _MIDDLE)

    def _foreign(self, generator: torch.Generator) -> Tensor:
        if float(torch.rand((), generator=generator)) < _EMPTY:
            colour = torch.randint(256, (3, 1, 1), generator=generator)
            noise = torch.randn(3, self.side, self.side, generator=generator) * 60 * _pick(2, generator)
            return (colour + noise).clamp(0, 255).to(torch.uint8)
        others = [*self.photos, *(pair.target for pair in self.pairs)]
        other = _opened(others[_pick(len(others), generator)])
        side = min(other.shape[1], other.shape[2], self.side * 3 // 2)
        top, left = _place(other, side, generator)
        return other[:, top : top + side, left : left + side]


def _opened(path: Path) -> Tensor:
    image = read_rgb8(path)
    return scaled_bytes(image, min(1.0, _LONGEST / max(image.shape[1:])))


def _readable(paths: Sequence[Path]) -> list[Tensor]:
    """The first references that can be read. Raises BadImage where none can."""
    images: list[Tensor] = []
    unread: BadImage | None = None
    for path in paths:
        if len(images) == _MOST_REFERENCES:
            break
        try:
            images.append(_opened(path))
        except BadImage as error:
            unread = error
    if unread and not images:
        raise unread
    return images


def _jittered(photo: Tensor, generator: torch.Generator) -> Tensor:
    """In other light: brightness, contrast and saturation by a fifth at most, hue by a twentieth of a turn, as the code
    of DATSR (Cao et al. 2022) can change references.   (3, H, W) uint8"""
    from torchvision.transforms import functional  # here, as it takes a second to import

    changes = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    factors = _uniform(0.8, 1.2, generator, 3)
    todo = [*zip(changes, factors, strict=True), (functional.adjust_hue, _uniform(-0.05, 0.05, generator)[0])]
    for number in torch.randperm(4, generator=generator).tolist():
        change, amount = todo[number]
        photo = change(photo, amount)
    return photo


def _pick(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _uniform(low: float, high: float, generator: torch.Generator, count: int = 1) -> list[float]:
    return (low + (high - low) * torch.rand(count, generator=generator)).tolist()


def _place(image: Tensor, side: int, generator: torch.Generator) -> tuple[int, int]:
    if min(image.shape[1:]) < side:
        raise BadData(f"a picture is {image.shape[2]}x{image.shape[1]}, smaller than a window of {side} pixels")
    return _pick(image.shape[1] - side + 1, generator), _pick(image.shape[2] - side + 1, generator)


def _most_detailed(places: Sequence[tuple[int, int]], image: Tensor, side: int) -> tuple[int, int]:
    def detail(place: tuple[int, int]) -> float:
        window = image[:, place[0] : place[0] + side, place[1] : place[1] + side].float()
        return float(window.diff(dim=1).abs().mean() + window.diff(dim=2).abs().mean())

    return max(places, key=detail)


def made_view(photo: Tensor, top: int, left: int, side: int, generator: torch.Generator, far: float = 1.0) -> Tensor:
    """What another camera might have seen of the window at `top`, `left` of `photo` (3, H, W) uint8: from another
    place, turned, nearer or further, in other light, blurred, noisy, compressed. From the same place where `far` is 0.
    (3, side', side') uint8"""
    if float(torch.rand((), generator=generator)) < _COPIES:
        return _copy(photo, top, left, side, generator, far)
    zoom = 2 ** (far * _uniform(-0.6, 0.6, generator)[0])  # pixels of the photo for one of the view
    size = side * 5 // 4
    near = photo if zoom <= 1 else resize(photo[None].float(), *(round(n / zoom) for n in photo.shape[1:]))[0]
    ratio = torch.tensor([near.shape[1] / photo.shape[1], near.shape[2] / photo.shape[2]])
    step = zoom if zoom <= 1 else 1.0
    degrees = far * _uniform(-10, 10, generator)[0]
    quarters = _pick(4, generator) if _pick(8, generator) == 0 else 0
    angle = math.radians(degrees + (90 * quarters if far == 1 else 0))
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    bend = far * torch.tensor(_uniform(-0.08, 0.08, generator, 4)).view(2, 2)
    tilt = far * torch.tensor(_uniform(-0.15, 0.15, generator, 2)) / size
    aside = far * torch.tensor(_uniform(-0.5, 0.5, generator, 2)) * side * (_uniform(0, 1, generator)[0] ** 2)
    offset = torch.arange(size) - (size - 1) / 2
    grid = torch.stack(torch.meshgrid(offset, offset, indexing="ij"))
    depth = 1 + torch.einsum("a,ahw->hw", tilt, grid)
    middle = (torch.tensor([top, left]) + side / 2 + aside) * ratio
    pos = middle.view(2, 1, 1) + step * torch.einsum("ab,bhw->ahw", turn + bend, grid) / depth
    span = torch.tensor(near.shape[1:]).view(2, 1, 1)
    lookup = (2 * pos / span - 1).flip(0).permute(1, 2, 0)[None]
    view = F.grid_sample(near[None].float(), lookup, mode="bicubic", padding_mode="reflection", align_corners=False)[0]
    return _photographed(view / 255, generator)


def _copy(photo: Tensor, top: int, left: int, side: int, generator: torch.Generator, far: float) -> Tensor:
    """The photo itself there, moved by whole pixels, perhaps turned by right angles and mirrored, perhaps in other
    light: what shows it without any blur."""
    size = [min(side * 5 // 4, length) for length in photo.shape[1:]]
    corner = [
        max(0, min(start - side // 8 + round(far * (_pick(side // 2, generator) - side // 4)), length - extent))
        for start, length, extent in zip((top, left), photo.shape[1:], size, strict=True)
    ]
    view = photo[:, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
    if _pick(2, generator) and far == 1:
        view = view.rot90(_pick(4, generator), (1, 2))
        view = view.flip(2) if _pick(2, generator) else view
    return _photographed(view.float() / 255, generator) if _pick(2, generator) else view.contiguous()


def _photographed(view: Tensor, generator: torch.Generator) -> Tensor:
    """In other light and by another camera."""
    view = view.clamp(0, 1)
    if _pick(4, generator):
        gain = torch.tensor(_uniform(0.9, 1.1, generator, 3)) * _uniform(0.75, 1.2, generator)[0]
        view = (view ** _uniform(0.8, 1.25, generator)[0] * gain.view(3, 1, 1)).clamp(0, 1)
    if _pick(3, generator) == 0:
        sigma = _uniform(0.3, 2.0, generator)[0]
        taps = torch.arange(-6, 7)
        kernel = torch.exp(-taps.square() / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
        padded = F.pad(view[:, None], (6,) * 4, mode="replicate")
        view = F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))[:, 0]
    if _pick(3, generator) == 0:
        view = view + torch.randn(view.shape, generator=generator) * _uniform(0, 4 / 255, generator)[0]
    pixels = view.clamp(0, 1).mul(255).round().to(torch.uint8)
    if not _pick(2, generator):
        return pixels
    return as_jpeg(pixels, 60 + _pick(36, generator))
