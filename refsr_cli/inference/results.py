"""What a net was run as, and what came of it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

from refsr_cli.images import Picture, Pixels
from refsr_cli.inference.guided import RefUse
from refsr_cli.reference.bank import Reference
from refsr_cli.reference.match import Match
from refsr_cli.restoration.strength import NOTHING, Restoration

Result = TypeVar("Result")


@dataclass(frozen=True)
class Using:
    """Which net is run, and how."""

    model: str
    scale: int
    device: str
    precision: str
    self_ensemble: bool
    note: str | None
    kind: str = "using"


@dataclass(frozen=True)
class Enlarged:
    """A picture made larger, and what restoration and references did for it."""

    picture: Picture
    restoration: Restoration = NOTHING
    trust: Pixels | None = None
    """(H, W) uint8, 255 where a reference is fully believed; None without references."""
    uses: tuple[RefUse, ...] = ()
    match: Match | None = None
    references: tuple[Reference, ...] = ()
    """As `match` numbers them."""


@dataclass(frozen=True)
class Guidance:
    """What references did in one pass; trust and match are there for nets that merge what references offer."""

    trust: Pixels | None
    match: Match | None
    references: tuple[Reference, ...]
    uses: tuple[RefUse, ...]


def finished(steps: Generator[int, None, Result]) -> Result:
    """What a generator gives in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
