"""Photos to one LMDB file of squares, for training."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from refsr_cli.config import PrepareConfig
from refsr_cli.data.folders import find_photos
from refsr_cli.data.lmdb import write_lmdb
from refsr_cli.errors import BadSetting


@dataclass(frozen=True)
class Cutting:
    """Progress, now and then; the last record has `done` equal to `count`."""

    path: Path
    done: int
    count: int
    kept: int
    """Squares."""
    skipped: int
    """Photos that cannot be read."""
    remaining_seconds: float
    kind: str = "cutting"


def prepare(config: PrepareConfig) -> Iterator[Cutting]:
    """Writes `config.output`. Raises BadSetting where it is there already, BadData, and BadFile."""
    if config.output.exists() and not config.overwrite:
        raise BadSetting(f"{config.output} is there already; --overwrite replaces it")
    paths = find_photos(config.data, config.span)
    begin = told = time.monotonic()
    for done, kept, skipped in write_lmdb(config.output, paths, config.side, config.step):
        now = time.monotonic()
        if done < len(paths) and now - told < 5:
            continue
        told = now
        yield Cutting(config.output, done, len(paths), kept, skipped, (now - begin) / done * (len(paths) - done))
