"""Questions for data sets that have none, in the manner of MMAD.

They ask only what the labels and boxes prove, with distractors from other labels. Each question depends on
the sample's id, its kind and the seed alone. What is asked, and when:

- anomaly detection: where the verdict is known;
- object classification: where the data set has other categories;
- defect classification: where a label names a type of defect and there are others, never one that might
  also be right;
- defect localization: where boxes are known; wrong regions hold no part of any box;
- defect description: from a text of the annotation, else from the label and a size that is plainly small or
  large;
- grounding: where boxes are known, () for a good sample.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from anomalyr1.boxes import place
from anomalyr1.data.multiple_choice import DEFECT_PREMISE, QUESTION_TEXTS, choice, pick_texts
from anomalyr1.prompts import GROUNDING_TEXT, VERDICT_OPTIONS, VERDICT_TEXT
from anomalyr1.types import PLACES, Box, Kind, Question, Sample

NO_TYPE = frozenset(
    ("", "anomalies", "anomaly", "anomalous", "bad", "combined", "defect", "defective", "defects",
     "logical anomalies", "ng", "nok", "other", "others", "structural anomalies", "unknown")
)  # fmt: skip
"""Labels that name no type of defect."""

_SMALL, _LARGE = 0.02, 0.1
"""Share of the image under the largest box up to which a defect is plainly small, and from which it is
plainly large."""


@dataclass(frozen=True)
class Labels:
    """The labels of a whole data set, from which distractors are drawn."""

    categories: tuple[str, ...]
    defects: Mapping[str, tuple[str, ...]]
    """Labels of defects by category."""
    descriptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Truth:
    """What is known about one sample beyond its record."""

    defects: tuple[str, ...] = ()
    """Labels of its defects."""
    size_wh: tuple[int, int] | None = None
    """Width and height of the frame of its boxes, in pixels."""
    description: str = ""


def ask(sample: Sample, truth: Truth, labels: Labels, seed: int, *, located: bool) -> tuple[Question, ...]:
    """The questions about a sample, in the order of the module's text.

    `located` says that boxes are known in this data set, so that grounding is asked of its good samples too:
    asked of good samples alone it would teach that the answer is always [].
    """
    questions = [_verdict(sample, seed), _object(sample, labels, seed)]
    if sample.anomalous:
        questions += [
            _type(sample, truth, labels, seed),
            _place(sample, truth, seed),
            _description(sample, truth, labels, seed),
        ]
    if located and sample.boxes is not None:
        questions.append(
            Question(id=_id(sample, "grounding"), kind="grounding", text=GROUNDING_TEXT, boxes=sample.boxes)
        )
    return tuple(question for question in questions if question is not None)


def option_text(label: str) -> str:
    """A label as an option shows it."""
    return " ".join(label.replace("_", " ").split())


def _verdict(sample: Sample, seed: int) -> Question | None:
    kind: Kind = "anomaly detection"
    if sample.anomalous is None:
        return None
    gold = VERDICT_OPTIONS[0] if sample.anomalous else VERDICT_OPTIONS[1]
    return choice(_rng(sample, kind, seed), _id(sample, kind), kind, VERDICT_TEXT, gold, VERDICT_OPTIONS, 2)


def _object(sample: Sample, labels: Labels, seed: int) -> Question | None:
    gold = option_text(sample.category)
    return _question(sample, "object classification", gold, labels.categories, seed)


def _type(sample: Sample, truth: Truth, labels: Labels, seed: int) -> Question | None:
    types = _types(truth.defects)
    if not types or len(types) < len(truth.defects):
        return None
    gold = types[int(_rng(sample, "gold", seed).integers(len(types)))]
    pool = [label for label in _other_types(sample, labels) if not any(_alike(label, name) for name in types)]
    text = "Which of these types of defect does the object have?" if len(types) > 1 else None
    return _question(sample, "defect classification", gold, pool, seed, text=text)


def _place(sample: Sample, truth: Truth, seed: int) -> Question | None:
    """The region of the largest box; where two are largest, the region would be a guess."""
    if not sample.boxes or truth.size_wh is None:
        return None
    largest = _largest(sample.boxes)
    if largest is None:
        return None
    regions = zip(PLACES, _regions(truth.size_wh), strict=True)
    pool = [name for name, region in regions if not _touched(region, sample.boxes)]
    gold = place(largest, truth.size_wh)
    text = "Where is the largest defect?" if len(sample.boxes) > 1 else None
    return _question(sample, "defect localization", gold, pool, seed, text=text, alike=True)


def _description(sample: Sample, truth: Truth, labels: Labels, seed: int) -> Question | None:
    kind: Kind = "defect description"
    if truth.description:
        return _question(sample, kind, truth.description, labels.descriptions, seed)
    types = _types(truth.defects)
    if len(truth.defects) != 1 or not types or not sample.boxes or truth.size_wh is None:
        return None
    share = max(box.area for box in sample.boxes) / (truth.size_wh[0] * truth.size_wh[1])
    if _SMALL < share < _LARGE:
        return None
    sizes = ("small", "large") if share <= _SMALL else ("large", "small")
    pool = [label for label in _other_types(sample, labels) if not _alike(types[0], label)]
    types += pick_texts(_rng(sample, "other type", seed), pool, 1)
    # Every label with every size, so that no option stands out.
    gold, *wrong = (f"{size} {label}" for label in types for size in sizes)
    return _question(sample, kind, gold, wrong, seed, alike=True)


def _question(
    sample: Sample,
    kind: Kind,
    gold: str,
    pool: Sequence[str],
    seed: int,
    *,
    text: str | None = None,
    alike: bool = False,
) -> Question | None:
    """The question, or None without a wrong option; `text` is the wording where it is not the usual one.

    Unless `alike`, options that might pass for the gold one are left out.
    """
    wrong = [
        label for label in map(option_text, pool) if label != gold and (alike or not _alike(label, gold))
    ]
    if not (wrong and gold):
        return None
    premise = "" if kind == "object classification" else f"{DEFECT_PREMISE} "
    text = premise + (text or QUESTION_TEXTS[kind][0])
    return choice(_rng(sample, kind, seed), _id(sample, kind), kind, text, gold, wrong)


def _other_types(sample: Sample, labels: Labels) -> list[str]:
    """Types of defect for distractors: of the sample's category; where they are few, of all categories."""
    of_category = _types(labels.defects.get(sample.category, ()))
    if len(of_category) > 3:
        return of_category
    everywhere = [name for defects in labels.defects.values() for name in _types(defects)]
    return list(dict.fromkeys([*of_category, *everywhere]))


def _types(labels: Sequence[str]) -> list[str]:
    """The labels that name a type of defect, as options show them."""
    return [option_text(label) for label in labels if _names_a_type(label)]


def _names_a_type(label: str) -> bool:
    return option_text(label).casefold() not in NO_TYPE


def _alike(a: str, b: str) -> bool:
    """Whether one label's words are among the other's, numbers and plurals aside: both might be right."""
    words_a, words_b = _words(a), _words(b)
    return words_a <= words_b or words_b <= words_a


def _words(label: str) -> frozenset[str]:
    return frozenset(word.rstrip("es") for word in re.findall(r"[^\W\d_]+", label.casefold()))


def _largest(boxes: Sequence[Box]) -> Box | None:
    """The box of the largest area; None where several are as large."""
    areas = [box.area for box in boxes]
    largest = max(areas)
    return boxes[areas.index(largest)] if areas.count(largest) == 1 else None


def _regions(size_wh: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """The 3 x 3 regions of an image as xyxy, in the order of `PLACES`."""
    w, h = size_wh[0] / 3, size_wh[1] / 3
    return [(column * w, row * h, (column + 1) * w, (row + 1) * h) for row in range(3) for column in range(3)]


def _touched(region_xyxy: tuple[float, float, float, float], boxes: Sequence[Box]) -> bool:
    x1, y1, x2, y2 = region_xyxy
    return any(box.x1 < x2 and box.x2 > x1 and box.y1 < y2 and box.y2 > y1 for box in boxes)


def _id(sample: Sample, kind: str) -> str:
    return f"{sample.id}/{kind.replace(' ', '-')}"


def _rng(sample: Sample, purpose: str, seed: int) -> Generator:
    """A generator for this purpose alone, so that a question stays the same whichever others are asked."""
    return np.random.default_rng(
        [seed, zlib.crc32(sample.id.encode("utf-8", "surrogatepass")), zlib.crc32(purpose.encode())]
    )
