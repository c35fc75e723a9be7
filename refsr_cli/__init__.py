"""refsr: image super-resolution, alone or with reference photos of the same scene.

`refsr_cli.upscale` takes pictures of any kind; the other names are what it is made of. Nets take and give tensors
`(N, 3, H, W)`, float RGB in [0, 1]. Nothing heavy is imported before a name is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refsr_cli.api import upscale
    from refsr_cli.images import read_image, write_image
    from refsr_cli.inference.upscaler import Upscaler
    from refsr_cli.models import MODELS
    from refsr_cli.weights.store import load_model

__version__ = "0.1.0"
__all__ = ["MODELS", "Upscaler", "__version__", "load_model", "read_image", "upscale", "write_image"]

_HOMES = {
    "MODELS": "models",
    "Upscaler": "inference.upscaler",
    "load_model": "weights.store",
    "read_image": "images",
    "upscale": "api",
    "write_image": "images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
