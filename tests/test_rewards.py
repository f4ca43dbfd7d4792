"""Rewards: the ROAM tables, what applies to what, and that gold answers earn everything."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyr1 import rewards
from anomalyr1.answers.completion import parse, write
from anomalyr1.images.frames import Frame
from anomalyr1.rewards import REWARDS, combine, load_reward
from anomalyr1.types import Answer, Box, InputError, Question

OPTIONS = ("Crack", "Scratch", "Dent", "Hole")
CHOICE = Question(id="q", kind="defect classification", text="?", options=OPTIONS, answer="A")
LEFT = Box(x1=0, y1=0, x2=100, y2=100)
GROUND = Question(id="g", kind="grounding", text="?", boxes=(LEFT,))
CLEAN = Question(id="c", kind="grounding", text="?", boxes=())
FRAME = Frame((300, 300), (280, 280), "pixels")

ROAM_CELLS = [  # conclusion of the reasoning, answer, value; gold is A
    ("A", "A", 1.0),
    (None, "A", 0.8),
    ("B", "A", 0.0),
    ("C", "A", 0.0),
    ("D", "A", 0.0),
    (None, "B", 0.05),
    (None, "C", 0.05),
    (None, "D", 0.05),
    ("B", "B", 0.1),
    ("C", "C", 0.1),
    ("D", "D", 0.1),
    ("A", "B", 0.0),
    ("A", "C", 0.0),
    ("A", "D", 0.0),
    ("B", "C", 0.0),
    ("B", "D", 0.0),
    ("C", "B", 0.0),
    ("C", "D", 0.0),
    ("D", "B", 0.0),
    ("D", "C", 0.0),
]


def test_the_cells_are_all_twenty():
    assert {(t, a) for t, a, _ in ROAM_CELLS} == {(t, a) for t in (None, *"ABCD") for a in "ABCD"}


@pytest.mark.parametrize(("conclusion", "choice", "value"), ROAM_CELLS)
def test_roam_cell(conclusion, choice, value):
    assert rewards.roam(Answer(status="strict", conclusion=conclusion, choice=choice), CHOICE) == value
    reasoning = "The edge is seen." if conclusion is None else f"The answer is {conclusion}."
    text = f"<think>{reasoning}</think><answer>{choice}</answer>"
    assert rewards.roam(parse(text, OPTIONS), CHOICE) == value  # and from text


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "<answer>A</answer>",
        "<think>The answer is A.</think><answer>a</answer>",
        "<think>The answer is A.</think>",
        "<think>x</think><answer>E</answer>",
    ],
)
def test_roam_of_what_is_not_strict_is_zero(text):
    assert rewards.roam(parse(text, OPTIONS), CHOICE) == 0.0


BOX_CELLS = [  # says_defect, place_off_box, boxes, gold, value
    (True, False, (LEFT,), GROUND, 1.0),
    (None, False, (LEFT,), GROUND, 0.8),
    (False, False, (LEFT,), GROUND, 0.0),  # right boxes, but the reasoning says clean
    (True, True, (LEFT,), GROUND, 0.0),  # right boxes, but the reasoning puts them elsewhere
    (None, False, (), GROUND, 0.05),
    (False, False, (), GROUND, 0.1),  # wrong, but consistent
    (True, False, (), GROUND, 0.0),
    (True, False, (Box(x1=200, y1=200, x2=300, y2=300),), GROUND, 0.1),
    (True, False, (Box(x1=0, y1=0, x2=100, y2=50),), GROUND, 1.0),  # IoU 0.5 is right
    (True, False, (Box(x1=0, y1=0, x2=100, y2=49),), GROUND, 0.1),  # IoU 0.49 is not
    (False, False, (), CLEAN, 1.0),
    (None, False, (), CLEAN, 0.8),
    (True, False, (), CLEAN, 0.0),
    (None, False, (LEFT,), CLEAN, 0.05),
    (True, False, (LEFT,), CLEAN, 0.1),
    (False, False, (LEFT,), CLEAN, 0.0),
    (False, True, (), CLEAN, 1.0),  # a place means nothing without boxes
    (True, False, None, GROUND, 0.0),
]


@pytest.mark.parametrize(("says", "off", "boxes", "question", "value"), BOX_CELLS)
def test_roam_for_boxes(says, off, boxes, question, value):
    counts = {"place_off_box": 1} if off else {}
    assert (
        rewards.roam_boxes(Answer(status="strict", says_defect=says, boxes=boxes, counts=counts), question)
        == value
    )


def test_roam_for_boxes_from_text():
    right = parse(write("There is a dent at the top left.", [LEFT], FRAME), (), FRAME)
    astray = parse(write("There is a dent at the bottom right.", [LEFT], FRAME), (), FRAME)
    assert (rewards.roam_boxes(right, GROUND), rewards.roam_boxes(astray, GROUND)) == (1.0, 0.0)
    assert rewards.roam_boxes(parse(write("No defect is visible.", [], FRAME), (), FRAME), CLEAN) == 1.0


UNKNOWN = Question(id="u", kind="grounding", text="?")
NO_GOLD = Question(id="n", kind="defect analysis", text="?", options=OPTIONS)
UNMAPPED = parse('<think>x</think><answer>[{"bbox_2d": [1, 2, 3, 4]}]</answer>', ())


@pytest.mark.parametrize("name", ["roam", "roam_released", "accuracy"])
def test_letters_do_not_apply_to_boxes_or_an_unknown_gold(name):
    assert REWARDS[name](Answer(status="strict", boxes=()), GROUND) is None
    assert REWARDS[name](Answer(status="strict", choice="A"), NO_GOLD) is None


@pytest.mark.parametrize("name", ["roam_boxes", "localisation", "localisation_giou"])
def test_boxes_do_not_apply_to_letters_an_unknown_gold_or_an_unknown_frame(name):
    assert REWARDS[name](Answer(status="strict", choice="A"), CHOICE) is None
    assert REWARDS[name](Answer(status="strict", boxes=()), UNKNOWN) is None
    assert REWARDS[name](UNMAPPED, GROUND) is None
    assert (
        REWARDS[name](Answer(status="unparseable"), GROUND) == 0.0
    )  # but an unreadable answer is simply wrong


def test_accuracy_and_format():
    lenient, strict = parse("a", OPTIONS), parse("<think>x</think><answer>B</answer>", OPTIONS)
    assert [rewards.accuracy(one, CHOICE) for one in (lenient, strict)] == [1.0, 0.0]
    assert [rewards.format(one, CHOICE) for one in (lenient, strict)] == [0.0, 1.0]


LOCALISATION = [  # boxes said, soft set IoU against one box of 100 x 100
    ((LEFT,), 1.0),
    ((Box(x1=0, y1=0, x2=50, y2=100),), 0.5),
    ((LEFT, Box(x1=200, y1=200, x2=300, y2=300)), 0.5),  # a false box
    ((), 0.0),  # a miss
]


@pytest.mark.parametrize(("boxes", "value"), LOCALISATION)
def test_localisation(boxes, value):
    assert rewards.localisation(Answer(status="strict", boxes=boxes), GROUND) == pytest.approx(value)


def test_giou_pays_for_coming_nearer_where_iou_does_not():
    near, far = (Answer(status="strict", boxes=(Box(x1=x, y1=0, x2=x + 50, y2=100),)) for x in (110, 250))
    assert rewards.localisation(near, GROUND) == rewards.localisation(far, GROUND) == 0.0
    assert rewards.localisation_giou(near, GROUND) > rewards.localisation_giou(far, GROUND) > 0
    assert rewards.localisation_giou(Answer(status="strict", boxes=(LEFT,)), GROUND) == 1.0


def test_length_and_repetition():
    prose = (
        "The rim of the bottle is broken at the top left, where a piece of glass is missing. "
        "The rest of it looks clean and even."
    )
    assert rewards.length(Answer(status="strict", raw=prose), CHOICE) == 1.0
    assert rewards.length(Answer(status="strict", raw="x" * 1800), CHOICE) == pytest.approx(0.5)
    assert rewards.length(Answer(status="strict", raw="x" * 9000), CHOICE) == 0.0
    assert rewards.repetition(Answer(status="strict", raw=prose), CHOICE) == 1.0
    for loop in ("the rim is broken " * 50, "so " * 90, "破损" * 200):
        assert rewards.repetition(Answer(status="strict", raw=loop), CHOICE) < 0.15


def test_gold_answers_earn_everything():
    for text, question in (
        (write("The answer is A.", "A"), CHOICE),
        (write("There is a dent at the top left.", [LEFT], FRAME), GROUND),
        (write("There is no defect.", [], FRAME), CLEAN),
    ):
        answer = parse(text, question.options, FRAME)
        for name, reward in REWARDS.items():
            assert reward(answer, question) in {None, 1.0} or name.startswith("localisation"), name
            assert (reward(answer, question) or 1.0) > 0.97


@given(st.text(max_size=200), st.sampled_from([CHOICE, GROUND, CLEAN, UNKNOWN, NO_GOLD]))
def test_rewards_are_in_0_to_1_whatever_the_text(text, question):
    for wrapped in (
        text,
        f"<think>{text}</think><answer>A</answer>",
        f"<think>x</think><answer>{text}</answer>",
    ):
        answer = parse(wrapped, question.options, FRAME)
        for reward in REWARDS.values():
            value = reward(answer, question)
            assert value is None or 0.0 <= value <= 1.0


def test_load_reward():
    assert load_reward("roam") is rewards.roam
    assert load_reward("anomalyr1.rewards:length") is rewards.length


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rome", "did you mean 'roam'"),
        ("zzz", "known: roam"),
        ("anomalyr1.rewards:lenght", "did you mean 'length'"),
        ("no.such.module:x", "cannot import"),
        (":x", "cannot import"),
        ("anomalyr1.rewards:RIGHT_IOU", "no function"),
    ],
)
def test_load_reward_names_what_is_wrong(name, said):
    with pytest.raises(InputError, match=said):
        load_reward(name)


def test_combine():
    assert (
        combine({"roam": 1.0, "accuracy": 1.0}, {"roam": 1, "accuracy": 1}, "s") == 2.0
    )  # the released recipe: 0 to 2
    assert combine({"roam": None, "format": 1.0}, {"roam": 1, "format": 0.5}, "s") == 0.5  # a term drops
    assert combine({"roam": None}, {"roam": 1}, "s") is None  # masked, which is not 0
    assert combine({"roam": 0.0}, {"roam": 1}, "s") == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_combine_refuses_what_is_not_finite(value):
    with pytest.raises(InputError, match=r"'mine' of sample 'bottle/3'"):
        combine({"mine": value}, {"mine": 1.0}, "bottle/3")
    assert not math.isfinite(1.0 * value)  # which is what would reach the advantages without the guard


def test_combine_refuses_a_reward_without_weight():
    with pytest.raises(InputError, match="no weight"):
        combine({"mine": 1.0}, {}, "s")


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(rewards, raise_on_error=True).attempted >= 5
