"""The command line: reads the arguments into a config, runs one task, shows its records. No torch is imported here."""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from refsr_cli import __version__
from refsr_cli.cli import bench, doctor, evaluate, models, train, upscale, weights

app = typer.Typer(
    name="refsr",
    help="Image super-resolution: larger, sharper pictures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(upscale.upscale)
app.command("eval")(evaluate.evaluate)
app.command()(train.train)
app.command()(bench.bench)
app.command()(train.prepare)
app.command()(doctor.doctor)
app.add_typer(models.app)
app.add_typer(weights.app)


def main() -> None:
    """The `refsr` command."""
    for stream in (sys.stdout, sys.stderr):  # a file name that the terminal cannot show is no reason to stop
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"refsr {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of refsr itself."""
