"""The verbs about reports: `anomalyr1 report`, and `anomalyr1 convert`, which lets other detectors in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import OK, Options, inspections_file, loader_options, say


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
    """One page with tables, plots and a gallery of inspections, or with the curves of a training run;
    Markdown, JSON and CSV beside it.
    """
    from anomalyr1.evaluation.record import FILE, INSPECTIONS
    from anomalyr1.report import evaluation_page
    from anomalyr1.training import run_pages

    require_output("report", out, (what, data, maps))
    folder = what if what.is_dir() else what.parent
    warnings: list[str] = []
    is_evaluation = (folder / FILE).is_file() and (what.is_dir() or what.name == INSPECTIONS)
    if run_pages.is_run(what) and data is None and maps is None:
        page = run_pages.write_run_page(what, out)
    elif is_evaluation and data is None:
        page = evaluation_page.write_of_evaluation(folder, out, maps)
        warnings = evaluation_page.warnings_of(out)
    else:
        inspections = inspections_file(what)
        page = evaluation_page.write_of_inspections(inspections, out, data, loader_options(option), maps)
        warnings = evaluation_page.warnings_of(out)
    for warning in warnings:
        say(f"warning: {warning}")
    say(f"report: {page}")
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
    """Make inspections of the scores and maps of any other detector, so that `report` and `evaluate` take
    them.
    """
    from anomalyr1 import data as data_sets
    from anomalyr1.evaluation import other_detectors

    require_output("convert", out, (scores, maps, data))
    images = None
    if data is not None:
        images = {sample.id: sample.image for sample in data_sets.load(data, **loader_options(option))}
    inspections = other_detectors.convert(scores, out, name, threshold, maps, map_threshold, images)
    say(f"{len(inspections)} inspections: {out}")
    return OK
