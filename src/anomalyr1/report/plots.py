"""The plots of an evaluation and of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from anomalyr1.boxes import Floats
from anomalyr1.evaluation import curves
from anomalyr1.evaluation.detection import Pair, measure, scored
from anomalyr1.report.svg import Series, chart

UNIT = (0.0, 1.0)
_BARS = 20
_GREY = 7
"""Place in `svg.COLOURS` of what a curve is compared with."""


def detection_plots(pairs: Sequence[Pair]) -> dict[str, str]:
    """ROC, precision-recall, reliability, cost and score plots by name, as SVG; none when the scores have
    only one class.
    """
    scores, truth = scored(pairs)
    if not (truth.any() and (~truth).any()):
        return {}
    counts = curves.count(scores, truth)
    figures = measure([pair for pair in pairs if pair[0].anomalous is not None], repeats=1)
    verdicts = figures.verdicts
    at = (
        verdicts["good"]["defect"] / max(figures.good, 1),
        verdicts["anomalous"]["defect"] / max(figures.anomalous, 1),
    )
    diagonal, base = [(0.0, 0.0), (1.0, 1.0)], float(truth.mean())
    chance = Series("chance", diagonal, "dashed", _GREY)
    always = Series("share of anomalous", [(0.0, base), (1.0, base)], "dashed", _GREY)
    calibrated = Series("calibrated", diagonal, "dashed", _GREY)
    trivial = Series("all good or all defect", [(0.0, 0.0), (0.5, 0.5), (1.0, 0.0)], "dashed", _GREY)
    cost = list(zip(figures.cost_x, figures.cost_y, strict=True))
    bins = np.array_split(np.argsort(scores, kind="stable"), min(curves.BINS, len(scores)))
    reliable = [
        Series(
            "images", [(float(scores[in_bin].mean()), float(truth[in_bin].mean())) for in_bin in bins], "dots"
        ),
        calibrated,
    ]
    edges = np.linspace(0, 1, _BARS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    good, anomalous = (
        np.histogram(np.clip(scores[kind], 0, 1), edges)[0] / kind.sum() for kind in (~truth, truth)
    )
    bars = [
        Series("good", _points(middles - 0.012, good), "bars", 2),
        Series("anomalous", _points(middles + 0.012, anomalous), "bars", 1),
    ]
    roc = [
        Series("score", _points(counts.fallout, counts.recall)),
        chance,
        Series("verdicts", [at], "dots", 1),
    ]
    precise = [Series("score", _points(counts.recall[1:], counts.precision[1:])), always]
    highest = float(max(good.max(), anomalous.max())) * 1.05
    return {
        "roc": chart("ROC: found against false alarms", "false-positive rate", roc, UNIT, UNIT),
        "precision_recall": chart("Precision against recall", "recall", precise, UNIT, UNIT),
        "reliability": chart(
            "Share anomalous by score", "mean score of a tenth of the images", reliable, UNIT, UNIT
        ),
        "cost": chart(
            "Least cost over all thresholds",
            "weight of misses in the cost",
            [Series("score", cost), trivial],
            UNIT,
            (0.0, 0.5),
        ),
        "scores": chart("Share of images by score", "score", bars, UNIT, (0.0, highest)),
    }


def run_plots(lines: Sequence[Mapping[str, object]], before: str = "", most: int = 8) -> dict[str, str]:
    """Curves over steps of all numbers in the lines of a run, by the part of their names before the slash;
    `most` curves a plot.

    `before` opens each title.
    """
    values: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, []).append((float(str(line["step"])), float(value)))
    plots = {}
    groups: dict[str, list[str]] = {}
    for name in sorted(values):
        group, slash, _ = name.rpartition("/")
        groups.setdefault(group if slash else name, []).append(name)
    for group, names in groups.items():
        for start in range(0, len(names), most):
            plotted_names = names[start : start + most]
            title = before + group if len(names) <= most else f"{before}{group} ({start // most + 1})"
            plots[title] = chart(
                title,
                "step",
                [
                    Series(name.rpartition("/")[2] if len(plotted_names) > 1 else "", values[name])
                    for name in plotted_names
                ],
            )
    return plots


def _points(x: Floats, y: Floats) -> list[tuple[float, float]]:
    return list(zip(x.tolist(), y.tolist(), strict=True))
