"""A picture in memory, and the formats of its file."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from refsr_cli.images.alpha import bleed
from refsr_cli.images.jpeg import JpegCoding

Pixels: TypeAlias = npt.NDArray[np.uint8 | np.uint16]

FORMATS = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
}
"""Format by the suffix of a file name, in lower case."""

NAMES = tuple(dict.fromkeys(FORMATS.values()))


@dataclass(frozen=True)
class Picture:
    """An image file in memory, upright."""

    pixels: Pixels
    """(H, W, C), C = 1 (grey) or 3 (RGB); uint8 or uint16; not multiplied by alpha. May be read-only."""
    alpha: Pixels | None
    """(H, W) with the dtype of `pixels`; None when opaque."""
    format: str
    """What it was read from: "png", "jpg", "webp", "tiff" or "bmp"."""
    icc: bytes | None
    """Colour profile for the channels of `pixels`."""
    exif: bytes | None
    """Ready to be written: its orientation is 1."""
    dpi: tuple[float, float] | None
    """Dots per inch along width and height."""
    jpeg: JpegCoding | None = None
    """How the file compressed the pixels; None for another format, and where a JPEG does not say it."""

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def peak(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


def bleed_color(picture: Picture) -> Picture:
    """With the colour of fully transparent pixels replaced by that of the nearest visible ones, which does not change.

    What is invisible may hold any colour, most often black, and enlarging would draw it into the visible edge.
    """
    if picture.alpha is None:
        return picture
    return replace(picture, pixels=bleed(picture.pixels, picture.alpha))
