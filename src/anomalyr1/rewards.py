"""Rewards: pure functions of what a completion says and what was asked. None = does not apply, which drops that term.

Every reward is in 0..1, and the gold answer earns 1. Weights live in the recipe. A user's own reward comes in
by the dotted path "package.module:name" of a function `(Answer, Question) -> float | None`.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from anomalyr1 import boxes as geometry
from anomalyr1.answers import published as released
from anomalyr1.types import Answer, InputError, Question

Reward = Callable[[Answer, Question], float | None]

RIGHT_IOU = 0.5
"""Set IoU from which boxes count as right."""
LENGTH_FREE_CHARS = 1200
"""A completion up to this long earns the full length reward: about 256 tokens of English, the published
completion budget."""
REPEAT_WORDS = 4
"""Repetition counts runs of this many words."""
CONTROLS = ("shuffled", "unlinked")
"""What may stand behind the name of a reward and a slash in a recipe (`training.reward_functions`)."""
REPEAT_FREE = 0.1
"""This share of repeated runs costs nothing; prose about one part repeats a few."""


class Row(NamedTuple):
    """A row of the table of ROAM."""

    name: str
    value: float


ROAM = {
    (True, True): Row("right, as the reasoning concludes", 1.0),
    (True, None): Row("right, and the reasoning concludes nothing", 0.8),
    (True, False): Row("right, but the reasoning concludes something else", 0.0),
    (False, None): Row("wrong, and the reasoning concludes nothing", 0.05),
    (False, True): Row("wrong, as the reasoning concludes", 0.1),
    (False, False): Row("wrong, and the reasoning concludes something else", 0.0),
}
"""By whether the answer is right, and whether the reasoning agrees with it (None = silent)."""
UNCHECKED = ROAM | {(True, False): ROAM[True, True], (False, False): ROAM[False, True]}
"""A table in which all that reasoning concludes counts as agreement."""
MALFORMED = Row("malformed: not read strictly", 0.0)


def right(answer: Answer, question: Question) -> bool | None:
    """Whether an answer is right, however leniently it was read: the gold letter, or clean and (), or set IoU >= 0.5.

    None for an unknown gold, and for boxes in an unknown frame.
    """
    if question.options:
        return None if question.answer is None else answer.choice == question.answer
    return _boxes_right(answer, question) if _grounds(answer, question) else None


def consistent(answer: Answer, question: Question) -> bool | None:
    """Whether the reasoning agrees with the answer; None = it concludes nothing.

    With options it concludes the same letter. About boxes it says defect or clean as they do, and the place,
    if it says one, holds the centre of the largest box (`answers.parse` counts `place_off_box` where it does
    not).
    """
    if question.options:
        return None if answer.conclusion is None else answer.conclusion == answer.choice
    if answer.says_defect is None:
        return None
    defect = bool(answer.boxes)
    return answer.says_defect == defect and not (defect and "place_off_box" in answer.counts)


def roam_row(
    answer: Answer, question: Question, table: Mapping[tuple[bool, bool | None], Row] = ROAM
) -> Row | None:
    """The row of ROAM's table that an answer falls into, for either kind of question; None as for `roam` and `roam_boxes`.

    Experiments give a `table` with other values.
    """
    found = right(answer, question)
    if found is None:
        return None
    said = answer.choice if question.options else answer.boxes
    if answer.status != "strict" or said is None:
        return MALFORMED
    return table[found, consistent(answer, question)]


def roam(answer: Answer, question: Question) -> float | None:
    """ROAM for a question with options: the published table (t = conclusion of the reasoning, a = answer, s = gold).

    | t | a | value |
    |---|---|---|
    | s | s | 1.0 |
    | none | s | 0.8 |
    | another letter | s | 0.0 |
    | none | wrong | 0.05 |
    | wrong | the same wrong letter | 0.1 |
    | otherwise, or malformed | | 0.0 |

    Malformed is whatever was not read strictly: like the released code, an answer outside a well-formed pair
    of tags earns nothing, and so does one that takes a lenient reader. None for grounding and for an unknown
    gold.
    """
    row = roam_row(answer, question) if question.options else None
    return None if row is None else row.value


def roam_unchecked(answer: Answer, question: Question) -> float | None:
    """ROAM as if all that reasoning concludes agreed with the answer: only silence costs. For experiments, to tell the two apart.

    None as for `roam`.
    """
    row = roam_row(answer, question, UNCHECKED) if question.options else None
    return None if row is None else row.value


def roam_boxes(answer: Answer, question: Question) -> float | None:
    """ROAM for boxes, with the values of `roam`; `right` and `consistent` say what that means.

    None for a question with options, an unknown gold and boxes in an unknown frame.
    """
    row = None if question.options else roam_row(answer, question)
    return None if row is None else row.value


def roam_released(answer: Answer, question: Question) -> float | None:
    """The published ROAM of the raw completion, its way of reading letters included. None as for `roam`."""
    if not question.options or question.answer is None:
        return None
    return released.roam(answer.raw, question.answer)


def accuracy(answer: Answer, question: Question) -> float | None:
    """1 when the chosen letter is the gold one, however leniently it was read. None for grounding and an unknown gold."""
    if not question.options or question.answer is None:
        return None
    return float(answer.choice == question.answer)


def format(answer: Answer, question: Question) -> float | None:
    """1 when the completion was read strictly. Always applies."""
    return float(answer.status == "strict")


def localisation(answer: Answer, question: Question) -> float | None:
    """Soft set IoU of matched boxes: a missed and a false box cost the same; 1 when clean and said to be.

    None for a question with options, an unknown gold and boxes in an unknown frame; no readable boxes earn 0.
    """
    if not _grounds(answer, question):
        return None
    if answer.boxes is None or question.boxes is None:
        return 0.0
    return geometry.set_iou(geometry.to_array(answer.boxes), geometry.to_array(question.boxes))


def localisation_giou(answer: Answer, question: Question) -> float | None:
    """As `localisation` with generalised IoU mapped to 0..1, so that a box beside the defect earns more than one far away."""
    if not _grounds(answer, question):
        return None
    if answer.boxes is None or question.boxes is None:
        return 0.0
    pred, gold = geometry.to_array(answer.boxes), geometry.to_array(question.boxes)
    if len(pred) == 0 or len(gold) == 0:
        return float(len(pred) == len(gold))
    giou = geometry.giou(pred, gold)
    return float(((giou[geometry.assign(giou)] + 1) / 2).sum() / max(len(pred), len(gold)))


def length(answer: Answer, question: Question) -> float | None:
    """1 up to 1,200 characters, then falling in a straight line to 0 at twice that."""
    return min(1.0, max(0.0, 2 - len(answer.raw) / LENGTH_FREE_CHARS))


def repetition(answer: Answer, question: Question) -> float | None:
    """1 without repeats, 0 when every run of four words occurs before; a tenth of repeated runs is free.

    Words are what blanks separate; a text without blanks is read as single characters.
    """
    words = answer.raw.split()
    units = words if len(answer.raw) < 20 * max(len(words), 1) else list(answer.raw)
    runs = [tuple(units[i : i + REPEAT_WORDS]) for i in range(len(units) - REPEAT_WORDS + 1)]
    if not runs:
        return 1.0
    repeated = 1 - len(set(runs)) / len(runs)
    return 1 - max(0.0, repeated - REPEAT_FREE) / (1 - REPEAT_FREE)


REWARDS: dict[str, Reward] = {
    "roam": roam,
    "roam_unchecked": roam_unchecked,
    "roam_boxes": roam_boxes,
    "roam_released": roam_released,
    "accuracy": accuracy,
    "format": format,
    "localisation": localisation,
    "localisation_giou": localisation_giou,
    "length": length,
    "repetition": repetition,
}


def load_reward(name: str) -> Reward:
    """The reward of a name in `REWARDS`, or of a dotted path "package.module:name"; one of `CONTROLS` behind it changes nothing here.

    A dotted path imports and runs that module. Raises `InputError` naming the nearest known name, or what is
    missing.
    """
    plain, _, control = name.partition("/")
    name = plain if control in CONTROLS else name
    if name in REWARDS:
        return REWARDS[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, REWARDS, n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"known: {', '.join(REWARDS)}; your own: package.module:name"
        )
        raise InputError(f"no reward is called {name!r}; {hint}")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"reward {name!r}: cannot import {module_name!r} ({error}); install it or correct the path"
        ) from error
    reward = getattr(module, attribute, None)
    if not callable(reward):
        near = difflib.get_close_matches(
            attribute, [one for one in dir(module) if callable(getattr(module, one))], n=1
        )
        hint = f"did you mean {near[0]!r}?" if near else "give a function (Answer, Question) -> float | None"
        raise InputError(f"reward {name!r}: {module_name!r} has no function {attribute!r}; {hint}")
    loaded: Reward = reward
    return loaded


def combine(values: Mapping[str, float | None], weights: Mapping[str, float], sample_id: str) -> float | None:
    """The weighted sum of the rewards of one completion; a reward that does not apply drops out, and None means that none applies.

    Raises `InputError` naming the reward and the sample for NaN or infinity, and for a reward without a
    weight.
    """
    total, applies = 0.0, False
    for name, value in values.items():
        if value is None:
            continue
        if not math.isfinite(value):
            raise InputError(
                f"reward {name!r} of sample {sample_id!r} is {value}; expected a finite number or None, correct the reward"
            )
        if name not in weights:
            raise InputError(f"reward {name!r} of sample {sample_id!r} has no weight; give one in the recipe")
        total += weights[name] * value
        applies = True
    return total if applies else None


def _grounds(answer: Answer, question: Question) -> bool:
    """Whether a question asks for boxes, its gold is known, and the answer's boxes, if any, are in a known frame."""
    return (
        not question.options
        and question.boxes is not None
        and (answer.boxes is not None or answer.unmapped_boxes is None)
    )


def _boxes_right(answer: Answer, question: Question) -> bool:
    if answer.boxes is None or question.boxes is None:
        return False
    return geometry.set_iou(geometry.to_array(answer.boxes), geometry.to_array(question.boxes)) >= RIGHT_IOU
