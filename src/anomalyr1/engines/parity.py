"""The same questions to two engines: whether they answer alike, see the same picture, and count the same tokens.

Same weights in two engines have given different boxes and scores before, mostly because one resized images
again. So frames and prompt tokens are compared beside answers, and two pixel caps are not compared unless
that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anomalyr1 import answers, prompts
from anomalyr1.boxes import set_iou, to_array
from anomalyr1.engines.engine import GREEDY, Completion, Engine, Sampling
from anomalyr1.images import open_image
from anomalyr1.types import Answer, Fingerprint, InputError, Question, Record, Sample


class Parity(Record):
    """How two engines compare; each count has its whole beside it, since not every engine knows everything."""

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

    @property
    def same_input(self) -> bool:
        """Whether nothing shows that the engines saw different things, and neither failed."""
        return self.failed == (0, 0) and self.same_tokens == self.tokens and self.same_frame == self.frames


class _Pair(NamedTuple):
    question: Question
    completions: tuple[Completion, Completion]
    answers: tuple[Answer, Answer]


def compare(
    engines: tuple[Engine, Engine],
    samples: Sequence[Sample],
    style: str = prompts.DEFAULT_STYLE,
    sampling: Sampling = GREEDY,
    allow_pixels: bool = False,
) -> Parity:
    """Ask both engines the two questions of an inspection about every sample, one image at a time.

    Raises `InputError` before anything is asked where the engines' pixel caps differ, unless `allow_pixels`.
    """
    first, second = (engine.fingerprint(sampling) for engine in engines)
    if first.max_pixels != second.max_pixels and not allow_pixels:
        raise InputError(
            f"{engines[0].name} shows the model at most {first.max_pixels:,} pixels and {engines[1].name} {second.max_pixels:,}, so their "
            "answers are not about the same pictures; give both the same max_pixels, or compare them nevertheless with --allow-pixels"
        )
    pairs: list[_Pair] = []
    for sample in samples:
        images = {path: open_image(path) for path in (sample.image, *sample.references)}
        asked = [
            prompts.build(sample, question, style) for question in prompts.inspection_questions(sample.id)
        ]
        written = [engine.complete(asked, images, sampling) for engine in engines]
        for prompt, *both in zip(asked, *written, strict=True):
            read = tuple(answers.parse(one.text, prompt.question.options, one.frame) for one in both)
            pairs.append(_Pair(prompt.question, (both[0], both[1]), (read[0], read[1])))
    return _summary(pairs, len(samples), _differences(first, second))


def _differences(first: Fingerprint, second: Fingerprint) -> tuple[str, ...]:
    """What the engines say differently of themselves; what an inspection adds to a fingerprint is the same for both here."""
    beside = {"engine", "versions", "style", "given", "option_order", "masks", "threshold"}
    old, new = first.model_dump(exclude=beside), second.model_dump(exclude=beside)
    return tuple(f"{name}: {old[name]!r} and {new[name]!r}" for name in old if old[name] != new[name])


def _summary(pairs: Sequence[_Pair], images: int, differences: tuple[str, ...]) -> Parity:
    failed = tuple(sum(pair.completions[i].error is not None for pair in pairs) for i in (0, 1))
    both = [pair for pair in pairs if all(one.error is None for one in pair.completions)]
    choices = [pair for pair in both if pair.question.options]
    boxes = [found for pair in both if not pair.question.options and (found := _boxes(pair)) is not None]
    tokens = [tuple(one.prompt_tokens for one in pair.completions) for pair in both]
    known = [abs(own - other) for own, other in tokens if own and other]
    frames = [tuple(one.frame for one in pair.completions) for pair in both]
    seen = [own.model_wh == other.model_wh for own, other in frames if own and other]
    scores = [difference for pair in choices if (difference := _score_difference(pair)) is not None]
    return Parity(
        images=images,
        questions=len(pairs),
        failed=(failed[0], failed[1]),
        compared=len(both),
        same_text=sum(pair.completions[0].text == pair.completions[1].text for pair in both),
        choices=len(choices),
        same_choice=sum(pair.answers[0].choice == pair.answers[1].choice for pair in choices),
        score_difference=max(scores, default=None),
        boxes=len(boxes),
        mean_iou=sum(boxes) / len(boxes) if boxes else None,
        tokens=len(known),
        same_tokens=known.count(0),
        largest_token_difference=max(known, default=0),
        frames=len(seen),
        same_frame=sum(seen),
        differences=differences,
    )


def _boxes(pair: _Pair) -> float | None:
    """The set IoU of both answers' boxes; None where one has none to compare."""
    own, other = (answer.boxes for answer in pair.answers)
    return None if own is None or other is None else set_iou(to_array(own), to_array(other))


def _score_difference(pair: _Pair) -> float | None:
    own, other = (completion.option_scores for completion in pair.completions)
    return max(abs(own[letter] - other[letter]) for letter in own) if own and other else None
