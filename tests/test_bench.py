"""`refsr bench`: who takes part, what is told, and the report."""

import csv
import json
import shutil
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from refsr_cli.allocator import keep_buffers
from refsr_cli.bench.contenders import CONTENDERS, Task, _converted, fitting, operations
from refsr_cli.bench.growth import Growth, growth_with_guided_pixels, growth_with_pixels, growth_with_references, power
from refsr_cli.bench.rounds import _serve, benches, by_turns, convolution_peak
from refsr_cli.config import BenchConfig
from refsr_cli.errors import BadSetting, Failed, RefsrError, UnknownName
from refsr_cli.images import read_rgb8
from refsr_cli.inference.results import finished
from refsr_cli.models import build
from refsr_cli.packaged import packaged
from refsr_cli.tasks.bench import Comparing, Reported, Timing, bench, write_report

TRUTH = packaged("examples/images") / "flowerpot" / "HR" / "flowerpot.png"
TASK = Task("edsr-baseline", 4, "cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return read_rgb8(packaged("examples/images") / "kodak" / "kodim08.png")[:, :40, :56].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", [name for name, its in CONTENDERS.items() if its.installed and its.runs_net])
def test_every_way_gives_the_same_picture(name, pixels):
    """But for the rounding of 8 bit; with the mean of eight orientations, the same as each other."""
    if "compiled" in name and not shutil.which("g++"):
        pytest.skip("needs a compiler for C++")
    ours, theirs = (CONTENDERS[which].open(TASK)(pixels) for which in (name, "plain+" if "+" in name else "plain"))
    assert ours.shape == (160, 224, 3) and ours.dtype == np.uint8
    difference = np.abs(ours.astype(int) - theirs)
    if CONTENDERS[name].folded:  # but for the outermost pixels
        difference = difference[4:-4, 4:-4]
    if name.endswith("bf16"):
        assert 10 * np.log10(255**2 / np.square(difference).mean()) > 45
    else:
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_a_net_that_cannot_be_folded_is_not_given_to_others_as_if_it_were(pixels):
    with pytest.raises(BadSetting, match="cannot be folded"):
        _converted(Task("srresnet", 4, "cpu"), True)
    net, folded = (_converted(TASK, folded) for folded in (False, True))
    lr = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        expected, found = net(lr), folded(lr)
    torch.testing.assert_close(found[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], rtol=0, atol=1e-4)


def test_one_that_fails_does_not_stop_the_others(pixels):
    with benches(["plain"], Task("no-such-net", 4, "cpu")) as (opened, failed):
        assert opened == [] and "no-such-net" in failed["plain"]
    with benches(["plain", "refsr"], Task("ssen", 4, "cpu")) as (opened, failed):
        runs, gone = finished(by_turns(opened, pixels[:, :50], 1))  # sides that are no multiples of 8: refsr pads
        assert failed == {} and set(runs) == {"refsr"} and gone["plain"].startswith("plain cannot run: ")
        assert len(runs["refsr"]) == 2 and runs["refsr"][0].seconds > 0


def test_memory_that_a_run_takes_is_seen(pixels):
    """The plain net holds 64 channels at full size, 256 bytes a pixel; refsr does not."""
    large = np.tile(pixels, (6, 6, 1))
    with benches(["plain", "refsr"], TASK) as (opened, _):
        runs, _ = finished(by_turns(opened, large, 1))
        (ours,) = [bench for bench in opened if bench.name == "refsr"]
        ours._process.kill()
        for _ in range(2):
            with pytest.raises(RefsrError, match="refsr cannot run: its process ended"):
                ours.run(pixels)
    plain, ours = (max(run.peak_bytes or 0 for run in runs[name]) for name in ("plain", "refsr"))
    if plain == 0:
        pytest.skip("this system does not tell")
    channels = 16 * large.shape[0] * large.shape[1] * 64 * 4
    assert plain > channels > 1.5 * ours
    assert plain > 4 * ours


def test_operations_are_those_of_the_layers():
    """EDSR-baseline x4: 1,517,571 parameters, of which those of the tail work on more pixels."""
    body = 3 * 64 * 9 + 33 * 64 * 64 * 9
    tail = 64 * 256 * 9 * (1 + 4) + 16 * 64 * 3 * 9
    assert operations(TASK, folded=False) == 2 * (body + tail)
    folded = 64 * 48 * 25
    assert operations(TASK, folded=True) == 2 * (body + folded)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build("srresnet", 4)(torch.rand(1, 3, 96, 96))
    assert operations(Task("srresnet", 4, "cpu"), folded=True) == counter.get_total_flops() / 96**2


def test_a_machine_has_a_peak():
    assert 1e9 < convolution_peak("cpu", torch.float32, rounds=1) < 1e15


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_power_is_found(exponent):
    amounts = [1.0, 2.0, 4.0, 8.0]
    assert power(amounts, [3 * amount**exponent for amount in amounts]) == pytest.approx(exponent)


def test_growth_is_measured():
    pixels = growth_with_pixels(Task("bicubic", 2, "cpu"), (32, 64))
    assert pixels.amounts == [0.001024, 0.004096] and min(pixels.seconds) > 0
    guided = growth_with_guided_pixels(Task("bicubic", 4, "cpu"), (32, 48))
    assert guided.amounts == [0.001024, 0.002304] and min(guided.seconds) > 0
    references = growth_with_references(Task("bicubic", 4, "cpu"), (1, 2), side=40)
    assert references.amounts == [1, 2] and references.seconds[1] > 0


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[BenchConfig, list[Any]]:
    output = tmp_path_factory.mktemp("bench") / "new" / "report.json"
    config = BenchConfig(truth=TRUTH, against=("opencv",), rounds=1, device="cpu", output=output)
    return config, list(bench(config))


def test_everyone_is_timed_and_scored(told):
    config, records = told
    assert isinstance(records[0], Comparing) and isinstance(records[-1], Reported)
    rows = {record.variant: record for record in records if isinstance(record, Timing)}
    assert list(rows) == ["plain", "opencv"] and rows["plain"].ratio_to_plain == 1
    assert rows["plain"].psnr > rows["opencv"].psnr > 20 and rows["opencv"].peak_share is None
    assert rows["plain"].megapixels_per_second * rows["plain"].milliseconds == pytest.approx(
        rows["plain"].width * rows["plain"].height * 16 / 1000
    )
    assert [row["variant"] for row in json.loads(config.output.read_text())["timings"]] == list(rows)
    with pytest.raises(BadSetting, match="exists already"):
        list(bench(config))


def test_reports_hold_what_was_told(told, tmp_path):
    rows = [record for record in told[1] if isinstance(record, Timing)]
    grown = [Growth("a<b>", "megapixels", [1.0, 2.0], [1.0, 4.0], 2.0)]
    write_report(tmp_path / "a.csv", rows, grown, "a processor")
    table = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [float(row["psnr"]) for row in table] == [row.psnr for row in rows]
    write_report(tmp_path / "a.html", rows, grown, "R&D <processor>")
    page = (tmp_path / "a.html").read_text()
    assert f"{rows[0].psnr:.2f}" in page and page.count("data:image/png;base64,") == 3
    assert "http://" not in page and "https://" not in page
    assert "a&lt;b&gt;: time and megapixels (exponent 2.00)" in page and "R&amp;D &lt;processor&gt;" in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": ((4, 4),)}, "at least 8x8"),
        ({"output": Path("a.txt")}, "must end in .html"),
        ({"rounds": 0}, "at least 1"),
        ({"truth": TRUTH, "sizes": ((64, 64),)}, "leave out --size"),
        ({"growth": True, "output": Path("a.csv")}, "no place for --growth"),
        ({"weights": "a", "models": ("edsr", "mdsr")}, "those of one"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        BenchConfig(**settings)


def test_names_that_are_not_known():
    with pytest.raises(UnknownName, match="did you mean 'plain'"):
        list(bench(BenchConfig(against=("plane",))))
    with pytest.raises(UnknownName, match="did you mean 'edsr'"):
        list(bench(BenchConfig(models=("edsrr",))))
    with pytest.raises(BadSetting, match="has no scale 8"):
        list(bench(BenchConfig(models=("mdsr",), scale=8)))
    assert {"plain", "refsr"} <= set(fitting("cpu")) <= set(CONTENDERS)
    absent = [name for name, its in CONTENDERS.items() if not its.installed]
    for name in absent:
        with pytest.raises(BadSetting, match=f"'{name}' cannot run here; it needs"):
            list(bench(BenchConfig(against=(name,))))


def test_buffers_are_kept_but_for_what_the_user_has_set(monkeypatch):
    told, refused = [], 0
    monkeypatch.setattr(
        "ctypes.CDLL", lambda _: type("libc", (), {"mallopt": lambda self, *a: told.append(a) or a[1] != refused})()
    )
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    keep_buffers()
    assert told == [(-3, 2**30), (-1, 2**31 - 1)]
    told, refused = [], 2**30  # by an older glibc
    keep_buffers()
    assert told == [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1)]
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    keep_buffers()
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    keep_buffers()
    assert len(told) == 3


def test_results_of_another_scale_are_not_scored():
    with pytest.raises(BadSetting, match="for x4, not x3"):
        list(bench(BenchConfig(truth=TRUTH, scale=3, against=("refsr",), rounds=1)))


def test_where_nothing_can_run_there_is_no_report(tmp_path):
    # sides that this net takes only when they are made multiples of 8 first
    settings = {"models": ("ssen",), "sizes": ((50, 50),), "against": ("plain",), "rounds": 1}
    records = bench(BenchConfig(output=tmp_path / "none.html", **settings))
    with pytest.raises(RefsrError, match="nothing to report"):
        assert [record.message for record in records if isinstance(record, Failed)]
    assert not (tmp_path / "none.html").exists()


def test_a_result_without_any_error_can_be_written_as_json(told, tmp_path):
    row = next(record for record in told[1] if isinstance(record, Timing))
    write_report(tmp_path / "a.json", [replace(row, psnr=float("inf"))], [], "a machine")
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read["timings"][0]["psnr"] is None


def test_a_process_ends_quietly_when_nobody_listens(capfd):
    here, there = Pipe()
    here.send(np.zeros((8, 8, 3), np.uint8))
    here.close()
    _serve(there, "opencv", Task("edsr-baseline", 2, "cpu"))
    assert capfd.readouterr().err == ""
