"""The experiment on ROAM: controls, figures and differences against plain computations, a whole small study, resumed, and its page."""

import itertools
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomalyr1 import cli_reproduce
from anomalyr1.answers import parse
from anomalyr1.reproduction import arms, page
from anomalyr1.reproduction.effects import Answers, excludes_zero
from anomalyr1.reproduction.judge import Judged, read_judged
from anomalyr1.reproduction.study import COST, JUDGED, Runner, Study
from anomalyr1.rewards import ROAM, roam
from anomalyr1.types import InputError, Question, SetupError

CHANGED = {"silence_free": {(True, None): 1.0}, "wrong_nothing": {(False, None): 0.0, (False, True): 0.0}, "mild": {(True, False): 0.5}}
QUESTION = Question(id="q", kind="object analysis", text="?", options=("one", "two", "three"), answer="A")


def written(right, agrees):
    letter, other = ("A", "C") if right else ("B", "C")
    said = {None: "It is shiny.", True: f"So the answer is {letter}.", False: f"So the answer is {other}."}[agrees]
    return parse(f"<think>{said}</think><answer>{letter}</answer>", QUESTION.options)


@pytest.mark.parametrize("name", CHANGED)
def test_other_values_of_roam(name):
    reward = getattr(arms, name)
    for right, agrees in itertools.product((True, False), (True, None, False)):
        answer = written(right, agrees)
        assert roam(answer, QUESTION) == ROAM[right, agrees].value
        assert reward(answer, QUESTION) == CHANGED[name].get((right, agrees), ROAM[right, agrees].value)
    assert reward(parse("nothing", QUESTION.options), QUESTION) == 0.0
    assert reward(parse("nothing", ()), QUESTION.model_copy(update={"options": (), "answer": None, "boxes": ()})) is None


def test_every_arm_is_a_recipe():
    scale = arms.SCALES["nano"]
    for arm in (*arms.ARMS, *arms.ABLATIONS):
        stage = "sft" if arm.rewards is None else "grpo"
        recipe = arms.recipe_of(scale, arm, stage, "nano-raw", "drawn:dev?n=9", 3)
        assert (recipe.section, recipe.seed, recipe.model) == (stage, 3, "nano-raw")
        assert recipe.rewards == (arm.rewards or {})
    assert arms.recipe_of(scale, arms.ABLATIONS[-1], "grpo", "nano", "drawn:dev", 0).zero_variance == "resample"
    assert [arm.name for arm in arms.chosen(["sft-roam"], full=False)] == ["sft", "sft-roam"]
    with pytest.raises(InputError, match="did you mean 'roam'"):
        arms.chosen(["raom"], full=False)


def drawn_answers(seed, images=30):
    """Random answers about the same images and questions."""
    truth, rng = np.random.default_rng(7).random(images) < 0.5, np.random.default_rng(seed)
    found = []
    for i in range(images):
        bad = bool(truth[i])
        agrees = [True, False, None][int(rng.integers(3))]
        common = {"test": "t", "sample_id": f"s{i}", "anomalous": bad, "agrees": agrees, "strict": True, "text": "a b"}
        score = round(float(rng.random()), 1)
        found.append(Judged(kind="anomaly detection", question_id="v", right=bool(rng.random() < 0.6), score=score, **common))
        found.append(Judged(kind="object details", question_id="d", right=bool(rng.random() < 0.4), **common))
        found.append(Judged(kind="grounding", question_id="g", right=False, iou=float(rng.random()) if bad else None, **common))
    return found


def test_figures_equal_plain_computations():
    runs = {"start": [drawn_answers(0)], "roam": [drawn_answers(1), drawn_answers(2)]}
    found = Answers(runs)

    def plain(answers):
        options = [one for one in answers if one.kind != "grounding"]
        verdicts = [one for one in answers if one.kind == "anomaly detection"]
        right = [one for one in options if one.right and one.agrees is not None]
        rates = [np.mean([one.right for one in verdicts if one.anomalous is side]) for side in (True, False)]
        return {
            "accuracy": np.mean([one.right for one in options]),
            "AUROC": roc_auc_score([one.anomalous for one in verdicts], [one.score for one in verdicts]),
            "balanced yes/no": np.mean(rates),
            "box mIoU": np.mean([one.iou for one in answers if one.iou is not None]),
            "contradicts, of right answers": np.mean([one.agrees is False for one in right]),
            "silent": np.mean([one.agrees is None for one in answers]),
            "strict": 1.0,
            "words": 2.0,
            "object details": np.mean([one.right for one in options if one.kind == "object details"]),
        }

    expected = {arm: [plain(seed) for seed in seeds] for arm, seeds in runs.items()}
    for name in expected["start"][0]:
        means = {arm: np.mean([one[name] for one in seeds]) for arm, seeds in expected.items()}
        assert found.figure("roam", name).value == pytest.approx(means["roam"], abs=1e-12)
        each = [one[name] - means["start"] for one in expected["roam"]]
        assert [one.value for one in found.by_seed("roam", "start", name)] == pytest.approx(each, abs=1e-12)
        assert found.difference("roam", "start", name).value == pytest.approx(means["roam"] - means["start"], abs=1e-12)
    same = found.difference("roam", "roam", "accuracy")
    assert (same.low, same.high) == (0, 0)
    assert not excludes_zero(same)


def test_intervals_hold_what_they_say():
    """Of 100 pairs of arms that do not differ, about 5 % have an interval without zero; an arm that is better has one."""
    wrong = sum(
        excludes_zero(
            Answers({"a": [drawn_answers(3 * i + 1000), drawn_answers(3 * i + 1001)], "b": [drawn_answers(3 * i + 1002)]}).difference(
                "a", "b", "accuracy"
            )
        )
        for i in range(100)
    )
    assert 0 < wrong < 20
    better = [one.model_copy(update={"right": True}) for one in drawn_answers(1)]
    assert Answers({"a": [better], "b": [drawn_answers(1)]}).difference("a", "b", "accuracy").low > 0


SMALL = {
    "few": "drawn:dev?n=3&seed=5&references=0",
    "tests": {"few-shot classes": "drawn:dev?n=6&seed=6&references=0"},
    "changes": (
        *arms.SCALES["nano"].changes, "grpo.max_steps=1", "grpo.per_device_train_batch_size=4", "grpo.num_generations=2",
        "grpo.max_completion_length=16",
    ),
    "sft": {**arms.SCALES["nano"].sft, "max_steps": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "roam"
    scale = arms.SCALES["nano"].model_copy(update=SMALL)
    made = Study(scale=scale, arms=("sft", "answer", "roam", "sft-roam"), seeds=1, limit=6)
    said = []
    Runner(out, made, said.append).run(2)
    return out, made, said


@pytest.mark.timeout(600)
def test_a_study_is_resumed(study):
    out, made, said = study
    assert sum("done after" in line for line in said) == 4
    folder = out / "nano-raw" / "roam" / "0"
    first, weights = (folder / JUDGED).read_bytes(), (folder / "run" / "final" / "model.safetensors").read_bytes()
    assert len(read_judged(folder / JUDGED)) == len(read_judged(out / "nano-raw" / JUDGED)) > 6
    assert json.loads((folder / COST).read_text())["rollouts"] == 4
    for name in (JUDGED, COST):  # as if it had been killed while it trained
        (folder / name).unlink()
    again = []
    Runner(out, made, again.append).run()
    assert sum("done after" in line for line in again) == 1
    assert (folder / JUDGED).read_bytes() == first
    assert (folder / "run" / "final" / "model.safetensors").read_bytes() == weights
    with pytest.raises(InputError, match="another limit"):
        Runner(out, made.model_copy(update={"limit": 4}), again.append).run()


@pytest.mark.timeout(600)
def test_its_page(study, tmp_path):
    out, made, _ = study
    copied = shutil.copytree(out, tmp_path / "copy")
    # ROAM made consistent what plain GRPO has against its own reasoning: a pair to show
    for arm, agrees in (("answer", False), ("roam", True)):
        file = copied / "nano-raw" / arm / "0" / JUDGED
        lines = [one.model_copy(update={"agrees": agrees, "right": agrees or i > 3}) for i, one in enumerate(read_judged(file))]
        file.write_text("".join(f"{one.to_json()}\n" for one in lines), encoding="ascii")
    written_page = page.write(copied, made, "a machine", "2026-01-01", "a command")
    text = written_page.read_text(encoding="utf-8")
    assert "right against its own reasoning" in text
    assert "Confirmed: " in text
    report = (copied / "report.md").read_text(encoding="utf-8")
    assert "ROAM beats the answer reward" in report
    assert "a machine" in report
    assert list((copied / "plots").glob("*.svg"))
    with pytest.raises(InputError, match="no finished arm"):
        page.write(copied, made.model_copy(update={"arms": ("silence",)}), "", "", "")


def test_a_failed_run_is_named(study, tmp_path):
    _, made, _ = study
    broken = made.model_copy(update={"scale": made.scale.model_copy(update={"starts": {"gone": str(tmp_path / "gone")}})})
    with pytest.raises(SetupError, match=r"a run failed .*gone"):
        Runner(tmp_path / "out", broken, lambda _: None).run()


def test_3b_needs_data():
    with pytest.raises(InputError, match="--data split:FILE"):
        cli_reproduce.reproduce("roam", scale="3b")


def test_other_numbers_of_shots_need_a_place_in_the_spec():
    given = {"scale": "3b", "arm": None, "start": None, "test": None}
    with pytest.raises(InputError, match=r"roam-1-shot.*write \{shots\} into it"):
        cli_reproduce.reproduce("roam", full=True, data="split:mine.json", **given)
    assert arms.SCALES["3b"].model_copy(update={"few": "split:mine-{shots}.json"}).learned(5) == "split:mine-5.json"
