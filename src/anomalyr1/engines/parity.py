"""The same questions to two engines: whether they answer, see and count tokens alike.

Same weights in two engines have given different boxes and scores before, mostly because one resized images
again. So frames and prompt tokens are compared beside answers, and two pixel caps are not compared unless
that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from anomalyr1 import prompts
from anomalyr1.boxes import set_iou, to_array
from anomalyr1.engines.engine import GREEDY, Completion, Engine, Sampling
from anomalyr1.engines.openai_format import PUT_BACK
from anomalyr1.images.door import open_image
from anomalyr1.types import Fingerprint, InputError, Question, Record, Sample

T = TypeVar("T")


class Parity(Record):
    """How two engines compare. Not every engine knows everything, so each count has its total beside it."""

    images: int
    questions: int
    failed: tuple[int, int]
    """Questions that each engine had no answer to; what follows is about the others."""
    compared: int
    same_text: int
    choices: int
    """Option questions that both answered with a letter, or neither."""
    same_choice: int
    score_difference: float | None
    """The largest difference of an option's probability; None where an engine gives none."""
    boxes: int
    """Box questions of which both answers could be read and mapped."""
    mean_iou: float | None
    """Mean set IoU of their boxes; 1 where both say there are none."""
    tokens: int
    """Questions of which both engines know the number of prompt tokens."""
    same_tokens: int
    largest_token_difference: int
    frames: int
    """Questions of which both engines know at which size the image was seen."""
    same_frame: int
    differences: tuple[str, ...]
    """Fields of the fingerprints that differ."""
    put_back: tuple[int, int]
    """Completions of each engine that a server had split its reasoning off, put back here."""
    without_reasoning: tuple[int, int]
    """Completions of each engine that hold no reasoning."""

    @property
    def same_input(self) -> bool:
        """Whether nothing shows that the engines saw different things, and neither failed."""
        return self.failed == (0, 0) and self.same_tokens == self.tokens and self.same_frame == self.frames

    @property
    def no_text_agrees(self) -> bool:
        """Whether the engines wrote two different things to each question that both answered."""
        return self.compared > 0 and self.same_text == 0


class _Pair(NamedTuple):
    """A question and what each engine wrote to it."""

    question: Question
    left: Completion
    right: Completion


def compare_engines(
    engines: tuple[Engine, Engine],
    samples: Sequence[Sample],
    style: str = prompts.DEFAULT_STYLE,
    text: str | None = None,
    sampling: Sampling = GREEDY,
    allow_pixels: bool = False,
) -> Parity:
    """Ask both engines the two questions of an inspection about every sample, one image at a time.

    Raises `InputError` before anything is asked where the engines' pixel caps differ, unless `allow_pixels`.
    """
    # 1. Both must show the model the same pixels.
    left, right = (engine.fingerprint(sampling) for engine in engines)
    if left.max_pixels != right.max_pixels and not allow_pixels:
        raise InputError(
            f"{engines[0].name} shows the model at most {left.max_pixels:,} pixels and {engines[1].name} "
            f"{right.max_pixels:,}, so their answers are not about the same pictures; give both the same "
            "max_pixels, or compare them nevertheless with --allow-pixels"
        )
    # 2. Ask both.
    pairs: list[_Pair] = []
    for sample in samples:
        images = {path: open_image(path) for path in (sample.image, *sample.references)}
        questions = prompts.inspection_questions(sample.id)
        sample_prompts = [prompts.build(sample, question, style, text) for question in questions]
        completions = [engine.complete(sample_prompts, images, sampling) for engine in engines]
        pairs += [_Pair(*pair) for pair in zip(questions, *completions, strict=True)]
    # 3. Count what agrees.
    return _count_agreement(pairs, len(samples), _fingerprint_differences(left, right))


def _fingerprint_differences(left: Fingerprint, right: Fingerprint) -> tuple[str, ...]:
    """Fields that the engines themselves fill in and that differ; an inspection adds the same to both."""
    not_compared = {"engine", "versions", "style", "taught", "given", "option_order", "masks", "threshold"}
    left_fields, right_fields = left.model_dump(exclude=not_compared), right.model_dump(exclude=not_compared)
    return tuple(
        f"{name}: {value!r} and {right_fields[name]!r}"
        for name, value in left_fields.items()
        if value != right_fields[name]
    )


def _count_agreement(pairs: Sequence[_Pair], images: int, differences: tuple[str, ...]) -> Parity:
    answered = [pair for pair in pairs if pair.left.error is None and pair.right.error is None]
    choices = [pair for pair in answered if pair.question.options]
    ious = _known(_box_iou(pair) for pair in answered if not pair.question.options)
    token_differences = _known(_token_difference(pair) for pair in answered)
    same_frames = _known(_same_frame(pair) for pair in answered)
    return Parity(
        images=images,
        questions=len(pairs),
        failed=(
            sum(pair.left.error is not None for pair in pairs),
            sum(pair.right.error is not None for pair in pairs),
        ),
        compared=len(answered),
        same_text=sum(pair.left.text == pair.right.text for pair in answered),
        choices=len(choices),
        same_choice=sum(pair.left.answer.choice == pair.right.answer.choice for pair in choices),
        score_difference=max(_known(_score_difference(pair) for pair in choices), default=None),
        boxes=len(ious),
        mean_iou=sum(ious) / len(ious) if ious else None,
        tokens=len(token_differences),
        same_tokens=token_differences.count(0),
        largest_token_difference=max(token_differences, default=0),
        frames=len(same_frames),
        same_frame=sum(same_frames),
        differences=differences,
        put_back=(
            sum(PUT_BACK in pair.left.answer.counts for pair in answered),
            sum(PUT_BACK in pair.right.answer.counts for pair in answered),
        ),
        without_reasoning=(
            sum(not pair.left.answer.reasoning for pair in answered),
            sum(not pair.right.answer.reasoning for pair in answered),
        ),
    )


def _known(values: Iterable[T | None]) -> list[T]:
    """The values that are not None."""
    return [value for value in values if value is not None]


def _box_iou(pair: _Pair) -> float | None:
    """The set IoU of both answers' boxes; None where an answer has none to compare."""
    left, right = pair.left.answer.boxes, pair.right.answer.boxes
    return None if left is None or right is None else set_iou(to_array(left), to_array(right))


def _token_difference(pair: _Pair) -> int | None:
    """By how many tokens the prompts differ; None where an engine does not know."""
    left, right = pair.left.prompt_tokens, pair.right.prompt_tokens
    return abs(left - right) if left and right else None


def _same_frame(pair: _Pair) -> bool | None:
    """Whether both engines saw the image at one size; None where an engine does not know."""
    left, right = pair.left.frame, pair.right.frame
    return left.model_wh == right.model_wh if left and right else None


def _score_difference(pair: _Pair) -> float | None:
    """The largest difference of an option's probability; None where an engine gives none."""
    left, right = pair.left.option_scores, pair.right.option_scores
    return max(abs(left[letter] - right[letter]) for letter in left) if left and right else None
