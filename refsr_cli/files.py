"""Files and folders that are whole or not there."""

import csv
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from refsr_cli.errors import BadFile

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet computes."""


def make_folder(path: Path) -> None:
    """Makes `path` and the folders above it where they are missing. Raises BadFile."""
    if path.is_file():
        raise BadFile(f"{path} is a file, where a folder is needed")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"the folder {path} cannot be made: {error.strerror}") from None


def make_room_for(path: Path) -> None:
    """Makes the folder of the file `path`. Raises BadFile, also where it cannot be written to."""
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise BadFile(f"the folder {path.parent} cannot be written to; give another name than {path}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path`, and its permissions, when all went
    well, else it is removed.

    Raises BadFile for what the file system refuses: a full disk, a missing folder, no permission.
    """
    if path.exists() and not path.is_file():
        raise BadFile(f"{path} is not a regular file, and is left as it is")
    unfinished = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield unfinished
        if path.exists():
            shutil.copymode(path, unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise BadFile(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """`path` holds all of `content`, or what it held before. Raises BadFile."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """CSV with a column for every name in any of `rows`, which are given; text that a spreadsheet would take for a
    formula, as a file's name may begin, has an apostrophe before it. Raises BadFile."""
    text, columns = StringIO(newline=""), list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue().encode())
    return columns


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def digest(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    result = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            result.update(block)
    return result.hexdigest()
