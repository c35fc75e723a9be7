"""A soft threshold."""

from torch import Tensor


def ramp(x: Tensor, ends: tuple[float, float] | tuple[Tensor, Tensor]) -> Tensor:
    """0 below the first end, 1 above the second, straight between."""
    low, high = ends
    return ((x - low) / (high - low)).clamp(0, 1)
