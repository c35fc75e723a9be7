"""PNG: its chunks, and writing it with 8 or 16 bits per sample.

Pillow does not write 16 bits, and copies the whole picture before it writes 8.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from refsr_cli.errors import BadImage
from refsr_cli.images.strips import Samples, interleaved

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6
_COLOR_TYPES = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGB_ALPHA}
_EFFORT = 2
_LEFT, _UP, _AVERAGE = 1, 2, 3
"""Numbers of the filters that are tried. Of Paeth's, the fourth, photos become larger at this effort."""


def depth(data: bytes) -> int:
    """Bits per sample of the PNG `data`, from its header."""
    return data[24]


def exif(data: bytes) -> bytes:
    """The EXIF of the PNG `data`, wherever in the file it is; empty when there is none."""
    return next((bytes(chunk[8:-4]) for kind, chunk in chunks(data) if kind == b"eXIf"), b"")


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The kind of every chunk of a PNG, and the whole chunk with its length, kind and checksum."""
    start = len(SIGNATURE)
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise BadImage("is cut short")
        yield kind, memoryview(data)[start:end]
        if kind == b"IEND":
            return
        start = end


def write(
    file: BinaryIO,
    pixels: Samples,
    alpha: Samples | None,
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> None:
    """A PNG of `pixels` (H, W, 1 or 3) and `alpha` (H, W), both uint8 or uint16. Raises OSError."""
    height, width, channels = pixels.shape
    color_type = _COLOR_TYPES[channels + (alpha is not None)]
    file.write(SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, color_type, 0, 0, 0))
    if icc:
        _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if dpi:
        _write_chunk(file, b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1))
    if exif:
        _write_chunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    packer = zlib.compressobj(_EFFORT)
    above = np.zeros((1, width * (channels + (alpha is not None)) * pixels.itemsize), np.uint8)
    for strip in interleaved(pixels, alpha):
        stored = np.frombuffer(strip.astype(strip.dtype.newbyteorder(">")).tobytes(), np.uint8).reshape(len(strip), -1)
        packed = packer.compress(_filtered(stored, above, strip.shape[2] * strip.itemsize))
        if packed:
            _write_chunk(file, b"IDAT", packed)
        above = stored[-1:]
    _write_chunk(file, b"IDAT", packer.flush())
    _write_chunk(file, b"IEND", b"")


def _filtered(stored: npt.NDArray[np.uint8], above: npt.NDArray[np.uint8], pixel: int) -> bytes:
    """Every byte of the rows `stored` less the one to its left, `pixel` bytes before, the one `above`, or the mean of
    both: for each row what leaves the smallest numbers, preceded by the number of the filter."""
    left = np.zeros_like(stored)
    left[:, pixel:] = stored[:, :-pixel]
    up = np.concatenate((above, stored[:-1]))
    mean = (left.astype(np.uint16) + up) >> 1
    rows = np.empty((len(stored), 1 + stored.shape[1]), np.uint8)
    least = np.full(len(stored), np.iinfo(np.int64).max)
    for number, guess in ((_AVERAGE, mean.astype(np.uint8)), (_UP, up), (_LEFT, left)):
        rest = stored - guess
        size = np.minimum(rest, np.negative(rest)).sum(1, dtype=np.int64)
        better = size < least
        rows[better, 0], rows[better, 1:] = number, rest[better]
        least = np.minimum(least, size)
    return rows.tobytes()


def _write_chunk(file: BinaryIO, kind: bytes, body: bytes) -> None:
    file.write(struct.pack(">I4s", len(body), kind))
    file.write(body)
    file.write(struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))
