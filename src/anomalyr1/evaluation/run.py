"""An evaluation in one call: data and a model, or the inspections of an earlier run -> figures, in a folder.

    from anomalyr1.evaluation import evaluate
    evaluation = evaluate("nano", "drawn:dev?n=64", out="evaluation")
    evaluation.detection.overall.auroc

`record` says what lies in the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from anomalyr1 import files, prompts, records
from anomalyr1.data import sources
from anomalyr1.data.places import resolve_place, trusted_base
from anomalyr1.data.samples import listed
from anomalyr1.evaluation import (
    detection,
    doubts,
    evidence_alone,
    localisation,
    mmad,
    pairing,
    provenance,
    rows,
    statistics,
    tables,
)
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
from anomalyr1.evidence.bank import Bank
from anomalyr1.inspection.good_parts import require_apart
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.inspection.samples import require_files
from anomalyr1.types import Fingerprint, InputError, Inspection, Sample, nearest_name

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
    style: str | None = None,
    text: str | None = None,
    fast: bool = False,
    engine: str = "local",
    limit: int | None = None,
    classes: Sequence[str] = (),
    bank: Bank | Literal["references"] | None = None,
    tell: bool | None = None,
) -> Evaluation:
    """Figures of a model on labelled data, written into the folder `out`; run again to go on after a stop.

    The model is asked the data's own questions; it is an inspector, or the name of a model, which is loaded
    as `Inspector.load` does with `revision`, `max_pixels`, `style`, `text`, `fast` and `engine`. `data` is
    samples, or a spec such as "mmad:FOLDER" or "split:FILE" with the `options` of its loader. Only samples of
    `classes` are taken, and at most `limit`, spread over classes, good and anomalous ones; a later call with
    a higher limit goes on. With a `bank` images are measured against its good parts, or against each sample's
    "references"; `tell` says whether the prompt holds what they say (see `inspection.GoodParts`).

    Raises `InputError` for data that asks nothing or cannot be read, and for a model that cannot be used;
    `SetupError` for what is not installed. Files and what the folder holds are checked before a model is
    loaded.
    """
    loaded, source, context = _load(data, options or {}, Path(out), INSPECTIONS, limit, classes)
    if not any(sample.questions for sample in loaded.samples):
        raise InputError(
            f"{source.spec!r} asks no question, so there is nothing to evaluate; "
            "give labelled data (anomalyr1 data show SPEC ID)"
        )
    _require_images(loaded, source.spec)
    if isinstance(bank, Bank):
        require_apart(loaded.samples, bank)
    if isinstance(model, str):
        asked_style = None
        if (style or text) and bank is None:
            asked_style = prompts.style_id(style or prompts.DEFAULT_STYLE, text)
        _require_resumable(Path(out) / INSPECTIONS, asked_style, context)
        model = Inspector.load(
            model,
            revision=revision,
            max_pixels=max_pixels,
            style=style,
            text=text,
            fast=fast,
            engine=engine,
            bank=bank,
            tell=tell,
        )
    elif (revision, max_pixels, style, text, fast, engine, bank) != (
        None,
        None,
        None,
        None,
        False,
        "local",
        None,
    ):
        raise InputError("an inspector has its own model and prompt; leave their options out")
    fingerprint, inspected = _ask(model, loaded.samples, Path(out) / INSPECTIONS, progress, context)
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
    limit: int | None = None,
    classes: Sequence[str] = (),
) -> Evaluation:
    """Figures of the inspections file of an earlier run on labelled data, written into the folder `out`.

    `partial` allows samples without an inspection, and counts them; `limit` and `classes` are those of
    `evaluate`. Raises `InputError` when the file or the
    data cannot be read, or do not belong together.
    """
    evaluation, _ = measure_file(inspections, data, options or {}, Path(out), partial, limit, classes)
    write(Path(out), evaluation, data)
    return evaluation


def measure_file(
    inspections: str | Path,
    data: str | Sequence[Sample],
    options: Mapping[str, object],
    folder: Path,
    partial: bool = True,
    limit: int | None = None,
    classes: Sequence[str] = (),
) -> tuple[Evaluation, list[Pair]]:
    """Figures of an inspections file, and the samples with their inspections; drawn parts go into `folder`.

    Raises as `evaluate_file` does.
    """
    place = _path_from(folder, Path(inspections))
    loaded, source, context = _load(data, options, folder, place, limit, classes)
    fingerprint, inspected = records.read(inspections)
    _require_same_data(Path(inspections), fingerprint, context)
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
    """The `context` of `Inspector.run`: resuming with other questions, knowledge or references is refused.

    Of all samples of the data, so that a run of a part of them can go on with more.
    """
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
    has_places = any(sample.boxes for sample, _ in pairs)
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
        doubts=doubts.doubts_of(pairs) if labelled else None,
        evidence=evidence_alone.figures_of(pairs, labelled, has_places, repeats, seed),
    )


def write(folder: Path, evaluation: Evaluation, data: str | Sequence[Sample]) -> None:
    """Write the record, its tables, and samples of a program, which could not be loaded again otherwise.

    Raises `SetupError` when the disk refuses.
    """
    text = json.dumps(evaluation.model_dump(mode="json"), indent=1, ensure_ascii=True, allow_nan=False)
    contents = {FILE: text + "\n", MARKDOWN: tables.markdown(evaluation)}
    if not isinstance(data, str):
        contents[SAMPLES] = "".join(f"{sample.to_json()}\n" for sample in data)
    if evaluation.mmad is not None:
        contents[SCOREBOARD] = tables.scoreboard_csv(evaluation.mmad)
    encoded = {name: content.encode("utf-8", "backslashreplace") for name, content in contents.items()}
    files.write_together(folder, encoded)


def load_again(folder: str | Path) -> tuple[Evaluation, list[Pair]]:
    """The evaluation in a folder, and the samples with their inspections.

    Raises `InputError` when its data or inspections are gone or have changed.
    """
    evaluation = read_evaluation(folder)
    source, home = evaluation.source, Path(folder).resolve()
    base = trusted_base(home / FILE, home / source.stood) if source.stood else None
    if source.spec == SAMPLES:
        samples = _read_samples(home / SAMPLES, base)
    else:
        samples = sources.load_named(home / FILE, source.spec, source.options, base).samples
        samples = select(samples, source.limit, source.classes)
    if provenance.questions_digest(samples, with_context=False) != source.questions:
        raise InputError(
            f"{source.spec!r} asks other questions than when {str(folder)!r} was evaluated; "
            "restore the data, or evaluate again"
        )
    _, inspections = records.read(home / source.inspections)
    return evaluation, pairing.pair(samples, inspections).known


def select(samples: Sequence[Sample], limit: int | None, classes: Sequence[str]) -> list[Sample]:
    """The samples of some classes (() = all), at most `limit`, in their order; always the same ones.

    They are spread evenly over the samples in order of class, and of good before anomalous, so that all
    kinds keep their shares. Raises `InputError` for a class that there is not.
    """
    names = {name for sample in samples for name in (sample.class_name, sample.category)} - {""}
    for name in classes:
        if name not in names:
            nearest = nearest_name(name, names)
            hint = "" if nearest is None else f", did you mean {nearest!r}?"
            raise InputError(f"there is no class {name!r}{hint}; there are {listed(sorted(names))}")
    chosen = [s for s in samples if not classes or s.class_name in classes or s.category in classes]
    if limit is None or limit >= len(chosen):
        return chosen
    if limit < 1:
        raise InputError(f"--limit is {limit}, expected at least 1")
    order = sorted(
        range(len(chosen)), key=lambda place: (chosen[place].class_name, chosen[place].anomalous is True)
    )
    taken = sorted(order[number * len(order) // limit] for number in range(limit))
    return [chosen[place] for place in taken]


class _LoadedData(NamedTuple):
    """Samples, how to load them again, and the digest of all that the data asks."""

    loaded: sources.LoadedSource
    source: Source
    context: str


def _load(
    data: str | Sequence[Sample],
    options: Mapping[str, object],
    folder: Path,
    inspections: str,
    limit: int | None,
    classes: Sequence[str],
) -> _LoadedData:
    """The samples, and how to load them again; samples of a program will lie in the folder."""
    if isinstance(data, str):
        spec, loaded = data, sources.load_source(data, options, folder / "drawn")
    else:
        spec, loaded = SAMPLES, sources.LoadedSource(list(data), {}, None)
    context, available = data_digest(loaded.samples), len(loaded.samples)
    loaded = loaded._replace(samples=select(loaded.samples, limit, classes))
    source = Source(
        spec=spec,
        options={name: str(value) for name, value in options.items()},
        stood=_path_from(folder, Path.cwd()),
        limit=limit,
        classes=tuple(classes),
        available=available,
        samples=len(loaded.samples),
        questions=provenance.questions_digest(loaded.samples, with_context=False),
        inspections=inspections,
        notes=loaded.notes,
    )
    return _LoadedData(loaded, source, context)


def _path_from(folder: Path, target: Path) -> str:
    """The path that leads from a folder to a target, so that both can be moved together."""
    try:
        return Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(target.resolve())


def _read_samples(path: Path, base: Path | None) -> list[Sample]:
    """The samples that a program gave, their files where `places.resolve_place` finds them."""
    try:
        lines = enumerate(files.read_text(path).splitlines(), start=1)
        samples = [files.parse_record(Sample, line, f"line {number}") for number, line in lines]
    except InputError as error:
        raise InputError(f"the samples {str(path)!r} cannot be read ({error}); evaluate again") from error
    return [
        sample.model_copy(
            update={
                "image": resolve_place(sample.image, path, base),
                "references": tuple(resolve_place(place, path, base) for place in sample.references),
                "mask": None if sample.mask is None else resolve_place(sample.mask, path, base),
            }
        )
        for sample in samples
    ]


def _require_images(loaded: sources.LoadedSource, spec: str) -> None:
    """Raise `InputError` for missing images, which says where the data is had."""
    try:
        require_files(loaded.samples)
    except InputError as error:
        whole_spec = spec if loaded.split is None else loaded.split.source("test")[0]
        had_from = sources.HAD_FROM.get(whole_spec.partition(":")[0])
        if had_from is None:
            raise
        raise InputError(f"{error}. {had_from}") from error


def _require_resumable(path: Path, style: str | None, context: str) -> None:
    """Raise `InputError` where the file of an earlier run was made with another prompt or of other data.

    `style` is None where the policy decides how it is asked; what only a loaded model can tell, the writer
    compares. A new file, or one that cannot be read, passes.
    """
    try:
        run = records.fingerprint_of(path)
    except InputError:
        return
    if run is None:
        return
    if style not in (None, run.style):
        raise InputError(
            f"{str(path)!r} was made with the prompt {run.style}, and is asked to go on with {style}; "
            "give the same --style, or write to another --out"
        )
    _require_same_data(path, run, context)


def _ask(
    inspector: Inspector, samples: Sequence[Sample], path: Path, progress: Progress, context: str
) -> tuple[Fingerprint, list[Inspection]]:
    """Ask the model what the file does not hold yet."""

    def report(done: int, inspection: Inspection) -> None:
        progress(done, len(samples), inspection)

    inspections = inspector.run(samples, path, report, context, own_questions=True)
    return inspector.fingerprint(context), inspections


def _require_same_data(path: Path, run: Fingerprint, context: str) -> None:
    """Raise `InputError` when the file answers other questions than the data asks.

    Files of `anomalyr1 inspect` answer none of them, and pass.
    """
    if run.given.startswith(DATA) and run.given != context:
        raise InputError(
            f"{str(path)!r} was made with other questions, knowledge or reference images than the data has "
            "now; load the same data with the same options (--shots, --template, --knowledge, -o) as when it "
            "was made, or write to another --out"
        )


def _boxes_were_asked(sample: Sample, inspection: Inspection) -> bool:
    return inspection.boxes is not None or any(question.kind == "grounding" for question in sample.questions)
