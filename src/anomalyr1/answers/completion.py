"""The one door for model text: `write` makes the completion a model should learn, `parse` reads what a model wrote.

Form: `<think>reasoning</think><answer>B</answer>`, or boxes as JSON in the answer (`box_text`). Reading never
raises and takes time linear in the length of the text: no expression with two unbounded repeats ever sees it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from anomalyr1.answers import published as released
from anomalyr1.answers.boxes_json import read_boxes, write_boxes
from anomalyr1.answers.conclusion import read_conclusion
from anomalyr1.answers.findings import place, says_defect
from anomalyr1.answers.wording import plain
from anomalyr1.boxes import place as place_of
from anomalyr1.types import LETTERS, Answer, Box, InputError, Status

if TYPE_CHECKING:
    from anomalyr1.images import Frame

__all__ = ["as_mmad", "as_released", "choice_at", "parse", "read_conclusion", "write"]

MAX_CHOICE_CHARS = 4000
"""An answer to a question with options is not read beyond; its end is."""
MAX_TAGS = 200
"""Only the last so many think and answer tags are looked at; a well-formed completion has four."""

_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class _Tag(NamedTuple):
    name: str
    start: int
    end: int


class _Split(NamedTuple):
    """A completion cut in two; `answer` None = there is none."""

    reasoning: str
    answer: str | None
    strict: bool
    counts: dict[str, int]


def write(reasoning: str, answer: str | Sequence[Box], frame: Frame | None = None) -> str:
    """The gold completion: an option letter, or boxes in the units of the frame (without one: original pixels, rounded).

    Raises `InputError` when it could not be read back: tags in the reasoning or a label, more than 100 boxes,
    no single capital letter.
    """
    if isinstance(answer, str):
        if len(answer) != 1 or answer not in LETTERS:
            raise InputError(
                f"expected one capital letter as the answer, got {answer!r}; give the letter of the option"
            )
        body = answer
    else:
        body = write_boxes(answer, frame)
    if _TAG.search(reasoning) or _TAG.search(body):
        raise InputError(
            "the reasoning or a label holds a think or answer tag, which would end it early; remove the tag"
        )
    return f"<think>{reasoning}</think><answer>{body}</answer>"


def parse(text: str, options: Sequence[str], frame: Frame | None = None) -> Answer:
    """Read a completion. With options the answer is a letter, without it is boxes. Never raises; any string is allowed.

    Strict: the last well-formed pair of tags, and in it exactly one option letter (with or without its text),
    exactly one option's text, or valid JSON boxes. Lenient: what a careful reader accepts (a bare "B", "The
    answer is (b).", boxes in a code fence). Unparseable: everything else; contradictions too. A text without
    tags is all answer, no reasoning. `counts` names what was not as it should be: no_tags, no_think,
    think_not_opened, think_not_closed, answer_before_think, no_answer_tag, answer_not_closed,
    answer_inside_think, several_answers, text_outside_tags, no_answer, no_choice, letter_not_an_option,
    letter_text_conflict, the names of `box_text.read_boxes`, json_too_long, json_too_deep,
    json_number_too_long, json_unreadable, and place_off_box: the reasoning puts the defect elsewhere than the
    largest box is.
    """
    split = _split(text)
    thought = Answer(
        status="unparseable",
        reasoning=split.reasoning,
        conclusion=read_conclusion(split.reasoning, options),
        says_defect=says_defect(split.reasoning),
        place=place(split.reasoning),
        raw=text,
    )
    counts = dict(split.counts)
    if split.answer is None:
        return thought.model_copy(update={"counts": counts})
    if options:
        choice, exact = _read_choice(split.answer, options, counts)
        status = _status(choice is not None, split.strict and exact)
        return thought.model_copy(update={"status": status, "choice": choice, "counts": counts})
    reading = read_boxes(split.answer, frame)
    counts |= reading.counts
    if (
        frame is not None
        and reading.boxes
        and thought.place not in {None, place_of(_largest(reading.boxes), frame.original_wh)}
    ):
        counts["place_off_box"] = 1
    status = _status(
        reading.boxes is not None or reading.unmapped is not None, split.strict and reading.strict
    )
    return thought.model_copy(
        update={
            "status": status,
            "boxes": reading.boxes,
            "unmapped_boxes": reading.unmapped,
            "counts": counts,
        }
    )


def choice_at(text: str, options: Sequence[str]) -> int | None:
    """Where in a completion the letter stands that `parse` reads as its choice; None = there is none, or it is not written as a capital."""
    choice = parse(text, options).choice if options else None
    if choice is None:
        return None
    tags = [
        _Tag(tag[0].lower(), tag.start(), tag.end()) for tag in deque(_TAG.finditer(text), maxlen=MAX_TAGS)
    ]
    start, end = 0, len(text)
    opened = [i for i, tag in enumerate(tags) if tag.name == "<answer>"] or [
        i for i, tag in enumerate(tags) if tag.name == "</think>"
    ]
    if opened:
        start = tags[opened[-1]].end
        end = tags[opened[-1] + 1].start if opened[-1] + 1 < len(tags) else end
    start = max(start, end - MAX_CHOICE_CHARS)
    found = [one.start() for one in re.finditer(rf"(?<!\w){choice}(?!\w)", text[start:end])]
    if not found:
        return None
    # A label opens the answer ("B. Scratch"); in a sentence the letter that counts comes last ("a B-side
    # scratch, so B").
    label = not text[start : start + found[0]].strip(" \n\t([*\"'")
    return start + (found[0] if label else found[-1])


def as_mmad(text: str, options: Sequence[str]) -> str | None:
    """The letter that MMAD's own evaluation reads, misreadings included (`released.read_mmad`)."""
    return released.read_mmad(text, options)


def as_released(text: str) -> str | None:
    """The choice that AnomalyR1's released reward reads, misreadings included (`released.read_letter`); may be any character."""
    return released.read_letter(text)


def _status(readable: bool, strict: bool) -> Status:
    return "unparseable" if not readable else "strict" if strict else "lenient"


def _largest(boxes: Sequence[Box]) -> Box:
    return max(boxes, key=lambda box: (box.x2 - box.x1) * (box.y2 - box.y1))


def _split(text: str) -> _Split:
    """Cut a completion into reasoning and answer, by one pass over its tags."""
    found = deque(_TAG.finditer(text), maxlen=MAX_TAGS)
    tags = [_Tag(tag[0].lower(), tag.start(), tag.end()) for tag in found]
    if not tags:
        body = text.strip()
        return _Split("", body or None, False, {"no_tags": 1} if body else {"no_tags": 1, "no_answer": 1})
    closing = max((i for i, tag in enumerate(tags) if tag.name == "</think>"), default=None)
    answers = [i for i, tag in enumerate(tags) if tag.name == "<answer>" and (closing is None or i > closing)]
    if len(answers) > 1 and len({_inside(text, tags, i).strip() for i in answers}) > 1:
        return _Split(
            _thought(text, tags, closing, answers[0]), None, False, {"several_answers": len(answers)}
        )
    at = _well_formed(text, tags)
    if at is not None and (closing is None or closing == at + 1) and len(answers) <= 1:
        outside = text[: tags[at].start].strip() or text[tags[at + 3].end :].strip()
        reasoning, answer = (
            text[tags[at].end : tags[at + 1].start],
            text[tags[at + 2].end : tags[at + 3].start],
        )
        return _Split(reasoning.strip(), answer.strip(), True, {"text_outside_tags": 1} if outside else {})
    return _split_leniently(text, tags, closing, answers)


def _split_leniently(text: str, tags: list[_Tag], closing: int | None, answers: list[int]) -> _Split:
    counts: dict[str, int] = {}
    if len(answers) > 1:
        counts["several_answers"] = len(answers)
    if answers:
        reasoning = _thought(text, tags, closing, answers[0])
        if closing is None:
            counts["think_not_closed" if any(tag.name == "<think>" for tag in tags) else "no_think"] = 1
        elif not any(tag.name == "<think>" for tag in tags[:closing]):
            counts["think_not_opened"] = 1
        if answers[-1] + 1 >= len(tags):
            counts["answer_not_closed"] = 1
        answer = _inside(text, tags, answers[-1]).strip()
        return _Split(reasoning, answer or None, False, counts if answer else counts | {"no_answer": 1})
    if closing is None:
        opened = any(tag.name == "<think>" for tag in tags)
        return _Split(
            _without_tags(text),
            None,
            False,
            {"think_not_closed" if opened else "no_think": 1, "no_answer": 1},
        )
    rest = text[tags[closing].end :]
    reasoning = _thought(text, tags, closing, None)
    before = _before_think(text, tags)
    if before is not None and not rest.strip():
        return _Split(reasoning, before, False, {"answer_before_think": 1})
    if any(tag.name == "<answer>" for tag in tags):
        counts["answer_inside_think"] = 1
    if "</answer>" in rest.lower():
        rest = rest[: rest.lower().rfind("</answer>")]
    return _Split(
        reasoning,
        rest.strip() or None,
        False,
        counts | ({"no_answer_tag": 1} if rest.strip() else {"no_answer": 1}),
    )


def _well_formed(text: str, tags: list[_Tag]) -> int | None:
    """The index of the first tag of the last well-formed think/answer pair."""
    for i in range(len(tags) - 4, -1, -1):
        four = tags[i : i + 4]
        if all(text[tag.start : tag.end] == name for tag, name in zip(four, _TAGS, strict=True)):
            between = text[four[1].end : four[2].start]
            if not between or between.isspace():
                return i
    return None


def _inside(text: str, tags: list[_Tag], i: int) -> str:
    """What follows a tag, up to the next tag or the end."""
    return text[tags[i].end : tags[i + 1].start if i + 1 < len(tags) else len(text)]


def _thought(text: str, tags: list[_Tag], closing: int | None, answer: int | None) -> str:
    """The reasoning before an answer: the last think element, else all that stands before."""
    if closing is not None:
        opened = tags[closing - 1].end if closing > 0 and tags[closing - 1].name == "<think>" else None
        if opened is None:
            opened = next((tag.end for tag in tags[:closing] if tag.name == "<think>"), 0)
        return _without_tags(text[opened : tags[closing].start])
    end = tags[answer].start if answer is not None else len(text)
    return _without_tags(text[:end])


def _without_tags(text: str) -> str:
    return _TAG.sub(" ", text).strip()


def _before_think(text: str, tags: list[_Tag]) -> str | None:
    """The one answer that stands before the reasoning."""
    if (
        len(tags) > 2
        and tags[0].name == "<answer>"
        and tags[1].name == "</answer>"
        and tags[2].name == "<think>"
    ):
        return _inside(text, tags, 0).strip() or None
    return None


def _read_choice(text: str, options: Sequence[str], counts: dict[str, int]) -> tuple[str | None, bool]:
    """The option letter of an answer, and whether it is written exactly."""
    text = text[-MAX_CHOICE_CHARS:]
    letters = LETTERS[: len(options)]
    normal = [_normal(option) for option in options]
    letter = _letter_form(text, letters, normal, counts)
    if letter is None and "letter_text_conflict" not in counts and normal.count(_normal(text)) == 1:
        letter = letters[normal.index(_normal(text))]
    if letter is not None or counts.get("letter_text_conflict"):
        return letter, True
    simple = plain(text).strip()
    letter = _letter_form(
        simple.upper() if len(simple.strip("().: ")) == 1 else simple, letters, normal, counts
    )
    if letter is None and normal.count(_normal(simple)) == 1:
        letter = letters[normal.index(_normal(simple))]
    if letter is None and not counts.get("letter_text_conflict"):
        letter = _label(simple, letters) or read_conclusion(text, options)
    if letter is None:
        lone = simple.strip("().: ").upper()
        counts["letter_not_an_option" if len(lone) == 1 and lone in LETTERS else "no_choice"] = 1
    return letter, False


def _letter_form(text: str, letters: str, normal: Sequence[str], counts: dict[str, int]) -> str | None:
    """The letter of "B", "(B)", "B." or "B. Scratch" with the option's own text; with another option's text there is none."""
    bare = text.strip().lstrip("([").lstrip()
    if not bare or bare[0] not in letters:
        return None
    rest = bare[1:].lstrip()
    follows = _normal(rest.lstrip(")].:,-").strip())
    if follows == "":
        return bare[0]
    if rest[0].isalnum() and bare[1:2] != " ":
        return None
    if follows == normal[letters.index(bare[0])]:
        return bare[0]
    if follows in normal:
        counts["letter_text_conflict"] = 1
    return None


def _label(text: str, letters: str) -> str | None:
    """The letter an answer opens with as a label: "B. A crack is visible", unless other letters are labels too."""
    found = re.match(r"[(\[]?([A-Z])[)\].:]", text)
    if not found or found[1] not in letters:
        return None
    others = {one[1] for one in re.finditer(r"(?<!\w)([A-Z])[).:]", text) if one[1] in letters}
    return found[1] if others <= {found[1]} else None


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .\"'`*")
