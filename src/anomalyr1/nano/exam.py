"""What a policy in training can do on parts it never saw: read strictly, with the package's own parser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image

from anomalyr1 import answers, prompts
from anomalyr1.engines.engine import Engine, Sampling
from anomalyr1.images.door import LoadedImage
from anomalyr1.nano.lessons import shuffle_options
from anomalyr1.nano.pool import ImageExample
from anomalyr1.training.scoring import figures
from anomalyr1.types import Answer, Question, Sample

Examples = Sequence[ImageExample]
MAX_NEW_TOKENS = 128
"""Most tokens of one completion."""


class ExamQuestion(NamedTuple):
    """A question about an example."""

    example: ImageExample
    sample: Sample
    """What the prompt shows of the example."""
    question: Question


def examine(
    engine: Engine,
    examples: Examples,
    extras: int | None = None,
    prompt: str = "knowledge",
    boxes: bool = True,
    seed: int | None = None,
) -> dict[str, Any]:
    """Figures over `examples`: of the verdict, the boxes, and `extras` of a sample's questions (None = all).

    `prompt` says what stands before the image: "plain" nothing, "knowledge" what is known about the class,
    "reference" also a good part. With `boxes` off, boxes are not asked for. Greedy, or sampled at temperature
    1 from `seed`. What only a lenient reading understands counts as wrong.
    """

    def choose(sample: Sample) -> list[Question]:
        inspection = prompts.gold_inspection_questions(sample)[: 1 + boxes]
        return [*inspection, *_option_questions(sample)[:extras]]

    exam = _write_exam(examples, prompt != "plain", prompt == "reference", choose)
    replies = [_strict_only(answer) for answer in ask(engine, exam, seed)]
    measured = figures([(sample, question) for _, sample, question in exam], replies)
    return {name: round(value, 3) for name, value in measured.items()}


def measure_controls(engine: Engine, familiar: Examples, unseen: Examples, seed: int = 0) -> dict[str, float]:
    """What must fall, stay, or rise if the policy looks and reads.

    The verdict on another image in place of the right one (chance is 0.5), the share of answers that follow
    their text when options are shuffled (a question about each image, the kinds take turns), and "what is
    this" about unseen objects without and with knowledge that names them. The verdict is absent where no
    images of equal size can be exchanged among good and defective ones.
    """
    rng = np.random.default_rng(seed)
    exchanged = examine(engine, _exchange_images(familiar, rng), extras=0, boxes=False)
    controls: dict[str, float] = {}
    if "balanced accuracy" in exchanged:
        controls["balanced accuracy with another image"] = exchanged["balanced accuracy"]
    controls["same text when shuffled"] = _share_of_same_texts(engine, familiar, rng)
    controls["unseen object named without knowledge"] = _share_named(engine, unseen, knowledge=False)
    controls["unseen object named with knowledge"] = _share_named(engine, unseen, knowledge=True)
    return {name: round(value, 3) for name, value in controls.items()}


def examine_at_length(
    engine: Engine,
    familiar: Examples,
    unseen: Examples,
    extras: int | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """The figures of a policy's card, by column, and those of the controls."""
    with_reference = [example for example in unseen if example.reference is not None]
    results = {
        "seen": examine(engine, familiar, extras),
        "development": examine(engine, unseen, extras),
        "development, with reference": examine(engine, with_reference, extras, "reference"),
    }
    return results, measure_controls(engine, familiar, unseen)


def ask(engine: Engine, exam: Sequence[ExamQuestion], seed: int | None = None) -> list[Answer]:
    """The answers, in order: greedy, or sampled at temperature 1 from `seed`.

    Images are told apart by their samples' paths, so an exam shows one image a path.
    """
    images = {}
    for example, sample, _ in exam:
        paths = (*sample.references, sample.image)
        for path, pixels in zip(paths, example.images_in_prompt(bool(sample.references)), strict=True):
            images[path] = LoadedImage(path, Image.fromarray(pixels), "PNG", "RGB", 1, None)
    temperature = 0 if seed is None else 1
    sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=temperature, seed=seed or 0)
    chats = [prompts.build(sample, question) for _, sample, question in exam]
    completions = engine.complete(chats, images, sampling)
    return [
        answers.parse(completion.text, question.options, example.frame)
        for completion, (example, _, question) in zip(completions, exam, strict=True)
    ]


def _write_exam(
    examples: Examples, knowledge: bool, reference: bool, choose: Callable[[Sample], list[Question]]
) -> list[ExamQuestion]:
    """The questions that `choose` picks about each example; prompts show knowledge and reference or not."""
    exam = []
    for example in examples:
        sample = example.sample_in_prompt(knowledge, reference)
        exam += [ExamQuestion(example, sample, question) for question in choose(sample)]
    return exam


def _strict_only(answer: Answer) -> Answer:
    """The answer, which says nothing where it is not well-formed."""
    return answer if answer.status == "strict" else answer.model_copy(update={"choice": None, "boxes": None})


def _option_questions(sample: Sample) -> list[Question]:
    """The sample's questions with options, all but the verdict."""
    return [q for q in sample.questions if q.answer is not None and q.kind != "anomaly detection"]


def _share_of_same_texts(engine: Engine, examples: Examples, rng: Generator) -> float:
    """How often the answer has the same text when the options of a question stand in another order."""
    exam: list[ExamQuestion] = []
    for number, example in enumerate(examples):
        sample = example.sample_in_prompt(knowledge=True, reference=False)
        questions = _option_questions(sample)
        question = questions[number % len(questions)]
        exam.append(ExamQuestion(example, sample, question))
        exam.append(ExamQuestion(example, sample, shuffle_options(question, rng)))
    replies = ask(engine, exam)
    texts = [about.question.option_text(reply.choice) for about, reply in zip(exam, replies, strict=True)]
    same = [text != "" and text == again for text, again in zip(texts[::2], texts[1::2], strict=True)]
    return float(np.mean(same))


def _share_named(engine: Engine, examples: Examples, knowledge: bool) -> float:
    """How often "what is this" is answered right."""

    def choose(sample: Sample) -> list[Question]:
        return [q for q in sample.questions if q.kind == "object classification"]

    exam = _write_exam(examples, knowledge, False, choose)
    replies = ask(engine, exam)
    return float(np.mean([r.choice == about.question.answer for about, r in zip(exam, replies, strict=True)]))


def _exchange_images(examples: Examples, rng: Generator) -> list[ImageExample]:
    """Each example with the image of another of the same size; those whose size is alone are left out."""
    exchanged = []
    for shape in sorted({example.image.shape for example in examples}):
        alike = [example for example in examples if example.image.shape == shape]
        alike = [alike[int(i)] for i in rng.permutation(len(alike))]
        if len(alike) > 1:
            donors = [*alike[1:], alike[0]]
            exchanged += [replace(e, image=donor.image) for e, donor in zip(alike, donors, strict=True)]
    return exchanged
