"""One check after the other, within the time there is; what was found is on disk after each."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from refsr_cli import __version__
from refsr_cli.checks.nets import batches, compiling, nets, out_of_memory, references, tiles
from refsr_cli.checks.results import Effort, Row, Seen
from refsr_cli.checks.speed import clip, race, training
from refsr_cli.errors import UnknownName
from refsr_cli.files import make_folder, write_atomically
from refsr_cli.inference.device import pick_device

Check = Callable[[torch.device, Effort], Iterator[Seen]]
CHECKS: dict[str, Check] = {
    "nets": nets,
    "race": race,
    "references": references,
    "tiles": tiles,
    "batches": batches,
    "out of memory": out_of_memory,
    "video": clip,
    "training": training,
    "compiling": compiling,
}
"""Name and what is done, in this order: what decides most comes first."""


def check_device(device: str, folder: Path, effort: Effort, names: Sequence[str] = tuple(CHECKS)) -> Iterator[Row]:
    """Runs the checks `names`, and writes `check.json` and `check.md` to `folder` after each. One that fails does not
    end the others; one for which no time is left is named. Raises UnknownName, BadSetting, and BadFile where `folder`
    cannot be written."""
    if unknown := [name for name in names if name not in CHECKS]:
        raise UnknownName("check", unknown[0], CHECKS)
    chosen = pick_device(device)
    make_folder(folder)
    begin, rows = time.monotonic(), list[Row]()
    for name in names:
        began = time.monotonic()
        if began - begin > effort.seconds:
            rows.append(Row(name, "left out, as no time is left", "", None, 0.0))
            _write(folder, chosen, rows)
            yield rows[-1]
            continue
        try:
            for seen in CHECKS[name](chosen, effort):
                rows.append(Row(name, seen.what, seen.figure, seen.passed, time.monotonic() - began))
                yield rows[-1]
                began = time.monotonic()
        except Exception as error:  # whatever it is: the next check may still say something
            message = f"{type(error).__name__}: {error}".splitlines()[0]
            rows.append(Row(name, "failed", message, False, time.monotonic() - began))
            yield rows[-1]
        _write(folder, chosen, rows)


@dataclass(frozen=True)
class _Machine:
    device: str
    torch: str
    refsr: str


def _write(folder: Path, device: torch.device, rows: Sequence[Row]) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    machine = _Machine(name, torch.__version__, __version__)
    record = {**asdict(machine), "rows": [asdict(row) for row in rows]}
    write_atomically(folder / "check.json", json.dumps(record, indent=1).encode())
    lines = [f"{machine.device}, torch {machine.torch}, refsr {machine.refsr}", ""]
    lines += ["| check | what | figure | | seconds |", "|---|---|---|---|---|", *(row.line for row in rows)]
    write_atomically(folder / "check.md", "\n".join([*lines, ""]).encode())
