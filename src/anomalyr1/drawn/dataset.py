"""Drawn parts as a data set: a spec such as `drawn:dev?n=64&seed=3` becomes samples on disk.

samples = write("drawn:dev?n=64&seed=3", "parts", GROUNDING_TEXT)
samples[0].image, samples[0].boxes, samples[0].questions
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from anomalyr1.data.samples import Samples
from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.drawn.draw import draw, reference
from anomalyr1.drawn.questions import questions
from anomalyr1.drawn.record import Drawn
from anomalyr1.drawn.words import SPLITS
from anomalyr1.files import write_whole
from anomalyr1.prompts import GROUNDING_TEXT
from anomalyr1.types import InputError, Record, Sample

_SEED_STRIDE = 1_000_000
"""Image seeds of a spec start at its seed times this, so specs with different seeds share no image."""
_MAX_SEED = 6_999
"""The largest seed of a spec: beyond lies what nano's own training drew."""
_MAX_DIGITS = 12
"""The most digits of a number in a spec."""
_EXAMPLE = "write it as drawn:seen?n=64&seed=0"


@dataclass(frozen=True)
class DrawnSpec:
    """Which drawn images: `drawn:<split>?n=<count>&seed=<number>&references=<0 or 1>`."""

    split: str
    """A split of the categories, or one category with a hyphen for a blank."""
    n: int = 64
    seed: int = 0
    references: int = 1
    """Whether a prompt about a part shows another good one, too."""

    @property
    def categories(self) -> tuple[str, ...]:
        """What is drawn, in turn."""
        return SPLITS.get(self.split) or (self.split.replace("-", " "),)

    @property
    def seeds(self) -> range:
        """The seeds of the images."""
        start = self.seed * _SEED_STRIDE
        return range(start, start + self.n)


def parse_spec(spec: str) -> DrawnSpec:
    """Read a spec such as `drawn:dev?n=64&seed=3`. Raises `InputError` that names what is wrong."""
    scheme, colon, location = spec.partition(":")
    split, _, query = location.partition("?")
    if scheme != "drawn" or not colon:
        raise InputError(f"{spec!r} is not a spec of drawn parts; {_EXAMPLE}")
    categories = [name.replace(" ", "-") for names in SPLITS.values() for name in names]
    if split not in (*SPLITS, *categories):
        raise InputError(
            f"{spec!r} names the split {split!r}; choose one of {', '.join(SPLITS)}, "
            f"or a category: {', '.join(categories)}"
        )
    parsed = DrawnSpec(split, **_parse_numbers(spec, query))
    if not 1 <= parsed.n <= _SEED_STRIDE:
        raise InputError(f"{spec!r} asks for {parsed.n} images; n is 1 to {_SEED_STRIDE}")
    if parsed.seed > _MAX_SEED:
        raise InputError(
            f"{spec!r} has the seed {parsed.seed}; at most {_MAX_SEED}, "
            "for nano's own training drew what lies beyond"
        )
    if parsed.references > 1:
        raise InputError(f"{spec!r} asks for {parsed.references} references; it is 0 or 1")
    return parsed


def _parse_numbers(spec: str, query: str) -> dict[str, int]:
    """The numbers behind the question mark of a spec, by key."""
    numbers: dict[str, int] = {}
    for pair in query.split("&") if query else []:
        key, _, text = pair.partition("=")
        if not pair:
            raise InputError(f"{spec!r} has nothing beside an &; {_EXAMPLE}")
        if key not in ("n", "seed", "references"):
            raise InputError(
                f"{spec!r} has the unknown key {key!r}, known are n, seed and references; {_EXAMPLE}"
            )
        if key in numbers:
            raise InputError(f"{spec!r} gives {key} twice; {_EXAMPLE}")
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            raise InputError(
                f"{spec!r} needs a whole number of at most {_MAX_DIGITS} digits for {key}, "
                f"got {text!r}; {_EXAMPLE}"
            )
        numbers[key] = int(text)
    return numbers


def draw_spec(spec: str | DrawnSpec) -> Iterator[Drawn]:
    """The images of a spec: its categories in turn, 55 % defective. Raises `InputError` for a bad spec."""
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    for i, seed in enumerate(spec.seeds):
        yield draw(seed, spec.categories[i % len(spec.categories)])


def sample_ids(spec: str | DrawnSpec) -> list[str]:
    """The ids that `write` gives the samples of a spec. Raises `InputError` for a bad spec."""
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    return [_sample_id(spec.split, seed) for seed in spec.seeds]


def _sample_id(split: str, seed: int) -> str:
    return f"drawn/{split}-{seed:09d}"


def write(spec: str | DrawnSpec, folder: str | Path, grounding_text: str) -> list[Sample]:
    """Draw a spec into a folder: images, masks (1 bit, defective parts only) and a reference each, as PNG.

    Returns samples with questions; `grounding_text` asks for the boxes, e.g. `prompts.GROUNDING_TEXT`. A file
    is complete or absent. Ids depend on the spec's split and seed alone, so a larger n adds samples. Raises
    `InputError` for a bad spec, and `SetupError` when the disk refuses.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    return [_write_sample(drawing, spec, Path(folder), grounding_text) for drawing in draw_spec(spec)]


def _write_sample(drawing: Drawn, spec: DrawnSpec, folder: Path, grounding_text: str) -> Sample:
    sample_id = _sample_id(spec.split, drawing.seed)
    name = f"{sample_id.rpartition('/')[2]}.png"
    image, mask, good = folder / "images" / name, folder / "masks" / name, folder / "references" / name
    _write_png(image, drawing.image)
    if spec.references:
        _write_png(good, reference(drawing))
    is_defective = drawing.defect is not None
    if is_defective:
        _write_png(mask, drawing.mask)
    rng = np.random.default_rng([drawing.seed, 9])
    return Sample(
        id=sample_id,
        image=image,
        references=(good,) * spec.references,
        knowledge=drawing.knowledge,
        dataset="drawn",
        category=drawing.category,
        defect=drawing.defect,
        anomalous=is_defective,
        logical=drawing.defect in LOGICAL,
        mask=mask if is_defective else None,
        boxes=drawing.boxes,
        questions=questions(drawing, rng, grounding_text, sample_id),
    )


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as RGB, or (H, W) bool as one bit a pixel."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


class DrawnOptions(Record):
    """What drawn parts can be asked for; number and seed are in the spec."""

    folder: Path | None = None
    """Where the images are written."""


def load(spec: str, path: Path, options: DrawnOptions) -> Samples:
    """Drawn parts: they are drawn and written now, with masks and reference images, into `options.folder`.

    Raises `InputError` for a bad spec, or without a folder.
    """
    parsed = parse_spec(spec)
    if options.folder is None:
        raise InputError(f"{spec!r} needs a folder to write the images to: load({spec!r}, folder=...)")
    return Samples(spec, "drawn", write(parsed, options.folder, GROUNDING_TEXT), _as_written, {})


def _as_written(sample: Sample, open_files: bool) -> Sample:
    return sample
