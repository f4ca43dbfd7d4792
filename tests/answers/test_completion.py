"""The writer and the reader of completions, as a pair, and what the reader makes of everything else."""

from __future__ import annotations

import json
import math
import random
import time

import pytest

from anomalyr1.answers import boxes_json
from anomalyr1.answers.completion import (
    as_mmad,
    as_released,
    choice_at,
    parse,
    parse_with_place,
    write,
)
from anomalyr1.answers.published import read_evaluation, read_letter, roam
from anomalyr1.images.frames import FAMILIES, Frame, fit
from anomalyr1.types import Answer, Box, InputError
from support.places import ROOT

OPTIONS = ("Crack", "Scratch", "Dent", "Hole")
FRAME = Frame((2000, 1000), (1008, 504), "pixels")


def think(answer: str, reasoning: str = "x") -> str:
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


CHOICES = [
    # strict: one pair, one letter or one option's text
    (think("B"), "strict", "B", set()),
    (think(" B. "), "strict", "B", set()),
    (think("(B)"), "strict", "B", set()),
    (think("B. Scratch"), "strict", "B", set()),
    (think("B: scratch."), "strict", "B", set()),
    (think("scratch"), "strict", "B", set()),
    ("<think>x</think>\n\n<answer>B</answer>\n", "strict", "B", set()),
    (think("A") + " " + think("B"), "strict", "B", {"text_outside_tags"}),  # the last pair counts
    ("so: " + think("B"), "strict", "B", {"text_outside_tags"}),
    (
        "<think>a <think>x</think><answer>B</answer>",
        "strict",
        "B",
        {"text_outside_tags"},
    ),  # the innermost pair is well-formed
    # lenient: what a careful reader accepts
    ("B", "lenient", "B", {"no_tags"}),
    ("b", "lenient", "B", {"no_tags"}),
    ("B. A crack", "lenient", "B", {"no_tags"}),
    ("The answer is (b).", "lenient", "B", {"no_tags"}),
    (think("b"), "lenient", "B", set()),
    (think("**B**"), "lenient", "B", set()),
    (think("Ｂ"), "lenient", "B", set()),
    (think("Answer: C"), "lenient", "C", set()),
    (think("答案是B"), "lenient", "B", set()),
    (
        think("B, because A would be deeper"),
        "lenient",
        "B",
        set(),
    ),  # a supposition after the choice is no second choice
    (think("There is a scratch."), "lenient", "B", set()),
    ("<THINK>x</THINK><ANSWER>B</ANSWER>", "lenient", "B", set()),
    ("x</think><answer>B</answer>", "lenient", "B", {"think_not_opened"}),
    ("<think>x <answer>B</answer>", "lenient", "B", {"think_not_closed"}),
    ("<think>x</think><answer>B", "lenient", "B", {"answer_not_closed"}),
    ("<think>x</think> B", "lenient", "B", {"no_answer_tag"}),
    ("<answer>B</answer>", "lenient", "B", {"no_think"}),
    ("<answer>B</answer><think>x</think>", "lenient", "B", {"answer_before_think"}),
    (think("B") + "<answer>B</answer>", "lenient", "B", {"several_answers"}),
    # unparseable: nothing, or a contradiction
    ("", "unparseable", None, {"no_tags", "no_answer"}),
    (think(""), "unparseable", None, {"no_choice"}),
    (think("E"), "unparseable", None, {"letter_not_an_option"}),
    (think("A, B"), "unparseable", None, {"no_choice"}),
    (think("A or B"), "unparseable", None, {"no_choice"}),
    (think("not B"), "unparseable", None, {"no_choice"}),
    (think("B. Crack"), "unparseable", None, {"letter_text_conflict"}),
    (think("A scratch or a dent"), "unparseable", None, {"no_choice"}),
    (think("A") + "<answer>B</answer>", "unparseable", None, {"several_answers"}),
    ("<think>The answer is B.", "unparseable", None, {"think_not_closed", "no_answer"}),  # cut off
    ("<think>x <answer>B</answer></think>", "unparseable", None, {"answer_inside_think", "no_answer"}),
    (think('[{"bbox_2d": [1, 2, 3, 4]}]'), "unparseable", None, {"no_choice"}),  # boxes are no option
]


@pytest.mark.parametrize(("text", "status", "choice", "counts"), CHOICES)
def test_choices(text, status, choice, counts):
    answer = parse(text, OPTIONS)
    assert (answer.status, answer.choice, set(answer.counts)) == (status, choice, counts)
    assert answer.raw == text
    assert answer.boxes is None


BOXES = [
    ("[]", "strict", 0, set()),
    ('[{"bbox_2d": [1, 2, 30, 40], "label": "x"}]', "strict", 1, set()),
    ('[{"bbox_2d": [1, 2, 3000, 40]}]', "strict", 1, {"box_clipped"}),
    ('```json\n[{"bbox_2d": [1, 2, 30, 40]}]\n```', "lenient", 1, set()),
    ('{"bbox_2d": [1, 2, 30, 40]}', "lenient", 1, set()),
    ("[1, 2, 30, 40]", "lenient", 1, set()),
    ("[[1, 2, 30, 40]]", "lenient", 1, set()),
    ('[{"bbox": [1, 2, 30, 40]}]', "lenient", 1, set()),
    ("No defects.", "lenient", 0, set()),
    ('[{"bbox_2d": [30, 2, 1, 40]}]', "lenient", 1, {"box_corners_swapped"}),
    ('[{"bbox_2d": [1e309, 2, 3, 4]}, {"bbox_2d": [1, 2, 3, 4]}]', "lenient", 1, {"box_not_finite"}),
    # a list of which nothing is left is unreadable, never "no defect"
    ('[{"bbox_2d": [1, 2, 3]}]', "unparseable", None, {"box_not_four_numbers"}),
    ('[{"bbox_2d": [1, 2, 3, 4, 5]}]', "unparseable", None, {"box_not_four_numbers"}),
    ('[{"bbox_2d": ["1", 2, 3, 4]}]', "unparseable", None, {"box_not_four_numbers"}),
    ('[{"bbox_2d": [true, 2, 3, 4]}]', "unparseable", None, {"box_not_four_numbers"}),
    ('[{"bbox_2d": [NaN, 2, 3, 4]}]', "unparseable", None, {"box_not_finite"}),
    ('[{"bbox_2d": [1, 2, 1, 2]}]', "unparseable", None, {"box_empty"}),
    ('[{"bbox_2d": [1, 2, 1, 40]}]', "lenient", 1, {"box_thin"}),
    ('[{"bbox_2d": [5000, 2, 6000, 40]}]', "unparseable", None, {"box_outside"}),
    ("[" * 5000, "unparseable", None, {"json_too_deep"}),
    ("9" * 5000, "unparseable", None, {"json_number_too_long"}),
    ("[" + "0, " * 40_000 + "0]", "unparseable", None, {"json_too_long"}),
    ("somewhere", "unparseable", None, {"json_unreadable"}),
    ("B", "unparseable", None, {"json_unreadable"}),
]


@pytest.mark.parametrize(("text", "status", "number", "counts"), BOXES)
def test_boxes(text, status, number, counts):
    answer = parse(think(text), (), FRAME)
    assert (answer.status, set(answer.counts)) == (status, counts)
    assert (None if answer.boxes is None else len(answer.boxes)) == number
    assert answer.unmapped_boxes is None


def test_without_a_frame_boxes_stay_in_the_units_of_the_model():
    answer = parse(think('[{"bbox_2d": [1, 2, 30, 40], "label": "x"}]'), ())
    assert answer.boxes is None
    assert answer.unmapped_boxes is not None
    assert [box.xyxy for box in answer.unmapped_boxes] == [(1, 2, 30, 40)]


def test_too_many_boxes_are_dropped_and_counted():
    rows = json.dumps([{"bbox_2d": [i, i, i + 5, i + 5]} for i in range(103)])
    answer = parse(think(rows), (), FRAME)
    assert answer.boxes is not None
    assert (len(answer.boxes), answer.counts) == (boxes_json.MAX_BOXES, {"box_over_limit": 3})


def test_a_place_that_is_not_the_largest_box_is_counted():
    box = [Box(x1=0, y1=0, x2=100, y2=100), Box(x1=1900, y1=900, x2=1910, y2=910)]
    assert parse(write("There is a dent at the top left.", box, FRAME), (), FRAME).counts == {}
    assert parse(write("There is a dent at the bottom right.", box, FRAME), (), FRAME).counts == {
        "place_off_box": 1
    }


def test_gold_boxes_come_back_within_half_a_unit():
    rng = random.Random(0)
    for _ in range(10_000):
        family = rng.choice(list(FAMILIES.values()))
        size_wh = (rng.randrange(32, 4000), rng.randrange(32, 4000))
        frame = Frame(
            size_wh, fit(size_wh, family, rng.choice((None, 256 * 28 * 28, 1280 * 28 * 28))), family.units
        )
        x1, y1 = rng.uniform(0, size_wh[0] - 1), rng.uniform(0, size_wh[1] - 1)
        gold = Box(
            x1=x1,
            y1=y1,
            x2=rng.uniform(x1 + 0.2, size_wh[0]),
            y2=rng.uniform(y1 + 0.2, size_wh[1]),
            label="dent",
        )
        answer = parse(write("It has a dent.", [gold], frame), (), frame)
        assert answer.status == "strict"
        assert answer.boxes is not None
        extent = frame.model_wh if family.units == "pixels" else (1000, 1000)
        unit = [size_wh[0] / extent[0], size_wh[1] / extent[1]] * 2
        # A side thinner than one unit cannot be written; the writer makes it one unit wide.
        thin = [gold.x2 - gold.x1 < unit[0], gold.y2 - gold.y1 < unit[1]] * 2
        for read, true, one, narrow in zip(answer.boxes[0].xyxy, gold.xyxy, unit, thin, strict=True):
            assert abs(read - true) <= one * (1.0 if narrow else 0.5) + 1e-6


def degenerate(rng: random.Random) -> str:
    odd = ["NaN", "Infinity", "-Infinity", "1e309", "-1e309", "null", "true", '"12"', "[]", "9" * 40]
    numbers = [*odd, "1", "50", "-3", "700", "1e6", "1e-9", "0.5"]
    four = ", ".join(rng.choices(numbers, k=rng.choice((0, 3, 4, 4, 4, 5))))
    row = rng.choice(
        [
            '{{"bbox_2d": [{}]}}',
            '{{"bbox_2d": [{}], "label": 7}}',
            "[{}]",
            '{{"box": {}}}',
            '{{"label": "{}"}}',
        ]
    )
    deep = rng.random() < 0.02
    return (
        "[" * 5000 + four + "]" * 5000
        if deep
        else "[" + ", ".join([row.format(four)] * rng.choice((1, 1, 2))) + "]"
    )


def test_degenerate_boxes_are_dropped_and_counted_never_raised():
    rng = random.Random(1)
    for _ in range(1000):
        text = degenerate(rng)
        for frame in (FRAME, None):
            answer = parse(think(text), (), frame)
            assert answer.status != "strict" or not set(answer.counts) - {"box_clipped"}
            assert (
                (answer.boxes or answer.unmapped_boxes)
                or sum(answer.counts.values()) > 0
                or json.loads(text) == []
            )
            for box in answer.boxes or ():
                assert all(math.isfinite(value) for value in box.xyxy)
                assert 0 <= box.x1 < box.x2 <= 2000
                assert 0 <= box.y1 < box.y2 <= 1000


def test_the_limits_are_what_keeps_json_from_raising(monkeypatch):
    digits = '[{"bbox_2d": [' + "9" * 5000 + ", 1, 2, 3]}]"
    assert set(parse(think(digits), (), FRAME).counts) == {"json_number_too_long"}
    with pytest.raises(ValueError, match="digits"):
        json.loads(digits)
    with pytest.raises(RecursionError):
        json.loads("[" * 200_000)
    monkeypatch.setattr(boxes_json, "MAX_JSON_CHARS", 10**7)
    monkeypatch.setattr(boxes_json, "MAX_JSON_DEPTH", 10**7)
    assert set(parse(think("[" * 200_000), (), FRAME).counts) == {
        "json_unreadable"
    }  # the second line of defence


PIECES = (
    "<think>", "</think>", "<answer>", "</answer>", "<THINK>", "A", "B", " b ", "Ｂ", "[", "]", "{", "}",
    '"bbox_2d"', ":", ", ", "1e309", "-5", "NaN", "\x00", "\ud800", "\ud83d", "\u202e", "🅱", "𝐀", "答案是",
    "选", "not ", "is ", "the answer ", "option ", "no defect", "top left ", ".", "?", "\n", "**", "\\boxed{",
    "```json", "<", ">", "'", "ß", "ﷺ", "\u0301", "no ", "if ",
)  # fmt: skip


def test_fuzzed_completions_never_raise():
    rng = random.Random(2)
    for i in range(10_000):
        text = "".join(rng.choices(PIECES, k=rng.randrange(60)))
        if i % 2000 == 0:
            text += rng.choice(PIECES) * 100_000
        for options, frame in ((OPTIONS, None), ((), FRAME)) if i % 4 == 0 else ((OPTIONS, None),):
            answer = parse(text, options, frame)
            assert answer.raw == text
            assert answer.choice in {None, *"ABCD"}
            assert (answer.status == "unparseable") == (answer.choice is None and answer.boxes is None)
            if i % 10 == 0:
                assert Answer.from_json(answer.to_json()) == answer
        assert as_mmad(text[:2000], OPTIONS) in {*"ABCDE"}
        as_released(text)


@pytest.mark.parametrize(
    "unit", ["<think>", "</think><answer>", "[", "A ", "not A, ", "answer is ", "Ａ、", "\ud800"]
)
@pytest.mark.parametrize(
    "form", ["{}", "<think>{}</think><answer>B</answer>", "<think>x</think><answer>{}</answer>"]
)
def test_a_million_characters_take_a_moment(unit, form):
    # benchmarks/parser_scaling.py has the figures.
    text = form.replace("{}", unit * (1_000_000 // len(unit)))
    start = time.process_time()
    parse(text, OPTIONS)
    parse(text, (), FRAME)
    assert time.process_time() - start < 60  # 0.2 s; what grows with the square takes hours


def test_the_writer_refuses_what_could_not_be_read_back():
    for reasoning, answer in (
        ("x</think>", "B"),
        ("x", "b"),
        ("x", "AB"),
        ("x", [Box(x1=1, y1=1, x2=2, y2=2, label="</answer>")]),
        ("x", [Box(x1=1, y1=1, x2=2, y2=2)] * 101),
    ):
        with pytest.raises(InputError):
            write(reasoning, answer)
    # Without the refusal the tag would end the reasoning early.
    assert parse("<think>x</think> y</think><answer>B</answer>", OPTIONS).status != "strict"


def rows(name: str) -> list[dict]:
    return [
        json.loads(line) for line in (ROOT / "tests/data" / name).read_text(encoding="utf-8").splitlines()
    ]


def test_labelled_completions():
    read = []
    for row in rows("completions.jsonl"):
        answer = parse(row["text"], row["options"])
        boxes = None if answer.unmapped_boxes is None else [list(box.xyxy) for box in answer.unmapped_boxes]
        if not row.get("arguable"):
            read.append(
                (
                    row["id"],
                    (row["status"], row["choice"], row["boxes"]),
                    (answer.status, answer.choice, boxes),
                )
            )
    misses = [one for one in read if one[1] != one[2]]
    assert len(read) >= 100
    assert 1 - len(misses) / len(read) >= 0.99, f"(id, expected, read): {misses}"


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("<think>A or B? B.</think><answer>B</answer>", "B"),
        ("<think>x</think><answer>(B) Scratch</answer> Done, not A", "B"),
        ("<think>x</think><answer>B. A crack is visible</answer>", "B"),  # the label, not the article
        ("<think>x</think><answer>The answer is B.</answer>", "B"),
        ("<think>A</think><answer>A</answer> <think>B</think><answer>B</answer>", "B"),  # the last pair
        ("<think>The A side.</think>\nB", "B"),
        ("B", "B"),
        ("The answer is B", "B"),
        ("<think>B</think><answer>scratch</answer>", None),  # an option's text, no letter
        ("<think>B</think><answer>(b)</answer>", None),  # no capital
        ("<think>B</think><answer>nothing</answer>", None),
        ("<think>x <answer>A</answer></think> B", "B"),  # after the reasoning, whatever is in it
        ("<answer>B</answer><think>A</think>", "B"),
        ("", None),
    ],
)
def test_where_the_choice_stands(text, marked):
    at = choice_at(text, OPTIONS)
    assert (None if at is None else text[at]) == marked
    if at is not None:
        assert parse(text, OPTIONS).choice == marked
        assert at > text.rfind("<answer>")
    assert choice_at(text, ()) is None
    assert parse_with_place(text, OPTIONS) == (parse(text, OPTIONS), at)


def test_published_reward_is_reproduced_on_recorded_pairs():
    pairs = rows("released_pairs.jsonl")
    assert len(pairs) >= 2000
    for pair in pairs:
        assert as_released(pair["completion"]) == pair["extract"]
        assert roam(pair["completion"], pair["gold"]) == pair["reward"]


def test_published_evaluations_are_reproduced_on_recorded_pairs():
    for pair in rows("mmad_pairs.jsonl"):
        assert as_mmad(pair["text"], pair["options"]) == pair["letter_official"]
        assert (read_evaluation(pair["text"], pair["options"]) or "X") == pair["letter"]


def test_published_parsers_misread_as_the_design_says():
    assert as_mmad("B. A crack is visible", OPTIONS) == "A"
    assert read_evaluation(think("Answer: C"), OPTIONS) == "A"
    assert read_letter("A scratch is visible on the left side of the bottle.") == "A"
    assert as_released("On this PCB there is a scratch") in {"C", "B"}
    assert as_mmad("no letter here", ()) is None


def test_a_thin_box_is_one_unit_thick_inside_the_image():
    width, height = FRAME.model_wh
    for xyxy in ((5, 2, 5, 40), (5, 9, 50, 9), (width, 2, width, 40), (5, height, 50, height), (0, 0, 0, 9)):
        (box,) = parse(think(str(list(xyxy))), (), FRAME).boxes
        x1, y1, x2, y2 = FRAME.to_model(box.xyxy)
        assert (x2 - x1, y2 - y1) == (max(1, xyxy[2] - xyxy[0]), max(1, xyxy[3] - xyxy[1]))
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
