"""Data: `load` turns what is on disk into samples with questions; drawn parts; questions for data sets that have none.

    from anomalyr1 import data
    samples = data.load("mvtec:/data/mvtec", split="test", boxes=True)
    samples[0].questions, samples.notes

See docs/data.md for every scheme and option.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from anomalyr1.data.samples import Samples

__all__ = ["SCHEMES", "load"]


class Scheme(NamedTuple):
    """What reads a kind of data set."""

    module: str
    """Dotted."""
    function: str
    options: str
    """The model of its options, in the same module."""
    example: str


SCHEMES: dict[str, Scheme] = {
    "mmad": Scheme("anomalyr1.data.mmad", "load", "Options", "mmad:FOLDER"),
    "mvtec": Scheme("anomalyr1.data.folders", "mvtec", "Options", "mvtec:FOLDER"),
    "loco": Scheme("anomalyr1.data.folders", "loco", "Options", "loco:FOLDER"),
    "visa": Scheme("anomalyr1.data.folders", "visa", "Options", "visa:FOLDER"),
    "goodsad": Scheme("anomalyr1.data.folders", "goodsad", "Options", "goodsad:FOLDER"),
    "folder": Scheme("anomalyr1.data.folders", "own", "Options", "folder:FOLDER"),
    "coco": Scheme("anomalyr1.data.annotations", "coco", "Options", "coco:FILE"),
    "yolo": Scheme("anomalyr1.data.annotations", "yolo", "Options", "yolo:FOLDER"),
    "index": Scheme("anomalyr1.data.annotations", "index", "Options", "index:FILE"),
    "jsonl": Scheme("anomalyr1.data.conversations", "load", "Options", "jsonl:FILE"),
    "elpv": Scheme("anomalyr1.data.elpv", "elpv", "ElpvOptions", "elpv"),
    "drawn": Scheme("anomalyr1.drawn.dataset", "load", "DrawnOptions", "drawn:seen?n=64&seed=0"),
}
"""By the word before the colon."""


def load(spec: str, **options: object) -> Samples:
    """The samples of a data set, e.g. `load("mmad:/data/MMAD", shots=1, knowledge=True)`; no image is opened.

    Raises `InputError` for an unknown scheme or option (naming the nearest known one), for paths that leave
    the data set's folder, and for files that have not the form their scheme expects.
    """
    import importlib
    from pathlib import Path

    from pydantic import ValidationError

    from anomalyr1.types import InputError

    name, _, rest = spec.partition(":")
    scheme = SCHEMES.get(name)
    if scheme is None:
        raise InputError(
            f"{spec!r} names no kind of data set{_nearest(name, SCHEMES)}; write it as one of {_examples()}"
        )
    if not rest and scheme.example != name:
        raise InputError(f"{spec!r} names no place; write it as {scheme.example}")
    module = importlib.import_module(scheme.module)
    model = getattr(module, scheme.options)
    for key in options:
        if key not in model.model_fields:
            raise InputError(
                f"{name} has no option {key!r}{_nearest(key, model.model_fields)}; known: {', '.join(model.model_fields)}"
            )
    try:
        chosen = model(**options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"option {first['loc'][0]} of {name}: {first['msg']}, got {options[str(first['loc'][0])]!r}"
        ) from error
    samples: Samples = getattr(module, scheme.function)(spec, Path(rest).expanduser(), chosen)
    return samples


def _nearest(name: str, known: object) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), 1)  # type: ignore[call-overload]  # a dict of names
    return f", did you mean {close[0]!r}?" if close else ""


def _examples() -> str:
    return ", ".join(scheme.example for scheme in SCHEMES.values())
