"""Our rewards as the reward functions that TRL calls, each completion read once for all of them.

Two controls for experiments are made of any reward by the end of its name. "roam/shuffled" deals the values
anew among the completions of a question, so that nothing can be learned from them. "roam/unlinked" deals the
conclusions of the reasonings, so that a completion is paid for the agreement of its answer with another one's
reasoning. Both deal by the step, so a resumed run deals the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomalyr1.answers.completion import parse
from anomalyr1.images.frames import Frame
from anomalyr1.rewards import CONTROLS, LARGEST_REWARD, Reward
from anomalyr1.types import Answer, InputError, Question

ROW = "row"
"""The column of the training data that says which `TrainingQuestion` a completion answers."""

RewardFunction = Callable[..., list[float | None]]


@dataclass(frozen=True)
class TrainingQuestion:
    """What a reward has to know of a row of the training data."""

    sample_id: str
    """The sample that is asked about; errors name it."""
    question: Question
    """The question with its gold answer."""
    frame: Frame | None
    """How the model sees the inspected image; None = unknown, and boxes stay in the model's units."""


class CompletionReader:
    """Reads the completions of a batch, each once, however many rewards and logs ask for them."""

    def __init__(self, questions: Sequence[TrainingQuestion]) -> None:
        self.questions = questions
        """The questions by their rows."""
        self._answers: dict[tuple[int, str], Answer] = {}
        """Of the newest batch, by row and text."""

    def read_batch(self, rows: Sequence[int], completions: Sequence[Any]) -> list[Answer]:
        """The answers of `completions` (texts, or TRL's chats of one message) to the questions in `rows`."""
        keys = list(zip(rows, map(text_of, completions), strict=True))
        self._answers = {key: self.read(*key) for key in keys}
        return [self._answers[key] for key in keys]

    def read(self, row: int, text: str) -> Answer:
        """The answer of one completion; from memory where it belongs to the newest batch."""
        answer = self._answers.get((row, text))
        if answer is None:
            answer = parse(text, self.questions[row].question.options, self.questions[row].frame)
        return answer


def text_of(completion: Any) -> str:
    """The text of a completion, which is a text or TRL's chat of one assistant message."""
    text: str = completion if isinstance(completion, str) else completion[0]["content"]
    return text


def reward_functions(rewards: Mapping[str, Reward], reader: CompletionReader) -> list[RewardFunction]:
    """TRL reward functions of the same names, for a data set with the column `ROW`.

    Their weights go to TRL's `reward_weights`. None stays None: that term drops out, and a completion for
    which every reward is None has advantage 0. Calling one raises `InputError` naming the reward and the
    sample for NaN and infinity.
    """
    return [_reward_function(name, reward, reader) for name, reward in rewards.items()]


def _reward_function(name: str, reward: Reward, reader: CompletionReader) -> RewardFunction:
    control = name.rpartition("/")[2]

    def function(
        completions: Sequence[Any], row: Sequence[int], trainer_state: Any = None, **_: object
    ) -> list[float | None]:
        answers = reader.read_batch(row, completions)
        order = _deal(row, trainer_state.global_step) if control in CONTROLS else []
        if control == "unlinked":
            answers = [
                _with_conclusion_of(answers[i], answer) for answer, i in zip(answers, order, strict=True)
            ]
        values = [
            _reward_value(name, reward, answer, reader.questions[i])
            for answer, i in zip(answers, row, strict=True)
        ]
        return [values[i] for i in order] if control == "shuffled" else values

    function.__name__ = name  # what TRL's curves are called
    return function


def _deal(rows: Sequence[int], step: int) -> list[int]:
    """For each completion the place of another one to the same question, dealt by `step`."""
    order = np.arange(len(rows))
    random = np.random.default_rng([step, len(rows)])
    for row in dict.fromkeys(rows):
        places = np.nonzero(np.array(rows) == row)[0]
        order[places] = random.permutation(places)
    return order.tolist()


def _with_conclusion_of(donor: Answer, answer: Answer) -> Answer:
    """The answer as if its reasoning concluded what the donor's does."""
    counts = {name: number for name, number in answer.counts.items() if name != "place_off_box"}
    if "place_off_box" in donor.counts:
        counts["place_off_box"] = donor.counts["place_off_box"]
    return answer.model_copy(
        update={"conclusion": donor.conclusion, "says_defect": donor.says_defect, "counts": counts}
    )


def _reward_value(name: str, reward: Reward, answer: Answer, row: TrainingQuestion) -> float | None:
    value = reward(answer, row.question)
    if value is not None and not abs(value) <= LARGEST_REWARD:  # NaN is no number that compares
        raise InputError(
            f"reward {name!r} of sample {row.sample_id!r} is {value}; expected a finite number of at most "
            f"{LARGEST_REWARD:g}, or None; correct the reward"
        )
    return value
