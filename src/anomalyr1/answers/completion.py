"""Completions: `write` makes the one a model should learn, `parse` reads what a model wrote.

Form: `<think>reasoning</think><answer>B</answer>`, or boxes as JSON in the answer (`boxes_json`). Reading
never raises and takes time linear in the length of the text: no expression with two unbounded repeats ever
sees it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from anomalyr1.answers import published
from anomalyr1.answers.boxes_json import read_boxes, write_boxes
from anomalyr1.answers.conclusion import read_conclusion
from anomalyr1.answers.reasoning import read_reasoning
from anomalyr1.answers.wording import plain
from anomalyr1.boxes import place as place_of
from anomalyr1.types import LETTERS, Answer, Box, InputError, Status

if TYPE_CHECKING:
    from anomalyr1.images.frames import Frame

MAX_CHOICE_CHARS = 4000
"""An answer to a question with options is not read beyond; its end is."""
MAX_TAGS = 200
"""Only the last so many think and answer tags are looked at; a well-formed completion has four."""

_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class _Tag(NamedTuple):
    """One think or answer tag."""

    name: str
    start: int
    end: int


class _Split(NamedTuple):
    """A completion cut in two."""

    reasoning: str
    answer: str | None
    """Without the blanks around it; None = there is none."""
    answer_start: int
    """The character of the completion at which the answer starts."""
    strict: bool
    counts: dict[str, int]


def write(reasoning: str, answer: str | Sequence[Box], frame: Frame | None = None) -> str:
    """The gold completion, with an option letter or boxes as its answer.

    Boxes are written in the units of the frame, without one in original pixels, rounded.
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
    """Read a completion: a letter with options, boxes without. Never raises; any string is allowed.

    Strict: the last well-formed pair of tags, and in it exactly one option letter (with or without its text),
    exactly one option's text, or valid JSON boxes. Lenient: what a careful reader accepts (a bare "B", "The
    answer is (b).", boxes in a code fence). Unparseable: everything else; contradictions too. A text without
    tags is all answer, no reasoning. `counts` names what was not as it should be: no_tags, no_think,
    think_not_opened, think_not_closed, answer_before_think, no_answer_tag, answer_not_closed,
    answer_inside_think, several_answers, text_outside_tags, no_answer, no_choice, letter_not_an_option,
    letter_text_conflict, the names of `boxes_json.read_boxes`, json_too_long, json_too_deep,
    json_number_too_long, json_unreadable, and place_off_box: the reasoning puts the defect elsewhere than the
    largest box is.
    """
    return parse_with_place(text, options, frame)[0]


def parse_with_place(
    text: str, options: Sequence[str], frame: Frame | None = None
) -> tuple[Answer, int | None]:
    """What `parse` reads, and the character of the completion at which the letter of the choice stands.

    The place is None without a choice, and where the choice is not written as a capital letter.
    """
    split = _split(text)
    reasoning = read_reasoning(split.reasoning, options)
    answer = Answer(
        status="unparseable",
        reasoning=split.reasoning,
        **reasoning._asdict(),
        raw=text,
        counts=dict(split.counts),
    )
    if split.answer is None:
        return answer, None
    if not options:
        return _with_boxes(answer, split.answer, split.strict, frame), None
    counts = dict(split.counts)
    choice, exact = _read_choice(split.answer, options, counts)
    status = _status(choice is not None, split.strict and exact)
    index = _letter_index(split.answer, choice) if choice is not None else None
    answer = answer.model_copy(update={"status": status, "choice": choice, "counts": counts})
    return answer, None if index is None else split.answer_start + index


def choice_at(text: str, options: Sequence[str]) -> int | None:
    """Where the letter of the choice stands, as `parse_with_place` gives it."""
    return parse_with_place(text, options)[1]


def as_mmad(text: str, options: Sequence[str]) -> str | None:
    """The letter that MMAD's own evaluation reads, misreadings included (`published.read_mmad`)."""
    return published.read_mmad(text, options)


def as_released(text: str) -> str | None:
    """The choice that AnomalyR1's released reward reads, misreadings included (`published.read_letter`).

    It may be any character.
    """
    return published.read_letter(text)


def _status(readable: bool, strict: bool) -> Status:
    if not readable:
        return "unparseable"
    return "strict" if strict else "lenient"


def _with_boxes(answer: Answer, text: str, strict: bool, frame: Frame | None) -> Answer:
    """An answer with the boxes that the text in its tags gives."""
    reading = read_boxes(text, frame)
    counts = answer.counts | reading.counts
    if frame is not None and reading.boxes and answer.place is not None:
        largest = max(reading.boxes, key=lambda box: box.area)
        if answer.place != place_of(largest, frame.original_wh):
            counts["place_off_box"] = 1
    readable = reading.boxes is not None or reading.unmapped is not None
    return answer.model_copy(
        update={
            "status": _status(readable, strict and reading.strict),
            "boxes": reading.boxes,
            "unmapped_boxes": reading.unmapped,
            "counts": counts,
        }
    )


def _split(text: str) -> _Split:
    """Cut a completion into reasoning and answer, by one pass over its tags."""
    matches = deque(_TAG.finditer(text), maxlen=MAX_TAGS)
    tags = [_Tag(match[0].lower(), match.start(), match.end()) for match in matches]
    if not tags:
        return _lenient(text, "", (0, len(text)), {"no_tags": 1})
    names = [tag.name for tag in tags]
    closing = max((i for i, name in enumerate(names) if name == "</think>"), default=None)
    answers = [i for i in range((closing or 0), len(names)) if names[i] == "<answer>"]
    if len({text[slice(*_inside(text, tags, i))].strip() for i in answers}) > 1:
        reasoning = _thought(text, tags, closing, answers)
        return _Split(reasoning, None, 0, False, {"several_answers": len(answers)})
    pair = _well_formed(text, tags)
    if pair is not None and closing == pair + 1 and len(answers) == 1:
        return _split_strictly(text, tags[pair : pair + 4])
    if answers or closing is None:
        return _split_at_answer(text, tags, closing, answers)
    return _split_after_think(text, tags, closing)


def _split_strictly(text: str, tags: list[_Tag]) -> _Split:
    """A completion with a well-formed pair, by its four tags."""
    outside = text[: tags[0].start].strip() or text[tags[3].end :].strip()
    counts = {"text_outside_tags": 1} if outside else {}
    reasoning, _ = _trimmed(text, _inside(text, tags, 0))
    answer, start = _trimmed(text, _inside(text, tags, 2))
    return _Split(reasoning, answer, start, True, counts)


def _split_at_answer(text: str, tags: list[_Tag], closing: int | None, answers: list[int]) -> _Split:
    """A completion with an answer tag after its reasoning, or without any end of the reasoning."""
    counts: dict[str, int] = {"several_answers": len(answers)} if len(answers) > 1 else {}
    opened = any(tag.name == "<think>" for tag in tags[:closing])
    if closing is None:
        counts["think_not_closed" if opened else "no_think"] = 1
    elif not opened:
        counts["think_not_opened"] = 1
    if answers and answers[-1] + 1 >= len(tags):
        counts["answer_not_closed"] = 1
    span = _inside(text, tags, answers[-1]) if answers else (0, 0)
    return _lenient(text, _thought(text, tags, closing, answers), span, counts)


def _split_after_think(text: str, tags: list[_Tag], closing: int) -> _Split:
    """A completion without an answer tag after its reasoning: what follows it is the answer."""
    reasoning = _thought(text, tags, closing, [])
    before = [tag.name for tag in tags[:3]] == ["<answer>", "</answer>", "<think>"]
    if before and not text[tags[closing].end :].strip() and _trimmed(text, _inside(text, tags, 0))[0]:
        return _lenient(text, reasoning, _inside(text, tags, 0), {"answer_before_think": 1})
    counts = {"answer_inside_think": 1} if any(tag.name == "<answer>" for tag in tags) else {}
    ends = [tag.start for tag in tags[closing:] if tag.name == "</answer>"]
    span = tags[closing].end, ends[-1] if ends else len(text)
    if _trimmed(text, span)[0]:
        counts["no_answer_tag"] = 1
    return _lenient(text, reasoning, span, counts)


def _lenient(text: str, reasoning: str, span: tuple[int, int], counts: dict[str, int]) -> _Split:
    """A completion that is not well-formed, with the answer in a span of it; counted when there is none."""
    answer, start = _trimmed(text, span)
    return _Split(reasoning, answer or None, start, False, counts if answer else counts | {"no_answer": 1})


def _trimmed(text: str, span: tuple[int, int]) -> tuple[str, int]:
    """The text of a span without the blanks around it, and where it starts."""
    start, end = span
    answer = text[start:end].lstrip()
    return answer.rstrip(), end - len(answer)


def _well_formed(text: str, tags: list[_Tag]) -> int | None:
    """The index of the first tag of the last well-formed think/answer pair."""
    for i in range(len(tags) - 4, -1, -1):
        if tuple(text[tag.start : tag.end] for tag in tags[i : i + 4]) == _TAGS:
            between = text[tags[i + 1].end : tags[i + 2].start]
            if not between or between.isspace():
                return i
    return None


def _inside(text: str, tags: list[_Tag], i: int) -> tuple[int, int]:
    """The span from a tag up to the next tag or the end."""
    return tags[i].end, tags[i + 1].start if i + 1 < len(tags) else len(text)


def _thought(text: str, tags: list[_Tag], closing: int | None, answers: list[int]) -> str:
    """The reasoning before an answer: the last think element, else all that stands before."""
    if closing is None:
        start, end = 0, tags[answers[0]].start if answers else len(text)
    else:
        starts = [tag.end for tag in tags[:closing] if tag.name == "<think>"]
        is_pair = closing > 0 and tags[closing - 1].name == "<think>"
        start = 0
        if starts:
            start = starts[-1] if is_pair else starts[0]
        end = tags[closing].start
    return _TAG.sub(" ", text[start:end]).strip()


def _read_choice(text: str, options: Sequence[str], counts: dict[str, int]) -> tuple[str | None, bool]:
    """The option letter of an answer, and whether it is written exactly."""
    text = text[-MAX_CHOICE_CHARS:]
    letters = LETTERS[: len(options)]
    normal = [_normal(option) for option in options]
    letter = _exact_choice(text, letters, normal, counts)
    if letter is not None or "letter_text_conflict" in counts:
        return letter, True
    simple = plain(text).strip()
    lone = simple.strip("().: ").upper()
    letter = _exact_choice(lone if len(lone) == 1 else simple, letters, normal, counts)
    if letter is None and "letter_text_conflict" not in counts:
        letter = _label(simple, letters) or read_conclusion(text, options)
    if letter is None:
        counts["letter_not_an_option" if len(lone) == 1 and lone in LETTERS else "no_choice"] = 1
    return letter, False


def _exact_choice(text: str, letters: str, normal: Sequence[str], counts: dict[str, int]) -> str | None:
    """The letter of an answer that is just a letter, with or without its text, or just an option's text."""
    letter = _letter_form(text, letters, normal, counts)
    if letter is None and "letter_text_conflict" not in counts and normal.count(_normal(text)) == 1:
        return letters[normal.index(_normal(text))]
    return letter


def _letter_form(text: str, letters: str, normal: Sequence[str], counts: dict[str, int]) -> str | None:
    """The letter of "B", "(B)", "B." or "B. Scratch"; with the text of another option none, counted."""
    bare = text.strip().lstrip("([").lstrip()
    if not bare or bare[0] not in letters:
        return None
    remainder = bare[1:].lstrip()
    follows = _normal(remainder.lstrip(")].:,-").strip())
    if follows == "":
        return bare[0]
    if remainder[0].isalnum() and bare[1:2] != " ":
        return None
    if follows == normal[letters.index(bare[0])]:
        return bare[0]
    if follows in normal:
        counts["letter_text_conflict"] = 1
    return None


def _label(text: str, letters: str) -> str | None:
    """The letter that an answer opens with as a label, "B. A crack is visible", if it has no other labels."""
    opening = re.match(r"[(\[]?([A-Z])[)\].:]", text)
    if not opening or opening[1] not in letters:
        return None
    labels = {label[1] for label in re.finditer(r"(?<!\w)([A-Z])[).:]", text)}
    return opening[1] if labels & set(letters) <= {opening[1]} else None


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .\"'`*")


def _letter_index(answer: str, letter: str) -> int | None:
    """The character of an answer at which its letter stands, None when it is not written as a capital."""
    start = max(0, len(answer) - MAX_CHOICE_CHARS)
    places = [match.start() for match in re.finditer(rf"(?<!\w){letter}(?!\w)", answer[start:])]
    if not places:
        return None
    # A label opens the answer ("B. Scratch"); in a sentence the letter that counts comes last ("a B-side
    # scratch, so B").
    is_label = not answer[start : start + places[0]].strip(" \n\t([*\"'")
    return start + (places[0] if is_label else places[-1])
