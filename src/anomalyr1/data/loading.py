"""A spec such as `mvtec:FOLDER` becomes samples: the table of schemes, and `load`."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from anomalyr1.data.samples import Samples
from anomalyr1.types import InputError, nearest_name, quoted


class Scheme(NamedTuple):
    """What reads a kind of data set."""

    module: str
    """The dotted name of the loader's module."""
    function: str
    """The loader in that module; it takes the spec, the path in it and the options."""
    options: str
    """The class of the loader's options, in the same module."""
    example: str
    """A spec as a user writes it."""


SCHEMES: dict[str, Scheme] = {
    "mmad": Scheme("anomalyr1.data.mmad", "load", "MmadOptions", "mmad:FOLDER"),
    "mvtec": Scheme("anomalyr1.data.folders", "mvtec", "FolderOptions", "mvtec:FOLDER"),
    "loco": Scheme("anomalyr1.data.folders", "loco", "FolderOptions", "loco:FOLDER"),
    "visa": Scheme("anomalyr1.data.folders", "visa", "FolderOptions", "visa:FOLDER"),
    "goodsad": Scheme("anomalyr1.data.folders", "goodsad", "FolderOptions", "goodsad:FOLDER"),
    "folder": Scheme("anomalyr1.data.folders", "labelled_folder", "FolderOptions", "folder:FOLDER"),
    "coco": Scheme("anomalyr1.data.annotations", "coco", "AnnotationOptions", "coco:FILE"),
    "yolo": Scheme("anomalyr1.data.annotations", "yolo", "AnnotationOptions", "yolo:FOLDER"),
    "index": Scheme("anomalyr1.data.annotations", "index", "AnnotationOptions", "index:FILE"),
    "csv": Scheme("anomalyr1.data.label_tables", "load", "TableOptions", "csv:FILE"),
    "jsonl": Scheme("anomalyr1.data.conversations", "load", "ConversationOptions", "jsonl:FILE"),
    "elpv": Scheme("anomalyr1.data.elpv", "elpv", "ElpvOptions", "elpv"),
    "drawn": Scheme("anomalyr1.drawn.dataset", "load", "DrawnOptions", "drawn:seen?n=64&seed=0"),
}
"""Kinds of data sets by the word before the colon of a spec."""


def load(spec: str, **options: object) -> Samples:
    """The samples of a data set, e.g. `load("mmad:/data/MMAD", shots=1, knowledge=True)`; no image is opened.

    Raises `InputError` for an unknown scheme or option (naming the nearest known one), for paths that leave
    the data set's folder, and for files that have not the form their scheme expects.
    """
    if not isinstance(spec, str):
        raise InputError(f"expected a text such as 'folder:parts', got {quoted(spec)}; say its kind in front")
    name, _, place = spec.partition(":")
    scheme = SCHEMES.get(name)
    if scheme is None:
        examples = ", ".join(known_scheme.example for known_scheme in SCHEMES.values())
        raise InputError(
            f"{quoted(spec)} names no kind of data set{_did_you_mean(name, SCHEMES)}; "
            f"write it as one of {examples}"
        )
    if not place and scheme.example != name:
        raise InputError(f"{spec!r} names no place; write it as {scheme.example}")
    module = importlib.import_module(scheme.module)
    options_class = getattr(module, scheme.options)
    known_options = options_class.model_fields
    for key in options:
        if key not in known_options:
            hint = _did_you_mean(key, known_options)
            raise InputError(f"{name} has no option {quoted(key)}{hint}; known: {', '.join(known_options)}")
    try:
        checked_options = options_class(**options)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = str(fault["loc"][0])
        raise InputError(f"option {key} of {name}: {fault['msg']}, got {quoted(options[key])}") from error
    try:
        path = Path(os.path.expanduser(place))  # noqa: PTH111  # `Path.expanduser` raises for unknown users
        samples: Samples = getattr(module, scheme.function)(spec, path, checked_options)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(f"cannot read {quoted(spec)}: {error.strerror or error}; check the path") from error
    return samples


def _did_you_mean(name: str, known_names: dict[str, Scheme]) -> str:
    nearest = nearest_name(name, known_names)
    return "" if nearest is None else f", did you mean {nearest!r}?"
