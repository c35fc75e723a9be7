"""Packages what a training gave: the file, its row of the manifest, the figures of its card, and the trunks of nets
that leave theirs to it.

python weights/package.py edsr-baseline-x4 RUN/model.safetensors

The data sets of the card must lie in $REFSR_DATA."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import torch

from refsr_cli.weights.files import load_weights, save_weights, trunk_beside

WEIGHTS = Path(__file__).resolve().parent


def refsr(*arguments: str) -> dict[str, float]:
    """Runs a command. Its last record where it is asked for JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "refsr_cli", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1]) if "--json" in arguments else {}


def package(name: str, trained: Path) -> None:
    packaged = WEIGHTS / f"{name}.safetensors"
    loaded = {path: load_weights(path) for path in WEIGHTS.glob("*.safetensors") if path != packaged}
    users = {path: its for path, its in loaded.items() if trunk_beside(path, its.metadata) == packaged}
    refsr("weights", "convert", str(trained), "--half", "-o", str(packaged), "--overwrite")
    trunk = load_weights(packaged).model.state_dict()
    for path, its in users.items():
        its.model.trunk.load_state_dict(trunk)
        save_weights(path, its.model, its.name, its.metadata, torch.float16, packaged)
    for path in (packaged, *users):
        note(path)
    score(packaged, WEIGHTS / "cards" / f"{name}.md", name.rpartition("x")[2])


def note(path: Path) -> None:
    """Writes the size and the checksum of a file into its row."""
    manifest = WEIGHTS / "manifest.toml"
    row = rf'(?s)(id = "{path.stem}"\n.*?sha256 = ")\w+(".*?bytes = )\d+'
    new = rf"\g<1>{hashlib.sha256(path.read_bytes()).hexdigest()}\g<2>{path.stat().st_size}"
    manifest.write_text(re.sub(row, new, manifest.read_text(), count=1))


def score(weights: Path, card: Path, scale: str) -> None:
    """Measures every row of the card's table of data sets anew."""
    rows = r"(?m)^(\| (\w+)(, self-ensemble)? \| (y|rgb|y0) \|).*$"
    for row, dataset, plus, protocol in re.findall(rows, card.read_text()):
        which = ["--dataset", dataset, "-s", scale, "--protocol", protocol, "--weights", str(weights)]
        its = refsr("eval", *which, "--as-published", *["--self-ensemble"] * bool(plus), "--json")
        figures = [f"{its[kind + 'psnr']:.2f} | {its[kind + 'ssim']:.4f}" for kind in ("", "bicubic_")]
        line = f"{row} {' | '.join(figures)} |"
        card.write_text(re.sub(f"(?m)^{re.escape(row)}.*$", line, card.read_text()))


if __name__ == "__main__":
    package(sys.argv[1], Path(sys.argv[2]))
