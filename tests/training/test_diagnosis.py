"""What `anomalyr1 diagnose` says of runs that have one thing wrong, and that it says nothing of a healthy
one.
"""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from anomalyr1.cli.main import app
from anomalyr1.training.diagnosis import diagnose
from anomalyr1.types import InputError, Question
from support import runs

GROUNDING = Question(id="s1#g", kind="grounding", text="Where?", boxes=())
LENIENT = "<think>It is a dent, so the answer is B.</think> B"
RISING = [
    (runs.WRONG,) * 3 + (runs.RIGHT,),
    (runs.WRONG,) * 2 + (runs.RIGHT,) * 2,
    (runs.WRONG,) + (runs.RIGHT,) * 3,
]


def rising(log, step, rewards=None):
    """Groups that get better over 20 steps, and always differ in themselves."""
    runs.add_group(log, step, RISING[min((step - 1) // 7, 2)], rewards)


def healthy(step):
    reward = [0.575, 1.05, 1.525][min((step - 1) // 7, 2)]
    return {
        "loss": 0.1,
        "grad_norm": 0.2,
        "reward": reward,
        "entropy": 0.6 - step / 100,
        "kl": 0.01 * step,
        "completions/clipped_ratio": 0.02,
        "completions/mean_length": 60 + step,
    }


def held_out(*accuracies, images=64):
    return [
        (5 * (i + 1), {"images": images, "balanced accuracy": value}) for i, value in enumerate(accuracies)
    ]


def verdicts(*shares):
    return [
        (5 * i, {"defect found": found, "good passed": passed}) for i, (found, passed) in enumerate(shares)
    ]


def test_two_verdicts_are_no_collapse(tmp_path):
    run = runs.made(tmp_path, metrics=healthy, evaluations=verdicts((0.0, 1.0), (0.1, 1.0)), group=rising)
    assert diagnose(run) == []


def changed(**values):
    return lambda step: (
        healthy(step) | {name.replace("__", "/"): value(step) for name, value in values.items()}
    )


def test_a_healthy_run_has_nothing_wrong(tmp_path):
    assert (
        diagnose(
            runs.made(tmp_path, metrics=healthy, evaluations=held_out(0.6, 0.64, 0.7, 0.72), group=rising)
        )
        == []
    )


def each(*completions):
    return lambda log, step: runs.add_group(log, step, completions)


def unscored(log, step):
    runs.add_group(log, step, RISING[1], {"roam": [None, 0.1, 1.0, 1.0], "accuracy": [None, 0.0, 1.0, 1.0]})


def overpowered(log, step):
    runs.add_group(log, step, RISING[1], weights={"roam": 10.0, "accuracy": 1.0})


SYMPTOMS = [
    # what happened, metrics, evaluations, and how the one sentence begins
    (
        each(*[runs.WRONG] * 4),
        healthy,
        (),
        ("100 % of groups had one reward, so nothing was learned from them: raise temperature"),
    ),
    (
        each(*[runs.RIGHT] * 4),
        healthy,
        (),
        ("100 % of groups had one reward, so nothing was learned from them; 100 % of answers are"),
    ),
    (
        rising,
        changed(completions__clipped_ratio=lambda step: 0.4),
        (),
        ("40 % of completions were cut off at max_completion_length (TRL"),
    ),
    (
        each(runs.RIGHT, runs.WRONG, runs.RIGHT, runs.UNREADABLE),
        healthy,
        (),
        ("25 % of completions could not be read: teach the form"),
    ),
    (
        each(runs.RIGHT, runs.WRONG, LENIENT, LENIENT),
        healthy,
        (),
        ("50 % of completions were only read leniently"),
    ),
    (
        each(runs.RIGHT, runs.WRONG, runs.CONTRADICTED, runs.RIGHT),
        healthy,
        (),
        ("the reasoning of 33 % of right answers concludes"),
    ),
    (rising, changed(entropy=lambda step: 0.6 / step), (), "entropy fell from 0.274 to 0.033"),
    (rising, changed(kl=lambda step: step / 10), (), "KL from the reference policy is 1.8 a token"),
    (
        rising,
        changed(completions__mean_length=lambda step: 40 + 5 * step),
        (),
        ("completions went from 55 to 130 tokens: read a few"),
    ),
    (
        rising,
        changed(completions__mean_length=lambda step: 120 - 5 * step),
        (),
        ("completions went from 105 to 30 tokens, the reason"),
    ),
    (
        rising,
        changed(reward=lambda step: 0.5 + 0.01 * (step % 2)),
        (),
        ("the reward did not rise (from 0.506 to 0.504; best"),
    ),
    (
        rising,
        changed(loss=lambda step: float("nan") if step == 7 else 0.1),
        (),
        ("loss was not a number at 1 of 20 logged steps, first at "),
    ),
    (
        rising,
        healthy,
        held_out(0.7, 0.66, 0.6, 0.5),
        ("held-out balanced accuracy fell from 0.700 to 0.500 while the reward rose: ad"),
    ),
    (
        rising,
        healthy,
        verdicts((0.25, 0.0), (0.0, 1.0)),
        "one verdict for all held-out parts: the policy calls them good, 0.00 of defects are found",
    ),
    (
        rising,
        healthy,
        verdicts((0.5, 0.6), (1.0, 0.04)),
        "one verdict for all held-out parts: the policy calls them defect, 1.00 of defects are found",
    ),
    (unscored, healthy, (), "no reward applied to 25.0 % of completions"),
    (
        overpowered,
        changed(reward=lambda step: step),
        (),
        ("the reward roam makes 99 % of what differs within groups, so the rew"),
    ),
]


@pytest.mark.parametrize(
    ("group", "metrics", "evaluations", "begins"), SYMPTOMS, ids=[one[3][:40] for one in SYMPTOMS]
)
def test_one_symptom_one_sentence(tmp_path, group, metrics, evaluations, begins):
    (found,) = diagnose(runs.made(tmp_path, metrics=metrics, evaluations=evaluations, group=group))
    assert found.startswith(begins), found


def test_a_reward_that_never_applies(tmp_path):
    def group(unknown):
        def one(log, step):
            rewards = runs.rewards_of(RISING[min((step - 1) // 7, 2)])
            rising(log, step, rewards | ({"roam": [None] * 4} if unknown(step) else {}))

        return one

    (found,) = diagnose(runs.made(tmp_path / "never", metrics=healthy, group=group(lambda step: True)))
    assert found.startswith("the reward roam never applied")
    assert (
        diagnose(runs.made(tmp_path / "sometimes", metrics=healthy, group=group(lambda step: step % 2))) == []
    )


def test_a_fall_within_the_noise_is_not_told(tmp_path):
    def told(images):
        return diagnose(
            runs.made(
                tmp_path / str(images),
                metrics=healthy,
                evaluations=held_out(0.7, 0.62, images=images),
                group=rising,
            )
        )

    assert told(30) == []
    assert len(told(1000)) == 1


def test_trends_need_steps(tmp_path):
    assert (
        diagnose(
            runs.made(
                tmp_path, steps=7, metrics=changed(kl=lambda step: 9.0, reward=lambda step: 0.5), group=rising
            )
        )
        == []
    )


def test_supervised_runs(tmp_path):
    recipe = runs.RECIPE.model_copy(update={"grpo": None, "sft": {}, "rewards": {}})

    def none(log, step):
        pass

    def told(name, *accuracies):
        made = runs.made(
            tmp_path / name,
            metrics=lambda step: {"loss": 1 / step},
            evaluations=held_out(*accuracies),
            group=none,
            recipe=recipe,
        )
        return diagnose(made)

    assert told("good", 0.5, 0.8) == []
    (found,) = told("bad", 0.8, 0.5)
    assert "learns the images by heart" in found


def test_what_is_no_run(tmp_path):
    with pytest.raises(InputError, match="is not the folder of a run"):
        diagnose(tmp_path)
    with pytest.raises(InputError, match="has not logged a step yet"):
        diagnose(runs.made(tmp_path, steps=0))


def test_the_verb(tmp_path):
    good = runs.made(tmp_path / "good", metrics=healthy, group=rising)
    bad = runs.made(tmp_path / "bad", metrics=changed(kl=lambda step: 9.0), group=rising)
    said = CliRunner().invoke(app, ["diagnose", str(good)], standalone_mode=False)
    assert (said.return_value, said.stdout) == (0, "Nothing wrong was found in 20 logged steps.\n")
    said = CliRunner().invoke(app, ["diagnose", str(bad)], standalone_mode=False)
    assert said.return_value == 2 and said.stdout.startswith("KL from the reference policy is 9 a token")
