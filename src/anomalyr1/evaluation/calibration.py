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

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyr1 import data, records
from anomalyr1.boxes import Bools, Floats
from anomalyr1.evaluation import curves, pairing
from anomalyr1.evaluation.statistics import draw_counts
from anomalyr1.evidence import promise
from anomalyr1.inspection.decisions import LEARNED_ITSELF
from anomalyr1.inspection.good_parts import evidence_decides
from anomalyr1.inspection.thresholds import (
    Calibration,
    Figures,
    Method,
    Threshold,
    is_table,
    logit,
    read_labels,
    sigmoid,
)
from anomalyr1.types import Fingerprint, InputError, Inspection

CONFIDENCE = 0.95
"""Of every interval and bound here."""
LEAST_OF_EACH = 2
"""Fewer labelled good or defective parts are refused."""
RESAMPLES = 1000
_BATCH = 50
"""Resamples in memory together."""
FOLDS = 5
_OVER_ALL = float(np.nextafter(1.0, 2.0))
"""A threshold that no score reaches."""


class LabelledScores(NamedTuple):
    """Scores whose truth is known."""

    scores: Floats
    """(N,) scores in 0..1."""
    defect: Bools
    """(N,) whether the part is defective."""
    left_out: dict[str, int]
    """Inspections and labels that could not be used, by reason."""


def gather_files(inspections: str | Path, labels: str | Path) -> tuple[LabelledScores, Fingerprint]:
    """The scores in the inspections file of a run over labelled parts, and what made them.

    `labels` is a CSV file or the spec of a data set. Samples of a data set belong to inspections as
    `pairing.pair` says, wherever they lie; a name in a CSV file may be the end of an image's path, where no
    other image's path ends so. Raises `InputError` as `gather`, `pair` and the readers do.
    """
    run, inspected = records.read(inspections)
    if is_table(labels):
        return gather(inspected, _by_end_of_path(inspected, read_labels(labels))), run
    samples = [sample for sample in data.load(str(labels)) if sample.anomalous is not None]
    truths = {sample.image.as_posix(): bool(sample.anomalous) for sample in samples}
    for sample, inspection in pairing.pair(samples, inspected).known:
        truths.pop(sample.image.as_posix(), None)
        truths[inspection.sample_id] = bool(sample.anomalous)
    return gather(inspected, truths), run


def _by_end_of_path(inspections: Sequence[Inspection], labels: Mapping[str, bool]) -> dict[str, bool]:
    """Labels under the names of inspections: of the same name, else of the only path that ends so.

    Raises `InputError` for a label that two inspections could have, or two labels that one could have.
    """
    names = {inspection.sample_id for inspection in inspections}
    ends: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        for start in range(1, len(parts)):
            ends.setdefault("/".join(parts[start:]), []).append(name)
    found: dict[str, bool] = {}
    for label, defective in labels.items():
        candidates = [label] if label in names else sorted(ends.get(label.replace("\\", "/"), [label]))
        if len(candidates) > 1 or candidates[0] in found:
            meant = ", ".join(map(repr, candidates[:3]))
            raise InputError(
                f"the label {label!r} is not clear: it may mean {meant}, which must be one image and have no "
                "other label; write the whole path, as the inspections have it"
            )
        found[candidates[0]] = defective
    return found


def calibrate_files(
    inspections: str | Path,
    labels: str | Path,
    cost_miss: float | None = None,
    cost_false_alarm: float | None = None,
    method: Method = "platt",
    defect_rate: float | None = None,
    claim: float = 0.01,
    seed: int = 0,
) -> Threshold:
    """`calibrate` on the files that `gather_files` takes; costs and rates are checked first.

    Scores of evidence of good parts alone make a threshold, too, see `calibrate_good`; costs are not needed
    then.
    """
    _require_possible(cost_miss or 1, cost_false_alarm or 1, defect_rate, claim)
    labelled, run = gather_files(inspections, labels)
    if evidence_decides(run) and not labelled.defect.any():
        return calibrate_good(labelled, run, claim)
    if cost_miss is None or cost_false_alarm is None:
        raise InputError(
            "what a miss and what a false alarm cost must be said where defective parts are labelled: "
            "--cost-miss and --cost-false-alarm"
        )
    return calibrate(labelled, run, cost_miss, cost_false_alarm, method, defect_rate, claim, seed)


def gather(inspections: Sequence[Inspection], labels: Mapping[str, bool]) -> LabelledScores:
    """The scores of all inspections with a label (True = defect), and how many could not be used.

    Raises `InputError` where none has a label.
    """
    labelled = [inspection for inspection in inspections if inspection.sample_id in labels]
    if inspections and labels and not labelled:
        raise InputError(
            f"no inspection has a label: the first inspection is named {inspections[0].sample_id!r}, "
            f"the first label {next(iter(labels))!r}; write the same names into the labels"
        )
    scores, truths, failed, learned = [], [], 0, 0
    for inspection in labelled:
        if inspection.error is not None:
            failed += 1
        elif inspection.counts.get(LEARNED_ITSELF):
            learned += 1
        elif inspection.score is not None:
            scores.append(inspection.score)
            truths.append(labels[inspection.sample_id])
    left_out = {
        "inspections without a label": len(inspections) - len(labelled),
        "labels without an inspection": len(labels) - len(labelled),
        "failed inspections": failed,
        "good parts that were learned": learned,
        "inspections without a score": len(labelled) - failed - learned - len(scores),
    }
    return LabelledScores(
        np.array(scores, dtype=np.float64),
        np.array(truths, dtype=np.bool_),
        {reason: number for reason, number in left_out.items() if number},
    )


def calibrate(
    labelled: LabelledScores,
    run: Fingerprint,
    cost_miss: float,
    cost_false_alarm: float,
    method: Method = "platt",
    defect_rate: float | None = None,
    claim: float = 0.01,
    seed: int = 0,
) -> Threshold:
    """Fit, choose and measure; `defect_rate` is that of the labelled parts when None.

    Raises `InputError` for costs and rates that cannot be, with fewer than two parts of either kind, and for
    scores that do not rank defects above good parts.
    """
    _require_possible(cost_miss, cost_false_alarm, defect_rate, claim)
    scores, defect, left_out = labelled
    good_n, defect_n = int((~defect).sum()), int(defect.sum())
    area = _require_ranking(labelled, good_n, defect_n)
    # 1. The calibration, moved to the share of defects on the line.
    share = defect_n / len(defect)
    rate = share if defect_rate is None else defect_rate
    fitted = fit(scores, defect, method)
    shift = float(logit(np.array(rate)) - logit(np.array(share)))
    moved = fitted.model_copy(update={"intercept": fitted.intercept + shift})
    # 2. The threshold, where a part costs least.
    weights = (cost_miss * rate, cost_false_alarm * (1 - rate))
    threshold, low, high = choose_threshold(scores, defect, *weights, seed)
    # 3. What is to be expected of both.
    misses, alarms = int((scores[defect] < threshold).sum()), int((scores[~defect] >= threshold).sum())
    after = cross_validated(scores, defect, method, seed)
    figures = Figures(
        auroc=area,
        misses=misses,
        false_alarms=alarms,
        unsure=int(((scores >= low) & (scores < high)).sum()),
        cost_per_part=weights[0] * misses / defect_n + weights[1] * alarms / good_n,
        cost_at_half=_cost(scores, defect, 0.5, *weights),
        error_before=curves.calibration_error(scores, defect),
        error_after=curves.calibration_error(after, defect),
        brier_before=float(((scores - defect) ** 2).mean()),
        brier_after=float(((after - defect) ** 2).mean()),
        false_alarm_bound=upper_bound(alarms, good_n),
        miss_bound=upper_bound(misses, defect_n),
        claim=claim,
        good_parts_missing=max(0, parts_needed(alarms, claim) - good_n),
    )
    return Threshold(
        threshold=threshold,
        low=low,
        high=high,
        calibration=moved,
        cost_miss=cost_miss,
        cost_false_alarm=cost_false_alarm,
        defect_rate=rate,
        good=good_n,
        defect=defect_n,
        left_out=left_out,
        figures=figures,
        run=run,
    )


def calibrate_good(labelled: LabelledScores, run: Fingerprint, claim: float = 0.01) -> Threshold:
    """A threshold without a single defective part: the highest score of good ones.

    It promises a rate of false alarms (`evidence.promise`) and says nothing of misses. Raises `InputError`
    for no score.
    """
    scores, _, left_out = labelled
    if not len(scores):
        raise InputError("no good part with a score; inspect good parts that were not learned")
    threshold = float(min(np.nextafter(scores.max(), 2), 1))
    return Threshold(
        threshold=threshold,
        low=threshold,
        high=threshold,
        calibration=Calibration(method="platt", slope=1, intercept=0),
        cost_miss=0,
        cost_false_alarm=0,
        defect_rate=0,
        good=len(scores),
        defect=0,
        left_out=left_out,
        figures=Figures(
            misses=0,
            false_alarms=0,
            unsure=0,
            cost_per_part=0,
            cost_at_half=0,
            error_before=0,
            error_after=0,
            brier_before=0,
            brier_after=0,
            false_alarm_bound=promise.false_alarm_bound(len(scores)) or 1,
            miss_bound=1,
            claim=claim,
            good_parts_missing=max(0, promise.held_out_for(claim) - len(scores)),
        ),
        run=run,
    )


def _require_ranking(labelled: LabelledScores, good_n: int, defect_n: int) -> float:
    """The AUROC of scores that can be calibrated; raises `InputError` for others, and for too few parts."""
    scores, defect, left_out = labelled
    if min(good_n, defect_n) < LEAST_OF_EACH:
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        raise InputError(
            f"{good_n} good and {defect_n} defective parts with a score, at least {LEAST_OF_EACH} of each "
            "are needed" + (f" ({reasons})" if reasons else "")
        )
    area = curves.auroc(scores, defect)
    if area <= 0.5:
        raise InputError(
            f"the scores do not rank defective parts above good ones (AUROC {area:.2f}), so no threshold "
            "helps; use another model, knowledge or reference images, "
            "or check that the labels are not swapped"
        )
    return area


def _require_possible(
    cost_miss: float, cost_false_alarm: float, defect_rate: float | None, claim: float
) -> None:
    for name, cost in (("--cost-miss", cost_miss), ("--cost-false-alarm", cost_false_alarm)):
        if not (cost > 0 and math.isfinite(cost)):
            raise InputError(f"{name} is {cost:g}, expected a cost above 0")
    for name, share in (("--defect-rate", defect_rate), ("--claim", claim)):
        if share is not None and not 0 < share < 1:
            raise InputError(f"{name} is {share:g}, expected a share between 0 and 1")


def fit(scores: Floats, defect: Bools, method: Method = "platt") -> Calibration:
    """The calibration of (N,) scores of largest likelihood, under Platt's smoothed targets.

    `defect` (N,) says which parts are defective. The slope is never negative, so no ranking turns round.
    """
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
    bounds = [(0.0, None), (None, None)][: len(start)]
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    intercept = float(best[1]) if method == "platt" else 0.0
    return Calibration(method=method, slope=float(best[0]), intercept=intercept)


def cross_validated(scores: Floats, defect: Bools, method: Method, seed: int = 0) -> Floats:
    """(N,) calibrated probabilities of (N,) scores, each from a fit that has not seen its part.

    Both kinds of part are spread over at most five folds.
    """
    generator = np.random.default_rng(seed)
    folds = min(FOLDS, int(defect.sum()), int((~defect).sum()))
    fold_of = np.empty(len(scores), dtype=np.intp)
    for kind in (defect, ~defect):
        fold_of[kind] = generator.permutation(int(kind.sum())) % folds
    probabilities = np.empty(len(scores))
    for fold in range(folds):
        inside = fold_of == fold
        probabilities[inside] = fit(scores[~inside], defect[~inside], method)(scores[inside])
    return probabilities


def choose_threshold(
    scores: Floats, defect: Bools, miss: float, false_alarm: float, seed: int = 0
) -> tuple[float, float, float]:
    """The threshold of least cost for (N,) scores, and the ends of its 95 % bootstrap interval.

    `miss` and `false_alarm` weigh the miss rate and the false-alarm rate. Candidates lie half-way (in
    log-odds) between neighbouring scores; of equally cheap ones the lowest stretch counts, since it lets the
    fewest defects through, and its middle is taken.
    """
    # 1. The candidates, and how many parts of each kind lie below each of them.
    levels = np.unique(scores)  # (C - 1,)
    cuts = _candidates(levels)  # (C,)
    defects_below, good_below = (_parts_below(scores[kind], levels) for kind in (defect, ~defect))  # (C,)

    def cheapest(defect_counts: NDArray[np.intp], good_counts: NDArray[np.intp]) -> Floats:
        missed, passed = _shares(defect_counts, defects_below), _shares(good_counts, good_below)  # (R, C)
        return _middle_of_cheapest(miss * missed + false_alarm * (1 - passed), cuts)

    # 2. The threshold of the parts as they are.
    defect_n, good_n = int(defect.sum()), int((~defect).sum())
    threshold = float(cheapest(*(np.ones((1, number), dtype=np.intp) for number in (defect_n, good_n)))[0])
    # 3. The threshold of each resample, defects and good parts drawn apart.
    generator = np.random.default_rng(seed)
    resampled = [
        cheapest(draw_counts(generator, defect_n, _BATCH), draw_counts(generator, good_n, _BATCH))
        for _ in range(RESAMPLES // _BATCH)
    ]
    low, high = np.quantile(np.concatenate(resampled), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return threshold, min(threshold, float(low)), max(threshold, float(high))


def _candidates(levels: Floats) -> Floats:
    """(C,) thresholds for rising distinct scores (C - 1,): below all, between neighbours, above all."""
    middles = sigmoid((logit(levels)[:-1] + logit(levels)[1:]) / 2)
    # Rounding may put a middle on a neighbour; it must lie above the lower one.
    between = np.clip(middles, np.nextafter(levels[:-1], 2), levels[1:])
    return np.concatenate([[0.0], between, [_OVER_ALL]])


def _parts_below(scores: Floats, levels: Floats) -> NDArray[np.intp]:
    """(C,) how many of a kind's scores (n,) lie below each candidate for levels (C - 1,)."""
    return np.concatenate([[0], np.searchsorted(np.sort(scores), levels, side="right")])


def _shares(counts: NDArray[np.intp], parts_below: NDArray[np.intp]) -> Floats:
    """(R, C) the share of a kind's parts below each candidate.

    `counts` (R, n) says how often each resample has each part, in the order of their scores.
    """
    sums = np.concatenate([np.zeros((len(counts), 1)), counts.cumsum(axis=1)], axis=1)  # (R, n + 1)
    shares: Floats = sums[:, parts_below] / counts.shape[1]
    return shares


def _middle_of_cheapest(cost: Floats, cuts: Floats) -> Floats:
    """(R,) the middle, in log-odds, of the lowest stretch of candidates (C,) that cost least, (R, C)."""
    least = cost <= cost.min(axis=1, keepdims=True) + 1e-12
    start = least.argmax(axis=1)  # (R,)
    beyond = ~least & (np.arange(len(cuts)) > start[:, None])
    end = np.where(beyond.any(axis=1), beyond.argmax(axis=1), len(cuts)) - 1
    middle: Floats = sigmoid((logit(cuts[start]) + logit(cuts[end])) / 2)
    return np.clip(middle, cuts[start], cuts[end])


def _cost(scores: Floats, defect: Bools, threshold: float, miss: float, false_alarm: float) -> float:
    """The cost a part at a threshold; `miss` and `false_alarm` weigh the rates."""
    return float(
        miss * (scores[defect] < threshold).mean() + false_alarm * (scores[~defect] >= threshold).mean()
    )


def upper_bound(events: int, n: int) -> float:
    """The largest rate at which so few events in `n` are not yet unlikely: one-sided 95 % bound.

    Source: Clopper and Pearson 1934.
    """
    from scipy.stats import beta

    return 1.0 if events >= n else float(beta.ppf(CONFIDENCE, events + 1, n - events))


def parts_needed(events: int, rate: float) -> int:
    """How many parts, with `events` among them and no more, bound the rate by `rate` at 95 %.

    Without events about 3 / rate.
    """
    low, high = events, max(1, events)
    for _ in range(64):
        if upper_bound(events, high) <= rate:
            break
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if upper_bound(events, middle) <= rate else (middle, high)
    return high
