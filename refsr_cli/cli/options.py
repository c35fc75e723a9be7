"""What commands share: options, the config made of them, and how a task is run and its end reported."""

import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from refsr_cli.allocator import keep_buffers
from refsr_cli.config import Precision
from refsr_cli.console import Display
from refsr_cli.errors import RefsrError

_INTERRUPTED = 130
"""Exit code."""


@contextmanager
def reporting(display: Display) -> Iterator[None]:
    """Turns what a user can cause into one sentence and the documented exit code."""
    try:
        yield
    except RefsrError as error:
        display.error(str(error))
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt as interrupt:
        display.error(f"interrupted; {interrupt}" if str(interrupt) else "interrupted")
        raise typer.Exit(_INTERRUPTED) from None
    except MemoryError:
        display.error("there is not enough memory for that; ask for less, or close other programs")
        raise typer.Exit(1) from None
    except OSError as error:
        display.error(f"{error.filename or 'the output'} cannot be used: {error.strerror or error}")
        raise typer.Exit(1) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: what is half-written is removed. Under `nohup` a hang-up stays
    without effect."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()  # the only one that may set handlers
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if main and hasattr(signal, name)]
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run(display: Display, records: Callable[[], Iterable[Any]]) -> None:
    """Runs a task, shows its records, and leaves with the exit code they amount to."""
    keep_buffers()
    with reporting(display), _interruptible():
        if code := display.show(records()):
            raise typer.Exit(code)


def parse_size(text: str) -> tuple[int, int]:
    """`1920x1080` as width and height. Raises typer.BadParameter."""
    match = re.fullmatch(r"(\d{1,9})[x×*](\d{1,9})", text.strip().lower())
    if not match:
        raise typer.BadParameter(f"{text!r} is not a size such as 1920x1080")
    return int(match[1]), int(match[2])


def numbers_parser(count: int, example: str) -> Callable[[str], tuple[float, ...]]:
    """For an option of `count` numbers with commas between them, such as the `example`."""

    def parse(text: str) -> tuple[float, ...]:
        try:
            numbers = tuple(map(float, text.split(",")))
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            raise typer.BadParameter(f"{text!r} is not {count} numbers such as {example}")
        return numbers

    return parse


def _parse_tile(text: str) -> int | None:
    names = {"auto": None, "off": 0}
    if text.lower() in names:
        return names[text.lower()]
    if not text.isdigit() or int(text) == 0:
        raise typer.BadParameter(f"{text!r} is not auto, off or a number of pixels")
    return int(text)


def _parse_bytes(text: str) -> int:
    units = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise typer.BadParameter(f"{text!r} is not an amount of memory such as 2GiB or 500MiB")
    return int(float(match[1]) * units[match[2]])


Scale = Annotated[int, typer.Option("--scale", "-s", help="2, 3, 4 or 8.")]
NET, SPEED, OUTPUT = "Net", "Speed and memory", "Output"
"""Panels of the help text."""

Model = Annotated[
    str | None,
    typer.Option(help="Net to use, see `refsr models`.", show_default="the best at hand", rich_help_panel=NET),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        help="Weight file, id such as edsr-baseline-x4, or hub repository; repeat it for the parts of one net.",
        rich_help_panel=NET,
    ),
]
Flavour = Annotated[
    str | None,
    typer.Option(help="Layout of a published weight file, where its keys do not tell.", rich_help_panel=NET),
]
ResScale = Annotated[
    float | None, typer.Option(help="Residual scaling of a published weight file.", rich_help_panel=NET)
]
RgbMean = Annotated[
    Any,
    typer.Option(
        parser=numbers_parser(3, "0.4488,0.4371,0.4040"),
        metavar="R,G,B",
        help="Mean colour that a published net subtracts, where its file does not contain it.",
        show_default="that of DIV2K",
        rich_help_panel=NET,
    ),
]
SelfEnsemble = Annotated[
    bool | None,
    typer.Option(
        "--self-ensemble/--no-self-ensemble",
        help="Average over the eight orientations: a little better, eight times the work.",
        show_default="on a GPU",
        rich_help_panel=NET,
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        parser=_parse_tile,
        metavar="auto|off|N",
        help="Side of a tile in input pixels.",
        show_default="auto",
        rich_help_panel=SPEED,
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        parser=_parse_bytes,
        metavar="SIZE",
        help="Memory that computing may take besides the pictures: chooses the tile.",
        show_default="1GiB, or half of what a GPU has free",
        rich_help_panel=SPEED,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=SPEED)]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="Number format; auto is bf16 where the processor has it, else fp32.", rich_help_panel=SPEED),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the net first, which takes a while once: for videos and large folders on a GPU.",
        rich_help_panel=SPEED,
    ),
]


def _parse_strength(text: str) -> float | None:
    names = {"auto": None, "off": 0.0}
    if text.lower() in names:
        return names[text.lower()]
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not auto, off or a number from 0 to 1") from None


Restore = Annotated[
    float | None,
    typer.Option(
        parser=_parse_strength,
        metavar="auto|off|0…1",
        help="How strongly JPEG and noise are removed before enlarging; auto decides for each picture.",
        show_default="auto",
        rich_help_panel=NET,
    ),
]
AsPublished = Annotated[
    bool,
    typer.Option(
        "--as-published",
        help="The net alone, as its paper defines it: no restoration, mirrored border or back-projection.",
        rich_help_panel=NET,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object a line on standard output.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=OUTPUT)]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the named datasets.", show_default="$REFSR_DATA or ~/.cache/refsr/data")
]


def given(context: typer.Context) -> dict[str, Any]:
    """What was given on the command line, by the names of the config's fields; the config knows the defaults."""
    values = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT" and name not in ("as_json", "quiet"):
            values[name] = tuple(value) if isinstance(value, list) else value
    return values
