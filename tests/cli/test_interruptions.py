"""Ctrl-C says where a verb stopped and how it goes on; failed images are tried again; a page holds all of its
folder.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomalyr1 import answers, records
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.training import checkpoints
from support import recordings

GOOD = (
    answers.write("The surface is even and free of defects. So the answer is B.", "B"),
    answers.write("There is no defect.", [], recordings.FRAME),
)
NAMES = [f"parts/{i}.png" for i in range(6)]


class Interrupted(ReplayEngine):
    """Replays until the picture at which somebody presses Ctrl-C."""

    at = ""
    asked: list[str] = []  # noqa: RUF012  # of all that are loaded

    def complete(self, prompts, images, sampling=None):
        self.asked.extend(prompt.sample_id for prompt in prompts)
        if any(path.as_posix() == self.at for path in images):
            raise KeyboardInterrupt
        return super().complete(prompts, images, sampling)


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Six good parts, and what answers for them when `anomalyr1 inspect` loads a model."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        recordings.draw(Path(name), None)
    monkeypatch.setattr(Interrupted, "at", "")
    path = recordings.record(Path("recorded.jsonl"), dict.fromkeys(NAMES, GOOD))
    load = lambda *_, **__: Inspector(Interrupted(path), masks="box", batch=2)  # noqa: E731
    monkeypatch.setattr(Inspector, "load", load)
    return Interrupted


def contained(folder="inspections"):
    return records.read(Path(folder) / "inspections.jsonl")[1]


def page(folder="inspections"):
    return (Path(folder) / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("at", "done"), [(NAMES[0], 0), (NAMES[5], 4)])
def test_inspect_says_where_it_stopped_and_leaves_a_page(engine, call, at, done):
    assert call("inspect", "parts", "--out", "whole")[0] == 0
    engine.at = at
    code, out, err = call("inspect", "parts")
    assert (code, err) == (130, f"stopped after {done} of 6; the same command goes on\n")
    assert page().count('<article class="card') == done and "page: inspections/index.html" in out
    engine.at = ""
    code, out, err = call("inspect", "parts")
    assert (code, err) == (0, "") and "6 inspected: 6 good" in out
    assert Path("inspections/inspections.jsonl").read_bytes() == Path("whole/inspections.jsonl").read_bytes()
    assert page().replace("inspect parts", "") == page("whole").replace("inspect parts --out whole", "")


def test_failed_images_are_tried_again_and_only_these(engine, call):
    whole = {name: Path(name).read_bytes() for name in NAMES}
    Path(NAMES[1]).write_bytes(b"cut off")
    Path(NAMES[4]).write_bytes(whole[NAMES[4]][:60])
    code, out, _ = call("inspect", "parts")
    assert code == 2 and "2 failed" in out and "the same command with --retry-failed" in out
    Path(NAMES[1]).write_bytes(whole[NAMES[1]])  # changed since: no refusal, it was not inspected
    assert call("inspect", "parts")[0] == 2
    before = Path("inspections/inspections.jsonl").read_bytes()
    engine.asked.clear()
    code, out, _ = call("inspect", "parts", "--retry-failed")
    assert code == 2 and "5 good, 0 defect, 0 unsure, 1 failed" in out  # the other one is still cut off
    assert set(engine.asked) == {
        NAMES[0],
        NAMES[1],
        NAMES[5],
    }  # with their batches, so that bits stay the same
    after = Path("inspections/inspections.jsonl").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == before.count(b"\n") + 2  # nothing is lost
    Path(NAMES[4]).write_bytes(whole[NAMES[4]])
    code, out, _ = call("inspect", "parts", "--retry-failed")
    assert code == 0 and "6 inspected: 6 good" in out and "--retry-failed" not in out
    assert [one.error for one in contained()] == [None] * 6
    recordings.draw(Path(NAMES[1]), (20, 20))  # control: what was inspected must not change
    code, _, err = call("inspect", "parts", "--retry-failed")
    assert code == 1 and f"other images under these names: '{NAMES[1]}'" in err


def test_a_page_shows_all_that_its_folder_holds(engine, call):
    assert call("inspect", *NAMES[:5])[0] == 0
    Path(NAMES[2]).unlink()
    code, out, _ = call("inspect", NAMES[5])
    assert code == 0 and "1 inspected: 1 good" in out and "with 5 inspected before" in out
    assert "Inspection of 6 images" in page() and page().count('<article class="card') == 6
    assert page().count("data:image/jpeg") == 5 and page().count("No picture") == 1


def test_evaluate_says_where_it_stopped(call, tmp_path, monkeypatch):
    def stopped_early(*_, progress, **__):
        for done in range(1, 9):
            progress(done, 20, contained_one)
        raise KeyboardInterrupt

    contained_one = records.Inspection(sample_id="a.png", verdict="good")
    monkeypatch.setattr("anomalyr1.evaluation.run.evaluate", stopped_early)
    code, _, err = call("evaluate", "model", "--data", "folder:parts", "--out", tmp_path / "out")
    assert code == 130 and err.endswith("stopped after 8 of 20; the same command goes on\n")


@pytest.mark.parametrize(
    ("steps", "saved", "more", "text"),
    [
        (None, [], [], "stopped before the first step; the same command begins again"),
        (0, [], [], "step 0; the same command with --resume begins again: there is no checkpoint yet"),
        (7, [3, 6], [], "stopped after step 7; the same command with --resume goes on from checkpoint-6"),
        (7, [3], ["--resume"], "stopped after step 7; the same command goes on from checkpoint-3"),
    ],
)
def test_train_says_where_it_stopped(call, tmp_path, monkeypatch, steps, saved, more, text):
    def stopped_early(recipe, out, **_):
        if steps is not None:
            out.mkdir()
            (out / "recipe.yaml").write_text("data: x")
            lines = [json.dumps({"step": step}) + "\n" for step in range(1, steps + 1)]
            (out / "metrics.jsonl").write_text("".join(lines))
        for step in (*saved, 99):
            (out / f"checkpoint-{step}").mkdir(parents=True)
        for step in saved:  # the one after them was not finished
            checkpoints.seal(out / f"checkpoint-{step}")
        raise KeyboardInterrupt

    monkeypatch.setattr("anomalyr1.training.run.train", stopped_early)
    code, _, err = call("train", "nano-sft", "--out", tmp_path / "run", *more)
    assert code == 130 and text in err


def test_reproduce_says_where_it_stopped(call, tmp_path, monkeypatch):
    from anomalyr1.reproduction.study import JUDGED, Runner

    def stopped_early(runner, jobs):
        folder = runner.out / runner.runs[0].folder
        folder.mkdir(parents=True)
        (folder / JUDGED).write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "run", stopped_early)
    line = ("reproduce", "roam", "--arm", "answer", "--arm", "roam", "--seeds", "1", "--out", tmp_path / "r")
    code, _, err = call(*line)
    assert code == 130 and "stopped after 1 of 2 runs; the same command goes on" in err


def test_any_verb_says_that_it_stopped(call, monkeypatch):
    def stopped_early(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("anomalyr1.data.loading.load", stopped_early)
    assert call("data", "check", "folder:x") == (130, "", "stopped\n")
