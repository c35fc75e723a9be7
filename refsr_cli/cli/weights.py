"""`refsr weights`."""

from pathlib import Path
from typing import Annotated

import typer

from refsr_cli.cli.options import Flavour, Json, Quiet, ResScale, RgbMean, given, reporting, run
from refsr_cli.config import ConvertConfig, InspectConfig, SliceConfig
from refsr_cli.console import Display

app = typer.Typer(name="weights", help="Look at weight files, and make ours of others.", no_args_is_help=True)
WeightFiles = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Weight file, id, or hub repository; or the parts of one net.")
]
FileScale = Annotated[
    int | None, typer.Option("--scale", "-s", help="Which file of a hub repository is meant.", show_default="4")
]


@app.command("inspect")
def inspect_weights(
    context: typer.Context,
    weights: WeightFiles,
    scale: FileScale = InspectConfig.scale,
    flavour: Flavour = InspectConfig.flavour,
    res_scale: ResScale = InspectConfig.res_scale,
    rgb_mean: RgbMean = None,
    as_json: Json = False,
) -> None:
    """Say what a weight file is: its net, its scale, where its layout comes from. No code in it is run."""
    display = Display(as_json=as_json)
    with reporting(display):
        config = InspectConfig(**given(context))
    from refsr_cli.tasks.weights import inspect as task

    run(display, lambda: task(config, display.download))


@app.command("convert")
def convert_weights(
    context: typer.Context,
    weights: WeightFiles,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="FILE.safetensors")
    ] = ConvertConfig.output,
    half: Annotated[bool, typer.Option("--half", help="16-bit numbers: half as large.")] = ConvertConfig.half,
    trunk: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Leave out the single-image net in it: FILE, beside the output, holds it."),
    ] = ConvertConfig.trunk,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = ConvertConfig.overwrite,
    scale: FileScale = ConvertConfig.scale,
    flavour: Flavour = ConvertConfig.flavour,
    res_scale: ResScale = ConvertConfig.res_scale,
    rgb_mean: RgbMean = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a published weight file as one of ours: safetensors that say what net they are for."""
    display = Display(as_json=as_json, quiet=quiet)
    with reporting(display):
        config = ConvertConfig(**given(context))
    from refsr_cli.tasks.weights import convert as task

    run(display, lambda: task(config, display.download))


@app.command("slice-vgg")
def slice_vgg(
    context: typer.Context,
    weights: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="torchvision's VGG-19.", show_default="fetched, 548 MB")
    ] = SliceConfig.weights,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = SliceConfig.output,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = SliceConfig.overwrite,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep the 2 MB of VGG-19 that published C2-Matching and DATSR files need beside them."""
    display = Display(as_json=as_json, quiet=quiet)
    with reporting(display):
        config = SliceConfig(**given(context))
    from refsr_cli.tasks.weights import slice_vgg as task

    run(display, lambda: task(config))
