"""What checks are given, and what they find."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch

from refsr_cli.bench.rounds import wait
from refsr_cli.images import Pixels
from refsr_cli.metrics import psnr


@dataclass(frozen=True)
class Effort:
    """How much is tried."""

    side: int
    """Of the pictures that are tiled, and that nets race on."""
    nets: tuple[str, ...] | None
    """Names in MODELS; None is all."""
    racing: tuple[str, ...]
    rounds: int
    count: int
    """Small pictures at once, and frames of a video."""
    batch: int
    """Crops of a training step."""
    training: float
    """Seconds of training."""
    seconds: float
    """After which no further check begins."""


FULL = Effort(
    side=1024, nets=None, racing=("edsr", "edsr-baseline"), rounds=3, count=64, batch=64, training=60, seconds=330
)
SMALL = Effort(
    side=96,
    nets=("edsr-baseline", "srresnet"),
    racing=("edsr-baseline",),
    rounds=1,
    count=4,
    batch=2,
    training=1,
    seconds=300,
)
"""For a CPU, or to see that the checks themselves work."""


@dataclass(frozen=True)
class Seen:
    """One thing that a check saw."""

    what: str
    figure: str
    passed: bool | None = None
    """None where it is no question of right or wrong."""


@dataclass(frozen=True)
class Row:
    """What was seen by which check, and in how many seconds."""

    check: str
    what: str
    figure: str
    passed: bool | None
    seconds: float

    @property
    def line(self) -> str:
        """Of a table in Markdown."""
        verdict = {True: "passed", False: "**failed**", None: ""}[self.passed]
        return f"| {self.check} | {self.what} | {self.figure.replace('|', '/')} | {verdict} | {self.seconds:.1f} |"


def similarity(found: Pixels, expected: Pixels) -> float:
    """PSNR in dB of two pictures, at most 99, which stands for equal."""
    return min(99.0, psnr(torch.from_numpy(found), torch.from_numpy(expected)))


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median of `rounds` after one to warm up, all of it done."""
    taken = []
    for _ in range(rounds + 1):
        begin = perf_counter()
        work()
        wait(device)
        taken.append(perf_counter() - begin)
    return median(taken[1:])
