"""Figures of a score against a truth, from how many positives and negatives lie at each level of the score; many resamples at once.

Everything here equals scikit-learn's functions of the same name on the same rows (a test holds that); counts
instead of rows make the bootstrap, and millions of pixels, affordable. Leading axes of the counts are
resamples. A figure without a value (a class is missing) is NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RECALL = 0.95
"""At which the false-positive rate is reported."""
COSTS = 101
"""Points of a cost curve."""


class Counts(NamedTuple):
    """What scores reach each level, highest level first; the first place is "none"."""

    levels: Floats
    """(U,) distinct scores, falling."""
    hits: Floats
    """(..., U + 1) positives at or above each level, from 0."""
    alarms: Floats
    """(..., U + 1) negatives at or above each level, from 0."""

    @property
    def recall(self) -> Floats:
        """(..., U + 1) true-positive rate."""
        return _ratio(self.hits, self.hits[..., -1:])

    @property
    def fallout(self) -> Floats:
        """(..., U + 1) false-positive rate."""
        return _ratio(self.alarms, self.alarms[..., -1:])

    @property
    def precision(self) -> Floats:
        """(..., U + 1) share of positives among what reaches a level; NaN where nothing does."""
        return _ratio(self.hits, self.hits + self.alarms)


def count(scores: Floats, positive: Bools, weights: ArrayLike | None = None) -> Counts:
    """The counts of (N,) scores whose truth is `positive` (N,); `weights` (..., N) says how often each row was drawn."""
    levels, place = np.unique(-scores, return_inverse=True)
    order = np.argsort(place.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(place.ravel(), minlength=len(levels)))
    drawn = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    sums = [
        _from_zero(np.cumsum((drawn * kind)[..., order], axis=-1)[..., ends - 1])
        for kind in (positive, ~positive)
    ]
    return Counts(-levels, sums[0], sums[1])


def from_levels(levels: Floats, positives: Floats, negatives: Floats) -> Counts:
    """The counts of (..., U) positives and negatives at each of the levels (U,), which fall."""
    return Counts(
        levels, _from_zero(np.cumsum(positives, axis=-1)), _from_zero(np.cumsum(negatives, axis=-1))
    )


def auroc(counts: Counts) -> Floats:
    """Area under the ROC curve: how probable it is that a positive scores above a negative; ties count half."""
    return area(counts.fallout, counts.recall)


def area(x: Floats, y: Floats) -> Floats:
    """(...) areas under straight lines through the points (..., K)."""
    areas: Floats = (np.diff(x, axis=-1) * (y[..., 1:] + y[..., :-1]) / 2).sum(axis=-1)
    return areas


def average_precision(counts: Counts) -> Floats:
    """Precision at each level, weighted by how much recall it adds; not interpolated."""
    gained = np.diff(counts.recall, axis=-1)
    precise: Floats = np.where(gained == 0, gained, gained * counts.precision[..., 1:]).sum(axis=-1)
    return precise


def f1(counts: Counts) -> Floats:
    """(..., U + 1) F1 at each level."""
    return _ratio(2 * counts.hits, counts.hits + counts.alarms + counts.hits[..., -1:])


def balanced_accuracy(counts: Counts) -> Floats:
    """(..., U + 1) mean of the two classes' shares of right verdicts, when what reaches a level is called positive."""
    balanced: Floats = (counts.recall + 1 - counts.fallout) / 2
    return balanced


def fallout_at(counts: Counts, recall: float = RECALL) -> Floats:
    """The lowest false-positive rate at which at least a share `recall` of the positives is found."""
    enough = counts.recall >= recall - 1e-12
    lowest: Floats = np.where(enough, counts.fallout, np.inf).min(axis=-1)
    return np.where(np.isfinite(lowest), lowest, np.nan)


def cost_curve(counts: Counts, points: int = COSTS) -> tuple[Floats, Floats]:
    """X and y, (K,) each, of the least normalised expected cost over all levels (Drummond and Holte 2006), for one row of counts.

    x is the share of the cost that positives would cause if all verdicts were wrong: their share times the
    cost of a miss, over that plus the negatives' share times the cost of a false alarm. y is min over levels
    of misses x + false alarms (1 - x), as rates.
    """
    x = np.linspace(0, 1, points)
    cost: Floats = (np.outer(x, 1 - counts.recall) + np.outer(1 - x, counts.fallout)).min(axis=1)
    return x, cost


def _from_zero(sums: Floats) -> Floats:
    return np.concatenate([np.zeros((*sums.shape[:-1], 1)), sums], axis=-1)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Floats = np.true_divide(top, bottom)
    return ratio
