"""The folder of a run: what is written, what reaches the curves, and what a resumed run forgets."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from PIL import Image

from anomalyr1.images.frames import Frame
from anomalyr1.training import run_folder, run_log, trainers
from anomalyr1.training.dataset import Task, TrainingSet
from anomalyr1.training.resolved import Resolved
from anomalyr1.training.reward_functions import TrainingQuestion
from anomalyr1.training.run_folder import (
    EVALUATIONS,
    GROUPS,
    METRICS,
    read_groups,
    read_lines,
)
from anomalyr1.training.run_log import RunLog
from anomalyr1.training.settings import settings_of
from anomalyr1.training.zero_variance import ScoredGroup, group_completions
from anomalyr1.types import Box, InputError, Question, Sample
from support import runs
from support.places import ROOT


def test_a_group_is_read_back_as_it_was(tmp_path):
    log = RunLog(tmp_path)
    grounding = Question(
        id="g", kind="grounding", text="Where?", boxes=(Box(x1=0, y1=0, x2=28, y2=28, label="dent"),)
    )
    frame = Frame((56, 56), (28, 28), "pixels")
    text = '<think>A defect.</think><answer>[{"bbox_2d": [0, 0, 14, 14], "label": "dent"}]</answer>'
    sample = Sample(id="s2", image=tmp_path / "a b.png")
    rewards = {"roam_boxes": [1.0, None]}
    runs.add_group(
        log,
        3,
        (text, "x"),
        rewards,
        sample=sample,
        question=grounding,
        frame=frame,
        weights={"roam_boxes": 1.0},
    )
    (group,) = read_groups(tmp_path)
    assert (group.step, group.image, group.rewards) == (
        3,
        str(tmp_path / "a b.png"),
        {"roam_boxes": (1.0, None)},
    )
    assert group.totals() == [1.0, None]
    assert group.answers()[0].boxes == grounding.boxes  # the frame maps them, as it did for the reward
    assert read_groups(tmp_path, 2) == []


def test_figures():
    def figures(groups):
        return run_folder.figures((group, group.answers()) for group in groups)

    group = runs.group()
    same = group.model_copy(
        update={"completions": (runs.RIGHT,) * 4, "rewards": {"roam": (1.0,) * 4, "accuracy": (None,) * 4}}
    )
    unscored = group.model_copy(update={"rewards": {"roam": (None,) * 4}})
    assert figures([group]) == {
        "signal/zero_variance": 0.0,
        "signal/unscored": 0.0,
        "answers/strict": 0.75,
        "answers/lenient": 0.0,
        "answers/unparseable": 0.25,
        "answers/right": 0.5,
        "answers/consistent": 2 / 3,
        "answers/right_but_contradicted": 0.5,
    }
    both = figures([group, same, unscored])
    assert (both["signal/zero_variance"], both["signal/unscored"]) == (2 / 3, 1 / 3)


def folder_bytes(run):
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("torn", [False, True])
def test_a_rewound_run_ends_with_the_files_of_an_uninterrupted_one(tmp_path, torn):
    def go(folder, steps):
        log = RunLog(folder)
        if steps[0] > 1:
            log.rewind(steps[0] - 1)
        for step in steps:
            runs.add_group(log, step)
            log.evaluation(step, {"balanced accuracy": 0.5 + step / 100})
            log.metrics(step, {"reward": step / 10, "step_time": None, **log.take_figures()})

    go(tmp_path / "whole", range(1, 23))
    go(tmp_path / "stopped", range(1, 21))
    if torn:  # killed in the middle of a line
        for name in (METRICS, GROUPS, EVALUATIONS):
            path = tmp_path / "stopped" / name
            path.write_bytes(path.read_bytes()[:-9])
    go(tmp_path / "stopped", range(18, 23))
    assert folder_bytes(tmp_path / "stopped") == folder_bytes(tmp_path / "whole")
    assert {"samples/step-000001.html", "samples/step-000020.html"} <= folder_bytes(tmp_path / "whole").keys()


def test_a_run_that_begins_anew_keeps_nothing(tmp_path):
    log = RunLog(tmp_path)
    log.evaluation(0, {"balanced accuracy": 0.5})
    log.rewind(0)
    assert read_lines(tmp_path / EVALUATIONS) == []


def test_pages_where_every_second_step_has_rollouts(tmp_path):
    log = RunLog(tmp_path)
    for step in range(1, 24, 2):
        runs.add_group(log, step)
        log.take_figures()
    pages = [path.stem for path in sorted((tmp_path / "samples").iterdir())]
    assert pages == ["step-000001", "step-000011", "step-000021"]
    again = RunLog(tmp_path)
    again.rewind(12)
    for step in range(13, 24, 2):
        runs.add_group(again, step)
        again.take_figures()
    assert [path.stem for path in sorted((tmp_path / "samples").iterdir())] == pages


def test_a_torn_line_is_cut_off_before_the_next(tmp_path):
    log = RunLog(tmp_path)
    log.metrics(1, {"reward": 1.0})
    with (tmp_path / METRICS).open("ab") as file:
        file.write(b'{"step": 2, "rew')
    assert [line["step"] for line in read_lines(tmp_path / METRICS)] == [1]
    log.metrics(2, {"reward": float("nan")})
    assert read_lines(tmp_path / METRICS) == [{"step": 1, "reward": 1.0}, {"step": 2, "reward": None}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of .* is no JSON"),
        ('{"reward": 1}', "no object with a step"),
        ('{"step": 1, "x": 2}', "line 2 of .* is not a group"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    runs.add_group(RunLog(tmp_path), 1)
    with (tmp_path / GROUPS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=message):
        read_groups(tmp_path)


def test_a_group_whose_numbers_do_not_match_is_refused():
    with pytest.raises(ValueError, match="a group of 1 completions has 2 values of accuracy"):
        runs.group(completions=("a",), rewards={"accuracy": [1, 1]})


def test_a_page_shows_boxes_and_escapes_what_was_written(tmp_path):
    Image.new("RGB", (56, 56), "white").save(tmp_path / "part.png")
    question = Question(id="g", kind="grounding", text="Where?", boxes=())
    evil = (
        "<script>alert(1)</script>\x1b[31m" + '<answer>[{"bbox_2d": [4, 4, 20, 20], "label": "<b>"}]</answer>'
    )
    frame = Frame((56, 56), (56, 56), "pixels")
    runs.add_group(
        RunLog(tmp_path),
        1,
        (evil, "[]"),
        {"format": [0.0, None]},
        question=question,
        frame=frame,
        sample=Sample(id="s", image=tmp_path / "part.png"),
        weights={"format": 1.0},
        advantages=(0.5, 0),
    )
    page = (tmp_path / "samples" / "step-000001.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page and "\\x1b" in page
    assert page.count("data:image/jpeg") == 3
    assert "no reward applies" in page and "advantage +0.500" in page


def test_lines_for_who_waits(tmp_path, capsys):
    log = RunLog(tmp_path)
    log.callback.on_train_begin(None, runs.state(10, 20), None)
    log.callback.on_log(
        None, runs.state(11, 20), None, logs={"reward": 0.123456, "kl": None, "loss": float("nan")}
    )
    log.callback.on_log(None, runs.state(20, 20), None, logs={"train_runtime": 1.0})
    log.callback.on_train_end(None, runs.state(20, 20), None)
    assert re.fullmatch(r"step 11/20  loss nan  reward 0.123  time left \d+ s\n", capsys.readouterr().out)
    assert read_lines(tmp_path / METRICS) == [{"step": 11, "reward": 0.123456, "kl": None, "loss": None}]


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "is_main_process", lambda: False)
    log = RunLog(tmp_path)
    runs.add_group(log, 1)
    log.metrics(1, {"reward": 1.0})
    log.evaluation(1, {"AUROC": 0.5})
    log.rewind(0)
    assert folder_bytes(tmp_path) == {}


def curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_a_trainers_run_with_curves(tmp_path):
    """TRL's trainer, resumed in between: our figures reach its reporters with its own, and orphaned steps are
    hidden.
    """
    import shutil

    from anomalyr1.training.grpo import SharedPrefixGRPOTrainer
    from support import grpo_runs

    def run(steps, start=0):
        made = grpo_runs.trainer(
            SharedPrefixGRPOTrainer,
            tmp_path,
            max_steps=steps,
            report_to=["tensorboard"],
            save_strategy="steps",
            save_steps=1,
        )
        log = RunLog(tmp_path)
        if start:
            log.rewind(start)
        log.attach(made)
        inner = made._generate_and_score_completions

        def generate(inputs):
            runs.add_group(log, made.state.global_step + 1)
            return inner(inputs)

        made._generate_and_score_completions = generate
        made.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{start}") if start else None)
        return made

    run(2)
    shutil.rmtree(tmp_path / "checkpoint-2")
    made = run(3, start=1)
    lines = read_lines(tmp_path / METRICS)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[0]["answers/right"] == 0.5 and lines[0]["reward"] == made.state.log_history[0]["reward"]
    assert made.state.log_history[1]["answers/consistent"] == pytest.approx(2 / 3)
    assert [step for step, _ in curves(tmp_path / "tensorboard")["train/answers/right"]] == [1, 2, 3]
    assert [group.step for group in read_groups(tmp_path)] == [1, 2, 3]
    assert json.loads((tmp_path / METRICS).read_text(encoding="utf-8").splitlines()[2])["step"] == 3


@pytest.mark.parametrize(
    ("aggregation", "flat"), [("sum_then_normalize", True), ("normalize_then_sum", False)]
)
def test_rewards_that_add_up_to_the_same_are_a_signal_where_each_is_normalized(tmp_path, aggregation, flat):
    rewards = {"roam": [1.0, 0.0, 0.5, 0.5], "accuracy": [0.0, 1.0, 0.5, 0.5]}
    recipe = runs.RECIPE.model_copy(update={"grpo": {"multi_objective_aggregation": aggregation}})
    task = Task(runs.SAMPLE, runs.QUESTION, None)
    group = trainers.group_record(
        ScoredGroup(1, 0, 290, list(runs.COMPLETIONS), rewards, [0.0] * 4),
        TrainingSet([runs.SAMPLE], [task], {}, {}),
        TrainingQuestion(runs.SAMPLE.id, runs.QUESTION, None),
        Resolved(recipe, settings_of(recipe), {}, None, None),
    )
    log = RunLog(tmp_path)
    log.group(group, group.answers())
    assert log.take_figures()["signal/zero_variance"] == flat
    assert read_groups(tmp_path)[0].without_signal is flat


def test_a_run_that_fails_leaves_the_terminal_as_it_was(tmp_path):
    """In a terminal of its own: the cursor, hidden by the bar, is shown again."""
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from support import training_runs as runs\n"
        "from pathlib import Path\n"
        "from anomalyr1.training import run, trainers\n"
        "made = trainers.make_trainer\n"
        "def failing(*given):\n"
        "    trainer = made(*given)\n"
        "    def step(*args, **more): raise KeyboardInterrupt\n"
        "    trainer.training_step = step\n"
        "    return trainer\n"
        "trainers.make_trainer = failing\n"
        "run.train(runs.recipe('sft'), Path(sys.argv[1]))\n"
    )
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run"), str(ROOT / "tests")],
        stdout=side,
        stderr=side,
        stdin=side,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(side)
    shown = b""
    while True:
        try:
            read = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not read:
            break
        shown += read
    process.wait(timeout=120)
    os.close(main)
    text = shown.decode(errors="replace")
    assert "KeyboardInterrupt" in text, text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_a_reward_that_does_not_apply_is_none_in_a_group():
    completions = [(i // 2, f"text {i}", 7, float(i)) for i in range(4)]
    rewards = {"roam": [1.0, float("nan"), 0.5, 0.0]}
    groups = group_completions(3, completions, rewards, size=2)
    assert [(group.step, group.row, group.prompt_tokens) for group in groups] == [(3, 0, 7), (3, 1, 7)]
    assert [group.rewards["roam"] for group in groups] == [[1.0, None], [0.5, 0.0]]
    assert groups[1].completions == ["text 2", "text 3"] and groups[1].advantages == [2.0, 3.0]
