"""The folder of a training run: what lies where, and its files as records.

    recipe.yaml        the recipe as it was run
    run.json           versions, seeds, digests and licences
    learned.jsonl      what tells each image again that was learned from (`data.leaks.Trace`)
    metrics.jsonl      an object a logged step: {"step": 10, "loss": ..., "reward": ..., ...}
    groups.jsonl       a `Group` a line: what the policy wrote to one prompt, and what it earned
    evaluations.jsonl  the held-out figures by step
    samples/           pages of groups, with pictures
    tensorboard/       the curves
    checkpoint-N/      see `checkpoints`
    final/             the trained policy, merged where an adapter was trained
    adapter/           the adapter alone, of a run with `lora`
    data/              drawn parts

Steps count from 1: a group's step is the optimizer step that first learns from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from anomalyr1.answers.completion import parse
from anomalyr1.files import parse_json, read_regular
from anomalyr1.images.frames import Frame
from anomalyr1.rewards import combine, consistent, right
from anomalyr1.types import Answer, InputError, Question, Record, first_error

RECIPE, RUN = "recipe.yaml", "run.json"
METRICS, GROUPS, EVALUATIONS = "metrics.jsonl", "groups.jsonl", "evaluations.jsonl"
SAMPLES, TENSORBOARD, FINAL, ADAPTER, DATA = "samples", "tensorboard", "final", "adapter", "data"

_LARGEST = 1e30
"""The largest reward, weight or advantage: their squares and products are finite."""
SAME = 1e-6
"""Rewards closer than this count as one: they are sums of few floats."""


class Group(Record):
    """The completions of one prompt in one step, and what they earned."""

    step: int
    """The optimizer step, counted from 1, at which learning from the group begins."""
    sample_id: str
    """The sample that the prompt asks about."""
    question: Question
    """The question that the prompt asks, with its gold answer."""
    image: str
    """The path of the inspected image."""
    frame: Frame | None = None
    """How the policy saw the image; None = unknown, and boxes stay in its own units."""
    prompt_tokens: int
    """Tokens of the prompt, those of its images included."""
    completions: tuple[str, ...]
    """The texts of the completions."""
    rewards: dict[str, tuple[float | None, ...]]
    """Rewards by name, one a completion; None = does not apply."""
    weights: dict[str, float]
    """The weight of each reward."""
    advantages: tuple[float, ...]
    """How much better each completion is than its group."""
    normalized_apart: bool = False
    """Whether each reward is normalized on its own (TRL's `normalize_then_sum`), so that one that differs is
    a signal."""

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        columns = {"advantages": self.advantages, **self.rewards}
        for name, values in columns.items():
            if len(values) != len(self.completions):
                raise ValueError(
                    f"a group of {len(self.completions)} completions has {len(values)} values of {name}"
                )
        return self

    def totals(self) -> list[float | None]:
        """The weighted sum of each completion's rewards; None = none applies."""
        return [
            combine(self.rewards_of(i), self.weights, self.sample_id) for i in range(len(self.completions))
        ]

    def rewards_of(self, number: int) -> dict[str, float | None]:
        """The rewards of the completion in place `number`, by name."""
        return {name: values[number] for name, values in self.rewards.items()}

    def answers(self) -> list[Answer]:
        """The completions as the rewards read them."""
        return [parse(text, self.question.options, self.frame) for text in self.completions]

    @property
    def without_signal(self) -> bool:
        """Whether all completions that were scored earned the same, so that nothing can be learned."""
        columns: list[Sequence[float | None]] = [self.totals()]
        if self.normalized_apart:
            columns = [self.rewards[name] for name in self.weights if self.weights[name]]
        return all(_spread(column) < SAME for column in columns)


def _spread(values: Sequence[float | None]) -> float:
    """How far the values that are there lie apart; 0 where there are none."""
    applying = [value for value in values if value is not None]
    return max(applying) - min(applying) if applying else 0.0


def figures(groups: Iterable[tuple[Group, Sequence[Answer]]]) -> dict[str, float]:
    """What groups of one step, each with its answers, tell beside TRL's own figures.

    A figure that has nothing to count is left out. `answers/`: shares of all completions that were read
    strictly, leniently, not at all, and that are right; of those whose reasoning concludes something, the
    share that agrees with its answer (`consistent`); of the right ones, the share that does not
    (`right_but_contradicted`). `signal/`: the share of groups with one reward, and of completions without
    any.
    """
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    for group, answers in groups:
        note("signal/zero_variance", group.without_signal)
        for total in group.totals():
            note("signal/unscored", total is None)
        for answer in answers:
            for status in ("strict", "lenient", "unparseable"):
                note(f"answers/{status}", answer.status == status)
            is_right, agrees = right(answer, group.question), consistent(answer, group.question)
            if is_right is not None:
                note("answers/right", is_right)
            if agrees is not None and answer.status != "unparseable":
                note("answers/consistent", agrees)
            if is_right:
                note("answers/right_but_contradicted", agrees is False)
    return {name: sum(counted) / len(counted) for name, counted in values.items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; none where it does not exist.

    A torn line at the end, as a killed run leaves it, is left out. Raises `InputError` with the number of a
    line that is not an object with a step.
    """
    if not os.path.lexists(path):
        return []
    objects = []
    for number, line in enumerate(read_regular(path).split(b"\n")[:-1], start=1):
        where = f"line {number} of {str(path)!r}"
        try:
            value = parse_json(line, where)
        except InputError as error:
            raise InputError(f"{error}, or delete the line") from error
        step = value.get("step") if isinstance(value, dict) else None
        if type(step) is not int or step < 0:
            raise InputError(f"{where} is no object with a step; delete the line")
        objects.append(value)
    return objects


def read_groups(run: Path, step: int | None = None) -> list[Group]:
    """The groups of a run, or of one of its steps.

    Raises `InputError` with the number of a line that is none, or whose numbers cannot be reckoned with.
    """
    groups = []
    for number, line in enumerate(read_lines(run / GROUPS), start=1):
        if step is not None and line["step"] != step:
            continue
        try:
            group = Group.model_validate(line)
        except ValidationError as error:
            raise InputError(
                f"line {number} of {str(run / GROUPS)!r} is not a group ({first_error(error)}); delete the "
                "line"
            ) from error
        values = chain(group.weights.values(), group.advantages, *group.rewards.values())
        if any(abs(value or 0) > _LARGEST for value in values):
            raise InputError(
                f"line {number} of {str(run / GROUPS)!r} holds a reward, weight or advantage above "
                f"{_LARGEST:g}; delete the line"
            )
        groups.append(group)
    return groups
