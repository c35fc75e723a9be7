"""The weights that travel with refsr: whole, described, and worth having."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from refsr_cli.config import EvaluateConfig
from refsr_cli.data.degrade import degrade_bicubic, modcrop
from refsr_cli.images import Picture, read_image, to_pixels, to_tensor
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.models import build
from refsr_cli.packaged import packaged
from refsr_cli.tasks.evaluate import Summary, evaluate
from refsr_cli.weights.files import load_weights
from refsr_cli.weights.manifest import WeightRecord, read_manifest

FOLDER = packaged("weights")
ROWS = [record for record in read_manifest() if record.repo is None]
ENLARGING = [record for record in ROWS if record.scale > 1]
LARGEST = 7 * 2**20


def summary_of(record: WeightRecord, dataset: Path, **settings) -> Summary:
    config = EvaluateConfig(dataset=str(dataset), weights=record.id, scale=record.scale, device="cpu", **settings)
    (*_, last) = evaluate(config)
    assert isinstance(last, Summary)
    return last


def record_of(name: str) -> WeightRecord:
    return next(record for record in ROWS if record.id == name)


def test_there_are_some():
    assert any(record.model == "edsr-baseline" and record.scale == 4 for record in ROWS)


@pytest.mark.parametrize("record", ROWS, ids=lambda record: record.id)
def test_a_packaged_file(record):
    content = (FOLDER / record.file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == record.sha256
    assert len(content) == record.bytes <= LARGEST
    loaded = load_weights(FOLDER / record.file)
    assert (loaded.name, loaded.model.scale) == (record.model, record.scale)
    assert record.card
    card = (FOLDER / record.card).read_text("utf-8")
    assert all(f"## {section}" in card for section in ("Figures", "Data", "Training", "Licence"))
    assert "refsr eval" in card and "refsr train" in card


def test_nothing_is_left_over():
    assert {path.name for path in FOLDER.glob("*.safetensors")} == {record.file for record in ROWS}


@pytest.mark.parametrize("record", ENLARGING, ids=lambda record: record.id)
def test_better_than_bicubic_on_a_photo(record):
    result = summary_of(record, packaged("examples/images") / "flowerpot")
    assert result.psnr > result.bicubic_psnr + 0.5
    assert result.ssim > result.bicubic_ssim


@pytest.mark.parametrize("record", ENLARGING, ids=lambda record: record.id)
@torch.inference_mode()
def test_no_frame_at_the_border(record):
    """Protocols leave the outermost pixels out; people see them. Interpolation knows no more of what lies outside."""
    hr = read_image(packaged("examples/images") / "flowerpot/HR/flowerpot.png")
    (hr,) = modcrop(to_tensor(hr.pixels[200:560, 160:640]), record.scale)
    pixels = to_pixels(degrade_bicubic(hr[None], record.scale), np.empty((1, 1, 3), np.uint8))
    lr = Picture(pixels, None, "png", None, None, None)
    bicubic, sr = (
        to_tensor(Upscaler(model, device="cpu", precision="fp32")(lr).pixels)[0]
        for model in (build("bicubic", record.scale), load_weights(FOLDER / record.file).model)
    )

    def frame_error(image: torch.Tensor) -> float:
        squared = (image - hr).square().mean(0)
        inner = squared[2:-2, 2:-2]
        return float((squared.sum() - inner.sum()) / (squared.numel() - inner.numel()))

    assert frame_error(sr) < frame_error(bicubic)


def test_without_references_the_reference_net_is_its_trunk():
    whole, trunk = (load_weights(FOLDER / record_of(name).file).model for name in ("refnet-x4", "edsr-baseline-x4"))
    for key, value in trunk.state_dict().items():
        assert torch.equal(whole.state_dict()[f"trunk.{key}"], value), key


def test_merging_that_was_learned_is_better_than_the_formula(shared_data, tmp_path):
    """On a few groups of real photos, and never far below the net without references."""
    for path in (shared_data / "refeval").iterdir():
        if path.stem[:3] in ("012", "024", "044") and path.stem[-1] in "01":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    learned, formula = (summary_of(record_of(name), tmp_path, refs="L1") for name in ("refnet-x4", "edsr-baseline-x4"))
    assert (learned.count, learned.alone_psnr) == (3, formula.alone_psnr)
    assert learned.gain is not None and formula.gain is not None
    assert learned.gain > formula.gain > 1.4
    assert learned.worst_gain is not None and learned.worst_gain > -0.05


@pytest.mark.parametrize(("name", "promised"), [("edsr-baseline-x4", 30.6), ("edsr-baseline-x2", 37.0)])
def test_the_promised_quality(shared_data, name, promised):
    """The figure of the card, and that self-ensemble adds to it."""
    record = record_of(name)
    plain = summary_of(record, shared_data / "eval" / "Set5", as_published=True)
    assert plain.psnr >= promised
    row = re.search(r"\| Set5 \| y \| ([\d.]+)", (FOLDER / str(record.card)).read_text("utf-8"))
    assert row and float(row[1]) == pytest.approx(plain.psnr, abs=0.006)
    assert summary_of(record, shared_data / "eval" / "Set5", as_published=True, self_ensemble=True).psnr > plain.psnr
