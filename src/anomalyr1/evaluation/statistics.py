"""How sure a figure is, and whether two runs differ: bootstrap by image, paired tests, number of questions.

Questions about one image share its picture, so they are right or wrong together more often than chance has
it. Everything here therefore draws, swaps or weighs whole images (*clusters*); only McNemar's test, for one
item an image, takes each row for itself.

A share of images that are each counted once has its exact interval. Where a bootstrap has no width (all
right, all wrong), the exact bound for what none of the images showed takes its place (`interval`).

Limits: the percentile bootstrap of other figures is too narrow with few images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomalyr1.boxes import Floats
from anomalyr1.types import InputError, Record

Indices = NDArray[np.intp]
Clusters = Sequence[str] | NDArray[np.generic]
"""The image that each row is about, (N,)."""

REPEATS = 2000
LEVEL = 0.95
"""How sure intervals are."""
FEW = 10
"""With fewer images of a kind, good or anomalous, a figure says almost nothing."""
POWER = 0.8
"""The chance with which a difference is to be shown."""
_MOST_NUMBERS = 1 << 21
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
    """How many images the rows are about."""
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


def draw_images(images: int, repeats: int = REPEATS, seed: int = 0) -> Iterator[Indices]:
    """The bootstrap's draws: (R, images) the images of R resamples, drawn with replacement.

    `repeats` resamples in all, in batches that fit into memory; how many batches does not change the draws.
    """
    generator = np.random.default_rng(seed)
    for size in batch_sizes(repeats, images):
        yield generator.integers(images, size=(size, images))


def count_draws(draws: Indices) -> Indices:
    """(R, images) how often each image is in each of the resamples (R, images)."""
    return np.stack([np.bincount(resample, minlength=len(resample)) for resample in draws])


def draw_counts(generator: np.random.Generator, rows: int, repeats: int) -> Indices:
    """(repeats, rows) how often each row is in each resample, where every row is an image of its own.

    The same distribution as `count_draws(draw_images(...))`, drawn in one call; each line sums to `rows`.
    """
    return generator.multinomial(rows, np.full(rows, 1 / rows), size=repeats).astype(np.intp, copy=False)


def batch_sizes(repeats: int, width: int) -> Iterator[int]:
    """Sizes of batches that sum to `repeats`, so that `width` numbers a resample fit into memory."""
    step = max(1, _MOST_NUMBERS // width)
    for start in range(0, repeats, step):
        yield min(step, repeats - start)


def resampled_sums(
    values: ArrayLike, clusters: Clusters, repeats: int = REPEATS, seed: int = 0
) -> tuple[Floats, Floats]:
    """Column sums of `values` (N, K) over all rows, (K,), and over the rows of each resample, (repeats, K).

    The fast way to intervals of anything made of sums: means, ratios, balanced accuracy, averages of those.
    All columns see the same draws. Raises `InputError` for values of another shape.
    """
    columns = np.asarray(values, dtype=np.float64)
    codes, images = _codes(clusters)
    if columns.ndim != 2 or len(columns) != len(codes):
        raise InputError(
            f"expected one line of values for each of {len(codes)} rows, "
            f"got an array of shape {columns.shape}"
        )
    sums = np.zeros((images, columns.shape[1]))  # (images, K)
    np.add.at(sums, codes, columns)
    none = np.empty((0, columns.shape[1]))  # so that no repeats give no lines
    batches = map(count_draws, draw_images(images, repeats, seed))
    return sums.sum(axis=0), np.vstack([none, *(counts.astype(np.float64) @ sums for counts in batches)])


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    clusters: Clusters,
    repeats: int = REPEATS,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """The bootstrap of the ratio of two sums, each row's (N,); of a mean when all denominators are 1.

    `bounds` are the least and the largest ratio that a row can have. A share of rows that are each about an
    image of their own has its exact interval. Raises `InputError` when the denominators sum to 0.
    """
    top, bottom = (np.asarray(part, dtype=np.float64) for part in (numerators, denominators))
    images = _codes(clusters)[1]
    if bounds[0] == 0 and images == len(top) and (bottom == 1).all() and np.isin(top, bounds).all():
        return proportion(int((top > 0).sum()), images, bounds[1])
    total, resampled = resampled_sums(np.stack([top, bottom], axis=1), clusters, repeats, seed)
    if total[1] == 0:
        raise InputError(
            "the denominators sum to 0, so the ratio has no value; ask for it only where it is defined"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = resampled[:, 0] / resampled[:, 1]
    return interval(float(total[0] / total[1]), ratios, images, bounds)


def interval(
    value: float, resampled: Floats, images: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """The percentile interval of resampled values (repeats,); what is not finite is counted and left out.

    Where it has no width: an image unlike all `images` may still come, with a chance of up to
    1 - 0.025^(1 / images), and have any value within `bounds`. For a share of 0 or 1 this is the interval of
    Clopper and Pearson.
    """
    defined = resampled[np.isfinite(resampled)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (value, value)
    if high - low <= 1e-9 * (bounds[1] - bounds[0]):
        chance = 1 - tail ** (1 / images)
        low, high = value - chance * (value - bounds[0]), value + chance * (bounds[1] - value)
    undefined = len(resampled) - len(defined)
    return Interval(value=float(value), low=float(low), high=float(high), undefined=undefined)


def proportion(events: int, images: int, whole: float = 1.0) -> Interval:
    """The share of `images` that are `events`, with its exact interval; `whole` is what a share of 1 is.

    Source: Clopper and Pearson 1934.
    """
    from scipy.special import betaincinv

    tail = (1 - LEVEL) / 2
    low = float(betaincinv(events, images - events + 1, tail)) if events else 0.0
    high = float(betaincinv(events + 1, images - events, 1 - tail)) if events < images else 1.0
    return Interval(value=whole * events / images, low=whole * low, high=whole * high)


def warn_of_few(images: Mapping[str, int]) -> str:
    """What must be known of figures of so many images by kind ("good images"); empty where enough."""
    few = [
        f"{number or 'no'} {kind.removesuffix('s') if number == 1 else kind}"
        for kind, number in images.items()
        if number < FEW
    ]
    if not few:
        return ""
    return (
        f"only {' and '.join(few)}: fewer than {FEW} say almost nothing; "
        "believe the intervals, not the figures"
    )


def compare(before: ArrayLike, after: ArrayLike, clusters: Clusters, seed: int = 0) -> Paired:
    """Two runs on the same rows; `before` and `after` say of each row whether the run has it right, (N,).

    Raises `InputError` when the numbers of rows differ.
    """
    was_right, is_right = np.asarray(before, dtype=np.bool_), np.asarray(after, dtype=np.bool_)
    codes, images = _codes(clusters)
    if not len(was_right) == len(is_right) == len(codes):
        raise InputError(
            f"paired runs have the same rows, got {len(was_right)}, {len(is_right)} "
            f"and {len(codes)} images of rows"
        )
    gained, lost = int((is_right & ~was_right).sum()), int((was_right & ~is_right).sum())
    differences = is_right.astype(np.float64) - was_right
    return Paired(
        rows=len(codes),
        clusters=images,
        gained=gained,
        lost=lost,
        difference=bootstrap_ratio(differences, np.ones(len(codes)), codes, seed=seed, bounds=(-1, 1)),
        p_mcnemar=mcnemar(gained, lost),
        p_cluster=cluster_permutation(differences, codes, seed=seed),
        correlation=intra_cluster_correlation(differences, codes),
    )


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided exact p-value of McNemar's test (1947): half of the rows that differ should be gained."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def cluster_permutation(
    differences: ArrayLike, clusters: Clusters, repeats: int = 10_000, seed: int = 0
) -> float:
    """The two-sided p-value of the sum of paired differences (N,), by swapping the two runs image by image.

    Monte Carlo with the observed order counted among the draws, so that it is never 0 (Phipson and Smyth
    2010).
    """
    codes, images = _codes(clusters)
    sums = np.bincount(codes, weights=np.asarray(differences, dtype=np.float64), minlength=images)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed, as_large = abs(float(sums.sum())), 0
    generator = np.random.default_rng(seed)
    for size in batch_sizes(repeats, len(sums)):
        signs = generator.integers(2, size=(size, len(sums)), dtype=np.int8)  # 0 swaps the runs of an image
        as_large += int((np.abs((2.0 * signs - 1.0) @ sums) >= observed - 1e-9).sum())
    return (as_large + 1) / (repeats + 1)


def intra_cluster_correlation(values: ArrayLike, clusters: Clusters) -> float:
    """How much the values (N,) of one image go together: 1 = always, 0 = no more than those of two images.

    0 where it cannot be estimated: fewer than two images, one row an image, or no variance. Source: Donner
    1986, equation for the estimator from mean squares with unequal cluster sizes (one-way analysis of
    variance).
    """
    rows = np.asarray(values, dtype=np.float64)
    codes, images = _codes(clusters)
    total = len(rows)
    if images < 2 or total == images:
        return 0.0
    sizes = np.bincount(codes, minlength=images).astype(np.float64)  # (images,)
    means = np.bincount(codes, weights=rows, minlength=images) / sizes
    between = float((sizes * (means - rows.mean()) ** 2).sum()) / (images - 1)
    within = float(((rows - means[codes]) ** 2).sum()) / (total - images)
    size = (total - float((sizes**2).sum()) / total) / (images - 1)
    spread = between + (size - 1) * within
    return 0.0 if spread == 0 else (between - within) / spread


def questions_needed(
    points: float, discordance: float, correlation: float = 0.0, per_image: float = 1.0
) -> int:
    """How many questions show a difference of `points` percentage points, with a chance of `POWER`.

    `discordance` is the share of questions on which the two runs differ, `correlation` that of the
    differences within an image, `per_image` the number of questions an image. Source: Connor 1987 for
    McNemar's test, times the design effect 1 + (m - 1) rho of Kish 1965; a negative correlation counts as 0.
    Raises `InputError` where runs that differ so seldom cannot be so far apart.
    """
    from scipy.stats import norm

    share = points / 100
    if not 0 < share <= discordance:
        raise InputError(
            f"runs that differ on {discordance:.1%} of the questions can be more than 0 and at most "
            f"{100 * discordance:.3g} points apart, not {points:g}; ask for a smaller difference"
        )
    quantile, reach = float(norm.ppf(1 - (1 - LEVEL) / 2)), float(norm.ppf(POWER))
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


def _codes(clusters: Clusters) -> tuple[Indices, int]:
    """The number of each row's image, (N,), and how many images there are."""
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    if not len(names):
        raise InputError("there are no rows, so there is nothing to count; expected at least one")
    return codes.astype(np.intp).ravel(), len(names)
