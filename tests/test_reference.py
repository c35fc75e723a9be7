"""What references must and must not do, on real photos: the invariants of reference-based super-resolution."""

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from refsr_cli.data.degrade import degrade_bicubic
from refsr_cli.images import Picture, read_rgb8, to_pixels, to_tensor
from refsr_cli.inference.results import Enlarged, finished
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.resample import downscale, resize
from refsr_cli.metrics import PROTOCOLS, score
from refsr_cli.packaged import packaged
from refsr_cli.reference.bank import MOST_REFERENCES, RefBank, open_reference
from refsr_cli.reference.compiled_warp import warp
from refsr_cli.reference.descriptors import cell_map, describe, describe_map, describe_turned, sample_cells
from refsr_cli.reference.match import Match
from refsr_cli.reference.matching import exhaustive, match_reference, survey
from refsr_cli.reference.transfer import Source, sample
from refsr_cli.weights.store import load_model

IMAGES = packaged("examples/images")


def kodak(name: str, height: int = 192, width: int = 192, top: int = 100, left: int = 150) -> Tensor:
    """A part of a real photo.   (3, height, width) uint8"""
    return read_rgb8(IMAGES / "kodak" / f"{name}.png")[:, top : top + height, left : left + width]


@pytest.fixture(scope="module")
def hr() -> Tensor:
    return kodak("kodim08")


@pytest.fixture(scope="module", params=["edsr-baseline", "refnet"])
def upscaler(request) -> Upscaler:
    """A net that merges by formula, and the one that has learned it."""
    return Upscaler(load_model(request.param, 4).model, device="cpu", self_ensemble=False)


def bank(*images: Tensor) -> RefBank:
    return RefBank([open_reference(f"ref{number}", lambda image=image: image) for number, image in enumerate(images)])


def lr_of(hr: Tensor) -> Picture:
    small = degrade_bicubic(hr[None].float() / 255, 4)
    return Picture(to_pixels(small, np.empty((1, 1, 3), np.uint8)), None, "png", None, None, None)


def enlarged(upscaler: Upscaler, hr: Tensor, *refs: Tensor) -> Enlarged:
    picture = lr_of(hr)
    steps = upscaler.enlarge(picture, picture.height * 4, picture.width * 4, bank(*refs) if refs else None)
    return finished(steps)


def psnr(result: Enlarged, hr: Tensor) -> float:
    return score(to_tensor(result.picture.pixels), hr[None].float() / 255, 4, PROTOCOLS["y"]).psnr


@pytest.fixture(scope="module")
def plain(upscaler: Upscaler, hr: Tensor) -> Enlarged:
    return enlarged(upscaler, hr)


@pytest.fixture(scope="module")
def ideal(upscaler: Upscaler, hr: Tensor) -> Enlarged:
    """With the truth itself as reference."""
    return enlarged(upscaler, hr, hr)


def foreign() -> dict[str, Tensor]:
    noise = torch.randint(256, (3, 192, 192), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return {
        "another scene": kodak("kodim23"),
        "noise": noise,
        "one colour": torch.full((3, 200, 300), 90, dtype=torch.uint8),
    }


# What references do


def test_no_reference_changes_nothing(upscaler, plain, hr):
    assert plain.trust is None and plain.uses == ()
    assert np.array_equal(plain.picture.pixels, upscaler(lr_of(hr)).pixels)
    assert np.array_equal(plain.picture.pixels, upscaler(lr_of(hr), refs=RefBank([])).pixels)


def test_the_truth_itself_is_taken_over(plain, ideal, hr):
    assert psnr(ideal, hr) > psnr(plain, hr) + 8
    textured = F.avg_pool2d(hr[None].float().std(1, keepdim=True), 9, 1, 4) > 0
    assert ideal.trust is not None and ideal.trust[textured[0, 0].numpy()].mean() > 0.8 * 255
    (use,) = ideal.uses
    assert use.path == "ref0" and use.share > 0.9 and use.trust > 0.8


def _gamma(image: Tensor, power: float) -> Tensor:
    return image.float().div(255).pow(power).mul(255).round().to(torch.uint8)


def _scaled(image: Tensor, factor: float) -> Tensor:
    side = round(image.shape[1] * factor)
    return resize(image[None].float(), side, side)[0].clamp(0, 255).round().to(torch.uint8)


def _as_jpeg(image: Tensor) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "jpeg", quality=75)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).contiguous()


CHANGES: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "turned by 90": (20.0, lambda image: image.rot90(1, (1, 2))),
    "turned by 180": (20.0, lambda image: image.rot90(2, (1, 2))),
    "turned by 270": (20.0, lambda image: image.rot90(3, (1, 2))),
    "mirrored": (20.0, lambda image: image.flip(2)),
    "twice as large": (9.0, lambda image: _scaled(image, 2.0)),
    "five times as large": (9.0, lambda image: _scaled(image, 5.0)),
    "shifted": (9.0, lambda image: image[:, 3:, 2:]),
    "brighter": (9.0, lambda image: _gamma(image, 0.8)),
    "darker": (9.0, lambda image: _gamma(image, 1.25)),
    "a bit larger": (9.0, lambda image: _scaled(image, 1.25)),
    "a bit smaller": (5.0, lambda image: _scaled(image, 0.8)),
    "as a JPEG": (6.0, _as_jpeg),
    "half as large": (1.5, lambda image: _scaled(image, 0.5)),
}
"""Gain in dB that each change of the truth must leave; the truth itself gives about 22."""


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_truth_still_helps(upscaler, plain, hr, name):
    least, change = CHANGES[name]
    assert psnr(enlarged(upscaler, hr, change(hr).contiguous()), hr) - psnr(plain, hr) > least


def test_a_reference_of_many_pixels_is_matched_smaller_and_read_as_it_is(upscaler, plain, hr, monkeypatch):
    monkeypatch.setattr("refsr_cli.reference.bank._MOST_PIXELS", 20_000)
    result = enlarged(upscaler, hr, hr[:, 3:, 2:].contiguous())
    assert psnr(result, hr) > psnr(plain, hr) + 6
    assert result.match is not None
    rows = torch.arange(48) * 4 + 2.0
    error = (result.match.pos - torch.stack(torch.meshgrid(rows - 3, rows - 2, indexing="ij")))[:, 6:-6, 6:-6].abs()
    assert error.median() < 0.2


def test_a_photo_from_nearer_is_read_without_aliasing(upscaler):
    near = kodak("kodim08", 384, 384, top=0)
    hr = _scaled(near, 0.5)
    assert psnr(enlarged(upscaler, hr, near), hr) > psnr(enlarged(upscaler, hr), hr) + 12


@pytest.mark.parametrize("name", foreign())
def test_a_foreign_reference_costs_nothing(upscaler, plain, hr, name):
    result = enlarged(upscaler, hr, foreign()[name])
    assert psnr(result, hr) > psnr(plain, hr) - 0.02


def test_many_foreign_references_cost_nothing(upscaler, plain, hr):
    assert psnr(enlarged(upscaler, hr, *foreign().values()), hr) > psnr(plain, hr) - 0.02


def test_more_references_do_not_harm(upscaler, plain, hr):
    left, right = hr[:, :, :120].contiguous(), hr[:, :, 90:].contiguous()
    one = psnr(enlarged(upscaler, hr, left), hr)
    assert psnr(enlarged(upscaler, hr, left, *foreign().values()), hr) > one - 0.02
    assert psnr(enlarged(upscaler, hr, left, right), hr) > one + 3


def test_the_order_and_the_number_of_equal_references_mean_nothing(upscaler, hr):
    left, right = hr[:, :, :120].contiguous(), hr[:, :, 90:].contiguous()
    results = [
        enlarged(upscaler, hr, *refs).picture.pixels for refs in ((left, right), (right, left), (left, right, left))
    ]
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_the_result_explains_the_input(plain, ideal, upscaler, hr):
    lr = to_tensor(lr_of(hr).pixels)

    def consistency(result: Enlarged) -> float:
        return -10 * float((downscale(to_tensor(result.picture.pixels), 4) - lr).square().mean().log10())

    other = enlarged(upscaler, hr, kodak("kodim23"), kodak("kodim08", top=180))
    assert min(consistency(ideal), consistency(other)) > consistency(plain) - 0.1


def test_trust_is_zero_where_nothing_changed(upscaler, plain, hr):
    result = enlarged(upscaler, hr, hr[:, :90].contiguous())
    assert result.trust is not None
    changed = (result.picture.pixels != plain.picture.pixels).any(2)
    assert not changed[result.trust == 0].all() and changed[result.trust == 255].mean() > 0.8
    assert np.abs(result.picture.pixels.astype(int) - plain.picture.pixels)[result.trust == 0].max() <= 1


@pytest.mark.parametrize("tile", [16, 40])
def test_tiles_make_no_difference(hr, upscaler, tile):
    whole, parts = (
        enlarged(Upscaler(upscaler.model, device="cpu", self_ensemble=False, tile=side), hr, hr[:, :150].contiguous())
        for side in (0, tile)
    )
    assert np.abs(whole.picture.pixels.astype(int) - parts.picture.pixels).max() <= 1
    assert (whole.picture.pixels != parts.picture.pixels).mean() < 0.01
    assert whole.trust is not None and parts.trust is not None
    assert np.abs(whole.trust.astype(int) - parts.trust).max() <= 1


def test_self_ensemble_and_references_work_together(hr, upscaler):
    part = hr[:, :128, :128].contiguous()
    both = enlarged(Upscaler(upscaler.model, device="cpu", self_ensemble=True), part, hr)
    assert psnr(both, part) > psnr(enlarged(Upscaler(upscaler.model, device="cpu", self_ensemble=True), part), part) + 8


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_other_scales(upscaler, hr, factor):
    picture = lr_of(hr[:, :128, :128])
    size = picture.height * factor
    result = finished(upscaler.enlarge(picture, size, size, bank(hr)))
    without = finished(upscaler.enlarge(picture, size, size))
    truth = resize(hr[None, :, :128, :128].float() / 255, size, size)
    gains = [score(to_tensor(image.picture.pixels), truth, 4, PROTOCOLS["y"]).psnr for image in (result, without)]
    assert result.trust is not None and result.trust.shape == (size, size)
    assert gains[0] > gains[1] + 3


@pytest.mark.parametrize("size", [(17, 97), (64, 31), (1, 40), (5, 5), (1, 1)])
@pytest.mark.parametrize("ref", [(40, 600), (16, 16), (300, 41)])
def test_any_size(size, ref):
    upscaler = Upscaler(load_model("edsr-baseline", 4).model, device="cpu", self_ensemble=False)
    pixels = kodak("kodim08", *size).permute(1, 2, 0).numpy()
    picture = Picture(pixels, None, "png", None, None, None)
    result = finished(upscaler.enlarge(picture, size[0] * 4, size[1] * 4, bank(kodak("kodim23", *ref, top=0, left=0))))
    assert result.picture.pixels.shape == (size[0] * 4, size[1] * 4, 3)


def test_a_net_for_scale_2_takes_detail_at_its_own_scale(hr):
    small = Upscaler(load_model("edsr-baseline", 2).model, device="cpu", self_ensemble=False)
    picture = Picture(
        to_pixels(degrade_bicubic(hr[None].float() / 255, 2), np.empty((1, 1, 3), np.uint8)),
        None,
        "png",
        None,
        None,
        None,
    )

    def quality(*refs: Tensor) -> float:
        result = finished(small.enlarge(picture, *hr.shape[1:], bank(*refs) if refs else None))
        return score(to_tensor(result.picture.pixels), hr[None].float() / 255, 2, PROTOCOLS["y"]).psnr

    plain = quality()
    assert quality(hr) > plain + 8
    assert quality(hr[:, 3:, 2:].contiguous()) > plain + 4
    for name, ref in foreign().items():
        assert quality(ref) > plain - 0.02, name


def test_of_many_references_the_likest_are_taken(hr):
    others = [kodak(name, 64, 64, top) for name in ("kodim23", "kodim05") for top in range(0, 70, 10)]
    chosen = bank(*others, hr).chosen(to_tensor(lr_of(hr).pixels)[0])
    assert len(chosen) == MOST_REFERENCES
    assert any(reference.size == tuple(hr.shape[1:]) for reference in chosen)


# How


def test_a_cell_map_holds_what_the_low_resolution_picture_would(hr):
    image = hr.float() / 255
    cells = cell_map(image)
    inside = slice(4, -4)
    lr = downscale(image[None], 4)[0]
    assert torch.allclose(cells[:, 1::2, 1::2][:, inside, inside], lr[:, inside, inside], atol=1e-5)
    centres = torch.stack(torch.meshgrid(*[torch.arange(48) * 4 + 2.0] * 2, indexing="ij")).flatten(1)
    assert torch.allclose(sample_cells(cells, centres).view_as(lr)[:, inside, inside], lr[:, inside, inside], atol=1e-5)


def test_turned_surroundings_are_those_of_the_turned_picture(hr):
    lr = to_tensor(lr_of(hr).pixels)[0]
    places = torch.tensor([[20, 9, 30], [11, 25, 30]])
    chosen = places[0] * lr.shape[2] + places[1]
    assert torch.allclose(describe_turned(lr, places, torch.eye(2)), describe(lr)[chosen], atol=1e-5)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # down becomes right, right becomes up
    reference = lr.rot90(1, (1, 2))  # its row is what was the column, from the other end
    there = (lr.shape[2] - 1 - places[1]) * reference.shape[2] + places[0]
    assert torch.allclose(describe_turned(lr, places, quarter), describe(reference)[there], atol=1e-5)


def test_the_exhaustive_look_finds_the_best_of_all(hr):
    queries = describe(downscale(hr[None].float() / 255, 4)[0])[::37]
    cells = cell_map(kodak("kodim23").float() / 255)
    parts = list(describe_map(cells, 2**20))
    everything, places = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], 1)
    expected, index = (queries.double() @ everything.double().T).max(1)
    score_found, pos = exhaustive(queries, cells)
    assert torch.allclose(score_found.double(), expected, atol=1e-5)
    assert (pos == places[:, index]).all(0).float().mean() > 0.99


def test_how_much_is_compared_at_once_changes_no_match(hr, monkeypatch):
    lr = to_tensor(lr_of(hr).pixels)[0]
    queries, cells = describe(lr)[::7], cell_map(kodak("kodim08", top=110).float() / 255)
    wanted_score, wanted = exhaustive(queries, cells)
    monkeypatch.setattr("refsr_cli.reference.matching._QUERIES", 37)
    monkeypatch.setattr("refsr_cli.reference.matching._CANDIDATES", 1000)
    found_score, found = exhaustive(queries, cells)
    assert torch.allclose(found_score, wanted_score, atol=1e-6)
    assert (found == wanted).all(0).float().mean() > 0.998, "but for candidates that are equal to the last bit"


def test_refining_in_parts_changes_no_match(hr, monkeypatch):
    lr, reference = to_tensor(lr_of(hr).pixels)[0], hr[:, 5:, 3:].float() / 255
    wanted = match_reference(lr, reference)
    monkeypatch.setattr("refsr_cli.reference.field._CHUNK", 300)
    monkeypatch.setattr("refsr_cli.reference.field._KEPT", 100)
    found = match_reference(lr, reference)
    assert torch.equal(found.pos, wanted.pos) and torch.equal(found.score, wanted.score)


_PEAK = """
import resource, sys, torch
from pathlib import Path
from refsr_cli.images import read_rgb8
from refsr_cli.layers.resample import resize
from refsr_cli.reference.matching import match_reference
torch.set_num_threads(1)
side = int(sys.argv[1])
photo = read_rgb8(Path(sys.argv[2]))[None].float() / 255
lr, reference = resize(photo, side, side)[0], resize(photo, 4 * side, 4 * side)[0]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
match_reference(lr, reference)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory in KiB is what Linux tells")
def test_memory_grows_with_the_pixels_and_not_with_their_square():
    """Nine times the pixels of picture and reference; all their pairs at once would take 21 GB."""
    peaks = []
    for side in (64, 192):
        command = [sys.executable, "-c", _PEAK, str(side), str(IMAGES / "kodak" / "kodim08.png")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < max(peaks[0], 20_000) * 9**1.1
    assert peaks[1] < 600_000


def test_the_survey_sees_how_a_reference_is_turned_and_scaled(hr):
    lr = to_tensor(lr_of(hr).pixels)[0]
    image = hr.float() / 255
    assert survey(lr, image)[0] == 1 and torch.equal(survey(lr, image)[1][0], torch.eye(2))
    scale, turns = survey(lr, _scaled(hr, 2.0).float() / 255)
    assert scale == pytest.approx(0.5) and torch.allclose(turns[0], torch.eye(2))
    turned = survey(lr, image.rot90(1, (1, 2)))[1][0]
    assert torch.allclose(turned.abs(), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), atol=1e-6)


def test_matches_of_a_shifted_reference_are_exact_to_a_part_of_a_pixel(hr):
    lr = to_tensor(lr_of(hr).pixels)[0]
    match = match_reference(lr, hr[:, 5:, 3:].float() / 255)
    rows = torch.arange(48) * 4 + 2.0
    error = (match.pos - torch.stack(torch.meshgrid(rows - 5, rows - 3, indexing="ij")))[:, 6:-6, 6:-6].abs()
    assert error.median() < 0.1 and error.quantile(0.95) < 0.5


def _constant_match(height: int, width: int, down: float, right: float) -> Match:
    rows, columns = torch.arange(height) * 4 + 2.0 + down, torch.arange(width) * 4 + 2.0 + right
    pos = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    affine = torch.eye(2).view(2, 2, 1, 1).expand(2, 2, height, width)
    tone = torch.tensor([1.0, 0, 0, 0]).view(4, 1, 1).expand(4, height, width)
    return Match(pos, affine, torch.ones(height, width), torch.zeros(height, width, dtype=torch.long), tone)


def test_votes_that_agree_are_an_exact_copy(hr):
    shown = warp(_constant_match(20, 24, 7, 11), [Source(hr, (1.0, 1.0))])
    assert torch.allclose(shown.mean, hr[None, :, 7:87, 11:107].float() / 255, atol=1e-5)
    assert shown.variance.max() < 1e-6 and torch.allclose(shown.own, shown.mean, atol=1e-5)


def test_reading_by_blocks_equals_reading_at_once():
    image = torch.randint(256, (3, 40, 2300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pos = torch.rand(2, 5000, generator=torch.Generator().manual_seed(1)) * torch.tensor([[44.0], [2310.0]]) - 4
    grid = torch.stack([2 * pos[1] / 2300 - 1, 2 * pos[0] / 40 - 1], -1).view(1, 1, -1, 2)
    whole = F.grid_sample(image[None].float() / 255, grid, mode="bicubic", padding_mode="border", align_corners=False)
    assert torch.allclose(sample(image, pos), whole[0, :, 0], atol=1e-3)
