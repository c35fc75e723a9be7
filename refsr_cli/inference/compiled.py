"""Nets compiled by torch, for those who enlarge much: it takes a while, once on each machine."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from refsr_cli.errors import RefsrError

Inputs = ParamSpec("Inputs")
Answer = TypeVar("Answer")


def compiled(forward: Callable[Inputs, Answer]) -> Callable[Inputs, Answer]:
    """`forward`, compiled when it is first called; torch keeps what it made for later processes. Raises RefsrError
    where it cannot be compiled, as without a compiler for C++."""
    try:
        quick: Callable[Inputs, Answer] = torch.compile(forward)
    except RuntimeError as error:  # this Python is too new for it
        raise RefsrError(f"the net cannot be compiled here ({error}); leave out --compile") from error

    def run(*inputs: Inputs.args, **named: Inputs.kwargs) -> Answer:
        try:
            return quick(*inputs, **named)
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException

            if not isinstance(error, TorchDynamoException):
                raise
            reason = next((line for line in str(error).splitlines() if not line.endswith("raised:")), "no reason given")
            raise RefsrError(f"the net cannot be compiled here ({reason}); leave out --compile") from error

    return run
