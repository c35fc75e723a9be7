"""`refsr eval`."""

from pathlib import Path
from typing import Annotated

import typer

from refsr_cli.cli.options import (
    AsPublished,
    Compile,
    DataRoot,
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
    Scale,
    SelfEnsemble,
    Tile,
    Weights,
    given,
    reporting,
    run,
)
from refsr_cli.config import EvaluateConfig
from refsr_cli.console import Display


def evaluate(
    context: typer.Context,
    dataset: Annotated[
        str, typer.Option(help="Set5, Set14, B100, Urban100, DIV2K, Kodak24, CUFED5, or a folder of images.")
    ],
    scale: Scale = EvaluateConfig.scale,
    protocol: Annotated[
        str | None, typer.Option(help="y, rgb, ntire, srgan, c2, ttsr or masa.", show_default="that of the dataset")
    ] = EvaluateConfig.protocol,
    lr_dir: Annotated[
        Path | None, typer.Option(help="Folder of low-resolution images.", show_default="made from the images")
    ] = EvaluateConfig.lr_dir,
    refs: Annotated[
        str,
        typer.Option(
            metavar="all|none|N|L1…",
            help="References of a set that has them: all, the first N, only the first (L1) or another; "
            "unrelated, noise, truth, turned or scaled to see what they do; jitter:0.2, noise:30, rotate:45 or "
            "scale:0.7, the first changed so.",
        ),
    ] = EvaluateConfig.refs,
    degrade: Annotated[
        str | None,
        typer.Option(
            metavar="all|jpeg:75…",
            help="Degrade the low-resolution images: jpeg:75, noise:5, blur:0.8, sums such as noise:3+jpeg:80; "
            "all tries twelve: a table and a plot.",
        ),
    ] = EvaluateConfig.degrade,
    stress: Annotated[
        bool, typer.Option("--stress", help="Try references of many kinds, mild and severe: a table and a plot.")
    ] = EvaluateConfig.stress,
    plot: Annotated[
        Path | None, typer.Option(help="PNG for the plot of either.", show_default="in this folder")
    ] = EvaluateConfig.plot,
    data_root: DataRoot = EvaluateConfig.data_root,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the dataset first, where refsr knows it: CUFED5.")
    ] = EvaluateConfig.download,
    eval_range: Annotated[
        str | None, typer.Option(metavar="A-B", help="Only images whose names begin with these numbers: 801-900.")
    ] = EvaluateConfig.eval_range,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = EvaluateConfig.limit,
    save: Annotated[Path | None, typer.Option(help="Folder to write the results to.")] = EvaluateConfig.save,
    csv: Annotated[Path | None, typer.Option(help="File to write the table to.")] = EvaluateConfig.csv,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results and a table that are there.")
    ] = EvaluateConfig.overwrite,
    model: Model = EvaluateConfig.model,
    weights: Weights = None,
    flavour: Flavour = EvaluateConfig.flavour,
    res_scale: ResScale = EvaluateConfig.res_scale,
    rgb_mean: RgbMean = None,
    restore: Restore = EvaluateConfig.restore,
    as_published: AsPublished = EvaluateConfig.as_published,
    self_ensemble: SelfEnsemble = EvaluateConfig.self_ensemble,
    tile: Tile = EvaluateConfig.tile,
    memory: Memory = EvaluateConfig.memory,
    device: Device = EvaluateConfig.device,
    precision: PrecisionOption = EvaluateConfig.precision,
    compile: Compile = EvaluateConfig.compile,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure PSNR and SSIM of a net on a test set."""
    display = Display(as_json=as_json, quiet=quiet)
    with reporting(display):
        config = EvaluateConfig(**given(context))
    if config.stress:
        from refsr_cli.tasks.stress import endure

        run(display, lambda: endure(config, display.download))
    elif config.degrade == "all":
        from refsr_cli.tasks.evaluate import evaluate_degraded

        run(display, lambda: evaluate_degraded(config, display.download))
    else:
        from refsr_cli.tasks.evaluate import evaluate as task

        run(display, lambda: task(config, display.download))
