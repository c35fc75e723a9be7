"""Settings of `refsr train`, and how an earlier training's are taken up again."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from refsr_cli.config.running import Precision
from refsr_cli.config.spans import Span, spans
from refsr_cli.errors import BadSetting, require

Schedule = Literal["constant", "step", "cosine"]
Stage = Literal["teacher", "match", "restore"]
Contrast = Literal["margin", "soft"]
Optimizer = Literal["Adam", "AdamW", "SGD", "RMSprop"]

RANDOM = "none"
"""In place of weights to start from: random ones, where a net or a recipe would start from others."""
CONFIG = "config.json"
"""Name of the settings in a run directory."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """`refsr train`. The defaults of the optimiser are those of the EDSR paper."""

    model: str
    scale: int = 4
    recipe: str | None = None
    """Name in RECIPES of what the settings were taken from."""
    numbers: tuple[str, ...] = ()
    """Changes of the net's own numbers, each `name=value`."""
    data: Path | None = None
    """Folder of training photos; DIV2K under the data root, else the packaged trial photos when None."""
    lr_dir: Path | None = None
    """Folder of their low-resolution images, with a folder X2, X3, X4 for each scale or without; they are made from the
    photos when None."""
    data_range: str | None = None
    """Numbers of the photos to train on, and after a stroke of those to validate on: `1-800/801-900`."""
    stream: bool | None = None
    """Whether photos are read as they are needed; None is when there are thousands of them, or an LMDB file."""
    data_root: Path | None = None
    pairs: Path | None = None
    """Folder of pictures with references, for nets that take them."""
    stage: Stage = "restore"
    """Of a net that finds places in references by learned features: its `teacher`, then what it is to `match` by, then
    how to `restore`."""
    teacher: str | None = None
    """Weights of the teacher, for stage `match`; without one it learns from the places alone."""
    contrast: Contrast = "margin"
    """How features of other places are kept apart in these stages: by a `margin` to the likest, as published, or by a
    `soft` choice among all, which random weights can learn by."""
    samples: int = 1000
    """How many windows with references are prepared, and `foreign` the part of them whose references show something
    else."""
    foreign: float = 0.35
    ease: int = 0
    """Steps over which references go from the picture itself to what they may be, for nets that must learn to find."""
    prepared: Path | None = None
    """Folder for what is prepared, which trainings on the same windows use again; `samples` in the run directory when
    None."""
    workers: int | None = None
    """Processes that prepare windows, or read photos as they are needed; one a processor when None."""
    val: str | None = None
    """Benchmark name or folder that is scored as the training goes on; the packaged trial photos when None."""
    out: Path | None = None
    """Run directory; `runs/<model>-x<scale>` when None."""
    steps: int = 300_000
    minutes: float | None = None
    """How long the training may take, in place of `steps`: as many as fit by its own pace, so that a schedule ends with
    them."""
    batch: int = 16
    micro_batch: int | None = None
    """How many crops go through the net at once, gradients adding up to those of the batch; None is all of them, or on
    a CPU as many as take little memory."""
    patch: int = 48
    """Side of a crop in low-resolution pixels."""
    augment: bool = True
    """Whether crops are turned and mirrored, and the colours of windows with references exchanged."""
    jitter: bool = False
    """Whether the colours of the references of `pairs` are changed at random."""
    candidates: int = 1
    """The most detailed of this many random crops is taken."""
    degrade: str | None = None
    """What low-resolution crops go through: a name in MIXES, or ranges such as `noise:0-10+jpeg:30-95`."""
    optimizer: Optimizer = "Adam"
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's and AdamW's two moving averages."""
    momentum: float = 0.9
    """Of SGD."""
    epsilon: float = 1e-8
    """Added to the denominators of all but SGD."""
    weight_decay: float = 0.0
    learning_rate: float = 1e-4
    schedule: Schedule = "step"
    """Constant, times `decay` every `decay_every` steps, or a half cosine down to zero at the last step."""
    decay: float = 0.5
    decay_every: int = 200_000
    decay_at: tuple[int, ...] = ()
    """Steps after which the learning rate falls, instead of every `decay_every`."""
    warmup: int = 0
    """Steps over which the learning rate rises from zero."""
    loss: str = "L1"
    """A sum such as `1*L1+0.1*VGG54+0.005*GAN`; nets that merge references have a loss of their own."""
    critic: str = "srgan"
    """Name in CRITICS of the net that an adversarial loss trains beside the net."""
    pixels_first: int = 0
    """Steps in which only the terms of single values count, such as L1, before the others come in."""
    skip_above: float = 0.0
    """A batch whose loss is more than so many times the usual is left out; 0 leaves out none."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 lets it be."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is validated and saved."""
    fold_tail: bool = False
    """Train through the folded upsampling tail: faster; a short run without it must follow, for the border."""
    validate_every: int = 1000
    checkpoint_minutes: float = 5.0
    log_every: int = 100
    resume: Path | None = None
    """Run directory to continue exactly where it stopped."""
    init_from: str | None = None
    """Weights to start from: file, manifest id, or hub repository."""
    init_partly: bool = False
    """Whether the weights of any net are taken as far as they fit."""
    only: str | None = None
    """How the names of the weights begin that are trained; the others stay as they are."""
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patch", "candidates", "decay_every", "validate_every", "log_every", "samples"):
            require(
                getattr(self, name) >= 1, f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}"
            )
        require(
            self.minutes is None or 0 < self.minutes < math.inf,
            f"--minutes must be above 0 and finite, not {self.minutes}",
        )
        require(self.micro_batch is None or self.micro_batch >= 1, "--micro-batch must be at least 1")
        require(self.patch >= 3 or not self.fold_tail, "--fold-tail needs a --patch of at least 3")
        require(0 < self.learning_rate < math.inf, f"--learning-rate must be above 0, not {self.learning_rate}")
        require(self.schedule in get_args(Schedule), f"--schedule is {' or '.join(get_args(Schedule))}")
        require(self.optimizer in get_args(Optimizer), f"--optimizer is {', '.join(get_args(Optimizer))}")
        shares = {"--betas": self.betas, "--momentum": (self.momentum,)}
        for option, values in shares.items():
            require(all(0 <= value < 1 for value in values), f"{option} must be at least 0 and below 1")
        require(0 < self.epsilon < math.inf, f"--epsilon must be above 0, not {self.epsilon}")
        require(0 <= self.weight_decay < math.inf, f"--weight-decay must not be negative, not {self.weight_decay}")
        require(self.pixels_first >= 0, f"--pixels-first must not be negative, not {self.pixels_first}")
        require(not self.jitter or self.pairs is not None, "--jitter changes the references of --pairs; give that too")
        require(0 < self.decay <= 1, f"--decay is above 0 and at most 1, not {self.decay}")
        require(self.skip_above == 0 or self.skip_above > 1, f"--skip-above is 0 or above 1, not {self.skip_above}")
        require(
            self.checkpoint_minutes >= 0, f"--checkpoint-minutes must not be negative, not {self.checkpoint_minutes}"
        )
        require(self.ease >= 0, f"--ease must not be negative, not {self.ease}")
        require(0 <= self.foreign <= 1, f"--foreign is a part between 0 and 1, not {self.foreign}")
        require(self.workers is None or self.workers >= 0, f"--workers must not be negative, not {self.workers}")
        require(0 <= self.ema < 1, f"--ema must be at least 0 and below 1, not {self.ema}")
        require(0 <= self.seed < 2**63, f"--seed must be at least 0 and below 2^63, not {self.seed}")
        require(self.warmup >= 0 and self.clip >= 0, "--warmup and --clip must not be negative")
        require(self.init_from is not None or not self.init_partly, "--init-partly says how to --init-from; give that")
        require(self.stage in get_args(Stage), f"--stage is {', '.join(get_args(Stage))}, not {self.stage}")
        require(self.teacher is None or self.stage == "match", "--teacher is for --stage match")
        require(self.contrast in get_args(Contrast), f"--contrast is {' or '.join(get_args(Contrast))}")
        _ = self.train_range, self.val_range

    @property
    def first_weights(self) -> str | None:
        """What `init_from` names, unless that is RANDOM."""
        return None if self.init_from == RANDOM else self.init_from

    @property
    def train_range(self) -> Span | None:
        """First and last number of the photos to train on."""
        return spans(self.data_range)[0]

    @property
    def val_range(self) -> Span | None:
        """First and last number of the images to validate on."""
        return spans(self.data_range)[1]


def resumed(folder: Path, changes: dict[str, Any]) -> TrainConfig:
    """The config of an earlier training in `folder`, with `changes`. Raises BadSetting when it is not there, and for
    changes that an earlier training cannot take."""
    kept = {"model", "scale", "recipe", "numbers", "out", "init_from", "init_partly", "seed", "optimizer"}
    fixed = kept & set(changes)
    options = sorted({"numbers": "set"}.get(name, name.replace("_", "-")) for name in fixed)
    require(not fixed, f"--resume goes on as it was; leave out --{', --'.join(options)}")
    file = folder / CONFIG
    require(file.is_file(), f"{folder} cannot be resumed: there is no {file}, which every training leaves")
    try:
        saved = dict(json.loads(file.read_text("utf-8")))
        paths = {
            name: Path(saved[name])
            for name in ("data", "lr_dir", "data_root", "out", "pairs", "prepared")
            if saved.get(name)
        }
        saved |= {name: tuple(saved.get(name, ())) for name in ("numbers", "decay_at")}
        saved |= {"betas": tuple(saved.get("betas", TrainConfig.betas))}
        return TrainConfig(**{**saved, **paths, **changes, "resume": folder})
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise BadSetting(
            f"{folder} cannot be resumed: {file} is missing or not a training's config ({error})"
        ) from None
