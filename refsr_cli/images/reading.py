"""Reading an image file, whatever its name."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refsr_cli.errors import BadImage, OutOfMemory
from refsr_cli.images import eight_bits, png, sixteen_bits, tiff
from refsr_cli.images import exif as tags
from refsr_cli.images.jpeg import coding_of
from refsr_cli.images.picture import NAMES, Picture, Pixels

LARGE = 200_000_000
"""Pixels above which a picture is read only when asked to: a small file may claim any size."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"BM", "bmp"),
)
_OTHERS = (
    (0, b"GIF8", "a GIF"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, b"MM\0+", "a big-endian BigTIFF"),
    (0, b"v/1\x01", "an OpenEXR image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyphe", "an HEIC image"),
    (4, b"ftypmif1", "an HEIC image"),
    (4, b"ftyp", "a video"),
    (0, b"<svg", "an SVG drawing"),
)


def read_image(path: Path, *, allow_large: bool = False) -> Picture:
    """The picture in `path`, whose content tells the format, not its name.

    8 and 16 bits per sample stay as they are, fewer become 8; grey stays grey; palettes become RGB; CMYK and LAB become
    8-bit sRGB. Raises BadImage when it cannot be read, or has more than `LARGE` pixels and not `allow_large`.
    """
    return _read(str(path), lambda: _read_file(path), allow_large)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of the picture in `path`, as it says itself without being decoded; (0, 0) where it does not."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # what a damaged file raises may be anything
        return 0, 0


def read_rgb8(path: Path, *, allow_large: bool = False) -> Tensor:
    """(3, H, W) uint8 RGB of the photo in `path`: grey repeated, alpha dropped, 16 bits rounded to 8.

    Raises BadImage like `read_image`.
    """
    return _as_rgb8(read_image(path, allow_large=allow_large))


def decode_image(data: bytes, name: str) -> Picture:
    """`read_image` of a file's content, called `name` in messages."""
    return _read(name, lambda: (data, _format_of(data[:32])), allow_large=False)


def decode_rgb8(data: bytes, name: str) -> Tensor:
    """`read_rgb8` of a file's content, called `name` in messages."""
    return _as_rgb8(decode_image(data, name))


def _as_rgb8(picture: Picture) -> Tensor:
    channels = eight_bits.rounded(picture.pixels).transpose(2, 0, 1)
    return torch.from_numpy(np.array(np.broadcast_to(channels, (3, *channels.shape[1:])), order="C"))


def _read(name: str, content: Callable[[], tuple[bytes, str]], allow_large: bool) -> Picture:
    """The picture of what `content` gives: the bytes of a file, and its format."""
    try:
        data, format = content()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode_tiff(data, allow_large) if format == "tiff" else _decode(data, format, allow_large)
    except BadImage as error:
        raise BadImage(f"{name} {error}") from error.__cause__
    except MemoryError as error:
        raise OutOfMemory(f"not enough memory to read {name}") from error
    except Exception as error:  # a damaged file may raise anything from within a decoder
        raise BadImage(f"{name} cannot be read: it is cut short or damaged ({error})") from error


# Below, a BadImage holds the end of a sentence that begins with the path.


def _read_file(path: Path) -> tuple[bytes, str]:
    """The content of `path` and its format. Raises BadImage."""
    try:
        if path.is_dir():
            raise BadImage("is a folder, not an image")
        if path.exists() and not path.is_file():
            raise BadImage("is not a regular file")
        with path.open("rb") as file:
            head = file.read(32)
            format = _format_of(head)
            return head + file.read(), format
    except FileNotFoundError:
        raise BadImage("does not exist") from None
    except (OSError, ValueError) as error:
        raise BadImage(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _format_of(head: bytes) -> str:
    """The format of a file that begins with `head`. Raises BadImage for one that refsr does not read."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    for signature, format in _SIGNATURES:
        if head.startswith(signature):
            return format
    if not head:
        raise BadImage("is empty")
    kind = next((kind for at, mark, kind in _OTHERS if head.startswith(mark, at)), "not an image that refsr knows")
    raise BadImage(f"is {kind}; convert it to one of {', '.join(NAMES)}")


def _decode(data: bytes, format: str, allow_large: bool) -> Picture:
    """Any format but TIFF. What a damaged file raises may be anything."""
    image = eight_bits.open_header(data, format)
    _check_size(*image.size, allow_large)
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise BadImage(f"is animated ({frames} frames); save the frame you want to a file of its own")
    if format == "png" and png.depth(data) == 16:
        pixels, alpha = sixteen_bits.read_png(data)
        icc = image.info.get("icc_profile")
        image.info["exif"] = png.exif(data)
    else:
        pixels, alpha, icc = eight_bits.read(image)
    exif = tags.parsed(image.getexif)
    turn = tags.orientation(exif)
    dpi = tags.plausible(image.info.get("dpi") or tags.resolution(exif))
    return Picture(
        pixels=tags.upright(pixels, turn),
        alpha=None if alpha is None else tags.upright(alpha, turn),
        format=format,
        icc=_fitting(icc, pixels),
        exif=tags.portable(exif),
        dpi=dpi[::-1] if dpi and turn >= 5 else dpi,
        jpeg=coding_of(image, turn) if format == "jpg" else None,
    )


def _decode_tiff(data: bytes, allow_large: bool) -> Picture:
    """A TIFF, whose header is read first: Pillow does not open all of them, and turns them upright itself."""
    header = tiff.read_header(data)
    _check_size(header.width, header.height, allow_large)
    if header.deep:
        pixels, alpha = tiff.read_16bit(data, header)
        icc = header.icc
    else:
        pixels, alpha, icc = eight_bits.read(eight_bits.open_header(data, "tiff"))
    exif = tags.parsed(lambda: tiff.read_exif(data))
    dpi = tags.plausible(tags.resolution(exif))
    return Picture(
        pixels=pixels,
        alpha=alpha,
        format="tiff",
        icc=_fitting(icc, pixels),
        exif=tags.portable(exif),
        dpi=dpi[::-1] if dpi and header.orientation >= 5 else dpi,
    )


def _check_size(width: int, height: int, allow_large: bool) -> None:
    if width * height > LARGE and not allow_large:
        raise BadImage(
            f"has {width}x{height} pixels, more than the {LARGE // 10**6} megapixels that are read unasked; "
            "if that is right, add --allow-large"
        )


def _fitting(icc: bytes | None, pixels: Pixels) -> bytes | None:
    """`icc` if it is a profile for that many channels."""
    space = b"GRAY" if pixels.shape[2] == 1 else b"RGB "
    return icc if icc and icc[16:20] == space else None
