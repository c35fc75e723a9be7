"""PNG with 16 bits per sample, which Pillow reads as 8 and does not write."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from refsr_cli.errors import BadImage

Samples: TypeAlias = npt.NDArray[np.uint8 | np.uint16]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 4, 6
_COLOR_TYPES = {1: _GREY, 2: _GREY_ALPHA, 3: _RGB, 4: _RGB_ALPHA}
_FILTER_SUB = 1
_STRIP = 4 << 20
"""Bytes that are filtered and compressed at once."""


def depth(data: bytes) -> int:
    """Bits per sample of the PNG `data`, from its header."""
    return data[24]


def exif(data: bytes) -> bytes:
    """The EXIF of the PNG `data`, wherever in the file it is; empty when there is none."""
    return next((bytes(chunk[8:-4]) for kind, chunk in _chunks(data) if kind == b"eXIf"), b"")


def read_png(data: bytes) -> tuple[Samples, Samples | None]:
    """(H, W, 1 or 3) and, if any, (H, W) alpha of a 16-bit PNG; a transparent colour key becomes alpha.

    Raises BadImage when the file is damaged or OpenCV is missing.
    """
    chunks = list(_chunks(data))
    # Only what makes the pixels: of the rest, OpenCV would act on some (a colour key) and complain of some on stderr.
    essential = [chunk for kind, chunk in chunks if kind in (b"IHDR", b"IDAT", b"IEND")]
    samples = decode(b"".join([_SIGNATURE, *essential]))
    color_type = data[25]
    pixels = np.ascontiguousarray(samples[..., :1] if color_type in (_GREY, _GREY_ALPHA) else samples[..., :3])
    if color_type in (_GREY_ALPHA, _RGB_ALPHA):
        return pixels, np.ascontiguousarray(samples[..., -1])
    for kind, chunk in chunks:
        if kind == b"tRNS":
            key = np.frombuffer(chunk[8:-4], ">u2")
            return pixels, np.where((pixels == key).all(-1), 0, 65535).astype(np.uint16)
    return pixels, None


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The kind of every chunk of a PNG, and the whole chunk with its length, kind and checksum."""
    start = len(_SIGNATURE)
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise BadImage("is cut short")
        yield kind, memoryview(data)[start:end]
        if kind == b"IEND":
            return
        start = end


def decode(data: bytes) -> Samples:
    """(H, W, 1, 3 or 4) of a 16-bit PNG or TIFF, in the order R, G, B, alpha, as OpenCV decodes it.

    Raises BadImage when OpenCV is missing, or cannot decode `data`, or not with 16 bits.
    """
    try:
        import cv2
    except ImportError as error:
        raise BadImage(
            f"has 16 bits per sample and needs OpenCV, which does not load ({error}); "
            "run 'pip install opencv-python-headless', or convert the image to 8 bits"
        ) from error
    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        samples: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        logging.setLogLevel(level)
    if samples is None:
        raise BadImage("is cut short or damaged")
    if samples.dtype != np.uint16:
        raise BadImage("is stored in a way that cannot be read with all its 16 bits; save it as an ordinary RGB PNG")
    if samples.ndim == 2:
        samples = samples[..., None]
    elif samples.shape[2] >= 3:
        samples[..., [0, 2]] = samples[..., [2, 0]]
    return cast(Samples, samples)


def interleaved(pixels: Samples, alpha: Samples | None) -> Iterator[Samples]:
    """(h, W, C or C + 1) strips of the picture from top to bottom, with alpha as the last channel."""
    rows = strip_rows(pixels)
    for top in range(0, len(pixels), rows):
        part = pixels[top : top + rows]
        yield part if alpha is None else np.concatenate((part, alpha[top : top + rows, :, None]), 2)


def strip_rows(pixels: Samples) -> int:
    """Rows of the strips of `interleaved`, the last of which may be lower."""
    return max(1, int(_STRIP // (pixels.itemsize * pixels.shape[1] * pixels.shape[2])))


def write_png(
    file: BinaryIO,
    pixels: Samples,
    alpha: Samples | None,
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> None:
    """A 16-bit PNG of `pixels` (H, W, 1 or 3) and `alpha` (H, W). Raises OSError."""
    height, width, channels = pixels.shape
    color_type = _COLOR_TYPES[channels + (alpha is not None)]
    file.write(_SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))
    if icc:
        _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if dpi:
        _write_chunk(file, b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1))
    if exif:
        _write_chunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    packer = zlib.compressobj(2)
    for strip in interleaved(pixels, alpha):
        _write_chunk(file, b"IDAT", packer.compress(_filtered(strip)))
    _write_chunk(file, b"IDAT", packer.flush())
    _write_chunk(file, b"IEND", b"")


def _filtered(strip: Samples) -> bytes:
    """Every byte less that of the pixel to its left, rows preceded by the number of this filter."""
    height, _, channels = strip.shape
    stored = np.frombuffer(strip.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    rows = np.empty((height, 1 + stored.shape[1]), np.uint8)
    rows[:, 0] = _FILTER_SUB
    first = 1 + 2 * channels
    rows[:, 1:first] = stored[:, : 2 * channels]
    np.subtract(stored[:, 2 * channels :], stored[:, : -2 * channels], out=rows[:, first:])
    return rows.tobytes()


def _write_chunk(file: BinaryIO, kind: bytes, body: bytes) -> None:
    file.write(struct.pack(">I4s", len(body), kind))
    file.write(body)
    file.write(struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))
