"""A pool of drawn training images on disk: drawn by background processes in shards, read while it grows.

A shard is a folder, renamed into place when whole: one JSON line a defective part, and for each image size in
the model's frame an array of images, of the same parts without the defect (same pose, light and camera: only
the defect differs), of reference images (for every other part) and of how much of each 14-pixel square is
defective.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from anomalyr1 import prompts
from anomalyr1.drawn import draw as procedural
from anomalyr1.drawn import questions as drawn_questions
from anomalyr1.drawn import record as drawn_record
from anomalyr1.drawn import words as drawn_words
from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.images import FAMILIES, Frame, resize
from anomalyr1.nano.helper_losses import Truth
from anomalyr1.nano.packing import CELL, Pixels
from anomalyr1.types import Sample

FAMILY = FAMILIES["qwen2_5_vl"]
CATEGORIES: tuple[str, ...] = drawn_words.TRAINED
KINDS: tuple[str, ...] = procedural.DEFECTS
UNFAMILIAR_SHARE = 0.5
"""Of the pairs; the others are of the seen categories."""
TRAINING_SEEDS = 7_000_000_000
HELD_OUT_SEEDS = {"seen": 8_000_000_000, "dev": 8_500_000_000}
"""First seeds of what is trained on and of what it is examined on; they never meet."""


@dataclass(frozen=True)
class Example:
    """One drawn image in the model's frame with all its truth."""

    sample: Sample
    """Its boxes in pixels of the original drawing."""
    frame: Frame
    image: Pixels
    """(H, W, 3), sides multiples of 28."""
    reference: Pixels | None
    """Another good part of the same design, same size; None = not drawn."""
    cover: NDArray[np.float32]
    """(H / 14, W / 14) share that is defective."""
    look: str
    """How the defect looks, in words; empty when good."""
    facts: tuple[str, ...]
    """What can be seen of the object, in words."""

    @property
    def truth(self) -> Truth:
        """What helper losses learn from."""
        kind = 0 if self.sample.defect is None else 1 + KINDS.index(self.sample.defect)
        found = [self.frame.to_model(box.xyxy) for box in self.sample.boxes or ()]
        category = CATEGORIES.index(self.sample.category) if self.sample.category in CATEGORIES else 0
        return Truth(
            category,
            kind,
            self.cover,
            np.array(found, dtype=np.float32).reshape(-1, 4),
            self.look,
            self.facts,
        )


def example(
    seed: int, category: str | None, with_reference: bool, max_pixels: int, defect: str | None = "any"
) -> Example:
    """Draw one example; `category` None takes one of the seen ones, `defect` is as in `procedural.draw`."""
    drawn = procedural.draw(seed, category, defect)
    picture, frame = resize(Image.fromarray(drawn.image), FAMILY, max_pixels)
    other = None
    if with_reference:
        other = np.asarray(resize(Image.fromarray(procedural.reference(drawn)), FAMILY, max_pixels)[0])
    w, h = frame.model_wh
    fine = cv2.resize(drawn.mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    cover = fine.reshape(2 * h // CELL, CELL // 2, 2 * w // CELL, CELL // 2).mean((1, 3))
    sample = _as_sample(drawn)
    count = () if drawn.facts.count is None else (f"{drawn.facts.count[1]} {drawn.facts.count[0]}",)
    return Example(
        sample,
        frame,
        np.asarray(picture),
        other,
        cover,
        drawn.description,
        (drawn.facts.colour, drawn.facts.shape, *count),
    )


def _as_sample(drawn: drawn_record.Drawn) -> Sample:
    name = drawn_questions.drawn_id(drawn)
    asked = drawn_questions.questions(drawn, np.random.default_rng([drawn.seed, 77]), prompts.GROUNDING_TEXT)
    return Sample(
        id=name, image=Path(f"{name}.png"), knowledge=drawn.knowledge, dataset="drawn", category=drawn.category, defect=drawn.defect,
        anomalous=drawn.defect is not None, boxes=drawn.boxes, questions=asked,
    )  # fmt: skip


def draw_shard(pool: Path, number: int, size: int, max_pixels: int) -> None:
    """Draw shard `number` of `size` examples, unless it is there already."""
    target = pool / f"shard{number:05}"
    if target.exists():
        return
    fresh = pool / f".drawing{number:05}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    first = TRAINING_SEEDS + number * size
    pairs = [_pair(first + i, i % 2 == 0, max_pixels) for i in range(size)]
    lines = []
    for wh in sorted({bad.frame.model_wh for bad, _ in pairs}):
        for half in "ab":
            chosen = [
                (bad, good)
                for bad, good in pairs
                if bad.frame.model_wh == wh and (bad.reference is None) == (half == "b")
            ]
            if not chosen:
                continue
            stem = f"{wh[0]}x{wh[1]}{half}"
            np.save(fresh / f"{stem}.image.npy", np.stack([bad.image for bad, _ in chosen]))
            np.save(fresh / f"{stem}.twin.npy", np.stack([good.image for _, good in chosen]))
            np.save(
                fresh / f"{stem}.cover.npy", np.stack([bad.cover for bad, _ in chosen]).astype(np.float16)
            )
            if half == "a":
                np.save(
                    fresh / f"{stem}.reference.npy",
                    np.stack([bad.reference for bad, _ in chosen if bad.reference is not None]),
                )
            lines += [_line(stem, i, bad, good) for i, (bad, good) in enumerate(chosen)]
    (fresh / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    fresh.rename(target)


def _pair(seed: int, with_reference: bool, max_pixels: int) -> tuple[Example, Example]:
    """A defective part and the same part good."""
    rng = np.random.default_rng([seed, 78])
    seen = drawn_words.SPLITS["seen"]
    category = (
        drawn_words.UNFAMILIAR if rng.random() < UNFAMILIAR_SHARE else seen[int(rng.integers(len(seen)))]
    )
    good = example(seed, category, False, max_pixels, None)
    legal = [kind for kind in procedural.LEGAL[category] if kind not in drawn_words.HELD_OUT_DEFECTS]
    if (
        category == drawn_words.UNFAMILIAR and len(good.facts) < 3
    ):  # nothing to count, so nothing can be missing
        legal = [kind for kind in legal if kind not in LOGICAL]
    for kind in rng.permutation(legal):
        try:
            return example(seed, category, with_reference, max_pixels, str(kind)), good
        except procedural.Invisible:  # a missing stud of its part's own colour, for instance
            continue
    raise procedural.Invisible(f"no kind of defect could be drawn on {category}, seed {seed}")


def _line(stem: str, row: int, bad: Example, good: Example) -> dict[str, Any]:
    samples = {"sample": bad.sample.to_json(), "twin": good.sample.to_json()}
    return {
        "stem": stem,
        "row": row,
        "original_wh": bad.frame.original_wh,
        **samples,
        "look": bad.look,
        "facts": bad.facts,
    }


@dataclass(frozen=True)
class Seen:
    """An image, or a square of one, and what is to be seen on it, without questions."""

    image: Pixels
    truth: Truth


@dataclass(frozen=True)
class _Entry:
    line: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def open(self, good: bool, aligned: bool = False) -> Example:
        """The defective part, or the same part good; with `aligned` on, that same good part is its reference, too."""
        row = self.line["row"]
        references = self.arrays["twin"] if aligned else self.arrays.get("reference")
        cover = self.arrays["cover"][row].astype(np.float32)
        return Example(
            self.sample(good), self.frame,
            self.arrays["twin" if good else "image"][row], None if references is None else references[row],
            0 * cover if good else cover, "" if good else self.line["look"], tuple(self.line["facts"]),
        )  # fmt: skip

    def seen(self, good: bool) -> Seen:
        """The same, without its questions: much quicker."""
        row, sample = self.line["row"], json.loads(self.line["sample"])
        cover = self.arrays["cover"][row].astype(np.float32)
        category, facts = CATEGORIES.index(sample["category"]), tuple(self.line["facts"])
        if good:
            return Seen(
                self.arrays["twin"][row],
                Truth(category, 0, 0 * cover, np.zeros((0, 4), np.float32), "", facts),
            )
        frame = self.frame
        found = np.array(
            [frame.to_model((b["x1"], b["y1"], b["x2"], b["y2"])) for b in sample["boxes"]], np.float32
        ).reshape(-1, 4)
        return Seen(
            self.arrays["image"][row],
            Truth(category, 1 + KINDS.index(self.defect), cover, found, self.line["look"], facts),
        )

    @property
    def frame(self) -> Frame:
        """Between the original drawing and the image."""
        w, h = (int(n) for n in self.line["stem"].rstrip("ab").split("x"))
        return Frame(tuple(self.line["original_wh"]), (w, h), "pixels")

    @property
    def defect(self) -> str:
        """The kind of defect of the defective part."""
        label: str = json.loads(self.line["sample"])["defect"]
        return label

    def sample(self, good: bool) -> Sample:
        return Sample.from_json(self.line["twin" if good else "sample"])


class Pool:
    """The examples drawn so far, by size in the model's frame."""

    def __init__(self, folder: Path, without: Sequence[str] = ()) -> None:
        """Read the shards that are there, all but the pairs of some kinds of defect."""
        self.folder, self.without = folder, without
        self._read: set[str] = set()
        self._by_stem: dict[str, list[_Entry]] = {}
        self.refresh()

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._by_stem.values())

    def refresh(self) -> None:
        """Take up shards that were finished since."""
        for shard in sorted(self.folder.glob("shard*")):
            if shard.name in self._read:
                continue
            self._read.add(shard.name)
            arrays: dict[str, dict[str, NDArray[Any]]] = {}
            for path in sorted(shard.glob("*.npy")):
                stem, name, _ = path.name.split(".")
                arrays.setdefault(stem, {})[name] = np.load(path, mmap_mode="r")
            for text in (shard / "samples.jsonl").read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                entry = _Entry(line, arrays[line["stem"]])
                if entry.defect not in self.without:
                    self._by_stem.setdefault(line["stem"], []).append(entry)

    def pairs(self, count: int, rng: Generator) -> list[tuple[Seen, Seen]]:
        """Random defective parts, each with the same part good."""
        return [(entry.seen(good=False), entry.seen(good=True)) for entry in self._some(rng, count)]

    def batch(
        self, rng: Generator, cells: int, with_reference: bool, aligned: bool = False, good: float = 0.5
    ) -> list[Example]:
        """Examples of one random size, as many as hold about `cells` image cells (6 to 24); all with a reference image if asked for.

        A share `good` of them is good. With `aligned` on the reference is the same part without the defect,
        in the same pose.
        """
        stems = sorted(stem for stem in self._by_stem if stem.endswith("a") or not with_reference)
        counts = np.array([len(self._by_stem[stem]) for stem in stems], dtype=np.float64)
        stem = stems[int(rng.choice(len(stems), p=counts / counts.sum()))]
        w, h = (int(n) // CELL for n in stem.rstrip("ab").split("x"))
        count = int(np.clip(cells // (w * h), 6, 24))
        entries = [self._by_stem[stem][int(i)] for i in rng.integers(len(self._by_stem[stem]), size=count)]
        return [entry.open(bool(rng.random() < good), aligned) for entry in entries]

    def marks(self, rng: Generator, size_wh: tuple[int, int], count: int) -> list[NDArray[np.int16]]:
        """What random defective parts of this size have more than their good twins, (H, W, 3) each."""
        entries = [
            entry for half in "ab" for entry in self._by_stem.get(f"{size_wh[0]}x{size_wh[1]}{half}", [])
        ]
        picked = [entries[int(i)] for i in rng.integers(len(entries), size=count)]
        return [
            one.arrays["image"][one.line["row"]].astype(np.int16) - one.arrays["twin"][one.line["row"]]
            for one in picked
        ]

    def some(self, rng: Generator, count: int) -> list[Sample]:
        """Random samples, without their images."""
        return [entry.sample(good=bool(rng.random() < 0.4)) for entry in self._some(rng, count)]

    def _some(self, rng: Generator, count: int) -> list[_Entry]:
        stems = sorted(self._by_stem)
        entries = [self._by_stem[stem] for stem in stems]
        chances = np.array([len(some) for some in entries], dtype=np.float64)
        picked = [entries[int(k)] for k in rng.choice(len(entries), size=count, p=chances / chances.sum())]
        return [some[int(rng.integers(len(some)))] for some in picked]

    def samples(self, limit: int) -> Iterator[Sample]:
        """Some samples, for their words."""
        entries = [entry for stem in sorted(self._by_stem) for entry in self._by_stem[stem]]
        for number, i in enumerate(np.linspace(0, len(entries) - 1, min(limit, len(entries))).astype(int)):
            yield entries[i].sample(good=number % 3 == 0)


def held_out(split: str, count: int, max_pixels: int, first: int = 0) -> list[Example]:
    """Examples that training never sees, categories in turn; half with a reference image drawn."""
    categories: Sequence[str] = drawn_words.SPLITS[split]
    start = HELD_OUT_SEEDS[split] + first
    return [
        example(start + i, categories[i % len(categories)], (i // len(categories)) % 2 == 0, max_pixels)
        for i in range(count)
    ]
