"""What a policy in training can do on drawn parts it never saw: greedy, read by the package's own parser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyr1 import answers, boxes
from anomalyr1.training.lessons import Teacher, grid_of, inspection
from anomalyr1.training.packing import generate, see
from anomalyr1.training.pool import Example
from anomalyr1.types import Answer, Question, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIMIT = 128
"""Most tokens of one completion."""
LOGICAL = ("missing part", "extra part", "misplaced part", "wrong count")


def examine(
    model: PreTrainedModel, teacher: Teacher, examples: Sequence[Example], extras: int | None = None,
    prompt: str = "knowledge", rows: int = 24,
) -> dict[str, Any]:  # fmt: skip
    """Measured figures over `examples`; the two questions of `inspect`, and `extras` others a sample (None = all).

    `prompt` says what stands before the image: "plain" nothing, "knowledge" what is known about the class, "reference" also a good part.
    """
    asked: list[tuple[Example, Sample, Question]] = []
    for example in examples:
        sample = given(example, knowledge=prompt != "plain", reference=prompt == "reference")
        others = [q for q in sample.questions if q.answer is not None and q.kind != "anomaly detection"]
        asked += [(example, sample, question) for question in (*inspection(sample), *others[:extras])]
    read: list[Answer] = []
    for start in range(0, len(asked), rows):
        read += _answers(model, teacher, asked[start : start + rows])
    return _figures(asked, read)


def given(example: Example, knowledge: bool, reference: bool) -> Sample:
    """The sample with or without what helps to judge it."""
    shown = (example.sample.image.with_suffix(".good.png"),) if reference and example.reference is not None else ()
    return example.sample.model_copy(update={"references": shown, "knowledge": example.sample.knowledge if knowledge else ""})


def pictures(example: Example, sample: Sample) -> list[Any]:
    """The images of a prompt in order, the inspected one last."""
    return [*([example.reference] if sample.references else []), example.image]


def _answers(model: PreTrainedModel, teacher: Teacher, asked: Sequence[tuple[Example, Sample, Question]]) -> list[Answer]:
    import torch

    rows = [teacher.row(sample, [question], grid_of(example.frame.model_wh), None) for example, sample, question in asked]
    with torch.inference_mode():
        seen = see(model, [image for example, sample, _ in asked for image in pictures(example, sample)])
    written = generate(model, rows, seen, (teacher.ids.image, teacher.ids.pad, teacher.ids.end), LIMIT)
    return [
        answers.parse(teacher.decode(ids), question.options, example.frame)
        for ids, (example, _, question) in zip(written, asked, strict=True)
    ]


def _figures(asked: Sequence[tuple[Example, Sample, Question]], read: Sequence[Answer]) -> dict[str, Any]:
    hits: dict[str, list[float]] = {}
    verdicts: dict[str, bool] = {}

    def note(name: str, value: float) -> None:
        hits.setdefault(name, []).append(value)

    for (_, sample, question), answer in zip(asked, read, strict=True):
        note("strict", answer.status == "strict")
        if question.kind == "grounding":
            _note_boxes(note, sample, answer)
            if sample.id in verdicts:
                note("verdict and boxes agree", answer.boxes is not None and verdicts[sample.id] == bool(answer.boxes))
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
    figures = {name: round(float(np.mean(values)), 3) for name, values in sorted(hits.items())}
    kinds = [name for name in figures if name.split()[0] in ("defect", "object") and name != "defect found"]
    figures["balanced accuracy"] = round((figures.get("defect found", 0.0) + figures.get("good passed", 0.0)) / 2, 3)
    if kinds:
        figures["other options"] = round(float(np.mean([figures[name] for name in kinds])), 3)
    return {"images": len(verdicts), **figures}


def _note_boxes(note: Callable[[str, float], None], sample: Sample, answer: Answer) -> None:
    if not sample.anomalous:
        note("no box when good", answer.boxes == ())
        return
    overlap = boxes.set_iou(boxes.to_array(answer.boxes or ()), boxes.to_array(sample.boxes or ()))
    note("box mIoU", overlap)
    note("box IoU > 0.3", overlap > 0.3)
    note("box IoU > 0.5", overlap > 0.5)
