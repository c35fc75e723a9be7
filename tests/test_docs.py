"""What the documents say is so: commands, examples, cards."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from refsr_cli.cli import app
from refsr_cli.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "weights" / "TRAINING.md", *sorted((ROOT / "weights" / "cards").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def commands_in(document: Path) -> list[str]:
    """Every `refsr ...` of a code block or between backticks; a line that ends with a backslash goes on."""
    text = document.read_text("utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()] + re.findall(r"`(refsr [^`]+)`", text)
    return [line.partition(" #")[0] for line in lines if re.match(r"(\S*[/\\])?refsr ", line)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_shown_exists(document):
    for line in commands_in(document):
        _, name, *arguments = shlex.split(line.replace("\\", "/"))
        known = typer.main.get_command(app).commands
        if name.startswith("-"):
            continue
        assert name in known, line
        if hasattr(known[name], "commands") and (arguments or not known[name].invoke_without_command):
            known = known[name].commands
            name, *arguments = arguments
            assert name in known, line
        options = {
            option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {argument.partition("=")[0] for argument in arguments if re.match(r"--?[a-z]", argument)}
        assert used <= options, line


def test_the_readme_shows_every_command():
    shown = {line.split()[1] for line in commands_in(ROOT / "README.md")}
    assert set(typer.main.get_command(app).commands) <= shown


def test_the_readme_lists_every_model():
    text = (ROOT / "README.md").read_text("utf-8")
    assert all(f"| `{name}` |" in text for name in MODELS)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(script, tmp_path):
    assert len(script.read_text("utf-8").splitlines()) <= 40
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_example_is_listed():
    text = (ROOT / "examples" / "README.md").read_text("utf-8")
    assert all(script.name in text for script in EXAMPLES)


def test_every_shipped_image_has_a_licence():
    text = (ROOT / "examples" / "images" / "README.md").read_text("utf-8")
    folders = [path for path in (ROOT / "examples" / "images").iterdir() if path.is_dir()]
    assert folders and all(f"`{folder.name}/`" in text for folder in folders)
