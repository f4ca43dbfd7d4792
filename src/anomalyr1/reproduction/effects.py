"""What the arms of a study reach, and how far they are apart, with intervals over seeds and images.

An interval comes from 2,000 resamples of the images and, arm by arm, of the seeds (a bootstrap of both levels: Davison and Hinkley,
1997, section 3.8). All arms see the same resampled images, so differences are paired. Few seeds make such intervals rather too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyr1.evaluation.statistics import Interval, interval
from anomalyr1.reproduction.judge import Judged

Floats = NDArray[np.float64]
DRAWS = 2000
PRIMARY = ("accuracy", "AUROC")
FIGURES = (*PRIMARY, "balanced yes/no", "box mIoU", "contradicts, of right answers", "silent", "strict", "words")
"""The primary endpoints first. Words are those of a completion."""


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
        first = next(iter(runs.values()))[0]
        self.images = list(dict.fromkeys(one.sample_id for one in first))
        self.kinds = sorted({one.kind for one in first if one.kind != "grounding"})
        self.names = [*(name for name in FIGURES if name != "AUROC"), *self.kinds, "found", "passed"]
        truth = {one.sample_id: one.anomalous for one in first}
        self.anomalous = np.array([truth[name] for name in self.images])
        self._sums = {arm: [self._summed(answers) for answers in seeds] for arm, seeds in runs.items()}
        draws = np.random.default_rng(0)
        n = len(self.images)
        self._images = np.vstack([np.ones(n), *(np.bincount(draws.integers(n, size=n), minlength=n) for _ in range(DRAWS))])
        self._seeds = {arm: self._drawn_seeds(draws, len(seeds)) for arm, seeds in runs.items()}
        self._found: dict[tuple[str, str], Floats] = {}

    def figure(self, arm: str, name: str) -> Interval | None:
        """A figure of an arm; None where the test set says nothing of it."""
        drawn = self._drawn(arm, name)
        return None if np.isnan(drawn[0]) else interval(float(drawn[0]), drawn[1:])

    def difference(self, better: str, than: str, name: str) -> Interval | None:
        """The figure of one arm less that of another."""
        drawn = self._drawn(better, name) - self._drawn(than, name)
        return None if np.isnan(drawn[0]) else interval(float(drawn[0]), drawn[1:])

    def by_seed(self, arm: str, than: str, name: str) -> list[Interval]:
        """The figure of each seed less that of the other arm, with intervals over images."""
        drawn = [self._values(one, name) - self._drawn(than, name) for one in self._sums[arm]]
        return [interval(float(one[0]), one[1:]) for one in drawn if not np.isnan(one[0])]

    def _drawn(self, arm: str, name: str) -> Floats:
        """(1 + DRAWS,): the figure itself, then of each resample."""
        if (arm, name) not in self._found:
            values = np.stack([self._values(one, name) for one in self._sums[arm]])  # (seeds, 1 + DRAWS)
            self._found[arm, name] = (values * self._seeds[arm]).sum(0) / self._seeds[arm].sum(0)
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
        """The share of pairs of an anomalous and a good image that the scores order, ties as halves; images weighted."""
        bad, good = scores[self.anomalous], scores[~self.anomalous]
        ordered = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)
        of_bad, of_good = self._images[:, self.anomalous], self._images[:, ~self.anomalous]
        with np.errstate(invalid="ignore"):
            return np.asarray(((of_bad @ ordered) * of_good).sum(1) / (of_bad.sum(1) * of_good.sum(1)))

    def _drawn_seeds(self, draws: np.random.Generator, number: int) -> Floats:
        """(seeds, 1 + DRAWS) how often each seed counts."""
        chosen = [np.bincount(draws.integers(number, size=number), minlength=number) for _ in range(DRAWS)]
        return np.vstack([np.ones(number), *chosen]).T.astype(np.float64)

    def _summed(self, answers: Sequence[Judged]) -> Sums:
        place = {name: i for i, name in enumerate(self.images)}
        top, bottom = np.zeros((2, len(place), len(self.names)))
        scores = np.full(len(place), 0.5)
        for one in answers:
            i = place[one.sample_id]
            if one.score is not None:
                scores[i] = one.score
            for name, value in _counted(one):
                column = self.names.index(name)
                top[i, column] += value
                bottom[i, column] += 1
        return Sums(top, bottom, scores)


def _counted(one: Judged) -> list[tuple[str, float]]:
    """The figures that an answer counts for, and as what."""
    found = [("strict", float(one.strict)), ("words", float(len(one.text.split()))), ("silent", float(one.agrees is None))]
    if one.kind == "grounding":
        return [*found, ("box mIoU", one.iou)] if one.iou is not None else found
    found += [("accuracy", float(one.right)), (one.kind, float(one.right))]
    if one.right and one.agrees is not None:
        found.append(("contradicts, of right answers", float(not one.agrees)))
    if one.kind == "anomaly detection":
        found.append(("found" if one.anomalous else "passed", float(one.right)))
    return found


def said(effect: Interval | None) -> str:
    """A difference as text, in percentage points."""
    return "" if effect is None else f"{100 * effect.value:+.1f} [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"


def excludes_zero(effect: Interval | None) -> bool:
    """Whether an interval lies on one side of zero."""
    return effect is not None and (effect.low > 0 or effect.high < 0)
