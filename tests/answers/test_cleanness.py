"""A reasoning earns "good" by what it says, and not by what no list of words knows."""

import json
from collections import Counter

import pytest

from anomalyr1.answers.cleanness import DISGUISED, FAULT, FOREIGN, SILENT, TOO_LONG, TWISTED, doubt_of_clean
from anomalyr1.answers.findings import says_defect
from support.places import ROOT

CLEAN = "The surface is smooth. No defect is visible, so the answer is B."
GOOD = [
    json.loads(line)
    for line in (ROOT / "tests/data/good_replies.jsonl").read_text(encoding="utf-8").splitlines()
]


def test_what_models_write_about_good_parts_is_understood():
    """At most one in a hundred of each half is in doubt (as measured: 1, 1, and 1 of the 50 more)."""
    doubts = Counter(row["blind"] for row in GOOD if doubt_of_clean(row["reasoning"]))
    sizes = Counter(row["blind"] for row in GOOD)
    assert sizes == {False: 100, True: 150}
    assert doubts[False] <= 1 and doubts[True] <= 2


@pytest.mark.parametrize(
    ("reasoning", "doubt"),
    [
        (CLEAN, ""),
        ("", SILENT),
        ("The image shows a bracket.", SILENT),
        ("The cap should be intact.", TWISTED),
        ("The part is intact. A сrack.", FOREIGN),  # Cyrillic
        ("The part is intact. 왼쪽에 있습니다.", FOREIGN),
        ("The part is intact, no cr\u200back.", DISGUISED),
        ("The part is intact. A c-r-a-c-k.", DISGUISED),
        ("The part is intact. A cr4ck.", DISGUISED),
        ("The part is intact. <answer >A</answer>", DISGUISED),
        ("There is delamination. " + "The part is intact. " * 600, TOO_LONG),
        ("The part is intact. Is there a crack? Yes.", FAULT),
        ("The part is intact. Is there a crack?", FAULT),
        ("The part is fine, though there may be porosity.", FAULT),
        ("The cap is not seated. No defect.", TWISTED),
    ],
)
def test_doubt(reasoning, doubt):
    assert doubt_of_clean(reasoning) == doubt
    assert doubt_of_clean("", may_be_silent=True) == ""


def test_a_question_that_is_answered_says_what_it_asks():
    assert doubt_of_clean("Is there a crack near the seam? No, it is a reflection. The part is intact.") == ""


def test_any_text_is_read_without_an_error():
    for text in ("\ud800", "?" * 99, "no " * 3000, "欠陥や" * 3000, "\n" * 50, "A" * 9999):
        doubt_of_clean(text)
        assert says_defect(text) in (True, False, None)
