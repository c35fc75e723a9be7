"""What travels with a picture besides its pixels: EXIF, orientation, resolution."""

import math
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image

from refsr_cli.errors import BadImage

_Base = ExifTags.Base
_Array = TypeVar("_Array", bound="np.ndarray[Any, Any]")

_TEXTS = (
    _Base.ImageDescription,
    _Base.Make,
    _Base.Model,
    _Base.Software,
    _Base.DateTime,
    _Base.Artist,
    _Base.HostComputer,
    _Base.Copyright,
)
"""The tags of the first directory that describe the photo; the others describe how a file stores it."""

_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_INCH, _CENTIMETRE = 2, 3
_HIGHEST_DPI = 65535


def orientation(exif: Image.Exif) -> int:
    """1 to 8: how the stored pixels have to be turned to be seen upright; 1 (not at all) when it is not known."""
    value = exif.get(_Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: _Array, orientation: int) -> _Array:
    """`pixels` (H, W, ...) as `orientation` wants them seen; 5 to 8 exchange height and width. Contiguous."""
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def portable(exif: Image.Exif) -> bytes | None:
    """The part of `exif` that stays true for the upright picture in any file; None when nothing is left.

    The orientation becomes 1; a thumbnail, the storage tags of a TIFF, and what cannot be parsed are left out.
    """
    try:
        kept = Image.Exif()
        kept.endian = exif.endian
        for text in _TEXTS:
            if isinstance(value := exif.get(text), str):
                kept[text] = value.encode("latin-1", "replace")  # as it was read, so that UTF-8 survives
        for directory in _DIRECTORIES:
            values = dict(exif.get_ifd(directory))
            values.pop(ExifTags.IFD.Interop, None)
            if values:
                kept[directory] = values
        if _Base.Orientation in exif:
            kept[_Base.Orientation] = 1
        return kept.tobytes() if len(kept) else None
    except Exception:  # a damaged directory may raise anything from within the parser
        return None


def for_size(exif: bytes | None, width: int, height: int, dpi: tuple[float, float] | None) -> Image.Exif:
    """`exif` as `portable` gave it, with the size and the resolution of the picture to be written; may be empty."""
    result = Image.Exif()
    result.endian = "<"
    if exif:
        result = _parsed(exif)
        details = result.get_ifd(ExifTags.IFD.Exif)
        for tag, value in ((_Base.ExifImageWidth, width), (_Base.ExifImageHeight, height)):
            if tag in details:
                details[tag] = value
    if dpi:
        result.update({_Base.XResolution: dpi[0], _Base.YResolution: dpi[1], _Base.ResolutionUnit: _INCH})
    return result


def _parsed(exif: bytes) -> Image.Exif:
    """With its directories as dictionaries, which can be changed, and its texts as bytes, which are written as they are."""
    result = Image.Exif()
    try:
        result.load(exif)
        for tag, value in list(result.items()):
            if isinstance(value, str):
                result[tag] = value.encode("latin-1", "replace")
        for directory in _DIRECTORIES:
            if directory in result:
                result[directory] = result.get_ifd(directory)
    except Exception as error:  # as in `portable`
        raise BadImage(f"its EXIF is damaged ({error})") from error
    return result


def resolution(exif: Image.Exif) -> tuple[float, float] | None:
    """Dots per inch along the stored width and height, from the tags of `exif`."""
    per_inch = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(exif.get(_Base.ResolutionUnit, _INCH))
    x, y = exif.get(_Base.XResolution), exif.get(_Base.YResolution)
    if per_inch is None or x is None or y is None:
        return None
    try:
        return float(x) * per_inch, float(y) * per_inch
    except (TypeError, ValueError):
        return None


def plausible(dpi: tuple[float, float] | None) -> tuple[float, float] | None:
    """`dpi` if it is a resolution that every format can store, else None."""
    if dpi and all(math.isfinite(value) and 1 <= value <= _HIGHEST_DPI for value in dpi):
        return float(dpi[0]), float(dpi[1])
    return None
