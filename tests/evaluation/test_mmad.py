"""The official scoreboard to the digit, the published averages from their cells, and the strict and lenient
boards by hand.
"""

import csv
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from anomalyr1.evaluation import mmad
from anomalyr1.evaluation.rows import of_pairs
from anomalyr1.types import Answer, InputError, Inspection, Question, Reply, Sample
from support import scorer_cases
from support.places import ROOT

DATA = ROOT / "tests/data"
EXPECTED = [json.loads(line) for line in (DATA / "mmad_scorer.jsonl").read_text().splitlines()]


def as_published(board):
    """A board as the table that the published scorer writes."""
    return {
        name: {
            **{column: cell.value for column, cell in cells.items()},
            "Overkill": board.overkill[name].value,
            "Miss": board.miss[name].value,
        }
        for name, cells in board.cells.items()
    }


def furthest(table, expected):
    """The largest distance between our table and the published scorer's; infinite where rows or columns
    differ.
    """
    if list(table) != expected["rows"] or any(list(cells) != expected["columns"] for cells in table.values()):
        return math.inf
    return float(
        np.abs(np.array([list(cells.values()) for cells in table.values()]) - expected["cells"]).max()
    )


def test_the_generator_still_makes_the_files_that_were_scored():
    for one in EXPECTED:
        found = scorer_cases.answers(one["seed"])
        assert hashlib.sha256(scorer_cases.line(found).encode()).hexdigest()[:16] == one["sha256"]


def test_the_official_board_equals_the_published_scorer_on_300_files():
    assert len(EXPECTED) == 300
    for one in EXPECTED:
        rows = scorer_cases.rows(scorer_cases.answers(one["seed"]))
        assert furthest(as_published(mmad.board(rows, "official", repeats=2)), one) < 1e-9, one["seed"]
        assert mmad.counted_officially(rows).deleted == one["deleted"]


def test_without_the_skipping_the_official_board_is_another(monkeypatch):
    """Negative control: deletion that skips nothing differs in most files with invalid answers."""

    def all_valid(rows):
        mask = tuple(row.gold in "ABCDE" and row.gold != "" and row.official in list("ABCDE") for row in rows)
        return mmad.OfficialCount(mask=mask, deleted=0, skipped=0)

    monkeypatch.setattr(mmad, "counted_officially", all_valid)
    some = [one for one in EXPECTED[:100] if one["deleted"] > 2]
    other = [
        furthest(
            as_published(mmad.board(scorer_cases.rows(scorer_cases.answers(one["seed"])), "official", 2)), one
        )
        for one in some
    ]
    assert sum(distance > 1e-6 for distance in other) > 0.9 * len(some)


def published(shared):
    """The published tables: name -> data set -> column -> figure."""
    tables = {}
    for path in sorted((shared / "data" / "mmad" / "published_accuracy").glob("*.csv")):
        with path.open(newline="") as file:
            rows = {
                row.pop(""): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            }
        tables[path.stem] = rows
    return tables


def test_the_averages_of_the_22_published_tables_follow_from_their_cells(shared):
    tables = published(shared)
    assert len(tables) == 22
    for name, rows in tables.items():
        averages = rows.pop("Average")
        cells = np.array([[row[column] for column in mmad.SUBTASKS] for row in rows.values()])
        whole = mmad.with_averages(cells[None])[0]
        assert whole[:-1, -1] == pytest.approx([row["Average"] for row in rows.values()], abs=1e-9), name
        assert whole[-1] == pytest.approx(
            [averages[column] for column in (*mmad.SUBTASKS, "Average")], abs=1e-9
        ), name
        if "Overkill" in averages:
            sides = [(row["Overkill"] + row["Miss"]) / 2 for row in rows.values()]
            assert 100 - cells[:, 0] == pytest.approx(sides, abs=1e-9), name


OPTIONS = ("Yes.", "No.")


def sample(
    name, anomalous, dataset="VisA", category="candle", logical=False, kinds=("anomaly detection",), gold="A"
):
    questions = tuple(
        Question(
            id=f"{name}#{number}", kind=kind, text="?",
            options=OPTIONS if kind == "anomaly detection" else ("red", "blue", "green", "grey"),
            answer=("A" if anomalous else "B") if kind == "anomaly detection" else gold,
        )
        for number, kind in enumerate(kinds)
    )  # fmt: skip
    return Sample(
        id=name,
        image=Path(name),
        dataset=dataset,
        category=category,
        anomalous=anomalous,
        logical=logical,
        questions=questions,
    )


def inspected(one, *texts):
    from anomalyr1 import answers

    replies = tuple(
        Reply(question_id=question.id, completion=text, answer=answers.parse(text, question.options))
        for question, text in zip(one.questions, texts, strict=False)
        if text is not None
    )
    return Inspection(sample_id=one.id, verdict="unsure", reason="evaluated", replies=replies)


def strict(letter, thought="Look."):
    return f"<think>{thought}</think><answer>{letter}</answer>"


def test_three_boards_of_the_same_replies():
    good, bad, bare, silent = (
        sample("VisA/g/good/1", False),
        sample("VisA/b/1", True),
        sample("VisA/b/2", True),
        sample("VisA/b/3", True),
    )
    pairs = [
        (good, inspected(good, strict("B"))),
        (bad, inspected(bad, strict("A"))),
        (
            bare,
            inspected(bare, "The answer is (a)."),
        ),  # lenient: A; MMAD's parser finds no capital and takes an option by spelling
        (silent, inspected(silent, "A crack? B")),  # MMAD's parser: B; ours too, leniently
    ]
    found = mmad.evaluate(of_pairs(pairs), repeats=50)
    boards = {
        reading: board.cells["VisA"]["Anomaly Detection"].value for reading, board in found.boards.items()
    }
    assert boards["strict"] == pytest.approx((100 + 100 / 3) / 2)
    assert boards["lenient"] == pytest.approx((100 + 200 / 3) / 2)
    assert found.boards["strict"].miss["VisA"].value == pytest.approx(200 / 3)
    assert found.boards["strict"].overkill["VisA"].value == 0
    assert found.statuses == {"strict": 2, "lenient": 2}
    for gap in found.gaps:
        assert gap.points == pytest.approx(boards["official"] - boards[gap.reading])
        assert gap.points == pytest.approx(gap.by_parsing + gap.by_counting)


def test_what_has_no_reply_is_wrong_for_us_and_unseen_by_the_published_scorer():
    good, bad, lost = sample("VisA/g/good/1", False), sample("VisA/b/1", True), sample("VisA/b/2", True)
    pairs = [
        (good, inspected(good, strict("B"))),
        (bad, inspected(bad, strict("A"))),
        (lost, inspected(lost, None)),
    ]
    found = mmad.evaluate(of_pairs(pairs), repeats=50)
    assert found.boards["lenient"].average.value == 75
    assert found.boards["official"].average.value == 100
    assert found.unparseable.value == pytest.approx(100 / 3)
    lenient = next(gap for gap in found.gaps if gap.reading == "lenient")
    assert (lenient.points, lenient.by_parsing, lenient.by_counting, lenient.share_by_parsing) == (
        25,
        0,
        25,
        0,
    )


def test_a_gap_of_parsing_alone():
    good, bad = sample("VisA/g/good/1", False), sample("VisA/b/1", True)
    pairs = [
        (good, inspected(good, strict("B"))),
        (bad, inspected(bad, "No wait, A is wrong. Yes, there is one, so (a), not B")),
    ]
    found = mmad.evaluate(of_pairs(pairs), repeats=50)
    assert found.boards["official"].average.value == 50  # the last lone capital is B
    gap = found.gaps[0]
    assert gap.by_counting == 0
    assert gap.share_by_parsing == (None if gap.points == 0 else 1)


def test_the_official_board_is_for_mmads_own_images():
    one = sample("elsewhere/good/1", False)
    found = mmad.evaluate(of_pairs([(one, inspected(one, strict("B")))]), repeats=20)
    assert list(found.boards) == ["strict", "lenient"]
    assert found.gaps == ()


def test_the_letter_alone_is_strict_where_the_prompt_asks_for_it():
    one = sample("VisA/b/1", True)
    pairs = [(one, inspected(one, "A"))]
    assert [row.status for row in of_pairs(pairs, "mmad@abc")] == ["strict"]
    assert [row.status for row in of_pairs(pairs, "ours@abc")] == ["lenient"]
    rambling = [(one, inspected(one, "I would say A"))]
    assert [row.status for row in of_pairs(rambling, "mmad@abc")] == ["lenient"]


def test_structure_and_details_are_object_analysis():
    one = sample("VisA/b/1", True, kinds=("object structure", "object details", "object analysis"))
    found = mmad.evaluate(
        of_pairs([(one, inspected(one, strict("A"), strict("A"), strict("C")))]), repeats=20
    )
    assert list(found.boards["strict"].cells["VisA"]) == ["Object Analysis", "Average"]
    assert found.boards["strict"].average.value == pytest.approx(200 / 3)


def test_logical_and_structural_anomalies_apart_only_where_there_are_both():
    loco = [sample(f"MVTec-LOCO/{i}", True, "MVTec-LOCO", "juice_bottle", logical=i < 2) for i in range(4)]
    other = sample("VisA/b/1", True)
    said = [strict("A"), strict("B"), strict("A"), strict("A")]
    pairs = [
        *((one, inspected(one, text)) for one, text in zip(loco, said, strict=True)),
        (other, inspected(other, strict("B"))),
    ]
    found = {one.sort: one for one in mmad.evaluate(of_pairs(pairs), repeats=20).anomalies}
    assert (found["logical"].images, found["logical"].found.value) == (2, 50)
    assert (found["structural"].images, found["structural"].found.value) == (2, 100)
    assert mmad.evaluate(of_pairs(pairs[-1:]), repeats=20).anomalies == ()


def test_consistency_counts_contradictions_and_silence():
    names = [f"VisA/{i}" for i in range(4)]
    samples = [sample(name, True) for name in names]
    said = [
        strict("A", "There is a crack. So the answer is A."),
        strict("B", "There is a crack. So the answer is A."),
        strict("A", "Hm."),
        "what?",
    ]
    pairs = [(one, inspected(one, text)) for one, text in zip(samples, said, strict=True)]
    found = mmad.evaluate(of_pairs(pairs), repeats=20).consistency
    assert (found.both, found.agree, found.silent) == (2, 1, 1)
    assert found.share.value == 50
    assert found.cases == {
        "answer right, reasoning agrees": 1,
        "answer wrong, reasoning contradicts and was right": 1,
        "answer right, reasoning silent": 1,
    }


def test_each_class_has_a_row():
    pairs = [
        (one, inspected(one, text))
        for one, text in (
            (sample("VisA/g/good/1", False), strict("A")),
            (sample("VisA/b/1", True), strict("A")),
            (sample("VisA/c/1", True, category="pcb1"), "A"),
        )
    ]
    rows = {row.name: row for row in mmad.evaluate(of_pairs(pairs), repeats=20).classes}
    assert (rows["VisA/candle"].strict.value, rows["VisA/candle"].overkill, rows["VisA/candle"].miss) == (
        50,
        100,
        0,
    )
    assert (rows["VisA/pcb1"].strict.value, rows["VisA/pcb1"].lenient.value, rows["VisA/pcb1"].overkill) == (
        0,
        100,
        None,
    )


def test_questions_without_a_gold_answer_are_counted_and_left_out():
    one = sample("VisA/b/1", True, kinds=("anomaly detection", "object analysis"), gold=None)
    found = mmad.evaluate(of_pairs([(one, inspected(one, strict("A"), strict("A")))]), repeats=20)
    assert found.questions == 1
    assert found.left_out == {"questions without a gold answer": 1}
    assert found.deleted == 1
    alone = sample("VisA/b/1", True, kinds=("object analysis",), gold=None)
    with pytest.raises(InputError, match="no question has a known gold answer"):
        mmad.evaluate(of_pairs([(alone, inspected(alone, strict("A")))]))


def test_a_reply_to_a_question_that_the_data_does_not_ask_is_refused():
    one = sample("VisA/b/1", True)
    strange = Inspection(
        sample_id="VisA/b/1",
        verdict="good",
        replies=(Reply(question_id="b/1#9", completion="A", answer=Answer(status="lenient")),),
    )
    with pytest.raises(InputError, match="b/1#9"):
        of_pairs([(one, strange)])
