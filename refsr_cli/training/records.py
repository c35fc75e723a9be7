"""What a training reports as it goes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reading:
    """Photos are about to be read, which takes a while where there are many."""

    photos: int
    kind: str = "reading"


@dataclass(frozen=True)
class Started:
    """What is about to be trained, and on what."""

    model: str
    scale: int
    photos: int
    pairs: int
    """Pictures with references."""
    skipped: int
    parameters: int
    """Those that are learned."""
    device: str
    out: Path
    trial: bool
    """No data was given: the few packaged photos are used, which is enough to try the command and no more."""
    note: str | None = None
    """What the user should know."""
    kind: str = "started"


@dataclass(frozen=True)
class Pace:
    """Measured on the first few steps: how long all of it will take on this machine."""

    steps: int
    steps_per_second: float
    remaining_seconds: float
    note: str | None = None
    """What would suit this machine."""
    kind: str = "pace"


@dataclass(frozen=True)
class Step:
    """Progress, every `log_every` steps."""

    step: int
    steps: int
    loss: float
    """Mean since the last such record; nan where every batch was left out."""
    terms: dict[str, float]
    """What it is the sum of."""
    skipped: int
    """Batches left out so far, as their loss was far above the usual."""
    learning_rate: float
    steps_per_second: float
    remaining_seconds: float
    kind: str = "step"


@dataclass(frozen=True)
class Finished:
    """Where the trained weights lie."""

    step: int
    weights: Path
    best: Path | None
    """None where nothing was scored."""
    seconds: float
    unusable: int
    """Photos read as they were needed that could not be used; one may be counted several times."""
    kind: str = "finished"
