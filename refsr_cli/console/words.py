"""What telling a record in words takes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.markup import escape

Record = dict[str, Any]
"""The fields of a record by their names."""
Words = Mapping[str, Callable[[Record], Iterable[str]]]
"""For each kind of record the lines that tell it to people, in rich's markup."""


def duration(seconds: float) -> str:
    """`3.2 s`, `4 min 10 s`, `2 h 5 min`, `12 days`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 72:
        return f"{hours / 24:.0f} days"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def warning(text: str) -> str:
    """`text`, whatever names are in it, as something to heed."""
    return f"[yellow]{escape(text)}[/yellow]"
