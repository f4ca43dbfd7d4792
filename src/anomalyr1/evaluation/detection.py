"""How well scores and verdicts tell anomalous images from good ones, overall and per category.

Rates of a score are over the images that have one; the others are counted as `unscored`. A verdict "unsure"
is right for neither class. The best thresholds (F1, balanced accuracy) are chosen on the very images they are
measured on, as the field does: they are upper bounds of what a threshold chosen beforehand reaches
(`anomalyr1 calibrate` chooses one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from anomalyr1.evaluation import curves
from anomalyr1.evaluation.calibration import BINS, calibration_error
from anomalyr1.evaluation.curves import Counts, Floats
from anomalyr1.evaluation.statistics import LEVEL, REPEATS, Interval, interval
from anomalyr1.types import Inspection, Record, Sample, Verdict

Pair = tuple[Sample, Inspection]
Draws = NDArray[np.intp]

VERDICTS: tuple[Verdict, ...] = ("good", "defect", "unsure")
_AT_ONCE = 1 << 21
"""Numbers in memory together."""


class Detection(Record):
    """Figures of one group of images; None where they are not defined: no score, or only one class."""

    images: int
    """With a known truth."""
    good: int
    anomalous: int
    unscored: int
    """Of the images; they are in the verdicts' figures, not in the scores'."""
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
    """Of the verdicts."""
    balanced_accuracy_max: Interval | None = None
    """Of the score at its best threshold."""
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
    "auroc": curves.auroc,
    "average_precision": curves.average_precision,
    "f1_max": lambda counts: curves.f1(counts).max(axis=-1),
    "balanced_accuracy_max": lambda counts: curves.balanced_accuracy(counts).max(axis=-1),
    "fpr_at_95_tpr": curves.fallout_at,
}


def detect(
    pairs: Sequence[Pair], repeats: int = REPEATS, seed: int = 0, level: float = LEVEL
) -> DetectionReport:
    """Figures of samples with their inspections; intervals are percentile bootstraps over images."""
    known = [pair for pair in pairs if pair[0].anomalous is not None]
    groups: dict[str, list[Pair]] = {}
    for pair in known:
        groups.setdefault(pair[0].class_name, []).append(pair)
    categories = {name: measure(group, repeats, seed, level) for name, group in sorted(groups.items())}
    means = {}
    for figure in FIGURES:
        found = [value.value for one in categories.values() if (value := getattr(one, figure)) is not None]
        if found:
            means[figure] = float(np.mean(found))
    return DetectionReport(
        overall=measure(known, repeats, seed, level),
        categories=categories,
        category_means=means,
        without_truth=len(pairs) - len(known),
    )


def measure(pairs: Sequence[Pair], repeats: int = REPEATS, seed: int = 0, level: float = LEVEL) -> Detection:
    """Figures of one group, whose truth is known."""
    truth = np.array([bool(sample.anomalous) for sample, _ in pairs], dtype=np.bool_)
    verdicts = np.array([one.verdict for _, one in pairs], dtype=np.str_)
    kinds = {"good": ~truth, "anomalous": truth}
    scores, positive = scored(pairs)
    figures = _of_verdicts(truth, verdicts, repeats, seed, level) | _of_scores(
        scores, positive, repeats, seed, level
    )
    more: dict[str, object] = {}
    if "f1_max" in figures:
        counts = curves.count(scores, positive)
        more["f1_threshold"] = float(counts.levels[int(np.nanargmax(curves.f1(counts))) - 1])
        more["cost_x"], more["cost_y"] = (tuple(map(float, axis)) for axis in curves.cost_curve(counts))
    return Detection.model_validate(
        {
            "images": len(pairs),
            "good": int((~truth).sum()),
            "anomalous": int(truth.sum()),
            "unscored": len(pairs) - len(scores),
            "failed": sum(one.error is not None for _, one in pairs),
            "verdicts": {
                name: {verdict: int((verdicts[kind] == verdict).sum()) for verdict in VERDICTS}
                for name, kind in kinds.items()
            },
            **figures,
            **more,
        }
    )


def scored(pairs: Sequence[Pair]) -> tuple[Floats, NDArray[np.bool_]]:
    """(N,) scores and whether the image is anomalous, of the pairs that have both."""
    known = [(one.score, sample.anomalous) for sample, one in pairs if one.error is None]
    some = [(score, anomalous) for score, anomalous in known if score is not None and anomalous is not None]
    return np.array([score for score, _ in some], dtype=np.float64), np.array(
        [truth for _, truth in some], dtype=np.bool_
    )


def _of_scores(
    scores: Floats, truth: NDArray[np.bool_], repeats: int, seed: int, level: float
) -> dict[str, Interval]:
    if not (truth.any() and (~truth).any()):
        return {}
    whole = curves.count(scores, truth)
    drawn: dict[str, list[Floats]] = {name: [] for name in (*SCORE_FIGURES, "calibration_error")}
    for times in _draws(len(scores), repeats, seed):
        counts = curves.count(scores, truth, times)
        for name, figure in SCORE_FIGURES.items():
            drawn[name].append(figure(counts))
        drawn["calibration_error"].append(calibration_errors(scores, truth, times))
    values = {name: float(figure(whole)) for name, figure in SCORE_FIGURES.items()}
    values["calibration_error"] = calibration_error(scores, truth)
    return {name: interval(value, np.concatenate(drawn[name]), level) for name, value in values.items()}


def calibration_errors(scores: Floats, truth: NDArray[np.bool_], times: Draws) -> Floats:
    """`calibration_error` of rows that are there so many times, (R, N) -> (R,), each line of `times` of the same sum N."""
    order = np.argsort(scores, kind="stable")
    gaps, times = (scores - truth)[order], times[:, order]
    # A bin's |mean score - share of defects|, weighed by its size, is its |summed gap|; a bin may end within
    # the copies of one row.
    edges = np.cumsum([len(own) for own in np.array_split(np.arange(len(order)), min(BINS, len(order)))])
    ends, sums = np.cumsum(times, axis=1), np.cumsum(times * gaps, axis=1)
    last = np.stack([np.searchsorted(own, edges) for own in ends])
    upto = (
        np.take_along_axis(sums, last, axis=1) - (np.take_along_axis(ends, last, axis=1) - edges) * gaps[last]
    )
    errors: Floats = np.abs(np.diff(upto, axis=1, prepend=0)).sum(axis=1) / len(order)
    return errors


def _of_verdicts(
    truth: NDArray[np.bool_], verdicts: NDArray[np.str_], repeats: int, seed: int, level: float
) -> dict[str, Interval]:
    good, defect = verdicts == "good", verdicts == "defect"
    columns = np.stack([truth, ~truth, truth & defect, ~truth & good, truth & good, ~truth & defect], axis=1)
    if not len(truth):
        return {}
    drawn = np.concatenate(
        [times.astype(np.float64) @ columns for times in _draws(len(truth), repeats, seed)]
    )
    whole = columns.sum(axis=0, dtype=np.float64)
    figures: dict[str, Callable[[Floats], Floats]] = {
        "balanced_accuracy": lambda c: (c[..., 2] / c[..., 0] + c[..., 3] / c[..., 1]) / 2,
        "miss_rate": lambda c: c[..., 4] / c[..., 0],
        "overkill_rate": lambda c: c[..., 5] / c[..., 1],
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {name: (float(figure(whole)), figure(drawn)) for name, figure in figures.items()}
    return {name: interval(value, some, level) for name, (value, some) in found.items() if np.isfinite(value)}


def _draws(rows: int, repeats: int, seed: int) -> Iterator[Draws]:
    """How often each row is drawn, (some repeats, rows) at a time."""
    random = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // rows)
    for start in range(0, repeats, step):
        yield random.multinomial(rows, np.full(rows, 1 / rows), size=min(step, repeats - start))
