"""Nets whose weights are about to be read from a file: random numbers are not drawn for them before."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWING = Tensor.normal_, Tensor.uniform_, init.uniform_, init.normal_, init.kaiming_uniform_, init.kaiming_normal_


class Unfilled(TorchFunctionMode):
    """Parameters that are made in it hold whatever memory holds. Random numbers for 43 million take half a second, and
    those of a normal distribution on the device `meta` make torch import its compiler, which takes two."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in _DRAWING:
            return args[0] if args else named["tensor"]
        return func(*args, **named)
