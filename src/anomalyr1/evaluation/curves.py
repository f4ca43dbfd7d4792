"""Figures of a score against a truth, from how many positives and negatives lie at each level of the score.

Everything here equals scikit-learn's functions of the same name on the same rows (a test holds that); counts
instead of rows make the bootstrap, and millions of pixels, affordable. Leading axes of the counts are
resamples. A figure without a value (a class is missing) is NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomalyr1.boxes import Bools, Floats

RECALL = 0.95
"""At which the false-positive rate is reported."""
COSTS = 101
"""Points of a cost curve."""
BINS = 10
"""Bins of equal size in which mean score and share of positives are compared."""


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
    """The counts of (N,) scores and their truth (N,); `weights` (..., N) says how often each row comes."""
    levels, place = np.unique(-scores, return_inverse=True)
    order = np.argsort(place.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(place.ravel(), minlength=len(levels)))
    times = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    hits, alarms = (
        _from_zero(np.cumsum((times * kind)[..., order], axis=-1)[..., ends - 1])
        for kind in (positive, ~positive)
    )
    return Counts(-levels, hits, alarms)


def from_levels(levels: Floats, positives: Floats, negatives: Floats) -> Counts:
    """The counts of (..., U) positives and negatives at each of the levels (U,), which fall."""
    hits, alarms = (_from_zero(np.cumsum(kind, axis=-1)) for kind in (positives, negatives))
    return Counts(levels, hits, alarms)


def auroc(scores: Floats, positive: Bools) -> float:
    """Area under the ROC curve: how probable it is that a positive scores above a negative; ties count half.

    `scores` and `positive` are (N,); NaN when all rows are alike. Of many resamples: `roc_area` of `count`.
    """
    return float(roc_area(count(scores, positive)))


def roc_area(counts: Counts) -> Floats:
    """(...) AUROC of each resample; counts are whole numbers, so one division is all that rounds."""
    return _ratio(area(counts.alarms, counts.hits), counts.hits[..., -1] * counts.alarms[..., -1])


def area(x: Floats, y: Floats) -> Floats:
    """(...) areas under the straight lines through the points (..., K)."""
    areas: Floats = (np.diff(x, axis=-1) * (y[..., 1:] + y[..., :-1]) / 2).sum(axis=-1)
    return areas


def average_precision(counts: Counts) -> Floats:
    """(...) precision at each level, weighted by how much recall the level adds; not interpolated."""
    gained = np.diff(counts.recall, axis=-1)
    precise: Floats = np.where(gained == 0, gained, gained * counts.precision[..., 1:]).sum(axis=-1)
    return precise


def f1(counts: Counts) -> Floats:
    """(..., U + 1) F1 at each level."""
    return _ratio(2 * counts.hits, counts.hits + counts.alarms + counts.hits[..., -1:])


def balanced_accuracy(counts: Counts) -> Floats:
    """(..., U + 1) balanced accuracy: the mean of recall and of the share of negatives below each level."""
    balanced: Floats = (counts.recall + 1 - counts.fallout) / 2
    return balanced


def lowest_fallout(counts: Counts) -> Floats:
    """(...) the lowest false-positive rate at which at least a share `RECALL` of the positives is found."""
    enough = counts.recall >= RECALL - 1e-12
    lowest: Floats = np.where(enough, counts.fallout, np.inf).min(axis=-1)
    return np.where(np.isfinite(lowest), lowest, np.nan)


def cost_curve(counts: Counts, points: int = COSTS) -> tuple[Floats, Floats]:
    """X and y, (K,) each, of the least normalised expected cost over all levels; counts without resamples.

    x is the share of the cost that positives would cause if all verdicts were wrong: their share times the
    cost of a miss, over that plus the negatives' share times the cost of a false alarm. y is min over levels
    of misses x + false alarms (1 - x), as rates. Source: Drummond and Holte 2006.
    """
    x = np.linspace(0, 1, points)
    cost: Floats = (np.outer(x, 1 - counts.recall) + np.outer(1 - x, counts.fallout)).min(axis=1)
    return x, cost


def calibration_error(probabilities: Floats, positive: Bools) -> float:
    """The expected calibration error of (N,) probabilities, over `BINS` bins of equal size.

    How far mean probability and share of positives lie apart, averaged over the rows.
    """
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    gaps = [abs(probabilities[rows].mean() - positive[rows].mean()) for rows in bins]
    return float(sum(len(rows) * gap for rows, gap in zip(bins, gaps, strict=True)) / len(order))


def calibration_errors(probabilities: Floats, positive: Bools, times: Floats | NDArray[np.intp]) -> Floats:
    """(R,) `calibration_error` of resamples, (R, N) how often each row is in each; every line sums to N.

    Weights that are no whole numbers serve as well.

    A bin's |mean probability - share of positives|, weighed by its size, is its |summed gap|.
    """
    # 1. Rows by rising probability, with the gap that each adds to its bin.
    order = np.argsort(probabilities, kind="stable")
    gaps, times = (probabilities - positive)[order], times[:, order]  # (N,), (R, N)
    # 2. Where bins end, counted in copies of rows; the same for all resamples.
    bins = np.array_split(np.arange(len(order)), min(BINS, len(order)))
    edges = np.cumsum([len(places) for places in bins])  # (B,)
    # 3. The row in whose copies each bin ends, and the gaps summed up to there, less the copies beyond.
    ends, sums = np.cumsum(times, axis=1), np.cumsum(times * gaps, axis=1)  # (R, N)
    last_rows = np.stack([np.searchsorted(copies, edges) for copies in ends])  # (R, B)
    last_rows = np.minimum(last_rows, len(order) - 1)  # where weights sum to a little less
    beyond = np.take_along_axis(ends, last_rows, axis=1) - edges
    up_to_edge = np.take_along_axis(sums, last_rows, axis=1) - beyond * gaps[last_rows]
    errors: Floats = np.abs(np.diff(up_to_edge, axis=1, prepend=0)).sum(axis=1) / len(order)
    return errors


def _from_zero(sums: Floats) -> Floats:
    return np.concatenate([np.zeros((*sums.shape[:-1], 1)), sums], axis=-1)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Floats = np.true_divide(top, bottom)
    return ratio
