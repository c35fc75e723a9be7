"""`refsr upscale`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from refsr_cli.cli.options import (
    OUTPUT,
    AsPublished,
    Compile,
    Device,
    Flavour,
    Json,
    Memory,
    Model,
    PrecisionOption,
    Quiet,
    ResScale,
    Restore,
    RgbMean,
    SelfEnsemble,
    Tile,
    Weights,
    given,
    parse_size,
    reporting,
    run,
)
from refsr_cli.config import VIDEOS, UpscaleConfig
from refsr_cli.console import Display
from refsr_cli.errors import BadSetting


def upscale(
    context: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(help="Image files, folders of them, patterns such as 'a/*.png', or videos.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File or folder to write.", show_default="in_x4.png", rich_help_panel=OUTPUT
        ),
    ] = UpscaleConfig.output,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", help="2, 3, 4 or 8.", show_default="4")
    ] = UpscaleConfig.scale,
    size: Annotated[
        Any, typer.Option(parser=parse_size, metavar="WxH", help="Width and height to reach exactly.")
    ] = UpscaleConfig.size,
    long_side: Annotated[int | None, typer.Option(help="Longer side to reach, in pixels.")] = UpscaleConfig.long_side,
    refs: Annotated[
        list[str] | None,
        typer.Option(
            "--ref", help="Photo of the same scene to take detail from: a file, a folder or a pattern; repeatable."
        ),
    ] = None,
    trust_map: Annotated[
        Path | None,
        typer.Option(help="File for a picture of where the references were used.", rich_help_panel=OUTPUT),
    ] = UpscaleConfig.trust_map,
    compare: Annotated[
        Path | None,
        typer.Option(help="File for a sheet: without and with references, side by side.", rich_help_panel=OUTPUT),
    ] = UpscaleConfig.compare,
    model: Model = UpscaleConfig.model,
    weights: Weights = None,
    flavour: Flavour = UpscaleConfig.flavour,
    res_scale: ResScale = UpscaleConfig.res_scale,
    rgb_mean: RgbMean = None,
    restore: Restore = UpscaleConfig.restore,
    as_published: AsPublished = UpscaleConfig.as_published,
    self_ensemble: SelfEnsemble = UpscaleConfig.self_ensemble,
    tile: Tile = UpscaleConfig.tile,
    memory: Memory = UpscaleConfig.memory,
    device: Device = UpscaleConfig.device,
    precision: PrecisionOption = UpscaleConfig.precision,
    compile: Compile = UpscaleConfig.compile,
    format: Annotated[
        str | None,
        typer.Option(help="png, jpg, webp, tiff or bmp.", show_default="as the input", rich_help_panel=OUTPUT),
    ] = UpscaleConfig.format,
    quality: Annotated[
        int | None, typer.Option(help="1 to 100, for jpg and webp.", show_default="95", rich_help_panel=OUTPUT)
    ] = UpscaleConfig.quality,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into the folders of a folder too; the tree is kept.")
    ] = UpscaleConfig.recursive,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out images whose output is there.", rich_help_panel=OUTPUT)
    ] = UpscaleConfig.skip_existing,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that are there.", rich_help_panel=OUTPUT)
    ] = UpscaleConfig.overwrite,
    allow_large: Annotated[
        bool, typer.Option("--allow-large", help="Open images above 200 megapixels, make ones above 2 gigapixels.")
    ] = UpscaleConfig.allow_large,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make images larger, and videos frame by frame."""
    display = Display(as_json=as_json, quiet=quiet)
    with reporting(display):
        config = UpscaleConfig(**given(context))
    videos = tuple(name for name in config.inputs if Path(name).suffix.lower() in VIDEOS)
    pictures = tuple(name for name in config.inputs if name not in videos)
    if videos and pictures:
        with reporting(display):
            raise BadSetting(f"{videos[0]} is a video and {pictures[0]} is not; give one command for each kind")
    if videos:
        from refsr_cli.tasks.video import upscale_videos

        run(display, lambda: upscale_videos(config, display.download))
    else:
        from refsr_cli.tasks.upscale import upscale as task

        run(display, lambda: task(config, display.download))
