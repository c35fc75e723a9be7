"""What travels with a picture besides its pixels: EXIF, orientation, resolution."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

_Base = ExifTags.Base
_T = TypeVar("_T", bound=np.generic)

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
NO_TURN = 1
"""The orientation of pixels that are stored as they are to be seen."""
_QUARTER_TURNS_BACK = {6: 8, 8: 6}
"""Every other orientation undoes itself."""
_HIGHEST_DPI = 65535


def parsed(read: Callable[[], Image.Exif]) -> Image.Exif:
    """`read()` with every tag parsed; without any tag when it is damaged."""
    try:
        exif = read()
        dict(exif)
        return exif
    except Exception:  # anything may be raised from within the parser
        return _empty()


def orientation(exif: Image.Exif) -> int:
    """1 to 8: how the stored pixels have to be turned to be seen upright; 1 (not at all) when it is not known."""
    value = exif.get(_Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: npt.NDArray[_T], orientation: int) -> npt.NDArray[_T]:
    """`pixels` (H, W, ...) as `orientation` wants them seen; 5 to 8 exchange height and width. Contiguous."""
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def turned_back(pixels: npt.NDArray[_T], orientation: int) -> npt.NDArray[_T]:
    """Undoes `upright`."""
    return upright(pixels, _QUARTER_TURNS_BACK.get(orientation, orientation))


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
    except Exception:  # as above
        return None


def for_size(exif: bytes | None, width: int, height: int, dpi: tuple[float, float] | None) -> Image.Exif:
    """`exif` as `portable` gave it, with the size and the resolution of the picture to be written; may be empty."""
    result = _changeable(exif) if exif else _empty()
    details = result.get(ExifTags.IFD.Exif, {})
    for tag, value in ((_Base.ExifImageWidth, width), (_Base.ExifImageHeight, height)):
        if tag in details:
            details[tag] = value
    if dpi:
        result.update({_Base.XResolution: dpi[0], _Base.YResolution: dpi[1], _Base.ResolutionUnit: _INCH})
    return result


def _empty() -> Image.Exif:
    result = Image.Exif()
    result.endian = "<"
    return result


def _changeable(exif: bytes) -> Image.Exif:
    """With its directories as dictionaries, which can be changed, and its texts as the bytes they were; else empty."""
    result = Image.Exif()
    try:
        result.load(exif)
        for tag, value in list(result.items()):
            if isinstance(value, str):
                result[tag] = value.encode("latin-1", "replace")
        for directory in _DIRECTORIES:
            if directory in result:
                result[directory] = dict(result.get_ifd(directory))
        result.tobytes()
        return result
    except Exception:  # as above
        return _empty()


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
    """`dpi` if it is a resolution that every format can store, else None.

    PNG stores dots per metre, so that 300 dpi come back as 299.9994: near a whole number, that is what was meant.
    """
    if dpi and all(math.isfinite(value) and 1 <= value <= _HIGHEST_DPI for value in dpi):
        return _whole(float(dpi[0])), _whole(float(dpi[1]))
    return None


def _whole(value: float) -> float:
    return float(round(value)) if abs(value - round(value)) < 0.013 else value
