"""3x3 convolutions with a quarter of the multiplications (Winograd 1980; Lavin and Gray, CVPR 2016, F(4x4, 3x3)).

A tile of 6x6 input pixels becomes 36 numbers a channel, of which each is multiplied with its own matrix of weights, and
4x4 output pixels are read off the products. Exact but for rounding, which is about ten times that of adding the
products up one by one. What it costs besides, to and from the 36 numbers, does not grow with the product of the
channels on both sides, so that it is for wide layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_IN, _OUT = 6, 4
"""Sides of a tile before and after."""
_ALONG_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_ALONG_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_ALONG_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
"""What is done along one side."""


def _both_sides(along: Sequence[Sequence[float]]) -> Tensor:
    """The same along both: the Kronecker product with itself."""
    side = torch.tensor(along, dtype=torch.float64)
    return torch.kron(side, side)


_INPUT, _KERNEL, _OUTPUT = (_both_sides(along) for along in (_ALONG_INPUT, _ALONG_KERNEL, _ALONG_OUTPUT))
_WIDE, _MANY = 128, 128
"""Channels on both sides, and tiles, from which it is the faster way on a CPU."""


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: tuple[int, int] = (1, 1)) -> Tensor:
    """`F.conv2d` with a 3x3 kernel: (N, C, H, W), (D, C, 3, 3) and (D) to (N, D, H', W'), channels last."""
    high, wide = (side + 2 * pad - 2 for side, pad in zip(x.shape[-2:], padding, strict=True))
    tall, broad = -(-high // _OUT), -(-wide // _OUT)  # tiles
    to_numbers, of_kernel, to_pixels = (matrix.to(x) for matrix in (_INPUT, _KERNEL, _OUTPUT))
    features, channels = weight.shape[:2]
    matrices = (of_kernel @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(_IN**2, channels, features)
    bias = x.new_zeros(features) if bias is None else bias
    result = x.new_empty(len(x), _OUT * tall, _OUT * broad, features)
    rows = max(1, min(channels, features) // broad)  # of tiles at once: more than of weights would leave the cache
    for picture, target in zip(x, result, strict=True):
        for first in range(0, tall, rows):
            some = min(rows, tall - first)
            strip = _strip(picture, _OUT * first, _OUT * some, _OUT * broad, padding)
            line, pixel, channel = strip.stride()
            shape, steps = (_IN, _IN, some, broad, channels), (line, pixel, _OUT * line, _OUT * pixel, channel)
            tiles = strip.as_strided(shape, steps).reshape(_IN**2, -1)
            products = torch.bmm((to_numbers @ tiles).view(_IN**2, -1, channels), matrices)
            pixels = torch.addmm(bias.repeat(some * broad), to_pixels, products.view(_IN**2, -1))
            place = target[_OUT * first : _OUT * (first + some)].view(some, _OUT, broad, _OUT, features)
            place.copy_(pixels.view(_OUT, _OUT, some, broad, features).permute(2, 0, 3, 1, 4))
    return result[:, :high, :wide].permute(0, 3, 1, 2)


def _strip(picture: Tensor, first: int, rows: int, columns: int, padding: tuple[int, int]) -> Tensor:
    """What `rows` by `columns` pixels of the result see, from row `first`, of (C, H, W): (rows + 2, columns + 2, C)."""
    top, left = first - padding[0], padding[1]
    bottom, height, width = top + rows + 2, picture.shape[1], picture.shape[2]
    around = (0, 0, left, columns + 2 - left - width, max(0, -top), max(0, bottom - height))
    return F.pad(picture[:, max(0, top) : bottom].permute(1, 2, 0), around)


class WideByWinograd(TorchFunctionMode):
    """Within it, convolutions in float32 on a CPU that are wide and large enough to gain are computed so. Not for
    training: it would keep many times as much for the way back."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            if _gains(x, weight) and (stride, dilation, groups) == ((1, 1), (1, 1), 1) and isinstance(padding, tuple):
                return winograd(x, weight, bias, padding)
        return func(*args, **(kwargs or {}))


def _gains(x: Tensor, weight: Tensor) -> bool:
    if x.dim() != 4 or torch.is_grad_enabled():
        return False
    features, channels, *kernel = weight.shape
    tiles = x.shape[0] * (x.shape[-2] // _OUT) * (x.shape[-1] // _OUT)
    return (
        kernel == [3, 3]
        and min(features, channels) >= _WIDE
        and tiles >= _MANY
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )
