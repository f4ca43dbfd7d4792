"""Which places a file may name: what lies below its own folder, the working folder, or `ANOMALYR1_DATA`.

A split, an evaluation or an inspections file may come from somebody else, and names data and images. What it
names elsewhere is refused, until the user names its folder in the environment variable `ANOMALYR1_DATA`
(several with `:` between them, on Windows `;`). Symbolic links are followed first. What the user names, in a
command, a recipe or a program, may lie anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from anomalyr1.types import InputError, quoted

VARIABLE = "ANOMALYR1_DATA"
"""The environment variable that names folders of data."""
_SHARES = ("//", "\\\\")
"""Open the name of a network share: to look at one is a request to another machine."""


class PlaceError(InputError):
    """A file names what it may not name."""


def data_folders() -> list[Path]:
    """The folders in `ANOMALYR1_DATA`."""
    return [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


def lies_below(path: str | Path, folders: Iterable[str | Path]) -> bool:
    """Whether a path, its links followed, is one of the folders or lies in one."""
    real = os.path.realpath(path)
    roots = (os.path.realpath(folder) for folder in folders)
    return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots)


def trusted_base(file: Path, base: Path) -> Path | None:
    """The folder from which a file says that its relative paths begin, as far as its word is taken.

    It is: the folder of the file, up to two folders above that, or what the file may name anyway.
    """
    above = (file.resolve().parent, *file.resolve().parent.parents[:2])
    base = base.resolve()
    return base if base in above or may_name(file, base) else None


def may_name(file: Path, path: Path, base: Path | None = None) -> bool:
    """Whether a file may name a path, which is relative to the working folder or absolute.

    `base` is a folder that it may name beside (see `trusted_base`).
    """
    if str(path).startswith(_SHARES):
        return False
    roots = [file.parent, Path(), *data_folders()]
    if base is not None:
        roots.append(base)
    try:
        return lies_below(path, roots)
    except ValueError:  # a NUL, or half a surrogate pair
        return False


def resolve_place(path: Path, file: Path, base: Path | None = None) -> Path:
    """Where the path lies that `file` names: as seen from `base`, else from the working folder, else from the
    file's own.

    Raises `PlaceError` for what a file may not name.
    """
    candidates = [path, file.parent / path]  # an absolute path stays as it is
    if base is not None and base.resolve() != Path.cwd():
        candidates.insert(0, base / path)
    is_share = str(path).startswith(_SHARES)
    place = path if is_share else next(filter(os.path.exists, candidates), path)
    if may_name(file, place, base):
        return place
    raise PlaceError(
        f"{str(file)!r} names {quoted(path)}, which lies neither below its own folder nor below the working "
        f"folder; if you trust it, name the folder of your data in the environment: {VARIABLE}=FOLDER"
    )
