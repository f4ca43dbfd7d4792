"""Labelled defects beside good parts: a linear head on how far a part is from good ones and on how it looks.

The head is a logistic regression on standardised features, its regularisation chosen by cross-validation, as
are its figures: they stand beside those of the bank's score alone on the same folds, and where the head ranks
no better the bank's score decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import PositiveInt

from anomalyr1.boxes import Bools, Floats
from anomalyr1.evidence.learning import LEARNED
from anomalyr1.evidence.measure import TOP_SHARE, Grid
from anomalyr1.types import InputError, Probability, Record

if TYPE_CHECKING:
    from anomalyr1.evidence.features import Features

FOLDS = 5
REPEATS = 3
"""So often parts are dealt into folds; what is said are means."""
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""How little the weights are held back (scikit-learn's C)."""
SHARES = (TOP_SHARE, 0.05, 0.25, 1.0)
"""Of so large a share of the patches, the strangest, the mean distance is looked at; the bank's score is
first."""
DISTANCES = len(SHARES) + 3
"""So many of the features are distances; the others are how the part looks."""
PLACE_SHARE = 0.05
"""How a part looks where it is strangest is the mean of so large a share of its patches."""
LOOKS_COUNT = 0.7
"""How much all looks together count beside all distances: there are far more of them, and they say less."""
_NOTHING = 1e-4
"""Added to distances before their logarithm."""


class Head(Record):
    """A linear head, and how well it told parts that it was not fitted to."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    defects: PositiveInt
    """How many defective parts it was fitted to."""
    auroc: Probability
    """Cross-validated, like the next three."""
    balanced_accuracy: Probability
    """At a probability of one half."""
    bank_auroc: Probability
    """Of the bank's score alone, on the same folds."""
    bank_balanced_accuracy: Probability
    """At the threshold that the parts of the other folds make for it."""
    bank_threshold: Probability | None
    """The bank's score that tells good and defective parts apart; None = defective ones are no stranger."""
    threshold: Probability | None = None
    """The highest score of good parts that were held out; None = none were."""

    @property
    def is_better(self) -> bool:
        """Whether it ranks parts better than the bank's score; else it is not used."""
        return self.auroc > max(self.bank_auroc, 0.5)

    def __call__(self, vector: Floats) -> float:
        """The probability of a defect of (F,) features, of as many defective parts as good ones."""
        from scipy.special import expit

        standard = (vector - np.array(self.mean)) / np.array(self.scale)
        return float(expit(standard @ np.array(self.weights) + self.intercept))

    def describe(self) -> str:
        """What it is worth, for a person."""
        figures = (
            f"AUROC {self.auroc:.3f} and balanced accuracy {self.balanced_accuracy:.2f} on parts that were "
            f"left out in turn; good parts alone: {self.bank_auroc:.3f} and {self.bank_balanced_accuracy:.2f}"
        )
        if self.is_better:
            return f"learned from {self.defects} defective parts, too: {figures}"
        return f"what {self.defects} defective parts teach ranks no better and is not used: {figures}"


def learned_beside(defects: int) -> int:
    """How many good parts are learned beside so many defective ones: as many, but no fewer than without."""
    return max(LEARNED, defects)


def vector_of(features: Features, grid: Grid) -> Floats:
    """(F,) what a head sees of an image: how far its patches are from good ones, then how it looks.

    The `DISTANCES` first are logarithms: the means of the strangest `SHARES`, the farthest, the middle, the
    spread. Looks are the features of the whole image and the mean of its strangest patches.
    """
    falling = np.argsort(-grid.ravel(), kind="stable")
    distances = grid.ravel()[falling].astype(np.float64)  # (N,)
    counts = [max(1, round(share * distances.size)) for share in (*SHARES, PLACE_SHARE)]
    summary = [distances[:count].mean() for count in counts[:-1]]
    summary += [distances[0], float(np.median(distances)), distances.std()]
    place = features.patches.float().numpy()[falling[: counts[-1]]].mean(0)
    return np.concatenate([np.log(np.array(summary) + _NOTHING), features.pooled.float().numpy(), place])


class _Line(NamedTuple):
    """A fitted line, and what it is worth."""

    mean: Floats
    scale: Floats
    weights: Floats
    intercept: float
    auroc: float
    balanced_accuracy: float


def fit(good: Sequence[Floats], defective: Sequence[Floats], seed: int = 0) -> Head:
    """A head from the features of good and of defective parts.

    Raises `InputError` where there are fewer than `FOLDS` of either kind.
    """
    if min(len(good), len(defective)) < FOLDS:
        raise InputError(
            f"labelled defects need at least {FOLDS} good parts that are learned and {FOLDS} defective ones, "
            f"got {len(good)} and {len(defective)}; add some, or leave the defects out"
        )
    rows = np.array([*good, *defective])  # (N, F)
    truth = np.arange(len(rows)) >= len(good)
    head, bank = (_fit_line(columns, truth, seed) for columns in (rows, rows[:, :1]))
    middle = None
    if bank.weights[0] > 0:
        score = np.exp(bank.mean[0] - bank.scale[0] * bank.intercept / bank.weights[0]) - _NOTHING
        middle = float(np.clip(score, 0, 1))
    return Head(
        mean=tuple(head.mean.tolist()),
        scale=tuple(head.scale.tolist()),
        weights=tuple(head.weights.tolist()),
        intercept=head.intercept,
        defects=len(defective),
        auroc=head.auroc,
        balanced_accuracy=head.balanced_accuracy,
        bank_auroc=bank.auroc if middle is not None else 1 - bank.auroc,
        bank_balanced_accuracy=bank.balanced_accuracy,
        bank_threshold=middle,
    )


def _fit_line(rows: Floats, truth: Bools, seed: int) -> _Line:
    """A line through (N, F) features, with the strength that foresees best what was left out."""
    from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
    from sklearn.model_selection import RepeatedStratifiedKFold

    # 1. What each strength says of parts that were left out: (strengths, REPEATS, N).
    said = np.zeros((len(STRENGTHS), REPEATS, len(rows)))
    folds = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=seed)
    for number, (inside, outside) in enumerate(folds.split(rows, truth)):
        for row, strength in zip(said, STRENGTHS, strict=True):
            line = _fit_at(rows[inside], truth[inside], strength)
            row[number // FOLDS, outside] = _say(line, rows[outside])
    losses = [np.mean([log_loss(truth, deal) for deal in row]) for row in said]
    # 2. The best of them, through all parts.
    best = int(np.argmin(losses))
    return _fit_at(rows, truth, STRENGTHS[best])._replace(
        auroc=float(np.mean([roc_auc_score(truth, deal) for deal in said[best]])),
        balanced_accuracy=float(np.mean([balanced_accuracy_score(truth, deal > 0.5) for deal in said[best]])),
    )


def _fit_at(rows: Floats, truth: Bools, strength: float) -> _Line:
    from sklearn.linear_model import LogisticRegression

    # Many features that count alike would drown the few distances.
    looks = rows.shape[1] - DISTANCES
    counts = np.ones(rows.shape[1]) / np.sqrt(min(DISTANCES, rows.shape[1]))
    if looks > 0:
        counts[DISTANCES:] = LOOKS_COUNT / np.sqrt(looks)
    mean, scale = rows.mean(0), (rows.std(0) + 1e-9) / counts
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    model.fit((rows - mean) / scale, truth)
    return _Line(mean, scale, model.coef_[0], float(model.intercept_[0]), 0.0, 0.0)


def _say(line: _Line, rows: Floats) -> Floats:
    from scipy.special import expit

    probabilities: Floats = expit((rows - line.mean) / line.scale @ line.weights + line.intercept)
    return probabilities
