"""What answers are worth: shares and means over questions whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anomalyr1 import boxes
from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.types import Answer, Question, Sample


def figures(questions: Sequence[tuple[Sample, Question]], answers: Sequence[Answer]) -> dict[str, Any]:
    """Shares and means over answers: of the verdict (options as `prompts.inspection_questions` has them),
    boxes, other questions.

    An answer that cannot be read is a wrong one. A figure that nothing was asked for is left out.
    """
    images = {sample.id for sample, question in questions if question.kind == "anomaly detection"}
    means = {name: float(np.mean(values)) for name, values in sorted(hits(questions, answers).items())}
    return {"images": len(images), **{name: float(value) for name, value in summary(means).items()}}


def summary(means: Mapping[str, Any]) -> dict[str, Any]:
    """The means of `hits`, with balanced accuracy, and the mean accuracy of all kinds of other questions;
    numbers, or arrays of them.
    """
    figures = dict(means)
    if {"defect found", "good passed"} <= means.keys():
        figures["balanced accuracy"] = (means["defect found"] + means["good passed"]) / 2
    kinds = [name for name in means if name.split()[0] in ("defect", "object") and name != "defect found"]
    if kinds:
        figures["other options"] = np.mean([means[name] for name in kinds], axis=0)
    return figures


def hits(questions: Sequence[tuple[Sample, Question]], answers: Sequence[Answer]) -> dict[str, list[float]]:
    """What each answer counts as, under the name of every figure that it counts for."""
    counted: dict[str, list[float]] = {}
    says_defect: dict[str, bool] = {}
    for (sample, question), answer in zip(questions, answers, strict=True):
        values: dict[str, float] = {
            "strict": answer.status == "strict",
            "reasoning silent": answer.conclusion is None and answer.says_defect is None,
        }
        if question.kind == "grounding":
            values |= _box_hits(sample, answer)
            if sample.id in says_defect:
                values["verdict and boxes agree"] = answer.boxes is not None and (
                    says_defect[sample.id] == bool(answer.boxes)
                )
        else:
            values |= _option_hits(sample, question, answer)
            if question.kind == "anomaly detection":
                says_defect[sample.id] = answer.choice == "A"
        for name, value in values.items():
            counted.setdefault(name, []).append(float(value))
    return counted


def _option_hits(sample: Sample, question: Question, answer: Answer) -> dict[str, bool]:
    """What the answer to a question with options counts as."""
    right = answer.choice is not None and answer.choice == question.answer
    values = {}
    if answer.conclusion is not None:
        values["reasoning agrees"] = answer.conclusion == answer.choice
    if question.kind != "anomaly detection":
        return values | {question.kind: right}
    values["defect found" if sample.anomalous else "good passed"] = right
    if sample.anomalous:
        values["logical found" if sample.defect in LOGICAL else "physical found"] = right
    return values


def _box_hits(sample: Sample, answer: Answer) -> dict[str, float]:
    """What the boxes of an answer count as."""
    if not sample.anomalous:
        return {"no box when good": answer.boxes == ()}
    overlap = boxes.set_iou(boxes.to_array(answer.boxes or ()), boxes.to_array(sample.boxes or ()))
    return {"box mIoU": overlap, "box IoU > 0.3": overlap > 0.3, "box IoU > 0.5": overlap > 0.5}
