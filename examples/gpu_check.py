"""Whether refsr computes on a GPU what it does on a CPU, and how fast, within eight minutes.

python examples/gpu_check.py [--device DEVICE] [--out FOLDER] [--small] [CHECK ...]

Writes check.json and check.md to FOLDER after each check; tries little on a CPU. Exit code 1 where something failed."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tree alone is enough

import torch

from refsr_cli.checks.results import FULL, SMALL
from refsr_cli.checks.run import CHECKS, check_device
from refsr_cli.errors import RefsrError


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"some of: {', '.join(CHECKS)}; all when none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    on_gpu = asked.device.startswith("cuda") or (asked.device == "auto" and torch.cuda.is_available())
    effort = FULL if on_gpu and not asked.small else SMALL
    failed = 0
    try:
        for row in check_device(asked.device, asked.out, effort, asked.checks or tuple(CHECKS)):
            print(row.line, flush=True)
            failed += row.passed is False
    except RefsrError as error:
        parser.error(str(error))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
