"""Objects that nobody has heard of: a policy can name them, and say what they are for, only by reading the knowledge it is given."""

from __future__ import annotations

from numpy.random import Generator

from anomalyr1.data.choices import one
from anomalyr1.data.drawn_words import MATERIAL, PURPOSE
from anomalyr1.types import LETTERS, Question, Sample

NOUNS = (
    "valve", "bracket", "spring", "hose", "lens", "clip", "nozzle", "pulley", "bolt", "rivet", "hinge", "spindle", "piston", "filter",
    "brush", "panel", "sensor", "lid", "tray", "sleeve", "plug", "fuse", "blade", "handle", "knob", "rotor", "frame", "pad", "tube", "cap",
    "wafer", "coil", "mould", "ring", "rail", "cover", "grip", "socket", "chain", "funnel",
)  # fmt: skip
QUALITIES = ("steel", "rubber", "round", "flat", "double", "inner", "outer", "heavy", "small", "folded", "ribbed", "printed", "sintered")
ACTS = (
    "guiding",
    "sealing",
    "lifting",
    "cooling",
    "sorting",
    "mixing",
    "measuring",
    "locking",
    "heating",
    "cleaning",
    "turning",
    "hanging",
)
THINGS = (
    "a beam", "hot oil", "a door", "small parts", "air", "a lamp", "water", "a belt", "paper", "a wheel", "food", "tools", "a window",
    "a motor", "paint", "a tank", "sand", "a roof", "letters", "a lever",
)  # fmt: skip
MATERIALS = ("rubber", "steel", "cork", "wax", "carbon", "silicone", "brass", "felt", "stone", "resin", "nylon", "clay", "tin", "concrete")
ONSETS, RHYMES = ("b", "br", "d", "f", "g", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z"), (
    "al", "an", "ar", "ek", "el", "en", "ib", "il", "in", "ol", "on", "or", "ud", "um", "ut",
)  # fmt: skip


def name(rng: Generator) -> str:
    """A noun, a noun with its quality, or a word that does not exist."""
    kind = rng.random()
    if kind < 0.45:
        return "".join(one(rng, ONSETS) + one(rng, RHYMES) for _ in range(int(rng.integers(2, 4))))
    return one(rng, NOUNS) if kind < 0.75 else f"{one(rng, QUALITIES)} {one(rng, NOUNS)}"


def purpose(rng: Generator) -> str:
    """What an object may be used for."""
    return f"{one(rng, ACTS)} {one(rng, THINGS)}"


def material(rng: Generator) -> str:
    """What an object may be made of."""
    return one(rng, MATERIALS)


def renamed(sample: Sample, rng: Generator) -> Sample:
    """The sample of a drawn part with an invented name, purpose and material, in knowledge, options and gold alike."""
    new = {sample.category: name(rng), PURPOSE[sample.category]: purpose(rng), MATERIAL[sample.category]: material(rng)}
    knowledge = sample.knowledge
    for old, text in new.items():
        knowledge = knowledge.replace(old, text)
    asked = tuple(_asked(question, new, rng) for question in sample.questions)
    return sample.model_copy(update={"category": new[sample.category], "knowledge": knowledge, "questions": asked})


def _asked(question: Question, new: dict[str, str], rng: Generator) -> Question:
    """A question about the object with its gold option replaced, and mostly the others, too; other questions as they are.

    Often the option that the image alone would suggest stays as a wrong one: knowledge counts more.
    """
    if question.answer is None or question.options[LETTERS.index(question.answer)] not in new:
        return question
    gold = LETTERS.index(question.answer)
    others = {"object classification": name, "object analysis": purpose}.get(question.kind, material)
    options = [""] * 2
    while len(set(options)) < len(options):
        options = [others(rng) if rng.random() < 0.6 else text for text in question.options]
        options[gold] = new[question.options[gold]]
        if rng.random() < 0.5:
            options[(gold + int(rng.integers(1, len(options)))) % len(options)] = question.options[gold]
    return question.model_copy(update={"options": tuple(options)})
