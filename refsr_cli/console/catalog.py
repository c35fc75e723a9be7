"""What `refsr models`, `refsr weights` and `refsr doctor` print."""

from collections.abc import Iterator

from rich.markup import escape

from refsr_cli.console.words import Record, Words


def _model(record: Record) -> Iterator[str]:
    sizes = (
        ", ".join(f"x{scale} {count:,}" for scale, count in record["parameters"].items() if count) or "no parameters"
    )
    packaged = ", ".join(
        f"x{scale}" if count == record["parameters"][scale] else f"x{scale} (a net of {count:,})"
        for scale, count in record["packaged"].items()
    )
    published = ", ".join(f"x{scale}" for scale in record["published"])
    where = [f"{place} {scales}" for place, scales in (("packaged", packaged), ("published", published)) if scales]
    yield f"[bold]{escape(record['name']):<16}[/bold] {sizes}  [dim]{'; '.join(where)}[/dim]"


def _layers(record: Record) -> Iterator[str]:
    for line in record["text"].splitlines():
        yield escape(line)


def _inspected(record: Record) -> Iterator[str]:
    scales = ", ".join(f"x{scale}" for scale in record["scales"])
    yield f"{escape(str(record['path']))}: {record['model']} {scales}, {record['parameters']:,} parameters"
    layout = "written by refsr" if record["layout"] == "refsr" else f"read as {record['layout']}"
    licence = f", {record['licence']}" if record["licence"] else ""
    yield f"{layout}, {record['bytes']:,} bytes, sha256 {record['sha256']}{licence}"
    for name, value in {**record["config"], **record["metadata"]}.items():
        yield f"  {escape(str(name))}: {escape(str(value))}"


def _converted(record: Record) -> Iterator[str]:
    named = escape(str(record["path"]))
    yield f"{named}: {record['model']} x{record['scale']}, {record['bytes']:,} bytes, from {record['layout']}"


def _slicing(record: Record) -> Iterator[str]:
    yield f"reading {escape(record['source'])}"


def _sliced(record: Record) -> Iterator[str]:
    yield f"{escape(str(record['path']))}: {record['bytes']:,} bytes, for --weights beside the files of a net"


def _finding(record: Record) -> Iterator[str]:
    mark = "" if record["works"] else "[red]does not work:[/red] "
    yield f"[bold]{escape(record['topic']):<12}[/bold] {mark}{escape(record['text'])}"


TOLD: Words = {
    "finding": _finding,
    "model": _model,
    "layers": _layers,
    "inspected": _inspected,
    "converted": _converted,
    "slicing": _slicing,
    "sliced": _sliced,
}
