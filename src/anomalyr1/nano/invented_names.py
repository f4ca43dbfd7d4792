"""Objects that nobody has heard of: only their knowledge says what they are called and what they are for."""

from __future__ import annotations

import re
from pathlib import Path

from numpy.random import Generator

from anomalyr1.data.multiple_choice import pick_text
from anomalyr1.drawn.words import GOOD_LOOK, MATERIAL, PURPOSE
from anomalyr1.types import LETTERS, Question, Sample

WORDS = tuple(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split())
"""Words of workshops and kitchens that the tokenizer knows as tokens of their own, and that names consist of.

All of them: words that training never writes are pushed together until they cannot be told apart, so they
could not be copied either.
"""
ACTS = tuple(word for word in WORDS if word.endswith("ing"))
OTHER_LOOKS = 0.6
"""Share of the objects whose good look is described in words that say nothing, as an unknown object's do."""
ONSETS = ("b", "br", "d", "f", "g", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z")
RHYMES = ("al", "an", "ar", "ek", "el", "en", "ib", "il", "in", "ol", "on", "or", "ud", "um", "ut")


def invent_name(rng: Generator) -> str:
    """One or two words, or one that does not exist."""
    if rng.random() < 0.3:
        return "".join(
            pick_text(rng, ONSETS) + pick_text(rng, RHYMES) for _ in range(int(rng.integers(2, 4)))
        )
    return _random_words(rng, 2)


def invent_purpose(rng: Generator) -> str:
    """What an object may be used for."""
    return f"{pick_text(rng, ACTS)} {_random_words(rng, 3)}"


def invent_material(rng: Generator) -> str:
    """What an object may consist of."""
    return _random_words(rng, 2)


def _random_words(rng: Generator, most: int) -> str:
    return " ".join(pick_text(rng, WORDS) for _ in range(int(rng.integers(1, most + 1))))


def rename_object(sample: Sample, rng: Generator) -> Sample:
    """A drawn part's sample with an invented name, purpose and material in knowledge, options and gold."""
    category = sample.category
    renamings = {
        category: invent_name(rng),
        PURPOSE[category]: invent_purpose(rng),
        MATERIAL[category]: invent_material(rng),
    }
    rewordings = dict(renamings)
    if rng.random() < OTHER_LOOKS:
        for look in GOOD_LOOK[category]:
            rewordings[look] = f"{_random_words(rng, 4)} with {_random_words(rng, 4)}"
    pattern = "|".join(re.escape(text) for text in sorted(rewordings, key=len, reverse=True))
    knowledge = re.sub(pattern, lambda match: rewordings[match[0]], sample.knowledge)
    questions = tuple(_rename_options(question, renamings, rng) for question in sample.questions)
    return sample.model_copy(
        update={"category": renamings[category], "knowledge": knowledge, "questions": questions}
    )


def _rename_options(question: Question, renamings: dict[str, str], rng: Generator) -> Question:
    """A question about the object with its gold option replaced, and mostly the wrong ones, too.

    Often the option that the image alone would suggest stays as a wrong one: knowledge counts more.
    A question whose gold option is not among `renamings` stays as it is.
    """
    gold_text = question.option_text(question.answer)
    if question.answer is None or gold_text not in renamings:
        return question
    gold = LETTERS.index(question.answer)
    inventors = {"object classification": invent_name, "object analysis": invent_purpose}
    invent = inventors.get(question.kind, invent_material)
    options = [""] * 2
    while len(set(options)) < len(options):
        options = [invent(rng) if rng.random() < 0.6 else text for text in question.options]
        options[gold] = renamings[gold_text]
        if rng.random() < 0.5:
            options[(gold + int(rng.integers(1, len(options)))) % len(options)] = gold_text
    return question.model_copy(update={"options": tuple(options)})
