"""What a policy in training can do on drawn parts it never saw: greedy, read strictly by the package's own parser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator

from anomalyr1 import answers
from anomalyr1.nano.lessons import Teacher, grid_of, shuffled
from anomalyr1.nano.packing import generate, see
from anomalyr1.nano.pool import Example
from anomalyr1.prompts import gold_inspection_questions
from anomalyr1.training.scoring import figures
from anomalyr1.types import LETTERS, Answer, Question, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Asked = tuple[Example, Sample, Question]
"""A question about an example; the sample is what the prompt shows of it."""
BATCH = 24
LIMIT = 128
"""Most tokens of one completion."""


def examine(
    model: PreTrainedModel, teacher: Teacher, examples: Sequence[Example], extras: int | None = None,
    prompt: str = "knowledge", boxes: bool = True, seed: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measured figures over `examples`: the verdict, the boxes unless told otherwise, and `extras` other questions a sample (None = all).

    `prompt` says what stands before the image: "plain" nothing, "knowledge" what is known about the class,
    "reference" also a good part. Greedy, or sampled at temperature 1 when `seed` is given. What only a
    lenient reading understands counts as wrong.
    """
    asked: list[Asked] = []
    for example in examples:
        sample = given(example, knowledge=prompt != "plain", reference=prompt == "reference")
        others = [q for q in sample.questions if q.answer is not None and q.kind != "anomaly detection"]
        asked += [
            (example, sample, question)
            for question in (*gold_inspection_questions(sample)[: 1 + boxes], *others[:extras])
        ]
    found = figures(
        [(sample, question) for _, sample, question in asked],
        [_strictly(one) for one in ask(model, teacher, asked, seed)],
    )
    return {name: round(value, 3) for name, value in found.items()}


def controls(
    model: PreTrainedModel,
    teacher: Teacher,
    seen: Sequence[Example],
    unseen: Sequence[Example],
    seed: int = 0,
) -> dict[str, float]:
    """What must fall, stay, or rise if the policy looks and reads.

    The verdict on another image in place of the right one (chance is 0.5), the share of answers that follow
    their text when options are shuffled (a question about each image, the kinds take turns), and "what is
    this" about unseen objects without and with knowledge that names them. The first is absent where no images
    of equal size can be exchanged among good and defective ones.
    """
    rng = np.random.default_rng(seed)
    swapped = examine(model, teacher, _exchanged(seen, rng), extras=0, boxes=False)
    asked: list[Asked] = []
    for number, example in enumerate(seen):
        sample = given(example, knowledge=True, reference=False)
        others = [q for q in sample.questions if q.answer is not None and q.kind != "anomaly detection"]
        question = others[number % len(others)]
        asked += [(example, sample, question), (example, sample, shuffled(question, rng))]
    read = ask(model, teacher, asked)
    texts = [
        question.options[LETTERS.index(answer.choice)] if answer.choice else None
        for (_, _, question), answer in zip(asked, read, strict=True)
    ]
    same = [one is not None and one == other for one, other in zip(texts[::2], texts[1::2], strict=True)]
    swap = (
        {"balanced accuracy with another image": swapped["balanced accuracy"]}
        if "balanced accuracy" in swapped
        else {}
    )
    figures = {**swap, "same text when shuffled": float(np.mean(same))}
    for name, known in (("without", False), ("with", True)):
        about = [
            (e, given(e, known, False), q)
            for e in unseen
            for q in e.sample.questions
            if q.kind == "object classification"
        ]
        right = [
            answer.choice == q.answer
            for (_, _, q), answer in zip(about, ask(model, teacher, about), strict=True)
        ]
        figures[f"unseen object named {name} knowledge"] = float(np.mean(right))
    return {name: round(value, 3) for name, value in figures.items()}


def at_length(
    model: PreTrainedModel,
    teacher: Teacher,
    seen: Sequence[Example],
    unseen: Sequence[Example],
    extras: int | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """The figures of a policy's card, by column, and those of the controls."""
    with_reference = [example for example in unseen if example.reference is not None]
    results = {
        "seen": examine(model, teacher, seen, extras),
        "development": examine(model, teacher, unseen, extras),
        "development, with reference": examine(model, teacher, with_reference, extras, "reference"),
    }
    return results, controls(model, teacher, seen, unseen)


def _exchanged(examples: Sequence[Example], rng: Generator) -> list[Example]:
    """Each example with the image of another one of the same size; those whose size is alone are left out."""
    found = []
    for shape in sorted({example.image.shape for example in examples}):
        some = [example for example in examples if example.image.shape == shape]
        some = [some[int(i)] for i in rng.permutation(len(some))]
        if len(some) > 1:
            found += [
                replace(one, image=other.image) for one, other in zip(some, [*some[1:], some[0]], strict=True)
            ]
    return found


def given(example: Example, knowledge: bool, reference: bool) -> Sample:
    """The sample with or without what helps to judge it."""
    shown = (
        (example.sample.image.with_suffix(".good.png"),)
        if reference and example.reference is not None
        else ()
    )
    return example.sample.model_copy(
        update={"references": shown, "knowledge": example.sample.knowledge if knowledge else ""}
    )


def pictures(example: Example, sample: Sample) -> list[Any]:
    """The images of a prompt in order, the inspected one last."""
    return [*([example.reference] if sample.references else []), example.image]


def ask(
    model: PreTrainedModel, teacher: Teacher, asked: Sequence[Asked], seed: int | None = None
) -> list[Answer]:
    """The answers, in order; questions with prompts of similar length are asked together."""
    import torch

    draw = None if seed is None else torch.Generator().manual_seed(seed)

    rows = [
        teacher.row(sample, [question], grid_of(example.frame.model_wh), None)
        for example, sample, question in asked
    ]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prefix) + len(rows[i].branches[0].prompt))
    read: dict[int, Answer] = {}
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        with torch.inference_mode():
            seen = see(model, [image for i in some for image in pictures(asked[i][0], asked[i][1])])
        written = generate(
            model,
            [rows[i] for i in some],
            seen,
            (teacher.ids.image, teacher.ids.pad, teacher.ids.end),
            LIMIT,
            draw,
        )
        for i, ids in zip(some, written, strict=True):
            read[i] = answers.parse(teacher.decode(ids), asked[i][2].options, asked[i][0].frame)
    return [read[i] for i in range(len(asked))]


def _strictly(answer: Answer) -> Answer:
    """The answer, which says nothing where it is not well-formed."""
    return answer if answer.status == "strict" else answer.model_copy(update={"choice": None, "boxes": None})
