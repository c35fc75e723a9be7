"""Reference photos by the names that people give them: files, folders, patterns."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from refsr_cli.data.folders import find_images, match_images
from refsr_cli.errors import BadData, Failed, RefsrError
from refsr_cli.images import read_rgb8
from refsr_cli.reference.bank import SMALLEST_SIDE, Reference, open_reference


def open_references(names: Sequence[str]) -> Iterator[Reference | Failed]:
    """Every reference that `names` stand for; Failed for one that cannot be used, with the reason.

    Each is decoded once to know it, and again when it is needed. Raises BadData when a name stands for nothing.
    """
    for path in dict.fromkeys(path for name in names for path in _paths(name)):
        yield open_reference_file(path)


def _paths(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return find_images(path)
    if path.exists() or path.is_symlink():
        return [path]
    images = match_images(name)
    if not images:
        raise BadData(f"the reference {name} is not there")
    return images


def open_reference_file(path: Path) -> Reference | Failed:
    """The reference in `path`, or why it cannot be used."""
    try:
        reference = open_reference(str(path), lambda: read_rgb8(path))
    except RefsrError as error:
        return Failed(str(path), str(error))
    if min(reference.size) < SMALLEST_SIDE:
        return Failed(str(path), f"{path} is smaller than {SMALLEST_SIDE} pixels: there is nothing to take from it")
    return reference
