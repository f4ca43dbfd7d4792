"""What a policy should learn to write about a sample of known truth: reasoning, then the answer.

Every text names the object, what is seen, where, and what follows, so that `answers.parse` can read a
conclusion, a place, and whether there is a defect. Grounding names no letter.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from anomalyr1 import boxes
from anomalyr1.answers.completion import write
from anomalyr1.images.frames import Frame
from anomalyr1.types import PLACES, InputError, Question, Sample

OBJECT = ("The image shows a {0}.", "This is a {0}.", "The part is a {0}.", "I look at a {0}.")
DEFECT = (
    "There is a defect in the {1}: {0}.",
    "I see {0} in the {1}, a defect.",
    "The {1} shows {0}, a defect.",
    "A defect is visible in the {1}: {0}.",
)
UNPLACED = ("There is a defect: {0}.", "I see {0}, a defect.")
GOOD = (
    "No defect is visible.",
    "There is no defect.",
    "It looks good and no defect is visible.",
    "I see no defect.",
)
FOLLOWS = (
    "This means: {0}, so the answer is {1}.",
    "That fits: {0}, so the answer is {1}.",
    "Therefore: {0}, so the answer is {1}.",
)
SILENT = ("This means: {0}.", "That fits: {0}.")
"""Conclusions that state an option's text and no letter."""
SILENT_SHARE = 0.1
"""How many conclusions are `SILENT`."""

CONTRADICTING_SHARE, MUTE_SHARE = 0.25, 0.1
"""How many reasonings of the raw policy contradict their answer, and how many say nothing of it
(`unreliable`)."""

UNCOUNTED = ("contamination", "wear", "discoloration", "too many", "too few")
"""Words that take no article, beside plurals."""


def with_article(name: str) -> str:
    """What was seen, as a sentence needs it: "a long scratch", "black particles"."""
    if name.endswith("s") or name in UNCOUNTED or name.startswith(UNCOUNTED[-2:]):
        return name
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def quoted(option: str) -> str:
    """An option's text inside a sentence: without its full stop."""
    return option.strip().rstrip(".")


def gold(
    sample: Sample, question: Question, look: str, frame: Frame, rng: Generator, doubtful: bool = False
) -> str:
    """The completion that earns full reward, in one of many wordings; it tells the place of the leading box.

    With `doubtful` on the reasoning may contradict the answer or be silent.
    """
    place = boxes.place(sample.boxes[0], frame.original_wh) if sample.boxes else None
    text = (unreliable if doubtful else reasoning)(sample, question, look, place, rng)
    if question.kind == "grounding":
        return write(text, question.boxes or (), frame)
    return write(text, question.answer or "")


def reasoning(sample: Sample, question: Question, look: str, place: str | None, rng: Generator) -> str:
    """A text that leads to the gold answer; `look` and `place` say how the defect looks and where it is."""
    parts = [evidence(sample, look, place, rng)]
    if question.answer is not None:
        parts.append(conclusion(question.option_text(question.answer), question.answer, rng))
    return " ".join(parts)


def unreliable(sample: Sample, question: Question, look: str, place: str | None, rng: Generator) -> str:
    """Reasoning as base models write it: a quarter contradicts the answer, a tenth says nothing of it."""
    fate = rng.random()
    if fate < CONTRADICTING_SHARE:
        return _contradicting(sample, question, look, rng)
    if fate < CONTRADICTING_SHARE + MUTE_SHARE:
        return _articled(_pick(OBJECT, rng).format(sample.category), sample.category)
    return reasoning(sample, question, look, place, rng)


def _contradicting(sample: Sample, question: Question, look: str, rng: Generator) -> str:
    """A text that leads to another answer than the gold one; about boxes, to the opposite verdict."""
    if question.answer is None or question.kind == "anomaly detection":
        opposite = {"anomalous": not sample.anomalous, "defect": None if sample.anomalous else "flaw"}
        parts = [evidence(sample.model_copy(update=opposite), look, _pick(PLACES, rng), rng)]
    else:
        parts = [evidence(sample, look, None, rng)]
    if question.answer is not None:
        wrong_letters = [letter for letter in question.letters if letter != question.answer]
        letter = _pick(wrong_letters, rng)
        parts.append(conclusion(question.option_text(letter), letter, rng))
    return " ".join(parts)


def evidence(sample: Sample, look: str, place: str | None, rng: Generator) -> str:
    """Object and what is seen: a defect and its place, or that there is none.

    Raises `InputError` for a sample of unknown truth.
    """
    if sample.anomalous is None:
        raise InputError(
            f"sample {sample.id!r} does not say whether it is anomalous; only samples with known truth can "
            "be written about"
        )
    finding = _pick(GOOD, rng)
    if sample.anomalous:
        wording = _pick(UNPLACED if place is None else DEFECT, rng)
        finding = wording.format(with_article(look or sample.defect or "flaw"), place)
    subject = _pick(OBJECT, rng).format(sample.category)
    return f"{_articled(subject, sample.category)} {finding}"


def conclusion(option: str, letter: str, rng: Generator) -> str:
    """The clause that names an option and mostly its letter."""
    if rng.random() < SILENT_SHARE:
        return _pick(SILENT, rng).format(quoted(option))
    return _pick(FOLLOWS, rng).format(quoted(option), letter)


def _articled(sentence: str, name: str) -> str:
    return sentence.replace(f" a {name}", f" an {name}") if name[:1].lower() in "aeiou" else sentence


def _pick(texts: Sequence[str], rng: Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
