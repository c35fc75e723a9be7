"""Features of VGG-19, trained on ImageNet: Simonyan & Zisserman 2015, weights of torchvision."""

from pathlib import Path
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsr_cli.errors import BadWeights
from refsr_cli.layers.unfilled import Unfilled

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LAYERS = {"conv2_2": 8, "relu5_1": 30, "conv5_4": 35}
"""Modules of torchvision's `features` up to and with this convolution, without its activation, or with it."""
SMALLEST = {"conv2_2": 2, "relu5_1": 16, "conv5_4": 16}
"""Side of a picture that leaves one pixel there: each pooling before it halves."""
_REACH = 12
"""Pixels, at least, that features of stride 4 see above and below their own cell."""
VGG_WIDTHS = (64, 128, 256)
"""Of the first layers of VGG-16 and VGG-19, at stride 1, 2 and 4."""
_STRIP = 2**18
"""Pixels of a picture that are encoded at once, where memory suffices."""


class VGGStem(nn.Module):
    """The first five convolutions of VGG-16 and VGG-19, or of a net like them with other `widths`.

    (N, 3, H, W) in [0, 1] -> features of stride 1, 2 and 4, of the last convolution before its activation; the first
    of them where no larger stride is asked for.
    """

    def __init__(self, widths: tuple[int, int, int] = VGG_WIDTHS) -> None:
        super().__init__()
        one, two, three = widths
        self.conv1_1 = nn.Conv2d(3, one, 3, padding=1)
        self.conv1_2 = nn.Conv2d(one, one, 3, padding=1)
        self.conv2_1 = nn.Conv2d(one, two, 3, padding=1)
        self.conv2_2 = nn.Conv2d(two, two, 3, padding=1)
        self.conv3_1 = nn.Conv2d(two, three, 3, padding=1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor, largest: int = 4) -> tuple[Tensor, ...]:
        first = F.relu(self.conv1_1((x - self.mean) / self.std))
        if largest == 1:
            return (first,)
        half = F.max_pool2d(F.relu(self.conv1_2(first)), 2)
        second = F.relu(self.conv2_1(half))
        if largest == 2:
            return first, second
        quarter = F.max_pool2d(F.relu(self.conv2_2(second)), 2)
        return first, second, self.conv3_1(quarter)

    def strip(self, x: Tensor, first: int, stop: int, largest: int = 4) -> tuple[Tensor, ...]:
        """What `forward` gives for the rows `first` <= row < `stop` of `x`, without what the others take; `first`,
        `stop` and the height are multiples of 4."""
        top = max(0, first - _REACH)
        seen = self(x[..., top : stop + _REACH, :], largest)
        first, stop = first - top, stop - top
        return tuple(its[..., first >> n : stop >> n, :] for n, its in enumerate(seen))

    def strips(self, width: int, first: int, stop: int, memory: int | None) -> list[tuple[int, int]]:
        """The rows `first` <= row < `stop` of a picture so wide in parts, multiples of 4, of which each takes about
        a quarter of `memory` bytes while it is encoded: three maps of stride 1, and what they leave."""
        pixel_bytes = 4 * 4 * self.conv1_1.out_channels
        pixels = _STRIP if memory is None else min(_STRIP, memory // 4 // pixel_bytes)
        rows = 4 * max(1, pixels // width // 4)
        return [(start, min(start + rows, stop)) for start in range(first, stop, rows)]


class VGGFeatures(nn.Module):
    """What the net makes of a picture up to a layer; nothing in it is learned.   (N, 3, H, W) in [0, 1] -> (N, C, h, w)

    Raises BadWeights where the weights are not in torch's cache and cannot be fetched.
    """

    def __init__(self, layer: str) -> None:
        from torchvision.models import vgg19  # here, as it takes a second to import

        super().__init__()
        with torch.device("meta"), Unfilled():
            self.features = vgg19().features[: _LAYERS[layer]]
        wanted = self.features.state_dict()
        found = _imagenet_weights("put the file there, or leave VGG out of --loss")
        absent = [key for key in wanted if f"features.{key}" not in found]
        if absent:
            raise BadWeights(
                f"{_cached()} is not VGG-19: it lacks features.{absent[0]}; remove it, it is fetched again"
            )
        self.features.load_state_dict({key: found[f"features.{key}"].float() for key in wanted}, assign=True)
        for module in self.features:
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.eval().requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.features((x - self.mean) / self.std)
        return features


def imagenet_stem(*, fetch: bool = False) -> dict[str, Tensor] | None:
    """The first five convolutions of VGG-19 by torchvision's names, from torch's cache; None where they are not there,
    unless torchvision is to `fetch` them. Raises BadWeights for a damaged file, and where they cannot be had."""
    if not (fetch or _cached().is_file()):
        return None
    found = _imagenet_weights("put the file there, or name it")
    return {key: value for key, value in found.items() if key.startswith(STEM)}


STEM = tuple(f"features.{number}." for number in (0, 2, 5, 7, 10))
"""Beginnings of the names that the convolutions of `VGGStem` have in torchvision's VGG-19."""


def _address() -> str:
    from torchvision.models import VGG19_Weights

    return str(VGG19_Weights.IMAGENET1K_V1.url)


def _cached() -> Path:
    return Path(str(torch.hub.get_dir())) / "checkpoints" / _address().rpartition("/")[2]


def _imagenet_weights(remedy: str) -> dict[str, Tensor]:
    url = _address()
    try:
        weights: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise BadWeights(
            f"VGG-19's weights (548 MB) are not in {_cached().parent} and cannot be fetched from {url} ({reason}); "
            f"{remedy}"
        ) from None
    except Exception as error:  # a damaged file can raise anything
        raise BadWeights(f"{_cached()} is damaged ({type(error).__name__}); remove it, it is fetched again") from None
    return weights
