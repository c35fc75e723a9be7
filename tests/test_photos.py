"""Crops of training photos, drawn from memory."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refsr_cli.data.degrade import degrade_bicubic, modcrop
from refsr_cli.data.photos import PhotoSet
from refsr_cli.errors import BadData

CPU = torch.device("cpu")
SCALES = (2, 3, 4, 8)


def map_photo(height: int, width: int, number: int = 0) -> Tensor:
    """A photo whose every pixel says where it is: (row, column, number of the photo)."""
    rows = torch.arange(height).view(-1, 1).expand(height, width)
    columns = torch.arange(width).expand(height, width)
    return torch.stack([rows, columns, torch.full((height, width), number)]).to(torch.uint8)


def orientations() -> list[Callable[[Tensor], Tensor]]:
    """The eight ways to lay a square down: four turns, each as it is or mirrored."""
    plain = [lambda x, turns=turns: x.rot90(turns, (-2, -1)) for turns in range(4)]
    return plain + [lambda x, turn=turn: turn(x).flip(-1) for turn in plain]


def locate(hr: Tensor, photos: list[Tensor]) -> tuple[int, int, int, int]:
    """Photo, top, left and orientation of a crop from `map_photo`s, found without knowing how it was taken."""
    pixels = hr.mul(255).round().to(torch.uint8)
    top, left, number = (int(channel.min()) for channel in pixels)
    size = pixels.shape[-1]
    window = photos[number][:, top : top + size, left : left + size]
    assert window.shape == pixels.shape, "the crop reaches beyond the photo"
    found = [index for index, orient in enumerate(orientations()) if torch.equal(orient(window), pixels)]
    assert len(found) == 1, "not a part of the photo"
    return number, top, left, found[0]


@given(
    scale=st.sampled_from(SCALES),
    patch=st.integers(2, 6),
    sizes=st.lists(st.tuples(st.integers(16, 80), st.integers(16, 80)), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_every_crop_is_a_part_of_a_photo_and_low_resolution_lies_on_high(
    scale: int, patch: int, sizes: list[tuple[int, int]], seed: int
) -> None:
    photos = [map_photo(height, width, number) for number, (height, width) in enumerate(sizes)]
    if max(min(size) // scale for size in sizes) < patch:
        with pytest.raises(BadData, match=f"crop of {scale * patch} pixels"):
            PhotoSet(photos, [scale], patch, CPU)
        return
    whole_lr = [degrade_bicubic(modcrop(photo, scale)[None].float() / 255, scale)[0] for photo in photos]
    batch = PhotoSet(photos, [scale], patch, CPU).batch(16, scale, torch.Generator().manual_seed(seed))
    for lr, hr in zip(*batch, strict=True):
        number, top, left, orientation = locate(hr, photos)
        assert top % scale == left % scale == 0
        window = whole_lr[number][:, top // scale :, left // scale :][:, :patch, :patch]
        assert torch.equal(lr, orientations()[orientation](window))


def test_every_position_and_orientation_is_drawn_about_equally_often(generator: torch.Generator) -> None:
    photo = map_photo(13, 15)  # 5 by 6 positions at scale 2: 6 by 7 low-resolution pixels, crops of 2
    _, hr = PhotoSet([photo], [2], 2, CPU).batch(2400, 2, generator)
    found = [locate(crop, [photo])[1:] for crop in hr]
    positions = torch.zeros(5, 6)
    turns = torch.zeros(8)
    for top, left, orientation in found:
        positions[top // 2, left // 2] += 1
        turns[orientation] += 1
    assert chi_square(positions.flatten(), 2400 / 30) < 60  # 29 degrees of freedom: 1 in 1500 by chance
    assert chi_square(turns, 2400 / 8) < 26  # 7 degrees of freedom: 1 in 2000


def test_large_photos_are_drawn_in_proportion_to_their_area(generator: torch.Generator) -> None:
    photos = [map_photo(20, 20, 0), map_photo(60, 40, 1), map_photo(8, 200, 2)]
    _, hr = PhotoSet(photos, [2], 4, CPU).batch(2000, 2, generator)
    drawn = torch.bincount(hr[:, 2, 0, 0].mul(255).round().long(), minlength=3)
    assert chi_square(drawn, torch.tensor([400, 2400, 1600]) / 4400 * 2000) < 15  # 2 degrees of freedom


def chi_square(observed: Tensor, expected: Tensor | float) -> float:
    return float(((observed - expected) ** 2 / expected).sum())


def test_photos_smaller_than_a_crop_are_left_out(generator: torch.Generator) -> None:
    photos = [map_photo(31, 90, 0), map_photo(32, 32, 1), map_photo(90, 31, 2)]
    photo_set = PhotoSet(photos, [4], 8, CPU)
    assert photo_set.count == 1
    assert {locate(hr, photos)[:3] for hr in photo_set.batch(20, 4, generator)[1]} == {(1, 0, 0)}


def test_more_candidates_give_more_detailed_crops(photo: Tensor) -> None:
    photo_set = PhotoSet([photo], [2], 8, CPU)

    def detail(candidates: int) -> float:
        lr, _ = photo_set.batch(200, 2, torch.Generator().manual_seed(0), candidates)
        assert lr.shape == (200, 3, 8, 8)
        return float(lr.std((2, 3)).mean())

    one, two, eight = detail(1), detail(2), detail(8)
    assert one * 1.1 < two and two * 1.1 < eight


def test_the_one_detailed_candidate_is_taken(generator: torch.Generator) -> None:
    flat, busy = torch.zeros(3, 32, 32, dtype=torch.uint8), map_photo(32, 32, 1)
    photo_set = PhotoSet([flat, busy], [2], 4, CPU)
    lr, hr = photo_set.batch(50, 2, generator, candidates=20)  # all twenty are flat once in a million
    assert (lr.std((1, 2, 3)) > 0).all()
    assert {locate(crop, [flat, busy])[0] for crop in hr} == {1}


@pytest.mark.parametrize("candidates", [1, 4])
def test_the_generator_alone_decides_on_the_batch(photo: Tensor, candidates: int) -> None:
    photo_set = PhotoSet([photo, photo.flip(-1)], [4], 6, CPU)
    generator = torch.Generator().manual_seed(3)
    photo_set.batch(8, 4, generator, candidates)
    state = generator.get_state()
    first = photo_set.batch(8, 4, generator, candidates)
    torch.rand(5)  # the global generator has no say
    second = photo_set.batch(8, 4, torch.Generator().set_state(state), candidates)
    third = photo_set.batch(8, 4, generator, candidates)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_set_for_several_scales(scale: int, generator: torch.Generator) -> None:
    whole = modcrop(map_photo(70, 90), 12)
    photo_set = PhotoSet([map_photo(70, 90)], [2, 3, 4], 6, CPU)
    lr, hr = photo_set.batch(5, scale, generator)
    assert lr.shape == (5, 3, 6, 6) and hr.shape == (5, 3, 6 * scale, 6 * scale)
    small = degrade_bicubic(whole[None].float() / 255, scale).mul(255).round().div(255)
    for low, high in zip(lr, hr, strict=True):
        _, top, left, orientation = locate(high, [whole])
        window = small[0][:, top // scale :, left // scale :][:, :6, :6]
        torch.testing.assert_close(low, orientations()[orientation](window))


@pytest.mark.parametrize("candidates", [1, 3])
def test_parts_of_a_batch_make_the_batch(photo: Tensor, candidates: int) -> None:
    photo_set = PhotoSet([photo], [2], 6, CPU)

    def batch(part: slice) -> tuple[Tensor, Tensor]:
        return photo_set.batch(6, 2, torch.Generator().manual_seed(5), candidates, part)

    parts = [batch(slice(0, 3)), batch(slice(3, 6))]
    for whole, pieces in zip(batch(slice(None)), zip(*parts, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(pieces))
