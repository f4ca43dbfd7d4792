"""A pool of drawn training images on disk: drawn by background processes in shards, read while it grows.

A shard is a folder, renamed into place when complete. It has one JSON line a defective part, and for each
image size in the model's frame an array of images, of the same parts without the defect (same pose, light and
camera: only the defect differs), of reference images (for every second part) and of how much of each 14-pixel
square is defective.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.drawn.draw import DEFECTS, LEGAL, Invisible, draw, reference
from anomalyr1.drawn.questions import drawn_id, questions
from anomalyr1.drawn.record import Drawn
from anomalyr1.drawn.words import HELD_OUT_DEFECTS, SPLITS, TRAINED, UNFAMILIAR
from anomalyr1.images.frames import FAMILIES, Frame, resize
from anomalyr1.nano.helper_losses import Floats, ImageTruth
from anomalyr1.nano.packing import CELL, Pixels
from anomalyr1.prompts import GROUNDING_TEXT
from anomalyr1.types import Sample

FAMILY = FAMILIES["qwen2_5_vl"]
CATEGORIES: tuple[str, ...] = TRAINED
KINDS: tuple[str, ...] = DEFECTS
UNFAMILIAR_SHARE = 0.5
"""Share of the pairs that show unfamiliar parts; all else is of the seen categories."""
TRAINING_SEEDS = 7_000_000_000
HELD_OUT_SEEDS = {"seen": 8_000_000_000, "dev": 8_500_000_000}
"""First seeds of what is trained on and of what it is examined on; they never meet."""


@dataclass(frozen=True)
class ImageExample:
    """One image in the model's frame with all its truth."""

    sample: Sample
    """Its boxes are in pixels of the original image."""
    frame: Frame
    image: Pixels
    """(H, W, 3), sides multiples of 28."""
    reference: Pixels | None
    """Another good part of the same design, same size; None = not drawn."""
    cover: Floats
    """(H / 14, W / 14) share that is defective."""
    look: str
    """How the defect looks, in words; empty when good."""
    facts: tuple[str, ...]
    """What can be seen of the object, in words."""

    @property
    def truth(self) -> ImageTruth:
        """What helper losses learn from."""
        kind = 0 if self.sample.defect is None else 1 + KINDS.index(self.sample.defect)
        category = CATEGORIES.index(self.sample.category) if self.sample.category in CATEGORIES else 0
        boxes_xyxy = _boxes_in_frame((box.xyxy for box in self.sample.boxes or ()), self.frame)
        return ImageTruth(category, kind, self.cover, boxes_xyxy, self.look, self.facts)

    def sample_in_prompt(self, knowledge: bool, reference: bool) -> Sample:
        """The sample with or without what helps to judge it."""
        has_reference = reference and self.reference is not None
        references = (self.sample.image.with_suffix(".good.png"),) if has_reference else ()
        text = self.sample.knowledge if knowledge else ""
        return self.sample.model_copy(update={"references": references, "knowledge": text})

    def images_in_prompt(self, reference: bool) -> list[Pixels]:
        """The images of the prompt in order: the reference, if wanted and there, and the inspected one."""
        return [self.image] if self.reference is None or not reference else [self.reference, self.image]


def _boxes_in_frame(boxes_xyxy: Iterable[tuple[float, float, float, float]], frame: Frame) -> Floats:
    """(N, 4) boxes in pixels of the model's frame, of boxes in pixels of the original image."""
    return np.array([frame.to_model(xyxy) for xyxy in boxes_xyxy], dtype=np.float32).reshape(-1, 4)


def draw_example(
    seed: int, category: str | None, with_reference: bool, max_pixels: int, defect: str | None = "any"
) -> ImageExample:
    """Draw one example; `category` None takes one of the seen ones, `defect` is as in `draw.draw`."""
    part = draw(seed, category, defect)
    image, frame = resize(Image.fromarray(part.image), FAMILY, max_pixels)
    reference_image = None
    if with_reference:
        reference_image = np.asarray(resize(Image.fromarray(reference(part)), FAMILY, max_pixels)[0])
    w, h = frame.model_wh
    mask = cv2.resize(part.mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    count = () if part.facts.count is None else (f"{part.facts.count[1]} {part.facts.count[0]}",)
    facts = (part.facts.colour, part.facts.shape, *count)
    cover = mask.reshape(2 * h // CELL, CELL // 2, 2 * w // CELL, CELL // 2).mean((1, 3))
    sample = _sample_of_drawing(part)
    return ImageExample(sample, frame, np.asarray(image), reference_image, cover, part.description, facts)


def _sample_of_drawing(part: Drawn) -> Sample:
    name = drawn_id(part)
    return Sample(
        id=name,
        image=Path(f"{name}.png"),
        knowledge=part.knowledge,
        dataset="drawn",
        category=part.category,
        defect=part.defect,
        anomalous=part.defect is not None,
        boxes=part.boxes,
        questions=questions(part, np.random.default_rng([part.seed, 77]), GROUNDING_TEXT),
    )


def draw_shard(pool: Path, number: int, size: int, max_pixels: int) -> None:
    """Draw shard `number` of `size` examples, unless it is there already."""
    target = pool / f"shard{number:05}"
    if target.exists():
        return
    unfinished = pool / f".drawing{number:05}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    seeds = range(TRAINING_SEEDS + number * size, TRAINING_SEEDS + (number + 1) * size)
    pairs = [_draw_pair(seed, i % 2 == 0, max_pixels) for i, seed in enumerate(seeds)]
    stems: dict[str, list[tuple[ImageExample, ImageExample]]] = {}
    for bad, good in sorted(pairs, key=lambda pair: (pair[0].frame.model_wh, pair[0].reference is None)):
        w, h = bad.frame.model_wh
        stems.setdefault(f"{w}x{h}{'a' if bad.reference is not None else 'b'}", []).append((bad, good))
    lines = []
    for stem, alike in stems.items():
        _save_arrays(unfinished, stem, alike)
        lines += [_line(stem, row, bad, good) for row, (bad, good) in enumerate(alike)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (unfinished / "samples.jsonl").write_text(text, encoding="utf-8")
    unfinished.rename(target)


def _draw_pair(seed: int, with_reference: bool, max_pixels: int) -> tuple[ImageExample, ImageExample]:
    """A defective part and the same part good."""
    rng = np.random.default_rng([seed, 78])
    familiar = SPLITS["seen"]
    category = UNFAMILIAR if rng.random() < UNFAMILIAR_SHARE else familiar[int(rng.integers(len(familiar)))]
    good = draw_example(seed, category, False, max_pixels, None)
    legal = [kind for kind in LEGAL[category] if kind not in HELD_OUT_DEFECTS]
    if category == UNFAMILIAR and len(good.facts) < 3:  # nothing to count, so nothing can be missing
        legal = [kind for kind in legal if kind not in LOGICAL]
    for kind in rng.permutation(legal):
        try:
            return draw_example(seed, category, with_reference, max_pixels, str(kind)), good
        except Invisible:  # a missing stud of its part's own colour, for instance
            continue
    raise Invisible(f"no kind of defect could be drawn on {category}, seed {seed}")


def _save_arrays(folder: Path, stem: str, pairs: Sequence[tuple[ImageExample, ImageExample]]) -> None:
    """Write the images of defective parts and of the same parts good, all of one size."""
    arrays: dict[str, list[NDArray[Any]]] = {
        "image": [bad.image for bad, _ in pairs],
        "twin": [good.image for _, good in pairs],
        "cover": [bad.cover.astype(np.float16) for bad, _ in pairs],
        "reference": [bad.reference for bad, _ in pairs if bad.reference is not None],
    }
    for name, images in arrays.items():
        if images:
            np.save(folder / f"{stem}.{name}.npy", np.stack(images))


def _line(stem: str, row: int, bad: ImageExample, good: ImageExample) -> dict[str, Any]:
    place = {"stem": stem, "row": row, "original_wh": bad.frame.original_wh}
    samples = {"sample": bad.sample.to_json(), "twin": good.sample.to_json()}
    return {**place, **samples, "look": bad.look, "facts": bad.facts}


@dataclass(frozen=True)
class ImageWithTruth:
    """An image, or a square of one, and what it shows, without questions."""

    image: Pixels
    truth: ImageTruth


@dataclass(frozen=True)
class _PoolEntry:
    """A defective part and the same part good, on disk."""

    line: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def open(self, good: bool, aligned: bool = False) -> ImageExample:
        """The defective part, or the same part good; with `aligned` on, the good part is its reference."""
        references = self.arrays["twin"] if aligned else self.arrays.get("reference")
        reference = None if references is None else references[self.line["row"]]
        look, facts = "" if good else self.line["look"], tuple(self.line["facts"])
        sample, image, cover = self.sample(good), self.image(good), self.cover(good)
        return ImageExample(sample, self.frame, image, reference, cover, look, facts)

    def open_without_questions(self, good: bool) -> ImageWithTruth:
        """The defective part, or the same part good, without its questions: much quicker."""
        record = json.loads(self.line["sample"])
        boxes = [] if good else [(b["x1"], b["y1"], b["x2"], b["y2"]) for b in record["boxes"]]
        category = CATEGORIES.index(record["category"])
        kind = 0 if good else 1 + KINDS.index(record["defect"])
        boxes_xyxy = _boxes_in_frame(boxes, self.frame)
        look, facts = "" if good else self.line["look"], tuple(self.line["facts"])
        truth = ImageTruth(category, kind, self.cover(good), boxes_xyxy, look, facts)
        return ImageWithTruth(self.image(good), truth)

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

    def image(self, good: bool) -> Pixels:
        image: Pixels = self.arrays["twin" if good else "image"][self.line["row"]]
        return image

    def cover(self, good: bool) -> Floats:
        """(H / 14, W / 14) share that is defective."""
        cover: Floats = self.arrays["cover"][self.line["row"]].astype(np.float32)
        return 0 * cover if good else cover

    def residual(self) -> NDArray[np.int16]:
        """(H, W, 3) what the defective part has more than the same part good."""
        return self.image(good=False).astype(np.int16) - self.image(good=True)


class Pool:
    """The examples drawn so far, by size in the model's frame."""

    def __init__(self, folder: Path, without: Sequence[str] = ()) -> None:
        """Read the shards that are there; pairs with a kind of defect in `without` are left out."""
        self.folder, self.without = folder, without
        self._known_shards: set[str] = set()
        self._by_stem: dict[str, list[_PoolEntry]] = {}
        self.refresh()

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._by_stem.values())

    def refresh(self) -> None:
        """Take up shards that were finished since."""
        for shard in sorted(self.folder.glob("shard*")):
            if shard.name in self._known_shards:
                continue
            self._known_shards.add(shard.name)
            arrays: dict[str, dict[str, NDArray[Any]]] = {}
            for path in sorted(shard.glob("*.npy")):
                stem, name, _ = path.name.split(".")
                arrays.setdefault(stem, {})[name] = np.load(path, mmap_mode="r")
            for text in (shard / "samples.jsonl").read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                entry = _PoolEntry(line, arrays[line["stem"]])
                if entry.defect not in self.without:
                    self._by_stem.setdefault(line["stem"], []).append(entry)

    def pairs(self, count: int, rng: Generator) -> list[tuple[ImageWithTruth, ImageWithTruth]]:
        """Random defective parts, each with the same part good."""
        return [
            (entry.open_without_questions(good=False), entry.open_without_questions(good=True))
            for entry in self._random_entries(rng, count)
        ]

    def batch(
        self, rng: Generator, cells: int, with_reference: bool, aligned: bool = False, good: float = 0.5
    ) -> list[ImageExample]:
        """Examples of one random size, as many as hold about `cells` image cells, at least 6 and at most 24.

        With `with_reference` on, all have a reference image; with `aligned` on, that is the same part without
        the defect, in the same pose. A share `good` of them is good.
        """
        stems = sorted(stem for stem in self._by_stem if stem.endswith("a") or not with_reference)
        counts = np.array([len(self._by_stem[stem]) for stem in stems], dtype=np.float64)
        stem = stems[int(rng.choice(len(stems), p=counts / counts.sum()))]
        w, h = (int(n) // CELL for n in stem.rstrip("ab").split("x"))
        count = int(np.clip(cells // (w * h), 6, 24))
        entries = [self._by_stem[stem][int(i)] for i in rng.integers(len(self._by_stem[stem]), size=count)]
        return [entry.open(bool(rng.random() < good), aligned) for entry in entries]

    def residuals(self, rng: Generator, size_wh: tuple[int, int], count: int) -> list[NDArray[np.int16]]:
        """What random defective parts of this size have more than the same parts good, (H, W, 3) each."""
        stem = f"{size_wh[0]}x{size_wh[1]}"
        entries = [*self._by_stem.get(f"{stem}a", []), *self._by_stem.get(f"{stem}b", [])]
        return [entries[int(i)].residual() for i in rng.integers(len(entries), size=count)]

    def random_samples(self, rng: Generator, count: int) -> list[Sample]:
        """Random samples, without their images."""
        return [entry.sample(good=bool(rng.random() < 0.4)) for entry in self._random_entries(rng, count)]

    def _random_entries(self, rng: Generator, count: int) -> list[_PoolEntry]:
        shelves = [self._by_stem[stem] for stem in sorted(self._by_stem)]
        chances = np.array([len(shelf) for shelf in shelves], dtype=np.float64)
        numbers = rng.choice(len(shelves), size=count, p=chances / chances.sum())
        return [shelf[int(rng.integers(len(shelf)))] for shelf in (shelves[int(k)] for k in numbers)]

    def samples(self, limit: int) -> Iterator[Sample]:
        """At most `limit` samples from all over the pool, a third of them good, for their words."""
        entries = [entry for stem in sorted(self._by_stem) for entry in self._by_stem[stem]]
        for number, i in enumerate(np.linspace(0, len(entries) - 1, min(limit, len(entries))).astype(int)):
            yield entries[i].sample(good=number % 3 == 0)


def held_out_examples(split: str, count: int, max_pixels: int, start: int = 0) -> list[ImageExample]:
    """Examples of a split that training never sees, categories in turn; half have a reference image.

    `start` is the number of the leading one.
    """
    categories: Sequence[str] = SPLITS[split]
    n, seed = len(categories), HELD_OUT_SEEDS[split] + start
    return [draw_example(seed + i, categories[i % n], (i // n) % 2 == 0, max_pixels) for i in range(count)]
