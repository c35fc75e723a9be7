"""What `refsr bench` tells."""

from collections.abc import Iterator

from rich.markup import escape

from refsr_cli.console.words import Record, Words, warning


def _comparing(record: Record) -> Iterator[str]:
    yield (
        f"{escape(record['processor'])}, {record['threads']} threads, torch {record['torch']}; convolutions at best "
        f"{record['peak_fp32'] / 1e9:,.0f} GFLOP/s in fp32, {record['peak_bf16'] / 1e9:,.0f} in bf16; "
        f"medians of {record['rounds']} runs by turns"
    )
    columns = f"{'':<42}{'ms':>10}{'± %':>6}{'MP/s':>9}{'x plain':>9}{'of peak':>9}{'MiB':>8}{'PSNR':>8}"
    yield f"[bold]{columns}[/bold]"


def _timing(record: Record) -> Iterator[str]:
    def shown(name: str, form: str, width: int) -> str:
        return f"{'-' if record[name] is None else format(record[name], form):>{width}}"

    name = f"{record['model']} {record['width']}x{record['height']} {record['variant']}"
    yield (
        f"{escape(name[:41]):<42}{record['milliseconds']:10.1f}{100 * record['spread']:6.0f}"
        f"{record['megapixels_per_second']:9.2f}{shown('ratio_to_plain', '.2f', 9)}{shown('peak_share', '.0%', 9)}"
        f"{shown('peak_mib', '.0f', 8)}{shown('psnr', '.2f', 8)}"
    )


def _not_run(record: Record) -> Iterator[str]:
    yield warning(f"{record['model']}: {record['message']}")


def _growth(record: Record) -> Iterator[str]:
    several = ", ".join(
        f"{amount:g}: {seconds:.2f} s" for amount, seconds in zip(record["amounts"], record["seconds"], strict=True)
    )
    yield f"{record['model']}, {record['against']}: {several}; grows with power {record['exponent']:.2f}"


def _reported(record: Record) -> Iterator[str]:
    yield f"report: [bold]{escape(str(record['path']))}[/bold]"


TOLD: Words = {
    "comparing": _comparing,
    "timing": _timing,
    "not_run": _not_run,
    "growth": _growth,
    "reported": _reported,
}
