"""What `inspect` would make of an evaluation's verdicts: what it makes of the same replies itself."""

from pathlib import Path

import pytest

from anomalyr1 import answers
from anomalyr1.evaluation import doubts
from anomalyr1.inspection import verdicts
from anomalyr1.types import Box, Inspection, Mask, Question, Reply, Sample

ORDERS = ("Yes.", "No."), ("No.", "Yes.")
SIZE_WH = (90, 90)
BOX, NO_BOX = '[{"bbox_2d": [1, 1, 9, 9], "label": "dent"}]', "[]"
BAD, CLEAN = "There is a defect in the top left: a dent.", "No defect is visible."
ELSEWHERE = "There is a defect in the bottom right: a dent."


def sample_of(order, anomalous=True):
    questions = (
        Question(id="s/detection", kind="anomaly detection", text="Any defect?", options=order, answer="A"),
        Question(id="s/grounding", kind="grounding", text="Where?"),
    )
    return Sample(id="s", image=Path("s.png"), anomalous=anomalous, questions=questions)


def reply_of(question, reasoning, answer, finish):
    text = f"<think>{reasoning}</think><answer>{answer}</answer>"
    read = answers.parse(text, question.options)
    if not question.options and read.unmapped_boxes is not None:
        corners = ("x1", "y1", "x2", "y2")
        boxes = tuple(Box(**dict(zip(corners, b.xyxy, strict=True))) for b in read.unmapped_boxes)
        read = read.model_copy(update={"boxes": boxes})
    return Reply(question_id=question.id, completion=text, answer=read, finish=finish)


def inspected(sample, yes, reasoning, place_reasoning, boxes, finish="stop", score=None):
    """An inspection of the sample's own questions, as an evaluation makes it, and its replies."""
    yes_no, grounding = sample.questions
    letter = yes_no.letters[yes_no.options.index("Yes." if yes else "No.")]
    replies = (
        reply_of(yes_no, reasoning, letter, finish),
        reply_of(grounding, place_reasoning, boxes, "stop"),
    )
    opinion = verdicts.of_questions(sample.questions, replies)
    masks = tuple(Mask(size_wh=SIZE_WH, rle="0", source="box") for _ in opinion.boxes or ())
    given = {"reason": "x", "boxes": opinion.boxes, "masks": masks, "replies": replies, "score": score}
    return Inspection(sample_id="s", verdict=opinion.verdict, **given), replies


@pytest.mark.parametrize(
    ("reply", "doubt"),
    [
        ((True, BAD, BAD, BOX), ""),
        ((False, CLEAN, CLEAN, NO_BOX), ""),
        ((True, BAD, ELSEWHERE, BOX), "no box touches it"),
        ((True, BAD, CLEAN, NO_BOX), "no box was drawn"),
        ((False, CLEAN, CLEAN, BOX), "a box was drawn"),
        ((False, BAD, CLEAN, NO_BOX), "concludes A but the answer is B"),
        ((False, "Fine thing.", CLEAN, NO_BOX), "the answer says good, but"),  # good must be earned
        ((True, BAD, BAD, BOX, "length"), "cut off"),
        ((True, BAD, BAD, BOX, "stop", 0.1), "probability of a defect is 0.10"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_the_doubts_are_those_of_inspect(order, reply, doubt):
    sample = sample_of(order)
    inspection, replies = inspected(sample, *reply)
    assert inspection.verdict == ("defect" if reply[0] else "good")  # the control: as an evaluation takes it
    told = doubts.doubt_of(sample, inspection)
    assert doubt in told and bool(told) is bool(doubt)
    if order == ORDERS[0] and inspection.score is None:  # inspect's own order
        assert bool(told) is (verdicts.conclude(*([one] for one in replies), SIZE_WH).verdict == "unsure")


def test_the_balanced_accuracy_is_that_after_the_checks():
    good, bad = sample_of(ORDERS[1], False), sample_of(ORDERS[1])
    clean = inspected(good, False, CLEAN, CLEAN, NO_BOX)[0]
    sure = inspected(bad, True, BAD, BAD, BOX)[0]
    astray = inspected(bad, True, BAD, ELSEWHERE, BOX)[0]
    assert doubts.doubts_of([(good, clean), (bad, sure)]) == doubts.Doubts(
        checked=2, doubted=0, balanced_accuracy=1
    )
    found = doubts.doubts_of([(good, clean), (bad, sure), (bad, astray)])
    assert found == doubts.Doubts(checked=3, doubted=1, balanced_accuracy=0.75)
    assert doubts.doubts_of([(bad, sure)]).balanced_accuracy is None


def test_what_inspect_made_itself_has_no_doubts():
    sample = sample_of(ORDERS[0])
    inspection, replies = inspected(sample, True, BAD, ELSEWHERE, BOX)
    named = [
        r.model_copy(update={"question_id": f"s#{n}"})
        for r, n in zip(replies, ("verdict", "grounding"), strict=True)
    ]
    assert doubts.doubts_of([(sample, inspection.model_copy(update={"replies": tuple(named)}))]) is None
    assert doubts.doubts_of([(sample, inspection)]).doubted == 1  # the control
