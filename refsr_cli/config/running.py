"""Settings of the commands that run a net on pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refsr_cli.config.nets import check_mean
from refsr_cli.config.spans import Span, one_span
from refsr_cli.errors import require

Precision = Literal["auto", "fp32", "bf16", "fp16"]

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Endings of the files that are read as video."""
DEFAULT_SCALE = 4
"""By what `upscale` enlarges when nothing else is asked for."""
LARGEST_RESULT = 2_000_000_000
"""Pixels above which a result is made only when asked to: a slip of the finger may fill the memory."""


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
    rgb_mean: tuple[float, float, float] | None = None
    """Mean colour in [0, 1] that a published net subtracts, where its file does not contain it."""
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
    as_published: bool = False
    """The net as its paper defines it: without restoration, mirrored border and back-projection."""
    restore: float | None = None
    """How strongly JPEG, noise and blur are removed first, 0 (off) to 1; None is by what is known of each picture."""

    def __post_init__(self) -> None:
        check_mean(self.rgb_mean)
        require(self.restore is None or 0 <= self.restore <= 1, f"--restore is auto, off or 0 to 1, not {self.restore}")
        require(not (self.as_published and self.restore), "--as-published restores nothing; leave out --restore")
        require(self.memory is None or self.memory > 0, f"--memory must be above 0, not {self.memory}")


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
        require(
            len(asked) <= 1, f"give one of {' and '.join('--' + name.replace('_', '-') for name in asked)}, not both"
        )
        require(self.scale in (None, 2, 3, 4, 8), f"--scale is 2, 3, 4 or 8, not {self.scale}; for other sizes --size")
        require(self.size is None or min(self.size) >= 1, "--size must be at least 1x1")
        require(self.long_side is None or self.long_side >= 1, f"--long-side must be at least 1, not {self.long_side}")
        require(self.quality is None or 1 <= self.quality <= 100, f"--quality is 1 to 100, not {self.quality}")
        require(bool(self.refs) or not self.trust_map, "--trust-map shows what references did; give --ref too")
        require(bool(self.refs) or not self.compare, "--compare shows what references did; give --ref too")
        require(not (self.skip_existing and self.overwrite), "give --skip-existing or --overwrite, not both")

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
    degrade: str | None = None
    """By what low-resolution images are made besides shrinking, such as `noise:3+jpeg:80`; `all` tries many, one after
    the other."""
    refs: str = "all"
    """Which references of a set that has them: all, none, a number, L1 to L5, or ones made to test with."""
    stress: bool = False
    """Whether references of many kinds are tried one after the other, mild and severe, instead of `refs`."""
    plot: Path | None = None
    """File for the picture of what they gained; `stress-MODEL-xSCALE.png` or `degraded-MODEL-xSCALE.png` when None."""
    eval_range: str | None = None
    """Only images whose names begin with a number of this range, such as `801-900`."""
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
        require(self.scale >= 1, f"--scale must be at least 1, not {self.scale}")
        _ = self.index_range
        require(self.limit is None or self.limit >= 1, f"--limit must be at least 1, not {self.limit}")
        many = self.stress or self.degrade == "all"
        require(many or not self.plot, "--plot is the picture of --stress or of --degrade all; give that too")
        require(not (self.degrade and self.lr_dir), "--degrade is for images made here; leave out --lr-dir")
        require(
            not (self.degrade == "all" and (self.stress or self.save)),
            "--degrade all compares scores alone; leave out --stress and --save",
        )
        require(self.plot is None or self.plot.suffix.lower() == ".png", "--plot must end in .png")
        require(self.plot is None or self.plot != self.csv, "--plot and --csv are the same file")
        require(not (self.stress and self.save), "--stress compares scores alone; leave out --save")
        require(not (self.stress and self.refs != "all"), "--stress tries many references; leave out --refs")

    @property
    def index_range(self) -> Span | None:
        """First and last number of the images to score."""
        return None if self.eval_range is None else one_span("--eval-range", self.eval_range)


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
        require(self.rounds >= 1, f"--rounds must be at least 1, not {self.rounds}")
        require(self.scale in (2, 3, 4, 8), f"--scale is 2, 3, 4 or 8, not {self.scale}")
        require(all(min(size) >= 8 for size in self.sizes), "--size must be at least 8x8")
        largest = max(width * height * self.scale**2 for width, height in self.sizes)
        require(largest <= LARGEST_RESULT, f"--size makes a result of {largest} pixels; {LARGEST_RESULT} at most")
        require(not self.weights or len(self.models) == 1, "--weights are those of one --model")
        require(not self.truth or self.sizes == BenchConfig.sizes, "--truth has its own size; leave out --size")
        suffixes = (".html", ".csv", ".json")
        require(
            self.output is None or self.output.suffix.lower() in suffixes,
            f"--output must end in {', '.join(suffixes)}, not {self.output}",
        )
        csv = self.output is not None and self.output.suffix.lower() == ".csv"
        require(not (self.growth and csv), "a table has no place for --growth; let --output end in .html or .json")
