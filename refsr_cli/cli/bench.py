"""`refsr bench`."""

from pathlib import Path
from typing import Annotated

import typer

from refsr_cli.cli.options import Device, Json, Quiet, Scale, given, parse_size, reporting, run
from refsr_cli.config import BenchConfig
from refsr_cli.console import Display


def bench(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Net, see `refsr models`; repeatable.", show_default="edsr-baseline"),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights of that net: file, id, or hub repository.")
    ] = BenchConfig.weights,
    scale: Scale = BenchConfig.scale,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="WxH", help="Picture to enlarge; repeatable.", show_default="256x256"),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="plain, refsr, refsr-bf16, refsr-compiled-bf16, plain+, refsr+, onnxruntime, openvino, dat-light, "
            "opencv; repeatable.",
            show_default="what can run here, one pass, not compiled",
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Picture that is made small and enlarged again, to score results.")
    ] = BenchConfig.truth,
    rounds: Annotated[int, typer.Option(help="Runs of each, by turns.")] = BenchConfig.rounds,
    growth: Annotated[
        bool, typer.Option("--growth", help="Tell how time grows with the picture and with references.")
    ] = BenchConfig.growth,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Report: .html, .csv or .json.")
    ] = BenchConfig.output,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a report that is there.")
    ] = BenchConfig.overwrite,
    device: Device = BenchConfig.device,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare refsr's speed, memory and quality with how nets are usually run."""
    display = Display(as_json=as_json, quiet=quiet)
    with reporting(display):
        values = given(context)
        if "sizes" in values:
            values["sizes"] = tuple(parse_size(text) for text in values["sizes"])
        config = BenchConfig(**values)
    from refsr_cli.tasks.bench import bench as task

    run(display, lambda: task(config))
