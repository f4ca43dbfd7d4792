"""What the arms of a study reach, and how far they are apart, with intervals over seeds and images.

The variance of a figure is that over images (2,000 resamples; all arms see the same ones, so differences are
paired) plus that of the mean over each arm's seeds; the interval is Student's, with the degrees of freedom of
Satterthwaite (1946). An arm of one seed, and the start, have no variance over seeds: their intervals speak of
images alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyr1.evaluation import curves
from anomalyr1.evaluation.statistics import LEVEL, REPEATS, count_draws, draw_images
from anomalyr1.reproduction.arms import PRIMARY
from anomalyr1.reproduction.judge import Judged

Floats = NDArray[np.float64]
DRAWS = REPEATS
FIGURES = (
    *PRIMARY,
    "balanced yes/no",
    "box mIoU",
    "agrees",
    "agrees, sampled",
    "silent, sampled",
    "strict",
    "words",
)
"""The primary endpoints first.

All but box mIoU, strict and words are about questions with options. accuracy: read as inspection reads them.
agrees: of right answers whose reasoning concludes something, the share that it concludes. silent: the share
of answers whose reasoning concludes nothing. sampled: at temperature 1. words: of a completion.
"""


class Effect(NamedTuple):
    """A figure or a difference with its 95 % interval, and the two-sided p-value of its being 0."""

    value: float
    low: float
    high: float
    p: float


class Sums(NamedTuple):
    """What figures are made of: numerators and denominators of every image, (images, figures), and scores."""

    top: Floats
    bottom: Floats
    scores: Floats
    """(images,) NaN where the verdict named no option, which counts as 0.5."""


class Answers:
    """The answers of all runs to one test set; images and questions are the same in each."""

    def __init__(self, runs: Mapping[str, Sequence[Sequence[Judged]]]) -> None:
        """`runs`: arm -> the answers of each of its seeds."""
        reference_answers = next(iter(runs.values()))[0]
        self.images = list(dict.fromkeys(answer.sample_id for answer in reference_answers))
        self.kinds = sorted({answer.kind for answer in reference_answers if answer.kind != "grounding"})
        self.names = [*(name for name in FIGURES if name != "AUROC"), *self.kinds, "found", "passed"]
        truth = {answer.sample_id: answer.anomalous for answer in reference_answers}
        self.anomalous = np.array([truth[name] for name in self.images])
        self._sums = {arm: [self._summed(answers) for answers in seeds] for arm, seeds in runs.items()}
        image_count = len(self.images)
        draws = map(count_draws, draw_images(image_count, DRAWS))
        self._images = np.vstack([np.ones(image_count), *draws])
        self._found: dict[tuple[str, str], Floats] = {}

    def figure(self, arm: str, name: str) -> Effect | None:
        """A figure of an arm; None where the test set says nothing of it."""
        return self._effect({arm: 1}, name)

    def difference(self, better: str, than: str, name: str) -> Effect | None:
        """The figure of one arm less that of another."""
        return self._effect({better: 1, than: -1} if better != than else {}, name)

    def by_seed(self, arm: str, than: str, name: str) -> list[Effect]:
        """The figure of each seed less the mean of the other arm, with intervals over images."""
        values = self._drawn(arm, name) - self._drawn(than, name).mean(0)
        return [self._bounded(seed_values, []) for seed_values in values if not np.isnan(seed_values[0])]

    def _effect(self, weights: Mapping[str, int], name: str) -> Effect | None:
        """Of the weighted sum of the arms."""
        values, seed_variances = np.zeros(1 + DRAWS), []
        for arm, weight in weights.items():
            seeds = self._drawn(arm, name)
            values = values + weight * seeds.mean(0)
            if len(seeds) > 1:
                seed_variances.append((float(seeds[:, 0].var(ddof=1)) / len(seeds), len(seeds) - 1))
        return None if np.isnan(values[0]) else self._bounded(values, seed_variances)

    def _bounded(self, values: Floats, seed_variances: Sequence[tuple[float, int]]) -> Effect:
        """`drawn`: the figure, then that of each resample; `parts`: the other variances, each with its
        degrees of freedom.
        """
        from scipy.stats import t

        value = float(values[0])
        variances = [(float(np.nanvar(values[1:])), len(self.images) - 1), *seed_variances]
        total = sum(variance for variance, _ in variances)
        if total == 0:
            return Effect(value, value, value, float(value == 0))
        freedom = total**2 / sum(variance**2 / max(1, number) for variance, number in variances)
        reach = float(t.ppf((1 + LEVEL) / 2, freedom)) * total**0.5
        return Effect(value, value - reach, value + reach, float(2 * t.sf(abs(value) / total**0.5, freedom)))

    def _drawn(self, arm: str, name: str) -> Floats:
        """(seeds, 1 + DRAWS): the figure itself, then of each resample of the images."""
        if (arm, name) not in self._found:
            self._found[arm, name] = np.stack([self._values(sums, name) for sums in self._sums[arm]])
        return self._found[arm, name]

    def _values(self, sums: Sums, name: str) -> Floats:
        if name == "AUROC":
            return self._auroc(sums.scores)
        if name == "balanced yes/no":
            return np.asarray((self._values(sums, "found") + self._values(sums, "passed")) / 2)
        column = self.names.index(name)
        with np.errstate(invalid="ignore"):
            return np.asarray(self._images @ sums.top[:, column] / (self._images @ sums.bottom[:, column]))

    def _auroc(self, scores: Floats) -> Floats:
        """The share of pairs of an anomalous and a good image that the scores order, ties as halves; images
        weighted.
        """
        return curves.roc_area(curves.count(scores, self.anomalous, self._images))

    def _summed(self, answers: Sequence[Judged]) -> Sums:
        place = {name: i for i, name in enumerate(self.images)}
        top, bottom = np.zeros((2, len(place), len(self.names)))
        scores = np.full(len(place), 0.5)
        for answer in answers:
            i = place[answer.sample_id]
            if answer.score is not None and not answer.sampled:
                scores[i] = answer.score
            for name, value in _counted(answer):
                column = self.names.index(name)
                top[i, column] += value
                bottom[i, column] += 1
        return Sums(top, bottom, scores)


def by_test(runs: Mapping[str, Sequence[Sequence[Judged]]], tests: Iterable[str]) -> dict[str, Answers]:
    """The answers of all runs (arm -> each of its seeds) to each of the test sets."""
    answers = {}
    for test in tests:
        of_test = {arm: [_of_test(seed, test) for seed in seeds] for arm, seeds in runs.items()}
        answers[test] = Answers(of_test)
    return answers


def _of_test(answers: Sequence[Judged], test: str) -> list[Judged]:
    return [answer for answer in answers if answer.test == test]


def _counted(answer: Judged) -> list[tuple[str, float]]:
    """The figures that an answer counts for, and as what."""
    if answer.sampled:
        if answer.kind == "grounding":
            return []
        agrees = (
            [("agrees, sampled", float(answer.agrees))] if answer.right and answer.agrees is not None else []
        )
        return [("silent, sampled", float(answer.agrees is None)), *agrees]
    figures = [("strict", float(answer.strict)), ("words", float(len(answer.text.split())))]
    if answer.kind == "grounding":
        return [*figures, ("box mIoU", answer.iou)] if answer.iou is not None else figures
    figures += [("accuracy", float(answer.right)), (answer.kind, float(answer.right))]
    if answer.right and answer.agrees is not None:
        figures.append(("agrees", float(answer.agrees)))
    if answer.kind == "anomaly detection":
        figures.append(("found" if answer.anomalous else "passed", float(answer.right)))
    return figures


def in_points(effect: Effect | None) -> str:
    """A difference as text, in percentage points, such as "+4.3 [+2.2, +6.5]"; empty for None."""
    if effect is None:
        return ""
    return f"{100 * effect.value:+.1f} [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"


def excludes_zero(effect: Effect | None) -> bool:
    """Whether an interval lies on one side of zero."""
    return effect is not None and (effect.low > 0 or effect.high < 0)
