"""JSON lines: our own samples, and conversations as VLM-R1 trains on them; each line may be either.

A conversation line: `image` (a path, or several: the last is inspected, those before are references),
`conversations` (turns `human` and `gpt`), and where given `id` and `type` (a subtask of MMAD). A human turn
that ends in lines "A. text", "B. text" is a question with options; a gpt turn is a letter, an option's text,
or boxes in pixels of the original image ([x1, y1, x2, y2], or objects with `bbox_2d` and `label`). Turns that
say anything else cannot be asked or scored here: they are left out and counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from anomalyr1.data import readers as manifests
from anomalyr1.data.paths import PathDoor
from anomalyr1.data.readers import Json
from anomalyr1.data.samples import Packer, Samples, require_some, require_unique
from anomalyr1.types import LETTERS, Box, InputError, Kind, Question, Record, Sample

_OPTION = re.compile(r"\(?([A-Z])[.):：][ \t]*(.*)")
_KIND_WORDS: tuple[tuple[str, Kind], ...] = (
    ("any defect", "anomaly detection"), ("anomaly", "anomaly detection"), ("defective", "anomaly detection"),
    ("type of", "defect classification"), ("kind of defect", "defect classification"), ("where", "defect localization"),
    ("appearance", "defect description"), ("effect", "defect analysis"),
)  # fmt: skip
"""Where a line does not tell the kind of its question: words of MMAD's wordings, the first that fits."""


class Options(Record):
    """What a JSON lines file can be asked for."""

    root: Path | None = None
    """Where paths start; None = the folder of the file."""
    links: bool = False
    """Follow symbolic links that lead out of the folder."""
    boxes: bool = False
    """Open masks for boxes that the lines do not give (`Samples.with_boxes`); no question is added."""


def load(spec: str, path: Path, options: Options) -> Samples:
    """The samples of a file. Raises `InputError` with the number of a line that is neither."""
    root = options.root if options.root is not None else path.parent
    door, notes, packer, ids = (
        PathDoor(root, path, links=options.links),
        Counter[str](),
        Packer(),
        list[str](),
    )
    for number, one, text in manifests.lines(path):
        where = f"line {number} of {str(path)!r}"
        if isinstance(one, dict) and "conversations" in one:
            sample = _conversation(one, where, number, notes)
            text = sample.to_json()
            named = one["image"] if isinstance(one["image"], list) else [one["image"]]
        else:
            sample = _own(text, where)
            named = [one["image"], *one.get("references", ()), *([one["mask"]] if one.get("mask") else [])]
        for file in named:  # as written: a Path would hide that it was a URL
            door.check(file)
        ids.append(sample.id)
        packer.add_text(text)
    require_unique(ids, str(path))
    door.close()
    rows = require_some(packer.done(), str(path), "one sample or conversation a line")
    samples = Samples(spec, path.stem, rows, _Build(root), notes)
    return samples.with_boxes() if options.boxes else samples


@dataclass(frozen=True)
class _Build:
    """Builds the samples: those of the file, with paths from its root."""

    root: Path

    def __call__(self, row: dict[str, Any], open_files: bool) -> Sample:
        sample = Sample.model_validate(row)
        changes: dict[str, Any] = {
            "image": self.root / sample.image,
            "references": tuple(self.root / path for path in sample.references),
            "mask": self.root / sample.mask if sample.mask else None,
        }
        sample = sample.model_copy(update=changes)
        if open_files and sample.boxes is None:
            from anomalyr1.data import mask_files as truth

            return sample.model_copy(update={"boxes": truth.boxes_of(sample)})
        return sample


def _own(text: str, where: str) -> Sample:
    try:
        return Sample.from_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise InputError(
            f"{where} is neither a sample nor a conversation ({why}); mend or delete the line"
        ) from error


def _conversation(one: dict[str, Any], where: str, number: int, notes: Counter[str]) -> Sample:
    images = one.get("image")
    images = images if isinstance(images, list) else [images]
    turns = one["conversations"]
    if not images or not all(isinstance(image, str) for image in images) or not isinstance(turns, list):
        raise InputError(f"{where}: expected image (a path or several) and conversations (a list of turns)")
    name = str(one.get("id", f"{images[-1]}#{number}"))
    try:
        asked = tuple(_questions(name, one.get("type"), turns, notes))
        return Sample(
            id=name, image=images[-1], references=tuple(images[:-1]), questions=asked, dataset=str(one.get("dataset", "")),
            category=str(one.get("category", "")), anomalous=_verdict(asked), boxes=_boxes_told(asked),
        )  # fmt: skip
    except ValidationError as error:
        raise InputError(
            f"{where}: {error.errors(include_url=False)[0]['msg']}; mend or delete the line"
        ) from error


def _questions(name: str, kind: object, turns: list[Json], notes: Counter[str]) -> Iterator[Question]:
    human = None
    number = 0
    for turn in turns:
        speaker, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if speaker == "human" and isinstance(value, str):
            human = value
        elif speaker == "gpt" and human is not None:
            question = _question(f"{name}#{number}", kind, human, value, notes)
            number += 1
            human = None
            if question is None:
                notes["conversation turns without options or boxes, left out"] += 1
            else:
                yield question
        elif speaker != "system":
            notes["conversation turns that are out of order, left out"] += 1


def _question(name: str, kind: object, human: str, reply: Json, notes: Counter[str]) -> Question | None:
    text, options = _options(re.sub(r"<image>[ \t]*\n?", "", human))
    if not options:
        boxes = _boxes(reply)
        return (
            None
            if boxes is None
            else Question(id=name, kind="grounding", text=text, boxes=boxes, completion=_reasoned(reply))
        )
    told = " ".join(str(kind).casefold().split())
    if told in get_args(Kind):
        chosen: Kind = told  # type: ignore[assignment]  # it is one of them
    else:
        notes["kinds of questions guessed from their words"] += 1
        chosen = next((found for word, found in _KIND_WORDS if word in text.casefold()), "object analysis")
    letter = _letter(reply, options)
    completion = _reasoned(reply) if letter is not None else None
    return Question(id=name, kind=chosen, text=text, options=options, answer=letter, completion=completion)


def _reasoned(reply: Json) -> str | None:
    """A reply that reasons before it answers, whole: a completion to learn from; None for a bare answer."""
    return reply.strip() if isinstance(reply, str) and "<think>" in reply and "<answer>" in reply else None


def _options(text: str) -> tuple[str, tuple[str, ...]]:
    """The question and its options: the last run of lines that start with A, B, C and so on."""
    written = text.rstrip().split("\n")
    found: list[str] = []
    at = len(written)
    while at and (match := _OPTION.fullmatch(written[at - 1].strip())):
        at -= 1
        found.insert(0, match[2].strip())
        if match[1] == "A":
            break
    heads = [line.strip().lstrip("(")[:1] for line in written[at:]]
    if len(found) < 2 or "".join(heads) != LETTERS[: len(found)]:
        return text.strip(), ()
    return "\n".join(written[:at]).strip(), tuple(found)


def _letter(reply: Json, options: tuple[str, ...]) -> str | None:
    """The gold letter of a reply that is a letter, an option's text or both; None for anything else."""
    said = _bare(str(reply))
    plain = [option.casefold().rstrip(".") for option in options]
    if said.casefold().rstrip(".") in plain:
        return LETTERS[plain.index(said.casefold().rstrip("."))]
    match = _OPTION.fullmatch(said) or re.fullmatch(r"\(?([A-Z])[.)]?()", said)
    if (
        match
        and match[1] in LETTERS[: len(options)]
        and match[2].casefold().rstrip(".") in ("", plain[LETTERS.index(match[1])])
    ):
        return match[1]
    return None


def _bare(reply: str) -> str:
    """What stands in the answer tags, if there are any."""
    _, opened, rest = reply.rpartition("<answer>")
    return (rest.partition("</answer>")[0] if opened else reply).strip()


def _boxes(reply: Json) -> tuple[Box, ...] | None:
    if isinstance(reply, str):
        text = _bare(reply).removeprefix("```json").removesuffix("```").strip()
        try:
            reply = json.loads(text)
        except (ValueError, RecursionError):
            return None
    items = reply if isinstance(reply, list) else [reply]
    if len(items) == 4 and all(isinstance(item, int | float) for item in items):
        items = [items]
    boxes = []
    for item in items:
        xyxy, label = (item.get("bbox_2d"), item.get("label", "")) if isinstance(item, dict) else (item, "")
        if not (
            isinstance(xyxy, list)
            and len(xyxy) == 4
            and all(isinstance(number, int | float) for number in xyxy)
        ):
            return None
        boxes.append(Box(x1=xyxy[0], y1=xyxy[1], x2=xyxy[2], y2=xyxy[3], label=str(label)))
    return tuple(boxes)


def _verdict(asked: tuple[Question, ...]) -> bool | None:
    """What the gold of a yes/no question says; None where there is none."""
    for question in asked:
        if question.kind == "anomaly detection" and question.answer is not None:
            said = question.options[question.letters.index(question.answer)].casefold().rstrip(".")
            return {"yes": True, "no": False}.get(said)
    return None


def _boxes_told(asked: tuple[Question, ...]) -> tuple[Box, ...] | None:
    return next((question.boxes for question in asked if question.kind == "grounding"), None)
