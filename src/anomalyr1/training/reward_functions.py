"""Our rewards as the reward functions that TRL calls, each completion read once for all of them.

Two controls for experiments are made of any reward by the end of its name. "roam/shuffled" deals the values
anew among the completions of a question, so that nothing can be learned from them. "roam/unlinked" deals the
conclusions of the reasonings, so that a completion is paid for the agreement of its answer with another one's
reasoning. Both deal by the step, so a resumed run deals the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomalyr1.answers.completion import parse
from anomalyr1.images import Frame
from anomalyr1.rewards import CONTROLS, Reward
from anomalyr1.types import Answer, InputError, Question

ROW = "row"
"""The column of the training data that says which `Asked` a completion answers."""

RewardFunction = Callable[..., list[float | None]]


@dataclass(frozen=True)
class Asked:
    """What a prompt of the training data asked."""

    sample_id: str
    question: Question
    frame: Frame | None
    """How the model sees the inspected image; None = unknown, and boxes stay in the model's units."""


class Reader:
    """Reads the completions of a batch once; every reward asks it for the same batch."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self.asked = asked
        self._last: tuple[list[tuple[int, str]], list[Answer]] = ([], [])

    def read(self, rows: Sequence[int], completions: Sequence[Any]) -> list[Answer]:
        """The answers of `completions`, which are texts or TRL's chats of one assistant message."""
        batch = [
            (row, one if isinstance(one, str) else one[0]["content"])
            for row, one in zip(rows, completions, strict=True)
        ]
        if batch != self._last[0]:
            self._last = (
                batch,
                [parse(text, self.asked[row].question.options, self.asked[row].frame) for row, text in batch],
            )
        return self._last[1]


def reward_functions(rewards: Mapping[str, Reward], asked: Sequence[Asked]) -> list[RewardFunction]:
    """TRL reward functions of the same names, for a data set with the column `ROW`; weights go to TRL's `reward_weights`.

    None stays None: that term drops out, and a completion for which every reward is None has advantage 0.
    Calling one raises `InputError` naming the reward and the sample for NaN and infinity.
    """
    reader = Reader(asked)
    return [_named(name, reward, reader) for name, reward in rewards.items()]


def _named(name: str, reward: Reward, reader: Reader) -> RewardFunction:
    _, _, control = name.partition("/")

    def function(
        completions: Sequence[Any], row: Sequence[int], trainer_state: Any = None, **_: object
    ) -> list[float | None]:
        answers = reader.read(row, completions)
        order = _dealt(row, trainer_state.global_step) if control in CONTROLS else []
        if control == "unlinked":
            answers = [
                _concluding(answer, answers[other]) for answer, other in zip(answers, order, strict=True)
            ]
        values = [
            _checked(name, reward, answer, reader.asked[i]) for answer, i in zip(answers, row, strict=True)
        ]
        return [values[other] for other in order] if control == "shuffled" else values

    function.__name__ = name  # what TRL's curves are called
    return function


def _dealt(row: Sequence[int], step: int) -> list[int]:
    """For each completion the place of another one to the same question, dealt by `step`."""
    order = np.arange(len(row))
    random = np.random.default_rng([step, len(row)])
    for one in dict.fromkeys(row):
        places = np.nonzero(np.array(row) == one)[0]
        order[places] = random.permutation(places)
    return order.tolist()


def _concluding(answer: Answer, other: Answer) -> Answer:
    """The answer as if its reasoning concluded what the other's does."""
    off = {"place_off_box": other.counts["place_off_box"]} if "place_off_box" in other.counts else {}
    counts = {name: number for name, number in answer.counts.items() if name != "place_off_box"} | off
    return answer.model_copy(
        update={"conclusion": other.conclusion, "says_defect": other.says_defect, "counts": counts}
    )


def _checked(name: str, reward: Reward, answer: Answer, asked: Asked) -> float | None:
    value = reward(answer, asked.question)
    if value is not None and not math.isfinite(value):
        raise InputError(
            f"reward {name!r} of sample {asked.sample_id!r} is {value}; expected a finite number or None, correct the reward"
        )
    return value
