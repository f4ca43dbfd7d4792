""" "Good" must be earned: hundreds of replies that take it back, hide a fault or say nothing are "unsure"."""

import json

import pytest

from anomalyr1.answers import parse
from anomalyr1.inspection.verdicts import conclude, decide
from anomalyr1.prompts import VERDICT_OPTIONS
from anomalyr1.types import Reply
from support import recordings
from support.places import ROOT

NO_BOXES = "<think>No defect is visible.</think><answer>[]</answer>"
ATTACKS = json.loads((ROOT / "tests/data/verdict_attacks.json").read_text(encoding="utf-8"))
CLEAN = "The surface is smooth and no defect is visible."
TAKEN_BACK = ATTACKS["taken_back"]
"""What may stand beside the tags."""
FAULTS = ATTACKS["faults"]
SENTENCES = (
    "There is a {} at the top left.",
    "I see a {} in the center of the part.",
    "The part shows a {}.",
)
TWISTED = ATTACKS["twisted"]
OTHER_LANGUAGES = ATTACKS["other_languages"]
HEDGED = ATTACKS["hedged"]


def verdict(yes_no, boxes=NO_BOXES):
    frame = recordings.FRAME
    return decide(parse(yes_no, VERDICT_OPTIONS), parse(boxes, (), frame), False, recordings.SIZE_WH)


def reasoned(reasoning, letter="B"):
    return f"<think>{reasoning}</think><answer>{letter}</answer>"


def goods(replies):
    return [reply for reply in replies if verdict(reply)[0] == "good"]


def test_a_clean_reply_is_good():
    """The control of all below: what surrounds the attacks is good by itself."""
    assert verdict(reasoned(CLEAN)) == ("good", CLEAN)
    assert verdict(reasoned(CLEAN, "B. No."))[0] == "good"


@pytest.mark.parametrize("beside", TAKEN_BACK)
def test_what_stands_beside_the_answer_takes_it_back(beside):
    for reply in (f"{reasoned(CLEAN)} {beside}", f"**{beside}** {reasoned(CLEAN)}"):
        got, why = verdict(reply)
        assert got == "unsure" and why.endswith(CLEAN)
    assert verdict(reasoned(CLEAN), f"{NO_BOXES} {beside}")[0] == "unsure"


@pytest.mark.parametrize("answer", ["A\nB", "No, wait: yes", "B!?", "not B", "(B) no, A", "B or A"])
def test_a_loose_answer_is_never_good(answer):
    assert verdict(reasoned(CLEAN, answer))[0] != "good"


@pytest.mark.parametrize(
    "answer", ["[] but there is a mouse bite", "[]. Box: 1,2,30,40", "none", "{}", "[[]]"]
)
def test_loose_boxes_are_never_good(answer):
    assert verdict(reasoned(CLEAN), f"<think>No defect.</think><answer>{answer}</answer>")[0] != "good"


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_fault_is_never_good_alone_or_beside_praise(sentence):
    assert len(FAULTS) == 60
    for fault in FAULTS:
        said = sentence.format(fault)
        assert goods(map(reasoned, (said, f"{said} {CLEAN}", f"{CLEAN} {said}"))) == []
        assert goods([reasoned(f"The surface is free of scratches, but {said[0].lower()}{said[1:]}")]) == []
        assert verdict(reasoned(CLEAN), f"<think>{said}</think><answer>[]</answer>")[0] == "unsure"


def test_what_cannot_be_read_is_never_good_alone_or_beside_praise():
    texts = [*TWISTED, *OTHER_LANGUAGES]
    assert len(texts) == 50
    assert goods(map(reasoned, texts)) == []
    assert goods(reasoned(f"{text} {CLEAN}") for text in texts) == []


def test_a_denial_that_is_hearsay_a_guess_half_or_taken_back_is_never_good():
    assert len(HEDGED) == 117
    assert goods(map(reasoned, HEDGED)) == []


@pytest.mark.parametrize("text", ["The background is clean.", "The reference has no defects."])
def test_what_is_good_beside_the_part_earns_nothing_and_costs_nothing(text):
    assert verdict(reasoned(text))[0] == "unsure"
    assert verdict(reasoned(f"{text} {CLEAN}"))[0] == "good"


def test_a_thing_that_no_list_knows_is_not_good_where_a_sentence_is_about_it():
    for thing in ("nibble", "zorgle", "bare patch", "shadowy form", "bit of tape", "opening"):
        assert goods(reasoned(f"{sentence.format(thing)} {CLEAN}") for sentence in SENTENCES) == []


def test_silence_is_unsure():
    for reasoning in ("", "The image shows a bracket.", "So the answer is B."):
        got, why = verdict(reasoned(reasoning))
        assert got == "unsure" and "does not say that the part is free of defects" in why


def reply(text, options, scores=None):
    answer = parse(text, options, recordings.FRAME)
    return Reply(question_id="q", completion=text, answer=answer, option_scores=scores)


def concluded(texts):
    pairs = [(reply(first, VERDICT_OPTIONS), reply(second, ())) for first, second in texts]
    return conclude(*map(list, zip(*pairs, strict=True)), recordings.SIZE_WH)


def test_votes_that_are_not_earned_do_not_count():
    earned, silent = (reasoned(CLEAN), NO_BOXES), (reasoned("Seen."), NO_BOXES)
    assert concluded([earned, earned, silent]).verdict == "good"
    assert concluded([earned, silent, silent]).verdict == "unsure"


@pytest.mark.parametrize(
    ("yes_no", "boxes", "lacks"),
    [
        (reasoned("There is a crack.", "A"), NO_BOXES, True),
        (reasoned("There is a crack.", "A"), "<think>x</think><answer>somewhere</answer>", True),
        (reasoned("There is no crack.", "A"), NO_BOXES, False),  # contradicts itself
        (reasoned(CLEAN), NO_BOXES, False),
        (reasoned("Seen."), NO_BOXES, False),
    ],
)
def test_only_boxes_lack(yes_no, boxes, lacks):
    assert concluded([(yes_no, boxes)]).only_boxes_lack == lacks
