"""What a policy answers to all questions of the test sets: `python -m anomalyr1.reproduction.judge STUDY MODEL FILE`, a line an answer."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from anomalyr1 import boxes
from anomalyr1.data import sources
from anomalyr1.files import write_whole
from anomalyr1.rewards import consistent, right
from anomalyr1.training.held_out import HeldOut, HeldOutAnswer
from anomalyr1.training.recipes import Recipe, load_recipe
from anomalyr1.training.resolved import prompt_style
from anomalyr1.types import InputError, Record, Sample

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
    found: list[Judged] = []
    for name, path in tests.items():
        asked = HeldOut(read_samples(path), policy, style, text, all_questions=True)
        found += [_judged(name, one, sampled=False) for one in asked.ask(policy.model, LIMIT)]
        if sampled:
            found += [
                _judged(name, one, sampled=True) for one in asked.ask(policy.model, LIMIT, temperature=1.0)
            ]
            sampled = False
    write_records(file, found)


def read_judged(file: Path) -> list[Judged]:
    """The answers of a file that `judge` wrote."""
    return [Judged.from_json(line) for line in file.read_text(encoding="ascii").splitlines()]


def choose_samples(spec: str, folder: Path, limit: int) -> list[Sample]:
    """At most `limit` samples of known truth, as many good as anomalous ones where there are enough, drawn by the digests of their ids."""
    found = sources.load_samples([spec], folder, "test")
    known = [_at_home(sample) for sample in found if sample.anomalous is not None]
    ranked = sorted(known, key=lambda one: hashlib.sha256(one.id.encode()).digest())
    good, bad = ([one for one in ranked if one.anomalous is side] for side in (False, True))
    fewest = min(len(good), len(bad), limit // 2)
    if not fewest:
        raise InputError(
            f"{spec!r} has {len(good)} good and {len(bad)} anomalous samples; a test set needs both"
        )
    if len(known) <= limit:
        return known
    return [*good[: max(fewest, limit - len(bad))], *bad[: max(fewest, limit - len(good))]]


def write_records(file: Path, records: Sequence[Record]) -> None:
    """Keep records as a file, a line each; whole or not at all."""
    write_whole(file, "".join(f"{one.to_json()}\n" for one in records).encode("ascii"))


def read_samples(file: Path) -> list[Sample]:
    """The samples of a file that `write_records` wrote."""
    return [Sample.from_json(line) for line in file.read_text(encoding="ascii").splitlines()]


def _at_home(sample: Sample) -> Sample:
    """With whole paths, so that the experiment goes on from any folder."""
    here = Path.cwd()
    references = tuple(here / path for path in sample.references)
    return sample.model_copy(
        update={
            "image": here / sample.image,
            "references": references,
            "mask": sample.mask and here / sample.mask,
        }
    )


def _judged(test: str, told: HeldOutAnswer, sampled: bool) -> Judged:
    sample, question, answer = told.sample, told.question, told.answer
    iou = None
    if question.kind == "grounding" and sample.anomalous:
        iou = boxes.set_iou(boxes.to_array(answer.boxes or ()), boxes.to_array(sample.boxes or ()))
    return Judged(
        test=test, sample_id=sample.id, kind=question.kind, question_id=question.id, anomalous=bool(sample.anomalous),
        sampled=sampled, score=told.score,
        right=bool(right(answer, question)), iou=iou, agrees=consistent(answer, question), strict=answer.status == "strict",
        text=answer.raw,
    )  # fmt: skip


def main() -> None:
    """Judge one policy of a study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    from anomalyr1.reproduction.study import Study

    study = Study.read(given.study)
    tests = {name: study.samples_file(given.study, name) for name in study.tests}
    judge(given.model, tests, given.file, load_recipe(study.scale.base, study.scale.changes), sampled=True)


if __name__ == "__main__":
    main()
