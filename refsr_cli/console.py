"""Shows a stream of records: lines and progress bars for people, one JSON object a line for programs.

Records are told apart by their field `kind` and shown by the names of their fields, so that no task is imported.
"""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

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
        self._began: dict[str, float] = {}

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
            self._err.print(f"[red]error:[/red] {escape(named + message)}".replace("\n", "\\n"))

    def download(self, done: int, total: int | None) -> None:
        """Progress of a download in bytes."""
        if self.as_json:
            if self._is_time():
                _print_json({"kind": "download", "done": done, "total": total})
        else:
            self._advance("downloading weights", done, total, DownloadColumn())

    def _show(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        failed = kind == "error" or (kind == "ref_skipped" and record["named"])
        if failed:
            self.exit_code = 1
        if self.as_json:
            if kind != "progress" or self._is_time():
                _print_json(record)
        elif failed:
            self.error(record["message"], record["path"])
        elif not self.quiet:
            _SHOWN[kind](self, record)

    def line(self, text: str) -> None:
        """One line for people, whatever is in a file's name; `text` may hold rich's markup."""
        self._close_bar()
        self._out.print(text.replace("\n", "\\n"))

    def progress(self, record: dict[str, Any]) -> None:
        self._advance(record["source"], record["done"], record["total"])

    def _advance(self, name: str, done: int, total: int | None, *columns: Any) -> None:
        """Moves the bar called `name`; without a terminal, says a line now and then."""
        if self.quiet:
            return
        if not self._err.is_terminal:
            begin = self._began.setdefault(name, time.monotonic())
            if total and 0 < done < total and self._is_time(_QUIET_SECONDS):
                remaining = (time.monotonic() - begin) * (total - done) / done
                self._err.print(f"{escape(name)}: {done / total:.0%}, about {_duration(remaining)} to go")
            return
        if self._bar is None:
            text = TextColumn("{task.description}")
            self._bar = Progress(text, BarColumn(), *columns, TimeRemainingColumn(), console=self._err, transient=True)
            self._bar.start()
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(escape(name), total=total)
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


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps({key: _plain(value) for key, value in record.items()}), flush=True)


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become null, paths become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _duration(seconds: float) -> str:
    """`3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _using(display: Display, record: dict[str, Any]) -> None:
    plus = ", self-ensemble" if record["self_ensemble"] else ""
    display.line(
        f"[dim]{escape(record['model'])} x{record['scale']} on {record['device']}, {record['precision']}{plus}[/dim]"
    )
    if record["note"]:
        display.line(f"[yellow]{escape(record['note'])}[/yellow]")


def _upscaled(display: Display, record: dict[str, Any]) -> None:
    display.line(
        f"{escape(record['source'])} → [bold]{escape(record['target'])}[/bold] "
        f"{record['width']}x{record['height']} in {_duration(record['seconds'])}"
    )
    if record["refs"]:
        left = record["references"] - len(record["refs"])
        others = f"; of {record['references']} references these are the likest" if left else ""
        display.line(f"  {_uses(record['refs'])}{others}")


def _uses(refs: list[dict[str, Any]]) -> str:
    """What the references did, in one line."""
    told = []
    names = [Path(ref["path"]).name for ref in refs]
    for ref in sorted(refs, key=lambda ref: -ref["share"]):
        name = Path(ref["path"]).name
        name = escape(name if names.count(name) == 1 else ref["path"])
        measures = [f" (mean {word} {ref[word]:.2f})" for word in ("trust", "likeness") if ref[word] is not None]
        used = f"used on {ref['share']:.0%} of the picture{''.join(measures)}"
        told.append(f"{name} {used if ref['share'] >= 0.005 else 'not used'}")
    rest = 1 - sum(ref["share"] for ref in refs)
    return f"{', '.join(told)}; {rest:.0%} without reference"


def _ref_skipped(display: Display, record: dict[str, Any]) -> None:
    display.line(f"[yellow]reference left out: {escape(record['message'])}[/yellow]")


def _total(display: Display, record: dict[str, Any]) -> None:
    rest = [f"{record[name]} {name}" for name in ("skipped", "failed") if record[name]]
    display.line(f"{', '.join([str(record['upscaled']) + ' done', *rest])} in {_duration(record['seconds'])}")


def _skipped(display: Display, record: dict[str, Any]) -> None:
    display.line(f"[dim]{escape(record['source'])}: {escape(record['target'])} is there already[/dim]")


def _opened(display: Display, record: dict[str, Any]) -> None:
    display.line(
        f"{escape(record['dataset'])} x{record['scale']}, protocol {record['protocol']} ({record['description']}), "
        f"low resolution {escape(record['lr'])}"
    )
    if record["note"]:
        display.line(f"[yellow]{escape(record['note'])}[/yellow]")
    columns = f"{'image':<28}{'PSNR':>8}{'SSIM':>9}{'bicubic':>10}{'SSIM':>9}{'seconds':>9}"
    display.line(
        f"[bold]{columns}{'without refs':>14}{'used on':>9}[/bold]" if record["refs"] else f"[bold]{columns}[/bold]"
    )


def _scores(name: str, record: dict[str, Any]) -> str:
    return (
        f"{escape(name[:27]):<28}{record['psnr']:8.2f}{record['ssim']:9.4f}"
        f"{record['bicubic_psnr']:10.2f}{record['bicubic_ssim']:9.4f}{record['seconds']:9.2f}"
        + ("" if record["alone_psnr"] is None else f"{record['alone_psnr']:14.2f}{record['ref_share']:9.0%}")
    )


def _measured(display: Display, record: dict[str, Any]) -> None:
    display.line(_scores(record["image"], record))


def _summary(display: Display, record: dict[str, Any]) -> None:
    display.line(f"[bold]{_scores('mean of ' + str(record['count']), record)}[/bold]")
    if record["refs"]:
        display.line(
            f"references ({record['refs']}) for {record['with_refs']} of them: {record['gain']:+.2f} dB, "
            f"at worst {record['worst_gain']:+.2f} dB"
        )
    for name, why in (
        ("failed", "could not be read"),
        ("undefined", "have no PSNR or SSIM and are left out of its mean"),
    ):
        if record[name]:
            display.line(f"[yellow]{record[name]} images {why}[/yellow]")


def _stressing(display: Display, record: dict[str, Any]) -> None:
    display.line(
        f"{escape(record['dataset'])} x{record['scale']}, protocol {record['protocol']} ({record['description']}): "
        f"{record['tries']} kinds of references for {record['images']} images"
    )
    display.line(f"[bold]{'references':<14}{'images':>7}{'PSNR':>9}{'gained':>9}{'at worst':>10}{'used on':>9}[/bold]")


def _stressed(display: Display, record: dict[str, Any]) -> None:
    display.line(
        f"{record['refs']:<14}{record['count']:7d}{record['psnr']:9.2f}{record['gain']:+9.2f}"
        f"{record['worst_gain']:+10.2f}{record['ref_share']:9.0%}"
    )


def _plotted(display: Display, record: dict[str, Any]) -> None:
    display.line(f"plot: [bold]{escape(str(record['path']))}[/bold]")


def _comparing(display: Display, record: dict[str, Any]) -> None:
    display.line(
        f"{escape(record['processor'])}, {record['threads']} threads, torch {record['torch']}; convolutions at best "
        f"{record['peak_fp32'] / 1e9:,.0f} GFLOP/s in fp32, {record['peak_bf16'] / 1e9:,.0f} in bf16; "
        f"medians of {record['rounds']} runs by turns"
    )
    columns = f"{'':<42}{'ms':>10}{'± %':>6}{'MP/s':>9}{'x plain':>9}{'of peak':>9}{'MiB':>8}{'PSNR':>8}"
    display.line(f"[bold]{columns}[/bold]")


def _timing(display: Display, record: dict[str, Any]) -> None:
    def shown(name: str, form: str, width: int) -> str:
        return f"{'-' if record[name] is None else format(record[name], form):>{width}}"

    name = f"{record['model']} {record['width']}x{record['height']} {record['variant']}"
    display.line(
        f"{escape(name[:41]):<42}{record['milliseconds']:10.1f}{100 * record['spread']:6.0f}"
        f"{record['megapixels_per_second']:9.2f}{shown('ratio_to_plain', '.2f', 9)}{shown('peak_share', '.0%', 9)}"
        f"{shown('peak_mib', '.0f', 8)}{shown('psnr', '.2f', 8)}"
    )


def _not_run(display: Display, record: dict[str, Any]) -> None:
    display.line(f"[yellow]{escape(record['model'])}: {escape(record['message'])}[/yellow]")


def _growth(display: Display, record: dict[str, Any]) -> None:
    several = ", ".join(
        f"{amount:g}: {seconds:.2f} s" for amount, seconds in zip(record["amounts"], record["seconds"], strict=True)
    )
    display.line(f"{record['model']}, {record['against']}: {several}; grows with power {record['exponent']:.2f}")


def _reported(display: Display, record: dict[str, Any]) -> None:
    display.line(f"report: [bold]{escape(str(record['path']))}[/bold]")


def _started(display: Display, record: dict[str, Any]) -> None:
    if record["trial"]:
        display.line(
            "[yellow]no --data was given and DIV2K is not under the data root: training on the few packaged photos, "
            "which is only a trial of the command[/yellow]"
        )
    skipped = f" ({record['skipped']} files left out: too small or not readable)" if record["skipped"] else ""
    pairs = f" and {record['pairs']} pictures with references" if record["pairs"] else ""
    display.line(
        f"training {record['model']} x{record['scale']}, {record['parameters']:,} parameters, on {record['photos']} "
        f"photos{pairs}{skipped}, {record['device']}; everything goes to {escape(str(record['out']))}"
    )
    if record["note"]:
        display.line(f"[yellow]{escape(record['note'])}[/yellow]")


def _fetching(display: Display, record: dict[str, Any]) -> None:
    done, count = record["done"], record["count"]
    if done in (0, count) or done % 50 == 0:
        display.line(
            f"{record['dataset']}: {done} of {count} files of {record['source']} ({record['terms']}) "
            f"are in {escape(str(record['folder']))}"
        )


def _preparing(display: Display, record: dict[str, Any]) -> None:
    skipped = f", {record['skipped']:,} of them left out" if record["skipped"] else ""
    display.line(
        f"{record['done']:,} of {record['count']:,} windows matched with their references{skipped}, "
        f"about {_duration(record['remaining_seconds'])} to go"
    )
    if record["done"] == record["count"]:
        for problem in record["problems"]:
            display.line(f"[yellow]left out: {escape(problem)}[/yellow]")


def _pace(display: Display, record: dict[str, Any]) -> None:
    display.line(
        f"{record['steps_per_second']:.2f} steps/s: about {_duration(record['remaining_seconds'])} "
        f"for {record['steps']:,} steps on this machine"
    )


def _step(display: Display, record: dict[str, Any]) -> None:
    several = ", ".join(f"{name} {value:.3g}" for name, value in record["terms"].items())
    terms = f" ({several})" if len(record["terms"]) > 1 else ""
    skipped = f"{record['skipped']} batches left out  " if record["skipped"] else ""
    display.line(
        f"step {record['step']:>7,}/{record['steps']:,}  loss {record['loss']:.5f}{terms}  {skipped}"
        f"learning rate {record['learning_rate']:.2e}  {record['steps_per_second']:.2f} steps/s  "
        f"{_duration(record['remaining_seconds'])} to go"
    )


def _validation(display: Display, record: dict[str, Any]) -> None:
    best = "  best so far" if record["best"] else ""
    display.line(
        f"[bold]step {record['step']:>7,}  {escape(record['dataset'])} x{record['scale']} ({record['protocol']}): "
        f"{record['psnr']:.3f} dB, SSIM {record['ssim']:.4f}{best}[/bold]"
    )


def _finished(display: Display, record: dict[str, Any]) -> None:
    display.line(
        f"{record['step']:,} steps in {_duration(record['seconds'])}; "
        f"weights: [bold]{escape(str(record['weights']))}[/bold]"
        + (f", best: {escape(str(record['best']))}" if record["best"] else "")
    )
    if record["unusable"]:
        display.line(f"[yellow]{record['unusable']:,} times a photo could not be read or was too small[/yellow]")


def _model(display: Display, record: dict[str, Any]) -> None:
    sizes = (
        ", ".join(f"x{scale} {count:,}" for scale, count in record["parameters"].items() if count) or "no parameters"
    )
    where = [f"{place} x{', x'.join(map(str, record[place]))}" for place in ("packaged", "published") if record[place]]
    display.line(f"[bold]{escape(record['name']):<16}[/bold] {sizes}  [dim]{'; '.join(where)}[/dim]")


def _video(display: Display, record: dict[str, Any]) -> None:
    kept = f", {record['kept']} of them before" if record["kept"] else ""
    display.line(
        f"[bold]{escape(record['target'])}[/bold]  {record['width']}x{record['height']}, {record['frames']} frames"
        f"{kept}, {_duration(record['seconds'])}"
    )


def _cutting(display: Display, record: dict[str, Any]) -> None:
    skipped = f" ({record['skipped']} cannot be read)" if record["skipped"] else ""
    display.line(
        f"{record['done']:,} of {record['count']:,} photos{skipped} cut into {record['kept']:,} squares, "
        + (f"about {_duration(record['remaining_seconds'])} to go" if record["done"] < record["count"] else "")
        + (f"in {escape(str(record['path']))}" if record["done"] == record["count"] else "")
    )


def _inspected(display: Display, record: dict[str, Any]) -> None:
    scales = ", ".join(f"x{scale}" for scale in record["scales"])
    display.line(f"{escape(str(record['path']))}: {record['model']} {scales}, {record['parameters']:,} parameters")
    layout = "written by refsr" if record["layout"] == "refsr" else f"read as {record['layout']}"
    licence = f", {record['licence']}" if record["licence"] else ""
    display.line(f"{layout}, {record['bytes']:,} bytes, sha256 {record['sha256']}{licence}")
    for name, value in {**record["config"], **record["metadata"]}.items():
        display.line(f"  {escape(str(name))}: {escape(str(value))}")


def _converted(display: Display, record: dict[str, Any]) -> None:
    named = escape(str(record["path"]))
    display.line(f"{named}: {record['model']} x{record['scale']}, {record['bytes']:,} bytes, from {record['layout']}")


def _layers(display: Display, record: dict[str, Any]) -> None:
    for line in record["text"].splitlines():
        display.line(escape(line))


def _slicing(display: Display, record: dict[str, Any]) -> None:
    display.line(f"reading {escape(record['source'])}")


def _sliced(display: Display, record: dict[str, Any]) -> None:
    display.line(f"{escape(str(record['path']))}: {record['bytes']:,} bytes, for --weights beside the files of a net")


_SHOWN: dict[str, Callable[[Display, dict[str, Any]], None]] = {
    "progress": Display.progress,
    "using": _using,
    "upscaled": _upscaled,
    "skipped": _skipped,
    "ref_skipped": _ref_skipped,
    "total": _total,
    "opened": _opened,
    "measured": _measured,
    "summary": _summary,
    "stressing": _stressing,
    "stressed": _stressed,
    "plotted": _plotted,
    "comparing": _comparing,
    "timing": _timing,
    "not_run": _not_run,
    "growth": _growth,
    "reported": _reported,
    "started": _started,
    "preparing": _preparing,
    "fetching": _fetching,
    "pace": _pace,
    "step": _step,
    "validation": _validation,
    "finished": _finished,
    "model": _model,
    "inspected": _inspected,
    "converted": _converted,
    "layers": _layers,
    "slicing": _slicing,
    "sliced": _sliced,
    "cutting": _cutting,
    "video": _video,
}
