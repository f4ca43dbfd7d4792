"""Where evaluated data comes from, what its model was trained on, and what the two share.

What is found: the traces of what was learned from, in the run folder of the model (`RUN/learned.jsonl`, the
model being `RUN/final` or one of its checkpoints), and all that `data.leaks` finds between them and the
evaluated samples. No data that a model folder names is ever loaded. What is not found: what the makers of the
base weights trained on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyr1.data import leaks, sources
from anomalyr1.files import parse_record, read_json, read_text
from anomalyr1.types import InputError, Record, Sample, SetupError

if TYPE_CHECKING:
    from anomalyr1.data.splits import Manifest

NANO = ("nano", "nano-raw")
NANO_DATA = "The bundled nano policy was trained on drawn parts (docs/lab/nano.md) and on no photograph."
UNKNOWN_DATA = (
    f"The model has no run folder of ours with {leaks.LEARNED}: what it was trained on is not known here, "
    "so overlaps cannot be ruled out."
)
EXAMPLES = 20
"""So many overlaps are named; all are counted."""


class Overlap(Record):
    """An evaluated sample that the training data, or a reference image, gives away."""

    kind: str
    """One of `data.leaks.LeakKind`."""
    train: str
    test: str
    detail: str = ""


class Provenance(Record):
    """How honest a figure is."""

    protocol: str
    """How the evaluated samples were chosen, in words."""
    trained_on: tuple[str, ...]
    """Specs of the training data; empty when not known."""
    statement: str
    """What follows for the figures, in words."""
    leak_free: bool | None
    """Whether training and evaluated data share nothing; None = cannot be told."""
    overlaps: dict[str, int]
    """Kind of overlap -> how many evaluated samples it gives away."""
    examples: tuple[Overlap, ...]
    """Some of the overlaps."""


def questions_digest(samples: Iterable[Sample], with_context: bool) -> str:
    """A digest of what is asked: ids, texts, options and gold answers of all questions.

    `with_context` adds what is shown beside the image: knowledge and the names of reference images.
    """
    digest = hashlib.sha256()
    for sample in samples:
        parts = [sample.id]
        if with_context:
            parts += [sample.knowledge, *(path.name for path in sample.references)]
        for question in sample.questions:
            boxes = () if question.boxes is None else [box.xyxy for box in question.boxes]
            parts += [question.id, question.text, *question.options, str(question.answer), repr(boxes)]
        digest.update("\0".join(parts).encode("utf-8", "surrogatepass") + b"\1")
    return digest.hexdigest()[:16]


def run_folder(model: str) -> Path | None:
    """The folder of the run that made a model; None where it keeps no traces of what it learned from."""
    folder = Path(model)
    folders = (folder, folder.absolute().parent) if folder.is_dir() else ()
    return next((run for run in folders if (run / leaks.LEARNED).is_file()), None)


def training_specs(run: Path) -> tuple[str, ...]:
    """The specs of the data that a run learned from, as its `run.json` says; they are told, never loaded.

    Raises `InputError` for a file of another form.
    """
    path = run / "run.json"
    record = read_json(path)
    sources_of_run = record.get("data") if isinstance(record, dict) else None
    if not isinstance(sources_of_run, list) or not all(
        isinstance(source, dict) and isinstance(source.get("spec"), str) for source in sources_of_run
    ):
        raise InputError(f"{str(path)!r} has no list of specs under data, as the run wrote it")
    return tuple(source["spec"] for source in sources_of_run)


def examine(model: str, loaded: sources.LoadedSource) -> Provenance:
    """What is to be said about a model on these samples; opens images where the training data is known."""
    trained_on: tuple[str, ...] = ()
    overlaps: list[Overlap] = []
    leak_free: bool | None = None
    run = run_folder(model)
    statement = NANO_DATA if model in NANO else UNKNOWN_DATA
    if run is not None:
        try:
            trained_on = training_specs(run)
            statement, leak_free, overlaps = _compare(run, loaded.samples)
        except (InputError, SetupError) as error:
            statement = f"The training data could not be looked at, so overlaps cannot be ruled out: {error}"
    overlaps += _reference_overlaps(loaded.samples)
    return Provenance(
        protocol=_protocol(loaded.split),
        trained_on=trained_on,
        statement=statement,
        leak_free=leak_free,
        overlaps=dict(Counter(overlap.kind for overlap in overlaps)),
        examples=tuple(overlaps[:EXAMPLES]),
    )


def _protocol(split: Manifest | None) -> str:
    """How the evaluated samples were chosen, in words."""
    if split is None:
        return "all samples of the data; no split"
    plan = split.plan
    if plan.protocol == "few-shot":
        details = f"{plan.shots} images of each kind a {plan.per} to train on"
    elif plan.protocol == "share":
        details = f"{100 * plan.share:g} % to train on and {100 - 100 * plan.share:g} % to test on"
    else:
        details = f"held out: {', '.join(plan.held_out)}" if plan.held_out else "two sets as they are"
    allowed = ", ".join(f"{n} {kind}" for kind, n in split.leaks.counts.items())
    between = f"leaks allowed when it was made: {allowed}" if allowed else "no leaks between its sides"
    return f"test side of a split: {plan.protocol} ({details}), seed {plan.seed}; {between}"


def _compare(run: Path, samples: Sequence[Sample]) -> tuple[str, bool, list[Overlap]]:
    """What follows from what a run learned from, whether it is free of leaks, and the overlaps."""
    path = run / leaks.LEARNED
    lines = read_text(path).splitlines()
    learned = [
        parse_record(leaks.Trace, line, f"line {number} of {str(path)!r}")
        for number, line in enumerate(lines, start=1)
    ]
    found_leaks = leaks.compare(learned, leaks.traces(samples))
    overlaps = [Overlap.model_validate(leak.model_dump()) for leak in found_leaks]
    sizes = f"{len(learned)} training and {len(samples)} evaluated samples"
    if overlaps:
        leaked = len({overlap.test for overlap in overlaps})
        return f"NOT leak-free: {leaked} evaluated samples are given away ({sizes}).", False, overlaps
    return f"Leak-free as far as can be seen: no overlap between {sizes}.", True, []


def _reference_overlaps(samples: Sequence[Sample]) -> list[Overlap]:
    """Evaluated samples that serve as the reference image of another one."""
    ids = {sample.image: sample.id for sample in samples}
    shown_beside: dict[Path, str] = {}
    for sample in samples:
        for path in sample.references:
            if ids.get(path, sample.id) != sample.id:
                shown_beside[path] = sample.id
    return [
        Overlap(kind="reference", train=sample_id, test=ids[path], detail="shown as good beside it")
        for path, sample_id in shown_beside.items()
    ]
