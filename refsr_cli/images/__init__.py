"""Image files: PNG, JPEG, WebP, TIFF and BMP, with 8 or 16 bits per sample, in and out without loss of what they carry.

A file is a `Picture`: pixels as stored, upright, and beside them alpha, colour profile, EXIF and resolution. Its pixels
become the `(1, 3, H, W)` float RGB in [0, 1] that nets take, and come back, window by window.
"""

from refsr_cli.images.picture import FORMATS, Picture, Pixels, bleed_color
from refsr_cli.images.reading import decode_image, decode_rgb8, read_image, read_rgb8, size_of
from refsr_cli.images.tensors import rounded, to_pixels, to_tensor
from refsr_cli.images.writing import check_size, write_image

__all__ = [
    "FORMATS",
    "Picture",
    "Pixels",
    "bleed_color",
    "check_size",
    "decode_image",
    "decode_rgb8",
    "read_image",
    "read_rgb8",
    "rounded",
    "size_of",
    "to_pixels",
    "to_tensor",
    "write_image",
]
