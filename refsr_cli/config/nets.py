"""Settings of the commands that show nets and their weights."""

from dataclasses import dataclass
from pathlib import Path

from refsr_cli.errors import require


def check_mean(rgb: tuple[float, float, float] | None) -> None:
    """Raises BadSetting for a mean colour that is not within [0, 1]."""
    require(
        rgb is None or all(0 <= value <= 1 for value in rgb),
        "--rgb-mean is three numbers in 0 to 1, red, green and blue, such as 0.4488,0.4371,0.4040",
    )


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
        require(self.depth >= 1, f"--depth must be at least 1, not {self.depth}")
        require(self.size >= 8, f"--size must be at least 8, not {self.size}")


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
    rgb_mean: tuple[float, float, float] | None = None
    """Mean colour in [0, 1] that a published net subtracts, where its file does not contain it."""

    def __post_init__(self) -> None:
        check_mean(self.rgb_mean)


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
        super().__post_init__()
        require(self.output is None or self.output.suffix == ".safetensors", "--output must end in .safetensors")


@dataclass(frozen=True, kw_only=True)
class SliceConfig:
    """`refsr weights slice-vgg`."""

    weights: Path | None = None
    """torchvision's VGG-19; fetched into torch's cache when None."""
    output: Path = Path("vgg19-stem.safetensors")
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(self.output.suffix == ".safetensors", "--output must end in .safetensors")
