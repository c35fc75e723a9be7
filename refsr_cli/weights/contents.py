"""What a published weight file turns out to hold, and how that is read off its tensors."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from refsr_cli.errors import BadWeights

Tensors = dict[str, Tensor]
Naming = Callable[[str], str]
"""The published name of one of our keys."""


@dataclass(frozen=True)
class Contents:
    """What a published file turns out to hold."""

    model: str
    scale: int
    config: dict[str, Any]
    naming: Naming
    dropped: tuple[str, ...] = ()
    """Prefixes of tensors that our net has no place for, after they were checked."""
    changed: Tensors = field(default_factory=dict)
    """Tensors, by their published name, whose numbers our net has in another order."""
    mean_assumed: bool = False
    """Whether the mean colour that the net subtracts is that of the published code, as the file does not contain it."""


def renamed(*rules: tuple[str, str]) -> Naming:
    """A naming that applies the first rule (pattern at the start of our key, replacement) that matches."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def theirs(key: str) -> str:
        pattern, replacement = next(rule for rule in compiled if rule[0].match(key))
        return pattern.sub(replacement, key, count=1)

    return theirs


def kernel_of(path: Path, tensors: Tensors, key: str) -> Tensor:
    """The weight of a convolution. Raises BadWeights where it is missing or none."""
    kernel = tensors.get(key)
    if kernel is None or kernel.dim() != 4 or not kernel.numel():
        raise BadWeights(f"{path} cannot be read: {key} is {'missing' if kernel is None else 'no convolution'}")
    return kernel


def first_layer(path: Path, tensors: Tensors, key: str, channels: tuple[int, ...] = (3,)) -> Tensor:
    """The weight of the first layer. Raises BadWeights where it does not take an image."""
    head = kernel_of(path, tensors, key)
    if head.shape[1] not in channels:
        raise BadWeights(f"{path} is not for RGB images: {key} is {tuple(head.shape)}")
    return head


def count_layers(tensors: Tensors, key: Callable[[int], str]) -> int:
    """How many of the layers numbered by `key` there are."""
    return next(number for number in range(len(tensors) + 1) if key(number) not in tensors)
