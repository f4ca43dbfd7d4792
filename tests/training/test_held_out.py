"""Held-out questions: figures against counts by hand, and training that does not notice being asked."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomalyr1 import data
from anomalyr1.policy.load import load_policy
from anomalyr1.prompts import gold_inspection_questions
from anomalyr1.training import held_out
from anomalyr1.training.grpo import SharedPrefixGRPOTrainer
from anomalyr1.training.held_out import HeldOut, HeldOutAnswer, attach, intervals, measure
from anomalyr1.training.run_folder import EVALUATIONS, METRICS, read_lines
from anomalyr1.training.run_log import RunLog
from anomalyr1.types import Answer, Box, InputError, Sample
from support import grpo_runs, runs, tiny


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return list(data.load("drawn:dev?n=6&seed=1", folder=tmp_path_factory.mktemp("drawn")))


def told(sample, choice, score, boxes=()):
    verdict, grounding = gold_inspection_questions(sample)
    status = "unparseable" if choice is None else "strict"
    return [
        HeldOutAnswer(sample, verdict, Answer(status=status, choice=choice, conclusion=choice), score),
        HeldOutAnswer(sample, grounding, Answer(status="strict", boxes=boxes, says_defect=False), None),
    ]


def part(name, anomalous):
    boxes = (Box(x1=0, y1=0, x2=10, y2=10),) if anomalous else ()
    return Sample(
        id=name, image="x.png", anomalous=anomalous, boxes=boxes, defect="dent" if anomalous else None
    )


def test_figures():
    half = (Box(x1=0, y1=0, x2=10, y2=5),)
    given = [
        *told(part("d1", True), "A", 0.9, half),
        *told(part("d2", True), "B", 0.2),
        *told(part("d3", True), None, None),
        *told(part("g1", False), "B", 0.1),
        *told(part("g2", False), "A", 0.6),
    ]
    found = measure(given)
    assert found["balanced accuracy"] == pytest.approx((1 / 3 + 1 / 2) / 2)  # what cannot be read is wrong
    # pairs (defect, good): .9 beats both; .2 beats .1 only; the missing one counts as .5 and beats .1 only
    assert found["AUROC"] == pytest.approx(4 / 6)
    assert (found["box mIoU"], found["without score"], found["images"]) == (pytest.approx(0.5 / 3), 0.2, 5)
    assert found["strict"] == 0.9
    assert "AUROC" not in measure(given[:6])


def test_intervals_hold_the_figure_and_narrow(monkeypatch):
    monkeypatch.setattr(held_out, "DRAWS", 400)
    rng = np.random.default_rng(0)

    def spread(count):
        many = []
        for i in range(count):
            sample = part(f"s{i}", i % 2 == 0)
            many += told(
                sample, "A" if rng.random() < (0.8 if sample.anomalous else 0.3) else "B", float(rng.random())
            )
        low, high = intervals(many)["balanced accuracy"]
        assert low < measure(many)["balanced accuracy"] < high
        return high - low

    assert spread(200) < spread(30)


def test_two_defects_that_are_all_found_make_nothing_certain():
    answers = [one for i in range(10) for one in told(part(f"s{i}", i < 2), "AB"[i >= 2], float(i < 2))]
    found = intervals(answers)
    assert measure(answers)["balanced accuracy"] == 1
    for name in ("balanced accuracy", "AUROC"):
        assert found[name] == pytest.approx((0.158, 1), abs=0.001)  # as 2 of 2


def test_a_draw_of_the_bootstrap_is_the_measure_of_what_was_drawn(monkeypatch):
    monkeypatch.setattr(held_out, "DRAWS", 1)
    blocks = [told(part(f"s{i}", i % 2 == 0), "AB"[i % 3 == 0], i / 9) for i in range(9)]
    drawn = np.random.default_rng(5).integers(9, size=(1, 9))[0]
    expected = measure([one for i in drawn for one in blocks[i]])
    found = intervals([one for block in blocks for one in block], seed=5)
    assert {name: low for name, (low, _) in found.items()} == pytest.approx(
        {name: expected[name] for name in found}
    )
    assert "AUROC" in found


def test_what_cannot_be_balanced_is_refused(samples):
    with pytest.raises(InputError, match="balanced accuracy needs good and defective ones"):
        HeldOut([part("d", True), part("u", None)], load_policy(str(tiny.folder_of())))


def test_nano_is_asked_what_inspect_asks(samples):
    policy = load_policy("nano")
    asked = HeldOut(samples, policy)
    given = asked.ask(policy.model)
    kinds = [one.question.kind for one in given]
    assert kinds.count("anomaly detection") == kinds.count("grounding") == len(samples)
    assert len(given) == 3 * len(samples)
    found = measure(given)
    assert found["strict"] > 0.9 and found["balanced accuracy"] >= 0.5 and found["without score"] < 0.5
    assert 0 <= found["AUROC"] <= 1 and "other options" in found


@pytest.mark.parametrize(
    ("eval_steps", "max_steps", "expected"),
    [(None, 90, 9), (None, 4, 1), (7, 90, 7), (0.1, 4, 1), (0.25, 90, 23)],  # a share, rounded up
)
def test_steps_between_two_evaluations(eval_steps, max_steps, expected):
    assert held_out._interval(eval_steps, max_steps) == expected


def test_a_run_resumed_behind_its_last_step_is_asked_for_the_intervals_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(held_out, "lent", lambda _: nullcontext())
    given = [*told(part("d", True), "A", 0.9), *told(part("g", False), "B", 0.1)]
    examiner = held_out.Examiner(SimpleNamespace(ask=lambda *_: given), None, RunLog(tmp_path), 6, 0)
    examiner.on_train_begin(None, runs.state(4, 4), None)
    examiner.on_train_end(None, runs.state(4, 4), None)
    assert [(line["step"], line["final"]) for line in read_lines(tmp_path / EVALUATIONS)] == [(4, True)]


def test_training_does_not_notice(samples, tmp_path, monkeypatch):
    def run(folder, asked):
        made = grpo_runs.trainer(
            SharedPrefixGRPOTrainer, folder, lora=True, max_steps=3, eval_steps=2, max_completion_length=6
        )
        log = RunLog(folder)
        log.attach(made)
        if asked:
            attach(made, HeldOut(samples, load_policy(str(tiny.folder_of()))), log, 6)
        made.train()
        return grpo_runs.weights(made)

    monkeypatch.setattr(held_out, "DRAWS", 20)
    assert torch.equal(run(tmp_path / "asked", True), run(tmp_path / "not", False))
    lines = read_lines(tmp_path / "asked" / EVALUATIONS)
    assert [(line["step"], line.get("final", False)) for line in lines] == [
        (0, False),
        (2, False),
        (3, False),
        (3, True),
    ]
    assert set(lines[-1]["intervals"]) >= {"balanced accuracy", "AUROC", "strict"}
    metrics = read_lines(tmp_path / "asked" / METRICS)
    assert ["held_out/balanced accuracy" in line for line in metrics] == [False, True, True]
    assert metrics[1]["held_out/balanced accuracy"] == lines[1]["balanced accuracy"]
