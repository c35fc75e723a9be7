"""Settings of each task and their defaults: frozen, and torch-free."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from refsr_cli.errors import BadSetting

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Schedule = Literal["constant", "step", "cosine"]
Stage = Literal["teacher", "match", "restore"]
Contrast = Literal["margin", "soft"]


VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Endings of the files that are read as video."""
CONFIG = "config.json"
"""Name of the settings in a run directory."""


Span = tuple[int, int]
"""First and last of a range of numbers."""


def _spans(text: str | None) -> tuple[Span | None, Span | None]:
    """`1-800/801-900` as two ranges; the second may be missing."""
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d+)-(\d+)(?:/(\d+)-(\d+))?", text)
    numbers = [int(number) for number in (match.groups() if match else ()) if number]
    spans = list(zip(numbers[::2], numbers[1::2], strict=True))
    _require(
        bool(spans) and all(first <= last for first, last in spans),
        f"--data-range is such as 1-800/801-900, not '{text}'",
    )
    return spans[0], spans[1] if len(spans) == 2 else None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BadSetting(message)


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """Which net, and how it is run: what every command that runs one has in common."""

    model: str | None = None
    """Name in MODELS; None is the best packaged net for the scale."""
    weights: str | tuple[str, ...] | None = None
    """File, manifest id, or hub repository, or those of the parts of one net; None is the packaged or published file of
    `model`."""
    flavour: str | None = None
    """Layout of a published weight file where its keys do not tell."""
    res_scale: float | None = None
    """Residual scaling of a published weight file, which does not say it itself."""
    self_ensemble: bool | None = None
    """Mean over the eight orientations; None is on for a GPU and off for a CPU."""
    tile: int | None = None
    """Side of a tile in input pixels; 0 is the whole picture at once, None is what fits into `memory`."""
    memory: int | None = None
    """Bytes that computing may take besides the pictures themselves; None is a part of what the device has."""
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    """Compile the net first."""

    def __post_init__(self) -> None:
        _require(self.memory is None or self.memory > 0, f"--memory must be above 0, not {self.memory}")


DEFAULT_SCALE = 4
"""By what `upscale` enlarges when nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class UpscaleConfig(NetConfig):
    """`refsr upscale`."""

    inputs: tuple[str, ...]
    """Files, folders, and patterns."""
    output: Path | None = None
    """A file or a folder; next to the input when None."""
    scale: int | None = None
    """Whole factor; 4 when no size is given either."""
    size: tuple[int, int] | None = None
    """Width and height to reach exactly."""
    long_side: int | None = None
    """Longer side to reach, keeping the shape."""
    refs: tuple[str, ...] = ()
    """Photos of the same scene: files, folders, and patterns."""
    trust_map: Path | None = None
    """File for a picture of where the references were believed."""
    compare: Path | None = None
    """File for a sheet that shows input, results without and with references, trust, and references side by side."""
    format: str | None = None
    """Format of the output; that of the input when None."""
    quality: int | None = None
    recursive: bool = False
    skip_existing: bool = False
    overwrite: bool = False
    allow_large: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = [name for name in ("scale", "size", "long_side") if getattr(self, name) is not None]
        _require(
            len(asked) <= 1, f"give one of {' and '.join('--' + name.replace('_', '-') for name in asked)}, not both"
        )
        _require(self.scale in (None, 2, 3, 4, 8), f"--scale is 2, 3, 4 or 8, not {self.scale}; for other sizes --size")
        _require(self.size is None or min(self.size) >= 1, "--size must be at least 1x1")
        _require(self.long_side is None or self.long_side >= 1, f"--long-side must be at least 1, not {self.long_side}")
        _require(self.quality is None or 1 <= self.quality <= 100, f"--quality is 1 to 100, not {self.quality}")
        _require(bool(self.refs) or not self.trust_map, "--trust-map shows what references did; give --ref too")
        _require(bool(self.refs) or not self.compare, "--compare shows what references did; give --ref too")
        _require(not (self.skip_existing and self.overwrite), "give --skip-existing or --overwrite, not both")

    @property
    def label(self) -> str:
        """What a result is called after its source: x4, or the size that was asked for."""
        if self.size:
            return f"{self.size[0]}x{self.size[1]}"
        return str(self.long_side) if self.long_side else f"x{self.scale or DEFAULT_SCALE}"

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture of `width` and `height` is to reach."""
        if self.size:
            return self.size
        factor = self.long_side / max(width, height) if self.long_side else self.scale or DEFAULT_SCALE
        return max(1, round(width * factor)), max(1, round(height * factor))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(NetConfig):
    """`refsr eval`."""

    dataset: str
    """Name in BENCHMARKS, or a folder of high-resolution images."""
    scale: int = 4
    self_ensemble: bool | None = False
    """Off, and `precision` exact, on every device: a score must not depend on the machine."""
    precision: Precision = "fp32"
    protocol: str | None = None
    """Name in PROTOCOLS; the one the dataset is usually reported under when None."""
    lr_dir: Path | None = None
    """Folder of low-resolution images to use instead of those made from the high-resolution ones."""
    data_root: Path | None = None
    """Folder that holds the named datasets; $REFSR_DATA or the user's cache when None."""
    download: bool = False
    """Whether a named dataset that refsr knows where to find is fetched first."""
    refs: str = "all"
    """Which references of a set that has them: all, none, a number, L1 to L5, or ones made to test with."""
    stress: bool = False
    """Whether references of many kinds are tried one after the other, mild and severe, instead of `refs`."""
    plot: Path | None = None
    """File for the picture of what they gained; `stress-MODEL-xSCALE.png` when None."""
    limit: int | None = None
    """Only the first so many images."""
    save: Path | None = None
    """Folder for the results as PNG."""
    csv: Path | None = None
    """File for the table."""
    overwrite: bool = False
    """Whether results and table may take the place of files that are there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.scale >= 1, f"--scale must be at least 1, not {self.scale}")
        _require(self.limit is None or self.limit >= 1, f"--limit must be at least 1, not {self.limit}")
        _require(self.stress or not self.plot, "--plot is the picture of --stress; give that too")
        _require(self.plot is None or self.plot.suffix.lower() == ".png", "--plot must end in .png")
        _require(self.plot is None or self.plot != self.csv, "--plot and --csv are the same file")
        _require(not (self.stress and self.save), "--stress compares scores alone; leave out --save")
        _require(not (self.stress and self.refs != "all"), "--stress tries many references; leave out --refs")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """`refsr bench`."""

    models: tuple[str, ...] = ("edsr-baseline",)
    weights: str | None = None
    """Of the one model that is compared; its packaged ones when None, or none: an untrained net is as fast."""
    scale: int = 4
    sizes: tuple[tuple[int, int], ...] = ((256, 256),)
    """Width and height of the pictures to enlarge."""
    against: tuple[str, ...] = ()
    """Names in CONTENDERS; all that can run here when empty."""
    truth: Path | None = None
    """A picture to be made small and enlarged again, so that results are scored too."""
    rounds: int = 5
    """Runs of each, by turns, after one to warm up."""
    growth: bool = False
    """Whether time is told as pictures grow, and for nets that take them, references."""
    device: str = "auto"
    output: Path | None = None
    """Report: .html with plots, .csv or .json."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        _require(self.rounds >= 1, f"--rounds must be at least 1, not {self.rounds}")
        _require(self.scale in (2, 3, 4, 8), f"--scale is 2, 3, 4 or 8, not {self.scale}")
        _require(all(min(size) >= 8 for size in self.sizes), "--size must be at least 8x8")
        _require(not self.weights or len(self.models) == 1, "--weights are those of one --model")
        _require(not self.truth or self.sizes == BenchConfig.sizes, "--truth has its own size; leave out --size")
        suffixes = (".html", ".csv", ".json")
        _require(
            self.output is None or self.output.suffix.lower() in suffixes,
            f"--output must end in {', '.join(suffixes)}, not {self.output}",
        )
        csv = self.output is not None and self.output.suffix.lower() == ".csv"
        _require(not (self.growth and csv), "a table has no place for --growth; let --output end in .html or .json")


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """`refsr weights inspect`."""

    weights: str | tuple[str, ...]
    """File, manifest id, or hub repository, or those of the parts of one net."""
    scale: int | None = None
    """Which file of a repository is meant."""
    flavour: str | None = None
    """Layout of a published weight file where its keys do not tell."""
    res_scale: float | None = None
    """Residual scaling of a published weight file, which does not say it itself."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(InspectConfig):
    """`refsr weights convert`."""

    output: Path | None = None
    """Beside the file, or in the working directory for one that was fetched, ending in .safetensors, when None."""
    half: bool = False
    """Float16: half as large."""
    trunk: Path | None = None
    """Our file of the single-image net within it, beside the output, which need not hold that again."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        _require(self.output is None or self.output.suffix == ".safetensors", "--output must end in .safetensors")


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """`refsr models show`."""

    model: str
    scale: int = 4
    numbers: tuple[str, ...] = ()
    """Changes of the net's own numbers, each `name=value`."""
    depth: int = 3
    """How many layers of modules in modules are listed."""
    size: int = 48
    """Side of the low-resolution picture that is sent through."""

    def __post_init__(self) -> None:
        _require(self.depth >= 1, f"--depth must be at least 1, not {self.depth}")
        _require(self.size >= 8, f"--size must be at least 8, not {self.size}")


@dataclass(frozen=True, kw_only=True)
class SliceConfig:
    """`refsr weights slice-vgg`."""

    weights: Path | None = None
    """torchvision's VGG-19; fetched into torch's cache when None."""
    output: Path = Path("vgg19-stem.safetensors")
    overwrite: bool = False

    def __post_init__(self) -> None:
        _require(self.output.suffix == ".safetensors", "--output must end in .safetensors")


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
    batch: int = 16
    patch: int = 48
    """Side of a crop in low-resolution pixels."""
    candidates: int = 1
    """The most detailed of this many random crops is taken."""
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
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patch", "candidates", "decay_every", "validate_every", "log_every", "samples"):
            _require(
                getattr(self, name) >= 1, f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}"
            )
        _require(self.patch >= 3 or not self.fold_tail, "--fold-tail needs a --patch of at least 3")
        _require(0 < self.learning_rate < math.inf, f"--learning-rate must be above 0, not {self.learning_rate}")
        _require(self.schedule in get_args(Schedule), f"--schedule is {' or '.join(get_args(Schedule))}")
        _require(0 < self.decay <= 1, f"--decay is above 0 and at most 1, not {self.decay}")
        _require(self.skip_above == 0 or self.skip_above > 1, f"--skip-above is 0 or above 1, not {self.skip_above}")
        _require(
            self.checkpoint_minutes >= 0, f"--checkpoint-minutes must not be negative, not {self.checkpoint_minutes}"
        )
        _require(self.ease >= 0, f"--ease must not be negative, not {self.ease}")
        _require(0 <= self.foreign <= 1, f"--foreign is a part between 0 and 1, not {self.foreign}")
        _require(self.workers is None or self.workers >= 0, f"--workers must not be negative, not {self.workers}")
        _require(0 <= self.ema < 1, f"--ema must be at least 0 and below 1, not {self.ema}")
        _require(0 <= self.seed < 2**63, f"--seed must be at least 0 and below 2^63, not {self.seed}")
        _require(self.warmup >= 0 and self.clip >= 0, "--warmup and --clip must not be negative")
        _require(self.init_from is not None or not self.init_partly, "--init-partly says how to --init-from; give that")
        _require(self.stage in get_args(Stage), f"--stage is {', '.join(get_args(Stage))}, not {self.stage}")
        _require(self.teacher is None or self.stage == "match", "--teacher is for --stage match")
        _require(self.contrast in get_args(Contrast), f"--contrast is {' or '.join(get_args(Contrast))}")
        _ = self.train_range, self.val_range

    @property
    def train_range(self) -> Span | None:
        """First and last number of the photos to train on."""
        return _spans(self.data_range)[0]

    @property
    def val_range(self) -> Span | None:
        """First and last number of the images to validate on."""
        return _spans(self.data_range)[1]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """`refsr prepare`."""

    data: Path
    """Folder of photos."""
    output: Path
    """The LMDB file."""
    side: int = 480
    """Of the squares that photos are cut into, and `step` from one to the next, in pixels."""
    step: int = 240
    data_range: str | None = None
    """Numbers of the photos that are taken, such as 1-800."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        _require(self.output.suffix == ".lmdb", f"--output must end in .lmdb, not {self.output.name}")
        _require(self.side >= 16, f"--side must be at least 16, not {self.side}")
        _require(self.step >= 1, f"--step must be at least 1, not {self.step}")
        _ = self.span

    @property
    def span(self) -> Span | None:
        """First and last number of the photos."""
        return _spans(self.data_range)[0]


def resumed(folder: Path, changes: dict[str, Any]) -> TrainConfig:
    """The config of an earlier training in `folder`, with `changes`. Raises BadSetting when it is not there, and for
    changes that an earlier training cannot take."""
    fixed = {"model", "scale", "recipe", "numbers", "out", "init_from", "init_partly", "seed"} & set(changes)
    options = sorted({"numbers": "set"}.get(name, name.replace("_", "-")) for name in fixed)
    _require(not fixed, f"--resume goes on as it was; leave out --{', --'.join(options)}")
    file = folder / CONFIG
    _require(file.is_file(), f"{folder} cannot be resumed: there is no {file}, which every training leaves")
    try:
        saved = dict(json.loads(file.read_text("utf-8")))
        paths = {
            name: Path(saved[name])
            for name in ("data", "lr_dir", "data_root", "out", "pairs", "prepared")
            if saved.get(name)
        }
        saved |= {name: tuple(saved.get(name, ())) for name in ("numbers", "decay_at")}
        return TrainConfig(**{**saved, **paths, **changes, "resume": folder})
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise BadSetting(
            f"{folder} cannot be resumed: {file} is missing or not a training's config ({error})"
        ) from None
