"""`refsr train`, and `refsr prepare` for it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from refsr_cli.cli.options import (
    DataRoot,
    Device,
    Json,
    PrecisionOption,
    Quiet,
    Scale,
    given,
    numbers_parser,
    reporting,
    run,
)
from refsr_cli.config import Contrast, Optimizer, PrepareConfig, Schedule, Stage, TrainConfig, resumed
from refsr_cli.console import Display
from refsr_cli.errors import BadSetting
from refsr_cli.recipes import settings_of


def _parse_steps(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise typer.BadParameter(f"{text!r} is not a list of steps such as 70000,200000")
    return tuple(map(int, numbers))


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
        typer.Option(
            help="Pictures with references, for nets that take them: like CUFED or CUFED5, or a folder a scene."
        ),
    ] = TrainConfig.pairs,
    stage: Annotated[
        Stage, typer.Option(help="For c2 and datsr: teacher and match learn to find places, restore to use them.")
    ] = TrainConfig.stage,
    teacher: Annotated[
        str | None, typer.Option(help="For --stage match: weights of the teacher.")
    ] = TrainConfig.teacher,
    contrast: Annotated[
        Contrast, typer.Option(help="For these stages: margin as published, soft for random weights.")
    ] = TrainConfig.contrast,
    samples: Annotated[int, typer.Option(help="For refnet: windows with references to prepare.")] = TrainConfig.samples,
    foreign: Annotated[
        float, typer.Option(help="For refnet: part of them whose references show another scene.")
    ] = TrainConfig.foreign,
    ease: Annotated[
        int,
        typer.Option(help="For nets that need references: steps over which these go from the picture itself to any."),
    ] = TrainConfig.ease,
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
        str | None, typer.Option(help="Weights to start from: file, id, or hub repository; none for random ones.")
    ] = TrainConfig.init_from,
    init_partly: Annotated[
        bool, typer.Option("--init-partly", help="Start from any net, as far as its weights fit.")
    ] = TrainConfig.init_partly,
    only: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Train only the weights whose names begin so, such as tail; keep the rest."),
    ] = TrainConfig.only,
    steps: Annotated[int, typer.Option(help="Optimiser steps in all.")] = TrainConfig.steps,
    minutes: Annotated[
        float | None, typer.Option(help="How long it may take: as many steps as fit, instead of --steps.")
    ] = TrainConfig.minutes,
    batch: Annotated[int, typer.Option(help="Crops a step.")] = TrainConfig.batch,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            help="Crops computed at once; gradients are summed over the batch.",
            show_default="all, but for large nets on a CPU",
        ),
    ] = TrainConfig.micro_batch,
    patch: Annotated[int, typer.Option(help="Side of a crop in low-resolution pixels.")] = TrainConfig.patch,
    candidates: Annotated[
        int, typer.Option(help="Take the most detailed of this many random crops.")
    ] = TrainConfig.candidates,
    degrade: Annotated[
        str | None,
        typer.Option(
            metavar="MIX",
            help="What the low-resolution crops go through: photo, or ranges such as noise:0-10+jpeg:30-95.",
        ),
    ] = TrainConfig.degrade,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment/--no-augment", help="Turn and mirror crops, and exchange colours where there are references."
        ),
    ] = TrainConfig.augment,
    jitter: Annotated[
        bool, typer.Option("--jitter", help="Change the colours of references of --pairs at random, as for DATSR.")
    ] = TrainConfig.jitter,
    optimizer: Annotated[Optimizer, typer.Option(help="Optimiser.")] = TrainConfig.optimizer,
    betas: Annotated[
        Any,
        typer.Option(
            parser=numbers_parser(2, "0.9,0.999"),
            metavar="N,N",
            help="Decay rates of Adam's and AdamW's moving averages.",
            show_default="0.9,0.999",
        ),
    ] = None,
    momentum: Annotated[float, typer.Option(help="Momentum of SGD.")] = TrainConfig.momentum,
    epsilon: Annotated[
        float, typer.Option(help="Added to the denominators of Adam, AdamW and RMSprop.")
    ] = TrainConfig.epsilon,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of the optimiser.")] = TrainConfig.weight_decay,
    learning_rate: Annotated[float, typer.Option(help="Step size of the optimiser.")] = TrainConfig.learning_rate,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate falls.")] = TrainConfig.schedule,
    decay: Annotated[float, typer.Option(help="Factor on the learning rate at each step down.")] = TrainConfig.decay,
    decay_every: Annotated[int, typer.Option(help="Steps from one step down to the next.")] = TrainConfig.decay_every,
    decay_at: Annotated[
        Any,
        typer.Option(
            parser=_parse_steps,
            metavar="N,N…",
            help="Steps after which the learning rate falls, instead of --decay-every.",
        ),
    ] = None,
    warmup: Annotated[int, typer.Option(help="Steps of rising learning rate at the start.")] = TrainConfig.warmup,
    loss: Annotated[
        str,
        typer.Option(
            metavar="SUM",
            help="Such as 1*L1+0.1*VGG54+0.005*GAN, of L1, MSE, Charbonnier, VGG22, VGG51, VGG54, GAN, RGAN, WGAN_GP.",
        ),
    ] = TrainConfig.loss,
    critic: Annotated[
        str, typer.Option(help="Critic of an adversarial loss: srgan, patch, srntt or srntt-published.")
    ] = TrainConfig.critic,
    pixels_first: Annotated[
        int, typer.Option(help="First steps, with the losses of pixels alone.")
    ] = TrainConfig.pixels_first,
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
    settings = given(context)
    with reporting(display):
        if resume:
            config = resumed(resume, settings)
        elif model or recipe:
            config = TrainConfig(**{**(settings_of(recipe) if recipe else {}), **settings})
        else:
            raise BadSetting("give --model, see `refsr models`, or --recipe, or --resume")
    from refsr_cli.tasks.train import train as task

    run(display, lambda: task(config))


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
    with reporting(display):
        config = PrepareConfig(**given(context))
    from refsr_cli.tasks.prepare import prepare as task

    run(display, lambda: task(config))
