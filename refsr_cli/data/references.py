"""Reference photos by the names that people give them: files, folders, patterns."""

from collections.abc import Sequence
from pathlib import Path

from refsr_cli.data.folders import find_images, images_in, is_image, match_files
from refsr_cli.errors import BadData, BadSetting, Failed, RefsrError
from refsr_cli.images import read_rgb8
from refsr_cli.reference.bank import SMALLEST_SIDE, Reference, open_reference


def find_references(names: Sequence[str], *, recursive: bool = False) -> dict[Path, bool]:
    """Every file that `names` stand for, in order; true for one that was named itself, not by a folder or a pattern.

    `recursive` looks into the folders of a folder too. Raises BadData when a name stands for nothing, and BadSetting
    for an empty one.
    """
    found: dict[Path, bool] = {}
    for name in names:
        if not name:
            raise BadSetting("--ref is empty; name a file, a folder or a pattern")
        path = Path(name)
        if path.is_dir():
            files = find_images(path) if recursive else images_in(path)
        elif path.exists() or path.is_symlink():
            found[path] = True
            continue
        else:
            files = match_files(name, is_image)
        if not files:
            hint = "; --recursive looks into the folders in it too" if path.is_dir() else ""
            raise BadData(f"the reference {name} {f'is a folder without images{hint}' if hint else 'is not there'}")
        for file in files:
            found.setdefault(file, False)
    return found


def open_reference_file(path: Path, *, allow_large: bool = False) -> Reference | Failed:
    """The reference in `path`, or why it cannot be used, as when it is very large and not `allow_large`."""
    try:
        reference = open_reference(str(path), lambda: read_rgb8(path, allow_large=allow_large))
    except RefsrError as error:
        return Failed(str(path), str(error))
    if min(reference.size) < SMALLEST_SIDE:
        return Failed(str(path), f"{path} is smaller than {SMALLEST_SIDE} pixels: there is nothing to take from it")
    return reference
