"""3x3 convolutions with a quarter of the multiplications (Winograd 1980; Lavin and Gray, CVPR 2016, F(4x4, 3x3)).

A tile of 6x6 input pixels becomes 36 numbers a channel, of which each is multiplied with its own matrix of weights, and
4x4 output pixels are read off the products. Exact but for rounding, which is about ten times that of adding the
products up one by one. What it costs besides, to and from the 36 numbers, does not grow with the product of the
channels on both sides, so that it is for wide layers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from refsr_cli.layers.products import products

_IN, _OUT = 6, 4
"""Sides of a tile before and after."""
_ALONG_KERNEL = torch.tensor(
    (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    dtype=torch.float64,
)
_KERNEL = torch.kron(_ALONG_KERNEL, _ALONG_KERNEL)
"""From three numbers along one side of a kernel to six, and from nine along both to 36."""
_AT_ONCE = 1024
"""Tiles, about: fewer keep no processor busy, more leave every cache."""
WIDE, _MUCH = 128, 2**24
"""Channels on both sides, and tiles times the square of those, from which it is the faster way on a CPU."""


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: tuple[int, int] = (1, 1)) -> Tensor:
    """`F.conv2d` with a 3x3 kernel: (N, C, H, W), (D, C, 3, 3) and (D) to (N, D, H', W'), channels last."""
    high, wide = (side + 2 * pad - 2 for side, pad in zip(x.shape[-2:], padding, strict=True))
    tall, broad = -(-high // _OUT), -(-wide // _OUT)  # tiles
    features, channels = weight.shape[:2]
    kernels = (_KERNEL.to(x) @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(_IN, _IN, features, channels)
    result = x.new_empty(len(x), _OUT * tall, _OUT * broad, features)
    rows = max(1, min(tall, _AT_ONCE // broad))
    some = max(1, _AT_ONCE // (rows * broad))  # pictures
    for pictures, targets in zip(x.split(some), result.split(some), strict=True):
        for first in range(0, tall, rows):
            strips = _strips(pictures, _OUT * first, _OUT * min(rows, tall - first), _OUT * broad, padding)
            places = targets[:, _OUT * first : _OUT * (first + rows)].unflatten(1, (-1, _OUT)).unflatten(3, (-1, _OUT))
            _pixels(_products(_numbers(strips), kernels, bias), places)
    return result[:, :high, :wide].permute(0, 3, 1, 2)


def _strips(pictures: Tensor, first: int, rows: int, columns: int, padding: tuple[int, int]) -> Tensor:
    """What `rows` by `columns` pixels of each result see, from row `first`, of (N, C, H, W):
    (N, rows + 2, columns + 2, C)."""
    top, left = first - padding[0], padding[1]
    bottom, (height, width) = top + rows + 2, pictures.shape[2:]
    around = (0, 0, left, columns + 2 - left - width, max(0, -top), max(0, bottom - height))
    return F.pad(pictures[:, :, max(0, top) : bottom].permute(0, 2, 3, 1), around)


def _numbers(strips: Tensor) -> Tensor:
    """Of (N, 4 tall + 2, 4 broad + 2, C) pixels: (6, 6, N, tall, broad, C), the place in a row first."""
    number, tall, broad = (len(strips), *(side // _OUT for side in strips.shape[1:3]))
    down = strips.new_empty(_IN, number, tall, *strips.shape[2:])
    _along_input([strips[:, i : i + _OUT * tall : _OUT] for i in range(_IN)], down)
    numbers = strips.new_empty(_IN, _IN, number, tall, broad, strips.shape[-1])
    _along_input([down[..., j : j + _OUT * broad : _OUT, :] for j in range(_IN)], numbers)
    return numbers


def _products(numbers: Tensor, kernels: Tensor, bias: Tensor | None) -> Iterator[list[Tensor]]:
    """Each with its own matrix: (N * tall * broad, D), those of one place in a row together. The bias goes where every
    pixel takes it from, once."""
    flat = numbers.flatten(2, -2)
    for j in range(_IN):
        yield [products(flat[j, i], kernels[i, j], bias if i == j == 1 else None) for i in range(_IN)]


def _pixels(columns: Iterable[Sequence[Tensor]], places: Tensor) -> None:
    """What is read off them, into (N, tall, 4, broad, 4, D)."""
    number, tall, _, broad, _, features = places.shape
    down = places.new_empty(_IN, _OUT, number, tall, broad, features)
    for its, column in zip(down, columns, strict=True):
        _along_output([numbers.view(its.shape[1:]) for numbers in column], its)
    _along_output(down, [places[..., k, :].permute(2, 0, 1, 3, 4) for k in range(_OUT)])


def _along_input(pixels: Sequence[Tensor], numbers: Tensor) -> None:
    """The six numbers of six pixels: (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0) and (0, 4, 0, -5, 0, 1) of them."""
    first, second, third, fourth, fifth, sixth = pixels
    even, odd = torch.sub(fifth, third, alpha=4), torch.sub(fourth, second, alpha=4)
    torch.add(even, odd, out=numbers[1])
    torch.sub(even, odd, out=numbers[2])
    torch.sub(fifth, third, out=even)
    torch.sub(fourth, second, out=odd)
    torch.add(even, odd, alpha=2, out=numbers[3])
    torch.sub(even, odd, alpha=2, out=numbers[4])
    torch.add(even, torch.sub(first, third), alpha=4, out=numbers[0])
    torch.sub(torch.sub(sixth, fourth), odd, alpha=4, out=numbers[5])


def _along_output(numbers: Sequence[Tensor] | Tensor, pixels: Sequence[Tensor] | Tensor) -> None:
    """The four pixels of six numbers: (1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0) and
    (0, 1, -1, 8, -8, 1) of them."""
    first, second, third, fourth, fifth, sixth = numbers
    near, far = second + third, fourth + fifth
    torch.add(near, far, alpha=4, out=pixels[2])
    torch.add(near.add_(far), first, out=pixels[0])
    torch.sub(second, third, out=near)
    torch.sub(fourth, fifth, out=far)
    torch.add(near, far, alpha=2, out=pixels[1])
    torch.add(near.add_(far, alpha=8), sixth, out=pixels[3])


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
        and min(features, channels) >= WIDE
        and tiles * min(features, channels) ** 2 >= _MUCH
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )
