"""The verbs about reports: `anomalyr1 report`, and `anomalyr1 convert`, which lets other detectors in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyr1.cli.terminal import OK, say
from anomalyr1.data import sources
from anomalyr1.types import InputError, Sample

if TYPE_CHECKING:
    from anomalyr1.evaluation.detection import Pair
    from anomalyr1.evaluation.run import Evaluation
    from anomalyr1.report.evaluation_page import Results
    from anomalyr1.report.training_page import Run

SHOWN_GROUPS = 6
"""So many of the last groups of a training run are on its page."""
Options = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="Option of the loader as key=value.")
]


def report(
    what: Annotated[
        Path,
        typer.Argument(
            help="An inspections file, the folder of `inspect` or `evaluate`, or a training run's folder."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Labelled data that was inspected: a SPEC such as folder:FOLDER, or split:FILE."),
    ] = None,
    maps: Annotated[
        Path | None, typer.Option(help="NPZ file with one anomaly map (H, W) a sample, under its id.")
    ] = None,
    option: Options = None,
    out: Annotated[Path, typer.Option(help="Folder for the page, the tables and the plots.")] = Path(
        "report"
    ),
) -> int:
    """One page with tables, plots and a gallery of inspections, or with the curves of a training run; Markdown, JSON and CSV beside it."""
    from anomalyr1.evaluation import run as evaluations
    from anomalyr1.report import evaluation_page as results
    from anomalyr1.report import training_page as run

    beside = what if what.is_dir() else what.parent
    is_run = what.is_dir() and any((what / name).is_file() for name in ("metrics.jsonl", "recipe.yaml"))
    if is_run and data is None and maps is None:
        path = run.write(out, _run(what))
    elif (
        data is None
        and (beside / evaluations.FILE).is_file()
        and (what.is_dir() or what.name == evaluations.INSPECTIONS)
    ):
        path = results.write(out, _evaluated(beside, maps))
    else:
        path = results.write(out, _inspected(_file(what), data, option, maps, out))
    say(f"report: {path}")
    return OK


def convert(
    scores: Annotated[
        Path,
        typer.Argument(help="CSV with the columns sample_id and score, or NPZ with sample_ids and scores."),
    ],
    out: Annotated[Path, typer.Option(help="The inspections file to write.")],
    name: Annotated[str, typer.Option(help="The detector, as tables and pages shall call it.")] = "detector",
    threshold: Annotated[
        float | None, typer.Option(help="Score from which the verdict is defect; else all are unsure.")
    ] = None,
    maps: Annotated[
        Path | None, typer.Option(help="NPZ file with one anomaly map (H, W) a sample, under its id.")
    ] = None,
    map_threshold: Annotated[
        float | None, typer.Option(help="Value from which a map marks a defect: gives boxes and masks.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Data set whose sample ids are used; else an id is the path of its image."),
    ] = None,
    option: Options = None,
) -> int:
    """Make inspections of the scores and maps of any other detector, so that `report` and `evaluate` take them."""
    from anomalyr1.cli import data as cli_data
    from anomalyr1.evaluation import other_detectors as adapters

    images = None if data is None else {sample.id: sample.image for sample in cli_data.load(data, option)}
    made = adapters.convert(scores, out, name, threshold, maps, map_threshold, images)
    say(f"{len(made)} inspections: {out}")
    return OK


def _file(what: Path) -> Path:
    path = what / "inspections.jsonl" if what.is_dir() else what
    if not path.is_file():
        raise InputError(
            f"{str(what)!r} holds nothing to report on; give an inspections file, a folder of `anomalyr1 inspect` or `evaluate`, or the "
            "folder of a training run"
        )
    return path


def _evaluated(folder: Path, maps: Path | None) -> Results:
    """A folder of `anomalyr1 evaluate`; its data is loaded again."""
    from anomalyr1.evaluation import run as evaluations

    evaluation, pairs = evaluations.load_again(folder)
    return _results(f"{folder}", evaluation, pairs, maps)


def _inspected(
    path: Path, data: str | None, option: list[str] | None, maps: Path | None, out: Path
) -> Results:
    """An inspections file, beside the truth of a data set if one is named."""
    import anomalyr1
    from anomalyr1 import records
    from anomalyr1.cli import data as cli_data
    from anomalyr1.evaluation import pairing, provenance
    from anomalyr1.evaluation import run as evaluations
    from anomalyr1.report.evaluation_page import Results

    fingerprint, inspections = records.read(path)
    if data is None:
        if maps or option:
            raise InputError(
                "--maps and --option need --data: without the truth there is nothing to measure maps against"
            )
        pairs = [(Sample(id=one.sample_id, image=Path(one.sample_id)), one) for one in inspections]
        note = "What is true of these images is not known here, so no figure says how good the verdicts are. Name the data set with --data."
        return Results(str(path), fingerprint, pairs, None, [note], anomalyr1.__version__)
    options = cli_data.pairs(option)
    loaded = sources.load_source(data, options, out / "drawn")
    evaluations.require_same_data(path, fingerprint, loaded.samples)
    source = evaluations.Source(
        spec=data, options=options, folder=str((out / "drawn").absolute()), samples=len(loaded.samples),
        questions=provenance.questions_digest(loaded.samples, given=False), inspections=str(path.absolute()), notes=loaded.notes,
    )  # fmt: skip
    evaluation = evaluations.evaluate(loaded, fingerprint, inspections, source, partial=True)
    return _results(str(path), evaluation, pairing.pair(loaded.samples, inspections).known, maps)


def _results(title: str, evaluation: Evaluation, pairs: list[Pair], maps: Path | None) -> Results:
    """Figures and pairs, with the maps measured if there are any."""
    import anomalyr1
    from anomalyr1.evaluation import localisation
    from anomalyr1.evaluation import other_detectors as adapters
    from anomalyr1.report.evaluation_page import Results

    notes = [f"{name}: {n}" for name, n in evaluation.left_out.items()]
    if maps is not None:
        given = adapters.Maps(maps)
        found = localisation.localise(pairs, given)
        evaluation = evaluation.model_copy(update={"localisation": found})
        without = sum(inspection.sample_id not in given for _, inspection in pairs)
        notes += [f"images without a map: {without}"] if without else []
    return Results(title, evaluation.run, pairs, evaluation, notes, anomalyr1.__version__)


def _run(folder: Path) -> Run:
    """A training run's folder."""
    import json

    import anomalyr1
    from anomalyr1.report.training_page import Run, Written
    from anomalyr1.training import run_folder

    def text(name: str) -> str:
        path = folder / name
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{str(path)!r} cannot be read ({error}); restore it, or delete it to report without it"
            ) from error

    try:
        about = json.loads(text(run_folder.RUN) or "{}")
    except json.JSONDecodeError as error:
        raise InputError(
            f"{str(folder / run_folder.RUN)!r} is no JSON ({error}); restore it, or delete it to report without it"
        ) from error
    written = [
        Written(
            group.step, group.sample_id, group.question.text, group.question.answer or "",
            list(zip(group.completions, group.totals(), group.advantages, strict=True)),
        )
        for group in run_folder.read_groups(folder)[-SHOWN_GROUPS:]
    ]  # fmt: skip
    metrics, evaluations = (
        run_folder.read_lines(folder / name) for name in (run_folder.METRICS, run_folder.EVALUATIONS)
    )
    about = about if isinstance(about, dict) else {"run": about}
    return Run(
        str(folder), metrics, evaluations, text(run_folder.RECIPE), about, written, anomalyr1.__version__
    )
