"""Test sets by name: where they lie, and under which protocol their figures are published."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.data.degradations import CLEAN, SyntheticDegradation
from refsr_cli.data.degrade import degrade_bicubic, modcrop
from refsr_cli.data.folders import find_images, numbered
from refsr_cli.data.reference_sets import targets_among
from refsr_cli.data.remote import Fetching, Remote, fetch_set
from refsr_cli.errors import BadData, BadSetting
from refsr_cli.images import FORMATS, Picture, decode_image, read_image, to_pixels, to_tensor
from refsr_cli.images.jpeg import encode_jpeg
from refsr_cli.layers.resample import Convention
from refsr_cli.packaged import packaged


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """A published test set."""

    folders: tuple[str, ...]
    """Where its high-resolution images may lie below the data root; the first one is what we advise."""
    protocol: str
    count: int
    """Number of images in the full set."""
    source: str
    """Where people get it."""
    remote: Remote | None = None
    """Where refsr gets it."""


BENCHMARKS: dict[str, BenchmarkSpec] = {
    "Set5": BenchmarkSpec(
        folders=("Set5/HR", "Set5"), protocol="y", count=5, source="github.com/jbhuang0604/SelfExSR, data/Set5"
    ),
    "Set14": BenchmarkSpec(
        folders=("Set14/HR", "Set14"), protocol="y", count=14, source="github.com/jbhuang0604/SelfExSR, data/Set14"
    ),
    "B100": BenchmarkSpec(
        folders=("B100/HR", "B100", "BSD100/HR", "BSD100"),
        protocol="y",
        count=100,
        source="github.com/jbhuang0604/SelfExSR, data/BSD100",
    ),
    "Urban100": BenchmarkSpec(
        folders=("Urban100/HR", "Urban100"),
        protocol="y",
        count=100,
        source="github.com/jbhuang0604/SelfExSR, data/Urban100 (the images of SRF_4)",
    ),
    "DIV2K": BenchmarkSpec(
        folders=("DIV2K/DIV2K_valid_HR", "DIV2K_valid_HR"),
        protocol="ntire",
        count=100,
        source="data.vision.ee.ethz.ch/cvl/DIV2K, DIV2K_valid_HR.zip",
    ),
    "CUFED5": BenchmarkSpec(
        folders=("CUFED5",),
        protocol="y",
        count=126,
        source="github.com/ZZUTK/SRNTT, dataset/CUFED5 (NNN_0.png to NNN_5.png)",
        remote=Remote(
            repository="ZZUTK/SRNTT",
            commit="032b3c7b4614e52ecbed6feef5173956975e5779",
            folder="dataset/CUFED5",
            files=[f"{group:03d}_{number}.png" for group in range(126) for number in range(6)],
            terms="research data of SRNTT (Zhang et al., CVPR 2019), published without a licence",
        ),
    ),
    "Kodak24": BenchmarkSpec(
        folders=("Kodak24/HR", "Kodak24", "kodak"), protocol="y", count=24, source="r0k.us/graphics/kodak"
    ),
}


_LARGEST_CROP = 24
"""Fewer pixels than this may be missing at the end of a given low-resolution image: sets are cropped to multiples."""


@dataclass(frozen=True)
class Sample:
    """One image of a test set: `lr` as a file of 8 bit holds it, `hr` (1, 3, H, W) float in [0, 1], or (1, 1, H, W)
    where the image is grey."""

    name: str
    lr: Picture
    hr: Tensor
    top: int = 0
    left: int = 0
    """Where `hr` begins in the enlarged `lr`, in high-resolution pixels."""

    def cut(self, sr: Picture) -> Picture:
        """The part of the enlarged `lr` that `hr` is the truth of."""
        height, width = self.hr.shape[-2:]
        return replace(sr, pixels=sr.pixels[self.top : self.top + height, self.left : self.left + width])


@dataclass(frozen=True)
class Benchmark:
    """A folder of high-resolution images to be scored on."""

    name: str
    folder: Path
    protocol: str
    limit: int | None = None
    """Only the first so many images."""
    full: int | None = None
    """How many images the published set has."""
    lr_dir: Path | None = None
    """Folder of low-resolution images; they are made from the high-resolution ones when None."""
    span: tuple[int, int] | None = None
    """Only files whose number is within this range."""
    degradations: tuple[SyntheticDegradation, ...] = (CLEAN,)
    """What low-resolution images that are made go through; of several each image has one, by turns."""
    convention: Convention = "matlab"
    """Whose bicubic interpolation makes low-resolution images."""
    shrunk: int = 1
    """By how much the images are shrunk before they are the high-resolution ones: for nets that keep the size."""

    def paths(self) -> list[Path]:
        """The high-resolution files in order of name; in a set with references not those. Raises BadData when there is
        none."""
        found = find_images(self.folder)
        if self.span:
            found = numbered(found, self.span)
        return (targets_among(found) or found)[: self.limit]

    def name_of(self, path: Path) -> str:
        """The name of a file below the folder: `baby.png`, `more/bird.png`."""
        return path.relative_to(self.folder).as_posix()

    def samples(self, scale: int) -> Iterator[Sample]:
        """Every `sample`, in order of name."""
        return (self.sample(path, scale) for path in self.paths())

    def sample(self, path: Path, scale: int, pad_to: int = 1) -> Sample:
        """One image, cropped to a multiple of `scale`, or continued beyond its border to one of `pad_to`, for `lr`
        only. Raises BadData and BadImage."""
        picture = read_image(path)
        hr = to_tensor(picture.pixels)[:, : picture.pixels.shape[2]]
        if self.shrunk > 1:
            hr = degrade_bicubic(modcrop(hr, self.shrunk), self.shrunk)
        if self.lr_dir:
            lr = replace(read_image(lr_file(self.lr_dir, path, scale)), alpha=None)
            height, width = lr.height * scale, lr.width * scale
            if not (0 <= hr.shape[2] - height < _LARGEST_CROP and 0 <= hr.shape[3] - width < _LARGEST_CROP):
                raise BadData(
                    f"{path} is {hr.shape[3]}x{hr.shape[2]} and its low-resolution image {lr.width}x{lr.height}: "
                    f"that is not scale {scale}"
                )
            return Sample(self.name_of(path), lr, hr[..., :height, :width])
        if pad_to > 1:
            height, width = (size + -size % math.lcm(pad_to, scale) for size in hr.shape[2:])
            top, left = (height - hr.shape[2]) // 2, (width - hr.shape[3]) // 2
            sides = (left, width - hr.shape[3] - left, top, height - hr.shape[2] - top)
            lr = self._lr(F.pad(hr, sides, mode="replicate"), path, scale)
            return Sample(self.name_of(path), lr, hr, top, left)
        hr = modcrop(hr, scale)
        if 0 in hr.shape:
            raise BadData(f"{path} is smaller than {scale} pixels")
        return Sample(self.name_of(path), self._lr(hr, path, scale), hr)

    def _lr(self, hr: Tensor, path: Path, scale: int) -> Picture:
        """The low-resolution image of `hr`, as a file of it would be read."""
        name = self.name_of(path)
        degradation = self.degradations[0]
        if len(self.degradations) > 1:
            degradation = self.degradations[self.paths().index(path) % len(self.degradations)]
        lr = degradation.shrink(hr, scale, name, self.convention)
        pixels = to_pixels(lr, np.empty((1, 1, hr.shape[1]), np.uint8)).astype(np.uint8)
        if degradation.jpeg is not None:
            return decode_image(encode_jpeg(pixels, degradation.jpeg), name)
        return Picture(pixels, None, "png", None, None, None)


def lr_file(folder: Path, hr: Path, scale: int) -> Path:
    """The low-resolution file of `hr`: of the same name, or with the scale after it as DIV2K has it (0801x4.png)."""
    for stem in (hr.stem, f"{hr.stem}x{scale}", f"{hr.stem}_x{scale}", f"{hr.stem}X{scale}"):
        for suffix in dict.fromkeys((hr.suffix, *FORMATS)):
            if (path := folder / (stem + suffix)).is_file():
                return path
    raise BadData(f"{folder} has no low-resolution image for {hr.name}; it would be {hr.stem}x{scale}{hr.suffix}")


def find_data_root(given: Path | None = None) -> Path:
    """The folder of the named datasets: `given`, else $REFSR_DATA, else the user's cache."""
    return given or Path(os.environ.get("REFSR_DATA") or Path.home() / ".cache" / "refsr" / "data")


def open_benchmark(
    name: str,
    data_root: Path | None = None,
    *,
    limit: int | None = None,
    lr_dir: Path | None = None,
    span: tuple[int, int] | None = None,
) -> Benchmark:
    """The test set called `name`, or the folder of that path. Raises BadData that says where it was looked for."""
    spec = _spec(name)
    protocol = spec.protocol if spec else "y"
    given = Path(name)
    if given.is_dir():
        folder = given / "HR" if (given / "HR").is_dir() else given
        full = spec.count if spec and not span else None
        return Benchmark(given.resolve().name, folder, protocol, limit, full, lr_dir, span)
    if spec is None or given.name != name:
        known = ", ".join(BENCHMARKS)
        raise BadData(f"{name} is neither a folder nor a known dataset ({known})")
    root = find_data_root(data_root)
    for below in spec.folders:
        if (root / below).is_dir():
            return Benchmark(name, root / below, protocol, limit, None if span else spec.count, lr_dir, span)
    fetch = "give --download to fetch it, or " if spec.remote else ""
    raise BadData(
        f"{name} is not at {root / spec.folders[0]}; {fetch}put its {spec.count} high-resolution images there "
        f"(from {spec.source}), or name their folder, or set --data-root or $REFSR_DATA"
    )


def download_benchmark(name: str, data_root: Path | None = None) -> Iterator[Fetching]:
    """Fetches the test set called `name` to where `open_benchmark` looks for it. Raises BadSetting for one that refsr
    does not fetch, and BadData when it cannot be had."""
    spec = _spec(name)
    if spec is None or spec.remote is None:
        known = ", ".join(key for key, row in BENCHMARKS.items() if row.remote)
        raise BadSetting(f"--download fetches {known}, not {name}" + (f"; get it from {spec.source}" if spec else ""))
    yield from fetch_set(name, spec.remote, find_data_root(data_root) / spec.folders[0])


def _spec(name: str) -> BenchmarkSpec | None:
    return next((row for key, row in BENCHMARKS.items() if key.lower() == Path(name).name.lower()), None)


def trial_photos() -> Benchmark:
    """The few photos that travel with refsr: enough to try a command on."""
    return Benchmark("packaged photos", packaged("examples/images") / "kodak", "y")


def find_training_photos(data_root: Path | None = None) -> Path | None:
    """DIV2K in its published layout under the data root, where it is there."""
    root = find_data_root(data_root)
    return next((folder for folder in (root / "DIV2K", root) if (folder / "DIV2K_train_HR").is_dir()), None)
