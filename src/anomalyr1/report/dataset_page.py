"""A data set as one self-contained HTML page: balance of classes, defects and gold answers, sizes of boxes,
example pictures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from anomalyr1 import boxes as geometry
from anomalyr1.data.mask_files import true_mask
from anomalyr1.files import write_whole
from anomalyr1.report.html import data_uri, render, shares
from anomalyr1.report.overlays import overlay
from anomalyr1.types import InputError, Inspection, Sample

MAX_ROWS = 200
"""A table shows at most so many rows; the largest come first."""
MAX_EXAMPLES = 24
_KEPT = 4
"""Examples kept of each kind while samples go by."""
PICTURE_LONG_SIDE = 360
EDGES = (8, 16, 28, 56, 112, 224, 448)
"""Where the groups of box sizes end: side of the square of the same area, in pixels; 28 is one token of
Qwen2.5-VL."""
SIDES = ("good", "anomalous", "unknown")


@dataclass
class Summary:
    """What is counted while the samples go by once."""

    samples: int = 0
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    """Class -> how many of each of `SIDES`."""
    defects: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(class, defect) -> samples that have it."""
    questions: dict[str, Counter[str]] = field(default_factory=dict)
    """Kind -> gold letter -> questions; for grounding "boxes", "no box"; "unknown" where there is no gold."""
    sizes: Counter[int] = field(default_factory=Counter)
    """Group of `EDGES` -> boxes."""
    with_masks: int = 0
    with_references: int = 0
    with_knowledge: int = 0
    unlocated: int = 0
    """Anomalous samples without boxes."""
    examples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        self.samples += 1
        name = sample.class_name
        side = {None: "unknown", False: "good", True: "anomalous"}[sample.anomalous]
        self.classes.setdefault(name, Counter())[side] += 1
        defect = sample.defect or "not named"
        if sample.anomalous:
            # The labels of boxes tell several defects of one sample apart.
            labels = {box.label for box in sample.boxes or () if box.label} or {defect}
            self.defects.update((name, label) for label in labels)
            self.unlocated += not sample.boxes
        self.with_masks += sample.mask is not None or sample.mask_runs is not None
        self.with_references += bool(sample.references)
        self.with_knowledge += bool(sample.knowledge)
        for box in sample.boxes or ():
            side_length = math.sqrt(box.area)
            self.sizes[sum(side_length > edge for edge in EDGES)] += 1
        for question in sample.questions:
            gold = question.answer or "unknown"
            if not question.options and question.boxes is not None:
                gold = "boxes" if question.boxes else "no box"
            self.questions.setdefault(question.kind, Counter())[gold] += 1
        kept = self.examples.setdefault((name, defect if sample.anomalous else side), [])
        if len(kept) < _KEPT:
            kept.append(sample)

    def sides(self) -> Counter[str]:
        """How many samples are good, anomalous, unknown."""
        return sum(self.classes.values(), Counter())

    def chosen(self, most: int = MAX_EXAMPLES) -> list[Sample]:
        """Examples of as many kinds as there is room for, anomalous ones first, kind by kind."""
        kinds = sorted(self.examples.items(), key=lambda item: (item[0][1] in SIDES, item[0]))
        in_turn = [
            sample for place in range(_KEPT) for _, kept in kinds for sample in kept[place : place + 1]
        ]
        examples_shown = {id(sample) for sample in in_turn[:most]}
        by_kind = [sample for _, kept in kinds for sample in kept]
        return [sample for sample in by_kind if id(sample) in examples_shown]


@dataclass(frozen=True)
class Example:
    """A picture of the page."""

    title: str
    sample: Sample
    picture: str
    """Data URI; empty when the image or its mask cannot be opened."""
    error: str = ""


def summarise(samples: Iterable[Sample]) -> Summary:
    """Count everything in one pass; opens no image."""
    summary = Summary()
    for sample in samples:
        summary.add(sample)
    return summary


def picture(sample: Sample, long_side: int | None = None) -> Image.Image:
    """The image with its boxes and the outline of its mask.

    Raises `ImageError` when image or mask cannot be opened, and `InputError` when they differ in size.
    """
    mask = true_mask(sample)
    masks = None if mask is None else (geometry.encode_mask(mask, "box"),)
    true_inspection = Inspection(
        sample_id=sample.id, verdict="defect" if sample.anomalous else "good", boxes=sample.boxes, masks=masks
    )
    return overlay(true_inspection, sample.image, long_side)


def example(sample: Sample) -> Example:
    """One picture of the page, or why there is none."""
    title = sample.defect or {None: "unknown", False: "good", True: "anomalous"}[sample.anomalous]
    try:
        return Example(title, sample, data_uri(picture(sample, PICTURE_LONG_SIDE)))
    except (InputError, OSError) as error:
        return Example(title, sample, "", str(error))


def page(spec: str, summary: Summary, notes: Mapping[str, int], version: str = "") -> str:
    """The page of a data set."""
    sides = summary.sides()
    classes = sorted(summary.classes.items(), key=lambda item: (-item[1].total(), item[0]))
    defects = sorted(summary.defects.items(), key=lambda item: (-item[1], item[0]))
    groups = [(_group(i), summary.sizes[i]) for i in range(len(EDGES) + 1)]
    return render(
        "dataset_page.html.j2",
        ["page.css", "dataset_page.css"],
        spec=spec,
        version=version,
        summary=summary,
        notes=notes,
        sides=sides,
        bar=shares([(side, sides[side]) for side in SIDES]),
        classes=[(name, counted, _bars(counted, classes)) for name, counted in classes[:MAX_ROWS]],
        class_count=len(classes),
        defects=[(name, defect, n, 100 * n / defects[0][1]) for (name, defect), n in defects[:MAX_ROWS]],
        defect_count=len(defects),
        sizes=[
            (
                label,
                n,
                100 * n / max(summary.sizes.total(), 1),
                100 * n / max(summary.sizes.values(), default=1),
            )
            for label, n in groups
        ],
        kinds=[(kind, golds.total(), _golds(golds)) for kind, golds in sorted(summary.questions.items())],
        examples=[example(sample) for sample in summary.chosen()],
        side_names=SIDES,
    )


def write(
    path: Path, spec: str, samples: Iterable[Sample], notes: Mapping[str, int], version: str = ""
) -> Summary:
    """Write the page and give what was counted. Raises `SetupError` when the disk refuses."""
    summary = summarise(samples)
    write_whole(path, page(spec, summary, notes, version).encode("utf-8"))
    return summary


def _group(index: int) -> str:
    if index == len(EDGES):
        return f"over {EDGES[-1]}"
    return f"up to {EDGES[0]}" if index == 0 else f"{EDGES[index - 1]} to {EDGES[index]}"


def _bars(
    counted: Counter[str], classes: Sequence[tuple[str, Counter[str]]]
) -> list[tuple[str, float, float]]:
    """The bar of one class, as long as its share of the largest."""
    longest = classes[0][1].total()
    return [
        (side, start * counted.total() / longest, width * counted.total() / longest)
        for side, start, width in _in_order(counted)
    ]


def _in_order(counted: Counter[str]) -> list[tuple[str, float, float]]:
    return shares([(side, counted[side]) for side in SIDES])


def _golds(golds: Counter[str]) -> list[tuple[str, int, float]]:
    """(gold, questions, percent), letters in order, then the rest."""
    return [
        (gold, n, 100 * n / golds.total())
        for gold, n in sorted(golds.items(), key=lambda item: (len(item[0]), item[0]))
    ]
