"""Inspections beside the truth, made ready for the page: outcome, pictures, gold, and the reasoning with its
conclusion marked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from anomalyr1 import boxes as geometry
from anomalyr1 import prompts
from anomalyr1.answers.conclusion import read_conclusion
from anomalyr1.answers.findings import says_defect
from anomalyr1.data.mask_files import boxes_of, true_mask
from anomalyr1.data.places import VARIABLE, may_name
from anomalyr1.evaluation.detection import Pair
from anomalyr1.images.door import THREADS, open_image
from anomalyr1.report.html import data_uri
from anomalyr1.report.inspection_page import WIDE
from anomalyr1.report.overlays import draw_on, scaled
from anomalyr1.rewards import consistent, right
from anomalyr1.types import Answer, InputError, Inspection, Question, Reply, Sample

OUTCOMES = ("failed", "missed", "false alarm", "unsure", "right", "good", "defect")
"""What a card is, those that need a look first; "good" and "defect" are verdicts whose truth is not known."""
FLAGS = ("contradicting", "unparseable", "wrong answer")
"""What a card may be beside its outcome."""
PICTURE_LONG_SIDE = 300
MAX_BOXES = 60
"""So many boxes of an image are drawn and listed."""
MOST_SHOWN = 2
"""Where there are more replies, right ones are folded away."""
ELSEWHERE = (
    "it lies elsewhere, neither below the working folder nor below that of the inspections; name the data "
    f"with --data, or its folder in the environment: {VARIABLE}=FOLDER"
)
_SENTENCE = re.compile(r"[.!?。！？\n]")
_LAST = 12
"""So many sentences at the end are searched for the conclusion."""


class Marked(NamedTuple):
    """A text in three parts, of which the middle one is the conclusion."""

    before: str
    conclusion: str
    after: str


@dataclass(frozen=True)
class ReplyView:
    """One reply as the page shows it; texts are not yet escaped for HTML."""

    question: str
    status: str
    reasoning: Marked
    concludes: str
    answer: str
    gold: str
    """Empty when it is not known."""
    verdict: str
    """"right", "wrong", or empty when the gold is not known."""
    contradicts: bool
    raw: str


@dataclass(frozen=True)
class Case:
    """One inspection as the page shows it; texts are not yet escaped for HTML."""

    outcome: str
    flags: tuple[str, ...]
    category: str
    folder: str
    name: str
    inspection: Inspection
    gold: str
    marked_picture: str
    """Data URI of the image with what was found; empty when the image cannot be opened."""
    truth: str
    """Data URI of the image with what is true; empty when there is nothing to draw."""
    problem: str
    """Why a picture is missing."""
    wide: bool
    """Whether two pictures stand below each other."""
    replies: tuple[ReplyView, ...]

    @property
    def tucked_replies(self) -> list[ReplyView]:
        """Right answers that nothing is to be said about, where there are many replies."""
        if len(self.replies) <= MOST_SHOWN:
            return []
        return [
            reply
            for reply in self.replies
            if reply.verdict == "right" and reply.status == "strict" and not reply.contradicts
        ]

    @property
    def shown_replies(self) -> list[ReplyView]:
        """The others."""
        tucked = set(map(id, self.tucked_replies))
        return [reply for reply in self.replies if id(reply) not in tucked]

    @property
    def slug(self) -> str:
        """The outcome as a class of the style sheet."""
        return slug(self.outcome)


def slug(name: str) -> str:
    """A name of ours as a class of the style sheet."""
    return name.replace(" ", "-")


def outcome(sample: Sample, inspection: Inspection) -> str:
    """One of `OUTCOMES`."""
    if inspection.error is not None:
        return "failed"
    if inspection.verdict == "unsure" or sample.anomalous is None:
        return inspection.verdict
    if sample.anomalous == (inspection.verdict == "defect"):
        return "right"
    return "missed" if sample.anomalous else "false alarm"


def flags(sample: Sample, inspection: Inspection) -> tuple[str, ...]:
    """Those of `FLAGS` that hold."""
    questions_by_id = questions(sample, inspection)
    replies_with_question = [(reply, questions_by_id.get(reply.question_id)) for reply in inspection.replies]
    holds = (
        any(
            question is not None and _contradicts(reply.answer, question)
            for reply, question in replies_with_question
        ),
        any(reply.answer.status == "unparseable" for reply in inspection.replies),
        any(
            question is not None and question.options and right(reply.answer, question) is False
            for reply, question in replies_with_question
        ),
    )
    return tuple(name for name, held in zip(FLAGS, holds, strict=True) if held)


def questions(sample: Sample, inspection: Inspection) -> dict[str, Question]:
    """What was asked, by id; the two questions of `inspect` have the gold that the sample has."""
    verdict, grounding = prompts.inspection_questions(inspection.sample_id)
    if sample.anomalous is not None:
        verdict = verdict.model_copy(update={"answer": "A" if sample.anomalous else "B"})
    boxes = () if sample.anomalous is False else sample.boxes or None
    grounding = grounding.model_copy(update={"boxes": boxes})
    return {question.id: question for question in (verdict, grounding, *sample.questions)}


def cases(pairs: Sequence[Pair], file: Path | None = None) -> list[Case]:
    """The cards of these pairs, in order; images are opened on several threads.

    `file` is the one that names the images, where the user does not: it may not name any (`data.places`).
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda pair: case(pair[0], pair[1], file), pairs))


def case(sample: Sample, inspection: Inspection, file: Path | None = None) -> Case:
    """One card. What cannot be opened, and what `file` may not name, is said on it."""
    if file is None or may_name(file, sample.image):
        marked_picture, truth, problem, wide = _pictures(sample, inspection)
    else:
        marked_picture, truth, problem, wide = "", "", f"not shown: {ELSEWHERE}", False
    questions_by_id = questions(sample, inspection)
    folder, _, name = sample.id.rpartition("/")
    return Case(
        outcome=outcome(sample, inspection),
        flags=flags(sample, inspection),
        category=sample.class_name,
        folder=folder,
        name=name,
        inspection=inspection,
        gold=_gold(sample),
        marked_picture=marked_picture,
        truth=truth,
        problem=problem,
        wide=wide,
        replies=tuple(_reply(reply, questions_by_id.get(reply.question_id)) for reply in inspection.replies),
    )


def mark_conclusion(reasoning: str, answer: Answer, options: Sequence[str]) -> Marked:
    """The reasoning, with the last sentence marked that concludes what the whole was read to conclude; else
    nothing is marked.
    """
    ends = [0, *(sentence.end() for sentence in _SENTENCE.finditer(reasoning)), len(reasoning)]
    spans = [(a, b) for a, b in pairwise(ends) if reasoning[a:b].strip()]
    for start, end in reversed(spans[-_LAST:]):
        sentence = reasoning[start:end]
        if answer.conclusion is not None:
            concludes = read_conclusion(sentence, options) == answer.conclusion
        else:
            concludes = answer.says_defect is not None and says_defect(sentence) == answer.says_defect
        if concludes:
            start += len(sentence) - len(sentence.lstrip())
            return Marked(reasoning[:start], reasoning[start:end], reasoning[end:])
    return Marked(reasoning, "", "")


def _contradicts(answer: Answer, question: Question) -> bool:
    return answer.status != "unparseable" and consistent(answer, question) is False


def _pictures(sample: Sample, inspection: Inspection) -> tuple[str, str, str, bool]:
    try:
        rgb = open_image(sample.image).rgb
    except (InputError, OSError) as error:
        return "", "", str(error), False
    small = _small(rgb)
    first_boxes = {
        "boxes": (inspection.boxes or ())[:MAX_BOXES] or None,
        "masks": (inspection.masks or ())[:MAX_BOXES],
    }
    shortened = inspection.model_copy(update=first_boxes)
    marked_picture, truth, problem = small, None, ""
    try:
        marked_picture = draw_on(small.copy(), shortened, rgb.size)
        if sample.anomalous:
            mask = true_mask(sample)
            masks = () if mask is None else (geometry.encode_mask(mask, "box"),)
            true = Inspection(
                sample_id=sample.id, verdict="good", boxes=(boxes_of(sample) or ())[:MAX_BOXES], masks=masks
            )
            truth = draw_on(small.copy(), true, rgb.size)
        elif shortened.boxes:
            truth = small
    except (InputError, OSError) as error:
        problem = str(error)
    wide = rgb.width >= WIDE * rgb.height
    return data_uri(marked_picture, "WEBP"), "" if truth is None else data_uri(truth, "WEBP"), problem, wide


def _small(rgb: Image.Image) -> Image.Image:
    """The image with a longer side of `PICTURE_LONG_SIDE` pixels; large ones are averaged first, which is
    fast.
    """
    factor = max(rgb.size) // PICTURE_LONG_SIDE
    return scaled(rgb.reduce(factor) if factor > 1 else rgb, PICTURE_LONG_SIDE)


def _gold(sample: Sample) -> str:
    if sample.anomalous is None:
        return ""
    if not sample.anomalous:
        return "good"
    defect_name = sample.defect or "defect, not named"
    logical = ", logical" if sample.logical else ""
    return (
        f"{defect_name}{logical}"
        if not sample.boxes
        else (f"{defect_name}{logical}, {_count(len(sample.boxes))}")
    )


def _reply(reply: Reply, question: Question | None) -> ReplyView:
    answer = reply.answer
    options = question.options if question else ()
    answer_parts = [_option(answer.choice, question)] if answer.choice else []
    if answer.boxes is not None:
        answer_parts.append(_count(len(answer.boxes)))
    is_right = None if question is None else right(answer, question)
    gold = ""
    if question is not None and question.answer is not None:
        gold = _option(question.answer, question)
    elif question is not None and question.boxes is not None and not options:
        gold = _count(len(question.boxes))
    return ReplyView(
        question=question.text if question else reply.question_id,
        status=answer.status,
        reasoning=mark_conclusion(answer.reasoning, answer, options),
        concludes=_option(answer.conclusion, question) if answer.conclusion else "",
        answer=", ".join(answer_parts) or "not readable",
        gold=gold,
        verdict={None: "", True: "right", False: "wrong"}[is_right],
        contradicts=question is not None and _contradicts(answer, question),
        raw=reply.completion,
    )


def _option(letter: str, question: Question | None) -> str:
    if question is None or letter not in question.letters:
        return f"option {letter}"
    return f"{letter}. {question.options[question.letters.index(letter)].rstrip('.')}"


def _count(boxes: int) -> str:
    return {0: "no box", 1: "1 box"}.get(boxes, f"{boxes} boxes")
