"""Where the data that travels with refsr lies: in an installed package, or in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def packaged(name: str) -> Path:
    """The folder `name` ("weights", "examples/images"): inside the installed package, else beside it in a checkout."""
    installed = _PACKAGE / f"_{name}"
    return installed if installed.is_dir() else _PACKAGE.parent / name
