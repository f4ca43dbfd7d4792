"""Write the list of the package's files into docs/design.md: `python docs/layout.py`. A file's line is the
first of its docstring.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- layout -->\n", "<!-- /layout -->"


def layout(order: tuple[str, ...]) -> str:
    """The files of the package as Markdown, its rooms in the given order."""
    source = ROOT / "src" / "anomalyr1"
    lines = []
    for room in order:
        files = (
            [source / f"{room}.py"]
            if (source / f"{room}.py").is_file()
            else sorted((source / room).glob("*.py"))
        )
        for path in files:
            name = room if path.parent == source else f"{room}/{path.stem}".removesuffix("/__init__")
            lines.append(f"- `{name}`: {_summary(path)}")
    return "\n".join(lines) + "\n"


def _summary(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def insert(page: str, listing: str) -> str:
    """The page with the listing in its place."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + listing + END + rest.partition(END)[2]


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(ROOT / "tests"))
    from test_structure import ORDER

    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), layout(ORDER)), encoding="utf-8")
