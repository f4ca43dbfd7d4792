"""Rewards: pure functions of what a completion says and of its question; None = does not apply.

Every reward is in 0..1, and the gold answer earns 1. Weights live in the recipe. A user's own reward comes in
as a function `(Answer, Question) -> float | None`: "folder/file.py:name" from the working folder, or
"package.module:name".
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from anomalyr1.answers import published
from anomalyr1.boxes import assign, giou, set_iou, to_array
from anomalyr1.files import read_text
from anomalyr1.types import Answer, InputError, Question, nearest_name

Reward = Callable[[Answer, Question], float | None]

RIGHT_IOU = 0.5
"""The set IoU from which boxes count as right."""
LENGTH_FREE_CHARS = 1200
"""A completion up to this long earns the full length reward: about 256 tokens of English, the published
completion budget."""
REPEAT_WORDS = 4
"""Repetition counts runs of this many words."""
CONTROLS = ("shuffled", "unlinked")
"""What may stand behind the name of a reward and a slash in a recipe (`training.reward_functions`)."""
LARGEST_REWARD = 1e9
"""No reward and no weight lies further from 0: TRL adds and squares them in float32."""
REPEAT_FREE = 0.1
"""This share of repeated runs costs nothing; prose about one part repeats a few."""


class RoamRow(NamedTuple):
    """A row of the table of ROAM."""

    name: str
    """What the row holds, in words."""
    value: float
    """What a completion of the row earns, 0..1."""


ROAM = {
    (True, True): RoamRow("right, as the reasoning concludes", 1.0),
    (True, None): RoamRow("right, and the reasoning concludes nothing", 0.8),
    (True, False): RoamRow("right, but the reasoning concludes something else", 0.0),
    (False, None): RoamRow("wrong, and the reasoning concludes nothing", 0.05),
    (False, True): RoamRow("wrong, as the reasoning concludes", 0.1),
    (False, False): RoamRow("wrong, and the reasoning concludes something else", 0.0),
}
"""The rows by whether the answer is right, and whether the reasoning agrees with it (None = silent)."""
UNCHECKED = ROAM | {(True, False): ROAM[True, True], (False, False): ROAM[False, True]}
"""A table in which all that reasoning concludes counts as agreement."""
MALFORMED = RoamRow("malformed: not read strictly", 0.0)


def right(answer: Answer, question: Question) -> bool | None:
    """Whether an answer is right, however leniently it was read: the gold letter, or boxes of set IoU >= 0.5.

    None for an unknown gold, and for boxes in an unknown frame.
    """
    if question.options:
        return None if question.answer is None else answer.choice == question.answer
    overlap = localisation(answer, question)
    return None if overlap is None else overlap >= RIGHT_IOU


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
    answer: Answer, question: Question, table: Mapping[tuple[bool, bool | None], RoamRow] = ROAM
) -> RoamRow | None:
    """The row of ROAM's table that an answer falls into, for either kind of question.

    Experiments give a `table` with other values. None for an unknown gold and for boxes in an unknown frame.
    """
    is_right = right(answer, question)
    if is_right is None:
        return None
    content = answer.choice if question.options else answer.boxes
    if answer.status != "strict" or content is None:
        return MALFORMED
    return table[is_right, consistent(answer, question)]


def roam(answer: Answer, question: Question) -> float | None:
    """ROAM for a question with options, as published: t = conclusion of the reasoning, a = answer, s = gold.

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

    >>> question = Question(id="q", kind="defect analysis", text="?", options=("Crack", "Dent"), answer="A")
    >>> [roam(Answer(status="strict", conclusion=t, choice="A"), question) for t in ("A", None, "B")]
    [1.0, 0.8, 0.0]
    >>> [roam(Answer(status="strict", conclusion=t, choice="B"), question) for t in ("A", None, "B")]
    [0.0, 0.05, 0.1]
    """
    row = roam_row(answer, question) if question.options else None
    return None if row is None else row.value


def roam_unchecked(answer: Answer, question: Question) -> float | None:
    """ROAM as if all that reasoning concludes agreed with the answer: only silence costs.

    For experiments, which tell the two apart. None as for `roam`.
    """
    row = roam_row(answer, question, UNCHECKED) if question.options else None
    return None if row is None else row.value


def roam_boxes(answer: Answer, question: Question) -> float | None:
    """ROAM for boxes, with the values of `roam`; `right` and `consistent` say what that means.

    None for a question with options, an unknown gold and boxes in an unknown frame.

    >>> question = Question(id="q", kind="grounding", text="?", boxes=())  # the part is clean
    >>> [roam_boxes(Answer(status="strict", says_defect=d, boxes=()), question) for d in (False, None, True)]
    [1.0, 0.8, 0.0]
    """
    row = None if question.options else roam_row(answer, question)
    return None if row is None else row.value


def roam_released(answer: Answer, question: Question) -> float | None:
    """The published ROAM of the raw completion, its way of reading letters included. None as for `roam`."""
    if not question.options or question.answer is None:
        return None
    return published.roam(answer.raw, question.answer)


def accuracy(answer: Answer, question: Question) -> float | None:
    """1 when the chosen letter is the gold one, however leniently it was read.

    None for grounding and for an unknown gold.
    """
    if not question.options or question.answer is None:
        return None
    return float(answer.choice == question.answer)


def format(answer: Answer, question: Question) -> float | None:
    """1 when the completion was read strictly. Always applies."""
    return float(answer.status == "strict")


def localisation(answer: Answer, question: Question) -> float | None:
    """The set IoU of the boxes: a missed and a false box cost the same; 1 when clean and said to be.

    None for a question with options, an unknown gold and boxes in an unknown frame; no readable boxes earn 0.
    """
    if question.boxes is None or not _can_compare_boxes(answer, question):
        return None
    if answer.boxes is None:
        return 0.0
    return set_iou(to_array(answer.boxes), to_array(question.boxes))


def localisation_giou(answer: Answer, question: Question) -> float | None:
    """As `localisation` with generalised IoU mapped to 0..1: a box nearby earns more than one far away."""
    if question.boxes is None or not _can_compare_boxes(answer, question):
        return None
    if answer.boxes is None:
        return 0.0
    if not answer.boxes or not question.boxes:
        return float(len(answer.boxes) == len(question.boxes))
    overlap = giou(to_array(answer.boxes), to_array(question.boxes))  # (N, M)
    return float(((overlap[assign(overlap)] + 1) / 2).sum() / max(overlap.shape))


def length(answer: Answer, question: Question) -> float | None:
    """1 up to 1,200 characters, then falling in a straight line to 0 at twice that."""
    return min(1.0, max(0.0, 2 - len(answer.raw) / LENGTH_FREE_CHARS))


def repetition(answer: Answer, question: Question) -> float | None:
    """1 without repeats, 0 when each run of four words occurs before; a tenth of repeated runs is free.

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


def is_code(name: str) -> bool:
    """Whether a reward's name is that of a function elsewhere, which is imported and run."""
    return ":" in name


def look_at_code(name: str) -> None:
    """Look whether the file of a reward "file.py:name" has that name in it; nothing is run, packages pass.

    Raises `InputError` where `load_reward` would for the file, its syntax and its names.
    """
    plain, _, control = name.rpartition("/")
    file, _, attribute = (plain if control in CONTROLS else name).rpartition(":")
    if not file.endswith(".py"):
        return
    _require_file(name, file)
    try:
        nodes = list(ast.walk(ast.parse(read_text(Path(file)))))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise InputError(f"reward {name!r}: cannot read {file!r} ({error}); mend it") from error
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    variables = {node.id for node in nodes if isinstance(node, ast.Name)}
    imports = {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    if attribute not in functions | variables | imports and "*" not in imports:
        hint = _did_you_mean(attribute, functions) or "give a function (Answer, Question) -> float | None"
        raise InputError(f"reward {name!r}: {file!r} has no function {attribute!r}; {hint}")


def _require_file(name: str, file: str) -> None:
    if file.endswith(".py") and not Path(file).is_file():
        raise InputError(
            f"reward {name!r}: there is no file {file!r} in the folder you are in; write its path from "
            f"there, e.g. FOLDER/{Path(file).name} for a file beside a recipe in FOLDER"
        )


def load_reward(name: str) -> Reward:
    """The reward of a name in `REWARDS`, or the function "file.py:name" or "package.module:name".

    One of `CONTROLS` behind it changes nothing here. A function's file or module is imported, which runs it.
    Raises `InputError` naming the nearest known name, or what is missing.
    """
    plain, _, control = name.rpartition("/")
    name = plain if control in CONTROLS else name
    if name in REWARDS:
        return REWARDS[name]
    if not is_code(name):
        hint = _did_you_mean(name, REWARDS) or f"known: {', '.join(REWARDS)}; your own: my_rewards.py:name"
        raise InputError(f"no reward is called {name!r}; {hint}")
    module_name, _, attribute = name.rpartition(":")
    _require_file(name, module_name)
    try:
        module = _import_code(module_name)
    except (ImportError, ValueError, SyntaxError, OSError) as error:
        remedy = "install it or correct the path"
        if Path(f"{module_name}.py").is_file():
            remedy = f"a file is named with its ending: {module_name}.py:{attribute}"
        raise InputError(f"reward {name!r}: cannot import {module_name!r} ({error}); {remedy}") from error
    reward = getattr(module, attribute, None)
    if not callable(reward):
        functions = [label for label in dir(module) if callable(getattr(module, label))]
        hint = _did_you_mean(attribute, functions) or "give a function (Answer, Question) -> float | None"
        raise InputError(f"reward {name!r}: {module_name!r} has no function {attribute!r}; {hint}")
    loaded: Reward = reward
    return loaded


def _import_code(name: str) -> ModuleType:
    """The module of a name, or of a file from the working folder ("rewards/mine.py"), run once a process."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = str(Path(name).resolve())
    if path in sys.modules:
        return sys.modules[path]
    spec = importlib.util.spec_from_file_location(path, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = sys.modules[path] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path]
        raise
    return module


def _did_you_mean(name: str, known_names: Iterable[str]) -> str:
    near = nearest_name(name, known_names)
    return f"did you mean {near!r}?" if near else ""


def combine(values: Mapping[str, float | None], weights: Mapping[str, float], sample_id: str) -> float | None:
    """The weighted sum of the rewards of one completion; None where no reward applies.

    A reward that does not apply (None) drops out. Raises `InputError` naming the reward and the sample for
    NaN or infinity, and for a reward without a weight.
    """
    total, applies = 0.0, False
    for name, value in values.items():
        if value is None:
            continue
        if not math.isfinite(value):
            raise InputError(
                f"reward {name!r} of sample {sample_id!r} is {value}; "
                "expected a finite number or None, correct the reward"
            )
        if name not in weights:
            raise InputError(f"reward {name!r} of sample {sample_id!r} has no weight; give one in the recipe")
        total += weights[name] * value
        applies = True
    return total if applies else None


def _can_compare_boxes(answer: Answer, question: Question) -> bool:
    """Whether a question asks for boxes, and the answer's boxes, if any, are in a known frame."""
    return not question.options and (answer.boxes is not None or answer.unmapped_boxes is None)
