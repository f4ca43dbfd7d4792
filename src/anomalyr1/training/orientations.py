"""More to learn from where images are few: each image in its seven other orientations (mirrored, turned by quarters, and both).

Whether there is a defect does not hang on the orientation, and boxes turn along; what else is known of the
image may name a place.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from anomalyr1.images import open_image
from anomalyr1.types import Box, Question, Sample

_T = Image.Transpose


class Turn(NamedTuple):
    """An orientation: rows and columns exchanged, then mirrored left to right, then upside down."""

    exchanged: bool
    mirrored: bool
    flipped: bool

    def image(self, image: Image.Image) -> Image.Image:
        """The image in this orientation."""
        for applies, step in zip(self, (_T.TRANSPOSE, _T.FLIP_LEFT_RIGHT, _T.FLIP_TOP_BOTTOM), strict=True):
            image = image.transpose(step) if applies else image
        return image

    def box(self, box: Box, size_wh: tuple[int, int]) -> Box:
        """Where the box lies then, in pixels of an image that was `size_wh` before."""
        (x1, y1, x2, y2), (w, h) = box.xyxy, size_wh
        if self.exchanged:
            x1, y1, x2, y2, w, h = y1, x1, y2, x2, h, w
        if self.mirrored:
            x1, x2 = w - x2, w - x1
        if self.flipped:
            y1, y2 = h - y2, h - y1
        return box.model_copy(update={"x1": x1, "y1": y1, "x2": x2, "y2": y2})


TURNS = tuple(Turn(*each) for each in itertools.product((False, True), repeat=3))[1:]
"""The seven orientations that an image does not have."""


def turned(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """The samples in the orientations of `TURNS`, their references with them; images are written to `folder` as PNG.

    Of their own questions they keep those for verdict and boxes, but none with a completion of the user's.
    Raises `ImageError` for an image that cannot be opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[Path, tuple[tuple[int, int], list[Path]]] = {}
    found = []
    for sample in samples:
        kept = [
            one
            for one in sample.questions
            if one.kind in ("anomaly detection", "grounding") and one.completion is None
        ]
        for path in (sample.image, *sample.references):
            if path not in written:
                written[path] = _write(path, folder / f"{len(written):06d}")
        size_wh, images = written[sample.image]
        for number, turn in enumerate(TURNS):
            found.append(
                sample.model_copy(
                    update={
                        "id": f"{sample.id}-turned-{number + 1}",
                        "image": images[number],
                        "references": tuple(written[path][1][number] for path in sample.references),
                        "mask": None,
                        "boxes": None
                        if sample.boxes is None
                        else tuple(turn.box(box, size_wh) for box in sample.boxes),
                        "questions": tuple(_turned(one, turn, size_wh) for one in kept),
                    }
                )
            )
    return found


def _turned(question: Question, turn: Turn, size_wh: tuple[int, int]) -> Question:
    boxes = question.boxes and tuple(turn.box(box, size_wh) for box in question.boxes)
    return question.model_copy(update={"boxes": boxes})


def _write(path: Path, stem: Path) -> tuple[tuple[int, int], list[Path]]:
    """Write an image in all of `TURNS`; gives its own width and height, and the files."""
    image = open_image(path).rgb
    files = [stem.with_name(f"{stem.name}-{number + 1}.png") for number in range(len(TURNS))]
    for turn, file in zip(TURNS, files, strict=True):
        turn.image(image).save(file)
    return image.size, files
