"""The command line as people and scripts use it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from refsr_cli import __version__
from refsr_cli.cli import app
from refsr_cli.config import EvaluateConfig, TrainConfig, UpscaleConfig
from refsr_cli.console import Display
from refsr_cli.engine import Progress
from refsr_cli.images import Picture, read_image, write_image
from refsr_cli.packaged import packaged

IMAGES = packaged("examples/images")
COMMON = ["--model", "bicubic", "--device", "cpu"]


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "in.png"
    pixels = read_image(IMAGES / "kodak/kodim23.png").pixels[100:124, 100:132]
    write_image(path, Picture(pixels, None, "png", None, None, None))
    return path


def test_version_and_help():
    assert invoke("--version").output == f"refsr {__version__}\n"
    for command in ([], ["upscale"], ["eval"], ["train"], ["models"]):
        assert invoke(*command, "--help").exit_code == 0


@pytest.mark.parametrize("command", ["--help", "upscale --help", "train --help", "--version"])
def test_help_loads_nothing_heavy(command):
    script = (
        "import sys\nfrom refsr_cli.cli import main\n"
        f"sys.argv = ['refsr', *{command.split()!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'cv2', 'PIL', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "config"), [("upscale", UpscaleConfig), ("eval", EvaluateConfig), ("train", TrainConfig)]
)
def test_every_option_is_a_field_of_the_config(command, config):
    """Options reach the config by name, so a name without a field would fail only when it is used."""
    callback = next(row.callback for row in app.registered_commands if (row.name or row.callback.__name__) == command)
    names = set(callback.__annotations__) - {"context", "as_json", "quiet", "return"}
    assert names == {field.name for field in fields(config)}


def test_upscale_one_json_object_a_line(source):
    done = invoke("upscale", source, *COMMON, "--json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    record = next(record for record in records if record["kind"] == "upscaled")
    assert set(record) == {
        "kind",
        "source",
        "target",
        "width",
        "height",
        "seconds",
        "refs",
        "references",
        "restoration",
    }
    assert (record["width"], record["height"], record["refs"]) == (128, 96, [])


def test_eval_json_fields():
    done = invoke("eval", "--dataset", IMAGES / "flowerpot", *COMMON, "--json")
    records = {record["kind"]: record for record in map(json.loads, done.stdout.splitlines())}
    scores = {"psnr", "ssim", "bicubic_psnr", "bicubic_ssim"}
    assert scores | {"image"} <= set(records["measured"])
    assert scores | {"dataset", "count", "model", "scale", "protocol"} <= set(records["summary"])


def test_eval_table_shows_the_protocol_and_bicubic():
    done = invoke("eval", "--dataset", IMAGES / "flowerpot", *COMMON)
    assert "protocol y (luma, shave = scale" in done.output
    assert "flowerpot.png" in done.output and "mean of 1" in done.output


@pytest.mark.parametrize(
    ("name", "parameters"), [("edsr-baseline", 1_517_571), ("ssen", 3_172_947), ("mdsr", 7_953_987)]
)
def test_the_layers_of_a_net(name, parameters):
    """Its parts add up, and the last one gives the larger picture."""
    told = json.loads(invoke("models", "show", name, "--size", "16", "--json").stdout)
    assert told["parameters"] == parameters and told["input"] == [1, 3, 16, 16]
    whole, *parts = told["layers"]
    assert whole["depth"] == 0 and whole["output"] == [1, 3, 64, 64]
    assert told["multiply_adds"] > 16 * 16 * 100_000 and {part["depth"] for part in parts} == {1, 2, 3}
    text = invoke("models", "show", name, "--size", "16").output
    assert f"{parameters:,}" in text and "Conv2d" in text
    assert invoke("models", "show", "edsr-baselin").exit_code == 2


def test_models_lists_every_net_with_its_parameters():
    rows = {r["name"]: r for r in map(json.loads, invoke("models", "--json").stdout.splitlines())}
    assert rows["edsr"]["parameters"] == {"2": 40729603, "3": 43680003, "4": 43089923, "8": 45450243}
    assert "43,089,923" in invoke("models").output
    assert rows["edsr-baseline"]["packaged"] == {scale: rows["edsr-baseline"]["parameters"][scale] for scale in "24"}
    for path in packaged("weights").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata(), [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
        own = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())  # not numbers of places
        size = rows[metadata["model"]]["packaged"][metadata["scale"]]
        assert own - 100 < size <= own + (1_517_571 if "trunk" in metadata else 0), "means of colours are no parameters"


def test_a_net_for_references_without_any_says_so(tmp_path):
    said = invoke(
        "upscale", str(IMAGES / "flowerpot/LR/flowerpot.png"), "--model", "ssen", "-o", str(tmp_path / "a.png")
    )
    assert said.exit_code == 0 and "name photos with --ref" in " ".join(said.output.split())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["upscale", "nowhere.png"], 1, "nowhere.png is not there"),
        (["upscale", "nowhere.png", "-s", "5"], 2, "--scale is 2, 3, 4 or 8"),
        (["upscale", "nowhere.png", "--size", "big"], 2, "1920x1080"),
        (["upscale", "nowhere.png", "--tile", "x"], 2, "auto, off or a number"),
        (["upscale", "nowhere.png", "--memory", "lots"], 2, "2GiB"),
        (["upscale", "nowhere.png", "--trust-map", "trust.png"], 2, "give --ref too"),
        (["upscale"], 2, "inputs"),
        (["eval", "--dataset", "Set55"], 1, "known dataset"),
        (["train"], 2, "--model"),
        (["train", "--model", "edrs"], 2, "did you mean 'edsr'"),
        (["train", "--model", "edsr", "--steps", "0"], 2, "--steps"),
        (["train", "--resume", "nowhere"], 2, "cannot be resumed"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_errors_are_one_sentence_with_an_exit_code(arguments, code, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == code
    assert says in " ".join(done.output.replace("│", " ").split())
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


def test_errors_as_json(tmp_path):
    done = invoke("upscale", tmp_path / "nowhere.png", "--json")
    (record,) = map(json.loads, done.stdout.splitlines())
    assert set(record) == {"kind", "path", "message"} and record["kind"] == "error"


def test_quiet_says_nothing_but_errors(source):
    done = invoke("upscale", source, source.with_name("nowhere.png"), *COMMON, "-q")
    assert done.stdout == "" and "nowhere.png" in done.stderr and done.exit_code == 1


def test_memory_and_tile_change_nothing_in_the_result(source, tmp_path):
    for name, options in {
        "a.png": [],
        "b.png": ["--memory", "1k"],
        "c.png": ["--tile", "16"],
        "d.png": ["--tile", "off"],
    }.items():
        assert invoke("upscale", source, "-o", tmp_path / name, *COMMON, *options).exit_code == 0
    first = read_image(tmp_path / "a.png").pixels
    assert all((read_image(tmp_path / name).pixels == first).all() for name in ("b.png", "c.png", "d.png"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_interrupted_in_the_middle(tmp_path, name):
    """Ctrl-C, kill, a terminal that is gone: exit code 130, nothing half-written."""
    number = getattr(signal, name)
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    target = tmp_path / "out.png"
    command = [sys.executable, "-m", "refsr_cli", "upscale", IMAGES / "kodak/kodim23.png", "-o", target]
    command += ["--model", "bicubic", "--tile", "16", "--self-ensemble", "-s", "8", "--json"]
    with subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(number, usual),  # else a job run in the background
    ) as process:
        assert process.stdout and b"using" in process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(number)
        process.stdout.read()
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())


def shown_at(monkeypatch, capsys, moments: list[tuple[float, int]], total: int) -> list[str]:
    """What is written where so many parts are done at each moment."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    display = Display()

    def records():
        nonlocal now
        for moment, done in moments:
            now = moment
            yield Progress("a.png", done, total)

    display.show(records())
    return capsys.readouterr().err.splitlines()


def test_what_comes_before_the_first_progress_does_not_count_for_the_pace(monkeypatch, capsys):
    """A minute of matching, then 20 s for each of ten tiles."""
    lines = shown_at(monkeypatch, capsys, [(0.0, 0), (60.0, 0), (80.0, 1), (100.0, 2)], 10)
    assert [line.partition("about ")[2] for line in lines] == ["3 min 0 s to go", "2 min 40 s to go"]


def test_before_a_pace_was_seen_no_time_is_given(monkeypatch, capsys):
    """The first that is reported of a picture is that one of six rounds is done, whenever it began."""
    lines = shown_at(monkeypatch, capsys, [(100.0, 1), (120.0, 2), (140.0, 3)], 6)
    assert lines == ["a.png: 33%, about 1 min 20 s to go", "a.png: 50%, about 1 min 0 s to go"]
