"""Nets with references on the same pairs: scores, seconds, memory. With a set, a kind of references and own weights:
python examples/compare_reference_nets.py SET L1 runs/ssen-x4/model.safetensors"""

import multiprocessing
import sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage  # not on Windows
from tempfile import TemporaryDirectory

from PIL import Image

from refsr_cli.config import EvaluateConfig
from refsr_cli.tasks.evaluate import evaluate

NETS = ("edsr-baseline-x4", "refnet-x4", "ssen-x4", "datsr-small-x4")
FLOWERPOT = Path(__file__).parent / "images" / "flowerpot"


def demo_set(folder: Path) -> str:
    """The middle of one picture and of a reference, named as in CUFED5."""
    for source, name, x, y in (("HR/flowerpot.png", "000_0.png", 234, 390), ("ref/1.jpg", "000_1.png", 324, 510)):
        Image.open(FLOWERPOT / source).crop((x, y, x + 240, y + 180)).save(folder / name)
    return str(folder)


def measured(dataset: str, weights: str, refs: str) -> str:
    """The scores, seconds, and by how many MiB the process grew."""
    before = getrusage(RUSAGE_SELF).ru_maxrss
    (*_, its) = evaluate(EvaluateConfig(dataset=dataset, weights=weights, refs=refs, device="cpu", as_published=True))
    grown = (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"{its.psnr:7.2f} {its.ssim:7.4f} {its.worst_gain or 0:7.2f} {its.seconds / its.count:7.1f} {grown:6.0f}"


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool, TemporaryDirectory() as folder:
        dataset, choice, *own = sys.argv[1:] or [demo_set(Path(folder)), "L1"]
        print(f"{'weights':40}    PSNR    SSIM   least s/image    MiB")
        for weights in (*NETS, *own):
            told = pool.apply(measured, (dataset, weights, "none" if weights == NETS[0] else choice))
            print(f"{weights[-40:]:40} {told}", flush=True)
