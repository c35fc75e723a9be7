"""What `refsr upscale` tells."""

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape

from refsr_cli.console.words import Record, Words, duration, warning

_LIMITING = 88
"""JPEG quality below which references give little more than half of what they give to a clean picture."""


def _using(record: Record) -> Iterator[str]:
    plus = ", self-ensemble" if record["self_ensemble"] else ""
    yield (
        f"[dim]{escape(record['model'])} x{record['scale']} on {record['device']}, {record['precision']}{plus}[/dim]"
    )
    if record["note"]:
        yield warning(record["note"])


def _upscaled(record: Record) -> Iterator[str]:
    yield (
        f"{escape(record['source'])} → [bold]{escape(record['target'])}[/bold] "
        f"{record['width']}x{record['height']} in {duration(record['seconds'])}"
    )
    if record["restoration"]:
        yield f"  {_restoration(record['restoration'])}"
    if record["refs"]:
        left = record["references"] - len(record["refs"])
        others = f"; of {record['references']} references these are the likest" if left else ""
        yield f"  {_uses(record['refs'])}{others}"
        quality = record["restoration"] and record["restoration"]["jpeg_quality"]
        if quality and quality < _LIMITING:
            yield f"  JPEG of quality {quality} limits what references can give; a less compressed file gives more"


def _restoration(record: Record) -> str:
    """What the picture was, and how strongly it was restored, in one line."""
    found = []
    if record["jpeg_quality"]:
        found.append(f"{'' if record['from_file'] else 'was a '}JPEG, about quality {record['jpeg_quality']}")
    if record["note"]:
        found.append(record["note"])
    if record["noise"] >= 1:
        found.append(f"noise of about {record['noise']:.1f} of 255")
    if record["soft"]:
        found.append(f"soft as if blurred by {record['blur']:.1f} pixels")
    strength = f"restoration {record['strength']:.2g}" if record["strength"] else "not restored"
    return f"{' and '.join(found) or 'no sign of JPEG, noise or blur'}: {strength}"


def _uses(refs: list[Record]) -> str:
    """What the references did, in one line."""
    told = []
    names = [Path(ref["path"]).name for ref in refs]
    for ref in sorted(refs, key=lambda ref: -ref["share"]):
        name = Path(ref["path"]).name
        name = escape(name if names.count(name) == 1 else ref["path"])
        measures = [f" (mean {word} {ref[word]:.2f})" for word in ("trust", "likeness") if ref[word] is not None]
        used = f"used on {ref['share']:.0%} of the picture{''.join(measures)}"
        told.append(f"{name} {used if ref['share'] >= 0.005 else 'not used'}")
    rest = max(0.0, 1 - sum(ref["share"] for ref in refs))  # rounding can take it below
    return f"{', '.join(told)}; {rest:.0%} without reference"


def _ref_skipped(record: Record) -> Iterator[str]:
    yield warning(f"reference left out: {record['message']}")


def _total(record: Record) -> Iterator[str]:
    rest = [f"{record[name]} {name}" for name in ("skipped", "failed") if record[name]]
    yield f"{', '.join([str(record['upscaled']) + ' done', *rest])} in {duration(record['seconds'])}"


def _skipped(record: Record) -> Iterator[str]:
    yield f"[dim]{escape(record['source'])}: {escape(record['target'])} is there already[/dim]"


def _video(record: Record) -> Iterator[str]:
    kept = f", {record['kept']} of them before" if record["kept"] else ""
    yield (
        f"[bold]{escape(record['target'])}[/bold]  {record['width']}x{record['height']}, {record['frames']} frames"
        f"{kept}, {duration(record['seconds'])}"
    )


TOLD: Words = {
    "using": _using,
    "upscaled": _upscaled,
    "ref_skipped": _ref_skipped,
    "total": _total,
    "skipped": _skipped,
    "video": _video,
}
