"""Writing an image file: whole, or not at all."""

from pathlib import Path
from typing import BinaryIO

from refsr_cli.errors import BadFile, BadImage, BadSetting, OutOfMemory, UnknownName
from refsr_cli.files import replacing
from refsr_cli.images import eight_bits, png, tiff
from refsr_cli.images import exif as tags
from refsr_cli.images.picture import FORMATS, NAMES, Picture

_LONGEST_SIDE = {"jpg": 65500, "webp": 16383}


def write_image(path: Path, picture: Picture, *, format: str | None = None, quality: int | None = None) -> None:
    """`picture` to `path`, in `format` or else what its suffix says; whole, or not at all.

    PNG and TIFF keep everything. JPEG, WebP and BMP have 8 bits; JPEG and BMP show transparent parts on white; WebP
    has no grey, BMP neither profile nor EXIF. `quality` is 1 to 100 for JPEG and WebP, by default 95; WebP is lossless
    at 100. Raises BadImage when it cannot be written, BadSetting for another quality or format.
    """
    name = _format_for(path, format)
    if quality is not None and not 1 <= quality <= 100:
        raise BadSetting(f"quality is 1 to 100, not {quality}")
    check_size(path, picture.width, picture.height, format=name)
    try:
        with replacing(_target(path)) as unfinished, unfinished.open("xb") as file:
            _encode(file, name, picture, quality)
    except (BadImage, ValueError, OSError) as error:
        raise BadImage(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error.__cause__
    except BadFile as error:
        raise BadImage(str(error)) from None
    except MemoryError as error:
        raise OutOfMemory(f"not enough memory to write {path}") from error


def _target(path: Path) -> Path:
    """The file that `path` stands for, past links. Raises BadImage, or OSError or ValueError for an impossible path."""
    target = path.resolve()
    if not target.parent.is_dir():
        raise BadImage(f"the folder {path.parent} does not exist")
    if target.exists() and not target.is_file():
        raise BadImage("it is not a file")
    return target


def check_size(path: Path, width: int, height: int, *, format: str | None = None) -> None:
    """Raises BadImage where the format of `path` cannot hold so many pixels a side."""
    name = _format_for(path, format)
    longest = _LONGEST_SIDE.get(name)
    if longest and max(width, height) > longest:
        raise BadImage(
            f"{path} cannot be written: {width}x{height} is more than the {longest} pixels a side of {name}; "
            "write png or tiff"
        )


def _format_for(path: Path, format: str | None) -> str:
    if format is not None:
        if format not in NAMES:
            raise UnknownName("image format", format, NAMES)
        return format
    if path.suffix.lower() not in FORMATS:
        raise BadImage(f"{path} does not name a format that refsr writes; use one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _encode(file: BinaryIO, format: str, picture: Picture, quality: int | None) -> None:
    pixels, alpha, icc, dpi = picture.pixels, picture.alpha, picture.icc, picture.dpi
    exif = tags.for_size(picture.exif, picture.width, picture.height, dpi)
    if format == "tiff":
        tiff.write(file, pixels, alpha, icc=icc, exif=exif)
        return
    # WebP has no other place for the resolution.
    tagged = exif.tobytes() if picture.exif or (dpi and format == "webp") else None
    if format == "png":
        png.write(file, pixels, alpha, icc=icc, exif=tagged, dpi=dpi)
        return
    opacity = None if alpha is None else eight_bits.rounded(alpha)
    eight_bits.write(file, format, eight_bits.rounded(pixels), opacity, icc=icc, exif=tagged, dpi=dpi, quality=quality)
