"""MMAD (Jiang et al., ICLR 2025): its questions as published, and its known faults, reported and mended on demand.

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
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from anomalyr1.data import readers as manifests
from anomalyr1.data.paths import PathDoor
from anomalyr1.data.readers import Json
from anomalyr1.data.samples import Packer, Samples, require_some, require_unique
from anomalyr1.types import LETTERS, InputError, Kind, Question, Record, Sample

Fix = Literal["pill", "verdict", "masks"]

_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind) if kind != "grounding"}
_PILL = re.compile(r"DS-MVTec/pill/image/good/0(?:[01]\d|2[01])\.\w+")
"""Pictures of metal nuts, by report those of metal_nut/good again (jam-cc/MMAD issues 15 and 19)."""
_NO_VERDICT = "images without a verdict question"
_NO_MASK = "LOCO anomalies without a mask"
_METAL_NUTS = "images of pill/good that show metal nuts"
_EXPECTED = "entries with conversation, mask_path, random_templates and similar_templates by image path"


def _fixes(value: object) -> object:
    """One text as the names in it."""
    if isinstance(value, str):
        return get_args(Fix) if value == "all" else [name.strip() for name in value.split(",")]
    return value


class Options(Record):
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


def load(spec: str, path: Path, options: Options) -> Samples:
    """The samples of `mmad.json`, or of the file itself. What was found is in `notes`, mended or not."""
    path = path / "mmad.json" if path.is_dir() else path
    texts = _knowledge(path.parent / "domain_knowledge.json") if options.knowledge else {}
    door = PathDoor(path.parent, path, links=options.links)
    packer, notes, keys, unknown = Packer(), Counter[str](), list[str](), dict[str, None]()
    for key, value, text in manifests.entries(path):
        if not door.check(key):
            continue
        entry = _Entry(path, key, value)
        for one in (*entry.templates("random"), *entry.templates("similar")):
            door.check(one)
        if entry.given_mask is not None and door.check(entry.given_mask, entry.mask_folder):
            door.check(entry.mask(False))
        entry.count(notes, options, texts)
        unknown.update(dict.fromkeys(entry.unknown_types()))
        if _PILL.fullmatch(key) and "pill" in options.fix:
            continue
        keys.append(key)
        packer.add_text(f"[{json.dumps(key)},{text}]")
    if unknown:
        raise InputError(
            f"{str(path)!r}: unknown question types {', '.join(map(repr, unknown))}; known: {', '.join(_KINDS)}"
        )
    require_unique(keys, str(path))
    door.close()
    rows = require_some(packer.done(), str(path), _EXPECTED)
    samples = Samples(spec, "MMAD", rows, _Build(path, options, texts), notes)
    return samples.with_boxes() if options.boxes else samples


class _Entry:
    """One entry of the file; raises `InputError` where it has not the published form."""

    def __init__(self, path: Path, key: str, value: Json) -> None:
        self.key, self.parts = key, key.split("/")
        self.good = "good" in self.parts[:-1]
        self.logical = "logical_anomalies" in self.parts
        if not isinstance(value, dict) or not isinstance(value.get("conversation"), list):
            raise InputError(f"{str(path)!r}: the entry {key!r} has no conversation; expected {_EXPECTED}")
        self._value: dict[str, Any] = value
        self.asked: list[dict[str, Any]] = value["conversation"]
        self.given_mask = value.get("mask_path") or None
        """As written."""
        for one in self.asked:
            if not _has_the_form(one):
                raise InputError(
                    f"{str(path)!r}: the entry {key!r} has a question that is no object with Question, Options (at most {len(LETTERS)}), "
                    "Answer and type"
                )
        if len(self.parts) < 3:
            raise InputError(f"{str(path)!r}: the key {key!r} is no path of data set, class and image")

    def templates(self, which: str) -> list[Any]:
        """The templates of one sort, all of them."""
        found = self._value.get(f"{which}_templates") or []
        return found if isinstance(found, list) else [found]

    @property
    def mask_folder(self) -> str:
        """The folder, with its slash, at which `given_mask` starts; "" for the root."""
        given = self.given_mask
        return (
            ""
            if isinstance(given, str) and given.startswith(f"{self.parts[0]}/")
            else "/".join(self.parts[:3]) + "/"
        )

    def mask(self, mend: bool) -> str | None:
        """The path of the mask from the root, or None; for LOCO the folder that holds all files of the mask.

        `mend` tells where LOCO keeps a mask that the entry does not name.
        """
        loco = self.parts[0] == "MVTec-LOCO" and not self.good
        if self.given_mask is None:
            known = mend and loco and len(self.parts) == 5
            return (
                "/".join((*self.parts[:2], "ground_truth", self.parts[3], self.parts[4].rpartition(".")[0]))
                if known
                else None
            )
        path = f"{self.mask_folder}{self.given_mask}"
        return path.rpartition("/")[0] if loco and path.count("/") == 5 else path

    def unknown_types(self) -> list[str]:
        """Types of questions that MMAD does not have."""
        return [str(one.get("type")) for one in self.asked if _folded(str(one.get("type"))) not in _KINDS]

    def verdicts(self) -> list[dict[str, Any]]:
        """Its yes/no questions."""
        return [one for one in self.asked if _folded(str(one.get("type"))) == "anomaly detection"]

    def count(self, notes: Counter[str], options: Options, texts: dict[tuple[str, str], str]) -> None:
        """Count what is noteworthy about the entry."""
        notes[_METAL_NUTS] += bool(_PILL.fullmatch(self.key))
        notes[_NO_VERDICT] += not self.verdicts()
        notes["logical anomalies"] += self.logical
        notes[_NO_MASK] += self.parts[0] == "MVTec-LOCO" and not self.good and self.given_mask is None
        notes["anomalies of other data sets without a mask"] += (
            self.parts[0] != "MVTec-LOCO" and not self.good and self.given_mask is None
        )
        notes["verdict questions that contradict the folder"] += sum(
            _contradicts(one, self.good) for one in self.verdicts()
        )
        notes["gold answers that are none of the options"] += sum(
            one.get("Answer") not in one["Options"] for one in self.asked
        )
        notes["questions whose options had other letters"] += sum(
            not LETTERS.startswith("".join(one["Options"])) for one in self.asked
        )
        notes[f"samples with fewer than {options.shots} {options.template} templates"] += (
            len(self.templates(options.template)) < options.shots
        )
        notes["samples of a class without knowledge"] += options.knowledge and self.subject() not in texts

    def subject(self) -> tuple[str, str]:
        """Where its knowledge stands: data set and class."""
        return (self.parts[0].replace("DS-MVTec", "MVTec"), self.parts[1])


@dataclass(frozen=True)
class _Build:
    """Builds the samples."""

    path: Path
    options: Options
    texts: dict[tuple[str, str], str]

    def __call__(self, row: list[Any], open_files: bool) -> Sample:
        entry = _Entry(self.path, row[0], row[1])
        root, options = self.path.parent, self.options
        mask = entry.mask("masks" in options.fix)
        asked = [_question(f"{entry.key}#{number}", one, options) for number, one in enumerate(entry.asked)]
        if "verdict" in options.fix and not entry.verdicts():
            asked.append(_verdict(entry, options.seed))
        sample = Sample(
            id=entry.key,
            image=root / entry.key,
            references=tuple(root / one for one in entry.templates(options.template)[: options.shots]),
            knowledge=self.texts.get(entry.subject(), ""),
            dataset=entry.parts[0],
            category=entry.parts[1],
            defect=None if entry.good else entry.parts[-2],
            anomalous=not entry.good,
            logical=entry.logical,
            mask=root / mask if mask else None,
            boxes=() if entry.good else None,
            questions=tuple(asked),
        )
        if open_files and sample.boxes is None:
            from anomalyr1.data import mask_files as truth

            return sample.model_copy(update={"boxes": truth.boxes_of(sample) or None})
        return sample


def _has_the_form(one: Json) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("Question"), str)
        and isinstance(one.get("Options"), dict)
        and len(one["Options"]) <= len(LETTERS)
        and isinstance(one.get("Answer"), str | None)
    )


def _question(name: str, one: dict[str, Any], options: Options) -> Question:
    letters = list(one["Options"])
    answer = one.get("Answer")
    gold = letters.index(answer) if answer in letters else None
    order = list(range(len(letters)))
    if options.option_order == "shuffled":
        order = _shuffled(name, len(letters), options.seed)
    return Question(
        id=name,
        kind=_KINDS[_folded(str(one.get("type")))],
        text=one["Question"],
        options=tuple(str(one["Options"][letters[place]]) for place in order),
        answer=None if gold is None else LETTERS[order.index(gold)],
    )


def _verdict(entry: _Entry, seed: int) -> Question:
    from anomalyr1.data.multiple_choice import choice
    from anomalyr1.prompts import VERDICT_OPTIONS, VERDICT_TEXT

    gold = VERDICT_OPTIONS[1 if entry.good else 0]
    return choice(
        _rng(entry.key, seed),
        f"{entry.key}#verdict",
        "anomaly detection",
        VERDICT_TEXT,
        gold,
        VERDICT_OPTIONS,
        2,
    )


def _shuffled(name: str, n: int, seed: int) -> list[int]:
    return [int(place) for place in _rng(name, seed).permutation(n)]


def _rng(name: str, seed: int) -> Any:  # numpy is loaded only where something is drawn
    import numpy as np

    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogatepass"))])


def _contradicts(one: dict[str, Any], good: bool) -> bool:
    """Whether the gold of a yes/no question says otherwise than the image's folder."""
    said = str(one["Options"].get(one.get("Answer"), "")).strip().casefold().rstrip(".")
    return said in ("yes", "no") and (said == "no") != good


@lru_cache(1024)
def _folded(kind: str) -> str:
    return " ".join(kind.casefold().split())


def _knowledge(path: Path) -> dict[tuple[str, str], str]:
    """Text by data set and class."""
    data = manifests.whole(path)
    try:
        return {
            (name, kind): "\n".join(texts.values())
            for name, kinds in data.items()
            for kind, texts in kinds.items()
        }
    except (AttributeError, TypeError) as error:
        raise InputError(f"{str(path)!r}: expected texts by data set, class and defect ({error})") from error
