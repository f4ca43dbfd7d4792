"""Questions from labels and boxes: true gold, false distractors, and nothing that is not known."""

from __future__ import annotations

import pytest

from anomalyr1.data.questions import Labels, Truth, ask
from anomalyr1.types import Box, Sample

LABELS = Labels(
    ("washer", "gear", "cable", "pill"),
    {"washer": ("scratch", "dent", "hole", "crack"), "gear": ("missing_tooth",)},
)
BOX = Box(x1=10, y1=10, x2=20, y2=20, label="scratch")
WIDE = Box(x1=0, y1=0, x2=95, y2=20)
SIZE = (100, 100)


def sample(name="s", **changes):
    return Sample(
        **{"id": name, "image": "x.png", "category": "washer", "anomalous": True, "boxes": (BOX,)} | changes
    )


def asked(one, truth=None, labels=LABELS, located=True, seed=0):
    return {q.kind: q for q in ask(one, truth or Truth(("scratch",), SIZE), labels, seed, located=located)}


def gold(question):
    return question.options[question.letters.index(question.answer)]


def test_all_kinds():
    questions = asked(sample())
    assert {kind: gold(question) for kind, question in questions.items() if question.options} == {
        "anomaly detection": "Yes.", "object classification": "washer", "defect classification": "scratch",
        "defect localization": "top left", "defect description": "small scratch",
    }  # fmt: skip
    assert questions["grounding"].boxes == (BOX,)
    assert set(questions["defect classification"].options) == {"scratch", "dent", "hole", "crack"}
    assert len(questions["defect localization"].options) == 4


@pytest.mark.parametrize(
    ("one", "truth", "absent"),
    [
        (
            sample(anomalous=None, boxes=None),
            Truth(),
            {"anomaly detection", "defect classification", "grounding"},
        ),
        (
            sample(anomalous=False, boxes=()),
            Truth(),
            {"defect classification", "defect localization", "defect description"},
        ),
        (sample(boxes=None), Truth(("scratch",)), {"defect localization", "defect description", "grounding"}),
        (
            sample(),
            Truth(("combined",), SIZE),
            {"defect classification", "defect description"},
        ),  # names no type
        (sample(), Truth(("scratch", "bad"), SIZE), {"defect classification", "defect description"}),
        (sample(), Truth(("scratch",)), {"defect localization"}),  # no size, no region
        (
            sample(boxes=(BOX, Box(x1=50, y1=50, x2=60, y2=60))),
            Truth(("scratch",), SIZE),
            {"defect localization"},
        ),  # two are largest
        (
            sample(boxes=(Box(x1=0, y1=0, x2=100, y2=100),)),
            Truth(("scratch",), SIZE),
            {"defect localization"},
        ),  # every region holds it
        (
            sample(boxes=(Box(x1=0, y1=0, x2=20, y2=25),)),
            Truth(("scratch",), SIZE),
            {"defect description"},
        ),  # neither small nor large
        (sample(category=""), Truth(("scratch",), SIZE), {"object classification"}),
    ],
)
def test_what_is_not_known_is_not_asked(one, truth, absent):
    assert not set(asked(one, truth)) & absent


def test_grounding_is_asked_of_good_samples_only_where_boxes_are_known():
    good = sample(anomalous=False, boxes=())
    assert asked(good)["grounding"].boxes == ()
    assert "grounding" not in asked(good, located=False)


def test_options_that_might_be_right_are_left_out():
    labels = Labels(
        ("capsule", "capsules", "gear"),
        {"": ("scratch", "scratch_head", "Scratches", "hole", "bad", "combined")},
    )
    questions = asked(sample(category="capsule"), Truth(("scratch",), SIZE), labels)
    assert set(questions["defect classification"].options) == {"scratch", "hole"}
    assert set(questions["object classification"].options) == {"capsule", "gear"}
    wide = asked(sample(boxes=(WIDE,)))["defect localization"]
    assert gold(wide) == "top center"
    assert not {"top left", "top right"} & set(wide.options)


def test_one_of_several_types_is_asked_for():
    question = asked(sample(), Truth(("scratch", "hole"), SIZE))["defect classification"]
    assert gold(question) in ("scratch", "hole")
    assert len({"scratch", "hole"} & set(question.options)) == 1
    assert "Which of these" in question.text


def test_descriptions_of_the_annotation_come_first():
    labels = Labels((), {}, ("a long bright line", "a round hole"))
    question = asked(sample(), Truth(("scratch",), SIZE, "a long bright line"), labels)["defect description"]
    assert question.options in (
        ("a long bright line", "a round hole"),
        ("a round hole", "a long bright line"),
    )


def test_no_option_of_a_description_stands_out():
    options = asked(sample())["defect description"].options
    assert len({option.split(" ", 1)[1] for option in options}) == 2
    assert sorted(option.split(" ")[0] for option in options) == ["large", "large", "small", "small"]


def test_questions_depend_on_id_and_seed_alone():
    assert asked(sample()) == asked(sample())
    orders = {asked(sample(f"s{n}"))["defect classification"].options for n in range(20)}
    assert len(orders) > 10
    assert (
        asked(sample())["anomaly detection"]
        == asked(sample(boxes=None), Truth(("scratch",)))["anomaly detection"]
    )
    assert len({asked(sample(), seed=seed)["defect classification"].options for seed in range(20)}) > 10


def test_letters_are_balanced():
    letters = [asked(sample(f"s{n}"))["anomaly detection"].answer for n in range(400)]
    assert 160 < letters.count("A") < 240
