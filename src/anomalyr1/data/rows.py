"""Data sets that have labels, masks or boxes but no questions: the rows of their samples, and how a row becomes a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypedDict

from pydantic import Field

from anomalyr1.data import questions
from anomalyr1.data.paths import PathDoor
from anomalyr1.data.questions import Labels, Truth
from anomalyr1.data.samples import Packer, Samples, require_some, require_unique
from anomalyr1.images import open_image
from anomalyr1.types import Box, InputError, Record, Sample


class Options(Record):
    """What all data sets without questions of their own can be asked for."""

    split: str | None = None
    """Only this part, e.g. "train" or "test"; None = all."""
    boxes: bool = False
    """Open masks for boxes, and ask about them (`Samples.with_boxes`)."""
    seed: int = Field(default=0, ge=0)
    """Chooses distractors and the order of options."""
    links: bool = False
    """Follow symbolic links that lead out of the folder."""


class Row(TypedDict, total=False):
    """One sample as it is kept; paths are relative to the data set's root."""

    id: str
    image: str
    category: str
    anomalous: bool | None
    defects: list[str]
    """Labels, each once."""
    references: list[str]
    mask: str
    size: tuple[int, int]
    boxes: list[tuple[float, float, float, float, str]]
    """xyxy and label, in pixels."""
    shares: list[tuple[float, float, float, float, str]]
    """xyxy and label, as shares of the image's width and height (YOLO)."""
    logical: bool
    description: str


class _Known(NamedTuple):
    boxes: tuple[Box, ...] | None
    size_wh: tuple[int, int] | None


@dataclass(frozen=True)
class Labelled:
    """Builds the samples of one data set."""

    dataset: str
    root: Path
    labels: Labels
    seed: int
    boxes_given: bool
    """Whether the rows hold boxes in pixels."""
    verdict_only: bool = False

    def __call__(self, row: Row, open_files: bool) -> Sample:
        """The sample of a row; with `open_files` its mask is opened for the boxes. Raises `images.ImageError` when that fails."""
        defects = row.get("defects", [])
        known = self._boxes(row, open_files)
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
            boxes=known.boxes,
        )
        truth = Truth(tuple(defects), known.size_wh, row.get("description", ""))
        asked = questions.ask(sample, truth, self.labels, self.seed, located=self.boxes_given or open_files)
        if self.verdict_only:
            asked = tuple(question for question in asked if question.kind == "anomaly detection")
        return sample.model_copy(update={"questions": asked})

    def _boxes(self, row: Row, open_files: bool) -> _Known:
        size_wh = row.get("size")
        if row["anomalous"] is False:
            return _Known((), size_wh and (size_wh[0], size_wh[1]))
        if row.get("boxes") and size_wh:
            return _Known(_records(row["boxes"], (1, 1)), (size_wh[0], size_wh[1]))
        if open_files and row.get("shares"):
            image_wh = open_image(self.root / row["image"]).size_wh
            return _Known(_records(row["shares"], image_wh), image_wh)
        if open_files and "mask" in row:
            from anomalyr1.data import mask_files as truth

            label = row["defects"][0] if len(row.get("defects", ())) == 1 else ""
            found, mask_wh = truth.mask_boxes(self.root / row["mask"], label)
            return _Known(found or None, mask_wh)  # an empty mask of an anomalous sample says nothing
        return _Known(_records(row["boxes"], (1, 1)) if row.get("boxes") else None, None)


def _records(
    rows: Sequence[tuple[float, float, float, float, str]], scale: tuple[int, int]
) -> tuple[Box, ...]:
    sx, sy = scale
    return tuple(
        Box(x1=x1 * sx, y1=y1 * sy, x2=x2 * sx, y2=y2 * sy, label=label) for x1, y1, x2, y2, label in rows
    )


@dataclass
class Collector:
    """Gathers the rows of a data set, its labels and what was found on the way."""

    spec: str
    dataset: str
    root: Path
    source: Path
    """The manifest or the folder that errors name."""
    options: Options
    notes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.door = PathDoor(self.root, self.source, links=self.options.links)
        self._packer = Packer()
        self._ids: list[str] = []
        self._defects: dict[str, dict[str, None]] = {}
        self._descriptions: dict[str, None] = {}
        self._splits: dict[str, None] = {}
        self._boxes_given = self._marked = False

    def add(self, row: Row, split: str = "") -> None:
        """Keep a row, unless another split was asked for. Its paths must have gone through `door`."""
        self._splits.setdefault(split)
        if self.options.split is not None and split != self.options.split:
            return
        self._ids.append(row["id"])
        known = self._defects.setdefault(row.get("category", ""), {})
        if row["anomalous"]:
            known.update(dict.fromkeys(row.get("defects", ())))
            self._boxes_given |= bool(row.get("boxes"))
            self._marked |= "mask" in row or "shares" in row
        if row.get("description"):
            self._descriptions.setdefault(row["description"])
        self.notes["logical anomalies"] += bool(row.get("logical"))
        self._packer.add(row)

    def done(self, expected: str, *, unmarked_verdict_only: bool = False) -> Samples:
        """The samples. `expected` says what the layout looks like, for the error when nothing was found.

        `unmarked_verdict_only` asks for nothing but the verdict where no sample has a mask or boxes.
        """
        wanted = self.options.split
        if wanted is not None and wanted not in self._splits:
            known = ", ".join(sorted(filter(None, self._splits)))
            raise InputError(
                f"{str(self.source)!r} has no split {wanted!r}; {f'it has {known}' if known else 'it has no splits'}"
            )
        self.door.close()
        rows = require_some(self._packer.done(), str(self.source), expected)
        require_unique(self._ids, str(self.source))
        build = Labelled(
            dataset=self.dataset,
            root=self.root,
            labels=Labels(
                tuple(filter(None, self._defects)),
                _plain(self._defects),
                tuple(self._descriptions),
            ),
            seed=self.options.seed,
            boxes_given=self._boxes_given,
            verdict_only=unmarked_verdict_only and not (self._boxes_given or self._marked),
        )
        samples = Samples(self.spec, self.dataset, rows, build, self.notes)
        return samples.with_boxes() if self.options.boxes else samples


def _plain(defects: Mapping[str, dict[str, None]]) -> dict[str, tuple[str, ...]]:
    return {category: tuple(labels) for category, labels in defects.items()}
