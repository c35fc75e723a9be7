"""Folders of images."""

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from refsr_cli.errors import BadData
from refsr_cli.images import FORMATS


def is_image(path: Path) -> bool:
    """Whether `path` is a file whose name ends like that of an image refsr reads, and is not hidden."""
    return path.suffix.lower() in FORMATS and not path.name.startswith(".") and path.is_file()


def match_files(pattern: str, wanted: Callable[[Path], bool]) -> list[Path]:
    """The `wanted` files that a pattern such as `a/*.png` stands for, in order of path; `**` is any folders."""
    found = sorted(Path(match) for match in glob.glob(pattern, recursive=True))  # noqa: PTH207 (may be absolute)
    return [path for path in found if wanted(path)]


def is_result(path: Path, source: Path) -> bool:
    """Whether `path` is named as refsr names what it makes of `source`: `a_x4`, `a_1920x1080`."""
    return re.fullmatch(rf"{re.escape(source.stem)}_(x?\d+|\d+x\d+)", path.stem) is not None


def without_results(paths: Sequence[Path]) -> list[Path]:
    """Those that are not named like results of others among them in the same folder: `a_x4.png` beside `a.png`. Names
    with a mere number, as `--long-side` gives them, are too common to be judged by."""
    stems = {(path.parent, path.stem) for path in paths}
    plain = {path: re.sub(r"_(x\d+|\d+x\d+)$", "", path.stem) for path in paths}
    return [path for path in paths if plain[path] == path.stem or (path.parent, plain[path]) not in stems]


def images_in(folder: Path) -> list[Path]:
    """The images that lie in `folder` itself, in order of path; there may be none. Raises BadData."""
    try:
        return sorted(path for path in folder.iterdir() if is_image(path))
    except OSError as error:
        raise BadData(f"{folder} cannot be read: {error.strerror}") from None


def find_images(folder: Path) -> list[Path]:
    """Every image below `folder`, in order of path. Raises BadData when there is none."""
    if not folder.is_dir():
        raise BadData(f"{folder} is not a folder")
    try:
        found = sorted(path for path in folder.rglob("*") if is_image(path))
    except OSError as error:
        raise BadData(f"{folder} cannot be read: {error.strerror}") from None
    if not found:
        raise BadData(f"{folder} holds no image ({', '.join(FORMATS)})")
    return found


def find_photos(folder: Path, span: tuple[int, int] | None = None) -> list[Path]:
    """The photos below `folder` to learn from: in DIV2K's published layout not those to validate on, nor the
    low-resolution ones; within `span`, as `numbered` has it. Raises BadData."""
    train = folder / "DIV2K_train_HR"
    paths = find_images(train if train.is_dir() else folder)
    return numbered(paths, span) if span else paths


def numbered(paths: Sequence[Path], span: tuple[int, int]) -> list[Path]:
    """Those whose names begin with a number within `span`, both ends with it: `0801.png`, `0801x4.png`. Raises BadData
    where there is none."""
    numbers = {path: re.match(r"\d+", path.name) for path in paths}
    first, last = span
    chosen = [path for path, number in numbers.items() if number and first <= int(number[0]) <= last]
    if not chosen:
        raise BadData(f"no file beside {paths[0]} has a number from {first} to {last}")
    return chosen
