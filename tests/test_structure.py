"""The shape of the package: import order, no circles, sizes, names, what an import loads, docstrings, no
leftovers.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import anomalyr1
from support.places import ROOT

SRC = Path(anomalyr1.__file__).parent
FILES = sorted(SRC.rglob("*.py"))
MODULES = sorted(
    name for _, name, _ in pkgutil.walk_packages([str(SRC)], "anomalyr1.") if not name.endswith("__main__")
)

# The rooms in reading order: a module imports only from rooms above its own, or from its own.
ORDER = (
    "version",
    "errors",
    "types",
    "files",
    "records",
    "boxes",
    "images",
    "prompts",
    "answers",
    "rewards",
    "policy",
    "shared_prefix",
    "data",
    "drawn",
    "evidence",
    "engines",
    "inspection",
    "evaluation",
    "report",
    "training",
    "nano",
    "reproduction",
    "cli",
)

PRONOUNS = frozenset(
    [
        "one",
        "found",
        "own",
        "told",
        "said",
        "some",
        "both",
        "other",
        "others",
        "given",
        "made",
        "asked",
        "known",
        "seen",
        "shown",
        "read",
        "written",
        "each",
        "every",
        "first",
        "second",
        "last",
        "more",
        "rest",
        "two",
        "four",
        "few",
        "whole",
        "drawn",
        "taken",
        "used",
        "wanted",
    ]
)
"""Variables that say nothing of what they hold."""


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, modules: Iterable[str] = ()) -> list[str]:
    """The modules of our own that a file imports, anywhere in it: lazily and for types alone, too."""
    modules = frozenset(modules)
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.append(whole if whole in modules or node.module == "anomalyr1" else node.module)
    return [name for name in names if name.startswith("anomalyr1.")]


def rooms(names: Iterable[str]) -> list[str]:
    return [name.split(".")[1] for name in names]


def out_of_order(room: str, used: list[str]) -> list[str]:
    return [name for name in used if name != room and ORDER.index(name) >= ORDER.index(room)]


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The groups of files that reach each other (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in arrows.get(name, ()):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in arrows:
        if name not in index:
            visit(name)
    return groups


def variables(tree: ast.AST) -> Iterator[str]:
    """Every use of a name, and every argument."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def nested_ternaries(tree: ast.AST) -> list[int]:
    """The lines of conditional expressions directly within another one."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.IfExp)
        and any(isinstance(part, ast.IfExp) for part in (node.test, node.body, node.orelse))
    ]


def crowded_comprehensions(tree: ast.AST) -> list[int]:
    """The lines of comprehensions with two loops and a condition."""
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, kinds) and len(node.generators) > 1 and any(g.ifs for g in node.generators)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_file(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 450
    assert len(path.relative_to(SRC).parts) <= 2
    assert path.stem not in {"utils", "common", "core", "helpers"}
    assert nested_ternaries(tree) == []
    assert crowded_comprehensions(tree) == []
    room = path.relative_to(SRC).parts[0].removesuffix(".py")
    if room not in {"__init__", "__main__"}:
        assert out_of_order(room, rooms(imports(tree))) == []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.body[0].lineno < 60, f"{node.name} is too long"


def test_the_checks_of_a_file_see_a_breach():
    assert out_of_order(
        "boxes", rooms(imports(ast.parse("def f():\n    from anomalyr1.answers import parse")))
    ) == ["answers"]
    assert out_of_order("boxes", rooms(imports(ast.parse("from anomalyr1 import cli, types")))) == ["cli"]
    assert nested_ternaries(ast.parse("x = 1 if a else 2 if b else 3")) == [1]
    assert crowded_comprehensions(ast.parse("[x for y in z for x in y if x]")) == [1]


def test_there_are_few_rooms():
    entries = {path.relative_to(SRC).parts[0].removesuffix(".py") for path in FILES} - {
        "__init__",
        "__main__",
    }
    assert entries == {*ORDER, "recipes"}
    assert len(entries) <= 25


def test_no_circles_between_files():
    names = {module_name(path) for path in FILES}
    arrows = {}
    for path in FILES:
        used = imports(ast.parse(path.read_text(encoding="utf-8")), names)
        arrows[module_name(path)] = {name for name in used if name in names} - {module_name(path)}
    assert sum(map(len, arrows.values())) > 500  # the arrows are seen
    assert circles(arrows) == []


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_variables_say_what_they_hold():
    uses = Counter(name for path in FILES for name in variables(ast.parse(path.read_text(encoding="utf-8"))))
    hollow = {name: uses[name] for name in PRONOUNS if uses[name]}
    share = sum(hollow.values()) / uses.total()
    assert share < 0.005, f"{share:.2%} of all name uses: {hollow}"


def test_no_class_name_twice():
    names = Counter(
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__, name
    for label, thing in vars(module).items():
        is_own = getattr(thing, "__module__", None) == name
        if label.startswith("_") or not is_own or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        assert inspect.getdoc(thing), f"{name}.{label}"


@pytest.mark.parametrize("path", sorted(SRC.rglob("__init__.pyi")), ids=lambda p: str(p.relative_to(SRC)))
def test_what_a_face_lists_is_there(path):
    package = importlib.import_module(module_name(path.with_suffix(".py")))
    listed = {
        alias.asname
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert listed and listed == set(package.__all__)
    for name in listed:
        assert getattr(package, name) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import anomalyr1"],
        ["-c", f"import {', '.join(name for name in MODULES if name.count('.') == 1)}"],
        ["-m", "anomalyr1", "--help"],
        ["-m", "anomalyr1", "inspect", "--help"],
        ["-m", "anomalyr1", "data", "check", "--help"],
    ],
    ids=lambda a: " ".join(a)[:40],
)
def test_heavy_libraries_are_not_loaded(arguments):
    loaded = loaded_by(arguments)
    assert "anomalyr1" in loaded
    assert not loaded & {"torch", "transformers", "cv2", "scipy", "sklearn"}


def test_listing_the_verbs_loads_no_records():
    assert not loaded_by(["-m", "anomalyr1", "--help"]) & {"pydantic", "numpy", "PIL", "yaml"}


def test_the_heavy_import_check_sees_a_heavy_import():
    assert "torch" in loaded_by(["-c", "import safetensors.torch"])


def loaded_by(arguments: list[str]) -> set[str]:
    """The top-level modules that a Python process loads."""
    command = [sys.executable, "-X", "importtime", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


def test_tests_mirror_the_folders():
    folders = {path.parent.name for path in FILES if path.parent != SRC} - {"recipes"}
    tests = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == tests


def test_what_make_installs_is_what_is_pinned_and_every_file_has_its_digest() -> None:
    """`make locked` writes locked.txt from the other files."""
    folder = ROOT / "requirements"
    locked = (folder / "locked.txt").read_text(encoding="utf-8")
    pins = {
        line
        for path in folder.glob("*.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
        if path.name != "locked.txt" and line[:1].isalnum()
    }
    entries = re.findall(
        r"^([\w.-]+)(?:\[[^]]*\])?==([^ ;\\]+)([^\n]*\n(?: +--hash=sha256:[0-9a-f]{64}.*\n?)*)", locked, re.M
    )
    assert len(entries) == len(re.findall(r"^\w", locked, re.M))
    assert all("--hash=" in digests for _, _, digests in entries)
    assert pins <= {f"{name}=={version}" for name, version, _ in entries}
