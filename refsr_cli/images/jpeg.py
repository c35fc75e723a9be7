"""JPEG: how a file was compressed, and pictures compressed in memory."""

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

from refsr_cli.images.exif import NO_TURN, turned_back, upright

Subsampling = Literal["4:2:0", "4:2:2", "4:4:4"]
_STEPS = 64
_LARGEST_STEP = 255
"""That of a baseline JPEG."""


@dataclass(frozen=True)
class JpegCoding:
    """How the pixels of a JPEG file were compressed."""

    tables: tuple[tuple[int, ...], ...]
    """For each component (luma first) the 64 quantisation steps of the 8x8 DCT, row by row."""
    sampling: tuple[tuple[int, int], ...]
    """For each component its sampling factors along the width and the height."""
    orientation: int = NO_TURN
    """1 to 8: by which EXIF orientation the decoded pixels were turned upright."""
    has_luma: bool = True
    """Whether the first component is the luma of the pixels; of CMYK and RGB it is not."""


def coding_of(image: ImageFile, orientation: int) -> JpegCoding | None:
    """The coding of a JPEG that Pillow opened; None where it does not say it."""
    tables, layers = getattr(image, "quantization", {}), getattr(image, "layer", [])
    as_rgb = image.info.get("adobe_transform", 1) == 0 or [row[0] for row in layers] == list(b"RGB")
    has_luma = image.mode == "L" or (image.mode == "RGB" and not as_rgb)
    try:
        steps = tuple(tuple(int(step) for step in tables[number]) for _, _, _, number in layers)
        sampling = tuple((int(across), int(down)) for _, across, down, _ in layers)
    except (LookupError, TypeError, ValueError):
        return None
    whole = bool(steps) and all(len(table) == _STEPS and min(table) >= 1 for table in steps)
    sampled = all(1 <= factor <= 4 for pair in sampling for factor in pair)
    return JpegCoding(steps, sampling, orientation, has_luma) if whole and sampled else None


def encode_jpeg(pixels: npt.NDArray[np.uint8], quality: int, subsampling: Subsampling = "4:2:0") -> bytes:
    """A JPEG file of `pixels` (H, W, 1 or 3); `quality` 1 to 100 as libjpeg counts it."""
    return _encoded(pixels, quality=quality, subsampling=subsampling)


def recompressed(
    pixels: npt.NDArray[np.uint8], quality: int, subsampling: Subsampling = "4:2:0"
) -> npt.NDArray[np.uint8]:
    """`pixels` (H, W, 1 or 3) as they come back from a JPEG file."""
    return _decoded(encode_jpeg(pixels, quality, subsampling))


def recompressed_as(pixels: npt.NDArray[np.uint8], coding: JpegCoding) -> npt.NDArray[np.uint8]:
    """`pixels` (H, W, 1 or 3), upright, as they come back from a file with the tables, the grid and about the sampling
    of `coding`, which has luma."""
    stored = turned_back(pixels, coding.orientation)
    tables = [[min(step, _LARGEST_STEP) for step in table] for table in coding.tables[:2]]
    across, down = coding.sampling[0]
    subsampling = "4:4:4" if across == down == 1 else "4:2:2" if down == 1 else "4:2:0"
    return upright(_decoded(_encoded(stored, qtables=tables, subsampling=subsampling)), coding.orientation)


def _encoded(pixels: npt.NDArray[np.uint8], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", **options)
    return file.getvalue()


def _decoded(file: bytes) -> npt.NDArray[np.uint8]:
    return np.atleast_3d(np.array(Image.open(io.BytesIO(file))))
