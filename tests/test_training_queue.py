"""The scripts beside the weights: the next cycle is trained, judged, and packaged where it is better."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.images import Picture, read_image, write_image
from refsr_cli.models import build
from refsr_cli.weights.files import load_weights, save_weights

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"features": 4, "blocks": 1}
OPTIONS = (
    "--model edsr-baseline -s 4 --set features=4 --set blocks=1 --data PHOTOS --val VAL --batch 4 --patch 8 "
    "--learning-rate 1e-3 --schedule cosine --device cpu --precision fp32 --ema 0.5"
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small net, one that has it as its trunk, and a cycle for it."""
    weights = tmp_path / "weights"
    (weights / "cards").mkdir(parents=True)
    for script in ("package.py", "train_next.py"):
        shutil.copy(ROOT / "weights" / script, weights)
    torch.manual_seed(0)
    save_weights(weights / "tiny-x4.safetensors", build("edsr-baseline", 4, SMALL), "edsr-baseline", {}, torch.float16)
    config = {"trunk_features": 4, "trunk_blocks": 1, "features": 4, "blocks": 1}
    net = build("refnet", 4, config)
    net.trunk.load_state_dict(load_weights(weights / "tiny-x4.safetensors").model.state_dict())
    save_weights(weights / "ref-x4.safetensors", net, "refnet", {}, torch.float16, weights / "tiny-x4.safetensors")
    rows = [f'[[weights]]\nid = "{name}"\nsha256 = "0"\nbytes = 1\n' for name in ("tiny-x4", "ref-x4")]
    (weights / "manifest.toml").write_text("\n".join(rows))
    card = ["| dataset | protocol | PSNR | SSIM | bicubic | SSIM |", "|---|---|---|---|---|---|", "| val | y | ? |", ""]
    (weights / "cards" / "tiny-x4.md").write_text("\n".join(card))
    cycle = [
        "```cycle tiny-x4",
        f"80 {OPTIONS}",
        f"20 {OPTIONS} --only tail",
        "--dataset VAL -s 4 --as-published",
        "```",
    ]
    (weights / "TRAINING.md").write_text("\n".join(["| 1 | `other` |", "| 2 | `tiny-x4` | ... |", "", *cycle, ""]))
    for name, side in (("photos", 200), ("val", 64)):
        (tmp_path / name).mkdir()
        pixels = read_image(trial_photos().folder / "kodim23.png").pixels[100 : 100 + side, 100 : 100 + side]
        write_image(tmp_path / name / "a.png", Picture(pixels, None, "png", None, None, None))
    return tmp_path


def run(folder: Path, minutes: float) -> str:
    command = [sys.executable, "weights/train_next.py", str(minutes), f"PHOTOS={folder}/photos", f"VAL={folder}/val"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # the scripts lie elsewhere here
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_better_net_is_packaged_with_all_that_depends_on_it(folder):
    weights = folder / "weights"
    before = (weights / "tiny-x4.safetensors").read_bytes()
    (folder / "runs" / "tiny-x4-1").mkdir(parents=True)  # begun, and interrupted before anything was saved
    assert "dB after this cycle" in run(folder, 0.05)
    data = (weights / "tiny-x4.safetensors").read_bytes()
    assert data != before
    trunk = load_weights(weights / "ref-x4.safetensors").model.trunk.state_dict()
    net = load_weights(weights / "tiny-x4.safetensors").model.state_dict()
    assert all(torch.equal(value, net[key]) for key, value in trunk.items())
    for name in ("tiny-x4", "ref-x4"):
        file = (weights / f"{name}.safetensors").read_bytes()
        row = f'id = "{name}"\nsha256 = "{hashlib.sha256(file).hexdigest()}"\nbytes = {len(file)}\n'
        assert row in (weights / "manifest.toml").read_text()
    figures = (weights / "cards" / "tiny-x4.md").read_text().splitlines()[2].split(" | ")
    assert figures[:2] == ["| val", "y"] and len(figures) == 6 and float(figures[2]) > 5
    kept = [path.name.partition("tiny")[2] for path in (folder / "runs").iterdir() if path.is_dir()]
    assert sorted(kept) == ["-x4-1", "-x4-2"] and not (folder / "runs" / "tiny-x4-1").exists()
    assert (folder / "runs" / "tiny-x4.safetensors").exists(), "what the next cycle starts from"


def test_a_net_that_is_no_better_is_not_packaged(folder):
    weights = folder / "weights"
    lines = (weights / "TRAINING.md").read_text().replace("--learning-rate 1e-3", "--learning-rate 1e-12").splitlines()
    (weights / "TRAINING.md").write_text("\n".join(line for line in lines if not line.startswith("20 ")))
    before = (weights / "tiny-x4.safetensors").read_bytes()
    run(folder, 0.01)
    assert (weights / "tiny-x4.safetensors").read_bytes() == before
    assert 'sha256 = "0"' in (weights / "manifest.toml").read_text()
    assert not (folder / "runs" / "tiny-x4.safetensors").exists()
