"""Ranges of numbered photos, as an option names them."""

import re

from refsr_cli.errors import require

Span = tuple[int, int]
"""First and last of a range of numbers."""


def one_span(option: str, text: str) -> Span:
    """`801-900` as a range. Raises BadSetting, naming the `option`."""
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    first, last = (int(number) for number in match.groups()) if match else (1, 0)
    require(first <= last, f"{option} is such as 801-900, not '{text}'")
    return first, last


def spans(text: str | None) -> tuple[Span | None, Span | None]:
    """`1-800/801-900` as two ranges; the second may be missing."""
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d+)-(\d+)(?:/(\d+)-(\d+))?", text)
    numbers = [int(number) for number in (match.groups() if match else ()) if number]
    found = list(zip(numbers[::2], numbers[1::2], strict=True))
    require(
        bool(found) and all(first <= last for first, last in found),
        f"--data-range is such as 1-800/801-900, not '{text}'",
    )
    return found[0], found[1] if len(found) == 2 else None
