"""What each verb writes, and the rule for it: a verb writes over what it wrote itself, and nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from anomalyr1.errors import InputError, SetupError

HEAD = 1_000
"""So many bytes at the beginning of a file say which verb wrote it."""


class Product(NamedTuple):
    """What a verb writes, and how what it wrote before is known."""

    head: bytes | None
    """A pattern in the first bytes of a file of its own; None = nothing that exists is written over."""
    mark: str = ""
    """The file of its folder by which all of it is known; empty where it writes one file."""
    beside: tuple[str, ...] = ()
    """What else it writes there; without the mark each must be its own by itself."""


def _page(verb: str) -> bytes:
    return f'<meta name="generator" content="AnomalyR1 {verb}">'.encode()


NEW = Product(None)
PRODUCTS: Mapping[str, Product] = {
    # A killed run may have left the beginning of the beginning; that it is one, `records.Writer` sees.
    "inspect": Product(rb'\A(\{"model":|.{0,8}\Z)|' + _page("inspect"), "inspections.jsonl", ("index.html",)),
    # The bank, and its page beside it.
    "learn": Product(rb'(?s)\A.{8}\{"__metadata__": \{"anomalyr1\.bank"|' + _page("learn")),
    "calibrate": Product(rb'\A\{\s*"threshold":'),
    "evaluate": Product(
        rb'\A(\{\s*"source":|# Evaluation\n|"reading")',
        "evaluation.json",
        ("evaluation.md", "scoreboard.csv"),
    ),
    "compare": Product(rb'\A\{"first":|' + _page("compare"), "comparison.json", ("index.html",)),
    "report": Product(
        _page("report"), "index.html", ("report.md", "report.json", "figures.csv", "items.csv", "plots")
    ),
    "convert": NEW,
    "merge": NEW,
    "data export": NEW,
    "data extract": NEW,
    "data split": Product(rb'"format": "anomalyr1-split-'),
    "data stats": Product(_page("data stats")),
    "data show": Product(b"AnomalyR1 data show"),
    # These go on in, or begin anew, a folder of their own, and refuse any other that is not empty.
    "train": Product(b"", "recipe.yaml"),
    "reproduce": Product(b"", "study.json"),
    "demo": Product(b"", "demo.txt"),
}
"""Every verb that writes; the others write nothing."""


def require_output(verb: str, out: Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """Raise, before anything is loaded, where `verb` cannot or must not write to `out`.

    `inputs` are the files, folders and specs of data that it reads. Raises `InputError` for an output that is
    one of them, for a file where a folder belongs and the other way round, and for what the verb did not
    write itself; `SetupError` where the disk lets nothing be written.
    """
    product = PRODUCTS[verb]
    _require_apart(out, inputs)
    is_folder = bool(product.mark)
    if out.is_dir() != is_folder and os.path.lexists(out) and product.head is not None:
        kind, wanted = ("a folder", "a file") if out.is_dir() else ("a file", "a folder")
        raise InputError(f"{str(out)!r} is {kind}, and {wanted} is written; name another with --out")
    if product.head is None:
        if os.path.lexists(out):
            raise InputError(f"{str(out)!r} exists, and nothing is written over it; name another with --out")
    elif not _is_own(out / product.mark, product.head):
        for name in (product.mark, *product.beside):
            if os.path.lexists(out / name) and not _is_own(out / name, product.head):
                raise InputError(
                    f"{str(out / name)!r} is nothing that `anomalyr1 {verb}` of this version wrote, so it is "
                    "not written over; name another place with --out, or move it away"
                )
    _require_writable(out)


def _require_apart(out: Path, inputs: Iterable[str | Path | None]) -> None:
    for source in inputs:
        if source is None:
            continue
        named = Path(source)
        if not named.exists():  # a spec such as jsonl:FILE?key=value
            named = Path(str(source).partition(":")[2].partition("?")[0] or source)
        if named.exists() and out.exists() and named.samefile(out):
            raise InputError(
                f"{str(out)!r} is what is read, so nothing is written there; name another place with --out"
            )


def _is_own(path: Path, head: bytes) -> bool:
    """Whether the verb wrote the file: an ordinary one that begins as it should."""
    from anomalyr1.files import open_regular

    try:
        with open_regular(path) as file:
            return re.search(head, file.read(HEAD)) is not None
    except OSError:
        return False


def _require_writable(out: Path) -> None:
    """Raise `SetupError` where no file can be made in the folder that `out` is, or is to lie in."""
    import tempfile

    folder = out if out.is_dir() else out.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SetupError(f"cannot write {str(out)!r}: {error.strerror}; name another place") from error
