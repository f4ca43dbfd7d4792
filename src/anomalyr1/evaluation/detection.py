"""How well scores and verdicts tell anomalous images from good ones, overall and per category.

Rates of a score are over the images that have one; the others are counted as `unscored`. A verdict "unsure"
is right for neither class. The best thresholds (F1, balanced accuracy) are chosen on the very images they are
measured on, as the field does: they are upper bounds of what a threshold chosen beforehand reaches
(`anomalyr1 calibrate` chooses one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from anomalyr1.boxes import Bools, Floats
from anomalyr1.evaluation import curves
from anomalyr1.evaluation.curves import Counts
from anomalyr1.evaluation.statistics import LEVEL, REPEATS, Interval, batch_sizes, draw_counts, interval
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
    "fpr_at_95_tpr": curves.fallout_at,
}


def detect(
    pairs: Sequence[Pair], repeats: int = REPEATS, seed: int = 0, level: float = LEVEL
) -> DetectionReport:
    """Figures of samples with their inspections; intervals are percentile bootstraps over images."""
    labelled = [pair for pair in pairs if pair[0].anomalous is not None]
    groups: dict[str, list[Pair]] = {}
    for pair in labelled:
        groups.setdefault(pair[0].class_name, []).append(pair)
    categories = {name: measure(group, repeats, seed, level) for name, group in sorted(groups.items())}
    return DetectionReport(
        overall=measure(labelled, repeats, seed, level),
        categories=categories,
        category_means=_means(list(categories.values())),
        without_truth=len(pairs) - len(labelled),
    )


def measure(pairs: Sequence[Pair], repeats: int = REPEATS, seed: int = 0, level: float = LEVEL) -> Detection:
    """Figures of one group, whose truth is known."""
    truth = np.array([bool(sample.anomalous) for sample, _ in pairs], dtype=np.bool_)
    verdicts = np.array([inspection.verdict for _, inspection in pairs], dtype=np.str_)
    scores, positive = scored(pairs)
    figures: dict[str, object] = {
        **_verdict_figures(truth, verdicts, repeats, seed, level),
        **_score_figures(scores, positive, repeats, seed, level),
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


def _score_figures(
    scores: Floats, truth: Bools, repeats: int, seed: int, level: float
) -> dict[str, Interval]:
    """The figures of (N,) scores; none when all images are alike."""
    if not (truth.any() and (~truth).any()):
        return {}
    # 1. The figures of all images.
    counts = curves.count(scores, truth)
    values = {name: float(figure(counts)) for name, figure in SCORE_FIGURES.items()}
    values["calibration_error"] = curves.calibration_error(scores, truth)
    # 2. The same figures of each resample, in batches that fit into memory.
    generator = np.random.default_rng(seed)
    resampled: dict[str, list[Floats]] = {name: [] for name in values}
    for size in batch_sizes(repeats, len(scores)):
        times = draw_counts(generator, len(scores), size)  # (R, N)
        counts = curves.count(scores, truth, times)
        for name, figure in SCORE_FIGURES.items():
            resampled[name].append(figure(counts))
        resampled["calibration_error"].append(curves.calibration_errors(scores, truth, times))
    # 3. Intervals.
    return {name: interval(value, np.concatenate(resampled[name]), level) for name, value in values.items()}


def _verdict_figures(
    truth: Bools, verdicts: NDArray[np.str_], repeats: int, seed: int, level: float
) -> dict[str, Interval]:
    """The figures of (N,) verdicts that are defined."""
    if not len(truth):
        return {}
    # 1. What each image adds to the counts that the figures are made of.
    good, defect = verdicts == "good", verdicts == "defect"
    kinds = (truth, ~truth, truth & defect, ~truth & good, truth & good, ~truth & defect)
    columns = np.stack(kinds, axis=1)  # (N, 6)
    # 2. The counts of all images, and of each resample.
    total = columns.sum(axis=0, dtype=np.float64)  # (6,)
    generator = np.random.default_rng(seed)
    batches = (draw_counts(generator, len(truth), size) for size in batch_sizes(repeats, len(truth)))
    resampled = np.concatenate([times.astype(np.float64) @ columns for times in batches])  # (repeats, 6)
    # 3. Figures and intervals.
    with np.errstate(invalid="ignore", divide="ignore"):
        values, bounds = _verdict_rates(total), _verdict_rates(resampled)
    return {
        name: interval(float(value), bounds[name], level)
        for name, value in values.items()
        if np.isfinite(value)
    }


def _verdict_rates(counts: Floats) -> Mapping[str, Floats]:
    """The figures (...) of counts (..., 6); NaN where a class is missing."""
    anomalous, good, hits, passes, misses, alarms = np.moveaxis(counts, -1, 0)
    return {
        "balanced_accuracy": (hits / anomalous + passes / good) / 2,
        "miss_rate": misses / anomalous,
        "overkill_rate": alarms / good,
    }
