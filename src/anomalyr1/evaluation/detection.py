"""How well scores and verdicts tell anomalous images from good ones, overall and per category.

Rates of a score are over the images that have one; the others are counted as `unscored`. A verdict "unsure"
is right for neither class. The best thresholds (F1, balanced accuracy) are chosen on the very images they are
measured on, as the field does: they are upper bounds of what a threshold chosen beforehand reaches
(`anomalyr1 calibrate` chooses one).

Intervals hold with few images, too. Rates of verdicts have exact ones (Clopper and Pearson 1934). Figures of
scores have the percentile interval of a Bayesian bootstrap (Rubin 1981) within each kind, in which one more
image of each kind takes part: at its low end the worst possible (an anomalous image that scores below all, a
good one above all), at its high end the best. For a share this is Clopper and Pearson's interval, for a mean
that of Gaffke (2005; Learned-Miller and Thomas 2019, arXiv:1905.06208), which assumes nothing about scores:
2 anomalous images that score above all good ones leave an AUROC down to 0.15 possible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from anomalyr1.boxes import Bools, Floats
from anomalyr1.evaluation import curves
from anomalyr1.evaluation.curves import Counts
from anomalyr1.evaluation.statistics import LEVEL, REPEATS, Interval, batch_sizes, proportion
from anomalyr1.types import Inspection, Record, Sample, Verdict

Pair = tuple[Sample, Inspection]

VERDICTS: tuple[Verdict, ...] = ("good", "defect", "unsure")


class Detection(Record):
    """Figures of one group of images; None where they are not defined: no score, or only one class."""

    images: int
    """Images whose truth is known."""
    good: int
    anomalous: int
    unscored: int
    """Images without a score; they are in the figures of verdicts, not in those of scores."""
    failed: int
    """Inspections with an error; their verdict is "unsure"."""
    verdicts: dict[str, dict[Verdict, int]]
    """Truth ("good", "anomalous") -> verdict -> images."""
    auroc: Interval | None = None
    average_precision: Interval | None = None
    f1_max: Interval | None = None
    f1_threshold: float | None = None
    """Score from which an image is called anomalous at the best F1."""
    balanced_accuracy: Interval | None = None
    """Balanced accuracy of the verdicts."""
    balanced_accuracy_max: Interval | None = None
    """Balanced accuracy of the score at its best threshold."""
    fpr_at_95_tpr: Interval | None = None
    """Share of good images called anomalous when 95 % of the anomalous ones are found."""
    calibration_error: Interval | None = None
    """Expected calibration error of the scores as probabilities; ten bins of equal size."""
    miss_rate: Interval | None = None
    """Anomalous images whose verdict is "good"."""
    overkill_rate: Interval | None = None
    """Good images whose verdict is "defect"."""
    cost_x: tuple[float, ...] = ()
    cost_y: tuple[float, ...] = ()
    """The cost curve: see `curves.cost_curve`."""


class DetectionReport(Record):
    """Figures of all images and of each category."""

    overall: Detection
    categories: dict[str, Detection]
    category_means: dict[str, float]
    """Figure -> mean over the categories that have it, as published tables average."""
    without_truth: int
    """Inspections whose sample does not say whether it is anomalous."""


FIGURES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1_max": "F1-max",
    "balanced_accuracy": "balanced accuracy of verdicts",
    "balanced_accuracy_max": "balanced accuracy, best threshold",
    "fpr_at_95_tpr": "FPR at 95 % TPR",
    "calibration_error": "calibration error",
    "miss_rate": "miss rate",
    "overkill_rate": "overkill rate",
}
"""The fields of `Detection` that have an interval, and what tables call them."""

SCORE_FIGURES: dict[str, Callable[[Counts], Floats]] = {
    "auroc": curves.roc_area,
    "average_precision": curves.average_precision,
    "f1_max": lambda counts: curves.f1(counts).max(axis=-1),
    "balanced_accuracy_max": lambda counts: curves.balanced_accuracy(counts).max(axis=-1),
    "fpr_at_95_tpr": curves.lowest_fallout,
}


def detect(pairs: Sequence[Pair], repeats: int = REPEATS, seed: int = 0) -> DetectionReport:
    """Figures of samples with their inspections; intervals are over images."""
    labelled = [pair for pair in pairs if pair[0].anomalous is not None]
    groups: dict[str, list[Pair]] = {}
    for pair in labelled:
        groups.setdefault(pair[0].class_name, []).append(pair)
    categories = {name: measure(group, repeats, seed) for name, group in sorted(groups.items())}
    return DetectionReport(
        overall=measure(labelled, repeats, seed),
        categories=categories,
        category_means=_means(list(categories.values())),
        without_truth=len(pairs) - len(labelled),
    )


def measure(pairs: Sequence[Pair], repeats: int = REPEATS, seed: int = 0) -> Detection:
    """Figures of one group, whose truth is known."""
    truth = np.array([bool(sample.anomalous) for sample, _ in pairs], dtype=np.bool_)
    verdicts = np.array([inspection.verdict for _, inspection in pairs], dtype=np.str_)
    scores, positive = scored(pairs)
    figures: dict[str, object] = {
        **_verdict_figures(truth, verdicts, repeats, seed),
        **_score_figures(scores, positive, repeats, seed),
    }
    if "f1_max" in figures:
        counts = curves.count(scores, positive)
        figures["f1_threshold"] = float(counts.levels[int(np.nanargmax(curves.f1(counts))) - 1])
        figures["cost_x"], figures["cost_y"] = (tuple(map(float, axis)) for axis in curves.cost_curve(counts))
    return Detection.model_validate(
        {
            "images": len(pairs),
            "good": int((~truth).sum()),
            "anomalous": int(truth.sum()),
            "unscored": len(pairs) - len(scores),
            "failed": sum(inspection.error is not None for _, inspection in pairs),
            "verdicts": {"good": _tally(verdicts[~truth]), "anomalous": _tally(verdicts[truth])},
            **figures,
        }
    )


def scored(pairs: Sequence[Pair]) -> tuple[Floats, Bools]:
    """(N,) scores and whether the image is anomalous, of the pairs that have both."""
    scores, truths = [], []
    for sample, inspection in pairs:
        if inspection.error is None and inspection.score is not None and sample.anomalous is not None:
            scores.append(inspection.score)
            truths.append(sample.anomalous)
    return np.array(scores, dtype=np.float64), np.array(truths, dtype=np.bool_)


def _means(categories: Sequence[Detection]) -> dict[str, float]:
    """The mean of each figure over the categories that have it."""
    means = {}
    for name in FIGURES:
        figures: list[Interval | None] = [getattr(category, name) for category in categories]
        values = [figure.value for figure in figures if figure is not None]
        if values:
            means[name] = float(np.mean(values))
    return means


def _tally(verdicts: NDArray[np.str_]) -> dict[Verdict, int]:
    return {verdict: int((verdicts == verdict).sum()) for verdict in VERDICTS}


def _score_figures(scores: Floats, truth: Bools, repeats: int, seed: int) -> dict[str, Interval]:
    """The figures of (N,) scores; none when all images are alike."""
    if not (truth.any() and (~truth).any()):
        return {}
    # 1. The figures of all images.
    counts = curves.count(scores, truth)
    values = {name: float(figure(counts)) for name, figure in SCORE_FIGURES.items()}
    values["calibration_error"] = curves.calibration_error(scores, truth)
    # 2. The same figures, with other weights of the images and one more image of each kind at either end.
    generator = np.random.default_rng(seed)
    below, above = scores.min() - 1, scores.max() + 1
    truths = np.append(truth, [True, False])  # (N + 2,)
    worst, best = np.append(scores, [below, above]), np.append(scores, [above, below])
    drawn: list[dict[str, Floats]] = []
    for size in batch_sizes(repeats, len(truths)):
        weights = _draw_weights(generator, truths, size)  # (R, N + 2)
        drawn += [_weighted_figures(scores_of_world, truths, weights) for scores_of_world in (worst, best)]
    # 3. Intervals from the lower end of the one to the higher end of the other, whichever that is.
    tail = (1 - LEVEL) / 2
    intervals = {}
    for name, value in values.items():
        worlds = [np.concatenate([figures[name] for figures in drawn[start::2]]) for start in (0, 1)]
        ends = np.quantile(np.stack(worlds), [tail, 1 - tail], axis=1)  # (2, 2)
        low, high = min(value, max(0.0, ends[0].min())), max(value, min(1.0, ends[1].max()))  # rounded sums
        intervals[name] = Interval(value=value, low=float(low), high=float(high))
    return intervals


def _draw_weights(generator: np.random.Generator, truth: Bools, repeats: int) -> Floats:
    """(repeats, N) weights of images: of each kind uniform among all that sum to the number of its images."""
    weights = generator.standard_exponential((repeats, len(truth)))
    for kind in (truth, ~truth):
        weights[:, kind] *= kind.sum() / weights[:, kind].sum(axis=1, keepdims=True)
    return weights


def _weighted_figures(scores: Floats, truth: Bools, weights: Floats) -> dict[str, Floats]:
    """Each figure of (N,) scores under weights (R, N): (R,)."""
    counts = curves.count(scores, truth, weights)
    figures = {name: figure(counts) for name, figure in SCORE_FIGURES.items()}
    figures["calibration_error"] = curves.calibration_errors(np.clip(scores, 0, 1), truth, weights)
    return figures


def _verdict_figures(
    truth: Bools, verdicts: NDArray[np.str_], repeats: int, seed: int
) -> dict[str, Interval]:
    """The figures of (N,) verdicts that are defined."""
    if not len(truth):
        return {}
    anomalous, good = int(truth.sum()), int((~truth).sum())
    figures = {}
    if anomalous:
        figures["miss_rate"] = proportion(int((truth & (verdicts == "good")).sum()), anomalous)
    if good:
        figures["overkill_rate"] = proportion(int((~truth & (verdicts == "defect")).sum()), good)
    if anomalous and good:
        hits, passes = int((truth & (verdicts == "defect")).sum()), int((~truth & (verdicts == "good")).sum())
        figures["balanced_accuracy"] = _mean_of_shares((hits, anomalous), (passes, good), repeats, seed)
    return figures


def _mean_of_shares(hits: tuple[int, int], passes: tuple[int, int], repeats: int, seed: int) -> Interval:
    """The mean of two shares, each (events, images), with the interval that the module's text describes."""
    generator = np.random.default_rng(seed)
    lows, highs = np.zeros(repeats), np.zeros(repeats)
    for events, images in (hits, passes):
        lows += generator.beta(events, images - events + 1, repeats) / 2 if events else 0
        highs += generator.beta(events + 1, images - events, repeats) / 2 if events < images else 0.5
    value = (hits[0] / hits[1] + passes[0] / passes[1]) / 2
    tail = (1 - LEVEL) / 2
    low, high = float(np.quantile(lows, tail)), float(np.quantile(highs, 1 - tail))
    return Interval(value=value, low=min(value, low), high=max(value, high))
