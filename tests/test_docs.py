"""What the documents say is so: commands, examples, cards."""

import html
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from refsr_cli import __version__
from refsr_cli.cli import app
from refsr_cli.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
CARDS = sorted((ROOT / "weights" / "cards").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "weights" / "TRAINING.md", *CARDS, *DOCS]
DOCUMENTS.remove(ROOT / "docs" / "cli.md")  # which has a test of its own
LINKED = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
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


def test_the_readme_shows_every_command_in_few_lines():
    shown = {line.split()[1] for line in commands_in(ROOT / "README.md")}
    assert set(typer.main.get_command(app).commands) <= shown
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_every_model_is_listed():
    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    assert all(f"| `{name}` |" in text for name in MODELS)


@pytest.mark.parametrize("document", LINKED, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
        if "://" not in link:
            assert (document.parent / link).exists(), link
    if document.parent.name == "docs":
        assert f"](docs/{document.name})" in (ROOT / "README.md").read_text("utf-8"), "README does not lead there"


def options_of(command, path: str) -> Iterator[tuple[str, str, str]]:
    """Each option of a command and of those below it: the command, the option, its help."""
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            yield path, parameter.opts[-1], str(parameter.help)
    for name, below in getattr(command, "commands", {}).items():
        yield from options_of(below, f"{path} {name}")


def test_the_page_of_commands_is_of_these_commands():
    """`typer refsr_cli.cli utils docs --name refsr --title "Commands of refsr" --output docs/cli.md` makes it anew."""
    text = html.unescape((ROOT / "docs" / "cli.md").read_text("utf-8"))
    sections = dict(re.findall(r"(?ms)^#+ `(refsr[^`]*)`\n(.*?)(?=^#|\Z)", text))
    sections["refsr"] = text.partition("\n## ")[0]
    for command, option, described in options_of(typer.main.get_command(app), "refsr"):
        (line,) = (
            row for row in sections[command].splitlines() if re.match(rf"\* `[^`]*(?<![\w-]){option}(?![\w-])", row)
        )
        assert described == "None" or " ".join(described.split()) in " ".join(line.split()), (command, option)
    assert {command for command, _, _ in options_of(typer.main.get_command(app), "refsr")} <= set(sections)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(script, tmp_path):
    assert len(script.read_text("utf-8").splitlines()) <= 40
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_version_stands_in_one_place_and_is_cited():
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f'"{__version__}"' not in (ROOT / "pyproject.toml").read_text("utf-8")


def test_every_example_is_listed():
    text = (ROOT / "examples" / "README.md").read_text("utf-8")
    assert all(script.name in text for script in EXAMPLES)


def test_every_shipped_image_has_a_licence():
    text = (ROOT / "examples" / "images" / "README.md").read_text("utf-8")
    folders = [path for path in (ROOT / "examples" / "images").iterdir() if path.is_dir()]
    assert folders and all(f"`{folder.name}/`" in text for folder in folders)
