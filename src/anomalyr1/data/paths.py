"""The one door for paths of data sets: files below one folder, or a refusal that lists the paths concerned.

Covered: what names another place by its text (absolute paths, parent folders, drive letters, UNC, URLs), what
no file can be called (NUL, too many bytes, half a surrogate pair), and symbolic links that lead out of the
folder. Not covered: a link that is made after the data set was loaded.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from anomalyr1.data.places import lies_below
from anomalyr1.data.readers import is_folder, is_image, list_folder
from anomalyr1.types import InputError, quoted

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|(?:data|file|javascript|blob):", re.IGNORECASE)
_ODD = re.compile(r"\A(?:[/\\]|[A-Za-z]:|[A-Za-z][A-Za-z0-9+.\-]*:)|\0|\.\.|\A[./\\]*\Z")
"""May be refused; all other texts are fine, which one search tells."""
_LONGEST_PART, _LONGEST_PATH = 255, 4095
"""Most bytes of a name and of a whole path, on Linux."""
_MOST_NAMED = 1000
"""Refused paths that the error names."""
_NO_IMAGES = "files that are no images, left out"


class PathDoor:
    """Checks the paths of one data set; `close` raises one error for all that are refused."""

    def __init__(self, root: Path, source: Path, *, links: bool = False) -> None:
        """`root` is where paths start, `source` the manifest or folder that names them.

        `links` lets symbolic links lead out of it.
        """
        self.root, self._source, self._links = root, source, links
        self._accepted: set[str] = set()
        self._refused: dict[str, str] = {}  # path as Python writes it -> why

    def check(self, path: object, under: str = "") -> bool:
        """Take note of a path as a manifest writes it; False when it is refused.

        It starts at the folder `under`, which is "" or ends in a slash.
        """
        if not isinstance(path, str):
            self._refused[quoted(path)] = "is no text"
            return False
        if under + path in self._accepted:
            return True
        reason = _refusal(path) if _ODD.search(path) else None
        if reason is None and (len(path) > _LONGEST_PART or not path.isascii()):
            reason = _no_name(str(self.root / under / path))
        if reason is not None:
            self._refused[quoted(path)] = reason
            return False
        self._accepted.add(under + path)
        return True

    def images(self, under: str, notes: dict[str, int] | None = None) -> list[str]:
        """Images below a folder at any depth, as paths from the root with slashes, sorted.

        There are none when the folder is not there. A linked folder that leads out of the root is refused,
        not entered; one that leads back to a folder above it is not entered again. What is no image is
        counted in `notes`. Raises `InputError` for a folder that cannot be read.
        """
        images: list[str] = []
        folders = [(under, frozenset[str]())]
        while folders:
            folder, above = folders.pop()
            real = os.path.realpath(self.root / folder)
            if real in above or not Path(real).is_dir():
                continue
            if not self._links and not lies_below(real, [self.root]):
                self._refused[quoted(folder)] = "is a symbolic link"
                continue
            for entry in list_folder(self.root / folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if is_folder(entry):
                    folders.append((path, above | {real}))
                elif is_image(entry.name):
                    images.append(path)
                elif notes is not None:
                    notes[_NO_IMAGES] = notes.get(_NO_IMAGES, 0) + 1
        self._accepted.update(images)
        return sorted(images)

    def close(self) -> None:
        """Look for symbolic links that lead out of the root; raise `InputError` when anything was refused."""
        if not self._links:
            self._check_links()
        if not self._refused:
            return
        lines = [f"  {path} {reason}" for path, reason in list(self._refused.items())[:_MOST_NAMED]]
        if len(self._refused) > _MOST_NAMED:
            lines.append(f"  and {len(self._refused) - _MOST_NAMED} more")
        raise InputError(
            f"{str(self._source)!r}: {len(self._refused)} paths are refused; write them relative to "
            f"{str(self.root)!r} and inside it, without parent folders (links=True follows symbolic links):\n"
            + "\n".join(lines)
        )

    def _check_links(self) -> None:
        """Refuse what is a link that leads out of the root, or lies behind one."""
        folders: dict[str, list[str]] = {}
        for path in self._accepted:
            folders.setdefault(path.rpartition("/")[0], []).append(path)
        for folder, paths in folders.items():
            if not lies_below(self.root / folder, [self.root]):
                self._refused.update((quoted(path), "lies behind a symbolic link") for path in paths)
                continue
            links = _links_in(self.root / folder, [path.rpartition("/")[2] for path in paths])
            for path in paths:
                if path.rpartition("/")[2] in links and not lies_below(self.root / path, [self.root]):
                    self._refused[quoted(path)] = "is a symbolic link"


def is_odd(path: str) -> bool:
    """Whether a path as a manifest writes it may lead out of its folder."""
    return _ODD.search(path) is not None


def _refusal(path: str) -> str | None:
    if "\0" in path:
        return "holds a NUL character"
    if path.startswith(("\\\\", "//")):
        return "names a network share"
    if path.startswith(("/", "\\")):
        return "is absolute"
    if _URL.match(path):
        return "is a URL"
    if re.match("[A-Za-z]:", path):
        return "starts with a drive letter"
    parts = re.split(r"[/\\]", path)
    if ".." in parts:
        return "names a parent folder"
    return "names no file" if all(part in ("", ".") for part in parts) else None


def _no_name(path: str) -> str | None:
    """Why no file can have this name; None when one can."""
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        return "holds half a surrogate pair"
    too_long = len(name) > _LONGEST_PATH or max(map(len, name.split(b"/"))) > _LONGEST_PART
    if not too_long:
        return None
    return f"is longer than {_LONGEST_PART} bytes a name or {_LONGEST_PATH} bytes in all"


def _links_in(folder: Path, names: list[str]) -> set[str]:
    """Those of the names in a folder that are symbolic links.

    A folder that cannot be listed may still be entered: there each name is looked at by itself.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:
        return {name for name in names if os.path.islink(folder / name)}  # noqa: PTH114  # never raises
