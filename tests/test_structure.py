"""The shape of the package: import order, file and function size, what an import loads, docstrings, no leftovers."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import anomalyr1

SRC = Path(anomalyr1.__file__).parent
FILES = sorted(SRC.rglob("*.py"))
MODULES = sorted(
    name for _, name, _ in pkgutil.walk_packages([str(SRC)], "anomalyr1.") if not name.endswith("__main__")
)

# Docs/design order: a module imports only from those above it, or from its own folder.
ORDER = (
    "version", "types", "files", "records", "boxes", "images", "prompts", "answers", "rewards", "policy", "shared_prefix", "data", "drawn",
    "engines", "inspection", "evaluation", "report", "training", "nano", "reproduction", "cli",
)  # fmt: skip


def imports(tree: ast.AST) -> list[str]:
    """The modules of our own that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found += (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "anomalyr1"
                else [node.module]
            )
    return [name.split(".")[1] for name in found if name.startswith("anomalyr1.")]


def out_of_order(own: str, used: list[str]) -> list[str]:
    return [name for name in used if name != own and ORDER.index(name) >= ORDER.index(own)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_file(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 450
    assert len(path.relative_to(SRC).parts) <= 2
    assert path.stem not in {"utils", "common", "core", "helpers"}
    own = path.relative_to(SRC).parts[0].removesuffix(".py")
    if own not in {"__init__", "__main__"}:
        assert out_of_order(own, [name for name in imports(tree) if not name.startswith("__")]) == []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.body[0].lineno < 60, f"{node.name} is too long"


def test_the_order_check_sees_a_breach():
    assert out_of_order("boxes", imports(ast.parse("def f():\n    from anomalyr1.answers import parse"))) == [
        "answers"
    ]
    assert out_of_order("boxes", imports(ast.parse("from anomalyr1 import cli, types"))) == ["cli"]


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__, name
    for label, thing in vars(module).items():
        if (
            label.startswith("_")
            or getattr(thing, "__module__", None) != name
            or not (inspect.isclass(thing) or inspect.isroutine(thing))
        ):
            continue
        assert inspect.getdoc(thing), f"{name}.{label}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import anomalyr1"],
        ["-m", "anomalyr1", "--help"],
        ["-m", "anomalyr1", "inspect", "--help"],
        ["-m", "anomalyr1", "data", "check", "--help"],
    ],
)
def test_heavy_libraries_are_not_loaded(arguments):
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True
    )
    loaded = {
        line.rpartition("|")[2].strip().split(".")[0]
        for line in run.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "anomalyr1" in loaded
    assert not loaded & {"torch", "transformers", "cv2", "scipy"}


def test_the_heavy_import_check_sees_a_heavy_import():
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import safetensors.torch"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert any(line.rpartition("|")[2].strip() == "torch" for line in run.stderr.splitlines())
