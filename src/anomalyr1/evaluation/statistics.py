"""How sure a figure is, and whether two runs differ: the bootstrap by image, paired tests, and how many questions a difference needs.

Questions about one image share its picture, so they are right or wrong together more often than chance has
it. Everything here therefore draws, swaps or weighs whole images (*clusters*); only McNemar's test, for one
item an image, takes each row for itself.

Limits: the percentile bootstrap is too narrow with few images, and has no width at all where all rows are
right or all are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomalyr1.types import InputError, Record

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

REPEATS = 2000
LEVEL = 0.95
_AT_ONCE = 1 << 21
"""Numbers in memory together."""


class Interval(Record):
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float
    undefined: int = 0
    """In so many resamples the figure had no value (a class was missing); they are left out of the
    interval."""


class Paired(Record):
    """Two runs on the same rows: how often they differ, and how likely that is by chance."""

    rows: int
    clusters: int
    """Images."""
    gained: int
    """Rows that only the second run has right."""
    lost: int
    """Rows that only the first run has right."""
    difference: Interval
    """Share of rows right in the second run less that in the first."""
    p_mcnemar: float
    """Exact and two-sided; each row for itself, so right only with one row an image."""
    p_cluster: float
    """Permutation test that swaps the runs image by image; two-sided."""
    correlation: float
    """Intra-image correlation of the differences."""

    @property
    def discordance(self) -> float:
        """The share of rows on which the runs differ."""
        return (self.gained + self.lost) / self.rows


def cluster_bootstrap(
    metric: Callable[[Indices], float],
    clusters: Sequence[str] | NDArray[np.generic],
    repeats: int = REPEATS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """The percentile bootstrap of any figure: `metric` of the rows of as many images, drawn with replacement.

    `metric` gets an index array of rows, each as often as its image was drawn, and gives NaN where the figure
    has no value. `clusters` names the image of each row, (N,). Raises `InputError` without rows, or when the
    figure of all rows has no value.
    """
    codes, number = _codes(clusters)
    value = metric(np.arange(len(codes), dtype=np.intp))
    if not math.isfinite(value):
        raise InputError(
            "the figure of all rows has no value, so it has no interval; ask for it only where it is defined"
        )
    order = np.argsort(codes, kind="stable").astype(np.intp)
    sizes = np.bincount(codes, minlength=number)
    starts = np.cumsum(sizes) - sizes
    random = np.random.default_rng(seed)
    drawn = np.empty(repeats)
    for at in range(repeats):
        chosen = random.integers(number, size=number)
        lengths = sizes[chosen]
        ends = np.cumsum(lengths)
        # Row numbers of each chosen image, one image after the other, without a loop over images.
        places = np.arange(ends[-1]) + np.repeat(starts[chosen] - (ends - lengths), lengths)
        drawn[at] = metric(order[places])
    return interval(value, drawn, level)


def resampled_sums(
    values: ArrayLike, clusters: Sequence[str] | NDArray[np.generic], repeats: int = REPEATS, seed: int = 0
) -> tuple[Floats, Floats]:
    """Column sums of `values` (N, K) over all rows, (K,), and over each of the bootstrap's draws of images, (repeats, K).

    The fast way to intervals of anything made of sums: means, ratios, balanced accuracy, averages of those.
    All columns see the same draws.
    """
    columns = np.asarray(values, dtype=np.float64)
    codes, number = _codes(clusters)
    if columns.ndim != 2 or len(columns) != len(codes):
        raise InputError(
            f"expected one line of values for each of {len(codes)} rows, got an array of shape {columns.shape}"
        )
    sums = np.zeros((number, columns.shape[1]))
    np.add.at(sums, codes, columns)
    random = np.random.default_rng(seed)
    drawn = np.empty((repeats, columns.shape[1]))
    step = max(1, _AT_ONCE // number)
    for start in range(0, repeats, step):
        times = [
            np.bincount(random.integers(number, size=number), minlength=number)
            for _ in range(min(step, repeats - start))
        ]
        drawn[start : start + len(times)] = np.stack(times).astype(np.float64) @ sums
    return sums.sum(axis=0), drawn


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    clusters: Sequence[str] | NDArray[np.generic],
    repeats: int = REPEATS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """The bootstrap of the ratio of two sums, each row's (N,); of a mean when all denominators are 1.

    Raises `InputError` when the denominators sum to 0.
    """
    stacked = np.stack(
        [np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)], axis=1
    )
    total, drawn = resampled_sums(stacked, clusters, repeats, seed)
    if total[1] == 0:
        raise InputError(
            "the denominators sum to 0, so the ratio has no value; ask for it only where it is defined"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = drawn[:, 0] / drawn[:, 1]
    return interval(float(total[0] / total[1]), ratios, level)


def interval(value: float, drawn: Floats, level: float = LEVEL) -> Interval:
    """The percentile interval of resampled values (repeats,); what is not finite is counted and left out."""
    defined = drawn[np.isfinite(drawn)]
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (value, value)
    return Interval(value=float(value), low=float(low), high=float(high), undefined=len(drawn) - len(defined))


def compare(
    first: ArrayLike, second: ArrayLike, clusters: Sequence[str] | NDArray[np.generic], seed: int = 0
) -> Paired:
    """Two runs on the same rows: `first` and `second` say for each row whether it is right, (N,); `clusters` names its image."""
    a, b = np.asarray(first, dtype=np.bool_), np.asarray(second, dtype=np.bool_)
    codes, number = _codes(clusters)
    if not len(a) == len(b) == len(codes):
        raise InputError(
            f"paired runs have the same rows, got {len(a)}, {len(b)} and {len(codes)} images of rows"
        )
    gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
    differences = b.astype(np.float64) - a
    return Paired(
        rows=len(a),
        clusters=number,
        gained=gained,
        lost=lost,
        difference=bootstrap_ratio(differences, np.ones(len(a)), codes, seed=seed),
        p_mcnemar=mcnemar(gained, lost),
        p_cluster=cluster_permutation(differences, codes, seed=seed),
        correlation=intra_cluster_correlation(differences, codes),
    )


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided exact p-value of McNemar's test (McNemar 1947): of the rows that differ, half should fall on either side."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def cluster_permutation(
    differences: ArrayLike,
    clusters: Sequence[str] | NDArray[np.generic],
    repeats: int = 10_000,
    seed: int = 0,
) -> float:
    """The two-sided p-value of the sum of paired differences (N,) when the two runs are swapped image by image.

    Monte Carlo with the observed order counted among the draws, so that it is never 0 (Phipson and Smyth
    2010).
    """
    codes, number = _codes(clusters)
    sums = np.bincount(codes, weights=np.asarray(differences, dtype=np.float64), minlength=number)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    seen, reached = abs(float(sums.sum())), 0
    random = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // len(sums))
    for start in range(0, repeats, step):
        signs = random.integers(2, size=(min(step, repeats - start), len(sums)), dtype=np.int8)
        reached += int((np.abs((2.0 * signs - 1.0) @ sums) >= seen - 1e-9).sum())
    return (reached + 1) / (repeats + 1)


def intra_cluster_correlation(values: ArrayLike, clusters: Sequence[str] | NDArray[np.generic]) -> float:
    """How much rows of one image go together: 1 = always, 0 = not more than rows of two images (one-way analysis of variance).

    0 where it cannot be estimated: fewer than two images, one row an image, or no variance. Source: Donner
    1986, equation for the estimator from mean squares with unequal cluster sizes.
    """
    rows = np.asarray(values, dtype=np.float64)
    codes, number = _codes(clusters)
    total = len(rows)
    if number < 2 or total == number:
        return 0.0
    sizes = np.bincount(codes, minlength=number).astype(np.float64)
    means = np.bincount(codes, weights=rows, minlength=number) / sizes
    between = float((sizes * (means - rows.mean()) ** 2).sum()) / (number - 1)
    within = float(((rows - means[codes]) ** 2).sum()) / (total - number)
    size = (total - float((sizes**2).sum()) / total) / (number - 1)
    spread = between + (size - 1) * within
    return 0.0 if spread == 0 else (between - within) / spread


def questions_needed(
    points: float,
    discordance: float,
    correlation: float = 0.0,
    per_image: float = 1.0,
    power: float = 0.8,
    level: float = LEVEL,
) -> int:
    """How many questions show a difference of `points` percentage points between two runs, with a chance of `power`.

    `discordance` is the share of questions on which the runs differ, `correlation` that of the differences
    within an image, `per_image` the number of questions an image. Source: Connor 1987 for McNemar's test,
    times the design effect 1 + (m - 1) rho of Kish 1965; a negative correlation counts as 0. Raises
    `InputError` where runs that differ so seldom cannot be so far apart.
    """
    from scipy.stats import norm

    share = points / 100
    if not 0 < share <= discordance:
        raise InputError(
            f"runs that differ on {discordance:.1%} of the questions can be more than 0 and at most {100 * discordance:.3g} points apart, "
            f"not {points:g}; ask for a smaller difference"
        )
    quantile, reach = float(norm.ppf(1 - (1 - level) / 2)), float(norm.ppf(power))
    single = ((quantile * math.sqrt(discordance) + reach * math.sqrt(discordance - share**2)) / share) ** 2
    return math.ceil(single * (1 + max(per_image - 1, 0.0) * max(correlation, 0.0)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many there are (Holm 1979), in their own order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _codes(clusters: Sequence[str] | NDArray[np.generic]) -> tuple[Indices, int]:
    """The number of each row's cluster, (N,), and how many clusters there are."""
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    if not len(names):
        raise InputError("there are no rows, so there is nothing to count; expected at least one")
    return codes.astype(np.intp).ravel(), len(names)
