"""A question with options from a gold answer and a pool of wrong ones, and the wordings of such questions.

They are questions of data sets that have none, worded in the manner of MMAD, which brings its own. How a
question is put to a model is the business of `prompts`.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from anomalyr1.types import LETTERS, Kind, Question

QUESTION_TEXTS: dict[str, tuple[str, ...]] = {
    "anomaly detection": (
        "Does the object in the image have a defect?",
        "Is there an anomaly in the image?",
        "Is the object defective?",
    ),
    "defect classification": (
        "What is the type of the defect?",
        "What kind of defect is it?",
        "Which type of defect does the object have?",
    ),
    "defect localization": (
        "Where is the defect?",
        "Where is the defect located?",
        "In which region of the image is the defect?",
    ),
    "defect description": (
        "What is the appearance of the defect?",
        "Which description fits the defect?",
        "How does the defect look?",
    ),
    "defect analysis": (
        "What is the effect of the defect?",
        "What could be the effect of the defect?",
        "What follows from the defect?",
    ),
    "object classification": (
        "What kind of product is in the image?",
        "What is the object in the image?",
        "Which object does the image show?",
    ),
}
"""Wordings by kind of question."""
DEFECT_PREMISE = "There is a defect in the object."
"""Stands before a question about a defect."""


def choice(
    rng: Generator, name: str, kind: Kind, text: str, gold: str, pool: Sequence[str], n: int = 4
) -> Question:
    """A question of at most `n` options: the gold one and distractors from the pool, shuffled."""
    distractors = [option for option in dict.fromkeys(pool) if option != gold]
    options = [gold, *pick_texts(rng, distractors, n - 1)]
    options = pick_texts(rng, options, len(options))
    answer = LETTERS[options.index(gold)]
    return Question(id=name, kind=kind, text=text, options=tuple(options), answer=answer)


def pick_text(rng: Generator, texts: Sequence[str]) -> str:
    """One of the texts, all equally likely."""
    return texts[int(rng.integers(len(texts)))]


def pick_texts(rng: Generator, texts: Sequence[str], n: int) -> list[str]:
    """At most `n` of the texts in random order."""
    return [texts[int(index)] for index in rng.permutation(len(texts))[:n]]
