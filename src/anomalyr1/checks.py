"""What `data check` asserts: files, masks, boxes, questions, and that every gold answer, written and read back, earns full reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anomalyr1 import answers, boxes, rewards
from anomalyr1.images import FAMILIES, Frame, ImageError, fit, open_image
from anomalyr1.types import Box, InputError, Question, Sample

LEAST_IOU = 0.5
"""Below this set IoU a gold box, rounded to what a model can write, no longer counts as right."""


class Problem(NamedTuple):
    """One thing wrong with a sample, and what to do about it."""

    sample_id: str
    what: str
    fix: str


@dataclass(frozen=True)
class _Gold:
    """A gold answer as a model would write it."""

    question: Question
    reasoning: str
    answer: str | Sequence[Box]


def check(samples: Iterable[Sample], family: str = "qwen2_5_vl", max_pixels: int | None = None) -> list[Problem]:
    """Every problem of the samples, in their order; empty when they may be trained on and evaluated.

    Each image and mask is opened once. `family` and `max_pixels` say in which frame gold boxes are written (a pixel cap can make a small
    box too coarse to be right). Raises `InputError` for an unknown family.
    """
    if family not in FAMILIES:
        raise InputError(f"no model family is called {family!r}; known: {', '.join(FAMILIES)}")
    samples = list(samples)
    counted = Counter(sample.id for sample in samples)
    problems = [
        Problem(name, f"{times} samples have this id", "give each sample its own id: inspections are stored by it")
        for name, times in counted.items()
        if times > 1
    ]
    for sample in samples:
        problems += _check_sample(sample, family, max_pixels)
    return problems


def _check_sample(sample: Sample, family: str, max_pixels: int | None) -> Iterator[Problem]:
    for path in (sample.image, *sample.references, *([sample.mask] if sample.mask else [])):
        if not path.is_file():
            yield Problem(sample.id, f"{path} is missing", "restore the file or correct its path")
    size_wh = None
    if sample.image.is_file():
        try:
            size_wh = open_image(sample.image).size_wh
        except ImageError as error:
            yield Problem(sample.id, str(error), "replace the image")
    if size_wh is not None:
        yield from _check_mask(sample, size_wh)
        yield from _check_boxes(sample.id, "the sample", sample.boxes, size_wh)
    frame = None
    if size_wh is not None:
        try:
            frame = Frame(size_wh, fit(size_wh, FAMILIES[family], max_pixels), FAMILIES[family].units)
        except ImageError as error:
            yield Problem(sample.id, f"{sample.image}: {error}", "cut the image, or leave it out")
    yield from _check_question_ids(sample)
    for question in sample.questions:
        yield from _check_question(sample.id, question, size_wh, frame)


def _check_mask(sample: Sample, size_wh: tuple[int, int]) -> Iterator[Problem]:
    if sample.mask is None or not sample.mask.is_file():
        return
    try:
        mask = open_image(sample.mask)
    except ImageError as error:
        yield Problem(sample.id, f"its mask: {error}", "replace the mask")
        return
    if mask.size_wh != size_wh:
        what = f"{sample.mask} is {_size(mask.size_wh)}, its image {_size(size_wh)}"
        yield Problem(sample.id, what, "export the mask at the image's size")
    marked = mask.rgb.getbbox() is not None
    if not marked and sample.anomalous:
        yield Problem(sample.id, f"{sample.mask} marks nothing, but the sample is anomalous", "mark the defect, or drop the mask")
    if marked and sample.anomalous is False:
        yield Problem(sample.id, f"{sample.mask} marks a defect, but the sample is good", "correct the label, or drop the mask")


def _check_boxes(sample_id: str, whose: str, gold: Sequence[Box] | None, size_wh: tuple[int, int]) -> Iterator[Problem]:
    w, h = size_wh
    for box in gold or ():
        if box.x1 < 0 or box.y1 < 0 or box.x2 > w or box.y2 > h:
            what = f"{whose} has a box {box.xyxy} outside its image of {_size(size_wh)}"
            yield Problem(sample_id, what, "clip the box, or check its frame")


def _check_question_ids(sample: Sample) -> Iterator[Problem]:
    for name, times in Counter(question.id for question in sample.questions).items():
        if times > 1:
            yield Problem(sample.id, f"{times} questions have the id {name!r}", "give each question its own id")


def _check_question(sample_id: str, question: Question, size_wh: tuple[int, int] | None, frame: Frame | None) -> Iterator[Problem]:
    name = f"question {question.id!r}"
    texts = Counter(" ".join(option.casefold().split()).rstrip(".") for option in question.options)
    if len(question.options) == 1:
        yield Problem(sample_id, f"{name} has one option", "add wrong options")
    if any(times > 1 for times in texts.values()) or "" in texts:
        yield Problem(sample_id, f"{name} has options that read the same or are empty: {list(question.options)}", "make the options differ")
        return
    if question.options and question.answer is None:
        yield Problem(sample_id, f"{name} has no gold answer", "add the letter of the right option")
    if not question.options and question.boxes is None:
        yield Problem(sample_id, f"{name} has no gold boxes", "add the boxes, or () for a clean sample")
    if size_wh is not None:
        yield from _check_boxes(sample_id, name, question.boxes, size_wh)
    gold = _gold(question, size_wh)
    if gold is not None:
        yield from _check_gold(sample_id, gold, frame)


def _gold(question: Question, size_wh: tuple[int, int] | None) -> _Gold | None:
    """The shortest reasoning that supports the gold answer; None when there is no gold."""
    if question.options:
        return _Gold(question, f"The answer is {question.answer}.", question.answer) if question.answer else None
    if question.boxes is None or size_wh is None:
        return None
    if not question.boxes:
        return _Gold(question, "There is no defect.", ())
    largest = max(question.boxes, key=lambda box: (box.x2 - box.x1) * (box.y2 - box.y1))
    return _Gold(question, f"There is a defect at the {boxes.place(largest, size_wh)}.", question.boxes)


def _check_gold(sample_id: str, gold: _Gold, frame: Frame | None) -> Iterator[Problem]:
    """The gold answer must earn full reward; only `localisation` may lose what rounding to the model's units costs."""
    name = f"question {gold.question.id!r}"
    try:
        answer = answers.parse(answers.write(gold.reasoning, gold.answer, frame), gold.question.options, frame)
    except InputError as error:
        yield Problem(sample_id, f"{name}: its gold answer cannot be written: {error}", "correct the annotation")
        return
    for reward_name, reward in rewards.REWARDS.items():
        value = reward(answer, gold.question)
        least = LEAST_IOU if reward_name.startswith("localisation") else 1.0
        if value is not None and value < least:
            yield Problem(
                sample_id,
                f"{name}: its gold answer earns {value:.2f} from {reward_name} ({_noted(answer.counts)})",
                "correct the gold; a box too small to be written at this pixel cap needs a larger max_pixels",
            )


def _noted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {times}" for name, times in counts.items()) or "nothing dropped"


def _size(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]} x {size_wh[1]}"
