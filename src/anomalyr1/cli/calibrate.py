"""The verb `anomalyr1 calibrate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import OK, inspections_file, say

if TYPE_CHECKING:
    from anomalyr1.inspection.thresholds import Threshold


def calibrate(
    inspections: Annotated[
        Path, typer.Argument(help="The inspections.jsonl, or the folder, of a run over labelled parts.")
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="CSV file of images and labels (sample_id, label; good or defect), or a data set (SPEC)."
        ),
    ],
    cost_miss: Annotated[
        float | None, typer.Option(help="What a defect costs that is taken for good, in any unit.")
    ] = None,
    cost_false_alarm: Annotated[
        float | None,
        typer.Option(help="What a good part costs that is taken for defective, in the same unit."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write, for: anomalyr1 inspect --threshold.")] = Path(
        "threshold.json"
    ),
    defect_rate: Annotated[
        float | None, typer.Option(help="Share of defects on the line; default: that of the labelled parts.")
    ] = None,
    method: Annotated[
        Literal["platt", "temperature"], typer.Option(help="How scores are calibrated.")
    ] = "platt",
    claim: Annotated[float, typer.Option(help="The false-alarm rate that is to be claimed at 95 %.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> int:
    """Fit scores to labelled parts, and choose the threshold of least expected cost."""
    from anomalyr1.evaluation import calibration, statistics

    require_output("calibrate", out, (inspections, labels))
    threshold = calibration.calibrate_files(
        inspections_file(inspections), labels, cost_miss, cost_false_alarm, method, defect_rate, claim, seed
    )
    threshold.write(out)
    for line in _describe(threshold):
        say(line)
    labelled = {"good parts": threshold.good}
    if threshold.defect:
        labelled["defective parts"] = threshold.defect
    if warning := statistics.warn_of_few(labelled):
        say(f"warning: {warning}")
    say(f"threshold: {out}")
    say(f"next: anomalyr1 inspect IMAGES --threshold {shlex.quote(str(out))}, with the same model")
    return OK


def _describe(threshold: Threshold) -> list[str]:
    """What a person should know of a threshold."""
    from anomalyr1.inspection.thresholds import in_digits

    good, defect, figures = threshold.good, threshold.defect, threshold.figures
    if figures.auroc is None:
        return [
            f"{good} good parts with a score, and no defective one: misses are not known",
            *(f"left out: {number} {reason}" for reason, number in threshold.left_out.items()),
            f"a part is a defect above {in_digits(threshold.threshold)}, the highest of them",
            f"at 95 %: at most {figures.false_alarm_bound:.3g} false alarms",
            f"to claim a false-alarm rate of {figures.claim:g} at 95 %: "
            f"{figures.good_parts_missing} more good parts",
        ]
    return [
        f"{good} good and {defect} defective parts with a score; "
        f"costs hold for {threshold.defect_rate:.3g} defective parts",
        *(f"left out: {number} {reason}" for reason, number in threshold.left_out.items()),
        f"AUROC {figures.auroc:.3f}; a part is a defect from {in_digits(threshold.threshold)}, "
        f"95 % interval {in_digits(threshold.low)} to {in_digits(threshold.high)}; between: unsure",
        f"at the threshold: {figures.misses} of {defect} defects missed, "
        f"{figures.false_alarms} of {good} good parts alarmed; {figures.unsure} of {good + defect} unsure",
        f"at 95 %: at most {figures.miss_bound:.3g} of defects missed, "
        f"at most {figures.false_alarm_bound:.3g} false alarms",
        f"to claim a false-alarm rate of {figures.claim:g} at 95 %: "
        f"{figures.good_parts_missing} more good parts without a false alarm",
        f"expected cost a part: {figures.cost_per_part:.4g}, at a score of 0.5: {figures.cost_at_half:.4g}",
        f"calibration error: {figures.error_before:.3f} before, {figures.error_after:.3f} after "
        f"(cross-validated); Brier score {figures.brier_before:.3f} and {figures.brier_after:.3f}",
    ]
