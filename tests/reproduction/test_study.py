"""The experiment on ROAM: controls, figures and differences against plain computations, a whole small study,
resumed, and its page.
"""

import itertools
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomalyr1 import files
from anomalyr1.answers.completion import parse
from anomalyr1.cli import reproduce as cli_reproduce
from anomalyr1.reproduction import arms, page
from anomalyr1.reproduction.effects import Answers, excludes_zero
from anomalyr1.reproduction.judge import Judged, read_judged
from anomalyr1.reproduction.samples import read_samples
from anomalyr1.reproduction.study import COST, JUDGED, Runner, Study, begin
from anomalyr1.rewards import ROAM, roam
from anomalyr1.types import InputError, Question, SetupError

CHANGED = {
    "silence_free": {(True, None): 1.0},
    "wrong_nothing": {(False, None): 0.0, (False, True): 0.0},
    "mild": {(True, False): 0.5},
}
QUESTION = Question(id="q", kind="object analysis", text="?", options=("one", "two", "three"), answer="A")


def written(right, agrees):
    letter, other = ("A", "C") if right else ("B", "C")
    said = {None: "It is shiny.", True: f"So the answer is {letter}.", False: f"So the answer is {other}."}[
        agrees
    ]
    return parse(f"<think>{said}</think><answer>{letter}</answer>", QUESTION.options)


@pytest.mark.parametrize("name", CHANGED)
def test_other_values_of_roam(name):
    reward = getattr(arms, name)
    for right, agrees in itertools.product((True, False), (True, None, False)):
        answer = written(right, agrees)
        assert roam(answer, QUESTION) == ROAM[right, agrees].value
        assert reward(answer, QUESTION) == CHANGED[name].get((right, agrees), ROAM[right, agrees].value)
    assert reward(parse("nothing", QUESTION.options), QUESTION) == 0.0
    assert (
        reward(parse("nothing", ()), QUESTION.model_copy(update={"options": (), "answer": None, "boxes": ()}))
        is None
    )


def test_every_arm_is_a_recipe():
    scale = arms.SCALES["nano"]
    for arm in (*arms.ARMS, *arms.ABLATIONS):
        stage = "sft" if arm.rewards is None else "grpo"
        recipe = arms.recipe_of(scale, arm, stage, "nano-raw", "drawn:dev?n=9", 3)
        assert (recipe.section, recipe.seed, recipe.model) == (stage, 3, "nano-raw")
        assert recipe.rewards == (arm.rewards or {})
    assert (
        arms.recipe_of(scale, arms.ABLATIONS[-1], "grpo", "nano", "drawn:dev", 0).zero_variance == "resample"
    )
    assert [arm.name for arm in arms.choose_arms(["sft-roam"], full=False)] == ["sft", "sft-roam"]
    with pytest.raises(InputError, match="did you mean 'roam'"):
        arms.choose_arms(["raom"], full=False)


def drawn_answers(seed, images=30):
    """Random answers about the same images and questions."""
    truth, rng = np.random.default_rng(7).random(images) < 0.5, np.random.default_rng(seed)
    found = []
    for i in range(images):
        bad = bool(truth[i])
        agrees = [True, False, None][int(rng.integers(3))]
        common = {
            "test": "t",
            "sample_id": f"s{i}",
            "anomalous": bad,
            "agrees": agrees,
            "strict": True,
            "text": "a b",
        }
        score = round(float(rng.random()), 1)
        found.append(
            Judged(
                kind="anomaly detection",
                question_id="v",
                right=bool(rng.random() < 0.6),
                score=score,
                **common,
            )
        )
        found.append(Judged(kind="object details", question_id="d", right=bool(rng.random() < 0.4), **common))
        found.append(
            Judged(
                kind="grounding",
                question_id="g",
                right=False,
                iou=float(rng.random()) if bad else None,
                **common,
            )
        )
    return found + [
        one.model_copy(update={"sampled": True, "right": not one.right, "score": 0.0}) for one in found
    ]


def test_figures_equal_plain_computations():
    runs = {"start": [drawn_answers(0)], "roam": [drawn_answers(1), drawn_answers(2)]}
    found = Answers(runs)

    def plain(answers):
        greedy, drawn = ([one for one in answers if one.sampled is side] for side in (False, True))
        options = [one for one in greedy if one.kind != "grounding"]
        verdicts = [one for one in greedy if one.kind == "anomaly detection"]
        rates = [np.mean([one.right for one in verdicts if one.anomalous is side]) for side in (True, False)]
        return {
            "accuracy": np.mean([one.right for one in options]),
            "AUROC": roc_auc_score([one.anomalous for one in verdicts], [one.score for one in verdicts]),
            "balanced yes/no": np.mean(rates),
            "box mIoU": np.mean([one.iou for one in greedy if one.iou is not None]),
            "agrees": np.mean([one.agrees for one in options if one.right and one.agrees is not None]),
            "agrees, sampled": np.mean(
                [
                    one.agrees
                    for one in drawn
                    if one.kind != "grounding" and one.right and one.agrees is not None
                ]
            ),
            "silent, sampled": np.mean([one.agrees is None for one in drawn if one.kind != "grounding"]),
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
        assert found.difference("roam", "start", name).value == pytest.approx(
            means["roam"] - means["start"], abs=1e-12
        )
    same = found.difference("roam", "roam", "accuracy")
    assert (same.low, same.high) == (0, 0)
    assert not excludes_zero(same)


def test_intervals_hold_what_they_say():
    """Of 60 pairs of arms that differ in their seeds alone, about 5 % have an interval without zero; an arm
    that is better has one.
    """

    def runs(rng, seeds):
        """Each seed is right as often as chance has it for that seed."""
        return [
            [one.model_copy(update={"right": bool(rng.random() < share)}) for one in drawn_answers(0)]
            for share in seeds
        ]

    rng, wrong = np.random.default_rng(3), 0
    for _ in range(60):
        a, b = (runs(rng, rng.normal(0.5, 0.1, 3)) for _ in range(2))
        wrong += excludes_zero(Answers({"a": a, "b": b}).difference("a", "b", "accuracy"))
    assert 0 < wrong < 9
    better = [one.model_copy(update={"right": True}) for one in drawn_answers(1)]
    effect = Answers({"a": [better, better], "b": [drawn_answers(1)]}).difference("a", "b", "accuracy")
    assert effect.low > 0
    assert effect.p < 0.001
    apart = [[one.model_copy(update={"right": right}) for one in better] for right in (True, False)]
    assert not excludes_zero(Answers({"a": apart, "b": [drawn_answers(1)]}).difference("a", "b", "accuracy"))


def test_resamples_and_their_auroc_are_those_of_0_10_to_the_bit():
    """Written out as the published studies drew them: one call a resample, AUROC as a share of pairs."""
    answers = Answers({"start": [drawn_answers(1)]})
    images = len(answers.images)
    generator = np.random.default_rng(0)
    draws = [np.bincount(generator.integers(images, size=images), minlength=images) for _ in range(2000)]
    times = np.vstack([np.ones(images), *draws])  # (2001, images)
    scores, bad = answers._sums["start"][0].scores, answers.anomalous
    pairs = (scores[bad][:, None] > scores[~bad]) + 0.5 * (scores[bad][:, None] == scores[~bad])
    with np.errstate(invalid="ignore"):
        areas = ((times[:, bad] @ pairs) * times[:, ~bad]).sum(1) / (
            times[:, bad].sum(1) * times[:, ~bad].sum(1)
        )
    assert np.array_equal(answers._drawn("start", "AUROC")[0], areas, equal_nan=True)


def test_what_is_said_follows_from_the_intervals():
    """An outcome needs two seeds and an interval on one side of zero; what should change nothing is confirmed
    by a loss, too.
    """
    better, worse = (
        [one.model_copy(update={"right": right}) for one in drawn_answers(1)] for right in (True, False)
    )
    middle = drawn_answers(1)
    runs = {
        "start": [middle],
        "roam": [better, better],
        "answer": [worse, worse],
        "shuffled": [worse, worse],
        "sft": [better],
    }
    told = page.sentences(list(page.differences(runs, {"t": Answers(runs)})))
    confirmed, contradicted, _, not_judged, looked_at = told
    assert "Confirmed: GRPO with ROAM improves on its start (accuracy on t +" in confirmed
    assert "ROAM beats the answer reward (accuracy on t +100.0 [+100.0, +100.0]*" in confirmed
    assert "shuffled rewards change something" in confirmed
    assert "GRPO with the answer reward improves on its start (accuracy on t -" in contradicted
    assert "few-shot SFT improves on its start" in not_judged
    assert "ROAM beats few-shot SFT" in not_judged
    assert "with Holm's correction" in looked_at
    assert page.sentences([])[0] == "Confirmed: nothing."


SMALL = {
    "data": "drawn:dev?n=60&seed=5&references=0",
    "tests": {"final": "drawn:dev?n=4&seed=6&references=0"},
    "changes": (
        *arms.SCALES["nano"].changes,
        "grpo.max_steps=1",
        "grpo.per_device_train_batch_size=4",
        "grpo.num_generations=2",
        "grpo.max_completion_length=16",
    ),
    "sft": {**arms.SCALES["nano"].sft, "max_steps": 1},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "roam"
    scale = arms.SCALES["nano"].model_copy(update=SMALL)
    made = begin(
        out, Study.of(scale, arms.choose_arms(["sft", "answer", "roam", "sft-roam"], full=False), 1, 6)
    )
    said = []
    Runner(out, made, said.append).run(2)
    return out, made, said


@pytest.mark.timeout(600)
def test_a_study_is_resumed(study):
    out, made, said = study
    assert sum("done after" in line for line in said) == 4
    folder = out / "nano-raw" / "roam" / "0"
    first, weights = (
        (folder / JUDGED).read_bytes(),
        (folder / "run" / "final" / "model.safetensors").read_bytes(),
    )
    assert len(read_judged(folder / JUDGED)) == len(read_judged(out / "nano-raw" / JUDGED)) > 6
    assert json.loads((folder / COST).read_text())["rollouts"] == 4
    for name in (JUDGED, COST):  # as if it had been killed while it trained
        (folder / name).unlink()
    again = []
    Runner(out, made, again.append).run()
    assert sum("done after" in line for line in again) == 1
    assert (folder / JUDGED).read_bytes() == first
    assert (folder / "run" / "final" / "model.safetensors").read_bytes() == weights


def test_what_is_learned_from_is_not_asked_about(study):
    out, made, _ = study
    trained = {shots: json.loads(made.split_file(out, shots).read_text())["train"] for shots in (3, 5)}
    assert [len(some) for some in trained.values()] == [3 * 2 * 3, 3 * 2 * 5]
    few, most = ({entry["id"] for entry in some} for some in trained.values())
    asked = {one.id for one in read_samples(made.samples_file(out, "few-shot classes"))}
    assert few < most
    assert asked
    assert not asked & most


def test_a_study_is_added_to(study, tmp_path):
    out, made, _ = study
    copied = shutil.copytree(out, tmp_path / "copy")
    fewer = made.model_copy(update={"arms": ("roam",), "seeds": 2})
    both = begin(copied, fewer)
    assert both.arms == made.arms
    assert both.seeds == 2
    assert begin(copied, made) == both
    for change, name in (
        (made.model_copy(update={"limit": 4}), "limit"),
        (made.model_copy(update={"made_by": "0"}), "version"),
        (made.model_copy(update={"revisions": {"nano-raw": "0"}}), "model of a start"),
    ):
        with pytest.raises(InputError, match=f"another {name}"):
            begin(copied, change)
    (copied / "study.json").write_text("{}")
    with pytest.raises(InputError, match="no experiment of this version"):
        begin(copied, made)
    with (copied / "lock").open("wb") as held, pytest.raises(InputError, match="another process"):
        files.lock(held.fileno(), copied)
        Runner(copied, made, lambda _: None).run()


@pytest.mark.timeout(600)
def test_its_page(study, tmp_path):
    out, made, _ = study
    copied = shutil.copytree(out, tmp_path / "copy")
    # ROAM made consistent what plain GRPO has against its own reasoning: a pair to show
    for arm, agrees in (("answer", False), ("roam", True)):
        file = copied / "nano-raw" / arm / "0" / JUDGED
        lines = [one.model_copy(update={"agrees": agrees, "right": True}) for one in read_judged(file)]
        file.write_text("".join(f"{one.to_json()}\n" for one in lines), encoding="ascii")
    written_page = page.write(copied, made, "a machine", "2026-01-01", "a command")
    text = written_page.read_text(encoding="utf-8")
    assert "right against its own reasoning" in text
    assert "Is there any defect in the object?" in text
    assert "the other way round in 0." in text
    assert 0 < text.count("GRPO, answer + ROAM</h3>") <= page.MOST_PAIRS
    assert "Confirmed: nothing." in text  # one seed confirms nothing
    report = (copied / "report.md").read_text(encoding="utf-8")
    assert "ROAM beats the answer reward" in report
    assert "a machine" in report
    assert list((copied / "plots").glob("*.svg"))
    with pytest.raises(InputError, match="no finished arm"):
        page.write(copied, made.model_copy(update={"arms": ("silence",)}), "", "", "")


@pytest.mark.timeout(600)
def test_a_failed_run_stops_no_other(study, tmp_path):
    out, made, _ = study
    copied = shutil.copytree(out, tmp_path / "copy")
    (copied / "nano-raw" / "sft" / "0" / JUDGED).unlink()
    shutil.rmtree(copied / "nano-raw" / "sft" / "0" / "run")  # the arm that goes on from it fails
    (copied / "nano-raw" / "sft-roam" / "0" / JUDGED).unlink()
    said = []
    with pytest.raises(SetupError, match=r"a run failed .*final"):
        Runner(copied, made, said.append).run()
    assert [line for line in said if "sft-roam" in line]
    with pytest.raises(InputError, match="cannot be called 'few'"):
        Study.of(made.scale.model_copy(update={"starts": {"few": "nano"}}), [], 1, 6)
    with pytest.raises(InputError, match="gone"):
        Study.of(made.scale.model_copy(update={"starts": {"gone": str(tmp_path / "gone")}}), [], 1, 6)


def test_all_stages_have_equal_steps():
    for scale in arms.SCALES.values():
        recipes = [
            arms.recipe_of(scale, arm, "sft" if arm.rewards is None else "grpo", "nano", "drawn:dev", 0)
            for arm in (*arms.ARMS, *arms.ABLATIONS)
        ]
        assert len({recipe.settings["max_steps"] for recipe in recipes}) == 1
        assert not any(recipe.turned for recipe in recipes)


def test_3b_needs_data():
    with pytest.raises(InputError, match="--data SPEC"):
        cli_reproduce.reproduce("roam", scale="3b")


def test_names_of_test_sets():
    named = cli_reproduce.named
    assert named(["mine=folder:a=b", "drawn:leather?n=4&seed=3", "/models/early"], "--test") == {
        "mine": "folder:a=b",
        "drawn:leather": "drawn:leather?n=4&seed=3",
        "early": "/models/early",
    }
    with pytest.raises(InputError, match="--start names 'a' twice"):
        named(["a=1", "a=2"], "--start")
