"""What is wrong with a run, and what to do, in plain sentences, from what its folder says (`run_folder`).

Shares are those of the later half of the run, trends compare its first quarter with its last. Runs of fewer
than eight logged steps have no trends.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalyr1.training.recipes import Recipe, read_recipe
from anomalyr1.training.run_folder import EVALUATIONS, METRICS, RECIPE, Group, read_groups, read_lines
from anomalyr1.types import InputError

ONE_REWARD = 0.5
"""Share of groups with one reward from which it is a fault; some are in every run."""
OFTEN = 0.1
"""Share of completions that are cut off, unreadable or contradict themselves from which it is a fault."""
LENIENT = 0.25
"""Share of completions that are only read leniently from which it is a fault."""
UNSCORED = 0.02
"""Share of completions to which no reward applies from which it is a fault."""
MASTERED = 0.9
"""Share of right answers from which one reward means that the questions are too easy."""
ENTROPY_LEFT = 0.2
"""Share of the entropy at the beginning to which it may fall."""
KL_NATS = 1.0
"""KL from the reference policy a token, over the closing quarter of the run, from which it is a fault."""
LONGER, SHORTER = 1.5, 0.6
"""Lengths of completions, as shares of those at the beginning, from which it is a fault."""
DOMINANT = 0.95
"""Share of one reward in what differs within groups."""
RISES = 0.02
"""A reward that rises by less than this share of its highest value has not moved."""
CEILING = 0.9
"""Share of its highest value above which a reward need not rise."""
TREND_STEPS = 8
"""Logged steps that a trend needs."""
ONE_VERDICT = 0.05
"""Share of held-out parts that may get the rarer verdict where the policy gives one to all."""
SUMMABLE = 1e300
"""The largest value of a metric that counts."""
NOISE = 0.03
"""Smallest fall of a held-out accuracy that is told, however many images there are."""


@dataclass(frozen=True)
class RunEvidence:
    """What the files of a run say."""

    recipe: Recipe
    """The recipe as it was run."""
    metrics: list[dict[str, Any]]
    """The logged steps."""
    groups: list[Group]
    """What the policy wrote; nothing for SFT."""
    evaluations: list[dict[str, Any]]
    """The held-out figures by step."""

    def series(self, name: str) -> list[float]:
        """The logged values of a metric, in order, without those that are no numbers, or too large to sum."""
        numbers = [line[name] for line in self.metrics if isinstance(line.get(name), int | float)]
        return [float(number) for number in numbers if not abs(number) > SUMMABLE]

    def late_share(self, name: str) -> float:
        """The mean of a metric over the later half of the run; 0 where it was never logged."""
        values = self.series(name)
        return statistics.fmean(values[len(values) // 2 :]) if values else 0.0

    def trend(self, name: str) -> tuple[float, float] | None:
        """The means of a metric over the opening and closing quarters; None for fewer than eight values."""
        values = self.series(name)
        if len(values) < TREND_STEPS:
            return None
        quarter = len(values) // 4
        return statistics.fmean(values[:quarter]), statistics.fmean(values[-quarter:])

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the rewards, under the names that the groups have."""
        return self.groups[-1].weights if self.groups else self.recipe.rewards

    @property
    def highest(self) -> float:
        """The most that a completion earned."""
        totals = [total for group in self.groups for total in group.totals()]
        return max((total for total in totals if total is not None), default=0.0)


def diagnose(run: Path) -> list[str]:
    """A sentence for each thing that is wrong; none = nothing was found.

    Raises `InputError` for a folder that is no run, or one that has not logged a step.
    """
    if not (run / RECIPE).is_file():
        raise InputError(
            f"{str(run)!r} is not the folder of a run: it has no {RECIPE}; name one that `anomalyr1 train` "
            "has made"
        )
    evidence = RunEvidence(
        read_recipe(run / RECIPE),
        read_lines(run / METRICS),
        read_groups(run),
        read_lines(run / EVALUATIONS),
    )
    if not evidence.metrics:
        raise InputError(f"{str(run)!r} has not logged a step yet; ask again later")
    sentences = [symptom(evidence) for symptom in SYMPTOMS]
    return [sentence for sentence in sentences if sentence]


def _not_a_number(run: RunEvidence) -> str | None:
    for name in ("loss", "grad_norm"):
        steps = [line["step"] for line in run.metrics if name in line and line[name] is None]
        if steps:
            return (
                f"{name} was not a number at {len(steps)} of {len(run.metrics)} logged steps, first at step "
                f"{steps[0]}: lower the learning rate, and train in bfloat16 or float32 rather than float16"
            )
    return None


def _one_reward(run: RunEvidence) -> str | None:
    share = run.late_share("signal/zero_variance")
    if share < ONE_REWARD:
        return None
    finding = f"{_percent(share)} of groups had one reward, so nothing was learned from them"
    right = run.late_share("answers/right")
    if right >= MASTERED:
        return (
            f"{finding}; {_percent(right)} of answers are right already: mix harder questions, or stop here"
        )
    return f"{finding}: raise temperature, mix easier questions or use soft IoU (the reward localisation)"


def _unscored(run: RunEvidence) -> str | None:
    share = run.late_share("signal/unscored")
    if share < UNSCORED:
        return None
    return (
        f"no reward applied to {_percent(share, 1)} of completions, which teach nothing: add a reward for "
        "every kind of question"
    )


def _never_applies(run: RunEvidence) -> str | None:
    names = [name for name in run.weights if not any(_applying(group, name) for group in run.groups)]
    if not names or not run.groups:
        return None
    return (
        f"{_rewards(names)} never applied: the data has no such question; drop what does not apply, or add "
        "questions for it"
    )


def _cut_off(run: RunEvidence) -> str | None:
    share = run.late_share("completions/clipped_ratio")
    if share < OFTEN:
        return None
    limit = run.recipe.settings.get("max_completion_length", "(TRL's default)")
    return (
        f"{_percent(share)} of completions were cut off at max_completion_length {limit}: raise it, or add "
        "the reward length"
    )


def _unreadable(run: RunEvidence) -> str | None:
    share, lenient = run.late_share("answers/unparseable"), run.late_share("answers/lenient")
    if share >= OFTEN:
        return (
            f"{_percent(share)} of completions could not be read: teach the form first (SFT), or add the "
            "reward format"
        )
    if lenient >= LENIENT:
        return (
            f"{_percent(lenient)} of completions were only read leniently, and earn no ROAM: run SFT first, "
            "or add the reward format"
        )
    return None


def _contradicted(run: RunEvidence) -> str | None:
    share = run.late_share("answers/right_but_contradicted")
    if share < OFTEN:
        return None
    has_roam = any(name.startswith("roam") for name in run.weights)
    cure = "raise the weight of roam" if has_roam else "add the reward roam"
    return (
        f"the reasoning of {_percent(share)} of right answers concludes something else, so it is not what "
        f"leads to them: {cure}"
    )


def _entropy(run: RunEvidence) -> str | None:
    trend = run.trend("entropy")
    if trend is None or trend[0] <= 0 or trend[1] >= ENTROPY_LEFT * trend[0]:
        return None
    return (
        f"entropy fell from {trend[0]:.3g} to {trend[1]:.3g}, the policy always writes the same: lower the "
        "learning rate, or raise beta or temperature"
    )


def _kl(run: RunEvidence) -> str | None:
    trend = run.trend("kl")
    if trend is None or trend[1] < KL_NATS:
        return None
    return (
        f"KL from the reference policy is {trend[1]:.3g} a token, the policy forgets what it knew: lower the "
        "learning rate or raise beta"
    )


def _drift(run: RunEvidence) -> str | None:
    trend = run.trend("completions/mean_length")
    if trend is None:
        return None
    lengths = f"completions went from {trend[0]:.0f} to {trend[1]:.0f} tokens"
    if trend[1] > LONGER * trend[0]:
        return f"{lengths}: read a few (anomalyr1 explain), and add the rewards length or repetition"
    if trend[1] < SHORTER * trend[0]:
        return (
            f"{lengths}, the reasoning may be disappearing: read a few (anomalyr1 explain), and raise the "
            "weight of roam"
        )
    return None


def _dominant(run: RunEvidence) -> str | None:
    # How much each reward differs within the groups of the later half, as it is and as it is weighed.
    spread = dict.fromkeys(run.weights, 0.0)
    for group in run.groups[len(run.groups) // 2 :]:
        for name in spread:
            spread[name] += statistics.pvariance(_applying(group, name) or [0.0])
    weighted = {name: spread[name] * weight**2 for name, weight in run.weights.items()}
    total = sum(weighted.values())
    top = max(weighted, key=weighted.__getitem__, default="")
    ignored = [name for name in spread if name != top and spread[name] > OFTEN * spread[top]]
    if not ignored or weighted[top] < DOMINANT * total:
        return None
    return (
        f"the reward {top} makes {_percent(weighted[top] / total)} of what differs within groups, so "
        f"{_rewards(ignored)} hardly counts: bring their weights closer together"
    )


def _no_progress(run: RunEvidence) -> str | None:
    trend = run.trend("reward")
    if trend is None or not run.groups:
        return None
    if trend[1] - trend[0] > RISES * run.highest or trend[1] > CEILING * run.highest:
        return None
    return (
        f"the reward did not rise (from {trend[0]:.3g} to {trend[1]:.3g}; best earned: {run.highest:.3g}): "
        "raise the learning rate or num_generations, or teach by SFT first"
    )


def _held_out(run: RunEvidence) -> str | None:
    name = "balanced accuracy"
    evaluations = [line for line in run.evaluations if isinstance(line.get(name), int | float)]
    evaluations = [line for line in evaluations if not line.get("final")]
    if len(evaluations) < 2:
        return None
    # The noise is two standard errors of a share, at most.
    noise = max(NOISE, 1 / max(evaluations[0].get("images") or 1, 1) ** 0.5)
    start, end = evaluations[0][name], evaluations[-1][name]
    if start - end < noise:
        return None
    fell = f"held-out balanced accuracy fell from {start:.3f} to {end:.3f}"
    reward = run.trend("reward")
    if run.recipe.section == "sft":
        return f"{fell}: the policy learns the images by heart; train for fewer epochs or on more images"
    if reward is not None and reward[1] > reward[0]:
        cure = "add yes/no questions about good parts, and take an earlier checkpoint"
        return f"{fell} while the reward rose: {cure}"
    return f"{fell}: take an earlier checkpoint, and lower the learning rate"


def _one_verdict(run: RunEvidence) -> str | None:
    lines = [line for line in run.evaluations if "defect found" in line and "good passed" in line]
    if not lines:
        return None
    found_share, passed_share = float(lines[-1]["defect found"]), float(lines[-1]["good passed"])
    for verdict, right_share, wrong_share in (
        ("good", passed_share, found_share),
        ("defect", found_share, passed_share),
    ):
        if right_share >= 1 - ONE_VERDICT and wrong_share <= ONE_VERDICT:
            begins = f" ({lines[0]['defect found']:.2f} and {lines[0]['good passed']:.2f} at first)"
            return (
                f"one verdict for all held-out parts: the policy calls them {verdict}, {found_share:.2f} of "
                f"defects are found and {passed_share:.2f} of good parts passed{begins}, so it inspects "
                "nothing: take an earlier checkpoint, lower the learning rate, and train on as many good as "
                "defective parts"
            )
    return None


SYMPTOMS: tuple[Callable[[RunEvidence], str | None], ...] = (
    _not_a_number,
    _one_reward,
    _unscored,
    _never_applies,
    _cut_off,
    _unreadable,
    _contradicted,
    _entropy,
    _kl,
    _drift,
    _dominant,
    _no_progress,
    _held_out,
    _one_verdict,
)
"""What may be wrong; each says so in a sentence, or None."""


def _applying(group: Group, name: str) -> list[float]:
    """The values of a reward in a group that applied."""
    return [value for value in group.rewards.get(name, ()) if value is not None]


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _rewards(names: Sequence[str]) -> str:
    return f"the reward{'s' if len(names) > 1 else ''} {', '.join(names)}"
