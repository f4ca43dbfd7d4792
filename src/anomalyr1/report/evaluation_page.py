"""Inspections and what is true as one self-contained page that runs no script and loads nothing, and as
Markdown, JSON and CSV.

index.html    tables with intervals, confusion matrices, plots, gallery with filters
report.md     the tables
report.json   the figures
figures.csv   the cells of all tables, one a line
items.csv     a line an image
plots/*.svg   the plots
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomalyr1 import records
from anomalyr1.data.places import PlaceError
from anomalyr1.errors import InputError
from anomalyr1.evaluation import localisation, other_detectors, run, tables
from anomalyr1.evaluation.detection import VERDICTS, Pair
from anomalyr1.evaluation.record import Evaluation
from anomalyr1.evaluation.tables import Table, in_csv
from anomalyr1.files import parse_json, parse_record, read_regular, write_together
from anomalyr1.report import gallery, svg
from anomalyr1.report.html import render
from anomalyr1.report.plots import detection_plots
from anomalyr1.types import Fingerprint, Inspection, Sample
from anomalyr1.version import __version__

MAX_CARDS = 1000
"""The page shows at most so many images; what needs a look comes first."""
MAX_CLASSES = 40
"""With more classes the gallery has no filter by class."""
MAX_ANSWERS = 12
"""A kind of question with more different gold answers has no confusion matrix."""
MAX_ROWS = 200
"""A table of the page shows at most so many rows; the files hold all."""
OTHER, UNREAD = "other", "unread"
TRUTH_UNKNOWN = (
    "What is true of these images is not known here, so no figure says how good the verdicts are. "
    "Name the data set with --data."
)


@dataclass(frozen=True)
class Results:
    """What a report is about."""

    title: str
    """Where the inspections come from."""
    run: Fingerprint
    pairs: Sequence[Pair]
    """Samples without a known truth for inspections of which nothing is known."""
    evaluation: Evaluation | None
    """None = nothing is known about what is true."""
    notes: Sequence[str] = ()
    """What must be known before a figure is believed."""
    version: str = ""
    file: Path | None = None
    """The file that names the images, where the user did not."""


@dataclass(frozen=True)
class Confusion:
    """How often what is true was called what."""

    title: str
    columns: tuple[str, ...]
    """Numbers where the answers' texts would not fit: those of the rows."""
    rows: Sequence[tuple[str, tuple[tuple[int, int], ...]]]
    """Truth, and for each column the number and its share of the row in tenths."""


def write(folder: Path, results: Results) -> Path:
    """Write all files of a report and return the page's path. Raises `SetupError` when the disk refuses."""
    plots = detection_plots(results.pairs)
    page = render_page(results, plots)
    evaluation = results.evaluation
    plain = tables.in_markdown("Inspections", results.notes, all_tables(results))
    record = _record_without_truth(results) if evaluation is None else evaluation.model_dump(mode="json")
    files = {
        "index.html": page,
        "report.md": plain if evaluation is None else tables.markdown(evaluation),
        "report.json": json.dumps(record, indent=1, ensure_ascii=True, allow_nan=False) + "\n",
        "figures.csv": figures_csv(all_tables(results)),
        "items.csv": items_csv(results.pairs),
        **{f"plots/{name}.svg": svg.file(plot) for name, plot in plots.items()},
    }
    write_together(folder, {name: text.encode("utf-8", "backslashreplace") for name, text in files.items()})
    return folder / "index.html"


def render_page(results: Results, plots: Mapping[str, str]) -> str:
    """The page; `plots` are our own SVG."""
    from markupsafe import Markup

    outcomes = Counter(gallery.outcome(sample, inspection) for sample, inspection in results.pairs)
    flags = Counter(
        flag for sample, inspection in results.pairs for flag in gallery.flags(sample, inspection)
    )
    urgent = sorted(
        results.pairs,
        key=lambda pair: (gallery.OUTCOMES.index(gallery.outcome(*pair)), not gallery.flags(*pair)),
    )
    cards = gallery.cases(urgent[:MAX_CARDS], results.file)
    categories = sorted({card.category for card in cards})
    places = (
        {name: place for place, name in enumerate(categories)} if 1 < len(categories) <= MAX_CLASSES else {}
    )
    filters = [name for name in gallery.OUTCOMES if outcomes[name]] + [
        name for name in gallery.FLAGS if flags[name]
    ]
    kinds = [gallery.slug(name) for name in filters]
    return render(
        "evaluation_page.html.j2",
        ["page.css", "evaluation_page.css"],
        extra_style=_filter_style("show", kinds)
        + _filter_style("class", [f"class-{place}" for place in places.values()]),
        results=results,
        total=len(results.pairs),
        tiles=_tiles(results, outcomes),
        facts=[] if results.evaluation is None else tables.facts(results.evaluation),
        tables=all_tables(results),
        max_rows=MAX_ROWS,
        verdicts=confusion_of_verdicts(results.pairs),
        answers=confusions_of_answers(results.pairs),
        plots=[Markup(plot) for plot in plots.values()],  # our own; texts in it are escaped where it is made
        cards=cards,
        filters=[(gallery.slug(name), name, outcomes[name] + flags[name]) for name in filters],
        places=places,
        replies=Counter(
            reply.answer.status for _, inspection in results.pairs for reply in inspection.replies
        ),
    )


def all_tables(results: Results) -> list[Table]:
    """The tables of the evaluation, or what can be counted without a truth."""
    if results.evaluation is not None:
        return tables.tables(results.evaluation)
    verdicts = Counter(
        "failed" if inspection.error is not None else inspection.verdict for _, inspection in results.pairs
    )
    total = len(results.pairs)
    rows = [
        (name, str(verdicts[name]), f"{100 * verdicts[name] / max(total, 1):.1f}")
        for name in (*VERDICTS, "failed")
    ]
    return [
        Table(
            "Verdicts",
            ("verdict", "images", "percent"),
            rows,
            "What is true is not known here; name the data set with --data.",
        )
    ]


def confusion_of_verdicts(pairs: Sequence[Pair]) -> list[Confusion]:
    """Truth against verdict; none where no truth is known."""
    truths = {False: "good", True: "anomalous"}
    outcomes = [
        (truths[sample.anomalous], inspection.verdict)
        for sample, inspection in pairs
        if sample.anomalous is not None
    ]
    if not outcomes:
        return []
    return [
        _confusion("Verdicts", outcomes, sorted({truth for truth, _ in outcomes}, reverse=True), VERDICTS)
    ]


def confusions_of_answers(pairs: Sequence[Pair]) -> list[Confusion]:
    """Gold against answer, for each kind of question but the verdict that has few different gold answers;
    columns are numbers of rows.
    """
    answers: dict[str, list[tuple[str, str]]] = {}
    for sample, inspection in pairs:
        questions = {
            question.id: question for question in sample.questions if question.kind != "anomaly detection"
        }
        for reply in inspection.replies:
            question = questions.get(reply.question_id)
            if question is not None and question.answer is not None and question.options:
                texts = dict(zip(question.letters, question.options, strict=True))
                answers.setdefault(question.kind, []).append(
                    (texts[question.answer], texts.get(reply.answer.choice or "", UNREAD))
                )
    confusions = []
    for kind, rows in sorted(answers.items()):
        golds = sorted({gold for gold, _ in rows})
        if len(golds) <= MAX_ANSWERS:
            outcomes = [(gold, answer if answer in (*golds, UNREAD) else OTHER) for gold, answer in rows]
            matrix = _confusion(f"{kind[0].upper()}{kind[1:]}", outcomes, golds, [*golds, OTHER, UNREAD])
            numbers = tuple(str(number) for number in range(1, len(golds) + 1))
            named = [
                (f"{number}. {gold}", cells)
                for number, (gold, cells) in zip(numbers, matrix.rows, strict=True)
            ]
            confusions.append(Confusion(matrix.title, (*numbers, OTHER, UNREAD), named))
    return confusions


def items_csv(pairs: Iterable[Pair]) -> str:
    """A line an image; texts are quoted, and none is a formula."""
    head = (
        "sample_id",
        "category",
        "truth",
        "defect",
        "verdict",
        "outcome",
        "flags",
        "score",
        "boxes",
        "true_boxes",
        "reason",
        "error",
    )
    return in_csv(head, (_item(sample, inspection) for sample, inspection in pairs))


def figures_csv(tables: Iterable[Table]) -> str:
    """The cells of tables, one a line: table, row, column, text."""
    cells = (
        (table.title, row[0], column, cell)
        for table in tables
        for row in table.rows
        for column, cell in zip(table.head[1:], row[1:], strict=True)
    )
    return in_csv(("table", "row", "column", "text"), cells)


def _item(sample: Sample, inspection: Inspection) -> tuple[str | float | int | None, ...]:
    truth = {None: "", False: "good", True: "anomalous"}[sample.anomalous]
    return (
        sample.id,
        sample.class_name,
        truth,
        sample.defect or "",
        inspection.verdict,
        gallery.outcome(sample, inspection),
        ", ".join(gallery.flags(sample, inspection)),
        inspection.score,
        None if inspection.boxes is None else len(inspection.boxes),
        None if sample.boxes is None else len(sample.boxes),
        inspection.reason,
        inspection.error or "",
    )


def _confusion(
    title: str, outcomes: Sequence[tuple[str, str]], rows: Sequence[str], columns: Sequence[str]
) -> Confusion:
    counted = Counter(outcomes)
    lines = []
    for truth in rows:
        numbers = [counted[truth, column] for column in columns]
        lines.append((truth, tuple((number, round(9 * number / max(sum(numbers), 1))) for number in numbers)))
    return Confusion(title, tuple(columns), lines)


def _tiles(results: Results, outcomes: Counter[str]) -> list[tuple[str, str, int]]:
    """(style, name, number) of the tiles."""
    truth_known = results.evaluation is not None and results.evaluation.detection is not None
    tiles = (
        (("good", "right"), ("defect", "missed"), ("defect", "false alarm"), ("unsure", "unsure"))
        if truth_known
        else (("good", "good"), ("defect", "defect"), ("unsure", "unsure"))
    )
    failed_tile = (("failed", "failed"),) if outcomes["failed"] or not truth_known else ()
    return [(style, name, outcomes[name]) for style, name in (*tiles, *failed_tile)]


def _filter_style(group: str, kinds: Sequence[str]) -> str:
    """Style of one row of filters: a chosen one hides the cards of other kinds and is marked; `kinds` are our
    own names.
    """
    accent = "background: var(--accent); color: var(--card);"
    outline = "outline: 3px solid var(--accent); outline-offset: 2px;"
    rules = []
    for kind in kinds:
        rules += [
            f"#{group}-{kind}:checked ~ .cards .card:not(.{kind}) {{ display: none; }}",
            f"#{group}-{kind}:checked ~ .chips [for={group}-{kind}] {{ {accent} }}",
            f"#{group}-{kind}:focus-visible ~ .chips [for={group}-{kind}] {{ {outline} }}",
        ]
    rules += [
        f"#{group}-all:checked ~ .chips [for={group}-all] {{ {accent} }}",
        f"#{group}-all:focus-visible ~ .chips [for={group}-all] {{ {outline} }}",
    ]
    return "".join(f"{rule}\n" for rule in rules)


def _record_without_truth(results: Results) -> dict[str, object]:
    outcomes = Counter(gallery.outcome(sample, inspection) for sample, inspection in results.pairs)
    statuses = Counter(reply.answer.status for _, inspection in results.pairs for reply in inspection.replies)
    return {
        "title": results.title,
        "run": results.run.model_dump(mode="json"),
        "images": len(results.pairs),
        "outcomes": dict(sorted(outcomes.items())),
        "replies": dict(sorted(statuses.items())),
        "notes": list(results.notes),
    }


def write_of_evaluation(folder: str | Path, out: str | Path, maps: Path | None = None) -> Path:
    """The report of what `evaluate` wrote into `folder`, its data loaded again; returns the page's path.

    `maps` is an NPZ file with one anomaly map (H, W) a sample. Raises `InputError` where data or
    inspections are gone or have changed.
    """
    try:
        evaluation, pairs = run.load_again(folder)
    except PlaceError as error:
        raise InputError(f"{error}; or name the data themselves (on the command line with --data)") from error
    return write(Path(out), _results(str(folder), evaluation, pairs, maps))


def write_of_inspections(
    path: Path,
    out: Path,
    data: str | None = None,
    options: Mapping[str, str] | None = None,
    maps: Path | None = None,
) -> Path:
    """The report of an inspections file, beside the truth of a data set if one is named; returns the page's
    path.

    Raises `InputError` where the file or the data cannot be read, or do not belong together.
    """
    fingerprint, inspections = records.read(path)
    if data is None:
        if maps or options:
            raise InputError(
                "--maps and --option need --data: without the truth there is nothing to measure maps against"
            )
        pairs = [(Sample(id=i.sample_id, image=Path(i.sample_id)), i) for i in inspections]
        return write(out, Results(str(path), fingerprint, pairs, None, [TRUTH_UNKNOWN], __version__, path))
    evaluation, evaluated = run.measure_file(path, data, options or {}, out)
    return write(out, _results(str(path), evaluation, evaluated, maps))


def warnings_of(folder: Path) -> list[str]:
    """What must be known before the figures of a report are believed; nothing where the truth is not known.

    Raises `InputError` where the folder holds no report of this version.
    """
    place = folder / "report.json"
    content = read_regular(place)
    if not parse_json(content, repr(str(place))).keys() >= {"source", "detection"}:
        return []
    return tables.warnings(parse_record(Evaluation, content, repr(str(place))))


def _results(title: str, evaluation: Evaluation, pairs: Sequence[Pair], maps: Path | None) -> Results:
    """Figures and pairs, with the maps measured if there are any."""
    notes = [f"{warning[0].upper()}{warning[1:]}." for warning in tables.warnings(evaluation)]
    notes += [f"{name}: {count}" for name, count in evaluation.left_out.items()]
    if maps is not None:
        anomaly_maps = other_detectors.Maps(maps)
        figures = localisation.localise(pairs, anomaly_maps)
        evaluation = evaluation.model_copy(update={"localisation": figures})
        without_map = sum(inspection.sample_id not in anomaly_maps for _, inspection in pairs)
        notes += [f"images without a map: {without_map}"] if without_map else []
    return Results(title, evaluation.run, pairs, evaluation, notes, __version__)
