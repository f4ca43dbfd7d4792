"""More to learn from where images are few: each image mirrored, turned by quarters, and both.

Whether there is a defect does not hang on the orientation, and boxes turn along; what else is known of the
image may name a place.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from anomalyr1.images.door import open_image
from anomalyr1.types import Box, Question, Sample

_T = Image.Transpose


class Orientation(NamedTuple):
    """An orientation: rows and columns exchanged, then mirrored left to right, then upside down."""

    exchanged: bool
    """Whether rows become columns."""
    mirrored: bool
    """Whether left becomes right, after that."""
    flipped: bool
    """Whether top becomes bottom, after that."""

    def turn_image(self, image: Image.Image) -> Image.Image:
        """The image in this orientation."""
        for applies, step in zip(self, (_T.TRANSPOSE, _T.FLIP_LEFT_RIGHT, _T.FLIP_TOP_BOTTOM), strict=True):
            if applies:
                image = image.transpose(step)
        return image

    def turn_box(self, box: Box, size_wh: tuple[int, int]) -> Box:
        """Where the box lies then, in pixels of an image that was `size_wh` before."""
        (x1, y1, x2, y2), (w, h) = box.xyxy, size_wh
        if self.exchanged:
            x1, y1, x2, y2, w, h = y1, x1, y2, x2, h, w
        if self.mirrored:
            x1, x2 = w - x2, w - x1
        if self.flipped:
            y1, y2 = h - y2, h - y1
        return box.model_copy(update={"x1": x1, "y1": y1, "x2": x2, "y2": y2})

    def turn_boxes(self, boxes: Sequence[Box] | None, size_wh: tuple[int, int]) -> tuple[Box, ...] | None:
        """Where the boxes lie then; None where they are not known."""
        return None if boxes is None else tuple(self.turn_box(box, size_wh) for box in boxes)


ORIENTATIONS = tuple(Orientation(*bits) for bits in itertools.product((False, True), repeat=3))[1:]
"""The seven orientations that an image does not have."""


class _TurnedImage(NamedTuple):
    size_wh: tuple[int, int]
    """Width and height of the image as it was, in pixels."""
    files: list[Path]
    """A file for each of `ORIENTATIONS`."""


def turn_samples(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """The samples in all of `ORIENTATIONS`, with their references; images are written to `folder` as PNG.

    Of their own questions they keep those for verdict and boxes, but none with a completion of the user's.
    Raises `ImageError` for an image that cannot be opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images: dict[Path, _TurnedImage] = {}
    turned_samples = []
    for sample in samples:
        for path in (sample.image, *sample.references):
            if path not in images:
                images[path] = _write_turned(path, folder / f"{len(images):06d}")
        for i in range(len(ORIENTATIONS)):
            turned_samples.append(_turn_sample(sample, i, images))
    return turned_samples


def _turn_sample(sample: Sample, number: int, images: dict[Path, _TurnedImage]) -> Sample:
    """The sample in the orientation of this number, whose images are written already."""
    orientation, size_wh = ORIENTATIONS[number], images[sample.image].size_wh
    questions = [
        question.model_copy(update={"boxes": orientation.turn_boxes(question.boxes, size_wh)})
        for question in sample.questions
        if _survives_turning(question)
    ]
    return sample.model_copy(
        update={
            "id": f"{sample.id}-turned-{number + 1}",
            "image": images[sample.image].files[number],
            "references": tuple(images[path].files[number] for path in sample.references),
            "mask": None,
            "mask_runs": None,
            "boxes": orientation.turn_boxes(sample.boxes, size_wh),
            "questions": tuple(questions),
        }
    )


def _survives_turning(question: Question) -> bool:
    """Whether a question and its answer hold in every orientation."""
    return question.kind in ("anomaly detection", "grounding") and question.completion is None


def _write_turned(path: Path, stem: Path) -> _TurnedImage:
    """Write an image in all of `ORIENTATIONS`."""
    image = open_image(path).rgb
    files = [stem.with_name(f"{stem.name}-{i + 1}.png") for i in range(len(ORIENTATIONS))]
    for orientation, file in zip(ORIENTATIONS, files, strict=True):
        orientation.turn_image(image).save(file)
    return _TurnedImage(image.size, files)
