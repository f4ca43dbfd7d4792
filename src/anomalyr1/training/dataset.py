"""What a run learns from: samples of its specs, the questions with a known answer, and how large the model sees each image.

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

from anomalyr1 import answers, prompts
from anomalyr1.data.samples import listed
from anomalyr1.images import Family, Frame, open_image, resize
from anomalyr1.policy import chat
from anomalyr1.prompts import with_gold
from anomalyr1.rewards import Reward
from anomalyr1.training import completions
from anomalyr1.training.recipes import Recipe
from anomalyr1.types import InputError, Question, Sample

_CACHED_IMAGES = 32


UNSEEN = {
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
    question: Question
    prompt: prompts.Prompt


@dataclass(frozen=True)
class Picture:
    """What is known of an image file without keeping its pixels."""

    size_wh: tuple[int, int]
    sha256: str


@dataclass(frozen=True)
class Material:
    """All that one run learns from."""

    samples: list[Sample]
    tasks: list[Task]
    """In the order of the samples; questions of one sample stand side by side."""
    pictures: dict[Path, Picture]
    """Every image that a prompt of `tasks` shows."""
    counts: dict[str, int]
    """What was left out, under its name."""

    def frame(self, sample: Sample, family: Family, max_pixels: int) -> Frame:
        """How the model sees the inspected image of a sample."""
        size_wh = self.pictures[sample.image].size_wh
        return Frame.of(size_wh, family, max_pixels)


def gather(
    samples: Sequence[Sample], recipe: Recipe, rewards: Mapping[str, Reward] | None = None
) -> Material:
    """The questions of `samples` that can be learned from, each as the recipe's prompt asks it.

    For GRPO (`rewards` given) a question counts for which some reward applies; for SFT one that a completion
    can be written for. Where no defective sample has boxes, none is asked for: good ones alone would teach to
    tell none. Raises `InputError` when none is left, and `ImageError` for an image that is missing or cannot
    be opened.
    """
    if not samples:
        raise InputError(f"{', '.join(recipe.data)}: no samples to learn from; name other data")
    style, text = prompt_style(recipe)
    counts: Counter[str] = Counter()
    tasks = []
    boxed = any(sample.anomalous and sample.boxes for sample in samples)
    for sample in samples:
        for question in questions_of(sample, recipe.questions, counts):
            if question.kind == "grounding" and not boxed:
                counts[
                    "questions for boxes, since no defective sample has any: only to tell none would be learned"
                ] += 1
            elif rewards is not None and not _earns(question, rewards):
                counts["questions to which no reward applies"] += 1
            elif rewards is None and sample.anomalous is None and question.completion is None:
                counts["questions about samples of unknown truth"] += 1
            else:
                tasks.append(Task(sample, question, prompts.build(sample, question, style, text)))
                counts.update({UNSEEN[name]: number for name, number in tasks[-1].prompt.counts.items()})
    if not tasks:
        why = (
            "; ".join(f"{number} {name}" for name, number in counts.items())
            or "the samples have no questions"
        )
        raise InputError(
            f"{', '.join(recipe.data)}: no question can be learned from ({why}); add labels, or rewards that apply"
        )
    return Material(
        list(samples), tasks, look(path for task in tasks for path in task.prompt.images), dict(counts)
    )


def prompt_style(recipe: Recipe) -> tuple[str, str | None]:
    """The style of a recipe's prompt, or the text of its prompt file."""
    if recipe.prompt in prompts.STYLES:
        return recipe.prompt, None
    if not Path(recipe.prompt).is_file():
        raise InputError(
            f"prompt {recipe.prompt!r} is neither a file nor a style; styles are {', '.join(prompts.STYLES)}"
        )
    return prompts.DEFAULT_STYLE, prompts.read_prompt(Path(recipe.prompt))


def questions_of(
    sample: Sample, which: Literal["all", "own", "inspect"], counts: Counter[str]
) -> list[Question]:
    """The questions of a sample whose answer is known: the two of `inspect`, its own, or both; the same one only once."""
    asked = (
        [] if which == "own" else [with_gold(sample, one) for one in prompts.inspection_questions(sample.id)]
    )
    found: dict[tuple[str, tuple[str, ...]], Question] = {}
    for question in (*asked, *(sample.questions if which != "inspect" else ())):
        if question.answer is None and question.boxes is None:
            counts["questions whose answer is not known"] += 1
        elif (question.text, question.options) in found:
            counts["questions that another one repeats"] += 1
        else:
            found[question.text, question.options] = question
    return list(found.values())


def _earns(question: Question, rewards: Mapping[str, Reward]) -> bool:
    """Whether any reward applies to the question, seen on its gold answer."""
    gold = answers.write("", question.answer if question.answer is not None else question.boxes or ())
    answer = answers.parse(gold, question.options)
    if not question.options:
        answer = answer.model_copy(update={"boxes": question.boxes, "unmapped_boxes": None})
    return any(reward(answer, question) is not None for reward in rewards.values())


def look(paths: Iterable[Path]) -> dict[Path, Picture]:
    """Size and digest of each image file, all opened and decoded once. Raises `InputError` that lists all missing ones."""
    every = list(dict.fromkeys(paths))
    if missing := [str(path) for path in every if not path.is_file()]:
        raise InputError(
            f"{len(missing)} of {len(every)} image files are missing, so nothing was started: {listed(missing)}"
        )
    with ThreadPoolExecutor() as pool:
        return dict(zip(every, pool.map(_look, every), strict=True))


def _look(path: Path) -> Picture:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Picture(open_image(path).size_wh, digest)


def fingerprint(material: Material) -> str:
    """A digest of all that is learned from: questions, answers and the content of images, not where they lie."""
    return _digest(
        [
            task.sample.id,
            task.question.model_dump(mode="json"),
            task.prompt.messages,
            [material.pictures[path].sha256 for path in task.prompt.images],
        ]
        for task in material.tasks
    )


def held_out_fingerprint(samples: Sequence[Sample]) -> str:
    """A digest of what is asked now and then: truth, questions and the content of images, not where they lie."""
    pictures = look(path for sample in samples for path in (sample.image, *sample.references))
    return _digest(
        [
            sample.model_dump(mode="json", exclude={"image", "references", "mask"}),
            [pictures[path].sha256 for path in (sample.image, *sample.references)],
        ]
        for sample in samples
    )


def _digest(rows: Iterable[list[Any]]) -> str:
    whole = hashlib.sha256()
    for row in rows:
        whole.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return f"sha256:{whole.hexdigest()}"


def require_apart(material: Material, held_out: Sequence[Sample]) -> None:
    """Raise `InputError` that names held-out samples whose very image is learned from."""
    learned = {material.pictures[task.sample.image].sha256 for task in material.tasks}
    pictures = look(sample.image for sample in held_out)
    if both := [sample.id for sample in held_out if pictures[sample.image].sha256 in learned]:
        raise InputError(
            f"{len(both)} held-out images are also learned from: {listed(both)}; hold out others (anomalyr1 data split)"
        )


def gold_completion(task: Task, frame: Frame, seed: int) -> str:
    """What SFT teaches to a task: the user's own text, else one written from the labels, always the same for a seed."""
    import numpy as np

    if task.question.completion is not None:
        return task.question.completion
    digest = hashlib.sha256(f"{seed} {task.sample.id} {task.question.id}".encode()).digest()
    first = task.sample.boxes[0].label if task.sample.boxes else ""
    return completions.gold(task.sample, task.question, first, frame, np.random.default_rng(list(digest[:8])))


def completion_ids(tokenizer: Any, task: Task, frame: Frame, seed: int) -> list[int]:
    """What SFT teaches to a task in token ids, the end of the turn included. Raises `InputError` where it writes a special token."""
    ids: list[int] = tokenizer(gold_completion(task, frame, seed), add_special_tokens=False)["input_ids"]
    if chat.special_ids(tokenizer) & set(ids):
        raise InputError(
            f"sample {task.sample.id!r}, question {task.question.id!r}: its completion writes a special token; remove it"
        )
    return [*ids, tokenizer.convert_tokens_to_ids(chat.TURN_END)]


def prompt_rows(material: Material, family: Family, max_pixels: int) -> Any:
    """The training data as TRL takes it: a row a task, `prompt` (a chat), `images` as the model sees them, opened when asked for, `row`.

    The same image file gives the same image object, so that it is prepared once.
    """
    from datasets import Dataset

    seen = functools.lru_cache(_CACHED_IMAGES)(
        lambda path: resize(open_image(path).rgb, family, max_pixels)[0]
    )

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        asked = [material.tasks[row].prompt for row in batch["row"]]
        images = [[seen(path) for path in prompt.images] for prompt in asked]
        return {"prompt": [prompt.messages for prompt in asked], "images": images, "row": batch["row"]}

    return Dataset.from_dict({"row": list(range(len(material.tasks)))}).with_transform(rows)
