"""The files of a model folder as text and JSON, read within limits; refusals that name the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomalyr1.files import open_regular
from anomalyr1.types import InputError

_MIB = 2**20
_MAX_BYTES = dict.fromkeys(
    ("tokenizer.json", "vocab.json", "merges.txt", "model.safetensors.index.json"), 32 * _MIB
)
_MAX_JSON_BYTES = 8 * _MIB
_MAX_DEPTH = 50
_MAX_CONTAINERS = 500_000
"""Lists and objects in one document; the two bytes of an empty one become sixty."""


def refusal(file: Path, text: str) -> InputError:
    """The error to raise; the name is escaped, since whoever made the folder chose it."""
    return InputError(f"{str(file)!r}: {text}")


def byte_limit(file: Path) -> int:
    """The greatest length of a text file of this name, in bytes."""
    return _MAX_BYTES.get(file.name, _MAX_JSON_BYTES)


def read_text(file: Path, limit: int | None = None) -> str:
    """The UTF-8 text of a file. Raises `InputError`, also where it is longer than its `byte_limit`."""
    limit = byte_limit(file) if limit is None else limit
    try:
        with open_regular(file) as stream:
            data = stream.read(limit + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise refusal(
            file, f"expected text in UTF-8 ({error}); copy the file again from the model's source"
        ) from error
    if len(data) > limit:
        raise refusal(
            file,
            f"{file.stat().st_size:,} bytes, and no real model's is larger than {limit:,}; "
            "use the file of the model's source",
        )
    return text


def read_json(file: Path) -> Any:
    """What a JSON file says; raises as `parse_json` does."""
    return parse_json(file, read_text(file))


def parse_json(file: Path, text: str) -> Any:
    """What the JSON text of a file says.

    Raises `InputError` where it is no JSON, has a key twice, is nested too deeply or has too many parts.
    """
    if text.count("[") + text.count("{") > _MAX_CONTAINERS:
        raise refusal(
            file,
            f"more than {_MAX_CONTAINERS:,} lists and objects, or nested deeper than {_MAX_DEPTH} levels, "
            "which no real model's is; use the file of the model's source",
        )
    try:
        document = json.loads(text, object_pairs_hook=_unique)
        depth = max((depth for depth, _, _ in settings(document)), default=0)
    except RecursionError:
        document, depth = None, _MAX_DEPTH + 1
    except ValueError as error:
        raise refusal(
            file, f"expected JSON ({error}); copy the file again from the model's source"
        ) from error
    if depth > _MAX_DEPTH:
        raise refusal(
            file,
            f"nested deeper than {_MAX_DEPTH} levels, which no real model's is; "
            "use the file of the model's source",
        )
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; equal keys are refused, since readers differ in which one they take."""
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key!r} stands twice in one object")
        document[key] = value
    return document


def settings(document: object) -> Iterator[tuple[int, str, Any]]:
    """The depth, key and value of every setting in a JSON document; those in lists have the key ''."""
    parents: list[tuple[int, Any]] = [(1, document)] if isinstance(document, dict | list) else []
    while parents:
        depth, parent = parents.pop()
        children = parent.items() if isinstance(parent, dict) else [("", value) for value in parent]
        for key, value in children:
            yield depth, key, value
            if isinstance(value, dict | list):
                parents.append((depth + 1, value))
