"""Several processes train as one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from refsr_cli.data.benchmarks import trial_photos
from refsr_cli.errors import BadSetting
from refsr_cli.packaged import packaged
from refsr_cli.training.group import Group
from refsr_cli.weights.files import load_weights

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def trained(
    out: Path, *launcher: str, batch: int = 4, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    val = packaged("examples/images") / "flowerpot/LR"
    arguments = (
        f"train --model edsr-baseline -s 2 --data {trial_photos().folder} --val {val} --out {out} --batch {batch}"
    )
    rest = "--steps 4 --patch 12 --log-every 1 --clip 0.5 --skip-above 20 --device cpu --precision fp32 --seed 3"
    rest += " --set blocks=4"
    command = [sys.executable, *launcher, "-m", "refsr_cli", *arguments.split(), *rest.split(), *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's rendezvous needs libuv there")
def test_two_processes_equal_one(tmp_path):
    """Though each takes its part of a batch crop by crop."""
    pieces = ("--micro-batch", "1")
    alone, together = trained(tmp_path / "alone"), trained(tmp_path / "together", *TORCHRUN, options=pieces)
    assert alone.returncode == together.returncode == 0, together.stderr
    one, two = (
        load_weights(tmp_path / name / "model.safetensors").model.state_dict() for name in ("alone", "together")
    )
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6, msg=key)
    assert len((tmp_path / "together/steps.csv").read_text().splitlines()) == 5, "the first process alone writes"
    assert together.stdout.count("4/4") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's rendezvous needs libuv there")
def test_a_batch_that_cannot_be_shared(tmp_path):
    refused = trained(tmp_path / "run", *TORCHRUN, batch=3)
    assert refused.returncode != 0
    assert "--batch 3 cannot be shared out evenly to 2 processes" in " ".join(refused.stderr.split())
    assert not (tmp_path / "run/state.pt").exists()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_parts_make_up_the_batch(world):
    parts = [list(range(12))[Group(torch.device("cpu"), rank, world).part(12)] for rank in range(world)]
    assert [example for part in parts for example in part] == list(range(12))
    assert len({len(part) for part in parts}) == 1
    if world > 1:
        with pytest.raises(BadSetting):
            Group(torch.device("cpu"), 0, world).part(13)
