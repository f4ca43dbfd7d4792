"""The verbs about scores and engines: `anomalyr1 calibrate` and `anomalyr1 parity`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomalyr1.terminal import OK, say
from anomalyr1.types import InputError

if TYPE_CHECKING:
    from anomalyr1.thresholds import Threshold


def calibrate(
    inspections: Annotated[Path, typer.Argument(help="The inspections.jsonl of a run over labelled parts.")],
    labels: Annotated[str, typer.Option(help="CSV file with the columns sample_id and label (good or defect), or a data set (SPEC).")],
    cost_miss: Annotated[float, typer.Option(help="What a defect costs that is taken for good, in any unit.")],
    cost_false_alarm: Annotated[float, typer.Option(help="What a good part costs that is taken for defective, in the same unit.")],
    out: Annotated[Path, typer.Option(help="The file to write, for: anomalyr1 inspect --threshold.")] = Path("threshold.json"),
    defect_rate: Annotated[float | None, typer.Option(help="Share of defects on the line; default: that of the labelled parts.")] = None,
    method: Annotated[Literal["platt", "temperature"], typer.Option(help="How scores are calibrated.")] = "platt",
    claim: Annotated[float, typer.Option(help="The false-alarm rate that is to be claimed at 95 %.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> int:
    """Fit scores to labelled parts, and choose the threshold of least expected cost."""
    from anomalyr1 import calibration, records

    for name, cost in (("--cost-miss", cost_miss), ("--cost-false-alarm", cost_false_alarm)):
        if not (cost > 0 and math.isfinite(cost)):
            raise InputError(f"{name} is {cost:g}, expected a cost above 0")
    for name, share in (("--defect-rate", defect_rate), ("--claim", claim)):
        if share is not None and not 0 < share < 1:
            raise InputError(f"{name} is {share:g}, expected a share between 0 and 1")
    truths = _labels(labels)
    run, found = records.read(inspections)
    threshold = calibration.calibrate(calibration.gather(found, truths), run, cost_miss, cost_false_alarm, method, defect_rate, claim, seed)
    threshold.write(out)
    for line in _lines(threshold):
        say(line)
    say(f"threshold: {out}")
    return OK


def _labels(labels: str) -> dict[str, bool]:
    """Whether each sample is defective; samples of a data set go by their image's path, as `inspect` names them, and by their own id."""
    from anomalyr1.thresholds import read_labels

    if Path(labels).is_file() or ":" not in labels:
        return read_labels(labels)
    from anomalyr1 import data

    known = [(sample, sample.anomalous) for sample in data.load(labels)]
    return {sample.image.as_posix(): bool(anomalous) for sample, anomalous in known if anomalous is not None}


def _lines(threshold: Threshold) -> list[str]:
    """What a person should know of a threshold."""
    t, figures = threshold, threshold.figures
    left_out = [f"left out: {n} {name}" for name, n in t.left_out.items()]
    parts = t.good + t.defect
    return [
        f"{t.good} good and {t.defect} defective parts with a score; costs hold for {t.defect_rate:.3g} defective parts",
        *left_out,
        f"AUROC {figures.auroc:.3f}; a part is a defect from {t.threshold:.3g}, 95 % interval {t.low:.3g} to {t.high:.3g}; between: unsure",
        f"at the threshold: {figures.misses} of {t.defect} defects missed, {figures.false_alarms} of {t.good} good parts alarmed; "
        f"{figures.unsure} of {parts} unsure",
        f"at 95 %: at most {figures.miss_bound:.3g} of defects missed, at most {figures.false_alarm_bound:.3g} false alarms",
        f"to claim a false-alarm rate of {figures.claim:g} at 95 %: {figures.good_parts_missing} more good parts without a false alarm",
        f"expected cost a part: {figures.cost_per_part:.4g}, at a score of 0.5: {figures.cost_at_half:.4g}",
        f"calibration error: {figures.error_before:.3f} before, {figures.error_after:.3f} after (cross-validated); "
        f"Brier score {figures.brier_before:.3f} and {figures.brier_after:.3f}",
    ]
