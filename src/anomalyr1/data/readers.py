"""Reading manifests: large JSON objects entry by entry, JSON lines, CSV, folder listings; errors name file and place."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomalyr1.types import InputError

Json = Any
"""A parsed JSON value: whoever takes it checks it."""

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm")
)
"""Suffixes (lower case) of files that count as images in a folder; whether one is an image its content tells
later."""

_CHUNK = 2**20
_LONGEST_ENTRY = 2**24
"""Characters of one entry or line."""
_BLANK = re.compile(r"[ \t\n\r]*")
_JSON_FAILS_WITH = (ValueError, RecursionError)
"""`json.JSONDecodeError` is a ValueError, and so is a number of too many digits."""


def entries(path: Path) -> Iterator[tuple[str, Json, str]]:
    """Key, value and the value's own text of each entry of a JSON file that is one object; memory is that of one entry.

    Bytes that are not UTF-8 come as surrogates, as Python gives file names. Raises `InputError` for anything
    else.
    """
    decoder = json.JSONDecoder()
    text = _Text(path)
    if text.next() != "{":
        raise InputError(f"{str(path)!r}: expected a JSON object that starts with '{{', got {text.next()!r}")
    text.skip()
    if text.next() == "}":
        return
    while True:
        key, _ = text.value(decoder)
        if not isinstance(key, str) or text.next() != ":":
            raise text.error("expected a key and a colon")
        text.skip()
        value, own = text.value(decoder)
        yield key, value, own
        mark = text.next()
        if mark == "}":
            return
        if mark != ",":
            raise text.error("expected a comma or a closing brace")
        text.skip()


class _Text:
    """The text of a file, read as it is needed."""

    def __init__(self, path: Path) -> None:
        self._path, self._buffer, self._at, self._before = path, "", 0, 0
        self._pieces = _pieces(path)
        self._ended = False

    def next(self) -> str:
        """The next character that is not blank, left in place; empty at the end."""
        while True:
            self._at = _BLANK.match(self._buffer, self._at).end()  # type: ignore[union-attr]  # it matches the empty text
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def skip(self) -> None:
        """Go past one character."""
        self._at += 1

    def value(self, decoder: json.JSONDecoder) -> tuple[Json, str]:
        """The JSON value that starts at the next character, and its text."""
        self.next()
        while True:
            try:
                value, end = decoder.raw_decode(self._buffer, self._at)
            except _JSON_FAILS_WITH as error:
                if len(self._buffer) - self._at > _LONGEST_ENTRY or not self._more():
                    raise self.error(str(error)) from error
                continue
            if end == len(self._buffer) and self._more():  # a number may go on
                continue
            own = self._buffer[self._at : end]
            self._at = end
            return value, own

    def error(self, what: str) -> InputError:
        """An error about the current place."""
        return InputError(
            f"{str(self._path)!r}, near character {self._before + self._at}: {what}; mend or fetch the file again"
        )

    def _more(self) -> bool:
        """Read on; as much again as is waiting, so that a long entry is not tried too often."""
        self._before += self._at
        pieces = [self._buffer[self._at :]]
        wanted, got = max(_CHUNK, len(pieces[0])), 0
        while got < wanted and not self._ended:
            piece = next(self._pieces, "")
            self._ended = not piece
            pieces.append(piece)
            got += len(piece)
        self._buffer, self._at = "".join(pieces), 0
        return got > 0


def _pieces(path: Path) -> Iterator[str]:
    """The text of a file in non-empty pieces, without its byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    try:
        with path.open("rb") as file:
            data = file.read(_CHUNK).removeprefix(codecs.BOM_UTF8)
            while data:
                piece = decoder.decode(data)
                if piece:
                    yield piece
                data = file.read(_CHUNK)
            if rest := decoder.decode(b"", True):
                yield rest
    except OSError as error:
        raise _unreadable(path, error) from error


def lines(path: Path) -> Iterator[tuple[int, Json, str]]:
    """Number, value and text of each line of a JSON lines file; blank lines are passed over. Raises `InputError` with the line number."""
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(_LONGEST_ENTRY):
                number += 1
                text = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").strip()
                if not text:
                    continue
                try:
                    yield number, json.loads(text), text
                except _JSON_FAILS_WITH as error:
                    raise InputError(
                        f"line {number} of {str(path)!r} is no JSON ({error}); mend or delete the line"
                    ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def whole(path: Path) -> Json:
    """The value of a JSON file."""
    try:
        return json.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except _JSON_FAILS_WITH as error:
        raise InputError(f"{str(path)!r} is no JSON ({error}); mend or fetch the file again") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_image(name: str) -> bool:
    """Whether a file counts as an image by its name; hidden files do not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  # a name need not be a path


def table(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header. Raises `InputError` when a column is missing."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{str(path)!r} lacks the columns {', '.join(missing)}; expected the header {','.join(columns)}"
                )
            for row in reader:
                yield {name: row[name] or "" for name in columns}
    except OSError as error:
        raise _unreadable(path, error) from error
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is no CSV table ({error})") from error


def folders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are passed over."""
    return [entry.name for entry in scan(path) if is_folder(entry) and not entry.name.startswith(".")]


def text(path: Path) -> str:
    """The text of a small file; bytes that are not UTF-8 come as surrogates."""
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise _unreadable(path, error) from error


def require_folder(path: Path) -> Path:
    """The path. Raises `InputError` when it is no folder."""
    if not path.is_dir():
        raise InputError(f"{str(path)!r} is no folder; name the folder that the data set was unpacked to")
    return path


def scan(path: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name."""
    try:
        with os.scandir(path) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot read {str(path)!r}: {error.strerror or error}; check the path and its permissions"
    )
