"""The verbs about scores and engines: `anomalyr1 calibrate` and `anomalyr1 parity`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomalyr1.cli.terminal import OK, SOME_FAILED, find_images, say
from anomalyr1.types import InputError

if TYPE_CHECKING:
    from anomalyr1.engines.parity import Parity
    from anomalyr1.inspection.thresholds import Threshold


def calibrate(
    inspections: Annotated[Path, typer.Argument(help="The inspections.jsonl of a run over labelled parts.")],
    labels: Annotated[
        str,
        typer.Option(
            help="CSV file with the columns sample_id and label (good or defect), or a data set (SPEC)."
        ),
    ],
    cost_miss: Annotated[
        float, typer.Option(help="What a defect costs that is taken for good, in any unit.")
    ],
    cost_false_alarm: Annotated[
        float, typer.Option(help="What a good part costs that is taken for defective, in the same unit.")
    ],
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
    from anomalyr1 import records
    from anomalyr1.evaluation import calibration

    for name, cost in (("--cost-miss", cost_miss), ("--cost-false-alarm", cost_false_alarm)):
        if not (cost > 0 and math.isfinite(cost)):
            raise InputError(f"{name} is {cost:g}, expected a cost above 0")
    for name, share in (("--defect-rate", defect_rate), ("--claim", claim)):
        if share is not None and not 0 < share < 1:
            raise InputError(f"{name} is {share:g}, expected a share between 0 and 1")
    truths = _labels(labels)
    run, found = records.read(inspections)
    threshold = calibration.calibrate(
        calibration.gather(found, truths), run, cost_miss, cost_false_alarm, method, defect_rate, claim, seed
    )
    threshold.write(out)
    for line in _lines(threshold):
        say(line)
    say(f"threshold: {out}")
    return OK


def _labels(labels: str) -> dict[str, bool]:
    """Whether each sample is defective; samples of a data set go by their image's path, as `inspect` names them, and by their own id."""
    from anomalyr1.inspection.thresholds import read_labels

    if Path(labels).is_file() or ":" not in labels:
        return read_labels(labels)
    from anomalyr1.data.sources import load_source

    samples = load_source(labels, boxes="as asked").samples
    return {sample.image.as_posix(): sample.anomalous for sample in samples if sample.anomalous is not None}


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


def parity(
    paths: Annotated[
        list[Path], typer.Argument(help="Image files, or folders that are searched for images.")
    ],
    engines: Annotated[
        str, typer.Option(help="Two engines with a comma between, e.g. local:nano,endpoint:server.yaml.")
    ],
    limit: Annotated[int, typer.Option("--n", min=1, help="Take so many of the images.")] = 20,
    style: Annotated[str, typer.Option(help="Prompt style: ours, mmad or released.")] = "ours",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest completion.")] = 256,
    allow_pixels: Annotated[
        bool, typer.Option("--allow-pixels", help="Compare although the pixel caps differ.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line on stdout, nothing else.")] = False,
) -> int:
    """Ask two engines the same, and compare answers, boxes, token counts and frames; exit code 2 where they saw different things."""
    from anomalyr1.engines import loading as specs
    from anomalyr1.engines import parity as parities
    from anomalyr1.engines.engine import Sampling
    from anomalyr1.types import Sample

    names = [name.strip() for name in engines.split(",")]
    if len(names) != 2 or not all(names):
        raise InputError(
            f"--engines is {engines!r}, expected two engines with a comma between; each is one of {', '.join(specs.EXAMPLES)}"
        )
    images = find_images(paths)[:limit]
    samples = [Sample(id=path.as_posix(), image=path) for path in images]
    pair = (specs.load(names[0]), specs.load(names[1]))
    found = parities.compare(pair, samples, style, Sampling(max_new_tokens=max_new_tokens), allow_pixels)
    for line in [found.to_json()] if as_json else _comparison(names, found):
        say(line)
    return OK if found.same_input else SOME_FAILED


def _comparison(names: list[str], found: Parity) -> list[str]:
    """What a person should know of a comparison."""
    iou = (
        "none could be compared"
        if found.mean_iou is None
        else f"mean IoU {found.mean_iou:.3f} of {found.boxes}"
    )
    scores = (
        "not given by both"
        if found.score_difference is None
        else f"at most {found.score_difference:.2g} apart"
    )
    return [
        f"{found.questions} questions about {found.images} images to {names[0]} and {names[1]}",
        *(f"{name} failed at {n} questions" for name, n in zip(names, found.failed, strict=True) if n),
        *(f"they differ in {difference}" for difference in found.differences),
        f"same text: {found.same_text} of {found.compared}; same option: {found.same_choice} of {found.choices}",
        f"option scores: {scores}; boxes: {iou}",
        f"same prompt tokens: {found.same_tokens} of {found.tokens} where known; largest difference {found.largest_token_difference}",
        f"same frame: {found.same_frame} of {found.frames} where known",
    ]
