"""Reading manifests (JSON, JSON lines, CSV) and listing folders; errors name the file and the place.

Large JSON objects are read entry by entry with our own reader, because `ijson` turns lone surrogates into
"?", refuses names that are not UTF-8, and takes memory in the square of the depth, so a deeply nested file
kills it.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from anomalyr1.files import open_regular, parse_json, read_regular
from anomalyr1.types import InputError, integer_of

Json = Any
"""A parsed JSON value: whoever takes it checks it."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm"}
)
"""Suffixes (lower case) of files that count as images in a folder; whether one is an image its content tells
later."""

PHONE_SUFFIXES = frozenset({".heic", ".heif", ".avif"})
"""Images as phones write them, which nothing here decodes."""

_CHUNK = 2**20
"""Characters that are read at a time."""
_LONGEST_ENTRY = 2**24
"""Characters of one entry or line."""
_NOT_BLANK = re.compile(r"[^ \t\n\r]")


def read_json_entries(path: Path) -> Iterator[tuple[str, Json, str]]:
    """Key, value and the value's JSON text of each entry of a JSON file that is one object.

    Memory is that of one entry. Bytes that are not UTF-8 come as surrogates, as Python gives file names.
    Raises `InputError` for anything else, and for a file that cannot be read.
    """
    try:
        with (
            cast("io.BufferedReader", open_regular(path)) as data,
            io.TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
        ):
            yield from _entries_of(_JsonText(path, file))
    except OSError as error:
        raise _unreadable(path, error) from error


def _entries_of(text: _JsonText) -> Iterator[tuple[str, Json, str]]:
    if text.peek() != "{":
        raise InputError(
            f"{str(text.path)!r}: expected a JSON object that starts with '{{', got {text.peek()!r}"
        )
    text.skip()
    if text.peek() == "}":
        return
    while True:
        key, _ = text.read_value()
        if not isinstance(key, str) or text.peek() != ":":
            raise text.error("expected a key and a colon")
        text.skip()
        value, value_text = text.read_value()
        yield key, value, value_text
        separator = text.peek()
        if separator == "}":
            return
        if separator != ",":
            raise text.error("expected a comma or a closing brace")
        text.skip()


class _JsonText:
    """The text of a JSON file, of which only the part that is being read is in memory."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self._file = path, file
        self._decoder = json.JSONDecoder(parse_int=integer_of)
        self._buffer, self._position = "", 0
        self._dropped = 0  # characters of the file in front of the buffer

    def peek(self) -> str:
        """The next character that is not blank, left in place; empty at the end of the file."""
        while True:
            match = _NOT_BLANK.search(self._buffer, self._position)
            if match:
                self._position = match.start()
                return match[0]
            self._position = len(self._buffer)
            if not self._read_on():
                return ""

    def skip(self) -> None:
        """Go past one character."""
        self._position += 1

    def read_value(self) -> tuple[Json, str]:
        """The JSON value that starts at the next character, and its text.

        Raises `InputError` where there is none.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except (ValueError, RecursionError) as error:
                too_long = len(self._buffer) - self._position > _LONGEST_ENTRY
                if too_long or not self._read_on():
                    raise self.error(str(error)) from error
                continue
            if end == len(self._buffer) and self._read_on():  # a number may go on
                continue
            value_text = self._buffer[self._position : end]
            self._position = end
            return value, value_text

    def error(self, what: str) -> InputError:
        """An error about the current place."""
        place = self._dropped + self._position
        return InputError(f"{str(self.path)!r}, near character {place}: {what}; mend or fetch the file again")

    def _read_on(self) -> bool:
        """Read as much again as is waiting, so that a long entry is not tried too often; False at the end."""
        waiting = self._buffer[self._position :]
        addition = self._file.read(max(_CHUNK, len(waiting)))
        self._dropped += self._position
        self._buffer, self._position = waiting + addition, 0
        return bool(addition)


def read_json_lines(path: Path) -> Iterator[tuple[int, Json, str]]:
    """Number, value and text of each line of a JSON lines file; blank lines are passed over.

    Raises `InputError` with the number of a line that is no JSON, and for a file that cannot be read.
    """
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(_LONGEST_ENTRY):
                number += 1
                text = _decode(line).strip()
                if not text:
                    continue
                yield number, parse_json(text, f"line {number} of {str(path)!r}"), text
    except OSError as error:
        raise _unreadable(path, error) from error


def read_json(path: Path) -> Json:
    """The value of a JSON file. Raises `InputError` when it is no JSON or cannot be read."""
    return parse_json(read_text(path), repr(str(path)))


def is_four_numbers(value: Json) -> bool:
    """Whether a JSON value is a list of four numbers, as boxes are written."""
    return isinstance(value, list) and len(value) == 4 and all(type(n) in (int, float) for n in value)


def read_text(path: Path) -> str:
    """The text of a small file; bytes that are not UTF-8 come as surrogates.

    Raises `InputError` when it cannot be read.
    """
    return _decode(read_regular(path))


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header.

    Raises `InputError` when a column is missing or the file cannot be read.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                f"{str(path)!r} lacks the columns {', '.join(missing)}; "
                f"expected the header {','.join(columns)}"
            )
        for row in reader:
            yield {name: row[name] or "" for name in columns}
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is no CSV table ({error})") from error


def list_folder(path: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name. Raises `InputError` when it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(path, error) from error


def subfolder_names(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are passed over."""
    return [entry.name for entry in list_folder(path) if is_folder(entry) and not entry.name.startswith(".")]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_image(name: str) -> bool:
    """Whether a file counts as an image by its name; hidden files do not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  # a name need not be a path


def require_folder(path: Path) -> Path:
    """The path. Raises `InputError` when it is no folder."""
    if not path.is_dir():
        raise InputError(f"{str(path)!r} is no folder; name the folder that the data set was unpacked to")
    return path


class ImageFiles(NamedTuple):
    """The image files that paths name."""

    paths: list[Path]
    masks_left_out: dict[Path, int]
    """How many images of a folder of masks are no parts, by that folder."""
    unopenable: dict[Path, Counter[str]]
    """What else in a folder was meant as an image and cannot be opened as one, in words, by that folder."""


def find_images(
    paths: Sequence[Path], out: Path | None = None, references: Sequence[Path] = ()
) -> ImageFiles:
    """The image files that `paths` name, each once.

    Folders are searched in sorted order, without what lies in `out`. A file named outright may have any
    suffix. Of a folder as `folder:` reads it, with good/ and masks/, the masks are left out. Raises
    `InputError` that lists all paths (and references) that do not exist, or the folder without an image.
    """
    missing = [path for path in (*paths, *references) if not path.exists()]
    if missing:
        names = ", ".join(repr(str(path)) for path in missing)
        raise InputError(f"no such file or folder, so nothing was started: {names}")
    images: dict[Path, Path] = {}
    masks_left_out: dict[Path, int] = {}
    unopenable: dict[Path, Counter[str]] = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            files, unopenable[path] = _images_below(path, out)
        if (path / "good").is_dir():
            parts = [file for file in files if not file.is_relative_to(path / "masks")]
            if len(parts) < len(files):
                masks_left_out[path / "masks"] = len(files) - len(parts)
            files = parts
        if not files:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            others = "".join(f", {count} {what}" for what, count in unopenable[path].items())
            raise InputError(
                f"folder {str(path)!r} holds no image{others}; expected files ending in {suffixes}"
            )
        for file in files:
            images.setdefault(file.resolve(), file)
    return ImageFiles(list(images.values()), masks_left_out, unopenable)


def _images_below(folder: Path, out: Path | None) -> tuple[list[Path], Counter[str]]:
    """The image files below a folder, and how many others cannot be opened, in words."""
    out = out and out.resolve()
    files: list[Path] = []
    unopenable: Counter[str] = Counter()
    for file in sorted(folder.rglob("*")):
        suffix = file.suffix.lower()
        if suffix not in IMAGE_SUFFIXES and suffix not in PHONE_SUFFIXES:
            continue
        if out is not None and file.resolve().is_relative_to(out):
            continue
        if file.is_symlink() and not file.exists():
            unopenable["links that lead nowhere (restore what they name)"] += 1
        elif suffix in PHONE_SUFFIXES:
            unopenable["HEIC or AVIF files (convert them to JPEG or PNG)"] += file.is_file()
        elif file.is_file():
            files.append(file)
        elif not file.is_dir():
            unopenable["pipes or devices (name ordinary files)"] += 1
    return files, +unopenable


def _decode(data: bytes) -> str:
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot read {str(path)!r}: {error.strerror or error}; check the path and its permissions"
    )
