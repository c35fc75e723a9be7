"""Shows a stream of records: lines and progress bars for people, one JSON object a line for programs.

Records are told apart by their field `kind` and shown by the names of their fields, so that no task is imported.
"""

import json
import math
import re
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from refsr_cli.console import catalog, scoring, timing, training, upscaling
from refsr_cli.console.words import Record, Words, duration

_TOLD: Words = {**upscaling.TOLD, **scoring.TOLD, **timing.TOLD, **training.TOLD, **catalog.TOLD}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of writing."""
_QUIET_SECONDS = 10.0
"""Where there is no terminal, a line of progress at most this often."""


class Display:
    """Shows records as they come, and knows the exit code they amount to."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.exit_code = 0
        self._out = Console(highlight=False, soft_wrap=True)
        self._err = Console(highlight=False, soft_wrap=True, stderr=True)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._told = time.monotonic()
        self._began: dict[str, tuple[float, int]] = {}

    def show(self, records: Iterable[Any]) -> int:
        """Shows every record; the exit code: 1 when any of them is an error."""
        try:
            for record in records:
                self._show(asdict(record))
        finally:
            self._close_bar()
        return self.exit_code

    def error(self, message: str, path: str | None = None) -> None:
        """Says what went wrong, on the standard error stream, or as a JSON line."""
        self._close_bar()
        if self.as_json:
            _print_json({"kind": "error", "path": path, "message": message})
        else:
            named = "" if path is None or path in message else f"{path}: "
            self._err.print(f"[red]error:[/red] {_visible(escape(named + message))}")

    def download(self, done: int, total: int | None) -> None:
        """Progress of a download in bytes."""
        if self.as_json:
            if self._is_time():
                _print_json({"kind": "download", "done": done, "total": total})
        else:
            self._advance("downloading weights", done, total, DownloadColumn())

    def _show(self, record: Record) -> None:
        kind = record["kind"]
        failed = kind == "error" or (kind == "ref_skipped" and record["named"])
        if failed or record.get("works") is False:
            self.exit_code = 1
        if self.as_json:
            if kind != "progress" or self._is_time():
                _print_json(record)
        elif failed:
            self.error(record["message"], record["path"])
        elif kind == "progress":
            self._advance(record["source"], record["done"], record["total"])
        elif not self.quiet:
            for text in _TOLD[kind](record):
                self._line(text)

    def _line(self, text: str) -> None:
        """One line for people, whatever is in a file's name; `text` may hold rich's markup."""
        self._close_bar()
        self._out.print(_visible(text))

    def _advance(self, name: str, done: int, total: int | None, *columns: Any) -> None:
        """Moves the bar called `name`; without a terminal, says a line now and then."""
        if self.quiet:
            return
        if not self._err.is_terminal:
            if not done:  # what came before says nothing of the pace
                self._began.pop(name, None)
            begin, first = self._began.setdefault(name, (time.monotonic(), done))
            if total and first < done < total and self._is_time(_QUIET_SECONDS):
                remaining = (time.monotonic() - begin) * (total - done) / (done - first)
                self._err.print(f"{_visible(escape(name))}: {done / total:.0%}, about {duration(remaining)} to go")
            return
        if self._bar is None:
            text = TextColumn("{task.description}")
            self._bar = Progress(text, BarColumn(), *columns, TimeRemainingColumn(), console=self._err, transient=True)
            self._bar.start()
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(_visible(escape(name)), total=total)
        self._bar.update(self._tasks[name], completed=done, total=total)

    def _is_time(self, every: float = 1.0) -> bool:
        now = time.monotonic()
        if now - self._told < every:
            return False
        self._told = now
        return True

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._tasks.clear()


def _visible(text: str) -> str:
    """`text` with what would steer a terminal, as a file's name may, shown as Python writes it."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _print_json(record: Record) -> None:
    print(json.dumps({key: _plain(value) for key, value in record.items()}), flush=True)


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become null, paths become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
