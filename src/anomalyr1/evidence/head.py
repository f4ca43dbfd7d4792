"""Labelled defects beside good parts: a linear head on what the network sees of a whole image and of its
strangest place.

The head is a logistic regression on standardised features, its regularisation chosen by cross-validation, as
are its figures: they stand beside those of the bank alone on the same parts, and where it ranks no better the
bank decides as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, PositiveInt

from anomalyr1.boxes import Floats
from anomalyr1.evidence.measure import TOP_SHARE, Grid, score_of
from anomalyr1.types import InputError, Probability, Record

if TYPE_CHECKING:
    from anomalyr1.evidence.features import Features

FOLDS = 5
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
"""How little the weights are held back (scikit-learn's C)."""


class Head(Record):
    """A linear head, and how well it told parts that it was not fitted to."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    defects: PositiveInt
    """How many defective parts it was fitted to."""
    auroc: Probability
    """Cross-validated."""
    bank_auroc: Probability
    """Of the bank alone on the same parts."""
    balanced_accuracy: Probability = Field(description="Cross-validated, at a probability of one half.")

    @property
    def is_better(self) -> bool:
        """Whether it ranks parts better than the bank alone; else it is not used."""
        return self.auroc > self.bank_auroc

    def __call__(self, vector: Floats) -> float:
        """The probability of a defect of (F,) features."""
        from scipy.special import expit

        standard = (vector - np.array(self.mean)) / np.array(self.scale)
        return float(expit(standard @ np.array(self.weights) + self.intercept))


def vector_of(features: Features, grid: Grid) -> Floats:
    """(F,) what a head sees of an image: the whole, the mean of its strangest patches, their distance."""
    distances = grid.ravel()
    count = max(1, round(TOP_SHARE * distances.size))
    strangest = np.argpartition(distances, -count)[-count:]
    place = features.patches.float().numpy()[strangest].mean(0)
    return np.concatenate([features.pooled.float().numpy(), place, [score_of(grid)]]).astype(np.float64)


def fit(good: Sequence[Floats], defective: Sequence[Floats], seed: int = 0) -> Head:
    """A head from the features of good and of defective parts.

    Raises `InputError` where there are fewer than `FOLDS` of either kind.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(good), len(defective)) < FOLDS:
        raise InputError(
            f"labelled defects need at least {FOLDS} good parts that are learned and {FOLDS} defective ones, "
            f"got {len(good)} and {len(defective)}; add some, or leave the defects out"
        )
    rows = np.array([*good, *defective])  # (N, F)
    truth = np.array([0] * len(good) + [1] * len(defective))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    # 1. The regularisation that predicts parts best that were left out.
    best_area, best_strength, best_probabilities = -1.0, STRENGTHS[0], np.zeros(len(rows))
    for strength in STRENGTHS:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
        )
        probabilities = cross_val_predict(model, rows, truth, cv=folds, method="predict_proba")[:, 1]
        area = float(roc_auc_score(truth, probabilities))
        if area > best_area:
            best_area, best_strength, best_probabilities = area, strength, probabilities
    # 2. The head of all parts.
    scaler = StandardScaler().fit(rows)
    model = LogisticRegression(C=best_strength, class_weight="balanced", max_iter=2000)
    model.fit(scaler.transform(rows), truth)
    return Head(
        mean=tuple(scaler.mean_.tolist()),
        scale=tuple(scaler.scale_.tolist()),
        weights=tuple(model.coef_[0].tolist()),
        intercept=float(model.intercept_[0]),
        defects=len(defective),
        auroc=best_area,
        bank_auroc=float(roc_auc_score(truth, rows[:, -1])),
        balanced_accuracy=float(balanced_accuracy_score(truth, best_probabilities > 0.5)),
    )
