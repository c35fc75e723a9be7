"""How the code hangs together: imports run down only, the command starts fast, everything public is described."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "refsr_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    {"__main__"},
    {"cli"},
    {"checks"},
    {"tasks", "api"},
    {"training", "engine", "comparison", "plots", "targets", "video", "bench"},
    {"inference", "weights", "data", "metrics", "losses"},
    {"restoration"},
    {"models", "images"},
    {"reference"},
    {"layers", "files"},
    {"errors"},
]
"""Each part of the package may import those of lower floors, and itself."""

LEAVES = {
    "console": {"cli"},
    "config": {"cli", "api", "checks", "tasks", "training", "engine", "targets", "video"},
    "recipes": {"cli", "tasks"},
    "allocator": {"cli", "bench", "inference"},
    "packaged": {"cli", "checks", "tasks", "bench", "weights", "data"},
}
"""Parts beside the floors, and who may import them; they import nothing but errors and themselves."""


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: `refsr_cli/data/photos.py` -> `data`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def may_import(part: str) -> set[str]:
    if part in LEAVES:
        return {"errors", part}
    floor = next((number for number, parts in enumerate(FLOORS) if part in parts), None)
    assert floor is not None, f"'{part}' has no place in FLOORS"
    itself = set() if part in ("tasks", "api") else {part}
    leaves = {leaf for leaf, importers in LEAVES.items() if part in importers}
    return itself.union(leaves, *FLOORS[floor + 1 :])


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all that a file imports, wherever in it: `from a.b import c` is `a.b.c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def misplaced_imports(part: str, source: str) -> list[str]:
    """The imports of a file of `part` that run up, sideways, or are relative."""
    allowed = may_import(part)
    wrong = []
    for name in imported(ast.parse(source)):
        top, _, rest = name.partition(".")
        if top == "" or (top == "refsr_cli" and rest.partition(".")[0] not in {*allowed, "__version__"}):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_down_only(path: Path) -> None:
    source = path.read_text("utf-8")
    if path == PACKAGE / "__init__.py":
        runs, only_types = source.split("if TYPE_CHECKING:")
        assert {name.split(".")[0] for name in imported(ast.parse(runs))} <= {"importlib", "typing"}
        assert "import" not in only_types.split("__version__", 1)[1].replace("import_module", "")
    else:
        assert misplaced_imports(part_of(path), source) == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("layers", "from refsr_cli.models import build"),
        ("models", "from refsr_cli import images"),
        ("errors", "def f():\n    import refsr_cli.layers.blocks"),
        ("data", "if TYPE_CHECKING:\n    from refsr_cli.weights.files import Loaded"),
        ("tasks", "from refsr_cli.tasks.train import train"),
        ("metrics", "from refsr_cli.config import TrainConfig"),
        ("config", "from refsr_cli.models import MODELS"),
        ("layers", "from . import blocks"),
        ("cli", "from .errors import RefsrError"),
    ],
)
def test_a_misplaced_import_is_found(part: str, source: str) -> None:
    assert len(misplaced_imports(part, source)) == 1


def test_an_import_downwards_is_fine() -> None:
    source = "import torch\nfrom refsr_cli import __version__, data\nfrom refsr_cli.config import TrainConfig"
    assert misplaced_imports("tasks", source) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import refsr_cli",
        "import refsr_cli.cli",
        "from contextlib import suppress\nfrom refsr_cli.cli import main\nwith suppress(SystemExit):\n    main()",
    ],
    ids=["package", "cli", "help"],
)
def test_nothing_heavy_is_loaded_before_there_is_work(statement: str) -> None:
    heavy = {"torch", "torchvision", "cv2", "huggingface_hub"}
    code = f"import sys\nsys.argv = ['refsr', '--help']\n{statement}\nprint('loaded:', {heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "loaded: set()"


def test_enlarging_loads_nothing_that_it_may_not_need(tmp_path: Path) -> None:
    slow = {"torchvision", "cv2", "matplotlib", "tifffile", "huggingface_hub", "torchinfo", "av", "numba"}
    slow |= {"torch._dynamo", "sympy"}  # torch's compiler
    source = ROOT / "examples" / "images" / "flowerpot" / "LR" / "flowerpot.png"
    code = (
        "import sys\nfrom contextlib import suppress\nfrom refsr_cli.cli import main\n"
        f"sys.argv = ['refsr', 'upscale', {str(source)!r}, '-o', {str(tmp_path / 'large.png')!r}, '-q']\n"
        f"with suppress(SystemExit):\n    main()\nprint('loaded:', {slow} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (tmp_path / "large.png").exists(), result.stderr
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "loaded: set()"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_everything_public_is_described(path: Path) -> None:
    module = ast.parse(path.read_text("utf-8"))
    public = [
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not any(isinstance(its, ast.Name) and its.id == "overload" for its in node.decorator_list)
    ]
    assert ast.get_docstring(module), "the module has no docstring"
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    machine = ["/".join(parts) for parts in (("", "work", ""), ("", "tmp", "w"), ("", "home", ""), ("", "root", ""))]
    files = [*MODULES, *(ROOT / "tests").rglob("*.py")]
    assert [(path.name, word) for path in files for word in machine if word in path.read_text("utf-8")] == []
