"""The folder of a training run: what lies where, and its files as records.

    recipe.yaml        the recipe as it was run
    run.json           versions, seeds, digests and licences
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

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from anomalyr1.answers.completion import parse
from anomalyr1.images import Frame
from anomalyr1.rewards import combine, consistent, right
from anomalyr1.types import Answer, InputError, Question, Record

RECIPE, RUN = "recipe.yaml", "run.json"
METRICS, GROUPS, EVALUATIONS = "metrics.jsonl", "groups.jsonl", "evaluations.jsonl"
SAMPLES, TENSORBOARD, FINAL, ADAPTER, DATA = "samples", "tensorboard", "final", "adapter", "data"

SAME = 1e-6
"""Rewards closer than this count as one: they are sums of few floats."""


class Group(Record):
    """The completions of one prompt in one step, and what they earned."""

    step: int
    sample_id: str
    question: Question
    image: str
    frame: Frame | None = None
    """How the policy saw the image; None = unknown, and boxes stay in its own units."""
    prompt_tokens: int
    completions: tuple[str, ...]
    rewards: dict[str, tuple[float | None, ...]]
    """By name, one a completion; None = does not apply."""
    weights: dict[str, float]
    advantages: tuple[float, ...]
    normalized_apart: bool = False
    """Whether each reward is normalized on its own (TRL's `normalize_then_sum`), so that one that differs is
    a signal."""

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        lengths = {
            "advantages": len(self.advantages),
            **{name: len(values) for name, values in self.rewards.items()},
        }
        for name, length in lengths.items():
            if length != len(self.completions):
                raise ValueError(
                    f"a group of {len(self.completions)} completions has {length} values of {name}"
                )
        return self

    def totals(self) -> list[float | None]:
        """The weighted sum of each completion's rewards; None = none applies."""
        rows = [
            {name: values[i] for name, values in self.rewards.items()} for i in range(len(self.completions))
        ]
        return [combine(row, self.weights, self.sample_id) for row in rows]

    def answers(self) -> list[Answer]:
        """The completions as the rewards read them."""
        return [parse(text, self.question.options, self.frame) for text in self.completions]

    @property
    def without_signal(self) -> bool:
        """Whether all completions that were scored earned the same, so that nothing can be learned from them."""
        columns = (
            [self.rewards[name] for name in self.weights if self.weights[name]]
            if self.normalized_apart
            else [self.totals()]
        )
        scored = [[value for value in column if value is not None] for column in columns]
        return all(not values or max(values) - min(values) < SAME for values in scored)


def figures(groups: Sequence[Group]) -> dict[str, float]:
    """What groups of one step tell beside TRL's own figures; one that has nothing to count is left out.

    `answers/`: shares of all completions that were read strictly, leniently, not at all, and that are right;
    of those whose reasoning concludes something, the share that agrees with its answer (`consistent`); of the
    right ones, the share that does not (`right_but_contradicted`). `signal/`: the share of groups with one
    reward, and of completions without any.
    """
    counted: dict[str, list[float]] = {}
    for group in groups:
        counted.setdefault("signal/zero_variance", []).append(group.without_signal)
        counted.setdefault("signal/unscored", []).extend(total is None for total in group.totals())
        for answer in group.answers():
            for status in ("strict", "lenient", "unparseable"):
                counted.setdefault(f"answers/{status}", []).append(answer.status == status)
            is_right, agrees = right(answer, group.question), consistent(answer, group.question)
            if is_right is not None:
                counted.setdefault("answers/right", []).append(is_right)
            if agrees is not None and answer.status != "unparseable":
                counted.setdefault("answers/consistent", []).append(agrees)
            if is_right:
                counted.setdefault("answers/right_but_contradicted", []).append(agrees is False)
    return {name: sum(values) / len(values) for name, values in counted.items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; none where it does not exist. A torn last line, as a killed run leaves it, is left out.

    Raises `InputError` with the number of a line that is not an object with a step.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    found = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            one = json.loads(line)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"line {number} of {str(path)!r} is no JSON ({error}); delete the line"
            ) from error
        if not isinstance(one, dict) or not isinstance(one.get("step"), int):
            raise InputError(f"line {number} of {str(path)!r} is no object with a step; delete the line")
        found.append(one)
    return found


def read_groups(run: Path, step: int | None = None) -> list[Group]:
    """The groups of a run, or of one of its steps. Raises `InputError` with the number of a line that is none."""
    groups = []
    for number, line in enumerate(read_lines(run / GROUPS), start=1):
        if step is not None and line["step"] != step:
            continue
        try:
            groups.append(Group.model_validate(line))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            why = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
            raise InputError(
                f"line {number} of {str(run / GROUPS)!r} is not a group ({why}); delete the line"
            ) from error
    return groups
