"""The threshold on an anomaly score: the file `threshold.json`, the verdict it gives, labels to make it from.

`calibration` chooses it. The verdict is fail-safe: "good" needs a score below the lower bound and answers
that say good and agree.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from anomalyr1.boxes import Floats
from anomalyr1.data.label_tables import read_label_table
from anomalyr1.files import read_json, write_whole
from anomalyr1.inspection.verdicts import unsure_because
from anomalyr1.types import Fingerprint, InputError, Probability, Record, Verdict, first_error

Method = Literal["platt", "temperature"]
Cost = Annotated[float, Field(ge=0)]

MUST_MATCH = (
    "model",
    "revision",
    "family",
    "style",
    "max_pixels",
    "given",
    "evidence",
    "option_order",
    "engine",
    "sampling",
)
"""What a score depends on: a threshold serves only runs that agree in these fields of the fingerprint."""
_CLIP = 1e-9
"""Scores are kept so far from 0 and 1 before their log-odds are taken."""


class Calibration(Record):
    """Score -> probability of a defect."""

    method: Method
    slope: float = Field(ge=0)
    intercept: float

    def __call__(self, scores: Floats) -> Floats:
        """(N,) scores in 0..1 -> (N,) probabilities."""
        return sigmoid(self.slope * logit(scores) + self.intercept)


class Figures(Record):
    """What was measured on the labelled parts; rates are of their class."""

    auroc: float | None = None
    """None where no defective part was labelled."""
    misses: int
    """Defective parts below the threshold."""
    false_alarms: int
    """Good parts at or above the threshold."""
    unsure: int
    """Parts of either kind between the bounds."""
    cost_per_part: float
    """Expected cost of a part at the threshold, where `defect_rate` of the parts are defective."""
    cost_at_half: float
    """Expected cost of a part at a score of 0.5, for comparison."""
    error_before: float
    """Expected calibration error of the scores as they are, at the labelled share of defects; ten bins of
    equal size."""
    error_after: float
    """Expected calibration error after calibration, cross-validated."""
    brier_before: float
    """Brier score of the scores as they are."""
    brier_after: float
    """Brier score after calibration, cross-validated."""
    false_alarm_bound: float
    """The false-alarm rate is at most this, at 95 % (exact binomial)."""
    miss_bound: float
    """The miss rate is at most this, at 95 % (exact binomial)."""
    claim: float
    """The false-alarm rate that is to be claimed."""
    good_parts_missing: int
    """So many more good parts without a false alarm are needed to claim that rate at 95 %."""


class Threshold(Record):
    """What `threshold.json` holds."""

    threshold: Probability
    """A score from here on costs less when it is called a defect."""
    low: Probability
    """Scores below it are good."""
    high: Probability
    """Scores from here on are defects; between the two bounds a part is unsure."""
    calibration: Calibration
    cost_miss: Cost
    cost_false_alarm: Cost
    defect_rate: Probability
    """The share of defective parts for which cost and probability hold."""
    good: int
    """Labelled good parts with a score."""
    defect: int
    """Labelled defective parts with a score."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Inspections and labels that could not be used, by reason."""
    figures: Figures
    run: Fingerprint
    """What made the scores."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the lower bound {self.low:g} lies above the upper bound {self.high:g}")
        return self

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=True, allow_nan=False)
        write_whole(Path(path), text.encode("ascii") + b"\n")

    @classmethod
    def read(cls, path: str | Path) -> Threshold:
        """The threshold in a file. Raises `InputError` when it is none."""
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise InputError(
                f"{str(path)!r} is no threshold file ({first_error(error)}); "
                "make one with: anomalyr1 calibrate"
            ) from error

    @property
    def digest(self) -> str:
        """What the fingerprint of a run says of its threshold."""
        return f"threshold@{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]}"

    def require_same(self, run: Fingerprint) -> None:
        """Raise `InputError` that names what differs when another kind of run made the scores."""
        moved = ("model",) if run.same_weights(self.run) else ()  # a copy of the folder, or its new place
        pairs = [(n, getattr(self.run, n), getattr(run, n)) for n in MUST_MATCH if n not in moved]
        differences = [f"{name} was {old!r} and is now {new!r}" for name, old, new in pairs if old != new]
        if differences:
            raise InputError(
                f"the threshold was made for other scores: {'; '.join(differences)}. "
                "Inspect labelled parts so, and calibrate again"
            )

    def judge(
        self, verdict: Verdict, reason: str, score: float | None, only_boxes_lack: bool = False
    ) -> tuple[Verdict, str]:
        """The verdict of a score, given the one of the answers alone and its reason.

        Fail-safe: "good" needs a score below the lower bound and answers that say good and agree; what the
        answers leave unsure stays so, but for a defect that lacks its boxes only (`Opinion.only_boxes_lack`):
        a score from the upper bound on makes up for them.
        """
        if verdict == "unsure" and not (only_boxes_lack and score is not None and score >= self.high):
            return verdict, reason
        if score is None:
            return "unsure", unsure_because("there is no score to compare with the threshold", reason)
        probability = float(self.calibration(np.array([score]))[0])
        measured = f"the score {in_digits(score)}"
        if self.defect:  # else nothing is known of probabilities
            measured += f" (probability of a defect {in_digits(probability)})"
        if verdict == "unsure":
            note = (
                f"reaches the threshold {in_digits(self.high)} and the answer says defect; there is no box."
            )
            return "defect", f"Defect because {measured} {note}\n{reason.partition(chr(10))[2]}".strip()
        if self.low <= score < self.high:
            problem = f"{measured} lies between the bounds {in_digits(self.low)} and {in_digits(self.high)}"
            return "unsure", unsure_because(problem, reason)
        if score < self.low and verdict == "defect":
            problem = f"{measured} lies below the threshold {in_digits(self.low)}, but the answer says defect"
            return "unsure", unsure_because(problem, reason)
        if score >= self.high and verdict == "good":
            note = f"reaches the threshold {in_digits(self.high)}, although the answer says good."
            return "defect", f"Defect because {measured} {note}\n{reason}".strip()
        return verdict, reason  # score and answers agree


def labels_of(source: str | Path) -> dict[str, bool]:
    """Whether each sample is defective, from a CSV file (see `read_labels`) or from a data set (its spec).

    Samples of a data set go by their image's path, as `anomalyr1 inspect` names them. Raises `InputError` as
    `read_labels` and `data.load` do.
    """
    if is_table(source):
        return read_labels(source)
    from anomalyr1 import data

    samples = data.load(str(source))
    return {sample.image.as_posix(): sample.anomalous for sample in samples if sample.anomalous is not None}


def is_table(source: str | Path) -> bool:
    """Whether labels come from a CSV file, not from the spec of a data set."""
    return Path(source).is_file() or ":" not in str(source)


def read_labels(path: str | Path) -> dict[str, bool]:
    """Whether each sample is defective, from a CSV file (see `label_tables.read_label_table`, which raises).

    Rows without a label are left out.
    """
    lines = read_label_table(path)
    return {line.name: line.anomalous for line in lines if line.anomalous is not None}


def in_digits(probability: float) -> str:
    """Three digits of a probability; of what lies between 0.9995 and 1, how far it is from 1."""
    text = f"{probability:.3g}"
    return f"1 - {1 - probability:.1g}" if float(text) == 1 > probability else text


def logit(values: Floats) -> Floats:
    """(N,) probabilities -> (N,) log-odds, finite."""
    clipped = np.clip(values, _CLIP, 1 - _CLIP)
    odds: Floats = np.log(clipped) - np.log1p(-clipped)
    return odds


def sigmoid(z: Floats) -> Floats:
    """(N,) log-odds -> (N,) probabilities."""
    from scipy.special import expit

    probabilities: Floats = expit(z)
    return probabilities
