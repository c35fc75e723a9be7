"""What is checked where a device is at hand for minutes."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from refsr_cli.checks import run
from refsr_cli.checks.nets import nets
from refsr_cli.checks.results import SMALL, Effort, Seen, similarity
from refsr_cli.checks.run import CHECKS, check_device
from refsr_cli.errors import UnknownName
from refsr_cli.inference.upscaler import Upscaler

CPU = torch.device("cpu")


def fails(device: torch.device, effort: Effort) -> Iterator[Seen]:
    yield Seen("first", "1 | 2", True)
    raise RuntimeError("no\nmore")


def works(device: torch.device, effort: Effort) -> Iterator[Seen]:
    yield Seen("second", "3", True)


def test_one_that_fails_does_not_end_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "CHECKS", {"fails": fails, "works": works})
    rows = list(check_device("cpu", tmp_path / "out", SMALL, ["fails", "works"]))
    assert [(row.check, row.what, row.passed) for row in rows] == [
        ("fails", "first", True),
        ("fails", "failed", False),
        ("works", "second", True),
    ]
    assert rows[1].figure == "RuntimeError: no"
    record = json.loads((tmp_path / "out" / "check.json").read_text())
    assert record["device"] == "cpu" and len(record["rows"]) == 3
    table = (tmp_path / "out" / "check.md").read_text().splitlines()
    assert len(table) == 4 + 3 and all(line.count("|") == 6 for line in table[2:])


def test_what_was_found_is_on_disk_before_the_next_begins(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "CHECKS", {"works": works, "fails": fails})
    rows = check_device("cpu", tmp_path, SMALL, ["works", "fails"])
    next(rows), next(rows)
    assert len(json.loads((tmp_path / "check.json").read_text())["rows"]) == 1
    rows.close()


def test_what_no_time_is_left_for_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "CHECKS", {"works": works})
    (row,) = check_device("cpu", tmp_path, replace(SMALL, seconds=-1.0), ["works"])
    assert row.passed is None and "no time" in row.what


def test_a_name_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="unknown check 'net'"):
        list(check_device("cpu", tmp_path, SMALL, ["net"]))


def test_a_net_that_computes_something_else_does_not_pass(monkeypatch):
    """The first two are a CPU's, in fp32 and bf16; what the others give is shifted by a pixel."""
    calls, usual = [], Upscaler.__call__

    def shifted(self, *arguments):
        result = usual(self, *arguments)
        calls.append(result)
        return result if len(calls) <= 2 else replace(result, pixels=np.roll(result.pixels, 1, 0))

    monkeypatch.setattr(Upscaler, "__call__", shifted)
    effort = replace(SMALL, nets=("srresnet",))
    assert [seen.passed for seen in nets(CPU, effort)] == [False, False]


def test_nets_that_compute_the_same_pass():
    seen = list(nets(CPU, replace(SMALL, nets=("srresnet-3x3",))))
    assert [its.passed for its in seen] == [True, True]


def test_equal_pictures_are_as_like_as_can_be():
    pixels = np.zeros((4, 4, 3), np.uint8)
    assert similarity(pixels, pixels) == 99
    assert similarity(pixels + np.uint8(1), pixels) == pytest.approx(20 * np.log10(255))


@pytest.mark.parametrize("name", ["out of memory", "compiling"])
def test_what_is_for_a_gpu_alone_says_so(name):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (seen,) = CHECKS[name](CPU, SMALL)
    assert seen.passed is None and "GPU" in seen.figure
