"""Our rewards as the reward functions that TRL calls, each completion read once for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomalyr1.answers import parse
from anomalyr1.images import Frame
from anomalyr1.rewards import Reward
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
        batch = [(row, one if isinstance(one, str) else one[0]["content"]) for row, one in zip(rows, completions, strict=True)]
        if batch != self._last[0]:
            self._last = (batch, [parse(text, self.asked[row].question.options, self.asked[row].frame) for row, text in batch])
        return self._last[1]


def reward_functions(rewards: Mapping[str, Reward], asked: Sequence[Asked]) -> list[RewardFunction]:
    """TRL reward functions of the same names, for a data set with the column `ROW`; weights go to TRL's `reward_weights`.

    None stays None: that term drops out, and a completion for which every reward is None has advantage 0. Calling one raises
    `InputError` naming the reward and the sample for NaN and infinity.
    """
    reader = Reader(asked)
    return [_named(name, reward, reader) for name, reward in rewards.items()]


def _named(name: str, reward: Reward, reader: Reader) -> RewardFunction:
    def function(completions: Sequence[Any], row: Sequence[int], **_: object) -> list[float | None]:
        answers = reader.read(row, completions)
        return [_checked(name, reward, answer, reader.asked[i]) for answer, i in zip(answers, row, strict=True)]

    function.__name__ = name  # what TRL's curves are called
    return function


def _checked(name: str, reward: Reward, answer: Answer, asked: Asked) -> float | None:
    value = reward(answer, asked.question)
    if value is not None and not math.isfinite(value):
        raise InputError(f"reward {name!r} of sample {asked.sample_id!r} is {value}; expected a finite number or None, correct the reward")
    return value
