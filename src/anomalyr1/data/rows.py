"""Data sets that have labels, masks or boxes but no questions: their rows, and how a row becomes a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypedDict

from pydantic import Field

from anomalyr1.data import mask_files, questions
from anomalyr1.data.paths import PathDoor
from anomalyr1.data.questions import Labels, Truth
from anomalyr1.data.samples import Samples, require_some, require_unique
from anomalyr1.data.segmentations import Segmentation, fill
from anomalyr1.images.door import open_image
from anomalyr1.types import Box, InputError, Record, Sample

UNTELLING = frozenset(
    ("", "bad", "capture", "captures", "data", "dataset", "defect", "download", "downloads", "file", "files",
     "folder", "good", "image", "images", "img", "imgs", "input", "new", "ng", "object", "objects", "ok",
     "part", "parts", "photo", "photos", "pic", "pics", "picture", "pictures", "sample", "samples", "set",
     "test", "tmp", "train", "val", "valid", "validation")
)  # fmt: skip
"""Names of folders, without numbers and in lower case, that do not say what is in the pictures."""

LabelledBox = tuple[float, float, float, float, str]
"""x1, y1, x2, y2 and the label."""


class LoadOptions(Record):
    """What all data sets without questions of their own can be asked for."""

    split: str | None = None
    """Only this part, e.g. "train" or "test"; None = all."""
    boxes: bool = False
    """Open masks for boxes, and ask about them (`Samples.with_boxes`)."""
    seed: int = Field(default=0, ge=0)
    """Chooses distractors and the order of options."""
    links: bool = False
    """Follow symbolic links that lead out of the folder."""
    name: str = ""
    """What the part is called, where the data set does not say; empty = as its folder, or "part"."""


class LabelledRow(TypedDict, total=False):
    """One sample as it is kept; paths are relative to the data set's root."""

    id: str
    image: str
    category: str
    anomalous: bool | None
    defects: list[str]
    """Labels of its defects, each once."""
    references: list[str]
    mask: str
    size: tuple[int, int]
    """Width and height of the image in pixels."""
    boxes: list[LabelledBox]
    """Boxes in pixels."""
    shares: list[LabelledBox]
    """Boxes as shares of the image's width and height (YOLO)."""
    segmentations: list[Segmentation]
    """Outlines of all its defects, in pixels (COCO)."""
    logical: bool
    description: str


class _TrueBoxes(NamedTuple):
    boxes: tuple[Box, ...] | None
    """In pixels; None = unknown."""
    size_wh: tuple[int, int] | None
    """Of the frame of the boxes; None = unknown."""


@dataclass(frozen=True)
class SampleBuilder:
    """Builds the samples of one data set from its rows."""

    dataset: str
    root: Path
    labels: Labels
    seed: int
    boxes_in_rows: bool
    """Whether the rows hold boxes in pixels."""
    verdict_only: bool = False
    """Whether nothing but the verdict is asked."""

    def __call__(self, row: LabelledRow, open_files: bool) -> Sample:
        """The sample of a row; with `open_files` its mask is opened for the boxes.

        Raises `images.ImageError` when that fails.
        """
        defects = row.get("defects", [])
        true = self._true_boxes(row, open_files)
        sample = Sample(
            id=row["id"],
            image=self.root / row["image"],
            references=tuple(self.root / path for path in row.get("references", ())),
            dataset=self.dataset,
            category=row.get("category", ""),
            defect=", ".join(defects) or None,
            anomalous=row["anomalous"],
            logical=row.get("logical", False),
            mask=self.root / row["mask"] if "mask" in row else None,
            boxes=true.boxes,
        )
        if open_files and row.get("segmentations"):
            sample = sample.model_copy(update={"mask_runs": fill(row["segmentations"], row["size"])})
        truth = Truth(tuple(defects), true.size_wh, row.get("description", ""))
        located = self.boxes_in_rows or open_files
        sample_questions = questions.ask(sample, truth, self.labels, self.seed, located=located)
        if self.verdict_only:
            sample_questions = tuple(
                question for question in sample_questions if question.kind == "anomaly detection"
            )
        return sample.model_copy(update={"questions": sample_questions})

    def _true_boxes(self, row: LabelledRow, open_files: bool) -> _TrueBoxes:
        size_wh = row.get("size")
        if row["anomalous"] is False:
            return _TrueBoxes((), size_wh)
        if row.get("boxes") and size_wh:
            return _TrueBoxes(_box_records(row["boxes"], (1, 1)), size_wh)
        if open_files and row.get("shares"):
            image_wh = open_image(self.root / row["image"]).size_wh
            return _TrueBoxes(_box_records(row["shares"], image_wh), image_wh)
        if open_files and "mask" in row:
            label = row["defects"][0] if len(row.get("defects", ())) == 1 else ""
            boxes, mask_wh = mask_files.mask_boxes(self.root / row["mask"], label)
            return _TrueBoxes(boxes or None, mask_wh)  # an empty mask of an anomalous sample says nothing
        return _TrueBoxes(_box_records(row["boxes"], (1, 1)) if row.get("boxes") else None, None)


def _box_records(boxes: Sequence[LabelledBox], scale_wh: tuple[int, int]) -> tuple[Box, ...]:
    w, h = scale_wh
    return tuple(
        Box(x1=x1 * w, y1=y1 * h, x2=x2 * w, y2=y2 * h, label=label) for x1, y1, x2, y2, label in boxes
    )


def part_name(folder: str) -> str:
    """What the part in a folder is called: as the folder, but "part" where its name does not say.

    >>> part_name("housing"), part_name("parts_2024-05")
    ('housing', 'part')
    """
    letters = "".join(character for character in folder.casefold() if character.isalpha())
    return "part" if letters in UNTELLING else folder


@dataclass
class Collector:
    """Gathers the rows of a data set, its labels and what is noteworthy about it."""

    spec: str
    dataset: str
    root: Path
    source: Path
    """The manifest or the folder that errors name."""
    options: LoadOptions
    notes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.door = PathDoor(self.root, self.source, links=self.options.links)
        self._rows: list[LabelledRow] = []
        # Dicts without values: each label once, in the order of the rows.
        self._defects: dict[str, dict[str, None]] = {}
        self._descriptions: dict[str, None] = {}
        self._splits: dict[str, None] = {}

    @property
    def category(self) -> str:
        """What the part is called where the data set names no categories."""
        return self.options.name or part_name(self.root.resolve().name)

    def add(self, row: LabelledRow, split: str = "") -> None:
        """Keep a row, unless the options ask for another split. Its paths must have gone through `door`."""
        self._splits.setdefault(split)
        if self.options.split is not None and split != self.options.split:
            return
        defects = self._defects.setdefault(row.get("category", ""), {})
        if row["anomalous"]:
            defects.update(dict.fromkeys(row.get("defects", ())))
        if row.get("description"):
            self._descriptions.setdefault(row["description"])
        self.notes["logical anomalies"] += bool(row.get("logical"))
        self._rows.append(row)

    def samples(self, expected: str, *, unmarked_verdict_only: bool = False) -> Samples:
        """The samples of the rows.

        `unmarked_verdict_only` asks for the verdict alone where no row has a mask or boxes. Raises
        `InputError` for a split that is not there, refused paths, no rows (`expected` says what the layout
        looks like) and ids that come twice.
        """
        split = self.options.split
        if split is not None and split not in self._splits:
            known_splits = ", ".join(sorted(filter(None, self._splits)))
            raise InputError(
                f"{str(self.source)!r} has no split {split!r}; "
                + (f"it has {known_splits}" if known_splits else "it has no splits")
            )
        self.door.close()
        require_some(self._rows, str(self.source), expected)
        require_unique((row["id"] for row in self._rows), str(self.source))
        anomalous = [row for row in self._rows if row["anomalous"]]
        boxes_in_rows = any(row.get("boxes") for row in anomalous)
        marked = boxes_in_rows or any("mask" in row or "shares" in row for row in anomalous)
        build = SampleBuilder(
            dataset=self.dataset,
            root=self.root,
            labels=Labels(
                tuple(filter(None, self._defects)),
                {category: tuple(defects) for category, defects in self._defects.items()},
                tuple(self._descriptions),
            ),
            seed=self.options.seed,
            boxes_in_rows=boxes_in_rows,
            verdict_only=unmarked_verdict_only and not marked,
        )
        samples = Samples(self.spec, self.dataset, self._rows, build, self.notes)
        return samples.with_boxes() if self.options.boxes else samples
