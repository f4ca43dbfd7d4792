"""Questions about drawn parts in the manner of MMAD, gold by construction, and what is known about a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.random import Generator

from anomalyr1.data.multiple_choice import DEFECT_PREMISE, QUESTION_TEXTS, choice, pick_text, pick_texts
from anomalyr1.drawn.record import Facts
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

if TYPE_CHECKING:
    from anomalyr1.drawn.record import Drawn


_FACT_TEXTS: dict[str, tuple[str, ...]] = {
    "purpose": ("What is the purpose of the object?", "What is the object used for?"),
    "material": ("What material is the object made of?", "What is the object made of?"),
    "shape": ("What is the shape of the object?", "Which shape does the object have?"),
    "colour": ("What is the color of the object?", "What is the predominant color of the object?"),
}

_ALIKE: tuple[frozenset[str], ...] = tuple(
    frozenset(pair.split("/"))
    for pair in (
        "missing part/wrong count", "extra part/wrong count", "misplaced part/wrong count", "stain/discoloration", "stain/wear",
        "wear/discoloration", "stain/contamination", "wear/scratch", "hole/missing part", "contamination/extra part", "hole/dent",
    )
)  # fmt: skip
"""Kinds that a person might call by either name: never options of one question."""

_DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "scratch": tuple(f"{size} {tone} scratch" for size in ("long", "short") for tone in ("bright", "dark")),
    "crack": tuple(f"{size} {form} crack" for size in ("long", "short") for form in ("branched", "jagged")),
    "stain": tuple(
        f"{size} {tone} stain" for size in ("large", "small") for tone in ("brown", "dark", "rusty", "pale")
    ),
    "hole": tuple(f"{size} {form} hole" for size in ("large", "small") for form in ("round", "ragged")),
    "dent": tuple(f"{size} {form} dent" for size in ("large", "small") for form in ("round", "elongated")),
    "contamination": tuple(
        f"{tone} {form}"
        for tone in ("red", "green", "blue", "yellow", "white", "black")
        for form in ("particles", "fibre")
    ),
    "discoloration": tuple(
        f"{size} {tone} discoloration"
        for size in ("large", "small")
        for tone in ("reddish", "greenish", "bluish", "yellowish")
    ),
    "wear": tuple(
        f"{size} {form} worn patch" for size in ("large", "small") for form in ("scuffed", "frayed")
    ),
    "missing part": (
        "missing chip",
        "missing pill",
        "missing bolt hole",
        "missing pin",
        "missing ball",
        "missing wire",
        "missing bar code",
    ),
    "extra part": ("extra pill", "extra logo", "extra resistor", "extra chip"),
    "misplaced part": (
        "misplaced pin",
        "misplaced pill",
        "misplaced chip",
        "misplaced text line",
        "misplaced wire",
    ),
    "wrong count": (
        "too many pins",
        "too few pins",
        "too many balls",
        "too few balls",
        "too many pockets",
        "too few pockets",
        "too many bolt holes",
        "too few bolt holes",
    ),
}

_COLOURS = (
    ("gray", "dark gray", "silver", "black"), ("gold", "yellow", "beige", "white", "colourless"),
    ("red", "copper", "orange", "reddish brown", "brown", "light brown", "dark brown"), ("green",), ("blue",),
)  # fmt: skip
"""Groups of alike colours: options come from different groups."""


def questions(
    drawn: Drawn, rng: Generator, grounding_text: str, sample_id: str | None = None
) -> tuple[Question, ...]:
    """One question of every kind that applies: those about the defect only for a defective part.

    `rng` chooses wordings, distractors and their order. Ids are `<sample_id>/<kind>`; `sample_id` defaults to
    `drawn_id`.
    """
    prefix = sample_id or drawn_id(drawn)
    asked = [_verdict(drawn, rng, prefix), _object(drawn, rng, prefix), *_facts(drawn, rng, prefix)]
    if drawn.defect is not None:
        asked += _about_defect(drawn, rng, prefix)
    asked.append(Question(id=f"{prefix}/grounding", kind="grounding", text=grounding_text, boxes=drawn.boxes))
    return tuple(asked)


def drawn_id(drawn: Drawn) -> str:
    """A stable name of a drawn image that does not tell what is wrong with it."""
    return f"drawn/{drawn.category.replace(' ', '-')}-{drawn.seed}"


def knowledge(category: str, facts: Facts, rng: Generator) -> str:
    """What is known about a class: its good look, material and purpose, and the count and layout that decide logical defects."""
    looks = GOOD_LOOK[category]
    look = looks[int(rng.integers(len(looks)))]
    opening = (
        f"The object is a {category}. A good one shows {look}.",
        f"This is a {category}. Good parts show {look}.",
        f"Inspected part: {category}. Expected look: {look}.",
        f"A good {category} has {look}.",
    )[int(rng.integers(4))]
    return (
        f"{opening} It is made of {facts.material} and used for {PURPOSE[category]}. {facts.layout}".strip()
    )


def _verdict(drawn: Drawn, rng: Generator, prefix: str) -> Question:
    text = VERDICT_TEXT if rng.random() < 0.75 else pick_text(rng, QUESTION_TEXTS["anomaly detection"])
    return choice(
        rng,
        f"{prefix}/anomaly-detection",
        "anomaly detection",
        text,
        "No." if drawn.defect is None else "Yes.",
        ("Yes.", "No."),
        2,
    )


def _object(drawn: Drawn, rng: Generator, prefix: str) -> Question:
    return choice(
        rng,
        f"{prefix}/object-classification",
        "object classification",
        pick_text(rng, QUESTION_TEXTS["object classification"]),
        drawn.category,
        _named(drawn.category),
    )


def _facts(drawn: Drawn, rng: Generator, prefix: str) -> list[Question]:
    """Object questions; counts only where the part shows the specified number."""
    facts, known = drawn.facts, _named(drawn.category)
    purpose = [PURPOSE[name] for name in known]
    result = [
        choice(
            rng,
            f"{prefix}/object-analysis",
            "object analysis",
            pick_text(rng, _FACT_TEXTS["purpose"]),
            PURPOSE[drawn.category],
            purpose,
        )
    ]
    if drawn.category == UNFAMILIAR or rng.random() < 0.5:
        text, gold, pool = pick_text(rng, _FACT_TEXTS["material"]), facts.material, _materials(drawn.category)
    else:
        group = SHAPES[drawn.category][0]
        text, gold = pick_text(rng, _FACT_TEXTS["shape"]), facts.shape
        pool = [pick_text(rng, SHAPES[name][1:]) for name in known if SHAPES[name][0] != group]
    result.append(choice(rng, f"{prefix}/object-structure", "object structure", text, gold, pool))
    intact = drawn.defect is None or drawn.defect not in ("missing part", "extra part", "wrong count")
    if facts.count is not None and intact and rng.random() < 0.5:
        name, n = facts.count
        others = tuple(str(n + step) for step in (-4, -3, -2, 2, 3, 4) if n + step > 0)
        result.append(
            choice(
                rng,
                f"{prefix}/object-details",
                "object details",
                f"How many {name} does the object have?",
                str(n),
                others,
            )
        )
    else:
        text = pick_text(rng, _FACT_TEXTS["colour"])
        result.append(
            choice(
                rng,
                f"{prefix}/object-details",
                "object details",
                text,
                facts.colour,
                _colours(rng, facts.colour),
            )
        )
    return result


def _named(category: str) -> tuple[str, ...]:
    """The categories that may be options beside this one: a split knows itself and those opened before it.

    Naming unseen categories only as wrong options would teach a policy that they are never right.
    """
    if category in TRAINED:
        return SPLITS["seen"]
    known: tuple[str, ...] = ()
    for categories in SPLITS.values():
        known += categories
        if category in categories:
            break
    return known


def _materials(category: str) -> list[str]:
    """Materials of other categories that share no word with this one's."""
    own = set(MATERIAL[category].split()) | (
        {"metal", "foil"}
        if MATERIAL[category] in ("copper and plastic", "foil and plastic", "metal")
        else set()
    )
    return [MATERIAL[name] for name in _named(category) if not own & set(MATERIAL[name].split())]


def _unlike(rng: Generator, gold: str, groups: Sequence[Sequence[str]]) -> list[str]:
    """One word from each group that does not hold the gold one."""
    return [pick_text(rng, group) for group in groups if gold not in group]


def _colours(rng: Generator, gold: str) -> list[str]:
    """Other colours; for a part of two colours, other pairs."""
    first, joined, _ = gold.partition(" and ")
    if not joined:
        return _unlike(rng, gold, _COLOURS)
    warm, bodies = {"red", "orange", "brown"}, ("white", "yellow", "beige")
    caps = [
        cap
        for cap in ("red", "blue", "green", "orange", "brown")
        if not {cap, first} <= warm and cap != first
    ]
    return [f"{cap} and {body}" for cap in caps for body in bodies]


def _about_defect(drawn: Drawn, rng: Generator, prefix: str) -> list[Question]:
    defect, place = drawn.defect, drawn.place
    if defect is None or place is None:
        return []
    hidden = HELD_OUT_DEFECTS if drawn.category in TRAINED else ()
    kinds = tuple(kind for kind in EFFECT if frozenset((kind, defect)) not in _ALIKE and kind not in hidden)
    near = [text for text in _DESCRIPTIONS[defect] if text != drawn.description]
    far = [text for kind in kinds if kind != defect for text in _DESCRIPTIONS[kind]]
    looks = (*pick_texts(rng, near, int(rng.integers(0, 3))), *pick_texts(rng, far, 3))[:3]
    harm = (
        *pick_texts(rng, HARMLESS, 2),
        *pick_texts(rng, [EFFECT[kind] for kind in kinds if kind != defect], 1),
    )
    specific: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
        ("defect classification", defect, kinds),
        ("defect localization", place, PLACES),
        ("defect description", drawn.description, looks),
        ("defect analysis", EFFECT[defect], harm),
    )
    return [
        choice(
            rng,
            f"{prefix}/{kind.replace(' ', '-')}",
            kind,
            f"{DEFECT_PREMISE} {pick_text(rng, QUESTION_TEXTS[kind])}",
            gold,
            pool,
        )
        for kind, gold, pool in specific
    ]
