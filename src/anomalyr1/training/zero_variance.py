"""Which groups carry a signal: in one whose completions all earn the same, none is better than another, and nothing can be learned."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from anomalyr1.training.run_folder import SAME
from anomalyr1.types import InputError

OnZeroVariance = Literal["keep", "skip", "resample"]


@dataclass(frozen=True)
class ScoredGroup:
    """The completions of one prompt and what they earned."""

    row: int
    """Of the training data."""
    prompt_tokens: int
    completions: list[str]
    rewards: dict[str, list[float]]
    """By name, one a completion; NaN = does not apply."""
    advantages: list[float]


def without_signal(rewards: Tensor, weights: Tensor, size: int, each: bool = False) -> Tensor:
    """(N,) bool: rows of groups whose completions all earn the same, or nothing at all.

    `rewards` (N, R) is NaN where one does not apply, `weights` (R,) weigh them, `size` completions are a
    group. With `each` every reward must be the same for itself, as it counts where each is normalised on its
    own.
    """
    applies = ~rewards.isnan()
    weighed = (
        (rewards * weights.to(rewards)).nan_to_num()
        if each
        else (rewards * weights.to(rewards)).nansum(1, keepdim=True)
    )
    scored = (applies if each else applies.any(1, keepdim=True)).view(-1, size, weighed.shape[1])
    values = weighed.view(-1, size, weighed.shape[1])
    highest = values.masked_fill(~scored, -torch.inf).amax(1)
    lowest = values.masked_fill(~scored, torch.inf).amin(1)
    return (highest - lowest < SAME).all(1).repeat_interleave(size)


def spliced(drawn: Sequence[Any], again: Sequence[Any], rows: Sequence[int]) -> tuple[Any, ...]:
    """What TRL's `_generate` returned, with `rows` taken from a second call for those rows alone."""
    merged: list[Any] = []
    for first, second in zip(drawn, again, strict=True):
        if isinstance(first, list) and len(first) == len(drawn[0]):
            whole = list(first)
            for place, row in enumerate(rows):
                whole[row] = second[place]
            merged.append(whole)
        elif not first:
            merged.append(first)
        else:
            raise InputError(
                "zero_variance: resample cannot be used with what the rollout returns beside completions; use keep or skip"
            )
    return tuple(merged)


def groups_of(
    completions: Sequence[tuple[int, str, int, float]], rewards: dict[str, list[float]], size: int
) -> list[ScoredGroup]:
    """The groups of a generation batch; of each completion the row, the text, the tokens of its prompt, and the advantage."""
    found = []
    for start in range(0, len(completions), size):
        own = slice(start, start + size)
        rows, texts, tokens, advantages = zip(*completions[own], strict=True)
        each = {name: values[own] for name, values in rewards.items()}
        found.append(ScoredGroup(rows[0], tokens[0], list(texts), each, list(advantages)))
    return found


def length_figures(ids: Sequence[Sequence[int]], ends: Container[int]) -> dict[str, float]:
    """What TRL logs about the lengths of completions, by its names; one whose last token is none of `ends` is truncated."""
    every = [len(one) for one in ids]
    ended = [len(one) for one in ids if one[-1] in ends]
    found = {"completions/clipped_ratio": 1 - len(ended) / len(every)}
    for kind, lengths in (("length", every), ("terminated_length", ended or [0])):
        found |= {f"completions/mean_{kind}": sum(lengths) / len(lengths)}
        found |= {
            f"completions/min_{kind}": float(min(lengths)),
            f"completions/max_{kind}": float(max(lengths)),
        }
    return found
