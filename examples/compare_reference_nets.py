"""Nets with references on the same pairs: scores, seconds, memory. With a set, a kind of references and own weights:
python examples/compare_reference_nets.py SET L1 runs/ssen-x4/model.safetensors"""

import multiprocessing
import shutil
import sys
import tempfile
from pathlib import Path
from resource import RUSAGE_SELF, getrusage  # not on Windows

from refsr_cli.config import EvaluateConfig
from refsr_cli.tasks.evaluate import Summary, evaluate

NETS = ("edsr-baseline-x4", "refnet-x4", "ssen-x4", "datsr-small-x4")
FLOWERPOT = Path(__file__).parent / "images" / "flowerpot"


def demo_set(folder: Path) -> str:
    """One picture and a reference, named as in CUFED5."""
    shutil.copy(FLOWERPOT / "HR" / "flowerpot.png", folder / "000_0.png")
    shutil.copy(FLOWERPOT / "ref" / "1.jpg", folder / "000_1.jpg")
    return str(folder)


def measured(dataset: str, weights: str, refs: str) -> tuple[Summary, float]:
    """The scores, and by how many MiB the process grew."""
    before = getrusage(RUSAGE_SELF).ru_maxrss
    (*_, its) = evaluate(EvaluateConfig(dataset=dataset, weights=weights, refs=refs, device="cpu"))
    return its, (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        dataset, choice, *own = sys.argv[1:] or [demo_set(Path(folder)), "L1"]
        print(f"{'weights':40}    PSNR    SSIM   least s/image    MiB")
        for weights in (*NETS, *own):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                its, memory = pool.apply(measured, (dataset, weights, "none" if weights == NETS[0] else choice))
            times = f"{its.worst_gain or 0:7.2f} {its.seconds / its.count:7.1f} {memory:6.0f}"
            print(f"{weights[-40:]:40} {its.psnr:7.2f} {its.ssim:7.4f} {times}", flush=True)
