"""JSON lines: our own samples, and conversations as VLM-R1, TRL and OpenAI have them; each line may be any.

A conversation line: `image` (a path, or several: the last is inspected, those before are references),
`conversations` (turns `human` and `gpt`), and where given `id` and `type` (a subtask of MMAD). A human turn
that ends in lines "A. text", "B. text" is a question with options; a gpt turn is a letter, an option's text,
or boxes in pixels of the original image ([x1, y1, x2, y2], or objects with `bbox_2d` and `label`). Turns that
say anything else cannot be asked or scored here: they are left out and counted.

A line with `messages` is read as such a conversation: turns with `role` and `content`, a text or a list of
parts, whose images stand in the parts or in the column `images`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from anomalyr1.data import mask_files
from anomalyr1.data.label_tables import BAD, GOOD
from anomalyr1.data.paths import PathDoor
from anomalyr1.data.readers import Json, is_four_numbers, read_json_lines
from anomalyr1.data.samples import Samples, require_some, require_unique
from anomalyr1.files import parse_json
from anomalyr1.types import (
    LETTERS,
    Box,
    InputError,
    Kind,
    Question,
    Record,
    Sample,
    first_error,
    nearest_name,
    quoted,
)

_OPTION = re.compile(r"\(?([A-Z])[.):：][ \t]*(.*)")
_KIND_WORDS: tuple[tuple[str, Kind], ...] = (
    ("any defect", "anomaly detection"), ("anomaly", "anomaly detection"), ("defective", "anomaly detection"),
    ("type of", "defect classification"), ("kind of defect", "defect classification"),
    ("where", "defect localization"), ("appearance", "defect description"), ("effect", "defect analysis"),
)  # fmt: skip
"""Words of MMAD's wordings and the kind they tell where a line does not; the earliest that fits counts."""


_NOUN = r"(?:an?|any|the|this)? ?(?:image|picture|photo|part|object|product|component|surface|item|sample)"
_DEFECT = r"(?:defects?|anomal(?:y|ies)|damages?|flaws?|faults?)"
_ASKS_VERDICT = re.compile(
    rf"(?:(?:is|are) there (?:an?|any)? ?(?:visible )?{_DEFECT}(?: (?:visible |present )?(?:in|on) {_NOUN})?"
    rf"|do(?:es)? {_NOUN} (?:have|show|contain) (?:an?|any)? ?{_DEFECT}"
    rf"|is {_NOUN} (?:defective|anomalous|damaged|faulty|flawed)|\A\W*(?:defect|defective))\s*\??\s*\Z"
)
"""Ends a question that "yes" answers for a defective part, and "no" for a good one: not one about a place."""
_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system", "developer": "system"}
"""Roles of messages, and what conversations call them."""


class ConversationOptions(Record):
    """What a JSON lines file can be asked for."""

    root: Path | None = None
    """Where paths start; None = the folder of the file."""
    links: bool = False
    """Follow symbolic links that lead out of the folder."""
    boxes: bool = False
    """Open masks for boxes that the lines do not give (`Samples.with_boxes`); no question is added."""


def load(spec: str, path: Path, options: ConversationOptions) -> Samples:
    """The samples of a file. Raises `InputError` with the number of a line that is neither."""
    root = options.root if options.root is not None else path.parent
    door, notes = PathDoor(root, path, links=options.links), Counter[str]()
    samples: list[Sample] = []
    for number, line, _ in read_json_lines(path):
        where = f"line {number} of {str(path)!r}"
        if isinstance(line, dict) and "messages" in line:
            line = _as_conversation(line, where)
        if isinstance(line, dict) and "conversations" in line:
            sample = _conversation(line, where, number, notes)
            paths = line["image"] if isinstance(line["image"], list) else [line["image"]]
        else:
            sample = _sample(line, where)
            paths = [line["image"], *line.get("references", ())]
            if line.get("mask"):
                paths.append(line["mask"])
        for written_path in paths:  # as written: a Path would hide that it was a URL
            door.check(written_path)
        samples.append(_with_root(sample, root))
    require_unique((sample.id for sample in samples), str(path))
    door.close()
    require_some(samples, str(path), "one sample or conversation a line")
    loaded = Samples(spec, path.stem, samples, _with_boxes, notes)
    return loaded.with_boxes() if options.boxes else loaded


def _with_root(sample: Sample, root: Path) -> Sample:
    changes: dict[str, Any] = {
        "image": root / sample.image,
        "references": tuple(root / path for path in sample.references),
        "mask": root / sample.mask if sample.mask else None,
    }
    return sample.model_copy(update=changes)


def _with_boxes(sample: Sample, open_files: bool) -> Sample:
    if open_files and sample.boxes is None:
        return sample.model_copy(update={"boxes": mask_files.boxes_of(sample)})
    return sample


def _sample(line: Json, where: str) -> Sample:
    try:
        return Sample.model_validate(line)
    except ValidationError as error:
        talks, hint = ("messages", "conversations"), first_error(error)
        for key in line if isinstance(line, dict) else ():
            near = nearest_name(key, (*Sample.model_fields, *talks))
            if near in talks and key != near:
                hint = f"it has the key {quoted(key)}, did you mean {near!r}?"
        raise InputError(
            f"{where} is neither a sample nor a conversation ({hint}); mend or delete the line"
        ) from error


def _as_conversation(line: dict[str, Any], where: str) -> dict[str, Any]:
    """A row of messages as a conversation line. Raises `InputError` where it is none."""
    turns: list[Json] = []
    messages, listed = line["messages"], line.get("images") or []
    if not isinstance(listed, list):
        raise InputError(f"{where}: expected images (a list of paths), got {str(listed)[:40]!r}")
    images = [_path_in(image) for image in listed]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{where}: expected messages (a list of role and content)")
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        texts = []
        for part in parts:
            if not isinstance(part, dict):
                raise InputError(f"{where}: expected parts of content with a type, got {str(part)[:40]!r}")
            if part.get("type") == "text":
                texts.append(str(part.get("text")))
            elif not listed and "image" in str(part.get("type")):
                images.append(_path_in(part.get("image", part.get("image_url"))))
        turns.append({"from": _SPEAKERS.get(str(message.get("role"))), "value": "\n".join(texts)})
    others = {key: value for key, value in line.items() if key not in ("messages", "images")}
    return {**others, "image": images, "conversations": turns}


def _path_in(image: Json) -> Json:
    """The path of an image as a text, or in a mapping as Hugging Face and OpenAI write it."""
    return image.get("path", image.get("url")) if isinstance(image, dict) else image


def _conversation(line: dict[str, Any], where: str, number: int, notes: Counter[str]) -> Sample:
    images = line.get("image")
    images = images if isinstance(images, list) else [images]
    turns = line["conversations"]
    if not images or not all(isinstance(image, str) for image in images) or not isinstance(turns, list):
        raise InputError(f"{where}: expected image (a path or several) and conversations (a list of turns)")
    sample_id = str(line.get("id", f"{images[-1]}#{number}"))
    try:
        questions = tuple(_questions(sample_id, line.get("type"), turns, notes))
        return Sample(
            id=sample_id,
            image=images[-1],
            references=tuple(images[:-1]),
            questions=questions,
            dataset=str(line.get("dataset", "")),
            category=str(line.get("category", "")),
            anomalous=_verdict(questions),
            boxes=next((question.boxes for question in questions if question.kind == "grounding"), None),
        )
    except ValidationError as error:
        raise InputError(f"{where}: {first_error(error)}; mend or delete the line") from error


def _questions(sample_id: str, kind: object, turns: list[Json], notes: Counter[str]) -> Iterator[Question]:
    """The questions of pairs of a human turn and the gpt turn that follows it."""
    human = None
    number = 0
    for turn in turns:
        speaker, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if speaker == "human" and isinstance(value, str):
            human = value
        elif speaker == "gpt" and human is not None:
            question = _question(f"{sample_id}#{number}", kind, human, value, notes)
            number += 1
            human = None
            if question is None:
                notes["conversation turns without options or boxes, left out"] += 1
            else:
                yield question
        elif speaker != "system":
            notes["conversation turns that are out of order, left out"] += 1


def _question(name: str, kind: object, human: str, reply: Json, notes: Counter[str]) -> Question | None:
    """The question of a human turn, with the reply as gold; None without options and boxes."""
    text, options = _split_options(re.sub(r"<image>[ \t]*\n?", "", human))
    if not options:
        boxes = _boxes(reply)
        if boxes is None:
            return None
        return Question(id=name, kind="grounding", text=text, boxes=boxes, completion=_reasoned(reply))
    letter = _letter(reply, options)
    return Question(
        id=name,
        kind=_kind(kind, text, options, notes),
        text=text,
        options=options,
        answer=letter,
        completion=None if letter is None else _reasoned(reply),
    )


def _kind(name: object, text: str, options: tuple[str, ...], notes: Counter[str]) -> Kind:
    """The kind that a line names, else the one that the question's words suggest."""
    folded_name = " ".join(str(name).casefold().split())
    if folded_name in get_args(Kind):
        return folded_name  # type: ignore[return-value]  # it is one of them
    notes["kinds of questions guessed from their words"] += 1
    words = [_folded(option) for option in options]
    asks_verdict = sorted(words) == ["no", "yes"] and _ASKS_VERDICT.search(text.casefold())
    if asks_verdict or (len(words) == 2 and {_says_defect(word) for word in words} == {True, False}):
        return "anomaly detection"
    return next((kind for words, kind in _KIND_WORDS if words in text.casefold()), "object analysis")


def _reasoned(reply: Json) -> str | None:
    """A reply that reasons before it answers, whole: a completion to learn from; None for a bare answer."""
    return reply.strip() if isinstance(reply, str) and "<think>" in reply and "<answer>" in reply else None


def _split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """The question and its options: the run of lines at its end that start with A, B, C and so on."""
    lines = text.rstrip().split("\n")
    letters: list[str] = []
    options: list[str] = []
    start = len(lines)
    while start and (match := _OPTION.fullmatch(lines[start - 1].strip())):
        start -= 1
        letters.insert(0, match[1])
        options.insert(0, match[2].strip())
        if match[1] == "A":
            break
    if len(options) < 2 or "".join(letters) != LETTERS[: len(options)]:
        return text.strip(), ()
    return "\n".join(lines[:start]).strip(), tuple(options)


def _letter(reply: Json, options: tuple[str, ...]) -> str | None:
    """The gold letter of a reply that is a letter, an option's text or both; None for anything else."""
    answer = _bare_answer(str(reply))
    folded_options = [_folded(option) for option in options]
    if _folded(answer) in folded_options:
        return LETTERS[folded_options.index(_folded(answer))]
    match = _OPTION.fullmatch(answer) or re.fullmatch(r"\(?([A-Z])[.)]?()", answer)
    if match is None or match[1] not in LETTERS[: len(options)]:
        return None
    text = _folded(match[2])
    return match[1] if text in ("", folded_options[LETTERS.index(match[1])]) else None


def _folded(text: str) -> str:
    return text.casefold().rstrip(".")


def _bare_answer(reply: str) -> str:
    """What stands in the answer tags, if there are any."""
    _, opening_tag, answer = reply.rpartition("<answer>")
    return (answer.partition("</answer>")[0] if opening_tag else reply).strip()


def _boxes(reply: Json) -> tuple[Box, ...] | None:
    """The boxes of a reply that is nothing but boxes; None for any other."""
    if isinstance(reply, str):
        text = _bare_answer(reply).removeprefix("```json").removesuffix("```").strip()
        try:
            reply = parse_json(text, "a reply")
        except InputError:
            return None
    values = reply if isinstance(reply, list) else [reply]
    if is_four_numbers(values):
        values = [values]
    boxes = []
    for value in values:
        xyxy, label = value, ""
        if isinstance(value, dict):
            xyxy, label = value.get("bbox_2d"), value.get("label", "")
        if not is_four_numbers(xyxy):
            return None
        boxes.append(Box(x1=xyxy[0], y1=xyxy[1], x2=xyxy[2], y2=xyxy[3], label=str(label)))
    return tuple(boxes)


def _verdict(questions: tuple[Question, ...]) -> bool | None:
    """What the gold of a yes/no question says; None where there is none."""
    for question in questions:
        if question.kind == "anomaly detection" and question.answer is not None:
            word = _folded(question.option_text(question.answer))
            return {"yes": True, "no": False}.get(word, _says_defect(word))
    return None


def _says_defect(word: str) -> bool | None:
    """Whether a word for the state of a part says defective; None where it is no such word."""
    return word in BAD if word in GOOD | BAD else None
