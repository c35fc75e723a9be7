"""Code compiled for a CPU: where it is had from, and how the processors share its work."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

_PARTS = 8
"""Parts for each thread, as some take longer than others."""


@cache
def kernels(name: str) -> ModuleType | None:
    """The module `name` of this package, whose functions are compiled when they are first called; None where they
    cannot be. Importing the first takes half a second, which only those with references pay."""
    try:
        return import_module(f"refsr_cli.reference.{name}")
    except (ImportError, RuntimeError):  # the latter where there is no folder to keep what was compiled
        return None


def share(work: Callable[[int, int], None], count: int, least: int = 1) -> None:
    """Calls `work` with the begin and the end of parts of `count`, of at least `least` each, on all processors that
    PyTorch uses: compiled code does not hold Python's lock."""
    threads = torch.get_num_threads()
    each = max(least, -(-count // (threads * _PARTS)) if threads > 1 else count)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start: work(start, min(start + each, count)), range(0, count, each or 1)))
