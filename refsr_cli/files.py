"""Files and folders that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refsr_cli.errors import BadFile


def make_folder(path: Path) -> None:
    """Makes `path` and the folders above it where they are missing. Raises BadFile."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"the folder {path} cannot be made: {error.strerror}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` when all went well, else it is removed.

    Raises BadFile for what the file system refuses: a full disk, a missing folder, no permission.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise BadFile(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """`path` holds all of `content`, or what it held before. Raises BadFile."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)
