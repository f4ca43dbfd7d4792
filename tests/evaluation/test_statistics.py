"""Bootstrap by image, paired tests, and how many questions a difference needs."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from anomalyr1.evaluation import statistics
from anomalyr1.types import InputError


def clustered(images, per_image, rate, correlation, seed):
    """Rows that are right at a rate, and with a chance of `correlation` as their image is."""
    random = np.random.default_rng(seed)
    names = np.repeat(np.arange(images), per_image)
    shared = random.random(images)[names] < rate
    own = random.random(len(names)) < rate
    return np.where(random.random(len(names)) < math.sqrt(correlation), shared, own), names


def cluster_bootstrap(metric, clusters, repeats=2000, seed=0):
    """The general way to an interval of any figure: `metric` of the rows of the images that were drawn."""
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    rows_of = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    resampled = [
        metric(np.concatenate([rows_of[image] for image in resample]))
        for draws in statistics.draw_images(len(names), repeats, seed)
        for resample in draws
    ]
    return statistics.interval(metric(np.arange(len(codes))), np.array(resampled), len(names))


def test_the_fast_way_equals_the_general_way_draw_by_draw():
    right, names = clustered(60, 4, 0.7, 0.5, 1)
    general = cluster_bootstrap(lambda rows: float(right[rows].mean()), names, 300)
    fast = statistics.bootstrap_ratio(right, np.ones(len(right)), names, 300)
    assert (fast.value, fast.low, fast.high) == pytest.approx(
        (general.value, general.low, general.high), abs=1e-12
    )


def test_images_are_drawn_and_not_rows():
    """Rows that go together make the interval as wide as the number of images has it, not that of rows."""
    right, names = clustered(200, 5, 0.6, 1.0, 2)
    by_image = statistics.bootstrap_ratio(right, np.ones(len(right)), names)
    by_row = statistics.bootstrap_ratio(right, np.ones(len(right)), np.arange(len(right)))  # negative control
    half = 1.96 * math.sqrt(by_image.value * (1 - by_image.value) / 200)
    assert (by_image.high - by_image.low) / 2 == pytest.approx(half, rel=0.1)
    assert (by_row.high - by_row.low) / 2 == pytest.approx(half / math.sqrt(5), rel=0.1)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    held = 0
    for seed in range(300):
        right, names = clustered(120, 4, 0.7, 0.4, 1000 + seed)
        found = statistics.bootstrap_ratio(right, np.ones(len(right)), names, 400, seed)
        held += found.low <= 0.7 <= found.high
    low, high = binom.ppf([0.001, 0.999], 300, 0.94)
    assert low <= held <= high


@pytest.mark.parametrize(("events", "images"), [(0, 2), (2, 2), (1, 2), (0, 12), (3, 40), (399, 400)])
def test_a_share_of_images_has_its_exact_interval(events, images):
    right = np.arange(images) < events
    exact = binomtest(events, images).proportion_ci(0.95, "exact")
    share = statistics.bootstrap_ratio(right, np.ones(images), range(images))
    assert (share.value, share.low, share.high) == pytest.approx((events / images, exact.low, exact.high))
    percent = statistics.bootstrap_ratio(100 * right, np.ones(images), range(images), bounds=(0, 100))
    assert (percent.low, percent.high) == pytest.approx((100 * exact.low, 100 * exact.high))


@pytest.mark.parametrize(
    ("values", "bounds", "low", "high"),
    [
        ([1] * 8, (0, 1), 0.1581, 1),  # 2 images of 4 questions, all right: as 2 of 2
        ([0] * 8, (0, 100), 0, 84.19),  # all wrong, in percent
        ([0] * 8, (-1, 1), -0.8419, 0.8419),  # two runs that differ in nothing
        ([1] * 8, (-1, 1), -0.6838, 1),  # all gained
    ],
)
def test_no_interval_is_without_width(values, bounds, low, high):
    found = statistics.bootstrap_ratio(values, np.ones(8), [0] * 4 + [1] * 4, bounds=bounds)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)


def test_few_images_are_warned_of():
    assert statistics.warn_of_few({"good images": 10, "anomalous images": 10}) == ""
    warning = statistics.warn_of_few({"good images": 12, "anomalous images": 2})
    assert warning.startswith("only 2 anomalous images: fewer than 10")
    assert "1 good image and no anomalous images" in statistics.warn_of_few(
        {"good images": 1, "anomalous images": 0}
    )


def test_resamples_without_a_value_are_counted():
    defect = np.array([True, False, False, False])
    scores = np.array([0.9, 0.1, 0.2, 0.3])

    def gap(rows):
        there = defect[rows]
        return (
            float("nan")
            if there.all() or not there.any()
            else float(scores[rows][there].mean() - scores[rows][~there].mean())
        )

    found = cluster_bootstrap(gap, ["a", "b", "c", "d"], 1000)
    assert found.value == pytest.approx(0.7)
    assert found.undefined == pytest.approx(1000 * (0.75**4 + 0.25**4), abs=60)
    with pytest.raises(InputError, match="no rows"):
        statistics.bootstrap_ratio([], [], [])
    with pytest.raises(InputError, match="sum to 0"):
        statistics.bootstrap_ratio([1.0], [0.0], ["a"])


def test_the_same_seed_gives_the_same_interval_and_names_do_not_matter():
    right, names = clustered(30, 3, 0.5, 0.3, 5)
    words = np.array([f"image {name:03}" for name in names])
    one, two = (
        statistics.bootstrap_ratio(right, np.ones(len(right)), each, 200, seed=7) for each in (names, words)
    )
    assert one == two
    assert one != statistics.bootstrap_ratio(right, np.ones(len(right)), names, 200, seed=8)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 1), (10, 10), (30, 12), (0, 8)])
def test_mcnemar_is_the_exact_binomial(gained, lost):
    n = gained + lost
    expected = min(1.0, 2 * sum(math.comb(n, i) for i in range(min(gained, lost) + 1)) / 2**n)
    assert statistics.mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_the_permutation_test_equals_all_swaps():
    random = np.random.default_rng(3)
    names = np.repeat(np.arange(9), 3)
    differences = random.integers(-1, 2, len(names)).astype(float) + (names < 6)
    sums = np.array([differences[names == name].sum() for name in range(9)])
    every = np.array([np.dot(signs, sums) for signs in itertools.product((-1, 1), repeat=9)])
    exact = float((np.abs(every) >= abs(sums.sum()) - 1e-9).mean())
    assert statistics.cluster_permutation(differences, names, 40_000) == pytest.approx(exact, abs=0.01)
    assert statistics.cluster_permutation(np.zeros(4), [0, 1, 2, 3]) == 1.0


def test_the_permutation_test_does_not_cry_wolf_where_mcnemar_does():
    """Equal runs whose answers go together by image: swapped by image 5 % are found, taken row by row many
    more.
    """
    by_image, by_row = 0, 0
    for seed in range(200):
        a, names = clustered(80, 6, 0.5, 0.9, seed)
        b, _ = clustered(80, 6, 0.5, 0.9, 10_000 + seed)
        by_image += statistics.cluster_permutation(b.astype(float) - a, names, 500, seed) < 0.05
        by_row += statistics.mcnemar(int((b & ~a).sum()), int((a & ~b).sum())) < 0.05
    assert by_image <= binom.ppf(0.999, 200, 0.05)
    assert by_row > 50


def test_correlation_within_images():
    values, names = clustered(4000, 4, 0.5, 0.3, 4)
    assert statistics.intra_cluster_correlation(values, names) == pytest.approx(0.3, abs=0.03)
    together = np.repeat(np.arange(50) % 2, 4)
    assert statistics.intra_cluster_correlation(together, np.repeat(np.arange(50), 4)) == pytest.approx(1.0)
    assert statistics.intra_cluster_correlation([1, 0, 1], ["a", "b", "c"]) == 0.0


def test_questions_needed_gives_the_power_it_promises():
    """Simulated: with so many questions four of five experiments show the difference, with a quarter of them
    far fewer.
    """
    discordance, points = 0.2, 5
    needed = statistics.questions_needed(points, discordance)
    z = (norm.ppf(0.975) * math.sqrt(0.2) + norm.ppf(0.8) * math.sqrt(0.2 - 0.05**2)) / 0.05
    assert needed == math.ceil(z**2)
    random = np.random.default_rng(0)

    def power(n):
        found = random.multinomial(n, [0.125, 0.075, 0.8], size=400)
        return np.mean([statistics.mcnemar(int(gained), int(lost)) < 0.05 for gained, lost, _ in found])

    assert 0.72 < power(needed) < 0.87
    assert power(needed // 4) < 0.4
    assert statistics.questions_needed(points, discordance, 0.5, 5) == pytest.approx(3 * needed, abs=3)
    with pytest.raises(InputError, match="at most 20 points"):
        statistics.questions_needed(21, 0.2)


def test_compare_counts_both_directions():
    a = np.array([1, 1, 1, 0, 0, 1], bool)
    b = np.array([1, 0, 1, 1, 1, 1], bool)
    found = statistics.compare(a, b, ["x", "x", "y", "y", "z", "z"])
    assert (found.rows, found.clusters, found.gained, found.lost) == (6, 3, 2, 1)
    assert found.difference.value == pytest.approx(1 / 6)
    assert found.discordance == pytest.approx(0.5)
    assert statistics.compare(a, a, range(6)).p_cluster == 1.0
    with pytest.raises(InputError, match="same rows"):
        statistics.compare(a, b[:-1], range(6))


def test_holm():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_forty_thousand_rows_are_drawn_in_batches_that_fit():
    """The bootstrap of a benchmark holds no more numbers at once than it says, and draws each image once a
    resample.
    """
    sizes = [draws.shape for draws in statistics.draw_images(8000)]
    assert max(size * images for size, images in sizes) <= 1 << 21
    assert sum(size for size, _ in sizes) == statistics.REPEATS
    right, names = clustered(8000, 5, 0.7, 0.3, 6)
    _, resampled = statistics.resampled_sums(np.repeat(right[:, None], 100, axis=1), names)
    assert resampled.shape == (statistics.REPEATS, 100)
