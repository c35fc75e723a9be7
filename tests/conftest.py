"""What several test files share: real pictures, and resampling written out from its definition."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import settings
from PIL import Image
from torch import Tensor

settings.register_profile("refsr", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("refsr")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Untrained nets and random inputs are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """Randomness of its own, the same in every run."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Published test images, which may not be copied into this repository."""
    folder = Path(__file__).resolve().parents[2] / "shared/data"
    if not folder.is_dir():
        pytest.skip(f"no published test images: {folder} is not there")
    return folder


@pytest.fixture(scope="session")
def photo() -> Tensor:
    """A real photo with fine detail.   (3, 192, 240) uint8"""
    return torch.from_numpy(skimage.data.astronaut()[:192, 100:340].copy()).permute(2, 0, 1).contiguous()


@pytest.fixture(scope="session")
def read_exact() -> Callable[[Path], Tensor]:
    """Reads a picture as it is, a grey one with its one channel: path -> (1, 3 or 1, H, W) float64 in [0, 1]."""

    def read(path: Path) -> Tensor:
        with Image.open(path) as image:
            pixels = np.asarray(image, dtype=np.float64)
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)[None] / 255

    return read


@pytest.fixture(scope="session")
def matlab_imresize() -> Callable[[np.ndarray, int, int], np.ndarray]:
    """MATLAB's bicubic `imresize`, one output pixel at a time: (..., H, W) float64 -> (..., height, width)."""

    def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
        rows = _bicubic_matrix(image.shape[-2], height)
        columns = _bicubic_matrix(image.shape[-1], width)
        return np.asarray(rows @ image.astype(np.float64) @ columns.T)

    return resize


def _bicubic_matrix(size: int, new_size: int) -> np.ndarray:
    """Row j holds the weights of the `size` input pixels in output pixel j."""
    scale = new_size / size
    stretch = max(1.0, 1 / scale)  # the kernel is widened when shrinking
    matrix = np.zeros((new_size, size))
    for j in range(new_size):
        centre = (j + 0.5) / scale - 0.5
        for i in range(math.floor(centre - 2 * stretch), math.ceil(centre + 2 * stretch) + 1):
            mirrored = i % (2 * size)  # ... c b a | a b c ... without end
            matrix[j, min(mirrored, 2 * size - 1 - mirrored)] += _keys_cubic((centre - i) / stretch)
        matrix[j] /= matrix[j].sum()
    return matrix


def _keys_cubic(x: float) -> float:
    """Keys' cubic convolution kernel with a = -0.5."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x <= 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0
