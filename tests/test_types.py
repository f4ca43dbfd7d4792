"""The records: frozen, validated, the same after a round trip through JSON."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anomalyr1.types import Answer, Box, Inspection, Mask, ModelBox, Question, Reply, Sample

# Any text at all, lone surrogates included: file names and completions are not always Unicode.
TEXT = st.text(st.characters(), max_size=20)
NUMBER = st.floats(-1e9, 1e9)
BOXES = st.builds(lambda x, y, w, h, label: Box(x1=x, y1=y, x2=x + w, y2=y + h, label=label),
                  *[st.floats(0, 1e4)] * 2, *[st.floats(0.5, 1e4)] * 2, TEXT)  # fmt: skip
ANSWERS = st.builds(
    Answer,
    status=st.sampled_from(["strict", "lenient", "unparseable"]),
    reasoning=TEXT,
    boxes=st.none() | st.lists(BOXES, max_size=2).map(tuple),
    unmapped_boxes=st.none()
    | st.lists(st.builds(ModelBox, xyxy=st.tuples(*[NUMBER] * 4)), max_size=2).map(tuple),
    raw=TEXT,
    counts=st.dictionaries(TEXT, st.integers(0, 9), max_size=2),
)
INSPECTIONS = st.builds(
    Inspection,
    sample_id=TEXT,
    verdict=st.just("unsure"),
    score=st.none() | st.floats(0, 1),
    boxes=st.none() | st.lists(BOXES, max_size=2).map(tuple),
    masks=st.none() | st.just((Mask(size_wh=(3, 2), rle="06", source="box"),)),
    replies=st.lists(st.builds(Reply, question_id=TEXT, completion=TEXT, answer=ANSWERS), max_size=2).map(
        tuple
    ),
    error=st.none() | TEXT,
)


@given(INSPECTIONS)
def test_an_inspection_survives_json(inspection):
    line = inspection.to_json()
    assert "\n" not in line
    assert Inspection.from_json(line) == inspection


def test_a_sample_survives_json():
    question = Question(
        id="q", kind="defect localization", text="Where?", options=("Top left.", "Center."), answer="B"
    )
    sample = Sample(
        id="s",
        image=Path("a/b\udcff.png"),
        references=(Path("r.png"),),
        boxes=(),
        questions=(question,),
        anomalous=False,
    )
    assert Sample.from_json(sample.to_json()) == sample


def test_not_said_and_none_stay_apart():
    for boxes in (None, ()):
        assert Answer.from_json(Answer(status="strict", boxes=boxes).to_json()).boxes == boxes


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Box(x1=1, y1=0, x2=1, y2=1), "x1 < x2"),  # empty
        (lambda: Box(x1=0, y1=0, x2=float("inf"), y2=1), "finite"),
        (lambda: Box(x1=0, y1=0, x2=float("nan"), y2=1), "finite"),
        (
            lambda: Inspection(sample_id="s", verdict="good", error="broken file"),
            "unsure",
        ),  # failed is never good
        (
            lambda: Question(id="q", kind="grounding", text="", options=("a",), answer="B"),
            "none of its options",
        ),
        (lambda: Question(id="q", kind="grounding", text="", options=("x",) * 27), "letters"),
        (lambda: Question(id="q", kind="anomalies", text=""), "kind"),
        (lambda: Answer(status="strict", colour="red"), "colour"),  # unknown fields are errors
        (lambda: Answer.from_json(json.dumps({"status": "strict", "raw": 7})), "raw"),
    ],
)
def test_wrong_records_are_refused(make, word):
    with pytest.raises(ValidationError, match=word):
        make()


def test_records_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Box(x1=0, y1=0, x2=1, y2=1).x1 = 5


@pytest.mark.parametrize("score", [-0.1, 1.1, 5, float("nan"), float("inf")])
def test_scores_are_probabilities(score):
    with pytest.raises(ValidationError):
        Inspection(sample_id="a", verdict="good", score=score)
    with pytest.raises(ValidationError):
        Reply(question_id="q", completion="", answer=Answer(status="strict"), option_scores={"A": score})
