"""What a run learns from: samples, the questions with a known answer, and the images that they show.

Nothing is left out silently: what cannot be learned from is counted under its name. All image files are
opened before anything starts.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anomalyr1 import prompts
from anomalyr1.answers import completion
from anomalyr1.data.leaks import Trace, perceptual_hash, trace_of
from anomalyr1.data.samples import listed
from anomalyr1.evidence import words
from anomalyr1.images.door import open_image
from anomalyr1.images.frames import Family, Frame, resize
from anomalyr1.policy import chat
from anomalyr1.rewards import Reward
from anomalyr1.training import completions
from anomalyr1.training.resolved import Resolved
from anomalyr1.types import InputError, Question, Sample

_CACHED_IMAGES = 32

NOT_SHOWN = {
    "unused_references": "reference images, for which the prompt has no place: {references}",
    "unused_knowledge": "texts of knowledge, for which the prompt has no place: {knowledge}",
    "special_tokens_broken_up": "special tokens in texts, which were broken up",
    "surrogates_replaced": "characters that are no text, which were replaced",
}
"""What a prompt does not show of a sample, by the names of `prompts.Prompt.counts`."""


@dataclass(frozen=True)
class Task:
    """One question about one sample, whose answer is known."""

    sample: Sample
    """The sample that is asked about."""
    question: Question
    """The question with its gold answer."""
    prompt: prompts.Prompt
    """The messages that put the question, with the images that they show."""


@dataclass(frozen=True)
class Picture:
    """What is known of an image file without keeping its pixels."""

    size_wh: tuple[int, int]
    """Width and height in pixels, upright."""
    sha256: str
    """The digest of the file, in hex."""
    perceptual: str
    """The perceptual hash (`leaks.perceptual_hash`), in hex."""


@dataclass(frozen=True)
class TrainingSet:
    """All that one run learns from."""

    samples: list[Sample]
    """The samples of the recipe's data, those without a question included."""
    tasks: list[Task]
    """The questions in the order of the samples; those of one sample stand side by side."""
    pictures: dict[Path, Picture]
    """Every image that a prompt of `tasks` shows."""
    counts: dict[str, int]
    """What was left out, under its name."""
    compared: tuple[Sample, ...] = ()
    """Good parts with which images were compared, whether or not they are asked about."""

    def frame(self, sample: Sample, family: Family, max_pixels: int) -> Frame:
        """How the model sees the inspected image of a sample."""
        return Frame.of(self.pictures[sample.image].size_wh, family, max_pixels)

    def traces(self) -> list[Trace]:
        """What tells the images again that are learned from, in the order of the samples."""
        digests = {path: picture.sha256 for path, picture in self.pictures.items()}
        samples = {sample.id: sample for sample in (*(task.sample for task in self.tasks), *self.compared)}
        return [
            trace_of(sample, digests, self.pictures[sample.image].perceptual) for sample in samples.values()
        ]

    def rows(self, grpo: bool) -> int:
        """How many rows the trainer's data have: a question each for GRPO, a sample each for SFT."""
        return len(self.tasks) if grpo else len({task.sample.id for task in self.tasks})


def gather(samples: Sequence[Sample], resolved: Resolved) -> TrainingSet:
    """The questions of `samples` that can be learned from, each as the recipe's prompt asks it.

    For GRPO a question counts for which some reward applies; for SFT one that a completion can be written
    for. Where no defective sample has boxes, none is asked for: good ones alone would teach to tell none.
    Raises `InputError` when none is left, and `ImageError` for an image that is missing or cannot be opened.
    """
    recipe = resolved.recipe
    specs = ", ".join(recipe.data)
    if not samples:
        raise InputError(f"{specs}: no samples to learn from; name other data")
    counts: Counter[str] = Counter()
    tasks = []
    boxed = any(sample.anomalous and sample.boxes for sample in samples)
    pictures = look_at(sample.image for sample in samples) if recipe.evidence else {}
    for sample in samples:
        evidence = _write_evidence(sample, pictures, resolved)
        for question in questions_of(sample, recipe.questions, counts):
            reason = _why_left_out(sample, question, boxed, resolved)
            if reason is not None:
                counts[reason] += 1
                continue
            prompt = prompts.build(sample, question, *resolved.prompt_style, evidence)
            tasks.append(Task(sample, question, prompt))
            counts.update({NOT_SHOWN[name]: number for name, number in prompt.counts.items()})
    if not tasks:
        reasons = "; ".join(f"{number} {name}" for name, number in counts.items())
        raise InputError(
            f"{specs}: no question can be learned from ({reasons or 'the samples have no questions'}); add "
            "labels, or rewards that apply"
        )
    shown = dict.fromkeys(path for task in tasks for path in task.prompt.images)
    pictures |= look_at(path for path in shown if path not in pictures)
    compared = tuple(sample for sample in samples if sample.anomalous is False) if recipe.evidence else ()
    kept = [*shown, *(sample.image for sample in compared)]
    return TrainingSet(list(samples), tasks, {path: pictures[path] for path in kept}, dict(counts), compared)


def _write_evidence(sample: Sample, pictures: Mapping[Path, Picture], resolved: Resolved) -> str:
    """What the prompt of a sample says of its evidence; empty without any."""
    if sample.evidence is None:
        return ""
    size = resolved.model_size
    frame = Frame.of(pictures[sample.image].size_wh, size.family, size.max_pixels)
    return words.write(sample.evidence, frame)


def questions_of(
    sample: Sample, which: Literal["all", "own", "inspect"], counts: Counter[str]
) -> list[Question]:
    """The questions of a sample whose answer is known: the two of `inspect`, its own, or both.

    The same one comes only once. What is left out is added to `counts`.
    """
    candidates: list[Question] = []
    if which != "own":
        candidates += prompts.gold_inspection_questions(sample)
    if which != "inspect":
        candidates += sample.questions
    questions: dict[tuple[str, tuple[str, ...]], Question] = {}
    for question in candidates:
        key = question.text, question.options
        if question.answer is None and question.boxes is None:
            counts["questions whose answer is not known"] += 1
        elif key in questions:
            counts["questions that another one repeats"] += 1
        else:
            questions[key] = question
    return list(questions.values())


def _why_left_out(sample: Sample, question: Question, boxed: bool, resolved: Resolved) -> str | None:
    """Why a question is not learned from, in words; None = it is. `boxed`: a defective sample has boxes."""
    if question.kind == "grounding" and not boxed:
        return "questions for boxes, since no defective sample has any: only to tell none would be learned"
    if resolved.grpo:
        return None if _earns(question, resolved.rewards) else "questions to which no reward applies"
    if sample.anomalous is None and question.completion is None:
        return "questions about samples of unknown truth"
    return None


def _earns(question: Question, rewards: Mapping[str, Reward]) -> bool:
    """Whether any reward applies to the question, as its gold answer shows."""
    gold = completion.write("", question.answer if question.answer is not None else question.boxes or ())
    answer = completion.parse(gold, question.options)
    if not question.options:
        answer = answer.model_copy(update={"boxes": question.boxes, "unmapped_boxes": None})
    return any(reward(answer, question) is not None for reward in rewards.values())


def look_at(paths: Iterable[Path]) -> dict[Path, Picture]:
    """Size, digest and perceptual hash of each image file, all opened and decoded once.

    Raises `InputError` that lists all missing ones, and `ImageError` for one that cannot be opened.
    """
    distinct_paths = list(dict.fromkeys(paths))
    missing = [str(path) for path in distinct_paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(distinct_paths)} image files are missing, so nothing was started: "
            f"{listed(missing)}"
        )
    with ThreadPoolExecutor() as pool:
        return dict(zip(distinct_paths, pool.map(_look_at_file, distinct_paths), strict=True))


def _look_at_file(path: Path) -> Picture:
    image = open_image(path)
    return Picture(image.size_wh, image.sha256, perceptual_hash(image.rgb))


def fingerprint(training_set: TrainingSet) -> str:
    """A digest of what is learned from: questions, answers and the content of images, not where they lie."""
    return _digest(
        [
            task.sample.id,
            task.question.model_dump(mode="json"),
            task.prompt.messages,
            [training_set.pictures[path].sha256 for path in task.prompt.images],
        ]
        for task in training_set.tasks
    )


def held_out_fingerprint(samples: Sequence[Sample]) -> str:
    """A digest of what is held out: truth, questions and the content of images, not where they lie."""
    pictures = look_at(path for sample in samples for path in (sample.image, *sample.references))
    return _digest(
        [
            sample.model_dump(mode="json", exclude={"image", "references", "mask", "mask_runs", "evidence"}),
            [pictures[path].sha256 for path in (sample.image, *sample.references)],
        ]
        for sample in samples
    )


def _digest(rows: Iterable[list[Any]]) -> str:
    """SHA-256 of rows as JSON, a line each."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"


def require_apart(training_set: TrainingSet, held_out: Sequence[Sample]) -> None:
    """Raise `InputError` that names held-out samples whose very image is learned from."""
    images = {task.sample.image for task in training_set.tasks}
    images |= {sample.image for sample in training_set.compared}
    learned = {training_set.pictures[image].sha256 for image in images}
    pictures = look_at(sample.image for sample in held_out)
    leaks = [sample.id for sample in held_out if pictures[sample.image].sha256 in learned]
    if leaks:
        raise InputError(
            f"{len(leaks)} held-out images are also learned from: {listed(leaks)}; hold out others "
            "(anomalyr1 data split)"
        )


def gold_completion(task: Task, frame: Frame, seed: int) -> str:
    """What SFT teaches to a task: the user's own text, else one from the labels, the same for a seed."""
    import numpy as np

    if task.question.completion is not None:
        return task.question.completion
    digest = hashlib.sha256(f"{seed} {task.sample.id} {task.question.id}".encode()).digest()
    random = np.random.default_rng(list(digest[:8]))
    defect_name = task.sample.boxes[0].label if task.sample.boxes else ""
    return completions.gold(task.sample, task.question, defect_name, frame, random)


def completion_ids(tokenizer: Any, task: Task, frame: Frame, seed: int) -> list[int]:
    """What SFT teaches to a task in token ids, the end of the turn included.

    Raises `InputError` where it writes a special token.
    """
    ids: list[int] = tokenizer(gold_completion(task, frame, seed), add_special_tokens=False)["input_ids"]
    if chat.special_ids(tokenizer) & set(ids):
        raise InputError(
            f"sample {task.sample.id!r}, question {task.question.id!r}: its completion writes a special "
            "token; remove it"
        )
    return [*ids, tokenizer.convert_tokens_to_ids(chat.TURN_END)]


def prompt_rows(training_set: TrainingSet, family: Family, max_pixels: int) -> Any:
    """The training data as TRL takes it: a row a task.

    A row has `prompt` (a chat), `images` as the model sees them, opened when asked for, and `row` (its
    number). The same image file gives the same image object, so that it is prepared once.
    """
    from datasets import Dataset

    @functools.lru_cache(_CACHED_IMAGES)
    def resized_image(path: Path) -> Any:
        return resize(open_image(path).rgb, family, max_pixels)[0]

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        batch_prompts = [training_set.tasks[row].prompt for row in batch["row"]]
        return {
            "prompt": [prompt.messages for prompt in batch_prompts],
            "images": [[resized_image(path) for path in prompt.images] for prompt in batch_prompts],
            "row": batch["row"],
        }

    return Dataset.from_dict({"row": list(range(len(training_set.tasks)))}).with_transform(rows)
