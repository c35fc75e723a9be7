"""Trains the next cycle of TRAINING.md in the time there is, and packages what it gave if that is better.

python weights/train_next.py 110 PHOTOS=photos COPIES=more CID22=validation

The minutes, and the folders that the cycles name. The first row of the table with a block `cycle NAME`, on a GPU
`cycle NAME cuda`, is taken. Each line of it is a training that starts from the one before, after its share of the time;
the last is the evaluation whose PSNR must rise. What was interrupted goes on when this is run again."""

import re
import shlex
import sys
import time
from pathlib import Path

import torch
from package import WEIGHTS, package, refsr

RUNS = Path("runs")


def train(name: str, cycle: str, lines: list[list[str]], end: float) -> list[Path]:
    """The run directories of a cycle's trainings. The first goes on from the first of the last cycle that was better,
    as it was before the others, else from the packaged file."""
    start, runs = RUNS / f"{name}.safetensors", [RUNS / f"{cycle}-{number}" for number in range(1, len(lines) + 1)]
    start = start if start.exists() else WEIGHTS / start.name
    shares = [float(share) for share, *_ in lines]
    for number, (run, line) in enumerate(zip(runs, lines, strict=True)):
        if not (run / "done").exists():
            minutes = max(0.1, (end - time.monotonic()) / 60 * shares[number] / sum(shares[number:]))
            begin = ["--seed", str(int(time.time())), *line[1:], "--init-from", str(start), "--out", str(run)]
            how = ["--resume", str(run)] if (run / "state.pt").exists() else begin
            refsr("train", *how, "--minutes", f"{minutes:.2f}", "--quiet")
            (run / "done").touch()
        start = run / "model.safetensors"
    return runs


def next_cycle(text: str) -> tuple[str, str, list[str]]:
    """The name of the weights, that of the cycle, and the lines of its block."""
    cycles = dict(re.findall(r"(?ms)^```cycle ([\w -]+)\n(.*?)\n^```", text))
    kinds = (" cuda", "") if torch.cuda.is_available() else ("",)
    for name in re.findall(r"(?m)^\| \d+ \| `([\w-]+)`", text):
        for kind in kinds:
            if name + kind in cycles:
                return name, (name + kind).replace(" ", "-"), cycles[name + kind].splitlines()
    sys.exit("no row of TRAINING.md has a cycle")


def main(minutes: str, *folders: str) -> None:
    end = time.monotonic() + 60 * float(minutes)
    name, cycle, block = next_cycle((WEIGHTS / "TRAINING.md").read_text())
    named = dict(folder.split("=", 1) for folder in folders)
    *lines, judge = ([named.get(word, word) for word in shlex.split(line)] for line in block)
    runs = train(name, cycle, lines, end)
    trained = runs[-1] / "model.safetensors"
    both = (WEIGHTS / f"{name}.safetensors", trained)
    before, after = (refsr("eval", *judge, "--weights", str(path), "--json")["psnr"] for path in both)
    print(f"{name}: {before:.3f} dB before, {after:.3f} dB after this cycle")
    if after > before:
        (RUNS / f"{name}.safetensors").write_bytes((runs[0] / "model.safetensors").read_bytes())
        package(name, trained)
    for run in runs:
        run.rename(run.with_name(f"{time.strftime('%Y%m%d-%H%M%S')}-{run.name}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
