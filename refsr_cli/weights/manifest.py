"""The weights that refsr knows by name, as listed in `weights/manifest.toml`."""

import re
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from refsr_cli.errors import BadWeights
from refsr_cli.models import MODELS
from refsr_cli.packaged import packaged

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, kw_only=True)
class WeightRecord:
    """One row of the manifest: a file beside it, or one on the hub where `repo` says so."""

    id: str
    model: str
    scale: int
    file: str
    """Name in the folder of the manifest, or in the hub repository."""
    license: str
    sha256: str | None = None
    bytes: int | None = None
    repo: str | None = None
    """`owner/name` on the hub; None for a packaged file."""
    revision: str | None = None
    """The commit to take from the hub."""
    flavour: str | None = None
    """How a published file is to be read; None for our own."""
    res_scale: float | None = None
    card: str | None = None
    """The file, beside the manifest, that tells where the weights come from and how well they do."""


def read_manifest(folder: Path | None = None) -> tuple[WeightRecord, ...]:
    """The rows of `folder/manifest.toml` (refsr's own when None), in order; of several that fit, the first is the best.

    A packaged row must hold a sha256. A row of the hub must be pinned: to a commit, or to another revision and a
    sha256. Raises BadWeights where the file or a row is not as it should be.
    """
    path = (folder or packaged("weights")) / "manifest.toml"
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("weights", [])
    except (OSError, ValueError) as error:
        raise BadWeights(f"cannot read the list of weights {path} ({error}); install refsr again") from None
    records = tuple(_record(path, row) for row in rows)
    ids = [record.id for record in records]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise BadWeights(f"{path} lists {', '.join(twice)} more than once")
    return records


def _record(path: Path, row: dict[str, Any]) -> WeightRecord:
    name = row.get("id", "without an id")
    known = {field.name for field in fields(WeightRecord)}
    required = {field.name for field in fields(WeightRecord) if field.default is MISSING}
    for problem, keys in (("lacks", required - set(row)), ("has the unknown", set(row) - known)):
        if keys:
            raise BadWeights(f"{path}: row {name} {problem} {', '.join(sorted(keys))}")
    record = WeightRecord(**row)
    fault = _fault(record)
    if fault:
        raise BadWeights(f"{path}: row {name} {fault}")
    return record


def _fault(record: WeightRecord) -> str | None:
    """What is wrong with a row, if anything is."""
    if record.model not in MODELS:
        return f"names the unknown model '{record.model}'"
    if record.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", record.sha256):
        return "has a sha256 that is not 64 hexadecimal digits"
    if record.repo is None and record.sha256 is None:
        return "is packaged but has no sha256"
    if record.repo is not None and record.revision is None:
        return "is on the hub but names no revision"
    if record.sha256 is None and not is_commit(record.revision or ""):
        return f"is not pinned: revision '{record.revision}' can change, and there is no sha256"
    return None


def is_commit(revision: str) -> bool:
    """Whether `revision` is a full commit hash, which always means the same files."""
    return bool(re.fullmatch(r"[0-9a-f]{40}", revision))
