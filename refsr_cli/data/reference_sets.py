"""Test sets with references, in the layout of CUFED5: `NAME_0.png` is the picture, `NAME_1.png` and so on show the same
scene, the likest first."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from refsr_cli.data.altered import ALTERATIONS
from refsr_cli.data.folders import is_image
from refsr_cli.data.references import open_reference_file
from refsr_cli.errors import BadSetting, Failed
from refsr_cli.images import read_rgb8
from refsr_cli.layers.resample import scaled_bytes
from refsr_cli.reference.bank import RefBank, Reference, open_reference

_TARGET = re.compile(r"(.+)_0")

CHANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "truth": lambda hr: hr,
    "turned": lambda hr: hr.rot90(1, (1, 2)).contiguous(),
    "scaled": lambda hr: scaled_bytes(hr, 0.8),
    "noise": lambda hr: torch.randint(256, hr.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
}
"""References made from the truth (3, H, W) uint8 itself, or in its size, to see what a net makes of them."""

_CHOICES = (
    f"all, none, a number, L1 (only the first) and so on, unrelated, {', '.join(CHANGED)}, or the first changed: "
    + ", ".join(f"{name}:{its.tried[0]:g} ({its.least:g} to {its.most:g})" for name, its in ALTERATIONS.items())
)

STRESS = (
    *(f"L{number}" for number in range(1, 6)),
    "unrelated",
    "noise",
    *(f"{name}:{amount:g}" for name, its in ALTERATIONS.items() for amount in its.tried),
)
"""Choices at which nets are compared, mild and severe."""


def targets_among(paths: Sequence[Path]) -> list[Path]:
    """Of the files of a set in CUFED5's layout those to be enlarged; empty for another layout."""
    found = [path for path in paths if _TARGET.fullmatch(path.stem)]
    return found if any(references_of(path) for path in found) else []


def references_of(target: Path) -> list[Path]:
    """The references that lie beside `NAME_0.png`, in order of their number."""
    match = _TARGET.fullmatch(target.stem)
    if not match:
        return []
    pattern = re.compile(re.escape(match[1]) + r"_([1-9]\d*)")
    numbered = {int(m[1]): path for path in target.parent.iterdir() if (m := pattern.fullmatch(path.stem))}
    return [numbered[number] for number in sorted(numbered) if is_image(numbered[number])]


def check_choice(choice: str) -> None:
    """Raises BadSetting for a choice that `choose_references` does not know."""
    known = choice in ("all", "none", "unrelated", *CHANGED) or re.fullmatch(r"L?[1-9]\d*", choice)
    if not known and _alteration(choice) is None:
        raise BadSetting(f"--refs is {_CHOICES}, not {choice}")


def _alteration(choice: str) -> Callable[[Tensor], Tensor] | None:
    """What `NAME:AMOUNT` does to a photo; None where it is not that."""
    name, colon, text = choice.partition(":")
    its = ALTERATIONS.get(name)
    if its is None or not colon:
        return None
    try:
        amount = float(text)
    except ValueError:
        return None
    return (lambda photo: its.change(photo, amount)) if its.least <= amount <= its.most else None


def require_references(choice: str, paths: Sequence[Path]) -> bool:
    """Whether the set `paths` has references to be used. Raises BadSetting for a choice that none of its pictures
    has."""
    targets = targets_among(paths)
    if choice == "none" or (choice == "all" and not targets):
        return False
    if not targets:
        raise BadSetting(f"--refs {choice} needs a set with references, NAME_0.png and NAME_1.png and so on")
    if choice == "unrelated" and len(paths) < 2:
        raise BadSetting("--refs unrelated needs a set of at least two pictures")
    if not is_there(choice, paths):
        raise BadSetting(f"--refs {choice}: no picture of the set has that reference")
    return True


def is_there(choice: str, paths: Sequence[Path]) -> bool:
    """Whether some picture of the set has such a reference."""
    return choice in CHANGED or any(_chosen_files(choice, paths, path) for path in paths)


def _chosen_files(choice: str, paths: Sequence[Path], target: Path) -> list[Path]:
    """ "unrelated" are those of the picture half the set further, as sets list a scene in a row; L1 is the first that
    is there."""
    if choice == "none" or (choice == "unrelated" and len(paths) < 2):
        return []
    if choice == "unrelated":
        target = paths[(list(paths).index(target) + len(paths) // 2) % len(paths)]
    files = references_of(target)
    if ":" in choice:
        return files[:1]
    if choice.startswith("L"):
        return files[int(choice[1:]) - 1 : int(choice[1:])]
    return files[: int(choice)] if choice.isdigit() else files


def choose_references(choice: str, paths: Sequence[Path], target: Path) -> tuple[RefBank, list[Failed]]:
    """The references of `target`, one of `paths`, the whole set, that `choice` stands for, and those that cannot be
    read."""
    if choice in CHANGED:
        return RefBank([open_reference(choice, lambda: CHANGED[choice](read_rgb8(target)))]), []
    opened = [open_reference_file(path) for path in _chosen_files(choice, paths, target)]
    change = _alteration(choice)
    if change:
        opened = [its if isinstance(its, Failed) else _altered(its, change) for its in opened]
    failed = [item for item in opened if isinstance(item, Failed)]
    return RefBank([item for item in opened if not isinstance(item, Failed)]), failed


def _altered(reference: Reference, change: Callable[[Tensor], Tensor]) -> Reference:
    return open_reference(reference.name, lambda: change(reference.load()))
