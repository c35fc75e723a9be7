"""The command line: reads the arguments into a config, runs one task, shows its records. No torch is imported here."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from refsr_cli import __version__
from refsr_cli.config import (
    VIDEOS,
    ConvertConfig,
    EvaluateConfig,
    InspectConfig,
    Precision,
    PrepareConfig,
    Schedule,
    TrainConfig,
    UpscaleConfig,
    resumed,
)
from refsr_cli.console import Display
from refsr_cli.errors import BadSetting, RefsrError
from refsr_cli.recipes import settings_of

INTERRUPTED = 130

app = typer.Typer(
    name="refsr",
    help="Image super-resolution: larger, sharper pictures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The `refsr` command."""
    for stream in (sys.stdout, sys.stderr):  # a file name that the terminal cannot show is no reason to stop
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


@contextmanager
def _reporting(display: Display) -> Iterator[None]:
    """Turns what a user can cause into one sentence and the documented exit code."""
    try:
        yield
    except RefsrError as error:
        display.error(str(error))
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt as interrupt:
        display.error(f"interrupted; {interrupt}" if str(interrupt) else "interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        display.error(f"{error.filename or 'the output'} cannot be used: {error.strerror or error}")
        raise typer.Exit(1) from None


def _run(display: Display, records: Callable[[], Iterable[Any]]) -> None:
    with _reporting(display):
        if code := display.show(records()):
            raise typer.Exit(code)


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[x×*](\d+)", text.strip().lower())
    if not match:
        raise typer.BadParameter(f"{text!r} is not a size such as 1920x1080")
    return int(match[1]), int(match[2])


def _parse_tile(text: str) -> int | None:
    names = {"auto": None, "off": 0}
    if text.lower() in names:
        return names[text.lower()]
    if not text.isdigit() or int(text) == 0:
        raise typer.BadParameter(f"{text!r} is not auto, off or a number of pixels")
    return int(text)


def _parse_bytes(text: str) -> int:
    units = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
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
    str | None,
    typer.Option(help="Weight file, id such as edsr-baseline-x4, or hub repository.", rich_help_panel=NET),
]
Flavour = Annotated[
    str | None,
    typer.Option(help="Layout of a published weight file, where its keys do not tell.", rich_help_panel=NET),
]
ResScale = Annotated[
    float | None, typer.Option(help="Residual scaling of a published weight file.", rich_help_panel=NET)
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
    Precision, typer.Option(help="Number format; auto is fp32 on a CPU.", rich_help_panel=SPEED)
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object a line on standard output.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=OUTPUT)]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the named datasets.", show_default="$REFSR_DATA or ~/.cache/refsr/data")
]


def _settings(context: typer.Context) -> dict[str, Any]:
    """What was given on the command line, by the names of the config's fields; the config knows the defaults."""
    given = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT" and name not in ("as_json", "quiet"):
            given[name] = tuple(value) if isinstance(value, list) else value
    return given


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


@app.command()
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
        Any, typer.Option(parser=_parse_size, metavar="WxH", help="Width and height to reach exactly.")
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
    weights: Weights = UpscaleConfig.weights,
    flavour: Flavour = UpscaleConfig.flavour,
    res_scale: ResScale = UpscaleConfig.res_scale,
    self_ensemble: SelfEnsemble = UpscaleConfig.self_ensemble,
    tile: Tile = UpscaleConfig.tile,
    memory: Memory = UpscaleConfig.memory,
    device: Device = UpscaleConfig.device,
    precision: PrecisionOption = UpscaleConfig.precision,
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
    with _reporting(display):
        config = UpscaleConfig(**_settings(context))
    videos = tuple(name for name in config.inputs if Path(name).suffix.lower() in VIDEOS)
    pictures = tuple(name for name in config.inputs if name not in videos)
    if videos and pictures:
        with _reporting(display):
            raise BadSetting(f"{videos[0]} is a video and {pictures[0]} is not; give one command for each kind")
    if videos:
        from refsr_cli.tasks.video import upscale_videos

        _run(display, lambda: upscale_videos(config, display.download))
    else:
        from refsr_cli.tasks.upscale import upscale as run

        _run(display, lambda: run(config, display.download))


@app.command("eval")
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
            "unrelated, noise, truth, turned or scaled to see what they do.",
        ),
    ] = EvaluateConfig.refs,
    data_root: DataRoot = EvaluateConfig.data_root,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the dataset first, where refsr knows it: CUFED5.")
    ] = EvaluateConfig.download,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = EvaluateConfig.limit,
    save: Annotated[Path | None, typer.Option(help="Folder to write the results to.")] = EvaluateConfig.save,
    csv: Annotated[Path | None, typer.Option(help="File to write the table to.")] = EvaluateConfig.csv,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results and a table that are there.")
    ] = EvaluateConfig.overwrite,
    model: Model = EvaluateConfig.model,
    weights: Weights = EvaluateConfig.weights,
    flavour: Flavour = EvaluateConfig.flavour,
    res_scale: ResScale = EvaluateConfig.res_scale,
    self_ensemble: SelfEnsemble = EvaluateConfig.self_ensemble,
    tile: Tile = EvaluateConfig.tile,
    memory: Memory = EvaluateConfig.memory,
    device: Device = EvaluateConfig.device,
    precision: PrecisionOption = EvaluateConfig.precision,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure PSNR and SSIM of a net on a test set."""
    display = Display(as_json=as_json, quiet=quiet)
    with _reporting(display):
        config = EvaluateConfig(**_settings(context))
    from refsr_cli.tasks.evaluate import evaluate as run

    _run(display, lambda: run(config, display.download))


@app.command()
def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Net to train, see `refsr models`.")] = None,
    scale: Scale = TrainConfig.scale,
    recipe: Annotated[
        str | None, typer.Option(help="Settings of a paper, such as srresnet-x2; other options change them.")
    ] = TrainConfig.recipe,
    numbers: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another number of the net, such as blocks=8; repeatable."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photos, or an LMDB file made by `refsr prepare`.", show_default="DIV2K under the data root"
        ),
    ] = TrainConfig.data,
    lr_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of their low-resolution images.", show_default="made from the photos"),
    ] = TrainConfig.lr_dir,
    data_range: Annotated[
        str | None,
        typer.Option(metavar="A-B/C-D", help="Numbers of the photos to train and to validate on: 1-800/801-900."),
    ] = TrainConfig.data_range,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Read photos as they are needed instead of keeping them in memory.",
            show_default="with thousands of them",
        ),
    ] = TrainConfig.stream,
    pairs: Annotated[
        Path | None,
        typer.Option(help="For refnet: pictures with references, in CUFED's or CUFED5's layout, or a folder a scene."),
    ] = TrainConfig.pairs,
    samples: Annotated[int, typer.Option(help="For refnet: windows with references to prepare.")] = TrainConfig.samples,
    foreign: Annotated[
        float, typer.Option(help="For refnet: part of them whose references show another scene.")
    ] = TrainConfig.foreign,
    prepared: Annotated[
        Path | None,
        typer.Option(
            help="For refnet: folder for what is prepared; other trainings use it too.",
            show_default="in the run directory",
        ),
    ] = TrainConfig.prepared,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that prepare, or read photos as they are needed.", show_default="one a processor"),
    ] = TrainConfig.workers,
    val: Annotated[
        str | None, typer.Option(help="Test set to score on as it goes: a name or a folder.")
    ] = TrainConfig.val,
    data_root: DataRoot = TrainConfig.data_root,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory.", show_default="runs/MODEL-xSCALE")
    ] = TrainConfig.out,
    resume: Annotated[
        Path | None, typer.Option(help="Run directory to go on with, exactly where it stopped.")
    ] = TrainConfig.resume,
    init_from: Annotated[
        str | None, typer.Option(help="Weights to start from: file, id, or hub repository.")
    ] = TrainConfig.init_from,
    init_partly: Annotated[
        bool, typer.Option("--init-partly", help="Start from any net, as far as its weights fit.")
    ] = TrainConfig.init_partly,
    steps: Annotated[int, typer.Option(help="Optimiser steps in all.")] = TrainConfig.steps,
    batch: Annotated[int, typer.Option(help="Crops a step.")] = TrainConfig.batch,
    patch: Annotated[int, typer.Option(help="Side of a crop in low-resolution pixels.")] = TrainConfig.patch,
    candidates: Annotated[
        int, typer.Option(help="Take the most detailed of this many random crops.")
    ] = TrainConfig.candidates,
    learning_rate: Annotated[float, typer.Option(help="Adam's step size.")] = TrainConfig.learning_rate,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate falls.")] = TrainConfig.schedule,
    decay: Annotated[float, typer.Option(help="Factor on the learning rate at each step down.")] = TrainConfig.decay,
    decay_every: Annotated[int, typer.Option(help="Steps from one step down to the next.")] = TrainConfig.decay_every,
    warmup: Annotated[int, typer.Option(help="Steps of rising learning rate at the start.")] = TrainConfig.warmup,
    loss: Annotated[
        str,
        typer.Option(
            metavar="SUM",
            help="Such as 1*L1+0.1*VGG54+0.005*GAN, of L1, MSE, Charbonnier, VGG22, VGG54, GAN, RGAN and WGAN_GP.",
        ),
    ] = TrainConfig.loss,
    critic: Annotated[str, typer.Option(help="Critic of an adversarial loss: srgan or patch.")] = TrainConfig.critic,
    skip_above: Annotated[
        float, typer.Option(help="Leave out batches whose loss is so many times the usual; 0 leaves out none.")
    ] = TrainConfig.skip_above,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0 is no limit.")] = TrainConfig.clip,
    ema: Annotated[float, typer.Option(help="Decay of the moving average of the weights.")] = TrainConfig.ema,
    fold_tail: Annotated[
        bool,
        typer.Option(
            "--fold-tail", help="Train through the folded tail: faster, but the outermost pixels need a rest."
        ),
    ] = TrainConfig.fold_tail,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = TrainConfig.validate_every,
    checkpoint_minutes: Annotated[
        float, typer.Option(help="Minutes between checkpoints.")
    ] = TrainConfig.checkpoint_minutes,
    log_every: Annotated[int, typer.Option(help="Steps between lines of progress.")] = TrainConfig.log_every,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = TrainConfig.seed,
    device: Device = TrainConfig.device,
    precision: PrecisionOption = TrainConfig.precision,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the net first: for long runs on a GPU.")
    ] = TrainConfig.compile,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a net on a folder of photos."""
    display = Display(as_json=as_json, quiet=quiet)
    settings = _settings(context)
    with _reporting(display):
        if resume:
            config = resumed(resume, settings)
        elif model or recipe:
            config = TrainConfig(**{**(settings_of(recipe) if recipe else {}), **settings})
        else:
            raise BadSetting("give --model, see `refsr models`, or --recipe, or --resume")
    from refsr_cli.tasks.train import train as run

    _run(display, lambda: run(config))


@app.command()
def prepare(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="Folder of photos.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="LMDB file to write.")],
    side: Annotated[int, typer.Option(help="Side of the squares, in pixels.")] = PrepareConfig.side,
    step: Annotated[int, typer.Option(help="From one square to the next, in pixels.")] = PrepareConfig.step,
    data_range: Annotated[
        str | None, typer.Option(metavar="A-B", help="Numbers of the photos to take: 1-800.")
    ] = PrepareConfig.data_range,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = PrepareConfig.overwrite,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut photos into squares and keep them in one LMDB file, for `refsr train --data`."""
    display = Display(as_json=as_json, quiet=quiet)
    with _reporting(display):
        config = PrepareConfig(**_settings(context))
    from refsr_cli.tasks.prepare import prepare as run

    _run(display, lambda: run(config))


@app.command()
def models(as_json: Json = False) -> None:
    """List the nets and the weights there are for them."""
    from refsr_cli.tasks.catalog import list_models

    _run(Display(as_json=as_json), list_models)


weights_app = typer.Typer(name="weights", help="Look at weight files, and make ours of others.", no_args_is_help=True)
app.add_typer(weights_app)
WeightFile = Annotated[str, typer.Argument(metavar="FILE", help="Weight file, id, or hub repository.")]
FileScale = Annotated[
    int | None, typer.Option("--scale", "-s", help="Which file of a hub repository is meant.", show_default="4")
]


@weights_app.command("inspect")
def inspect_weights(
    context: typer.Context,
    weights: WeightFile,
    scale: FileScale = InspectConfig.scale,
    flavour: Flavour = InspectConfig.flavour,
    res_scale: ResScale = InspectConfig.res_scale,
    as_json: Json = False,
) -> None:
    """Say what a weight file is: its net, its scale, where its layout comes from. No code in it is run."""
    display = Display(as_json=as_json)
    with _reporting(display):
        config = InspectConfig(**_settings(context))
    from refsr_cli.tasks.weights import inspect as run

    _run(display, lambda: run(config, display.download))


@weights_app.command("convert")
def convert_weights(
    context: typer.Context,
    weights: WeightFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="FILE.safetensors")
    ] = ConvertConfig.output,
    half: Annotated[bool, typer.Option("--half", help="16-bit numbers: half as large.")] = ConvertConfig.half,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = ConvertConfig.overwrite,
    scale: FileScale = ConvertConfig.scale,
    flavour: Flavour = ConvertConfig.flavour,
    res_scale: ResScale = ConvertConfig.res_scale,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a published weight file as one of ours: safetensors that say what net they are for."""
    display = Display(as_json=as_json, quiet=quiet)
    with _reporting(display):
        config = ConvertConfig(**_settings(context))
    from refsr_cli.tasks.weights import convert as run

    _run(display, lambda: run(config, display.download))
