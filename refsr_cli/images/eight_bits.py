"""Images with 8 bits per sample, by Pillow."""

import io
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from refsr_cli.errors import BadImage

Samples = npt.NDArray[np.uint8]

_READERS: dict[str, Callable[[BinaryIO], ImageFile]] = {
    "png": PngImageFile,
    "jpg": JpegImageFile,
    "webp": WebPImageFile,
    "tiff": TiffImageFile,
    "bmp": BmpImageFile,
}
_WRITERS = {"jpg": "JPEG", "webp": "WEBP", "bmp": "BMP"}
_QUALITY = 95
_LONGEST_JPEG_EXIF = 65533

_T = TypeVar("_T")
_limit_lifted = threading.Lock()


def _past_the_limit(read: Callable[[], _T]) -> _T:
    """`read()`, also of images larger than Pillow allows by itself: whoever calls this has a limit of their own."""
    try:
        return read()
    except Image.DecompressionBombError:
        with _limit_lifted:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return read()
            finally:
                Image.MAX_IMAGE_PIXELS = limit


def open_header(data: bytes, format: str) -> ImageFile:
    """The image in `data`, of which only the header is read yet. What a damaged file raises may be anything."""
    image = _past_the_limit(lambda: _READERS[format](io.BytesIO(data)))
    key = image.info.get("transparency")
    if format == "png" and image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2 ** data[24] - 1)  # Pillow scales low bit depths, but not their key
    return image


def read(image: ImageFile) -> tuple[Samples, Samples | None, bytes | None]:
    """Pixels (H, W, 1 or 3), alpha (H, W) and profile; CMYK and LAB become sRGB. Errors as in `open_header`."""
    _past_the_limit(image.load)
    icc = image.info.get("icc_profile")
    standard: Image.Image = image
    if image.mode in ("CMYK", "LAB"):
        standard, icc = _to_srgb(image, icc)
    elif image.mode in ("1", "L", "LA", "La"):
        standard = image.convert("LA" if image.has_transparency_data else "L")
    elif image.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        standard = image.convert("RGBA" if image.has_transparency_data else "RGB")
    else:
        raise BadImage(f"holds pixels of a kind that refsr does not read ({image.mode}); convert it to RGB")
    samples = np.atleast_3d(np.asarray(standard))
    if standard.mode in ("L", "RGB"):
        return samples, None, icc
    return np.ascontiguousarray(samples[..., :-1]), np.ascontiguousarray(samples[..., -1]), icc


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """`image` as sRGB, by its profile `icc` where there is one that fits; and the profile of the result, if any."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        if image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif icc:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        else:
            return image.convert("RGB"), None
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB"), None
    assert converted is not None  # it is None only when asked to convert in place
    profile = srgb.tobytes()
    return converted, profile[:24] + bytes(12) + profile[36:]  # without today's date: same input, same output


def write(
    file: BinaryIO,
    format: str,
    pixels: Samples,
    alpha: Samples | None,
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    quality: int | None = None,
) -> None:
    """`pixels` (H, W, 1 or 3) and `alpha` (H, W) as "jpg", "webp" or "bmp". Raises OSError or ValueError."""
    image = _seen(pixels, alpha, keep_alpha=format == "webp")
    options: dict[str, Any] = {}
    if format == "jpg":
        options.update(quality=quality or _QUALITY, subsampling="4:4:4")
        exif = exif if exif and len(exif) <= _LONGEST_JPEG_EXIF else None
    elif format == "webp":
        lossless = quality == 100
        options.update(quality=quality or _QUALITY, method=4, lossless=lossless, exact=lossless)
        if icc and pixels.shape[2] == 1:  # a profile for grey, which WebP does not have
            image, icc = _to_srgb(image, icc)
    options.update({name: value for name, value in (("icc_profile", icc), ("exif", exif), ("dpi", dpi)) if value})
    image.save(file, _WRITERS[format], **options)


def _seen(pixels: Samples, alpha: Samples | None, *, keep_alpha: bool) -> Image.Image:
    """L, RGB, LA or RGBA; where alpha is not kept, as it looks on white."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if alpha is None:
        return image
    if keep_alpha:
        image.putalpha(Image.fromarray(alpha))
        return image
    white = Image.new(image.mode, image.size, "white")
    white.paste(image, mask=Image.fromarray(alpha))
    return white


def rounded(pixels: npt.NDArray[np.uint8 | np.uint16]) -> Samples:
    """The same at 8 bits; row by row, to save memory."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    result = np.empty(pixels.shape, np.uint8)
    for source, target in zip(pixels, result, strict=True):
        target[:] = (source.astype(np.uint32) * 255 + 32767) // 65535
    return result
