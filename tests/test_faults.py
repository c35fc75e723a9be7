"""Faults that were seen, each with its whole kind."""

import csv
import os
import signal
import stat
import sys

import pytest
import torch
from typer.testing import CliRunner

from refsr_cli.cli import app
from refsr_cli.console import Display
from refsr_cli.engine import Skipped
from refsr_cli.errors import BadWeights, Failed
from refsr_cli.files import write_atomically, write_table
from refsr_cli.models import build
from refsr_cli.training.loop import interrupts_deferred
from refsr_cli.weights.files import load_weights, save_weights
from refsr_cli.weights.formats import load_any


@pytest.mark.skipif(sys.platform == "win32", reason="permissions differ")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")
    path.chmod(mode)
    write_atomically(path, b"after")
    assert path.read_bytes() == b"after" and stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("features=99999999999", "from 1 to 4096"),
        ("blocks=1000000000", "from 1 to 4096"),
        ("mean=(0.1,)", "cannot be built from"),
        ("mean=(0.1,0.2)", "cannot be built from"),
    ],
)
def test_numbers_of_which_no_net_can_be_made(change, said):
    shown = CliRunner().invoke(app, ["models", "show", "edsr-baseline", "--set", change])
    assert shown.exit_code == 2 and said in " ".join(shown.output.split()) and "Traceback" not in shown.output


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such thing there")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(BadWeights, match="not a regular file"):
        load_any(tmp_path / "pipe.pt")


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    names = ["=cmd|' /C calc'!A0", "+1", "-1", "@x", "a=b.png", "1.png"]
    write_table(tmp_path / "a.csv", [{"image": name, "psnr": -3.5} for name in names])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"'{name}" if name[0] in "=+-@" else name for name in names]
    assert {row["psnr"] for row in rows} == {"-3.5"}


def test_the_same_weights_give_the_same_file(tmp_path):
    """The library writes metadata in another order each time."""
    model, said = (
        build("edsr-baseline", 2, {"features": 4, "blocks": 1}),
        {f"note{n}": '\u00e4 " \\ ' * n for n in range(9)},
    )
    contents = set()
    for number in range(6):
        path = tmp_path / f"{number}.safetensors"
        save_weights(path, model, "edsr-baseline", said)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    loaded = load_weights(tmp_path / "0.safetensors")
    assert {key: loaded.metadata[key] for key in said} == said
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.model.state_dict().items())


def test_names_cannot_steer_a_terminal(capsys):
    """Escape sequences, a carriage return, and characters that turn the direction of writing."""
    name = "\x1b]0;title\x07a\x1b[2Jb\rc\n\u202egnp.\x9b31m.png"
    display = Display()
    display.show([Skipped(name, name), Failed(name, f"{name} is damaged")])
    written = capsys.readouterr()
    for text in (written.out, written.err):
        assert "a" in text and "png" in text
        assert not set(text) & {"\x1b", "\x07", "\r", "\u202e", "\x9b"}
        assert len(text.splitlines()) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal there")
@pytest.mark.parametrize("ignored", [True, False])
def test_nohup_is_heeded(ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with interrupts_deferred() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupted.is_set() is not ignored
    finally:
        signal.signal(signal.SIGHUP, before)
