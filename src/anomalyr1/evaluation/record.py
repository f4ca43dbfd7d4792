"""The record of an evaluation, and what lies in its folder.

evaluation.json    the record
evaluation.md      its tables
scoreboard.csv     the three scoreboards, a line a cell
inspections.jsonl  the answers, where the evaluation asked for them itself
samples.jsonl      the samples, where a program gave them and no spec
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from anomalyr1.evaluation.detection import DetectionReport
from anomalyr1.evaluation.doubts import Doubts
from anomalyr1.evaluation.evidence_alone import EvidenceFigures
from anomalyr1.evaluation.localisation import Localisation
from anomalyr1.evaluation.mmad import Mmad
from anomalyr1.evaluation.provenance import Provenance
from anomalyr1.files import parse_record, read_regular
from anomalyr1.types import Fingerprint, InputError, Record

FILE = "evaluation.json"
MARKDOWN = "evaluation.md"
SCOREBOARD = "scoreboard.csv"
INSPECTIONS = "inspections.jsonl"
SAMPLES = "samples.jsonl"


class Source(Record):
    """What was evaluated, for loading it again."""

    spec: str
    """The spec of the data; `SAMPLES` where a program gave the samples."""
    options: dict[str, str] = Field(default_factory=dict)
    """Options of the data's loader."""
    stood: str = ""
    """Where the evaluation was started, as a path from its folder: relative paths of `spec` begin there."""
    folder: str = ""
    """Of earlier versions, and not read: drawn parts lie in the evaluation's folder."""
    limit: int | None = None
    """So many samples were taken, spread over classes, good and anomalous ones; None = all."""
    classes: tuple[str, ...] = ()
    """Only samples of these classes were taken; () = of all."""
    available: int = 0
    """How many samples the data has; 0 = not written down."""
    samples: int
    questions: str
    """Digest of ids, texts, options and gold answers: equal means the same questions."""
    inspections: str
    """The inspections file, as a path from the evaluation's folder."""
    notes: dict[str, int] = Field(default_factory=dict)
    """What was found while loading, under its name."""

    @property
    def selection(self) -> str:
        """Which samples were taken, in words; empty for all."""
        parts = [f"class {name}" for name in self.classes]
        if self.limit is not None:
            parts.append(f"limit {self.limit}")
        return f"{', '.join(parts)} of {self.available} samples" if parts else ""


class Evaluation(Record):
    """All that one evaluation says."""

    source: Source
    run: Fingerprint
    """What made the inspections."""
    provenance: Provenance
    left_out: dict[str, int]
    """Samples and inspections that found no partner."""
    failed: int
    """Inspections with an error; their questions count as wrong."""
    errors: tuple[str, ...]
    """The messages of the failed inspections, at most five."""
    mmad: Mmad | None
    """None = no multiple-choice question with a known answer."""
    detection: DetectionReport | None
    """None = no image whose truth is known."""
    localisation: Localisation | None
    """None = no boxes were asked for, or no true place is known."""
    evidence: EvidenceFigures | None = None
    """What the good parts alone say; None = no inspection was compared with any."""
    doubts: Doubts | None = None
    """What the checks of `inspect` would make of the verdicts; None = they cannot be checked, or are so."""


def read_evaluation(folder: str | Path) -> Evaluation:
    """The record in an evaluation's folder. Raises `InputError` when there is none."""
    path = Path(folder) / FILE
    try:
        return parse_record(Evaluation, read_regular(path), repr(str(path)))
    except InputError as error:
        raise InputError(
            f"{str(folder)!r} holds no evaluation of this version ({error}); "
            "name a folder that `anomalyr1 evaluate` wrote, or evaluate again"
        ) from error
