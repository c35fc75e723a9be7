"""Settings of `refsr prepare`."""

from dataclasses import dataclass
from pathlib import Path

from refsr_cli.config.spans import Span, spans
from refsr_cli.errors import require


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """`refsr prepare`."""

    data: Path
    """Folder of photos."""
    output: Path
    """The LMDB file."""
    side: int = 480
    """Of the squares that photos are cut into, and `step` from one to the next, in pixels."""
    step: int = 240
    data_range: str | None = None
    """Numbers of the photos that are taken, such as 1-800."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(self.output.suffix == ".lmdb", f"--output must end in .lmdb, not {self.output.name}")
        require(self.side >= 16, f"--side must be at least 16, not {self.side}")
        require(self.step >= 1, f"--step must be at least 1, not {self.step}")
        _ = self.span

    @property
    def span(self) -> Span | None:
        """First and last number of the photos."""
        return spans(self.data_range)[0]
