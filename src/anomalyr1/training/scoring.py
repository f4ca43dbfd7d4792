"""What answers are worth: shares and means over questions whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyr1 import boxes
from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.types import Answer, Question, Sample

if TYPE_CHECKING:
    pass


def figures(asked: Sequence[tuple[Sample, Question]], read: Sequence[Answer]) -> dict[str, Any]:
    """Shares and means over answers: of the verdict (options as `prompts.inspection_questions` has them), the boxes, other questions.

    An answer that cannot be read is a wrong one. A figure that nothing was asked for is left out.
    """
    images = len({sample.id for sample, question in asked if question.kind == "anomaly detection"})
    means = {name: float(np.mean(values)) for name, values in sorted(hits(asked, read).items())}
    return {"images": images, **{name: float(value) for name, value in summary(means).items()}}


def summary(means: Mapping[str, Any]) -> dict[str, Any]:
    """The means of `hits`, with balanced accuracy, and the mean accuracy of all kinds of other questions; numbers, or arrays of them."""
    kinds = [name for name in means if name.split()[0] in ("defect", "object") and name != "defect found"]
    found = dict(means)
    if {"defect found", "good passed"} <= means.keys():
        found["balanced accuracy"] = (means["defect found"] + means["good passed"]) / 2
    return found | ({"other options": np.mean([means[name] for name in kinds], axis=0)} if kinds else {})


def hits(asked: Sequence[tuple[Sample, Question]], read: Sequence[Answer]) -> dict[str, list[float]]:
    """What each answer counts as, under the name of every figure that it counts for."""
    found: dict[str, list[float]] = {}
    verdicts: dict[str, bool] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(float(value))

    for (sample, question), answer in zip(asked, read, strict=True):
        note("strict", answer.status == "strict")
        note("reasoning silent", answer.conclusion is None and answer.says_defect is None)
        if question.kind == "grounding":
            _note_boxes(note, sample, answer)
            if sample.id in verdicts:
                note(
                    "verdict and boxes agree",
                    answer.boxes is not None and verdicts[sample.id] == bool(answer.boxes),
                )
            continue
        right = answer.choice is not None and answer.choice == question.answer
        if answer.conclusion is not None:
            note("reasoning agrees", answer.conclusion == answer.choice)
        if question.kind != "anomaly detection":
            note(question.kind, right)
            continue
        verdicts[sample.id] = answer.choice == "A"
        note("defect found" if sample.anomalous else "good passed", right)
        if sample.anomalous:
            note("logical found" if sample.defect in LOGICAL else "physical found", right)
    return found


def _note_boxes(note: Callable[[str, float], None], sample: Sample, answer: Answer) -> None:
    if not sample.anomalous:
        note("no box when good", answer.boxes == ())
        return
    overlap = boxes.set_iou(boxes.to_array(answer.boxes or ()), boxes.to_array(sample.boxes or ()))
    note("box mIoU", overlap)
    note("box IoU > 0.3", overlap > 0.3)
    note("box IoU > 0.5", overlap > 0.5)
