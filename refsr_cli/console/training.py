"""What `refsr train` and `refsr prepare` tell."""

from collections.abc import Iterator

from rich.markup import escape

from refsr_cli.console.words import Record, Words, duration, warning


def _reading(record: Record) -> Iterator[str]:
    yield f"reading {record['photos']:,} photos"


def _started(record: Record) -> Iterator[str]:
    if record["trial"]:
        yield warning(
            "no --data was given and DIV2K is not under the data root: training on the few packaged photos, "
            "which is only a trial of the command"
        )
    skipped = f" ({record['skipped']} files left out: too small or not readable)" if record["skipped"] else ""
    pairs = f" and {record['pairs']} pictures with references" if record["pairs"] else ""
    yield (
        f"training {record['model']} x{record['scale']}, {record['parameters']:,} parameters, on {record['photos']} "
        f"photos{pairs}{skipped}, {record['device']}; everything goes to {escape(str(record['out']))}"
    )
    if record["note"]:
        yield warning(record["note"])


def _preparing(record: Record) -> Iterator[str]:
    skipped = f", {record['skipped']:,} of them left out" if record["skipped"] else ""
    yield (
        f"{record['done']:,} of {record['count']:,} windows matched with their references{skipped}, "
        f"about {duration(record['remaining_seconds'])} to go"
    )
    if record["done"] == record["count"]:
        for problem in record["problems"]:
            yield warning(f"left out: {problem}")


def _speed(steps_per_second: float) -> str:
    """Steps a second, or seconds a step where that is more than one."""
    return f"{steps_per_second:.2f} steps/s" if steps_per_second >= 1 else f"{duration(1 / steps_per_second)} a step"


def _pace(record: Record) -> Iterator[str]:
    yield (
        f"{_speed(record['steps_per_second'])}: about {duration(record['remaining_seconds'])} "
        f"for {record['steps']:,} steps on this machine"
    )
    if record["note"]:
        yield warning(record["note"])


def _step(record: Record) -> Iterator[str]:
    several = ", ".join(f"{name} {value:.3g}" for name, value in record["terms"].items())
    terms = f" ({several})" if len(record["terms"]) > 1 else ""
    skipped = f"{record['skipped']} batches left out  " if record["skipped"] else ""
    yield (
        f"step {record['step']:>7,}/{record['steps']:,}  loss {record['loss']:.5f}{terms}  {skipped}"
        f"learning rate {record['learning_rate']:.2e}  {_speed(record['steps_per_second'])}  "
        f"{duration(record['remaining_seconds'])} to go"
    )


def _validation(record: Record) -> Iterator[str]:
    best = "  best so far" if record["best"] else ""
    loss = "" if record["loss"] is None else f", loss {record['loss']:.5f}"
    yield (
        f"[bold]step {record['step']:>7,}  {escape(record['dataset'])} x{record['scale']} ({record['protocol']}): "
        f"{record['psnr']:.3f} dB, SSIM {record['ssim']:.4f}{loss}{best}[/bold]"
    )


def _finished(record: Record) -> Iterator[str]:
    yield (
        f"{record['step']:,} steps in {duration(record['seconds'])}; "
        f"weights: [bold]{escape(str(record['weights']))}[/bold]"
        + (f", best: {escape(str(record['best']))}" if record["best"] else "")
    )
    if record["unusable"]:
        yield warning(f"{record['unusable']:,} times a photo could not be read or was too small")


def _cutting(record: Record) -> Iterator[str]:
    skipped = f" ({record['skipped']} cannot be read)" if record["skipped"] else ""
    yield (
        f"{record['done']:,} of {record['count']:,} photos{skipped} cut into {record['kept']:,} squares, "
        + (f"about {duration(record['remaining_seconds'])} to go" if record["done"] < record["count"] else "")
        + (f"in {escape(str(record['path']))}" if record["done"] == record["count"] else "")
    )


TOLD: Words = {
    "reading": _reading,
    "started": _started,
    "preparing": _preparing,
    "pace": _pace,
    "step": _step,
    "validation": _validation,
    "finished": _finished,
    "cutting": _cutting,
}
