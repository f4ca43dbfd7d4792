"""Questions about drawn parts in the manner of MMAD, with true answers, and what is known about a class."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from numpy.random import Generator

from anomalyr1.data.multiple_choice import DEFECT_PREMISE, QUESTION_TEXTS, choice, pick_text, pick_texts
from anomalyr1.drawn.record import Drawn, Facts
from anomalyr1.drawn.words import (
    EFFECT,
    GOOD_LOOK,
    HARMLESS,
    HELD_OUT_DEFECTS,
    MATERIAL,
    PURPOSE,
    SHAPES,
    SPLITS,
    TRAINED,
    UNFAMILIAR,
)
from anomalyr1.prompts import VERDICT_TEXT
from anomalyr1.types import PLACES, Kind, Question

_FACT_TEXTS: dict[str, tuple[str, ...]] = {
    "purpose": ("What is the purpose of the object?", "What is the object used for?"),
    "material": ("What material is the object made of?", "What is the object made of?"),
    "shape": ("What is the shape of the object?", "Which shape does the object have?"),
    "colour": ("What is the color of the object?", "What is the predominant color of the object?"),
}

_ALIKE: tuple[frozenset[str], ...] = tuple(
    frozenset(pair.split("/"))
    for pair in (
        "missing part/wrong count", "extra part/wrong count", "misplaced part/wrong count",
        "stain/discoloration", "stain/wear", "wear/discoloration", "stain/contamination", "wear/scratch",
        "hole/missing part", "contamination/extra part", "hole/dent",
    )
)  # fmt: skip
"""Kinds that a person might call by either name: never options of one question."""


def _combine(*parts: Sequence[str]) -> tuple[str, ...]:
    """Every description that takes one word of each part, the last part varying fastest."""
    return tuple(" ".join(words) for words in itertools.product(*parts))


_DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "scratch": _combine(("long", "short"), ("bright", "dark"), ("scratch",)),
    "crack": _combine(("long", "short"), ("branched", "jagged"), ("crack",)),
    "stain": _combine(("large", "small"), ("brown", "dark", "rusty", "pale"), ("stain",)),
    "hole": _combine(("large", "small"), ("round", "ragged"), ("hole",)),
    "dent": _combine(("large", "small"), ("round", "elongated"), ("dent",)),
    "contamination": _combine(("red", "green", "blue", "yellow", "white", "black"), ("particles", "fibre")),
    "discoloration": _combine(
        ("large", "small"), ("reddish", "greenish", "bluish", "yellowish"), ("discoloration",)
    ),
    "wear": _combine(("large", "small"), ("scuffed", "frayed"), ("worn patch",)),
    "missing part": _combine(("missing",), ("chip", "pill", "bolt hole", "pin", "ball", "wire", "bar code")),
    "extra part": _combine(("extra",), ("pill", "logo", "resistor", "chip")),
    "misplaced part": _combine(("misplaced",), ("pin", "pill", "chip", "text line", "wire")),
    "wrong count": tuple(
        f"too {amount} {name}"
        for name in ("pins", "balls", "pockets", "bolt holes")
        for amount in ("many", "few")
    ),
}
"""How a defect of each kind may look."""

_COLOURS = (
    ("gray", "dark gray", "silver", "black"),
    ("gold", "yellow", "beige", "white", "colourless"),
    ("red", "copper", "orange", "reddish brown", "brown", "light brown", "dark brown"),
    ("green",),
    ("blue",),
)
"""Groups of alike colours: options come from different groups."""


def questions(
    drawing: Drawn, rng: Generator, grounding_text: str, sample_id: str | None = None
) -> tuple[Question, ...]:
    """One question of every kind that applies: those about the defect only for a defective part.

    `rng` chooses wordings, distractors and their order. Ids are `<sample_id>/<kind>`; `sample_id` defaults to
    `drawn_id`.
    """
    prefix = sample_id or drawn_id(drawing)
    grounding_id = f"{prefix}/grounding"
    return (
        _ask_verdict(drawing, rng, prefix),
        _ask_category(drawing, rng, prefix),
        *_ask_facts(drawing, rng, prefix),
        *_ask_about_defect(drawing, rng, prefix),
        Question(id=grounding_id, kind="grounding", text=grounding_text, boxes=drawing.boxes),
    )


def drawn_id(drawing: Drawn) -> str:
    """A stable name of a drawn image that does not tell what is wrong with it."""
    return f"drawn/{drawing.category.replace(' ', '-')}-{drawing.seed}"


def knowledge(category: str, facts: Facts, rng: Generator) -> str:
    """What is known about a class: look of a good part, material, use, and what decides logical defects."""
    look = pick_text(rng, GOOD_LOOK[category])
    openings = (
        f"The object is a {category}. A good one shows {look}.",
        f"This is a {category}. Good parts show {look}.",
        f"Inspected part: {category}. Expected look: {look}.",
        f"A good {category} has {look}.",
    )
    opening = pick_text(rng, openings)
    use = f"It is made of {facts.material} and used for {PURPOSE[category]}."
    return f"{opening} {use} {facts.layout}".strip()


def _ask(rng: Generator, prefix: str, kind: Kind, text: str, gold: str, pool: Sequence[str]) -> Question:
    """A question whose id ends in its kind, with at most four options."""
    question_id = f"{prefix}/{kind.replace(' ', '-')}"
    return choice(rng, question_id, kind, text, gold, pool)


def _ask_verdict(drawing: Drawn, rng: Generator, prefix: str) -> Question:
    text = VERDICT_TEXT if rng.random() < 0.75 else pick_text(rng, QUESTION_TEXTS["anomaly detection"])
    gold = "No." if drawing.defect is None else "Yes."
    return _ask(rng, prefix, "anomaly detection", text, gold, ("Yes.", "No."))


def _ask_category(drawing: Drawn, rng: Generator, prefix: str) -> Question:
    text = pick_text(rng, QUESTION_TEXTS["object classification"])
    return _ask(rng, prefix, "object classification", text, drawing.category, _named(drawing.category))


def _ask_facts(drawing: Drawn, rng: Generator, prefix: str) -> list[Question]:
    """Object questions; counts only where the part shows the specified number."""
    facts, category = drawing.facts, drawing.category
    # 1. What it is for.
    text = pick_text(rng, _FACT_TEXTS["purpose"])
    pool = [PURPOSE[name] for name in _named(category)]
    purpose = _ask(rng, prefix, "object analysis", text, PURPOSE[category], pool)
    # 2. Its material or its shape.
    if category == UNFAMILIAR or rng.random() < 0.5:
        text, gold = pick_text(rng, _FACT_TEXTS["material"]), facts.material
        pool = _materials(category)
    else:
        text, gold = pick_text(rng, _FACT_TEXTS["shape"]), facts.shape
        pool = _shapes(rng, category)
    structure = _ask(rng, prefix, "object structure", text, gold, pool)
    # 3. How many elements it has, or its colour.
    number_is_true = drawing.defect not in ("missing part", "extra part", "wrong count")
    if facts.count is not None and number_is_true and rng.random() < 0.5:
        name, n = facts.count
        text, gold = f"How many {name} does the object have?", str(n)
        pool = [str(n + step) for step in (-4, -3, -2, 2, 3, 4) if n + step > 0]
    else:
        text, gold = pick_text(rng, _FACT_TEXTS["colour"]), facts.colour
        pool = _colours(rng, facts.colour)
    return [purpose, structure, _ask(rng, prefix, "object details", text, gold, pool)]


def _named(category: str) -> tuple[str, ...]:
    """The categories that may be options beside this one: a split knows itself and those opened before it.

    Naming unseen categories only as wrong options would teach a policy that they are never right.
    """
    if category in TRAINED:
        return SPLITS["seen"]
    names: tuple[str, ...] = ()
    for categories in SPLITS.values():
        names += categories
        if category in categories:
            break
    return names


def _materials(category: str) -> list[str]:
    """Materials of other categories that share no word with this one's."""
    words = set(MATERIAL[category].split())
    if MATERIAL[category] in ("copper and plastic", "foil and plastic", "metal"):
        words |= {"metal", "foil"}
    return [MATERIAL[name] for name in _named(category) if not words & set(MATERIAL[name].split())]


def _shapes(rng: Generator, category: str) -> list[str]:
    """Shapes of other categories that nobody takes for this one's."""
    group = SHAPES[category][0]
    names = [name for name in _named(category) if SHAPES[name][0] != group]
    return [pick_text(rng, SHAPES[name][1:]) for name in names]


def _colours(rng: Generator, gold: str) -> list[str]:
    """Other colours, one of each group without the gold one; for a part of two colours, other pairs."""
    gold_cap, is_pair, _ = gold.partition(" and ")
    if not is_pair:
        return [pick_text(rng, group) for group in _COLOURS if gold not in group]
    warm = {"red", "orange", "brown"}
    caps = [
        cap
        for cap in ("red", "blue", "green", "orange", "brown")
        if cap != gold_cap and not {cap, gold_cap} <= warm
    ]
    return [f"{cap} and {body}" for cap in caps for body in ("white", "yellow", "beige")]


def _ask_about_defect(drawing: Drawn, rng: Generator, prefix: str) -> list[Question]:
    """Questions about the defect, none for a good part."""
    defect, place = drawing.defect, drawing.place
    if defect is None or place is None:
        return []
    # 1. Kinds that are surely wrong.
    hidden = HELD_OUT_DEFECTS if drawing.category in TRAINED else ()
    kinds = tuple(kind for kind in EFFECT if frozenset((kind, defect)) not in _ALIKE and kind not in hidden)
    wrong_kinds = [kind for kind in kinds if kind != defect]
    # 2. Wrong descriptions of this kind and of others, harmless effects and those of other kinds.
    near = [text for text in _DESCRIPTIONS[defect] if text != drawing.description]
    far = [text for kind in wrong_kinds for text in _DESCRIPTIONS[kind]]
    looks = pick_texts(rng, near, int(rng.integers(0, 3)))
    looks = [*looks, *pick_texts(rng, far, 3)][:3]
    effects = pick_texts(rng, HARMLESS, 2)
    effects += pick_texts(rng, [EFFECT[kind] for kind in wrong_kinds], 1)
    # 3. The questions.
    asked_for: tuple[tuple[Kind, str, Sequence[str]], ...] = (
        ("defect classification", defect, kinds),
        ("defect localization", place, PLACES),
        ("defect description", drawing.description, looks),
        ("defect analysis", EFFECT[defect], effects),
    )
    return [
        _ask(rng, prefix, kind, f"{DEFECT_PREMISE} {pick_text(rng, QUESTION_TEXTS[kind])}", gold, pool)
        for kind, gold, pool in asked_for
    ]
