"""Packages what a training gave: the file, its row of the manifest, the figures of its card, and the trunks of nets
that leave theirs to it.

python weights/package.py edsr-baseline-x4 RUN/model.safetensors

The data sets of the card must lie in $REFSR_DATA."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tree alone is enough

import torch

from refsr_cli.files import digest
from refsr_cli.weights.files import load_weights, save_weights, trunk_beside

WEIGHTS = Path(__file__).resolve().parent


def refsr(*arguments: str) -> dict[str, float]:
    """Runs a command. Its last record where it is asked for JSON."""
    paths = os.pathsep.join([str(WEIGHTS.parent), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-m", "refsr_cli", *arguments], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1]) if "--json" in arguments else {}


def package(name: str, trained: Path) -> None:
    packaged, card = WEIGHTS / f"{name}.safetensors", WEIGHTS / "cards" / f"{name}.md"
    if f'id = "{name}"' not in (WEIGHTS / "manifest.toml").read_text() or not card.exists():
        sys.exit(f"{name} needs a row in manifest.toml and a card, {card}, before it is packaged")
    figures = scored(trained, card.read_text(), name.rpartition("x")[2])  # first, as it may fail
    loaded = {path: load_weights(path) for path in WEIGHTS.glob("*.safetensors") if path != packaged}
    users = {path: net for path, net in loaded.items() if trunk_beside(path, net.metadata) == packaged}
    refsr("weights", "convert", str(trained), "--half", "-o", str(packaged), "--overwrite")
    trunk = load_weights(packaged).model.state_dict()
    for path, net in users.items():
        net.model.trunk.load_state_dict(trunk)
        save_weights(path, net.model, net.name, net.metadata, torch.float16, packaged)
    for path in (packaged, *users):
        note(path)
    card.write_text(figures)


def note(path: Path) -> None:
    """Writes the size and the checksum of a file into its row."""
    manifest = WEIGHTS / "manifest.toml"
    row = rf'(?s)(id = "{path.stem}"\n.*?sha256 = ")\w+(".*?bytes = )\d+'
    new = rf"\g<1>{digest(path)}\g<2>{path.stat().st_size}"
    manifest.write_text(re.sub(row, new, manifest.read_text(), count=1))


def scored(weights: Path, card: str, scale: str) -> str:
    """The card with every row of its table of data sets measured anew, in fp32."""
    rows = r"(?m)^(\| (\w+)(, self-ensemble)? \| (y|rgb) \|).*$"
    for row, dataset, plus, protocol in re.findall(rows, card):
        which = ["--dataset", dataset, "-s", scale, "--protocol", protocol, "--weights", str(weights)]
        result = refsr("eval", *which, "--as-published", *["--self-ensemble"] * bool(plus), "--json")
        figures = [f"{result[kind + 'psnr']:.2f} | {result[kind + 'ssim']:.4f}" for kind in ("", "bicubic_")]
        card = re.sub(f"(?m)^{re.escape(row)}.*$", f"{row} {' | '.join(figures)} |", card)
    return card


if __name__ == "__main__":
    package(sys.argv[1], Path(sys.argv[2]))
