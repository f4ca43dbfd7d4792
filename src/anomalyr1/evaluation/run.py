"""One evaluation: samples and inspections -> scoreboards, detection, localisation and provenance, as one record and a folder of files.

evaluation.json    the record
evaluation.md      its tables
scoreboard.csv     the three scoreboards, a line a cell
inspections.jsonl  the answers, where the evaluation asked for them itself
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from anomalyr1 import files, records
from anomalyr1.data import sources
from anomalyr1.data.sources import LoadedSource
from anomalyr1.evaluation import detection, localisation, mmad, pairing, provenance, statistics
from anomalyr1.evaluation import rows as answered
from anomalyr1.evaluation.provenance import Provenance
from anomalyr1.types import Fingerprint, InputError, Inspection, Record, Sample

FILE, MARKDOWN, SCOREBOARD, INSPECTIONS = (
    "evaluation.json",
    "evaluation.md",
    "scoreboard.csv",
    "inspections.jsonl",
)
GIVEN = "data@"
"""Opens `Fingerprint.given` of a run that asked the data's own questions; the digest of what was given
follows."""


class Source(Record):
    """What was evaluated, for loading it again."""

    spec: str
    options: dict[str, str] = Field(default_factory=dict)
    """Of the loader."""
    folder: str = ""
    """Where drawn parts lie."""
    samples: int
    questions: str
    """Digest of ids, texts, options and gold answers: equal means the same questions."""
    inspections: str
    """The inspections file; relative to the evaluation's folder when it lies in it."""
    notes: dict[str, int] = Field(default_factory=dict)
    """What was found while loading."""


class Evaluation(Record):
    """All that one evaluation says."""

    source: Source
    run: Fingerprint
    provenance: Provenance
    left_out: dict[str, int]
    """Samples and inspections that found no partner."""
    failed: int
    """Inspections with an error; their questions count as wrong."""
    errors: tuple[str, ...]
    """The first of their messages."""
    mmad: mmad.Mmad | None
    """None = no multiple-choice question with a known answer."""
    detection: detection.DetectionReport | None
    """None = no image whose truth is known."""
    localisation: localisation.Localisation | None
    """None = no boxes were asked for, or no true place is known."""


def given(samples: Sequence[Sample]) -> str:
    """What `Inspector.run` is told so that a run over other questions, knowledge or references is not resumed."""
    return GIVEN + provenance.questions_digest(samples, given=True)


def require_same_data(path: str | Path, run: Fingerprint, samples: Sequence[Sample]) -> None:
    """Raise `InputError` when the file answers other questions than the samples ask; files of `anomalyr1 inspect` answer none of them."""
    if run.given.startswith(GIVEN) and run.given != given(samples):
        raise InputError(
            f"{str(path)!r} was made with other questions, knowledge or reference images than the data has now; load the same data with "
            "the same options (--shots, --template, --knowledge, -o) as when it was made"
        )


def evaluate(
    loaded: LoadedSource,
    run: Fingerprint,
    inspections: Sequence[Inspection],
    source: Source,
    partial: bool = False,
    repeats: int = statistics.REPEATS,
    seed: int = 0,
) -> Evaluation:
    """Everything that samples and inspections say; intervals are of images.

    Raises `InputError` when samples have no inspection, unless `partial`; they are counted then.
    """
    pairs = pairing.pair(loaded.samples, inspections)
    without = pairs.left_out.get("samples without an inspection", 0)
    if without and not partial:
        raise InputError(
            f"{without} of {len(loaded.samples)} samples have no inspection, so the figures would be those of a part; finish the run, or "
            "evaluate what there is with --partial, which is then written down"
        )
    rows = answered.rows(pairs.known, run.style)
    located = any(
        one.boxes is not None or any(question.kind == "grounding" for question in sample.questions)
        for sample, one in pairs.known
    )
    errors = [inspection.error for _, inspection in pairs.known if inspection.error is not None]
    return Evaluation(
        source=source,
        run=run,
        provenance=provenance.examine(run.model, loaded),
        left_out=pairs.left_out,
        failed=len(errors),
        errors=tuple(dict.fromkeys(errors))[:5],
        mmad=mmad.evaluate(rows, repeats, seed)
        if any(row.gold is not None and row.status != "no reply" for row in rows)
        else None,
        detection=detection.detect(pairs.known, repeats, seed)
        if any(one.anomalous is not None for one, _ in pairs.known)
        else None,
        localisation=localisation.localise(pairs.known, repeats=repeats, seed=seed) if located else None,
    )


def write(folder: Path, evaluation: Evaluation, tables: Mapping[str, str]) -> None:
    """Write the record, and `tables` under their file names. Raises `SetupError` when the disk refuses."""
    text = json.dumps(evaluation.model_dump(mode="json"), indent=1, ensure_ascii=True, allow_nan=False)
    for name, content in {FILE: text + "\n", **tables}.items():
        files.write_whole(folder / name, content.encode("utf-8", "backslashreplace"))


def read(folder: str | Path) -> Evaluation:
    """The record in an evaluation's folder. Raises `InputError` when there is none."""
    path = Path(folder) / FILE
    try:
        return Evaluation.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(
            f"cannot read {str(path)!r}: {error.strerror}; expected a folder that `anomalyr1 evaluate` wrote"
        ) from error
    except (ValidationError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"{str(path)!r} is no evaluation of this version ({first}); evaluate again"
        ) from error


def load_again(folder: str | Path) -> tuple[Evaluation, list[tuple[Sample, Inspection]]]:
    """An evaluation with its samples and inspections. Raises `InputError` when its data or inspections are gone or have changed."""
    evaluation = read(folder)
    source = evaluation.source
    loaded = sources.load_source(source.spec, source.options, Path(source.folder or folder))
    if provenance.questions_digest(loaded.samples, given=False) != source.questions:
        raise InputError(
            f"{source.spec!r} asks other questions than when {str(folder)!r} was evaluated; restore the data, or evaluate again"
        )
    _, inspections = records.read(Path(folder) / source.inspections)  # an absolute path stays as it is
    return evaluation, pairing.pair(loaded.samples, inspections).known
