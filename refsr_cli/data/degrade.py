"""Low-resolution pictures made from high-resolution ones, the papers' way."""

from torch import Tensor

from refsr_cli.layers.resample import Convention, downscale, resize_by_pillow


def modcrop(hr: Tensor, scale: int) -> Tensor:
    """The top-left part whose height and width are multiples of `scale`."""
    height, width = hr.shape[-2:]
    return hr[..., : height - height % scale, : width - width % scale]


def degrade_bicubic(hr: Tensor, scale: int, convention: Convention = "matlab") -> Tensor:
    """(N, C, scale*h, scale*w) in [0, 1] to (N, C, h, w), rounded to 8 bit as a saved file is."""
    if convention == "pillow":
        return resize_by_pillow(hr, hr.shape[-2] // scale, hr.shape[-1] // scale)
    return downscale(hr, scale).clamp(0, 1).mul(255).round().div(255)
