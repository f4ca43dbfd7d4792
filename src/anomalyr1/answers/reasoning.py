"""All that is read from a reasoning, in one go: its conclusion, whether there is a defect, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anomalyr1.answers.conclusion import conclude
from anomalyr1.answers.findings import cut_sentence, find_defect, find_place
from anomalyr1.answers.wording import sentences


class Reasoning(NamedTuple):
    """What a reasoning says."""

    conclusion: str | None
    """The letter of the option it concludes, None when it names none."""
    says_defect: bool | None
    """Whether it says that there is a defect, None when it is silent or undecided."""
    place: str | None
    """Where it puts the defect, one of `types.PLACES`, None when it names no place or two."""


def read_reasoning(text: str, options: Sequence[str]) -> Reasoning:
    """What a reasoning says about a question with these options, () for boxes. Never raises."""
    reasoning = sentences(text)
    clauses = [cut_sentence(sentence) for sentence in reasoning]
    return Reasoning(conclude(reasoning, options), find_defect(clauses), find_place(clauses))
