"""Where degraded pictures are found in references, against places that are known."""

import pytest
import torch
from torch import Tensor

from refsr_cli.data.degradations import as_jpeg, parse_degradation
from refsr_cli.images import read_rgb8
from refsr_cli.packaged import packaged
from refsr_cli.reference.match import Match
from refsr_cli.reference.matching import match_reference, muted
from refsr_cli.reference.transfer import sample

_TURN = torch.tensor([[0.98, -0.06], [0.05, 1.03]])
"""How the reference shows a step in the picture: turned a little, and stretched."""
_CORNER = torch.tensor([90.0, 150.0]).view(2, 1, 1)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """(3, H, W) uint8, which is the reference."""
    return read_rgb8(packaged("examples/images/kodak/kodim08.png"))


def shrunk(photo: Tensor, places: Tensor, degradation: str) -> Tensor:
    """The photo at rows and columns (2, h, w), a quarter as large, degraded: (3, h // 4, w // 4)."""
    hr = sample(photo, places.flatten(1)).view(1, 3, *places.shape[1:])
    made = parse_degradation(degradation)
    lr = made.shrink(hr, 4, "photo")[0]
    return as_jpeg(lr.mul(255).round().byte(), made.jpeg).float() / 255 if made.jpeg else lr


def positions(step: int) -> Tensor:
    """Row and column of the middle of each cell of `step` pixels: (2, 192 // step, 192 // step)."""
    middle = torch.arange(192 // step) * step + step / 2
    return torch.stack(torch.meshgrid(middle, middle, indexing="ij"))


def turned(places: Tensor) -> Tensor:
    """Places in the picture (2, h, w) as places in the photo."""
    return torch.einsum("ab,bhw->ahw", _TURN, places) + _CORNER


def error(match: Match, truth: Tensor) -> Tensor:
    """Pixels from the truth, away from the border."""
    return (match.pos - truth).norm(dim=0)[6:-6, 6:-6]


@pytest.mark.parametrize(("degradation", "quality"), [("jpeg:50", (1.0, 0, 0)), ("noise:10", (0, 1.0, 0))])
def test_what_degraded_a_picture_moves_its_places_less_when_it_is_known(photo, degradation, quality):
    lr, truth = shrunk(photo, turned(positions(1)), degradation), turned(positions(4))
    known = ((0, 0, 0), quality)
    unaware, aware = (error(match_reference(lr, photo.float() / 255, 0, what), truth) for what in known)
    assert aware.median() < 0.7 * unaware.median()
    assert aware.quantile(0.9) < unaware.quantile(0.9)


def test_what_moves_apart_is_not_smoothed(photo):
    """Two halves of which one is shown 6 pixels further down: along their border each keeps its own place."""

    def halves(places: Tensor) -> Tensor:
        further = torch.tensor([6.0, 0]).view(2, 1, 1)
        return torch.where(places[1] < 96, places, places + further) + _CORNER

    lr = shrunk(photo, halves(positions(1)), "jpeg:75")
    match = match_reference(lr, photo.float() / 255, 0, (0.5, 0.0, 0.0))
    wrong = (match.pos - halves(positions(4))).norm(dim=0)[6:-6]
    assert wrong.median() < 0.5
    assert wrong[:, [21, 22, 25, 26]].median() < 2.2, "a mean of both would be 3 pixels from either"


def test_a_smooth_ramp_is_not_found_in_a_small_part_of_an_edge(photo):
    """Which correlates, as every edge is smooth when it is enlarged enough."""
    ramp = torch.linspace(0.2, 0.8, 96).view(1, 1, 96).expand(3, 96, 96)
    assert match_reference(ramp, photo[:, 100:292, 150:342].float() / 255).score.median() < 0.1


def test_muted_colours_come_back_and_brightness_stays(photo):
    rgb = photo.float() / 255
    grey = muted(rgb, 0.0)
    assert torch.allclose(grey[0], grey[1], atol=1e-6) and torch.allclose(grey[0], grey[2], atol=1e-6)
    assert torch.allclose(muted(muted(rgb, 0.5), 2.0), rgb, atol=1e-5)
