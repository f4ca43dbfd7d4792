"""Detection figures equal scikit-learn's, intervals hold the truth, and nothing is dropped silently."""

import numpy as np
import pytest
from sklearn import metrics

from anomalyr1.evaluation import curves, detection
from anomalyr1.evaluation.pairing import pair
from anomalyr1.types import InputError, Inspection, Sample


def case(seed):
    """Scores with ties and a truth that they follow a little; both classes are there."""
    random = np.random.default_rng(seed)
    n = int(random.integers(4, 200))
    truth = random.random(n) < random.uniform(0.1, 0.9)
    truth[:2] = True, False
    scores = np.clip(random.normal(0.4 + 0.2 * truth, 0.2), 0, 1)
    return np.round(scores, int(random.integers(1, 5))), truth


def pairs_of(scores, truth, verdicts=None, category="plate"):
    return [
        (
            Sample(
                id=f"{i}",
                image=f"{i}.png",
                category=category,
                anomalous=None if known is None else bool(known),
            ),
            Inspection(
                sample_id=f"{i}",
                verdict="unsure" if verdicts is None else verdicts[i],
                score=score,
                reason="r",
            ),
        )
        for i, (score, known) in enumerate(zip(scores, truth, strict=True))
    ]


@pytest.mark.parametrize("seed", range(50))
def test_figures_equal_scikit_learn(seed):
    scores, truth = case(seed)
    found = detection.measure(pairs_of(scores.tolist(), truth), repeats=2)
    precision, recall, _ = metrics.precision_recall_curve(truth, scores)
    fpr, tpr, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    f1 = [metrics.f1_score(truth, scores >= level) for level in np.unique(scores)]
    balanced = [metrics.balanced_accuracy_score(truth, scores >= level) for level in [*np.unique(scores), 2]]
    expected = {
        "auroc": metrics.roc_auc_score(truth, scores),
        "average_precision": metrics.average_precision_score(truth, scores),
        "f1_max": max(f1),
        "balanced_accuracy_max": max(balanced),
        "fpr_at_95_tpr": fpr[tpr >= 0.95 - 1e-12].min(),
        "calibration_error": curves.calibration_error(scores, truth),
    }
    for name, value in expected.items():
        assert getattr(found, name).value == pytest.approx(value, abs=1e-12), name
    assert metrics.f1_score(truth, scores >= found.f1_threshold) == pytest.approx(max(f1), abs=1e-12)
    assert curves.auroc(scores, truth) == pytest.approx(found.auroc.value, abs=1e-12)
    counts = curves.count(scores, truth)
    np.testing.assert_allclose(counts.recall, tpr, atol=1e-12)
    np.testing.assert_allclose(counts.fallout, fpr, atol=1e-12)
    np.testing.assert_allclose(counts.precision[1:][::-1], precision[:-1][-len(counts.levels) :], atol=1e-12)
    np.testing.assert_allclose(counts.recall[1:][::-1], recall[:-1], atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_weights_are_repeated_rows(seed):
    scores, truth = case(seed)
    times = np.random.default_rng(seed).multinomial(
        len(scores), np.full(len(scores), 1 / len(scores)), size=3
    )
    together = curves.count(scores, truth, times)
    for i, row in enumerate(times):
        rows = np.repeat(np.arange(len(scores)), row)
        if truth[rows].all() or not truth[rows].any():
            assert np.isnan(curves.roc_area(together)[i])
            continue
        assert curves.roc_area(together)[i] == pytest.approx(
            metrics.roc_auc_score(truth[rows], scores[rows]), abs=1e-12
        )
        assert curves.average_precision(together)[i] == pytest.approx(
            metrics.average_precision_score(truth[rows], scores[rows]), abs=1e-12
        )


def test_verdicts_count_unsure_as_wrong_for_both():
    truth = [True] * 4 + [False] * 4
    verdicts = ["defect", "defect", "good", "unsure", "good", "good", "good", "unsure"]
    found = detection.measure(pairs_of([None] * 8, truth, verdicts))
    assert found.balanced_accuracy.value == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert (found.miss_rate.value, found.overkill_rate.value) == (0.25, 0)
    assert found.verdicts == {
        "good": {"good": 3, "defect": 0, "unsure": 1},
        "anomalous": {"good": 1, "defect": 2, "unsure": 1},
    }
    assert found.unscored == 8 and found.auroc is None and found.cost_x == ()


def test_what_cannot_be_used_is_counted():
    pairs = pairs_of([0.1, None, 0.9, 0.4], [False, False, True, None])
    pairs[0] = (
        pairs[0][0],
        Inspection(sample_id="0", verdict="unsure", reason="r", error="broken", score=0.1),
    )
    found = detection.detect(pairs, repeats=5)
    assert found.without_truth == 1
    assert (found.overall.images, found.overall.unscored, found.overall.failed) == (3, 2, 1)
    assert found.overall.auroc is None  # the only scored image is anomalous


def test_categories_and_their_mean():
    one, two = (
        pairs_of([0.1, 0.9], [False, True], category="a"),
        pairs_of([0.8, 0.2], [False, True], category="b"),
    )
    found = detection.detect([*one, *two, *pairs_of([0.5], [True], category="c")], repeats=5)
    assert {name: part.auroc and part.auroc.value for name, part in found.categories.items()} == {
        "a": 1,
        "b": 0,
        "c": None,
    }
    assert found.category_means["auroc"] == 0.5
    assert found.overall.auroc.value == pytest.approx(
        metrics.roc_auc_score([0, 1, 0, 1, 1], [0.1, 0.9, 0.8, 0.2, 0.5])
    )


def test_intervals_cover():
    """Of 100 samples of a known world, the 95 % interval of AUROC holds its true value about 95 times."""
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        truth = np.arange(120) < 50
        scores = 1 / (1 + np.exp(-random.normal(truth * 1.0, 1)))
        found = detection.measure(pairs_of(scores.tolist(), truth), repeats=200, seed=seed).auroc
        held += found.low <= 0.7602 <= found.high  # Phi(1 / sqrt(2))
    assert 88 <= held <= 100


def test_two_anomalous_images_do_not_make_a_figure_certain():
    """12 good and 2 anomalous images, all right: every interval says how little that is."""
    truth = np.arange(14) >= 12
    scores = np.where(truth, 0.95, 0.05) + np.arange(14) / 1000
    verdicts = ["defect" if bad else "good" for bad in truth]
    found = detection.measure(pairs_of(scores.tolist(), truth, verdicts))
    assert (found.miss_rate.value, found.miss_rate.low) == (0, 0)
    assert found.miss_rate.high == pytest.approx(0.842, abs=0.001)  # Clopper and Pearson, 0 of 2
    assert found.overkill_rate.high == pytest.approx(0.265, abs=0.001)  # 0 of 12
    assert (found.auroc.value, found.auroc.high) == (1, 1)
    assert found.auroc.low == pytest.approx(0.15, abs=0.02)
    for name in ("average_precision", "f1_max", "balanced_accuracy", "balanced_accuracy_max"):
        figure = getattr(found, name)
        assert (figure.value, figure.high) == (1, 1)
        assert figure.low < 0.6, name
    assert (found.fpr_at_95_tpr.value, found.fpr_at_95_tpr.high) == (0, 1)
    assert found.calibration_error.high > 0.3


def coverage(interval_of, defects, good, area):
    """How often of 40 an interval of AUROC holds its true value, where some defects look like good parts."""
    held = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        visible = random.random(defects) < 2 * area - 1
        scores = np.concatenate([random.random(defects) / 2 + visible / 2, random.random(good) / 2])
        low, high = interval_of(scores, np.arange(defects + good) < defects, seed)
        held += low <= area <= high
    return held / 40


@pytest.mark.parametrize(("defects", "good"), [(2, 12), (5, 60), (20, 20)])
@pytest.mark.parametrize("area", [0.7, 0.95])
def test_intervals_of_few_images_cover(defects, good, area):
    def ours(scores, truth, seed):
        found = detection.measure(pairs_of(scores.tolist(), truth), 200, seed).auroc
        return found.low, found.high

    assert coverage(ours, defects, good, area) >= 0.9


def test_a_percentile_bootstrap_of_few_images_does_not_cover():
    """The control: what stood here before held the true AUROC in fewer than half of the samples."""

    def bootstrap(scores, truth, seed):
        times = np.random.default_rng(seed).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), 200)
        areas = curves.roc_area(curves.count(scores, truth, times))
        return np.quantile(areas[np.isfinite(areas)], [0.025, 0.975])

    assert coverage(bootstrap, 2, 12, 0.95) < 0.5


def test_the_cost_curve():
    scores, truth = np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True])
    x, y = curves.cost_curve(curves.count(scores, truth), 5)
    np.testing.assert_allclose(x, [0, 0.25, 0.5, 0.75, 1])
    # Thresholds give (miss, false alarm) = (1, 0), (.5, 0), (.5, .5), (0, .5), (0, 1).
    lines = [(1, 0), (0.5, 0), (0.5, 0.5), (0, 0.5), (0, 1)]
    np.testing.assert_allclose(y, [min(m * p + a * (1 - p) for m, a in lines) for p in x])


def test_pairs_by_id_or_path(tmp_path):
    inspections = [
        Inspection(sample_id=name, verdict="good")
        for name in ("one", (tmp_path / "b.png").as_posix(), "stranger")
    ]
    samples = [
        Sample(id="one", image="x.png", dataset="d", category="c"),
        Sample(id="two", image=tmp_path / "b.png"),
        Sample(id="z", image="z"),
    ]
    found = pair(samples, inspections)
    assert [(sample.id, one.sample_id) for sample, one in found.known] == [
        ("one", "one"),
        ("two", inspections[1].sample_id),
    ]
    assert found.left_out == {"inspections without a sample": 1, "samples without an inspection": 1}
    assert [sample.class_name for sample in samples] == ["d/c", "(no class)", "(no class)"]
    with pytest.raises(InputError, match="none of 3 inspections"):
        pair(samples[2:], inspections)
    with pytest.raises(InputError, match="two samples"):
        pair([samples[0], samples[0]], inspections)


def test_calibration_errors_of_draws_are_those_of_the_drawn_rows():
    random = np.random.default_rng(4)
    for rows in (3, 10, 37):
        scores = np.round(random.random(rows), 1)
        truth = random.random(rows) < scores
        times = random.multinomial(rows, np.full(rows, 1 / rows), size=50)
        drawn = [np.repeat(np.arange(rows), line) for line in times]
        expected = [curves.calibration_error(scores[own], truth[own]) for own in drawn]
        assert curves.calibration_errors(scores, truth, times) == pytest.approx(expected, abs=1e-12)
