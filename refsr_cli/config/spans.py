"""Ranges of numbered photos, as an option names them."""

import re

from refsr_cli.errors import require

Span = tuple[int, int]
"""First and last of a range of numbers."""


def one_span(option: str, text: str) -> Span:
    """`801-900` as a range. Raises BadSetting, naming the `option`."""
    return _required(_parsed(text), option, "801-900", text)


def spans(text: str | None) -> tuple[Span | None, Span | None]:
    """`1-800/801-900` as two ranges; the second may be missing."""
    if text is None:
        return None, None
    first, slash, second = text.partition("/")
    pair = [
        _required(_parsed(part), "--data-range", "1-800/801-900", text) for part in (first, second)[: 1 + len(slash)]
    ]
    return pair[0], pair[1] if slash else None


def _parsed(text: str) -> Span | None:
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    first, last = (int(number) for number in match.groups()) if match else (1, 0)
    return (first, last) if first <= last else None


def _required(span: Span | None, option: str, example: str, text: str) -> Span:
    require(span is not None, f"{option} is such as {example}, not '{text}'")
    assert span is not None, "it was required"
    return span
