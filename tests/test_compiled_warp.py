"""Compiled warping against its definition in tensors."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refsr_cli.images import read_image, to_tensor
from refsr_cli.packaged import packaged
from refsr_cli.reference import compiled_warp
from refsr_cli.reference.compiled_warp import warp
from refsr_cli.reference.match import Match
from refsr_cli.reference.matching import match_reference
from refsr_cli.reference.transfer import Shown, Source, warp_tensors

FLOWERPOT = packaged("examples/images") / "flowerpot"
NAMES = ("mean", "own", "variance")


def drawn(seed: int, height: int, width: int, sizes: Sequence[tuple[int, int]]) -> tuple[Match, list[Source]]:
    """A match of every cell with any place of any reference, or beyond its border, through any affine map."""
    draw = torch.Generator().manual_seed(seed)
    ref_id = torch.randint(len(sizes), (height, width), generator=draw)
    largest = torch.tensor(sizes).amax(0).view(2, 1, 1)
    match = Match(
        pos=(1.4 * torch.rand(2, height, width, generator=draw) - 0.2) * largest,
        affine=torch.eye(2).view(2, 2, 1, 1) + 0.4 * torch.randn(2, 2, height, width, generator=draw),
        score=torch.rand(height, width, generator=draw),
        ref_id=ref_id,
        tone=torch.cat([torch.ones(1, height, width), torch.zeros(3, height, width)])
        + 0.2 * torch.randn(4, height, width, generator=draw),
    )
    sources = [
        Source(torch.randint(256, (3, *size), generator=draw, dtype=torch.uint8), (1.0, 1.0 / (1 + number)))
        for number, size in enumerate(sizes)
    ]
    return match, sources


def assert_equal(found: Shown, expected: Shown, atol: float) -> None:
    for name in NAMES:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=atol, msg=name)
    assert torch.equal(found.score, expected.score)


SIDES = st.integers(1, 30)


@given(
    seed=st.integers(0, 999),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3),
    scale=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_any_match_is_shown_as_the_definition_shows_it(seed, size, sizes, scale):
    match, sources = drawn(seed, *size, sizes)
    assert_equal(warp(match, sources, scale), warp_tensors(match, sources, scale), 1e-3)


def test_a_photo_is_shown_as_the_definition_shows_it():
    lr = to_tensor(read_image(FLOWERPOT / "LR" / "flowerpot.png").pixels)[0, :, 60:150, 40:130].contiguous()
    pixels = read_image(sorted((FLOWERPOT / "ref").iterdir())[0]).pixels
    reference = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    match = match_reference(lr, reference.float() / 255)
    source = Source.of(reference, match, 4)
    assert_equal(warp(match, [source]), warp_tensors(match, [source]), 5e-4)


def test_a_picture_laid_over_its_reference_comes_back():
    height, width = 17, 40
    draw = torch.Generator().manual_seed(2)
    image = torch.randint(256, (3, 4 * height, 4 * width), generator=draw, dtype=torch.uint8)
    rows, columns = 4 * (torch.arange(height) + 0.5), 4 * (torch.arange(width) + 0.5)
    tone = torch.tensor([1.0, 0, 0, 0]).view(4, 1, 1).expand(4, height, width)
    match = Match(
        pos=torch.stack(torch.meshgrid(rows, columns, indexing="ij")),
        affine=torch.eye(2).view(2, 2, 1, 1).expand(2, 2, height, width),
        score=torch.ones(height, width),
        ref_id=torch.zeros(height, width, dtype=torch.long),
        tone=tone,
    )
    shown = warp(match, [Source(image, (1.0, 1.0))])
    for seen in (shown.mean, shown.own):
        torch.testing.assert_close(seen[0], image.float() / 255, rtol=0, atol=1e-5)
    assert float(shown.variance.max()) < 1e-6


def test_the_number_of_threads_makes_no_difference():
    match, sources = drawn(5, 50, 30, [(90, 70), (40, 60)])
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(warp(match, sources))
    finally:
        torch.set_num_threads(threads)
    for name in NAMES:
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


def test_without_a_compiler_tensors_do_it(monkeypatch):
    match, sources = drawn(6, 9, 9, [(30, 30)])
    expected = warp_tensors(match, sources)
    monkeypatch.setattr(compiled_warp, "kernels", lambda name: None)
    found = warp(match, sources)
    for name in NAMES:
        assert torch.equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("number", [0, 1])
def test_a_reference_that_shows_nothing_is_not_read(number):
    match, sources = drawn(7, 9, 9, [(30, 30), (30, 30)])
    only = Match(match.pos, match.affine, match.score, torch.full_like(match.ref_id, number), match.tone)
    other = Source(torch.empty(3, 0, 0, dtype=torch.uint8), (1.0, 1.0))
    with_other = [source if place == number else other for place, source in enumerate(sources)]
    assert torch.equal(warp(only, with_other).mean, warp(only, sources).mean)
