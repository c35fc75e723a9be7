"""What a user can cause, said to the user: what is wrong, the value, and what to do about it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class RefsrError(Exception):
    """Something named could not be done; the message is shown as it is. Exit code 1."""

    exit_code = 1


@dataclass(frozen=True)
class Failed:
    """The record of one file that could not be done, where others are."""

    path: str
    message: str
    kind: str = "error"


class BadFile(RefsrError):
    """A file or folder that the file system will not give or take."""


class BadImage(RefsrError):
    """An image file that cannot be read or written."""


class BadWeights(RefsrError):
    """A weight file that is missing, damaged, or not what was asked for."""


class BadData(RefsrError):
    """A dataset that is missing or laid out in another way than expected."""


class OutOfMemory(RefsrError):
    """Not enough memory even for the smallest tile or batch."""


class BadSetting(RefsrError):
    """The request itself is wrong: a value out of range, or values that exclude each other. Exit code 2."""

    exit_code = 2


class UnknownName(BadSetting):
    """A name that is not in a list of known names; suggests the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        choices = sorted(known)
        nearest = difflib.get_close_matches(name, choices, n=1)
        hint = f"did you mean '{nearest[0]}'? " if nearest else ""
        super().__init__(f"unknown {kind} '{name}'; {hint}known: {', '.join(choices)}")


def require(condition: bool, message: str) -> None:
    """Raises BadSetting with `message` where `condition` does not hold."""
    if not condition:
        raise BadSetting(message)
