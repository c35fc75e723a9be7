"""PNG with 16 bits per sample, which Pillow reads as 8, by OpenCV."""

from typing import Any, cast

import numpy as np

from refsr_cli.errors import BadImage
from refsr_cli.images import png
from refsr_cli.images.strips import Samples


def read_png(data: bytes) -> tuple[Samples, Samples | None]:
    """(H, W, 1 or 3) and, if any, (H, W) alpha of a 16-bit PNG; a transparent colour key becomes alpha.

    Raises BadImage when the file is damaged or OpenCV is missing.
    """
    chunks = list(png.chunks(data))
    # Only what makes the pixels: of the rest, OpenCV would act on some (a colour key) and complain of some on stderr.
    essential = [chunk for kind, chunk in chunks if kind in (b"IHDR", b"IDAT", b"IEND")]
    samples = decode(b"".join([png.SIGNATURE, *essential]))
    color_type = data[25]
    pixels = np.ascontiguousarray(samples[..., :1] if color_type in (png.GREY, png.GREY_ALPHA) else samples[..., :3])
    if color_type in (png.GREY_ALPHA, png.RGB_ALPHA):
        return pixels, np.ascontiguousarray(samples[..., -1])
    for kind, chunk in chunks:
        if kind == b"tRNS":
            key = np.frombuffer(chunk[8:-4], ">u2")
            return pixels, np.where((pixels == key).all(-1), 0, 65535).astype(np.uint16)
    return pixels, None


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
