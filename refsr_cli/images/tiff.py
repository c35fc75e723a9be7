"""TIFF: what its header says, its pixels where they have 16 bits per sample, and writing it at either depth.

Pillow reads 16-bit colour as 8-bit, and cannot write compressed TIFF together with EXIF.
"""

import io
import zlib
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from refsr_cli.errors import BadImage
from refsr_cli.images import sixteen_bits
from refsr_cli.images.exif import upright
from refsr_cli.images.strips import Samples, interleaved, strip_rows

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _CHANNELS, _STRIP_ROWS, _STRIP_SIZES, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _EXTRA, _SAMPLE_FORMAT, _ICC = 317, 338, 339, 34675

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_PREMULTIPLIED, _STRAIGHT = 1, 2
_SEPARATE = 2
_UNSIGNED, _SIGNED, _FLOAT, _UNTYPED = 1, 2, 3, 4
_DEFLATE = 8
_LARGEST = 2**32 - 2**20


@dataclass(frozen=True)
class Header:
    """How the first page of a TIFF is stored. `width` and `height` are those before it is turned upright."""

    width: int
    height: int
    bits: int
    photometric: int
    channels: int
    extra: tuple[int, ...]
    """What each channel after the colours means."""
    separate: bool
    """Whether the channels are stored one after the other."""
    orientation: int
    icc: bytes | None

    @property
    def deep(self) -> bool:
        """Whether it is 16-bit grey or RGB. 16-bit CMYK and LAB are not: they become 8-bit RGB."""
        return self.bits == 16 and self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)


def read_header(data: bytes) -> Header:
    """Raises BadImage for more than one page (previews do not count) and for samples refsr does not read."""
    first, *others = _pages(data)
    if pages := sum(not page.get(_SUBFILE, 0) & 1 for page in others):
        raise BadImage(f"holds {pages + 1} pages; save the one you want to a file of its own")
    bits = set(first.get(_BITS, (1,)))
    sample_format = set(first.get(_SAMPLE_FORMAT, (_UNSIGNED,)))
    if not sample_format <= {_UNSIGNED, _UNTYPED}:
        kind = "floating-point" if _FLOAT in sample_format else "signed"
        raise BadImage(f"holds {kind} samples; convert it to 8 or 16 bits, unsigned")
    if len(bits) > 1 or not bits <= {1, 2, 4, 8, 16}:
        raise BadImage(f"holds {'- and '.join(map(str, sorted(bits)))}-bit samples; convert it to 8 or 16 bits")
    return Header(
        width=int(first[_WIDTH]),
        height=int(first[_HEIGHT]),
        bits=bits.pop(),
        photometric=first.get(_PHOTOMETRIC, _BLACK_IS_ZERO),
        channels=first.get(_CHANNELS, 1),
        extra=tuple(np.atleast_1d(first.get(_EXTRA, ()))),
        separate=first.get(_PLANAR) == _SEPARATE,
        orientation=first.get(_ORIENTATION, 1),
        icc=first.get(_ICC),
    )


def _pages(data: bytes) -> list[ImageFileDirectory_v2]:
    """The tags of every page, in order."""
    head = data[:16] if data[2:4] == b"+\0" else data[:8]  # BigTIFF has a longer one
    file = io.BytesIO(data)
    pages: list[ImageFileDirectory_v2] = []
    offset = ImageFileDirectory_v2(head).next
    seen = set()
    while offset:
        if offset in seen:  # where Pillow stays when the tags are cut short
            raise BadImage("is cut short or damaged")
        seen.add(offset)
        page = ImageFileDirectory_v2(head)
        file.seek(offset)
        page.load(file)
        pages.append(page)
        offset = page.next
    return pages


def read_exif(data: bytes) -> Image.Exif:
    """The tags of a TIFF as EXIF, which is stored in the same way; none of a file of the BigTIFF kind."""
    exif = Image.Exif()
    if data[2:4] in (b"*\0", b"\0*"):
        exif.load(data)
    return exif


def read_16bit(data: bytes, header: Header) -> tuple[Samples, Samples | None]:
    """(H, W, 1 or 3) and, if any, (H, W) straight alpha, upright. Raises BadImage."""
    samples = _upright_samples(data, header)
    colors = 3 if header.photometric == _RGB else 1
    pixels = np.ascontiguousarray(samples[..., :colors])
    if header.photometric == _WHITE_IS_ZERO:
        np.invert(pixels, out=pixels)
    extra = header.extra or (_STRAIGHT,) * (samples.shape[2] - colors)
    for channel, meaning in enumerate(extra, colors):
        if meaning in (_PREMULTIPLIED, _STRAIGHT):
            alpha = np.ascontiguousarray(samples[..., channel])
            return (_straight(pixels, alpha) if meaning == _PREMULTIPLIED else pixels), alpha
    return pixels, None


def _upright_samples(data: bytes, header: Header) -> Samples:
    """(H, W, channels) as stored, but upright."""
    try:
        import tifffile
    except ImportError as error:
        raise BadImage(f"has 16 bits per sample and needs tifffile ({error}); run 'pip install tifffile'") from error
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            samples = file.pages[0].asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):  # the package that tifffile wants for LZW and others
            raise
        if header.separate:
            raise BadImage("is compressed in a way that refsr does not read; save it uncompressed or as PNG") from None
        samples = sixteen_bits.decode(data)  # which turns the picture upright by itself
        turned = samples.shape[:2][::-1] if header.orientation >= 5 else samples.shape[:2]
        if (*turned, samples.shape[2]) != (header.height, header.width, header.channels):
            raise BadImage("is stored in a way that refsr does not read; save it uncompressed or as PNG") from None
        return samples
    if header.separate and header.channels > 1:
        samples = np.moveaxis(samples, 0, -1)
    return upright(samples.reshape(header.height, header.width, header.channels), header.orientation)


def _straight(pixels: Samples, alpha: Samples) -> Samples:
    """`pixels` divided by `alpha`, with which they were multiplied; row by row, to save memory."""
    result = np.empty_like(pixels)
    for source, opacity, target in zip(pixels, alpha, result, strict=True):
        opaque = np.maximum(opacity, 1).astype(np.uint32)[:, None]
        target[:] = np.minimum((source * np.uint32(65535) + opaque // 2) // opaque, 65535)
    return result


def write(
    file: BinaryIO,
    pixels: Samples,
    alpha: Samples | None,
    *,
    icc: bytes | None = None,
    exif: Image.Exif,
) -> None:
    """A TIFF of `pixels` (H, W, 1 or 3) and `alpha` (H, W), both uint8 or uint16, deflated, tagged with `exif`.

    Raises OSError, and BadImage when it would be larger than a TIFF can be (4 GiB).
    """
    height, width, colors = pixels.shape
    channels = colors + (alpha is not None)
    exif.update(
        {
            _WIDTH: width,
            _HEIGHT: height,
            _BITS: (pixels.itemsize * 8,) * channels,
            _COMPRESSION: _DEFLATE,
            _PHOTOMETRIC: _RGB if colors == 3 else _BLACK_IS_ZERO,
            _ORIENTATION: 1,
            _CHANNELS: channels,
            _STRIP_ROWS: strip_rows(pixels),
            _PREDICTOR: 2,
            **({_EXTRA: _STRAIGHT} if alpha is not None else {}),
            **({_ICC: icc} if icc else {}),
        }
    )
    little = exif.endian == "<"
    sizes = [0] * -(-height // strip_rows(pixels))
    file.write(_directory(exif, sizes))
    for number, strip in enumerate(interleaved(pixels, alpha)):
        packed = zlib.compress(
            _differences(strip).astype(strip.dtype.newbyteorder("<" if little else ">")).tobytes(), 3
        )
        sizes[number] = len(packed)
        file.write(packed)
        if file.tell() > _LARGEST:
            raise BadImage("a TIFF cannot be larger than 4 GiB; write PNG")
    file.seek(0)
    file.write(_directory(exif, sizes))


def _differences(strip: Samples) -> Samples:
    """Every sample less that of the pixel to its left, which compresses better."""
    result = strip.copy()
    np.subtract(strip[:, 1:], strip[:, :-1], out=result[:, 1:])
    return result


def _directory(exif: Image.Exif, sizes: list[int]) -> bytes:
    """The header and the tags of a TIFF whose strips follow, of `sizes` bytes; its length does not depend on them."""
    exif[_STRIP_SIZES] = tuple(sizes)
    exif[_STRIP_OFFSETS] = tuple(accumulate(sizes[:-1], initial=0))  # Pillow adds where the tags end
    return exif.tobytes()[len(b"Exif\0\0") :]
