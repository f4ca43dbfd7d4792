"""An evaluation in one call: data and a model, or the inspections of an earlier run -> figures, in a folder.

    from anomalyr1.evaluation import evaluate
    evaluation = evaluate("nano", "drawn:dev?n=64", out="evaluation")
    evaluation.detection.overall.auroc

`record` says what lies in the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from anomalyr1 import files, prompts, records
from anomalyr1.data import sources
from anomalyr1.data.places import resolve_place
from anomalyr1.evaluation import detection, localisation, mmad, pairing, provenance, rows, statistics, tables
from anomalyr1.evaluation.detection import Pair
from anomalyr1.evaluation.record import (
    FILE,
    INSPECTIONS,
    MARKDOWN,
    SAMPLES,
    SCOREBOARD,
    Evaluation,
    Source,
    read_evaluation,
)
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.types import Fingerprint, InputError, Inspection, Sample

DATA = "data@"
"""Opens `Fingerprint.given` of a run that asked the data's own questions; the digest of the data follows."""

Progress = Callable[[int, int, Inspection], None]
"""Gets the number of samples that are done, the number of all samples, and the newest inspection."""


def evaluate(
    model: str | Inspector,
    data: str | Sequence[Sample],
    *,
    out: str | Path = "evaluation",
    options: Mapping[str, object] | None = None,
    progress: Progress = lambda done, total, inspection: None,
    revision: str | None = None,
    max_pixels: int | None = None,
    style: str = prompts.DEFAULT_STYLE,
    fast: bool = False,
    engine: str = "local",
) -> Evaluation:
    """Figures of a model on labelled data, written into the folder `out`; run again to go on after a stop.

    The model is asked the data's own questions; it is an inspector, or the name of a model, which is loaded
    as `Inspector.load` does with `revision`, `max_pixels`, `style`, `fast` and `engine`. `data` is samples,
    or a spec such as "mmad:FOLDER" or "split:FILE" with the `options` of its loader.

    Raises `InputError` for data that asks nothing or cannot be read, and for a model that cannot be used;
    `SetupError` for what is not installed.
    """
    loaded, source = _load(data, options or {}, Path(out), INSPECTIONS)
    if not any(sample.questions for sample in loaded.samples):
        raise InputError(
            f"{source.spec!r} asks no question, so there is nothing to evaluate; "
            "give labelled data (anomalyr1 data show SPEC ID)"
        )
    if isinstance(model, str):
        model = Inspector.load(
            model, revision=revision, max_pixels=max_pixels, style=style, fast=fast, engine=engine
        )
    elif (revision, max_pixels, style, fast, engine) != (None, None, prompts.DEFAULT_STYLE, False, "local"):
        raise InputError("an inspector has its own model and prompt; leave their options out")
    fingerprint, inspected = _ask(model, loaded.samples, Path(out) / INSPECTIONS, progress)
    evaluation = measure(loaded, fingerprint, inspected, source)
    write(Path(out), evaluation, data)
    return evaluation


def evaluate_file(
    inspections: str | Path,
    data: str | Sequence[Sample],
    *,
    out: str | Path = "evaluation",
    options: Mapping[str, object] | None = None,
    partial: bool = False,
) -> Evaluation:
    """Figures of the inspections file of an earlier run on labelled data, written into the folder `out`.

    `partial` allows samples without an inspection, and counts them. Raises `InputError` when the file or the
    data cannot be read, or do not belong together.
    """
    evaluation, _ = measure_file(inspections, data, options or {}, Path(out), partial)
    write(Path(out), evaluation, data)
    return evaluation


def measure_file(
    inspections: str | Path,
    data: str | Sequence[Sample],
    options: Mapping[str, object],
    folder: Path,
    partial: bool = True,
) -> tuple[Evaluation, list[Pair]]:
    """Figures of an inspections file, and the samples with their inspections; drawn parts go into `folder`.

    Raises as `evaluate_file` does.
    """
    loaded, source = _load(data, options, folder, str(Path(inspections).absolute()))
    fingerprint, inspected = records.read(inspections)
    _require_same_data(Path(inspections), fingerprint, loaded.samples)
    evaluation = measure(loaded, fingerprint, inspected, source, partial)
    return evaluation, pairing.pair(loaded.samples, inspected).known


def mmad_options(shots: int, template: str, knowledge: bool) -> dict[str, str]:
    """The options of MMAD's loader: reference images beside each image, which, and knowledge of the class.

    None of them where neither references nor knowledge are asked for. Raises `InputError` for a choice of
    reference images without their number.
    """
    if template != "random" and not shots:
        raise InputError(f"--template {template} chooses reference images, so say how many with --shots")
    if not shots and not knowledge:
        return {}
    return {"shots": str(shots), "template": template, "knowledge": str(knowledge)}


def data_digest(samples: Sequence[Sample]) -> str:
    """The `context` of `Inspector.run`: resuming with other questions, knowledge or references is refused."""
    return DATA + provenance.questions_digest(samples, with_context=True)


def measure(
    loaded: sources.LoadedSource,
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
    pairs, left_out = pairing.pair(loaded.samples, inspections)
    without = left_out.get("samples without an inspection", 0)
    if without and not partial:
        raise InputError(
            f"{without} of {len(loaded.samples)} samples have no inspection, so the figures would be those "
            "of a part; finish the run, or evaluate what there is with --partial, which is then written down"
        )
    errors = [inspection.error for _, inspection in pairs if inspection.error is not None]
    answered = rows.of_pairs(pairs, run.style)
    scorable = any(row.gold is not None and row.status != "no reply" for row in answered)
    labelled = any(sample.anomalous is not None for sample, _ in pairs)
    located = any(_boxes_were_asked(sample, inspection) for sample, inspection in pairs)
    return Evaluation(
        source=source,
        run=run,
        provenance=provenance.examine(run.model, loaded),
        left_out=left_out,
        failed=len(errors),
        errors=tuple(dict.fromkeys(errors))[:5],
        mmad=mmad.evaluate(answered, repeats, seed) if scorable else None,
        detection=detection.detect(pairs, repeats, seed) if labelled else None,
        localisation=localisation.localise(pairs, repeats=repeats, seed=seed) if located else None,
    )


def write(folder: Path, evaluation: Evaluation, data: str | Sequence[Sample]) -> None:
    """Write the record, its tables, and samples of a program, which could not be loaded again otherwise.

    Raises `SetupError` when the disk refuses.
    """
    text = json.dumps(evaluation.model_dump(mode="json"), indent=1, ensure_ascii=True, allow_nan=False)
    contents = {} if isinstance(data, str) else {SAMPLES: "".join(f"{s.to_json()}\n" for s in data)}
    contents |= {FILE: text + "\n", MARKDOWN: tables.markdown(evaluation)}
    if evaluation.mmad is not None:
        contents[SCOREBOARD] = tables.scoreboard_csv(evaluation.mmad)
    for name, content in contents.items():
        files.write_whole(folder / name, content.encode("utf-8", "backslashreplace"))


def load_again(folder: str | Path) -> tuple[Evaluation, list[Pair]]:
    """The evaluation in a folder, and the samples with their inspections.

    Raises `InputError` when its data or inspections are gone or have changed.
    """
    evaluation = read_evaluation(folder)
    source = evaluation.source
    if source.spec == SAMPLES:
        samples = _read_samples(Path(folder) / SAMPLES)
    else:
        samples = sources.load_named(Path(folder) / FILE, source.spec, source.options).samples
    if provenance.questions_digest(samples, with_context=False) != source.questions:
        raise InputError(
            f"{source.spec!r} asks other questions than when {str(folder)!r} was evaluated; "
            "restore the data, or evaluate again"
        )
    _, inspections = records.read(Path(folder) / source.inspections)  # an absolute path stays as it is
    return evaluation, pairing.pair(samples, inspections).known


def _load(
    data: str | Sequence[Sample], options: Mapping[str, object], folder: Path, inspections: str
) -> tuple[sources.LoadedSource, Source]:
    """The samples, and how to load them again; samples of a program will lie in the folder."""
    if isinstance(data, str):
        spec, loaded = data, sources.load_source(data, options, folder / "drawn")
    else:
        spec, loaded = SAMPLES, sources.LoadedSource(list(data), {}, None)
    source = Source(
        spec=spec,
        options={name: str(value) for name, value in options.items()},
        samples=len(loaded.samples),
        questions=provenance.questions_digest(loaded.samples, with_context=False),
        inspections=inspections,
        notes=loaded.notes,
    )
    return loaded, source


def _read_samples(path: Path) -> list[Sample]:
    """The samples that a program gave, where the file may name their images and masks (`places`)."""
    try:
        lines = enumerate(files.read_text(path).splitlines(), start=1)
        samples = [files.parse_record(Sample, line, f"line {number}") for number, line in lines]
    except InputError as error:
        raise InputError(f"the samples {str(path)!r} cannot be read ({error}); evaluate again") from error
    for sample in samples:
        for place in (sample.image, *sample.references, sample.mask):
            if place is not None:
                resolve_place(place, path)
    return samples


def _ask(
    inspector: Inspector, samples: Sequence[Sample], path: Path, progress: Progress
) -> tuple[Fingerprint, list[Inspection]]:
    """Ask the model what the file does not hold yet."""

    def report(done: int, inspection: Inspection) -> None:
        progress(done, len(samples), inspection)

    context = data_digest(samples)
    inspections = inspector.run(samples, path, report, context, own_questions=True)
    return inspector.fingerprint(context), inspections


def _require_same_data(path: Path, run: Fingerprint, samples: Sequence[Sample]) -> None:
    """Raise `InputError` when the file answers other questions than the samples ask.

    Files of `anomalyr1 inspect` answer none of them, and pass.
    """
    if run.given.startswith(DATA) and run.given != data_digest(samples):
        raise InputError(
            f"{str(path)!r} was made with other questions, knowledge or reference images than the data has "
            "now; load the same data with the same options (--shots, --template, --knowledge, -o) as when it "
            "was made"
        )


def _boxes_were_asked(sample: Sample, inspection: Inspection) -> bool:
    return inspection.boxes is not None or any(question.kind == "grounding" for question in sample.questions)
