"""`refsr eval --stress`: references of many kinds, changed by known amounts."""

import colorsys
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from refsr_cli.cli import app
from refsr_cli.config import EvaluateConfig
from refsr_cli.data.altered import ALTERATIONS, jittered, noisy, rescaled, rotated
from refsr_cli.data.reference_sets import STRESS, choose_references, targets_among
from refsr_cli.errors import BadSetting
from refsr_cli.packaged import packaged
from refsr_cli.tasks.evaluate import evaluate
from refsr_cli.tasks.stress import Plotted, Stressed, Stressing, endure

KODAK = packaged("examples/images") / "kodak"


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """Two pictures with a reference each, in CUFED5's layout."""
    folder = tmp_path_factory.mktemp("scene")
    for number, name in enumerate(("kodim08", "kodim23")):
        photo = Image.open(KODAK / f"{name}.png").convert("RGB")
        for view, left in enumerate((200, 220)):
            photo.crop((left, 180, left + 96, 276)).save(folder / f"{number:03d}_{view}.png")
    return folder


@pytest.mark.parametrize(("change", "amount"), [(jittered, 0), (noisy, 0), (rotated, 0), (rotated, 360), (rescaled, 1)])
def test_no_change_changes_nothing(photo, change, amount):
    pixels = photo
    assert torch.equal(change(pixels, amount), pixels)


def test_noise_has_the_deviation_asked_for():
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    changed = noisy(grey, 10).float() - 128
    assert float(changed.std()) == pytest.approx(10, abs=0.1) and abs(float(changed.mean())) < 0.1
    assert torch.equal(noisy(grey, 10), noisy(grey, 10))


@pytest.mark.parametrize("degrees", [10, 45, 90, 130, 180, -30])
def test_rotation_is_that_of_pillow(photo, degrees):
    pixels = photo[:, :120, :90]
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    theirs = np.asarray(image.rotate(degrees, Image.Resampling.BICUBIC, expand=True)).astype(np.float64)
    ours = rotated(pixels, degrees).permute(1, 2, 0).numpy().astype(np.float64)
    spare = [(a - b) / 2 for a, b in zip(theirs.shape[:2], ours.shape[:2], strict=True)]
    assert all(abs(side) <= 1 for side in spare), "of the same size, but for the rounding of it"
    side = 30  # the middle: canvases may differ by a pixel
    parts = [
        image[
            image.shape[0] // 2 - side : image.shape[0] // 2 + side,
            image.shape[1] // 2 - side : image.shape[1] // 2 + side,
        ]
        for image in (theirs, ours)
    ]
    assert np.abs(parts[0] - parts[1]).mean() < (0.5 if degrees % 90 == 0 else 8)
    assert rotated(pixels, degrees).shape == rotated(pixels, -degrees).shape


def test_there_and_back(photo):
    """Rotated by an angle and by its opposite a photo is where it was."""
    pixels = photo[:, :101, :101]
    back = rotated(rotated(pixels, 25), -25)
    top, left = ((a - b) // 2 for a, b in zip(back.shape[1:], pixels.shape[1:], strict=True))
    inner = back[:, top : top + 101, left : left + 101][:, 20:-20, 20:-20].float()
    assert float((inner - pixels[:, 20:-20, 20:-20].float()).abs().mean()) < 4


def test_jitter_turns_hues_and_leaves_grey_grey():
    colour = torch.tensor([200, 60, 60], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)
    for amount in (0.2, 0.4):
        red, green, blue = (jittered(colour, amount)[:, 0, 0].double() / 255).tolist()
        turned = colorsys.rgb_to_hsv(red, green, blue)[0]
        assert min(turned, 1 - turned) == pytest.approx(amount / 4, abs=0.03)
    grey = jittered(torch.full((3, 8, 8), 100, dtype=torch.uint8), 0.2)
    assert grey.unique().tolist() == [120]


def test_a_larger_or_smaller_photo(photo):
    pixels = photo
    for amount in (0.5, 1.4):
        assert rescaled(pixels, amount).shape[1:] == tuple(round(side * amount) for side in pixels.shape[1:])


@pytest.fixture(scope="module")
def told(scene, tmp_path_factory) -> tuple[EvaluateConfig, list[Any]]:
    folder = tmp_path_factory.mktemp("told")
    config = EvaluateConfig(
        dataset=str(scene),
        stress=True,
        model="bicubic",
        device="cpu",
        plot=folder / "a" / "gains.png",
        csv=folder / "t.csv",
    )
    return config, list(endure(config))


def test_every_kind_is_scored_and_drawn(told):
    config, records = told
    begun = next(record for record in records if isinstance(record, Stressing))
    rows = {record.refs: record for record in records if isinstance(record, Stressed)}
    there = [choice for choice in STRESS if choice not in ("L2", "L3", "L4", "L5")]  # these pictures have one each
    assert list(rows) == there and (begun.images, begun.tries) == (2, len(there))
    assert begun.left_out == ("L2", "L3", "L4", "L5")
    for row in rows.values():
        assert row.count == 2 and row.gain == pytest.approx(row.psnr - row.alone_psnr)
        assert row.worst_gain <= row.gain and 0 <= row.ref_share <= 1
    assert rows["L1"].gain > 1 > 0.05 > abs(rows["noise"].gain)
    assert rows["noise:30"].gain < rows["noise:10"].gain < rows["L1"].gain
    assert rows["rotate:90"].gain > 0.5 * rows["L1"].gain
    table = list(csv.DictReader(config.csv.read_text().splitlines()))
    assert [row["refs"] for row in table] == there and float(table[0]["gain"]) == rows["L1"].gain
    assert isinstance(records[-1], Plotted) and records[-1].path == config.plot
    with Image.open(records[-1].path) as drawn:
        assert drawn.width > 400 and len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    with pytest.raises(BadSetting, match="exists already"):
        list(endure(config))


def test_one_kind_alone_gives_the_same(scene, told):
    """`--refs rotate:45` is that row of the table."""
    shown = CliRunner().invoke(
        app,
        ["eval", "--dataset", str(scene), "--model", "bicubic", "--refs", "rotate:45", "--device", "cpu", "--json"],
    )
    alone = json.loads(shown.stdout.splitlines()[-1])
    row = next(record for record in told[1] if isinstance(record, Stressed) and record.refs == "rotate:45")
    assert (alone["psnr"], alone["gain"], alone["ref_share"]) == (row.psnr, row.gain, row.ref_share)


@pytest.mark.parametrize("refs", ["rotate", "rotate:much", "rotate:400", "noise:-1", "scale:0", "blur:3", "noise:nan"])
def test_changes_that_are_not_known(scene, refs):
    with pytest.raises(BadSetting, match="rotate:10 "):
        list(evaluate(EvaluateConfig(dataset=str(scene), model="bicubic", refs=refs)))


def test_what_does_not_go_together(scene, tmp_path):
    for other in ({"refs": "L1"}, {"save": tmp_path}):
        with pytest.raises(BadSetting, match="leave out"):
            EvaluateConfig(dataset=str(scene), stress=True, **other)
    with pytest.raises(BadSetting, match="--plot is the picture of --stress"):
        EvaluateConfig(dataset=str(scene), plot=tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((scene / "000_0.png").read_bytes())
    with pytest.raises(BadSetting, match="needs a set with references"):
        list(endure(EvaluateConfig(dataset=str(tmp_path), stress=True, model="bicubic")))


def test_a_single_scene_has_nothing_unrelated(scene):
    (only, _) = targets_among(sorted(scene.iterdir()))
    bank, _ = choose_references("unrelated", [only], only)
    assert len(bank) == 0


def test_every_kind_of_change_is_tried():
    tried = {choice.partition(":")[0] for choice in STRESS if ":" in choice}
    assert tried == set(ALTERATIONS)
    assert all(its.least <= amount <= its.most for its in ALTERATIONS.values() for amount in its.tried)
