"""What `anomalyr1 explain` shows of a group, against what was written and earned."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from anomalyr1.cli.main import app
from anomalyr1.images.frames import Frame
from anomalyr1.rewards import MALFORMED, ROAM, roam, roam_boxes, roam_row
from anomalyr1.training.explain import explain_group
from anomalyr1.training.run_log import RunLog
from anomalyr1.types import Box, InputError, Question
from support import runs


@pytest.fixture
def run(tmp_path):
    log = RunLog(tmp_path)
    for step in (1, 2):
        runs.add_group(log, step)
        runs.add_group(
            log, step, (runs.RIGHT, runs.RIGHT, runs.SILENT, "\x1b[2J<answer>B</answer>\nand more")
        )
    return tmp_path


def test_a_question_with_options(run):
    told = "\n".join(explain_group(run))
    assert told.startswith(
        "step 2, group 1 of 2\nsample s1, defect classification, 290 prompt tokens\nimage absent.png\n"
    )
    assert "question: What is it?\n  A. Crack\n  B. Dent\n  C. Stain\ngold: B\n" in told
    assert (
        "completion 1: reward 2, advantage +1.314\n"
        "  read: strict; the reasoning concludes B; the answer is B\n"
        "  ROAM: right, as the reasoning concludes (1)\n"
        "  rewards: roam 1 x 1, accuracy 1 x 1\n"
        f"  text: {runs.RIGHT}\n"
    ) in told
    assert "ROAM: right, but the reasoning concludes something else (0)" in told
    assert "ROAM: wrong, as the reasoning concludes (0.1)" in told
    assert (
        "read: unparseable; the reasoning concludes nothing; the answer is not readable\n  ROAM: malformed: "
        "not read strictly (0)" in told
    )
    assert "counted: no_tags 1" in told


def test_boxes_and_what_does_not_apply(tmp_path):
    question = Question(id="g", kind="grounding", text="Where?", boxes=(Box(x1=0, y1=0, x2=20, y2=20),))
    boxes = (
        '<think>There is a defect in the top left.</think><answer>[{"bbox_2d": [0, 0, 10, 20], "label": '
        '"dent"}]</answer>'
    )
    log = RunLog(tmp_path)
    rewards = {"roam_boxes": [1.0, 0.0], "accuracy": [None, None]}
    frame = Frame((60, 60), (60, 60), "pixels")
    weights = {"roam_boxes": 2.0, "accuracy": 1.0}
    runs.add_group(
        log,
        4,
        (boxes, "[]"),
        rewards,
        question=question,
        frame=frame,
        weights=weights,
        advantages=(0.7, -0.7),
    )
    told = "\n".join(explain_group(tmp_path, 4))
    assert (
        "the reasoning says there is a defect in the top left; the answer is [0, 0, 10, 20] dent (set IoU "
        "0.50)" in told
    )
    assert "completion 1: reward 2, advantage +0.700" in told
    assert "rewards: roam_boxes 1 x 2, accuracy none x 1" in told
    assert "says neither defect nor clean; the answer is no box" in told


@pytest.mark.parametrize(
    ("reward", "shown"),
    [
        ("roam_released", "ROAM as released, which reads letters in a way of its own: 0.8"),
        (
            "roam_unchecked",
            "ROAM unchecked, where whatever the reasoning concludes agrees: right, as the reasoning "
            "concludes (1)",
        ),
        ("accuracy", "ROAM, not paid here: right, but the reasoning concludes something else (0)"),
        ("roam/shuffled", "ROAM, not paid here: right, but the reasoning concludes something else (0)"),
    ],
)
def test_the_row_is_of_the_table_that_was_paid(tmp_path, reward, shown):
    runs.add_group(RunLog(tmp_path), 1, (runs.CONTRADICTED,), {reward: [0.8]}, weights={reward: 1.0})
    assert f"  {shown}" in explain_group(tmp_path)


def test_a_group_without_signal_is_named(tmp_path):
    runs.add_group(RunLog(tmp_path), 1, (runs.RIGHT,) * 4)
    assert (
        "all completions that were scored earned the same: nothing is learned from this group"
        in explain_group(tmp_path)
    )


def test_the_verb_prints_no_control_characters(run):
    said = CliRunner().invoke(
        app, ["explain", str(run), "--step", "1", "--group", "2"], standalone_mode=False
    )
    assert said.return_value == 0
    assert "\x1b" not in said.stdout and "\\x1b[2J" in said.stdout
    assert "ROAM: right, and the reasoning concludes nothing (0.8)" in said.stdout
    assert said.stdout.splitlines()[-1] == "        and more"


def test_what_is_not_there(run, tmp_path):
    with pytest.raises(InputError, match=r"no groups of step 7; it has those of 2 steps, from 1 to 2"):
        explain_group(run, 7)
    with pytest.raises(InputError, match="has 2 groups; choose one of 1 to 2"):
        explain_group(run, 1, 3)
    with pytest.raises(InputError, match="has no groups"):
        explain_group(tmp_path / "absent")


def test_the_reward_is_the_rows():
    """Each row is reached, and the reward is what it says."""
    from anomalyr1.answers.completion import parse

    reached = set()
    for text in (
        *runs.COMPLETIONS,
        runs.SILENT,
        "<think>Hm.</think><answer>A</answer>",
        runs.WRONG.replace("<answer>A", "<answer>C"),
    ):
        answer = parse(text, runs.OPTIONS)
        row = roam_row(answer, runs.QUESTION)
        assert roam(answer, runs.QUESTION) == row.value
        assert roam_boxes(answer, runs.QUESTION) is None
        reached.add(row)
    assert reached == {*ROAM.values(), MALFORMED}
