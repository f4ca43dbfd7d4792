"""The reader of the reasoning: conclusion, defect or clean, and place."""

from __future__ import annotations

import json
import random

import pytest

from anomalyr1.answers import conclusion, read_reasoning, rules
from anomalyr1.answers.clauses import Clause
from anomalyr1.answers.conclusion import read_conclusion
from anomalyr1.answers.findings import place, says_defect
from anomalyr1.answers.wording import content, sentences, tables
from anomalyr1.types import PLACES
from support.places import ROOT


def rows(name: str) -> list[dict]:
    """The labelled reasonings of a file."""
    lines = (ROOT / "tests/data" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


CASES = rows("reasonings_development.jsonl")
"""Reasonings the reader was developed on."""
LABELLED = [  # file, share right, precision when a letter is named: at least
    # corrected once after the reader had been measured on it (94.7 % and 95.1 %)
    ("reasonings.jsonl", 0.99, 1.0),
    # measured before the reader was corrected on its three misses (98 % and 96.7 %)
    ("reasonings_second.jsonl", 0.99, 1.0),
    ("reasonings_third.jsonl", 0.96, 1.0),
]
LANGUAGES = ("zh", "ja", "de", "fr", "es")
"""Beside English, the languages with ten labelled reasonings or more; others are not read."""
DEFECTS = ("Crack", "Scratch", "Dent", "Hole")

ALWAYS = [  # misread by earlier systems of the field
    ("A scratch is visible on the left side", ("Top", "Bottom", "Dent", "Hole"), None),
    ("On this PCB there is a scratch", ("Rust", "Bottom", "Dent", "Hole"), None),
    ("B is the answer because options A, C, D do not match.", DEFECTS, "B"),
    ("the correct answer is b.", DEFECTS, "B"),
    ("It is D, not A.", DEFECTS, "D"),
]

SAYS_DEFECT = [
    ("No defect is visible.", False),
    ("The part is free of defects.", False),
    ("The surface is smooth, without any scratches.", False),
    ("The image does not show any anomalies.", False),
    ("A scratch is visible.", True),
    ("There is a dent in the middle.", True),
    ("The image shows a bottle from above.", None),
    ("", None),
    ("There are no scratches, but a dent is visible.", True),
    ("A dent is visible, but there are no scratches.", True),
    ("At first it looks like a scratch. In conclusion, there is no defect.", False),
    ("The left side shows a crack. The rest of the surface has no defects.", True),
    ("I need to check for defects.", None),
    ("Is there a defect?", None),
    ("If there were a crack, it would be visible.", None),
    ("The part is intact.", False),
    ("The part is not intact.", True),
    ("The pin is bent.", True),
    ("No pins are bent.", False),
    ("The object is defect-free.", False),
    ("Nothing unusual can be seen.", False),
    ("The object is in good condition.", False),
    ("The edge isn't chipped and nothing is missing.", False),
    ("A component is missing at the top.", True),
    ("The surface lacks any sign of damage.", False),
    ("The crack is clearly visible, so the part is defective.", True),
    ("Neither cracks nor dents can be seen.", False),
    ("The absence of scratches suggests a good part.", False),
    ("表面有划痕。", True),
    ("没有缺陷。", False),
    ("Kein Defekt sichtbar.", False),
    ("There is a defect at the top left.", True),
    ("There is no defect.", False),
    ("The hole in the middle has a crack on its edge.", True),
    ("The four holes are evenly spaced.", None),
    ("The coating could be damaged.", None),
    ("It looks normal, no signs of wear or damage.", False),
    ("The capsule appears undamaged and uniform.", False),
    ("Compared with the good sample, this one has a dark spot.", True),
    ("No scratches. No dents. Overall, no defects are present.", False),
]

PLACE = [
    ("There is a defect at the top left.", "top left"),
    ("A dent on the left side.", "center left"),
    ("A crack in the upper right corner.", "top right"),
    ("The scratch is in the center.", "center"),
    ("The scratch is located in the lower part.", "bottom center"),
    ("A stain near the bottom edge.", "bottom center"),
    ("A crack in the middle of the image.", "center"),
    ("There is a scratch.", None),
    ("The crack is not at the top left but at the bottom right.", "bottom right"),
    ("A scratch runs from the top left to the bottom right.", None),
    ("The right answer is B.", None),
    ("What is left is a stain.", None),
    ("A dent in the lower-left corner", "bottom left"),
    ("The defect is at the center right.", "center right"),
    ("A hole on the right-hand side.", "center right"),
    ("The left connector is fine. The crack is at the bottom center.", "bottom center"),
    ("The top is clean. There is a dent at the bottom.", "bottom center"),
    ("划痕位于左上角。", "top left"),
    ("There is a chip on the top-left edge of the rim", "top left"),
    ("the upper left corner shows a crack", "top left"),
    ("There is a defect at the center.", "center"),
    ("There is a defect at the bottom center.", "bottom center"),
    ("There is a defect at the center left.", "center left"),
]


@pytest.mark.parametrize(("reasoning", "options", "letter"), ALWAYS)
def test_what_must_always_hold(reasoning, options, letter):
    assert read_conclusion(reasoning, options) == letter


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{i}: {case['reasoning'][:40]}" for i, case in enumerate(CASES)]
)
def test_development_cases(case):
    letter = read_conclusion(case["reasoning"], case["options"])
    if case.get("language", "zh") in LANGUAGES or letter is not None:
        assert letter == case["letter"]


@pytest.mark.parametrize(("name", "right", "precision"), LABELLED)
def test_labelled_reasonings(name, right, precision):
    read = [
        (case["id"], case["conclusion"], read_conclusion(case["reasoning"], case["options"]))
        for case in rows(name)
    ]
    misses = [one for one in read if one[1] != one[2]]
    named = [one for one in read if one[2] is not None]
    assert 1 - len(misses) / len(read) >= right, f"(id, expected, read): {misses}"
    assert sum(one[1] == one[2] for one in named) / len(named) >= precision, f"(id, expected, read): {misses}"
    assert len(named) > len(read) / 2  # a reader that never names a letter is precise too


def test_labelled_reasonings_by_language():
    right: dict[str, list[bool]] = {}
    for case in [case for name, *_ in LABELLED for case in rows(name)] + CASES:
        letter = read_conclusion(case["reasoning"], case["options"])
        gold = case["conclusion"] if "conclusion" in case else case["letter"]
        right.setdefault(case.get("language", "en"), []).append(letter == gold)
        assert letter in {gold, None} or case.get("language", "en") == "en"  # never a wrong letter
    for language, hits in right.items():
        print(f"{language}: {sum(hits)} of {len(hits)} right")
    assert len(LANGUAGES) == len(tables()["languages"] | tables()["unspaced"]) - 1  # but for English
    for language in LANGUAGES:
        assert len(right[language]) >= 10
        assert sum(right[language]) / len(right[language]) >= 0.97


@pytest.mark.parametrize(
    "rule",
    [*rules.DENIALS, *rules.CLAIMS, *rules.DOUBTS],
    ids=lambda rule: f"{rule.ruling.name} {rule.name}",
)
def test_rules_decide_their_examples(rule, monkeypatch):
    deciding = []

    def first_rule(*arguments):
        deciding.append(rules.first_rule(*arguments))
        return deciding[-1]

    monkeypatch.setattr(conclusion, "first_rule", first_rule)
    letter = read_conclusion(rule.example, DEFECTS)
    assert rule in deciding
    if rule in rules.CLAIMS and rule.ruling is not rules.NOTHING:
        assert letter == "B"
    elif rule not in rules.DENIALS or rule.ruling is rules.AGAINST:
        assert letter != "B"


@pytest.mark.parametrize(
    ("words", "pattern", "holds"),
    [
        ("the answer is X", "answer is", True),
        ("the answers is X", "answer is", False),  # whole words
        ("this is", "is", True),
        ("this", "is", False),
        ("it is X", "<copula> _", False),  # _ is no option
        ("it is X", "<copula> <option>", True),
        ("it isn't so", "<not> so", True),  # *n't
        ("a b c", "^ !(b|c) b", True),
        ("a b c", "^ ... c $", True),
        ("a b c", "^ _{0,1} c", False),
        ("b , c", "b <mark> c", True),
        ("second thought", "^ <taken_back> $", True),  # a list of phrases
        ("nothing but", "<but_for> $", True),  # a fragment
    ],
)
def test_patterns(words, pattern, holds):
    assert Clause(words.split()).holds(pattern) == holds


def test_patterns_before_a_word_are_read_backwards():
    words = ["not", "only", "A", "but", "then", "also", "X", "here"]
    clause = Clause(words)
    assert clause.precedes("but (then|so) !(not)?", 6)
    assert not clause.precedes("^ (then|so) !(not)?", 6)
    assert clause.precedes("^ not _{1,5}", 6)
    assert clause.surrounds("then _ X here", 6)
    assert not clause.surrounds("then X here", 6)
    assert clause.without("<aside> only A").words == words[3:]


@pytest.mark.parametrize(("reasoning", "expected"), SAYS_DEFECT)
def test_says_defect(reasoning, expected):
    assert says_defect(reasoning) is expected


@pytest.mark.parametrize(("reasoning", "expected"), PLACE)
def test_place(reasoning, expected):
    assert place(reasoning) == expected


@pytest.mark.parametrize("name", PLACES)
def test_every_place_is_read_from_its_own_name(name):
    assert place(f"There is a defect at the {name}.") == name


def test_denials_and_doubts_are_what_keeps_the_reader_precise(monkeypatch):
    denied, doubted = "The answer is A. No: it is not A.", "If the edge were torn, the answer would be A."
    assert read_conclusion(denied, DEFECTS) is None
    assert read_conclusion(doubted, DEFECTS) is None
    monkeypatch.setattr(conclusion, "DENIALS", ())
    monkeypatch.setattr(conclusion, "DOUBTS", ())
    assert read_conclusion(denied, DEFECTS) == "A"
    assert read_conclusion(doubted, DEFECTS) == "A"


def test_a_reasoning_is_read_in_one_go():
    text = "There is a dent at the top left. So the answer is C."
    assert read_reasoning(text, DEFECTS) == ("C", True, "top left")
    assert read_reasoning(text, DEFECTS) == (read_conclusion(text, DEFECTS), says_defect(text), place(text))
    assert read_reasoning(text, ()) == (None, True, "top left")
    assert read_reasoning("", DEFECTS) == (None, None, None)


def test_only_options_that_exist_are_concluded():
    assert read_conclusion("The answer is C.", ("Yes.", "No.")) is None
    assert read_conclusion("The answer is C.", ()) is None


def test_random_words_never_raise():
    rng = random.Random(7)
    text = (
        "A B C D a b not is the answer option so if ? . , ( ) : - ' \" no but wait crack scratch rather than"
    )
    words = [
        *text.split(),
        "答案",
        "选",
        "是",
        "\n",
        "**",
        "Ａ",
        "\ud800",
        "\x00",
        "without",
        "and",
        "or",
        "/",
    ]
    for _ in range(3000):
        text = " ".join(rng.choices(words, k=rng.randrange(40)))
        assert read_conclusion(text, DEFECTS) in {None, "A", "B", "C", "D"}
        assert says_defect(text) in {None, True, False}
        assert place(text) in {None, *PLACES}


def test_the_end_of_a_long_reasoning_is_what_counts():
    assert read_conclusion("A scratch here. " * 20_000 + "The answer is C.", DEFECTS) == "C"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The answer is B. It is 0.5 mm wide.", 2),  # a decimal ends nothing
        ("B. Scratch is correct. So it is B.", 2),  # nor does the stop of a label
        ("One\n\nTwo\nThree", 3),
        ("the line is wrapped after some words\nand goes on", 1),
        ("答案是B。图中有划痕。", 2),
    ],
)
def test_sentences(text, count):
    assert len(sentences(text)) == count


def test_an_option_and_a_sentence_are_read_alike():
    assert content("On the Centre.") == [token.word for token in sentences("on the center")[0]]
