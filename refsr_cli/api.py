"""`refsr_cli.upscale`: one call that enlarges a picture of any kind and gives the same kind back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from refsr_cli.config import DEFAULT_SCALE, NetConfig, Precision
from refsr_cli.engine import open_upscaler
from refsr_cli.errors import BadSetting
from refsr_cli.images import Picture, decode_image, read_image
from refsr_cli.inference.results import finished
from refsr_cli.reference.bank import RefBank, Reference, open_reference

if TYPE_CHECKING:
    from typing_extensions import Unpack

Array: TypeAlias = npt.NDArray[Any]
ImageLike: TypeAlias = str | Path | bytes | Image.Image | Array | Tensor
Kind = TypeVar("Kind", Image.Image, Array, Tensor)
_CHANNELS = (1, 2, 3, 4)
_LARGEST_SCALE = 16
_FINE = 65535
"""White of the 16 bits that pictures of floating point are computed in."""


class Options(TypedDict, total=False):
    """What `upscale` takes besides: as `refsr upscale` has it."""

    refs: Sequence[ImageLike]
    """Pictures of the same scene, of any kind and size."""
    size: tuple[int, int]
    """Width and height to reach, instead of a scale."""
    model: str
    weights: str | tuple[str, ...]
    restore: float
    """How strongly JPEG, noise and blur are removed first, 0 (off) to 1; automatic where it is not given."""
    as_published: bool
    self_ensemble: bool
    tile: int
    """Pixels a side; 0 is the whole picture at once."""
    memory: int
    """Bytes."""
    device: str
    precision: Precision


@overload
def upscale(image: str | Path | bytes, scale: int | None = None, **options: Unpack[Options]) -> Array: ...
@overload
def upscale(image: Kind, scale: int | None = None, **options: Unpack[Options]) -> Kind: ...
def upscale(image: ImageLike, scale: int | None = None, **options: Unpack[Options]) -> ImageLike:
    """Enlarges a picture by `scale` (4 where there is no `size` either), with detail from other pictures, `refs`.

    `image` and each of `refs` is one of:

    - a path, or the content of a file, which gives a NumPy array of the file's depth, (H, W, C) with C = 1, 3, or with
      alpha 2 or 4;
    - a PIL image: grey, RGB, palette, with or without alpha, `I;16`; others become RGB;
    - a NumPy array (H, W) or (H, W, C), uint8, uint16, or float in [0, 1];
    - a tensor (C, H, W) or (1, C, H, W), uint8 or float in [0, 1], on any device.

    For many pictures keep an `Upscaler`. Raises BadSetting for an image or an option that cannot be used, BadImage for
    a file that cannot be read, and what `load_model` raises.
    """
    size, refs = options.pop("size", None), options.pop("refs", ())
    if scale is not None and size is not None:
        raise BadSetting("give scale or size, not both")
    if scale is not None and not 1 <= scale <= _LARGEST_SCALE:
        raise BadSetting(f"scale is a whole number from 1 to {_LARGEST_SCALE}, not {scale}")
    picture = _picture(image)
    factor = scale or DEFAULT_SCALE
    width, height = size or (picture.width * factor, picture.height * factor)
    if min(width, height) < 1:
        raise BadSetting(f"size is width and height in pixels, not {size}")
    running: Any = options
    config = NetConfig(**running)
    upscaler, _ = open_upscaler(config, None if config.weights else factor, with_refs=bool(refs))
    bank = RefBank([_reference(number, ref) for number, ref in enumerate(refs)]) if refs else None
    return _like(image, finished(upscaler.enlarge(picture, height, width, bank)).picture)


def _picture(image: ImageLike) -> Picture:
    """Of any kind of image. Raises BadSetting and BadImage."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, bytes):
        return decode_image(image, "the given bytes")
    if isinstance(image, Image.Image):
        return _of_pil(image)
    if isinstance(image, Tensor):
        return _of_array(_array_of(image))
    if isinstance(image, np.ndarray):
        return _of_array(image)
    raise BadSetting(f"an image is a path, bytes, a PIL image, a NumPy array or a tensor, not {type(image).__name__}")


def _of_pil(image: Image.Image) -> Picture:
    if image.mode == "I;16":
        array = np.asarray(image).astype(np.uint16)
    else:
        mode = image.mode if image.mode in ("L", "LA", "RGB", "RGBA") else "RGB"
        if image.mode in ("P", "PA") and (image.mode == "PA" or "transparency" in image.info):
            mode = "RGBA"
        array = np.asarray(image.convert("L" if image.mode == "1" else mode))
    return replace(_of_array(array), icc=image.info.get("icc_profile"))


def _array_of(image: Tensor) -> Array:
    """(C, H, W) or (1, C, H, W) as (H, W, C)."""
    if image.dim() == 4 and len(image) == 1:
        image = image[0]
    if image.dim() != 3 or image.shape[0] not in _CHANNELS:
        raise BadSetting(f"a tensor is (C, H, W) or (1, C, H, W) with 1 to 4 channels, not {tuple(image.shape)}")
    values = image.detach().cpu()
    return (values.float() if values.is_floating_point() else values).permute(1, 2, 0).numpy()


def _of_array(array: Array) -> Picture:
    """(H, W) or (H, W, C); the second or fourth channel is alpha."""
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        raise BadSetting(f"an array is (H, W) or (H, W, C) with 1 to 4 channels, not {array.shape}")
    if array.dtype not in (np.uint8, np.uint16):
        if not np.issubdtype(array.dtype, np.floating):
            raise BadSetting(f"an image is uint8, uint16 or float in [0, 1], not {array.dtype}")
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise BadSetting("an image of floating point is in [0, 1]; this one is not")
        array = np.rint(array.astype(np.float64) * _FINE).astype(np.uint16)
    channels = array[..., None] if array.ndim == 2 else array
    count = channels.shape[2]
    colours, alpha = (channels[..., :-1], channels[..., -1]) if count in (2, 4) else (channels, None)
    return Picture(
        np.ascontiguousarray(colours), None if alpha is None else np.ascontiguousarray(alpha), "png", None, None, None
    )


def _reference(number: int, image: ImageLike) -> Reference:
    picture = _picture(image)
    pixels = picture.pixels if picture.pixels.dtype == np.uint8 else (picture.pixels // 257).astype(np.uint8)
    colours = np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels
    tensor = torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))
    return open_reference(str(image) if isinstance(image, str | Path) else f"reference {number + 1}", lambda: tensor)


def _like(image: ImageLike, result: Picture) -> ImageLike:
    """The result as the kind that `image` is of."""
    alpha = () if result.alpha is None else (result.alpha[..., None],)
    array: Array = np.concatenate([result.pixels, *alpha], 2)
    if isinstance(image, Image.Image):
        made = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        if result.icc:
            made.info["icc_profile"] = result.icc
        return made
    if isinstance(image, str | Path | bytes):
        return array
    if isinstance(image, Tensor):
        values = (
            torch.from_numpy(array.astype(np.float32) / _FINE) if image.is_floating_point() else torch.from_numpy(array)
        )
        planes = values.permute(2, 0, 1).contiguous().to(image.device, image.dtype)
        return planes[None] if image.dim() == 4 else planes
    if np.issubdtype(image.dtype, np.floating):
        array = (array.astype(np.float64) / _FINE).astype(image.dtype)
    return array[..., 0] if image.ndim == 2 else array
