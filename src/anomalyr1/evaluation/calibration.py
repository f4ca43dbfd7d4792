"""Scores of labelled inspections -> calibrated probabilities, and the threshold of least expected cost.

A score is calibrated by `sigmoid(slope * logit(score) + intercept)`: Platt scaling (Platt 1999, with his
smoothed targets, so that parts that separate perfectly do not give an infinite slope), or temperature scaling
(Guo et al. 2017), which has no intercept of its own. Where the share of defects on the line is not that of
the labelled parts, the intercept moves by the difference of their log-odds.

The threshold is the score at which `cost_miss` x missed defects + `cost_false_alarm` x false alarms is least
on the labelled parts. How sure that place is, the bootstrap says (both classes drawn again 1,000 times):
between the two ends of its 95 % interval the labelled parts do not tell on which side of the threshold a part
lies, and the verdict is "unsure".

Not covered: parts unlike the labelled ones. The threshold is chosen on the very parts on which its costs are
then counted, which flatters it a little; the calibration error after fitting is cross-validated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyr1.inspection.thresholds import Calibration, Figures, Floats, Method, Threshold, logit, sigmoid
from anomalyr1.types import Fingerprint, InputError, Inspection

Bools = NDArray[np.bool_]

CONFIDENCE = 0.95
"""Of every interval and bound here."""
LEAST_OF_EACH = 2
"""Fewer labelled good or defective parts are refused."""
DRAWS = 1000
_AT_ONCE = 50
"""Draws in memory together."""
BINS = 10
FOLDS = 5
_OVER_ALL = float(np.nextafter(1.0, 2.0))
"""A threshold that no score reaches."""


class Labelled(NamedTuple):
    """Scores whose truth is known."""

    scores: Floats
    """(N,)"""
    defect: Bools
    """(N,)"""
    left_out: dict[str, int]


def gather(inspections: Sequence[Inspection], labels: Mapping[str, bool]) -> Labelled:
    """The scores of all inspections with a label (True = defect), and how many could not be used.

    Raises `InputError` where none has a label.
    """
    known = [one for one in inspections if one.sample_id in labels]
    if inspections and labels and not known:
        raise InputError(
            f"no inspection has a label: the first inspection is named {inspections[0].sample_id!r}, the first label "
            f"{next(iter(labels))!r}; write the same names into the labels"
        )
    usable = [
        (one.score, labels[one.sample_id]) for one in known if one.score is not None and one.error is None
    ]
    failed = sum(one.error is not None for one in known)
    left_out = {
        "inspections without a label": len(inspections) - len(known),
        "labels without an inspection": len(labels) - len(known),
        "failed inspections": failed,
        "inspections without a score": len(known) - failed - len(usable),
    }
    scores = np.array([score for score, _ in usable], dtype=np.float64)
    return Labelled(
        scores,
        np.array([truth for _, truth in usable], dtype=np.bool_),
        {name: n for name, n in left_out.items() if n},
    )


def calibrate(
    labelled: Labelled,
    run: Fingerprint,
    cost_miss: float,
    cost_false_alarm: float,
    method: Method = "platt",
    defect_rate: float | None = None,
    claim: float = 0.01,
    seed: int = 0,
) -> Threshold:
    """Fit, choose and measure; `defect_rate` is that of the labelled parts when None.

    Raises `InputError` with fewer than two parts of either kind, and for scores that do not rank defects
    above good parts.
    """
    scores, defect, left_out = labelled
    good_n, defect_n = int((~defect).sum()), int(defect.sum())
    if min(good_n, defect_n) < LEAST_OF_EACH:
        gone = f" ({', '.join(f'{n} {name}' for name, n in left_out.items())})" if left_out else ""
        raise InputError(
            f"{good_n} good and {defect_n} defective parts with a score, at least {LEAST_OF_EACH} of each are needed{gone}"
        )
    area = auroc(scores, defect)
    if area <= 0.5:
        raise InputError(
            f"the scores do not rank defective parts above good ones (AUROC {area:.2f}), so no threshold helps; use another model, "
            "knowledge or reference images, or check that the labels are not swapped"
        )
    share = defect_n / len(defect)
    rate = share if defect_rate is None else defect_rate
    fitted = fit(scores, defect, method)
    shift = float(logit(np.array(rate)) - logit(np.array(share)))
    best, low, high = choose_threshold(scores, defect, cost_miss * rate, cost_false_alarm * (1 - rate), seed)
    after = cross_validated(scores, defect, method, seed)
    misses, alarms = int((scores[defect] < best).sum()), int((scores[~defect] >= best).sum())
    at_half = (
        cost_miss * rate * (scores[defect] < 0.5).mean()
        + cost_false_alarm * (1 - rate) * (scores[~defect] >= 0.5).mean()
    )
    figures = Figures(
        auroc=area,
        misses=misses,
        false_alarms=alarms,
        unsure=int(((scores >= low) & (scores < high)).sum()),
        cost_per_part=cost_miss * rate * misses / defect_n + cost_false_alarm * (1 - rate) * alarms / good_n,
        cost_at_half=float(at_half),
        error_before=calibration_error(scores, defect),
        error_after=calibration_error(after, defect),
        brier_before=float(((scores - defect) ** 2).mean()),
        brier_after=float(((after - defect) ** 2).mean()),
        false_alarm_bound=upper_bound(alarms, good_n),
        miss_bound=upper_bound(misses, defect_n),
        claim=claim,
        good_parts_missing=max(0, parts_needed(alarms, claim) - good_n),
    )
    return Threshold(
        threshold=best, low=low, high=high, calibration=fitted.model_copy(update={"intercept": fitted.intercept + shift}),
        cost_miss=cost_miss, cost_false_alarm=cost_false_alarm, defect_rate=rate, good=good_n, defect=defect_n, left_out=left_out,
        figures=figures, run=run,
    )  # fmt: skip


def fit(scores: Floats, defect: Bools, method: Method = "platt") -> Calibration:
    """The calibration of largest likelihood under Platt's smoothed targets; the slope is never negative, so no ranking turns round."""
    from scipy.optimize import minimize

    odds = logit(scores)
    good_n, defect_n = int((~defect).sum()), int(defect.sum())
    target = np.where(defect, (defect_n + 1) / (defect_n + 2), 1 / (good_n + 2))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        z = parameters[0] * odds + (parameters[1] if method == "platt" else 0.0)
        off = sigmoid(z) - target
        slopes = np.array([(off * odds).sum(), off.sum()])
        return float((np.logaddexp(0, z) - target * z).sum()), slopes[: len(parameters)]

    start = np.array([1.0, 0.0] if method == "platt" else [1.0])
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)][: len(start)]
    ).x
    return Calibration(
        method=method, slope=float(found[0]), intercept=float(found[1]) if method == "platt" else 0.0
    )


def cross_validated(scores: Floats, defect: Bools, method: Method, seed: int = 0) -> Floats:
    """(N,) calibrated probabilities, each from a fit that has not seen its part; both kinds are spread over at most five folds."""
    generator = np.random.default_rng(seed)
    folds = min(FOLDS, int(defect.sum()), int((~defect).sum()))
    fold = np.empty(len(scores), dtype=np.intp)
    for kind in (defect, ~defect):
        fold[kind] = generator.permutation(int(kind.sum())) % folds
    after = np.empty(len(scores))
    for one in range(folds):
        own = fold == one
        after[own] = fit(scores[~own], defect[~own], method)(scores[own])
    return after


def choose_threshold(
    scores: Floats, defect: Bools, miss: float, false_alarm: float, seed: int = 0
) -> tuple[float, float, float]:
    """The threshold of least cost, and the ends of its 95 % bootstrap interval.

    `miss` and `false_alarm` weigh the miss rate and the false-alarm rate. Candidates lie half-way (in
    log-odds) between neighbouring scores; of equally cheap ones the lowest stretch counts, since it lets the
    fewest defects through, and its middle is taken.
    """
    levels = np.unique(scores)
    middles = sigmoid((logit(levels)[:-1] + logit(levels)[1:]) / 2)
    # Rounding may put a middle on a neighbour; it must lie above the lower one.
    cuts = np.concatenate(
        [[0.0], np.clip(middles, np.nextafter(levels[:-1], 2), levels[1:]), [_OVER_ALL]]
    )  # (C,)
    ends = [
        np.concatenate([[0], np.searchsorted(np.sort(scores[kind]), levels, side="right")])
        for kind in (defect, ~defect)
    ]

    def below(weights: NDArray[np.intp], end: NDArray[np.intp]) -> Floats:
        """(B, N) weights of a kind's parts in the order of their scores -> (B, C): their share below each cut."""
        sums = np.concatenate([np.zeros((len(weights), 1)), weights.cumsum(axis=1)], axis=1)
        shares: Floats = sums[:, end] / weights.shape[1]
        return shares

    def best(defect_weights: NDArray[np.intp], good_weights: NDArray[np.intp]) -> Floats:
        cost = miss * below(defect_weights, ends[0]) + false_alarm * (1 - below(good_weights, ends[1]))
        least = cost <= cost.min(axis=1, keepdims=True) + 1e-12
        first = least.argmax(axis=1)
        over = ~least & (np.arange(len(cuts)) > first[:, None])
        last = np.where(over.any(axis=1), over.argmax(axis=1), len(cuts)) - 1
        middle: Floats = sigmoid((logit(cuts[first]) + logit(cuts[last])) / 2)
        chosen: Floats = np.clip(middle, cuts[first], cuts[last])
        return chosen

    generator = np.random.default_rng(seed)
    defect_n, good_n = int(defect.sum()), int((~defect).sum())
    found = float(best(np.ones((1, defect_n), dtype=np.intp), np.ones((1, good_n), dtype=np.intp))[0])
    drawn = np.concatenate(
        [
            best(
                generator.multinomial(defect_n, np.full(defect_n, 1 / defect_n), size=_AT_ONCE),
                generator.multinomial(good_n, np.full(good_n, 1 / good_n), size=_AT_ONCE),
            )
            for _ in range(DRAWS // _AT_ONCE)
        ]
    )
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return found, min(found, float(low)), max(found, float(high))


def calibration_error(probabilities: Floats, defect: Bools) -> float:
    """The expected calibration error: how far mean probability and share of defects lie apart, over ten bins of equal size."""
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    return float(
        sum(len(own) * abs(probabilities[own].mean() - defect[own].mean()) for own in bins) / len(order)
    )


def auroc(scores: Floats, defect: Bools) -> float:
    """The probability that a defective part scores above a good one; ties count half."""
    from scipy.stats import rankdata

    n = int(defect.sum())
    return float((rankdata(scores)[defect].sum() - n * (n + 1) / 2) / (n * (len(defect) - n)))


def upper_bound(events: int, n: int) -> float:
    """The largest rate at which so few events in `n` are not yet unlikely: one-sided 95 % bound (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return 1.0 if events >= n else float(beta.ppf(CONFIDENCE, events + 1, n - events))


def parts_needed(events: int, rate: float) -> int:
    """How many parts, with `events` among them and no more, bound the rate by `rate` at 95 %: without events about 3 / rate."""
    few, many = events, max(1, events)
    for _ in range(64):
        if upper_bound(events, many) <= rate:
            break
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if upper_bound(events, middle) <= rate else (middle, many)
    return many
