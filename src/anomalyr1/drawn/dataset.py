"""Drawn parts as a data set: a spec such as `drawn:dev?n=64&seed=3` becomes samples on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from anomalyr1.data.samples import Samples
from anomalyr1.drawn import questions as drawn_questions
from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.drawn.draw import draw, reference
from anomalyr1.drawn.record import Drawn
from anomalyr1.drawn.words import SPLITS
from anomalyr1.prompts import GROUNDING_TEXT
from anomalyr1.types import InputError, Record, Sample

_SEED_STRIDE = 1_000_000
"""Image seeds of a spec start at its seed times this, so specs with different seeds share no image."""


MOST_SEED = 6_999


MOST_DIGITS = 12
"""Of a number in a spec."""


@dataclass(frozen=True)
class DrawnSpec:
    """Which drawn images: `drawn:<split>?n=<count>&seed=<number>&references=<0 or 1>`."""

    split: str
    """Of categories, or one category, with a hyphen for a blank."""
    n: int = 64
    seed: int = 0
    references: int = 1
    """Whether a prompt about a part shows another good one, too."""

    @property
    def categories(self) -> tuple[str, ...]:
        """What is drawn, in turn."""
        return SPLITS.get(self.split) or (self.split.replace("-", " "),)


def parse_spec(spec: str) -> DrawnSpec:
    """Read a spec such as `drawn:dev?n=64&seed=3`. Raises `InputError` that names what is wrong."""
    example = "write it as drawn:seen?n=64&seed=0"
    scheme, colon, rest = spec.partition(":")
    split, _, query = rest.partition("?")
    if scheme != "drawn" or not colon:
        raise InputError(f"{spec!r} is not a spec of drawn parts; {example}")
    categories = [name.replace(" ", "-") for some in SPLITS.values() for name in some]
    if split not in (*SPLITS, *categories):
        raise InputError(
            f"{spec!r} names the split {split!r}; choose one of {', '.join(SPLITS)}, or a category: {', '.join(categories)}"
        )
    values: dict[str, int] = {}
    for pair in query.split("&") if query else []:
        key, _, text = pair.partition("=")
        if not pair:
            raise InputError(f"{spec!r} has nothing beside an &; {example}")
        if key not in ("n", "seed", "references"):
            raise InputError(
                f"{spec!r} has the unknown key {key!r}, known are n, seed and references; {example}"
            )
        if key in values:
            raise InputError(f"{spec!r} gives {key} twice; {example}")
        if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
            raise InputError(
                f"{spec!r} needs a whole number of at most {MOST_DIGITS} digits for {key}, got {text!r}; {example}"
            )
        values[key] = int(text)
    result = DrawnSpec(split, **values)
    if not 1 <= result.n <= _SEED_STRIDE:
        raise InputError(f"{spec!r} asks for {result.n} images; n is 1 to {_SEED_STRIDE}")
    if result.seed > MOST_SEED:
        raise InputError(
            f"{spec!r} has the seed {result.seed}; at most {MOST_SEED}, for nano's own training drew what lies beyond"
        )
    if result.references > 1:
        raise InputError(f"{spec!r} asks for {result.references} references; it is 0 or 1")
    return result


def drawn(spec: str | DrawnSpec) -> Iterator[Drawn]:
    """The images of a spec in order: its categories in turn, 55 % defective."""
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    categories = spec.categories
    for i in range(spec.n):
        yield draw(spec.seed * _SEED_STRIDE + i, categories[i % len(categories)])


def sample_ids(spec: str | DrawnSpec) -> list[str]:
    """The ids that `write` gives the samples of a spec; nothing is drawn."""
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    return [_sample_id(spec.split, spec.seed * _SEED_STRIDE + i) for i in range(spec.n)]


def _sample_id(split: str, seed: int) -> str:
    return f"drawn/{split}-{seed:09d}"


def write(spec: str | DrawnSpec, folder: str | Path, grounding_text: str) -> list[Sample]:
    """Write the images of a spec, masks (1 bit, defective parts only) and one reference image each as PNG; samples with questions.

    `grounding_text` asks for the boxes, e.g. `prompts.GROUNDING_TEXT`. The folder is made if need be; a file
    is complete or absent. Ids depend on the spec's split and seed alone, so a larger n adds samples.
    """
    root = Path(folder)
    for name in ("images", "masks", "references"):
        (root / name).mkdir(parents=True, exist_ok=True)
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    return [_written(one, spec, root, grounding_text) for one in drawn(spec)]


def _written(one: Drawn, spec: DrawnSpec, root: Path, grounding_text: str) -> Sample:
    sample_id = _sample_id(spec.split, one.seed)
    name = sample_id.rpartition("/")[2]
    image, mask, good = (root / part / f"{name}.png" for part in ("images", "masks", "references"))
    _store(PIL.Image.fromarray(one.image), image)
    if spec.references:
        _store(PIL.Image.fromarray(reference(one)), good)
    if one.defect is not None:
        _store(PIL.Image.fromarray(one.mask), mask)
    asked = drawn_questions.questions(one, np.random.default_rng([one.seed, 9]), grounding_text, sample_id)
    return Sample(
        id=sample_id, image=image, references=(good,) * spec.references, knowledge=one.knowledge, dataset="drawn", category=one.category,
        defect=one.defect, anomalous=one.defect is not None, logical=one.defect in LOGICAL, boxes=one.boxes, questions=asked,
        mask=mask if one.defect is not None else None,
    )  # fmt: skip


def _store(image: PIL.Image.Image, path: Path) -> None:
    """Write a PNG under a temporary name, then rename it."""
    waiting = path.with_suffix(".tmp")
    with waiting.open("wb") as file:
        image.save(file, format="PNG")
        file.flush()
        os.fsync(file.fileno())
    waiting.replace(path)


class DrawnOptions(Record):
    """What drawn parts can be asked for; number and seed are in the spec."""

    folder: Path | None = None
    """Where the images are written."""


def load(spec: str, path: Path, options: DrawnOptions) -> Samples:
    """Drawn parts: they are drawn and written now, with masks and reference images, into `folder`."""
    parsed = parse_spec(spec)
    if options.folder is None:
        raise InputError(f"{spec!r} needs a folder to write the images to: load({spec!r}, folder=...)")
    return Samples(spec, "drawn", write(parsed, options.folder, GROUNDING_TEXT), _as_written, {})


def _as_written(sample: Sample, open_files: bool) -> Sample:
    return sample
