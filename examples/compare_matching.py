"""The exhaustive match and the fast one: time, peak memory, mean correlation.   python examples/compare_matching.py"""

import multiprocessing
import sys
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage  # not on Windows

from refsr_cli.images import read_rgb8
from refsr_cli.layers.resample import downscale, resize
from refsr_cli.reference.descriptors import cell_map, describe
from refsr_cli.reference.matching import exhaustive, match_reference

PHOTOS = Path(__file__).parent / "images" / "flowerpot"


def measured(method: str, side: int) -> tuple[float, float, float]:
    """Seconds, MiB and mean correlation, with two views of a scene scaled to a width of `side`."""
    views = (read_rgb8(PHOTOS / name)[None].float() / 255 for name in ("HR/flowerpot.png", "ref/1.jpg"))
    hr, reference = (resize(view, view.shape[2] * side // view.shape[3] // 4 * 4, side) for view in views)
    lr = downscale(hr, 4)[0]
    before, begin = getrusage(RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if method == "exhaustive":
        score, _ = exhaustive(describe(lr), cell_map(reference[0]))
    else:
        score = match_reference(lr, reference[0]).score
    return time.perf_counter() - begin, (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024, float(score.mean())


if __name__ == "__main__":
    print("side  method       seconds      MiB  mean correlation")
    for side in [int(text) for text in sys.argv[1:]] or [128, 256]:
        for method in ("exhaustive", "fast"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, memory, correlation = pool.apply(measured, (method, side))
            print(f"{side:4}  {method:10} {seconds:9.1f} {memory:8.0f} {correlation:17.4f}")
