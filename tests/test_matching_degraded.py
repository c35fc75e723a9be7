"""Where degraded pictures are found in references, against places that are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.images import read_rgb8, to_pixels, to_tensor
from refsr_cli.images.jpeg import recompressed
from refsr_cli.packaged import packaged
from refsr_cli.reference.match import Match
from refsr_cli.reference.matching import match_reference, muted

_TURN = torch.tensor([[0.98, -0.06], [0.05, 1.03]])
"""How the reference shows a step in the picture: turned a little, and stretched."""
QUALITY_50 = (1.0, 0.0, 0.0)
NOISE_10 = (0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return read_rgb8(packaged("examples/images/kodak/kodim08.png"))[None].float() / 255


def seen(photo: Tensor, places: Tensor) -> Tensor:
    """A photo (1, 3, H, W) read at rows and columns (2, h, w): (1, 3, h, w)."""
    size = torch.tensor(photo.shape[2:]).view(2, 1, 1)
    return F.grid_sample(photo, (2 * places / size - 1).flip(0).permute(1, 2, 0)[None], "bicubic", align_corners=False)


def positions(height: int, width: int, step: int) -> Tensor:
    """Row and column of the middle of each cell of `step` pixels: (2, height // step, width // step)."""
    rows, columns = (torch.arange(side // step) * step + step / 2 for side in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def turned(places: Tensor) -> Tensor:
    """Places in the picture (2, h, w) as places in the photo, which is the reference."""
    return torch.einsum("ab,bhw->ahw", _TURN, places) + torch.tensor([90.0, 150.0]).view(2, 1, 1)


def compressed(lr: Tensor, quality: int) -> Tensor:
    pixels = to_pixels(lr, np.empty((1, 1, 3), np.uint8))
    return to_tensor(recompressed(pixels, quality))[0]


def noisy(lr: Tensor, sigma: float) -> Tensor:
    return (lr + torch.randn(lr.shape, generator=torch.Generator().manual_seed(0)) * sigma / 255)[0].clamp(0, 1)


def error(match: Match, truth: Tensor) -> Tensor:
    """Pixels from the truth, away from the border."""
    return (match.pos - truth).norm(dim=0)[6:-6, 6:-6]


@pytest.mark.parametrize("quality", [QUALITY_50, NOISE_10], ids=["quality 50", "noise 10"])
def test_what_degraded_a_picture_moves_its_places_less_when_it_is_known(photo, quality):
    hr = seen(photo, turned(positions(192, 192, 1)))
    lr = degrade_bicubic(hr, 4)
    truth = turned(positions(192, 192, 4))
    degraded = compressed(lr, 50) if quality is QUALITY_50 else noisy(lr, 10)
    unaware, aware = (error(match_reference(degraded, photo[0], 0, known), truth) for known in ((0, 0, 0), quality))
    assert aware.median() < 0.7 * unaware.median()
    assert aware.quantile(0.9) < unaware.quantile(0.9)


def test_what_moves_apart_is_not_smoothed(photo):
    """Two halves of which one is shown 6 pixels further down: along their border each keeps its own place."""

    def halves(places: Tensor) -> Tensor:
        further = torch.tensor([6.0, 0]).view(2, 1, 1)
        return torch.where(places[1] < 96, places, places + further) + torch.tensor([90.0, 150.0]).view(2, 1, 1)

    lr = compressed(degrade_bicubic(seen(photo, halves(positions(192, 192, 1))), 4), 75)
    match = match_reference(lr, photo[0], 0, (0.5, 0.0, 0.0))
    wrong = (match.pos - halves(positions(192, 192, 4))).norm(dim=0)[6:-6]
    assert wrong.median() < 0.5
    assert wrong[:, [21, 22, 25, 26]].median() < 2.2, "a mean of both would be 3 pixels from either"


def test_a_smooth_ramp_is_not_found_in_a_small_part_of_an_edge(photo):
    """Which correlates, as every edge is smooth when it is enlarged enough."""
    ramp = torch.linspace(0.2, 0.8, 96).view(1, 1, 96).expand(3, 96, 96)
    assert match_reference(ramp, photo[0, :, 100:292, 150:342]).score.median() < 0.1


def test_muted_colours_come_back_and_brightness_stays(photo):
    grey = muted(photo[0], 0.0)
    assert torch.allclose(grey[0], grey[1], atol=1e-6) and torch.allclose(grey[0], grey[2], atol=1e-6)
    assert torch.allclose(muted(muted(photo[0], 0.5), 2.0), photo[0], atol=1e-5)
