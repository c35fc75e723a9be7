"""Compiled tries of places against their definition in tensors."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from refsr_cli.images import read_image, to_tensor
from refsr_cli.packaged import packaged
from refsr_cli.reference import compiled_level
from refsr_cli.reference.compiled_level import CompiledLevel, open_level
from refsr_cli.reference.field import Field, Level, refine
from refsr_cli.reference.kernels import kernels

FLOWERPOT = packaged("examples/images") / "flowerpot"


@cache
def pictures() -> tuple[Tensor, Tensor]:
    """A part of a photo (3, 60, 52), and a reference of the same scene."""
    lr = to_tensor(read_image(FLOWERPOT / "LR" / "flowerpot.png").pixels)[0, :, 90:150, 60:112]
    reference = to_tensor(read_image(sorted((FLOWERPOT / "ref").iterdir())[0]).pixels)[0, :, 300:700, 200:600]
    return lr.contiguous(), reference.contiguous()


def both(lr: Tensor, reference: Tensor, number: int = 0) -> tuple[Level, Level]:
    compiled = kernels("field_kernels")
    assert compiled is not None
    return Level(lr, reference, number), CompiledLevel(lr, reference, number, compiled)


def places(level: Level, reference: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Places all over the reference and beyond its border, and affine maps of all kinds."""
    draw = torch.Generator().manual_seed(seed)
    size = torch.tensor(reference.shape[-2:]).view(2, 1, 1)
    pos = (1.2 * torch.rand(2, level.height, level.width, generator=draw) - 0.1) * size
    affine = torch.eye(2).view(2, 2, 1, 1) + 0.3 * torch.randn(2, 2, level.height, level.width, generator=draw)
    return pos, affine


def smooth(level: Level, reference: Tensor) -> Field:
    """A field that is nearly right: the picture laid over the reference, with some unrest."""
    draw = torch.Generator().manual_seed(1)
    ratio = torch.tensor(reference.shape[-2:]) / (torch.tensor([level.height, level.width]) * level.step)
    unrest = torch.randn(2, level.height, level.width, generator=draw)
    pos = level.centres() * ratio.view(2, 1, 1) + 2 * unrest
    affine = torch.diag(ratio).view(2, 2, 1, 1).repeat(1, 1, level.height, level.width)
    return Field(pos, affine, level.compare(pos, affine))


def assert_alike(found: Field, expected: Field, unlike: float = 0.002) -> None:
    """Equal but for the share `unlike` of the cells, where two places are as good as each other to rounding."""
    moved = (found.pos - expected.pos).norm(dim=0) > 2e-3
    bent = (found.affine - expected.affine).flatten(0, 1).norm(dim=0) > 2e-3
    scored = (found.score - expected.score).abs() > 1e-4
    assert float((moved | bent | scored).float().mean()) <= unlike


@pytest.mark.parametrize("number", [0, 1, 2])
def test_scores_are_those_of_the_definition(number):
    slow, quick = both(*pictures(), number)
    pos, affine = places(slow, pictures()[1])
    torch.testing.assert_close(quick.compare(pos, affine), slow.compare(pos, affine), rtol=0, atol=2e-4)


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    tall=st.integers(1, 20),
    wide=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_pictures_of_any_size_are_compared(height, width, tall, wide, seed):
    draw = torch.Generator().manual_seed(seed)
    lr, reference = torch.rand(3, height, width, generator=draw), torch.rand(3, tall, wide, generator=draw)
    slow, quick = both(lr, reference)
    pos, affine = places(slow, reference, seed)
    torch.testing.assert_close(quick.compare(pos, affine), slow.compare(pos, affine), rtol=0, atol=5e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_tones_are_those_of_the_definition(number):
    slow, quick = both(*pictures(), number)
    pos, affine = places(slow, pictures()[1])
    field = Field(pos, affine, torch.zeros(slow.height, slow.width))
    torch.testing.assert_close(quick.tone(field), slow.tone(field), rtol=0, atol=1e-4)


def test_flat_surroundings_do_not_correlate():
    lr, reference = torch.full((3, 9, 9), 0.4), torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    for first, second in ((lr, reference), (reference, torch.full((3, 40, 40), 0.7))):
        _, quick = both(first, second)
        score = quick.compare(*places(quick, second))
        assert float(score.abs().max()) < 0.02


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "change",
    [
        lambda level, field: level.search(field, 0.5),
        lambda level, field: level.propagate(field, (1, 8, 2)),
        lambda level, field: level.perturb(field, torch.Generator().manual_seed(2), 0.5, 0.03),
        lambda level, field: level.fit(field, -0.01),
        lambda level, field: level.fit(field, -torch.inf, 2),
    ],
    ids=["search", "propagate", "perturb", "fit", "fit with what is near"],
)
def test_a_step_is_that_of_the_definition(number, change):
    slow, quick = both(*pictures(), number)
    field = smooth(slow, pictures()[1])
    before = [its.clone() for its in (field.pos, field.affine, field.score)]
    found, expected = change(quick, field), change(slow, field)
    assert not torch.equal(expected.pos, field.pos)
    assert_alike(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(before, (field.pos, field.affine, field.score), strict=True))


def test_all_steps_together_find_places_as_good():
    slow, _ = both(*pictures())
    fields = [
        refine(its, smooth(slow, pictures()[1]), torch.Generator().manual_seed(3), thorough=True)
        for its in both(*pictures())
    ]
    means = [float(field.score.mean()) for field in fields]
    assert means[1] == pytest.approx(means[0], abs=1e-3)
    scores = [float(slow.compare(field.pos, field.affine).mean()) for field in fields]
    assert scores == pytest.approx(means, abs=1e-4)


def test_the_number_of_threads_makes_no_difference():
    _, quick = both(*pictures())
    field, threads = smooth(quick, pictures()[1]), torch.get_num_threads()
    try:
        found = []
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(quick.fit(quick.propagate(field, (1, 2)), -0.01))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0].pos, found[1].pos) and torch.equal(found[0].score, found[1].score)


def test_without_a_compiler_tensors_do_it(monkeypatch):
    monkeypatch.setattr(compiled_level, "kernels", lambda name: None)
    assert type(open_level(*pictures(), 0)) is Level


def test_a_cpu_compiles():
    assert isinstance(open_level(*pictures(), 0), CompiledLevel)
