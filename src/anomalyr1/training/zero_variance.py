"""Which groups carry a signal: in one whose completions all earn the same, none is better than another, and
nothing is learned.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from anomalyr1.training.run_folder import SAME
from anomalyr1.types import InputError

OnZeroVariance = Literal["keep", "skip", "resample"]


@dataclass(frozen=True)
class ScoredGroup:
    """The completions of one prompt and what they earned, as the trainer knows them."""

    step: int
    """The optimizer step, counted from 1, at which learning from the group begins."""
    row: int
    """The row of the training data that holds the prompt."""
    prompt_tokens: int
    """Tokens of the prompt, those of its images included."""
    completions: list[str]
    """The texts of the completions."""
    rewards: dict[str, list[float | None]]
    """Rewards by name, one a completion; None = does not apply."""
    advantages: list[float]
    """How much better each completion is than its group."""


def without_signal(rewards: Tensor, weights: Tensor, size: int, apart: bool = False) -> Tensor:
    """(N,) bool: rows of groups whose completions all earn the same, or nothing at all.

    `rewards` (N, R) is NaN where one does not apply, `weights` (R,) weigh them, `size` completions are a
    group. With `apart` every reward must be the same for itself, as it counts where each is normalised on its
    own.
    """
    applies = ~rewards.isnan()  # (N, R)
    weighed = rewards * weights.to(rewards)  # (N, R)
    if apart:
        weighed = weighed.nan_to_num()
    else:
        weighed, applies = weighed.nansum(1, keepdim=True), applies.any(1, keepdim=True)  # (N, 1)
    values = weighed.view(-1, size, weighed.shape[1])  # (groups, size, R or 1)
    scored = applies.view_as(values)
    highest = values.masked_fill(~scored, -torch.inf).amax(1)  # (groups, R or 1)
    lowest = values.masked_fill(~scored, torch.inf).amin(1)
    return (highest - lowest < SAME).all(1).repeat_interleave(size)


def splice(outputs: Sequence[Any], redrawn: Sequence[Any], rows: Sequence[int]) -> tuple[Any, ...]:
    """What TRL's `_generate` returned, with `rows` taken from another call for those rows alone.

    Raises `InputError` for outputs that are neither empty nor a list with an entry a completion.
    """
    merged: list[Any] = []
    for output, replacements in zip(outputs, redrawn, strict=True):
        if isinstance(output, list) and len(output) == len(outputs[0]):
            output = list(output)
            for row, replacement in zip(rows, replacements, strict=True):
                output[row] = replacement
        elif output:
            raise InputError(
                "zero_variance: resample cannot be used with what the rollout returns beside completions; "
                "use keep or skip"
            )
        merged.append(output)
    return tuple(merged)


def group_completions(
    step: int,
    completions: Sequence[tuple[int, str, int, float]],
    rewards: Mapping[str, Sequence[float]],
    size: int,
) -> list[ScoredGroup]:
    """The groups of a generation batch of N completions.

    Of each completion the row, the text, the tokens of its prompt, and the advantage; `rewards` holds (N,)
    values by name, NaN where one does not apply.
    """
    groups = []
    for start in range(0, len(completions), size):
        members = slice(start, start + size)
        rows, texts, tokens, advantages = zip(*completions[members], strict=True)
        earned = {
            name: [None if math.isnan(value) else value for value in values[members]]
            for name, values in rewards.items()
        }
        groups.append(ScoredGroup(step, rows[0], tokens[0], list(texts), earned, list(advantages)))
    return groups


def length_figures(completions: Sequence[Sequence[int]], end_ids: Container[int]) -> dict[str, float]:
    """What TRL logs about the lengths of completions in token ids, by its names.

    One whose closing token is none of `end_ids` is truncated.
    """
    lengths = [len(ids) for ids in completions]
    ended = [len(ids) for ids in completions if ids[-1] in end_ids]
    figures = {"completions/clipped_ratio": 1 - len(ended) / len(lengths)}
    for kind, counted in (("length", lengths), ("terminated_length", ended or [0])):
        figures |= {
            f"completions/mean_{kind}": sum(counted) / len(counted),
            f"completions/min_{kind}": float(min(counted)),
            f"completions/max_{kind}": float(max(counted)),
        }
    return figures
