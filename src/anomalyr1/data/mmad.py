"""MMAD (Jiang et al., ICLR 2025): its questions as published; its known faults, mended on demand.

Layout: `mmad.json` beside the folders DS-MVTec, MVTec-AD, MVTec-LOCO, VisA and GoodsAD, and
`domain_knowledge.json`. One entry per image: `conversation` (a list of `Question`, `Answer`, `Options`,
`type`), `mask_path`, `random_templates`, `similar_templates`.

Read as the benchmark's own scripts do: the key is the image's path; the first k templates are the reference
images; knowledge is all texts of the class, joined by line ends, where DS-MVTec is found under `MVTec`; an
image is good when its folder is. `mask_path` starts, as the script that makes the benchmark's table has it,
at the first three components of the image's path, or at the root where it begins with the image's data set.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from anomalyr1.data.paths import PathDoor
from anomalyr1.data.readers import Json, read_json, read_json_entries
from anomalyr1.data.samples import Samples, listed, require_some, require_unique
from anomalyr1.types import LETTERS, InputError, Kind, Question, Record, Sample, quoted

if TYPE_CHECKING:
    from numpy.random import Generator

Fix = Literal["pill", "verdict", "masks"]
Subject = tuple[str, str]
"""Data set and class, as the file of knowledge names them."""

_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind) if kind != "grounding"}
_PILL = re.compile(r"DS-MVTec/pill/image/good/0(?:[01]\d|2[01])\.\w+")
"""Pictures of metal nuts, by report those of metal_nut/good again (jam-cc/MMAD issues 15 and 19)."""
_LOCO = "MVTec-LOCO"
_EXPECTED = "entries with conversation, mask_path, random_templates and similar_templates by image path"


def _fixes(value: object) -> object:
    """The names in a text, with commas between."""
    if isinstance(value, str):
        return get_args(Fix) if value == "all" else [name.strip() for name in value.split(",")]
    return value


class MmadOptions(Record):
    """How MMAD is asked for."""

    shots: int = Field(default=0, ge=0)
    """Reference images per sample."""
    template: Literal["random", "similar"] = "random"
    """Which templates: random ones of the class, or those most similar to the image."""
    knowledge: bool = False
    """Give the domain knowledge of the class."""
    option_order: Literal["given", "shuffled"] = "given"
    """Options as published, or shuffled per question; the gold answer follows its text."""
    seed: int = Field(default=0, ge=0)
    """Shuffles options, and orders those of added verdict questions."""
    fix: Annotated[frozenset[Fix], BeforeValidator(_fixes)] = frozenset()
    """Known faults to mend: "pill" leaves out the 22 metal nuts among the pills, "verdict" adds the missing
    verdict questions, "masks" points LOCO anomalies without a mask to where LOCO keeps it. Several as a list
    or with commas, or "all"."""
    boxes: bool = False
    """Open masks for boxes (`Samples.with_boxes`); no question is added."""
    links: bool = False
    """Follow symbolic links that lead out of the folder, as the benchmark's instructions suggest to make
    them."""


def load(spec: str, path: Path, options: MmadOptions) -> Samples:
    """The samples of `mmad.json`, or of the file itself. What is noteworthy is in `notes`, mended or not.

    Raises `InputError` for another form, unknown types of questions, refused paths, and images that come
    twice.
    """
    path = _questions_file(path) if path.is_dir() else path
    knowledge = _read_knowledge(path.parent / "domain_knowledge.json") if options.knowledge else {}
    door, notes = PathDoor(path.parent, path, links=options.links), Counter[str]()
    rows: list[tuple[str, str]] = []
    unknown_types: dict[str, None] = {}  # each once, in the order of the file
    for key, value, text in read_json_entries(path):
        if not door.check(key):
            continue
        _require_form(path, key, value)
        entry = MmadEntry(key, value)
        for template in (*entry.templates("random"), *entry.templates("similar")):
            door.check(template)
        if entry.mask_path is not None and door.check(entry.mask_path, entry.mask_folder):
            door.check(entry.mask(False))
        _count(entry, options, knowledge, notes)
        unknown_types.update(dict.fromkeys(entry.unknown_types()))
        if not (entry.shows_metal_nut and "pill" in options.fix):
            rows.append((key, text))
    if unknown_types:
        raise InputError(
            f"{str(path)!r}: unknown question types {listed(list(unknown_types))}; known: {', '.join(_KINDS)}"
        )
    require_unique((key for key, _ in rows), str(path))
    door.close()
    require_some(rows, str(path), _EXPECTED)
    samples = Samples(spec, "MMAD", rows, _MmadBuilder(path.parent, options, knowledge), notes)
    return samples.with_boxes() if options.boxes else samples


def _questions_file(folder: Path) -> Path:
    """The file of questions in a folder. Raises `InputError` that names the files it might be."""
    path = folder / "mmad.json"
    if not path.is_file():
        names = sorted(entry.name for entry in folder.glob("*.json") if entry.name != "domain_knowledge.json")
        hint = f"name the file: {' or '.join(f'mmad:{folder / name}' for name in names[:3])}"
        raise InputError(
            f"{str(folder)!r} holds no mmad.json; {hint if names else 'name the file: mmad:FOLDER/FILE'}"
        )
    return path


class MmadEntry:
    """An entry of the published form: the path of an image, and what the file says about it."""

    def __init__(self, key: str, value: dict[str, Any]) -> None:
        self.key, self.parts = key, key.split("/")
        self.dataset, self.category = self.parts[:2]
        self.good = "good" in self.parts[:-1]
        self.logical = "logical_anomalies" in self.parts
        self.loco_anomaly = self.dataset == _LOCO and not self.good
        self.conversation: list[dict[str, Any]] = value["conversation"]
        self.mask_path = value.get("mask_path") or None
        """The path of the mask as the file writes it."""
        self._value = value

    @property
    def subject(self) -> Subject:
        """Where its knowledge stands."""
        return (self.dataset.replace("DS-MVTec", "MVTec"), self.category)

    @property
    def shows_metal_nut(self) -> bool:
        """Whether it is one of the images of pills that show metal nuts."""
        return _PILL.fullmatch(self.key) is not None

    def templates(self, sort: str) -> list[Any]:
        """All templates of one sort, "random" or "similar"."""
        templates = self._value.get(f"{sort}_templates") or []
        return templates if isinstance(templates, list) else [templates]

    @property
    def mask_folder(self) -> str:
        """The folder, with its slash, at which `mask_path` starts; "" for the root."""
        if isinstance(self.mask_path, str) and self.mask_path.startswith(f"{self.dataset}/"):
            return ""
        return "/".join(self.parts[:3]) + "/"

    def mask(self, mend: bool) -> str | None:
        """The path of the mask from the root, or None; for LOCO the folder that holds all files of the mask.

        `mend` tells where LOCO keeps a mask that the entry does not name.
        """
        if self.mask_path is not None:
            path = f"{self.mask_folder}{self.mask_path}"
            return path.rpartition("/")[0] if self.loco_anomaly and path.count("/") == 5 else path
        if mend and self.loco_anomaly and len(self.parts) == 5:
            defect, file_name = self.parts[3:]
            return "/".join((*self.parts[:2], "ground_truth", defect, file_name.rpartition(".")[0]))
        return None

    def unknown_types(self) -> list[str]:
        """Types of its questions that MMAD does not have."""
        types = [str(question.get("type")) for question in self.conversation]
        return [name for name in types if _folded(name) not in _KINDS]

    def verdict_questions(self) -> list[dict[str, Any]]:
        """Its yes/no questions."""
        return [
            question
            for question in self.conversation
            if _folded(str(question.get("type"))) == "anomaly detection"
        ]


def _require_form(path: Path, key: str, value: Json) -> None:
    """Raise `InputError` where an entry has not the published form."""
    if not isinstance(value, dict) or not isinstance(value.get("conversation"), list):
        raise InputError(f"{str(path)!r}: the entry {quoted(key)} has no conversation; expected {_EXPECTED}")
    if not all(_is_question(question) for question in value["conversation"]):
        raise InputError(
            f"{str(path)!r}: the entry {quoted(key)} has a question that is no object with Question, Options "
            f"(at most {len(LETTERS)}), Answer and type"
        )
    if key.count("/") < 2:
        raise InputError(f"{str(path)!r}: the key {quoted(key)} is no path of data set, class and image")


def _is_question(value: Json) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("Question"), str)
        and isinstance(value.get("Options"), dict)
        and len(value["Options"]) <= len(LETTERS)
        and isinstance(value.get("Answer"), str | None)
    )


def _count(
    entry: MmadEntry, options: MmadOptions, knowledge: dict[Subject, str], notes: Counter[str]
) -> None:
    """Count what is noteworthy about an entry."""
    verdicts = entry.verdict_questions()
    without_mask = not entry.good and entry.mask_path is None
    too_few_templates = len(entry.templates(options.template)) < options.shots
    notes["images of pill/good that show metal nuts"] += entry.shows_metal_nut
    notes["images without a verdict question"] += not verdicts
    notes["logical anomalies"] += entry.logical
    notes["LOCO anomalies without a mask"] += without_mask and entry.loco_anomaly
    notes["anomalies of other data sets without a mask"] += without_mask and not entry.loco_anomaly
    contradictions = sum(_contradicts(question, entry.good) for question in verdicts)
    without_gold = sum(question.get("Answer") not in question["Options"] for question in entry.conversation)
    other_letters = sum(
        not LETTERS.startswith("".join(question["Options"])) for question in entry.conversation
    )
    notes["verdict questions that contradict the folder"] += contradictions
    notes["gold answers that are none of the options"] += without_gold
    notes["questions whose options had other letters"] += other_letters
    notes[f"samples with fewer than {options.shots} {options.template} templates"] += too_few_templates
    if options.knowledge:
        notes["samples of a class without knowledge"] += entry.subject not in knowledge


@dataclass(frozen=True)
class _MmadBuilder:
    """Builds the samples from rows: the key of an entry and its JSON text, a third of its objects' memory."""

    root: Path
    options: MmadOptions
    knowledge: dict[Subject, str]

    def __call__(self, row: tuple[str, str], open_files: bool) -> Sample:
        key, text = row
        entry, options = MmadEntry(key, json.loads(text)), self.options
        mask = entry.mask("masks" in options.fix)
        questions = [
            _question(f"{key}#{number}", question, options)
            for number, question in enumerate(entry.conversation)
        ]
        if "verdict" in options.fix and not entry.verdict_questions():
            questions.append(_added_verdict(entry, options.seed))
        templates = entry.templates(options.template)[: options.shots]
        sample = Sample(
            id=key,
            image=self.root / key,
            references=tuple(self.root / template for template in templates),
            knowledge=self.knowledge.get(entry.subject, ""),
            dataset=entry.dataset,
            category=entry.category,
            defect=None if entry.good else entry.parts[-2],
            anomalous=not entry.good,
            logical=entry.logical,
            mask=self.root / mask if mask else None,
            boxes=() if entry.good else None,
            questions=tuple(questions),
        )
        if open_files and sample.boxes is None:
            from anomalyr1.data import mask_files  # numpy is loaded only where masks are opened

            return sample.model_copy(update={"boxes": mask_files.boxes_of(sample) or None})
        return sample


def _question(name: str, question: dict[str, Any], options: MmadOptions) -> Question:
    letters = list(question["Options"])
    answer = question.get("Answer")
    order = list(range(len(letters)))
    if options.option_order == "shuffled":
        order = [int(place) for place in _rng(name, options.seed).permutation(len(letters))]
    return Question(
        id=name,
        kind=_KINDS[_folded(str(question.get("type")))],
        text=question["Question"],
        options=tuple(str(question["Options"][letters[place]]) for place in order),
        answer=LETTERS[order.index(letters.index(answer))] if answer in letters else None,
    )


def _added_verdict(entry: MmadEntry, seed: int) -> Question:
    from anomalyr1.data.multiple_choice import choice
    from anomalyr1.prompts import VERDICT_OPTIONS, VERDICT_TEXT

    gold = VERDICT_OPTIONS[1 if entry.good else 0]
    name, rng = f"{entry.key}#verdict", _rng(entry.key, seed)
    return choice(rng, name, "anomaly detection", VERDICT_TEXT, gold, VERDICT_OPTIONS, 2)


def _rng(name: str, seed: int) -> Generator:
    import numpy as np  # loaded only where something is drawn

    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogatepass"))])


def _contradicts(question: dict[str, Any], good: bool) -> bool:
    """Whether the gold of a yes/no question says otherwise than the image's folder."""
    gold = str(question["Options"].get(question.get("Answer"), "")).strip().casefold().rstrip(".")
    return gold in ("yes", "no") and (gold == "no") != good


@lru_cache(1024)
def _folded(kind: str) -> str:
    return " ".join(kind.casefold().split())


def _read_knowledge(path: Path) -> dict[Subject, str]:
    """All texts of each class, joined by line ends, as the benchmark does."""
    content = read_json(path)
    try:
        return {
            (dataset, category): "\n".join(texts.values())
            for dataset, classes in content.items()
            for category, texts in classes.items()
        }
    except (AttributeError, TypeError) as error:
        raise InputError(f"{str(path)!r}: expected texts by data set, class and defect ({error})") from error
