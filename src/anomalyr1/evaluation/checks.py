"""What `data check` asserts: files, masks, boxes, labels, questions, and that gold answers earn full reward.

Every gold answer is written as a model would write it, and read back. Across samples it asserts that ids
differ, that no two files hold the same image, that no sample is compared with itself, and that what is said
about a class does not give a sample's gold away. Whether knowledge does that is found only where it speaks of
the one image, names its file, or names the defect of those samples alone that have it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomalyr1 import answers, boxes, rewards
from anomalyr1.boxes import Bools
from anomalyr1.data.mask_files import LEAST_PIXELS, true_mask
from anomalyr1.data.samples import Samples
from anomalyr1.images.door import ImageError, digest_of, open_image
from anomalyr1.images.frames import FAMILIES, Frame
from anomalyr1.types import Box, InputError, Question, Sample

LEAST_FILLED = 0.5
"""Below this share of a box, the tight box of the mask inside it is another box."""
MOST_STRAY = 0.05
"""Above this share of a mask outside all boxes, a box is missing."""
MOST_MARKED = 0.95
"""Above this share of an image, a mask is likely inverted."""
_LEAST_NAME = 6
"""Characters of a file name that knowledge would not hold by chance."""
_DEFECT = re.compile(r"defect|anomal|damage|flaw|fault")
_NEGATED = re.compile(r"\b(?:no|not|free|without|good|normal|intact)\b")
_THIS_ONE = re.compile(
    r"\bthis (?:image|picture|photo|photograph|sample|part|one) (?:is|has|shows|contains|was)\b"
)

LEAST_IOU = 0.5
"""Below this set IoU a gold box, rounded to what a model can write, no longer counts as right."""


Finding = tuple[str, str]
"""What is wrong with a sample, and what to do about it, in words."""


class Problem(NamedTuple):
    """One thing wrong with a sample, and what to do about it."""

    sample_id: str
    what: str
    """What is wrong, in words."""
    fix: str
    """What to do about it, in words."""


class _Gold(NamedTuple):
    """A gold answer as a model would write it."""

    question: Question
    reasoning: str
    answer: str | Sequence[Box]
    """An option letter, or boxes in original pixels."""


def check(
    samples: Iterable[Sample], family: str = "qwen2_5_vl", max_pixels: int | None = None
) -> list[Problem]:
    """Every problem of the samples; empty when they may be trained on and evaluated.

    What concerns several samples comes first, then problems in the order of the samples. Each image and mask
    is opened once. `family` and `max_pixels` say in which frame gold boxes are written (a pixel cap can make
    a small box too coarse to be right). Raises `InputError` for an unknown family.
    """
    if family not in FAMILIES:
        raise InputError(f"no model family is called {family!r}; known: {', '.join(FAMILIES)}")
    times_of: Counter[str] = Counter()
    files, knowledge = _Files(), _Knowledge()
    problems: list[Problem] = []
    labelled = 0
    for sample in samples:
        times_of[sample.id] += 1
        knowledge.add(sample)
        findings = (
            _check_files(sample, files),
            _check_labels(sample),
            _check_sample(sample, family, max_pixels),
        )
        problems += [Problem(sample.id, *finding) for finding in chain(*findings)]
        located = any(question.boxes is not None for question in sample.questions)
        labelled += sample.anomalous is not None or located
    fix = "give each sample its own id: inspections are stored by it"
    repeated = [(sample_id, times) for sample_id, times in times_of.items() if times > 1]
    repeated_ids = [Problem(sample_id, f"{times} samples have this id", fix) for sample_id, times in repeated]
    if times_of and not labelled:
        what = f"{len(times_of)} of {len(times_of)} samples have no verdict: nothing says good or defective"
        problems.insert(0, Problem("all samples", what, "add labels, or correct where they are read from"))
    return [*repeated_ids, *knowledge.problems(), *problems]


def readable(samples: Samples) -> Iterator[Sample]:
    """The samples with the boxes of their masks.

    Where a mask or an image cannot be read they come without, and `check` says why.
    """
    opened, plain = samples.with_boxes(), samples.without_opening()
    for place in range(len(samples)):
        try:
            yield opened[place]
        except ImageError:
            yield plain[place]


def _check_sample(sample: Sample, family: str, max_pixels: int | None) -> Iterator[Finding]:
    """Mask, boxes and questions beside the image."""
    size_wh = frame = None
    if sample.image.is_file():
        try:
            size_wh = open_image(sample.image).size_wh
        except ImageError as error:
            yield str(error), "replace the image"
    if size_wh is not None:
        yield from _check_mask(sample, size_wh)
        yield from _check_boxes("the sample", sample.boxes, size_wh)
        try:
            frame = Frame.of(size_wh, FAMILIES[family], max_pixels)
        except ImageError as error:
            yield f"{sample.image}: {error}", "cut the image, or leave it out"
    for question_id, times in Counter(question.id for question in sample.questions).items():
        if times > 1:
            yield f"{times} questions have the id {question_id!r}", "give each question its own id"
    for question in sample.questions:
        yield from _check_question(question, size_wh, frame)
        yield from _check_verdict(sample, question)


class _Files:
    """The digests of the files so far, and the sample that each image belongs to."""

    def __init__(self) -> None:
        self.digests: dict[Path, str | None] = {}
        self.sample_of: dict[str, Sample] = {}

    def digest(self, path: Path) -> str | None:
        """SHA-256, None where the file cannot be read, which is reported elsewhere."""
        if path not in self.digests:
            try:
                self.digests[path] = digest_of(path)
            except OSError:
                self.digests[path] = None
        return self.digests[path]


def _check_files(sample: Sample, files: _Files) -> Iterator[Finding]:
    """Files that are missing or broken, and images that are another sample's, or their own reference."""
    for path in (sample.image, *sample.references, *([sample.mask] if sample.mask else [])):
        if not (path.is_file() or (path == sample.mask and path.is_dir())):
            yield (
                f"{path} is missing",
                "restore the file or correct its path (option root: where paths start)",
            )
    for path in sample.references:
        if path in files.digests or not path.is_file():
            continue
        try:
            open_image(path)
        except ImageError as error:
            yield f"its reference image: {error}", "replace the image"
    digest = files.digest(sample.image)
    if digest is None:
        return
    for path in sample.references:
        if files.digest(path) == digest:
            yield f"its reference image {path} is the image itself", "give it the image of another, good part"
    owner = files.sample_of.setdefault(digest, sample)
    if owner.id != sample.id and owner.image != sample.image:
        what = f"{sample.image} holds the same image as {owner.image} of sample {owner.id!r}"
        if owner.anomalous != sample.anomalous:
            what += ", and one is called good, the other anomalous"
        yield what, "leave one of them out: in two splits it would be a leak"


def _check_labels(sample: Sample) -> Iterator[Finding]:
    """Labels that contradict each other, or say nothing."""
    facts = (sample.mask, sample.mask_runs, sample.boxes, sample.defect)
    unexplained = all(fact is None for fact in facts) and not sample.questions
    if sample.anomalous and unexplained:
        fix = "add a defect's name, a mask, boxes or questions"
        yield "it is anomalous, and nothing says how or where", fix
    if sample.anomalous is False and sample.boxes:
        fix = "correct the label, or drop the boxes"
        yield f"it has {len(sample.boxes)} boxes, but the sample is good", fix
    if sample.anomalous is False and sample.defect is not None:
        fix = "correct the label, or drop the defect"
        yield f"it has the defect {sample.defect!r}, but the sample is good", fix


def _check_verdict(sample: Sample, question: Question) -> Iterator[Finding]:
    """A gold that says the opposite of what the sample is."""
    says: bool | None = None
    if question.kind == "anomaly detection" and question.answer is not None:
        says = _verdict(question)
    elif question.kind == "grounding" and question.boxes is not None:
        says = bool(question.boxes)
    if says is not None and sample.anomalous is not None and says != sample.anomalous:
        truth = "anomalous" if sample.anomalous else "good"
        what = f"question {question.id!r}: its gold contradicts the sample, which is {truth}"
        yield what, "correct one of the two"


def _verdict(question: Question) -> bool | None:
    """Whether the gold of a yes/no question says that there is a defect; None for other forms of question."""
    words = question.text.casefold()
    options = [option.casefold().strip(" .!") for option in question.options]
    if sorted(options) != ["no", "yes"] or not _DEFECT.search(words) or _NEGATED.search(words):
        return None
    return options[question.letters.index(question.answer or "")] == "yes"


class _Knowledge:
    """What is said about classes, and of which samples."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        # Data set and category -> text -> the id of a sample with this text, and the defects of all with it.
        self._classes: dict[tuple[str, str], dict[str, tuple[str, set[str | None]]]] = {}

    def add(self, sample: Sample) -> None:
        text = sample.knowledge
        if not text:
            return
        texts = self._classes.setdefault((sample.dataset, sample.category), {})
        _, defects = texts.setdefault(text, (sample.id, set()))
        defects.add(sample.defect if sample.anomalous else None)
        image_name = _image_name_in(text, sample)
        if image_name is not None:
            self._report(sample.id, f"names this very image ({image_name!r})")
        elif _THIS_ONE.search(text.casefold()):
            self._report(sample.id, "speaks of this one image")

    def problems(self) -> list[Problem]:
        """Also those that only show when all samples are known."""
        for texts in self._classes.values():
            plain_texts = [_plain_words(text) for text in texts]
            for text, (sample_id, defects) in texts.items():
                defect = next(iter(defects)) if len(defects) == 1 else None
                words = _plain_words(defect or "")
                if words and words in _plain_words(text) and any(words not in plain for plain in plain_texts):
                    what = f"names the defect {defect!r}, unlike that of other samples of its class"
                    self._report(sample_id, what)
        return self._problems

    def _report(self, sample_id: str, what: str) -> None:
        fix = "give all samples of a class the same knowledge, about the class"
        self._problems.append(Problem(sample_id, f"its knowledge {what}, which can give its gold away", fix))


def _image_name_in(text: str, sample: Sample) -> str | None:
    """The name of the sample or of its image file that a text holds and would not hold by chance."""
    stem = sample.image.stem
    if stem.casefold() in (sample.category.casefold(), (sample.defect or "").casefold()):
        return None
    for name in (sample.id, sample.image.name, stem):
        if len(name) >= _LEAST_NAME and not name.isdigit() and name in text:
            return name
    return None


def _plain_words(text: str) -> str:
    return text.casefold().replace("_", " ")


def _check_mask(sample: Sample, size_wh: tuple[int, int]) -> Iterator[Finding]:
    """A mask that cannot be read, has another size, or does not mark what the sample is said to be."""
    if sample.mask is not None and not sample.mask.exists():
        return
    try:
        mask = true_mask(sample)
    except ImageError as error:
        yield f"its mask: {error}", "replace the mask"
        return
    if mask is None:
        return
    name = sample.mask or "its mask"
    mask_wh = (mask.shape[1], mask.shape[0])
    if mask_wh != size_wh:
        what = f"{name} is {_size(mask_wh)}, its image {_size(size_wh)}"
        yield what, "export the mask at the image's size"
    marked = int(mask.sum())
    if marked < LEAST_PIXELS and sample.anomalous:
        amount = f"{marked} pixel{'s' if marked > 1 else ''}" if marked else "nothing"
        what = f"{name} marks {amount}, but the sample is anomalous"
        yield what, "mark the defect, or drop the mask"
    if marked and sample.anomalous is False:
        what = f"{name} marks a defect, but the sample is good"
        yield what, "correct the label, or drop the mask"
    if marked > MOST_MARKED * mask.size:
        what = f"{name} marks {marked / mask.size:.0%} of the image"
        yield what, "see whether the mask is inverted"
    elif marked >= LEAST_PIXELS and mask_wh == size_wh and sample.boxes is not None:
        yield from _check_boxes_of_mask(name, mask, sample.boxes)


def _check_boxes_of_mask(path: Path | str, mask: Bools, gold: Sequence[Box]) -> Iterator[Finding]:
    """Boxes and mask (H, W) must mean the same places.

    That is: little of the mask lies outside the boxes, and every box is about as large as what it holds.
    """
    stray = mask.copy()
    for box in gold:
        rows, columns = slice(max(0, floor(box.y1)), ceil(box.y2)), slice(max(0, floor(box.x1)), ceil(box.x2))
        ys, xs = np.nonzero(mask[rows, columns])
        stray[rows, columns] = False
        tight = (np.ptp(ys) + 1) * (np.ptp(xs) + 1) if len(ys) else 0
        share = tight / box.area
        if share < LEAST_FILLED:
            what = f"its box {box.xyxy} is not where {path} marks a defect"
            fix = "draw one from the other, or correct the one that is wrong"
            yield f"{what} (what is marked there fills {share:.0%} of it)", fix
    if stray.sum() > MOST_STRAY * mask.sum():
        what = f"{stray.sum() / mask.sum():.0%} of what {path} marks lies outside its boxes"
        yield what, "add the missing boxes, or correct the mask"


def _check_boxes(whose: str, gold: Sequence[Box] | None, size_wh: tuple[int, int]) -> Iterator[Finding]:
    for box in gold or ():
        if box.x1 < 0 or box.y1 < 0 or box.x2 > size_wh[0] or box.y2 > size_wh[1]:
            what = f"{whose} has a box {box.xyxy} outside its image of {_size(size_wh)}"
            yield what, "clip the box, or check its frame"


def _check_question(
    question: Question, size_wh: tuple[int, int] | None, frame: Frame | None
) -> Iterator[Finding]:
    """Options that cannot be told apart, and a gold answer that is absent, impossible or not rewarded."""
    name = f"question {question.id!r}"
    texts = [" ".join(option.casefold().split()).rstrip(".") for option in question.options]
    if len(texts) == 1:
        yield f"{name} has one option", "add wrong options"
    if len(set(texts)) < len(texts) or "" in texts:
        what = f"{name} has options that read the same or are empty: {list(question.options)}"
        yield what, "make the options differ"
        return
    if question.options and question.answer is None:
        yield f"{name} has no gold answer", "add the letter of the right option"
    if not question.options and question.boxes is None:
        yield f"{name} has no gold boxes", "add the boxes, or () for a clean sample"
    if size_wh is not None:
        yield from _check_boxes(name, question.boxes, size_wh)
    gold = _gold(question, size_wh, frame)
    if gold is not None:
        yield from _check_gold(gold, frame)


def _gold(question: Question, size_wh: tuple[int, int] | None, frame: Frame | None) -> _Gold | None:
    """The gold answer with the shortest reasoning that supports it; None when there is no gold.

    Rounding to the model's units decides which of two boxes alike is the largest, and on which side of a
    border its centre lies.
    """
    if question.options:
        if question.answer is None:
            return None
        return _Gold(question, f"The answer is {question.answer}.", question.answer)
    if question.boxes is None or size_wh is None:
        return None
    if not question.boxes:
        return _Gold(question, "There is no defect.", ())
    rounded: list[tuple[float, ...]] = [box.xyxy for box in question.boxes]
    if frame is not None:
        rounded = [frame.to_original(frame.to_model(xyxy)) for xyxy in rounded]
    x1, y1, x2, y2 = rounded[int(boxes.area(rounded).argmax())]
    largest = Box(x1=x1, y1=y1, x2=x2, y2=y2)
    return _Gold(question, f"There is a defect at the {boxes.place(largest, size_wh)}.", question.boxes)


def _check_gold(gold: _Gold, frame: Frame | None) -> Iterator[Finding]:
    """The gold answer must earn full reward.

    Only `localisation` may lose what rounding to the model's units costs.
    """
    name = f"question {gold.question.id!r}: its gold answer"
    try:
        completion = answers.write(gold.reasoning, gold.answer, frame)
    except InputError as error:
        yield f"{name} cannot be written: {error}", "correct the annotation"
        return
    answer = answers.parse(completion, gold.question.options, frame)
    notes = ", ".join(f"{note} {times}" for note, times in answer.counts.items()) or "nothing dropped"
    fix = "correct the gold; a box too small to be written at this pixel cap needs a larger max_pixels"
    for reward_name, reward in rewards.REWARDS.items():
        value = reward(answer, gold.question)
        least = LEAST_IOU if reward_name.startswith("localisation") else 1.0
        if value is not None and value < least:
            yield f"{name} earns {value:.2f} from {reward_name} ({notes})", fix


def _size(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]} x {size_wh[1]}"
