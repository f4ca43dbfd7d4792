"""What a policy answers to all questions of the test sets: `python -m anomalyr1.reproduction.judge STUDY
MODEL FILE`, a line an answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from anomalyr1 import boxes
from anomalyr1.reproduction.samples import read_samples, write_records
from anomalyr1.rewards import consistent, right
from anomalyr1.training.held_out import HeldOut, HeldOutAnswer
from anomalyr1.training.recipes import Recipe, load_recipe
from anomalyr1.training.resolved import prompt_style
from anomalyr1.types import Record

LIMIT = 256
"""Most tokens of an answer."""


class Judged(Record):
    """One answer to one question, and what it counts as."""

    test: str
    """The name of its test set."""
    sample_id: str
    kind: str
    question_id: str
    anomalous: bool
    sampled: bool = False
    """Whether it was drawn at temperature 1, as in training, and not the likeliest."""
    score: float | None = None
    """Probability of a defect."""
    right: bool
    iou: float | None = None
    """Set IoU of the boxes of a defective part."""
    agrees: bool | None = None
    """Whether the reasoning concludes what the answer says; None = it concludes nothing."""
    strict: bool
    text: str


def judge(model: str, tests: dict[str, Path], file: Path, recipe: Recipe, sampled: bool = False) -> None:
    """Ask `model` about all samples of each test set (a file of `write_records`), and write `file` whole.

    Prompt and image size are those of `recipe`, by which it was, or is to be, trained. With `sampled` on, the
    first set is asked once more at temperature 1: a policy may contradict itself only where it is not greedy.
    """
    from anomalyr1.policy.load import load_policy

    policy = load_policy(model, max_pixels=recipe.max_pixels)
    style, text = prompt_style(recipe)
    policy.model.eval()
    judged_answers: list[Judged] = []
    for name, path in tests.items():
        questions = HeldOut(read_samples(path), policy, style, text, all_questions=True)
        judged_answers += [
            _judged(name, scored_answer, sampled=False)
            for scored_answer in questions.ask(policy.model, LIMIT)
        ]
        if sampled:
            judged_answers += [
                _judged(name, scored_answer, sampled=True)
                for scored_answer in questions.ask(policy.model, LIMIT, temperature=1.0)
            ]
            sampled = False
    write_records(file, judged_answers)


def read_judged(file: Path) -> list[Judged]:
    """The answers of a file that `judge` wrote."""
    return [Judged.from_json(line) for line in file.read_text(encoding="ascii").splitlines()]


def _judged(test: str, scored_answer: HeldOutAnswer, sampled: bool) -> Judged:
    sample, question, answer = scored_answer.sample, scored_answer.question, scored_answer.answer
    iou = None
    if question.kind == "grounding" and sample.anomalous:
        iou = boxes.set_iou(boxes.to_array(answer.boxes or ()), boxes.to_array(sample.boxes or ()))
    return Judged(
        test=test,
        sample_id=sample.id,
        kind=question.kind,
        question_id=question.id,
        anomalous=bool(sample.anomalous),
        sampled=sampled,
        score=scored_answer.score,
        right=bool(right(answer, question)),
        iou=iou,
        agrees=consistent(answer, question),
        strict=answer.status == "strict",
        text=answer.raw,
    )


def main() -> None:
    """Judge one policy of a study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    from anomalyr1.reproduction.study import Study

    study = Study.read(arguments.study)
    tests = {name: study.samples_file(arguments.study, name) for name in study.tests}
    judge(
        arguments.model,
        tests,
        arguments.file,
        load_recipe(study.scale.base, study.scale.changes),
        sampled=True,
    )


if __name__ == "__main__":
    main()
