"""Inspections and what is true as one self-contained page that runs no script and loads nothing, and as Markdown, JSON and CSV.

index.html    tables with intervals, confusion matrices, plots, gallery with filters
report.md     the tables
report.json   the figures
figures.csv   the cells of all tables, one a line
items.csv     a line an image
plots/*.svg   the plots
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomalyr1.evaluation import tables
from anomalyr1.evaluation.detection import VERDICTS, Pair
from anomalyr1.evaluation.record import Evaluation
from anomalyr1.evaluation.tables import Table
from anomalyr1.files import write_whole
from anomalyr1.report import gallery, svg
from anomalyr1.report.html import render
from anomalyr1.report.plots import detection_plots
from anomalyr1.types import Fingerprint, Inspection, Sample

MAX_CARDS = 1000
"""The page shows at most so many images; what needs a look comes first."""
MAX_CLASSES = 40
"""With more classes the gallery has no filter by class."""
MAX_ANSWERS = 12
"""A kind of question with more different gold answers has no confusion matrix."""
MAX_ROWS = 200
"""A table of the page shows at most so many rows; the files hold all."""
OTHER, UNREAD = "other", "unread"


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
    told = _told(results) if evaluation is None else evaluation.model_dump(mode="json")
    files = {
        "index.html": page,
        "report.md": plain if evaluation is None else tables.markdown(evaluation),
        "report.json": json.dumps(told, indent=1, ensure_ascii=True, allow_nan=False) + "\n",
        "figures.csv": figures_csv(all_tables(results)),
        "items.csv": items_csv(results.pairs),
        **{f"plots/{name}.svg": svg.file(plot) for name, plot in plots.items()},
    }
    for name, text in files.items():
        write_whole(folder / name, text.encode("utf-8", "backslashreplace"))
    return folder / "index.html"


def render_page(results: Results, plots: Mapping[str, str]) -> str:
    """The page; `plots` are our own SVG."""
    from markupsafe import Markup

    outcomes = Counter(gallery.outcome(sample, one) for sample, one in results.pairs)
    flags = Counter(flag for sample, one in results.pairs for flag in gallery.flags(sample, one))
    urgent = sorted(
        results.pairs,
        key=lambda pair: (gallery.OUTCOMES.index(gallery.outcome(*pair)), not gallery.flags(*pair)),
    )
    cards = gallery.cases(urgent[:MAX_CARDS])
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
        replies=Counter(reply.answer.status for _, one in results.pairs for reply in one.replies),
    )


def all_tables(results: Results) -> list[Table]:
    """The tables of the evaluation, or what can be counted without a truth."""
    if results.evaluation is not None:
        return tables.tables(results.evaluation)
    verdicts = Counter("failed" if one.error is not None else one.verdict for _, one in results.pairs)
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
    told = [(truths[sample.anomalous], one.verdict) for sample, one in pairs if sample.anomalous is not None]
    if not told:
        return []
    return [_confusion("Verdicts", told, sorted({truth for truth, _ in told}, reverse=True), VERDICTS)]


def confusions_of_answers(pairs: Sequence[Pair]) -> list[Confusion]:
    """Gold against answer, for each kind of question but the verdict that has few different gold answers; columns are numbers of rows."""
    answers: dict[str, list[tuple[str, str]]] = {}
    for sample, one in pairs:
        asked = {
            question.id: question for question in sample.questions if question.kind != "anomaly detection"
        }
        for reply in one.replies:
            question = asked.get(reply.question_id)
            if question is not None and question.answer is not None and question.options:
                texts = dict(zip(question.letters, question.options, strict=True))
                answers.setdefault(question.kind, []).append(
                    (texts[question.answer], texts.get(reply.answer.choice or "", UNREAD))
                )
    found = []
    for kind, rows in sorted(answers.items()):
        golds = sorted({gold for gold, _ in rows})
        if len(golds) <= MAX_ANSWERS:
            told = [(gold, answer if answer in (*golds, UNREAD) else OTHER) for gold, answer in rows]
            matrix = _confusion(f"{kind[0].upper()}{kind[1:]}", told, golds, [*golds, OTHER, UNREAD])
            numbers = tuple(str(number) for number in range(1, len(golds) + 1))
            named = [
                (f"{number}. {gold}", cells)
                for number, (gold, cells) in zip(numbers, matrix.rows, strict=True)
            ]
            found.append(Confusion(matrix.title, (*numbers, OTHER, UNREAD), named))
    return found


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
    return _csv(head, (_item(sample, one) for sample, one in pairs))


def figures_csv(shown: Iterable[Table]) -> str:
    """The cells of tables, one a line: table, row, column, text."""
    cells = (
        (table.title, row[0], column, cell)
        for table in shown
        for row in table.rows
        for column, cell in zip(table.head[1:], row[1:], strict=True)
    )
    return _csv(("table", "row", "column", "text"), cells)


def _item(sample: Sample, one: Inspection) -> tuple[str | float | int | None, ...]:
    truth = {None: "", False: "good", True: "anomalous"}[sample.anomalous]
    return (
        sample.id, sample.class_name, truth, sample.defect or "", one.verdict, gallery.outcome(sample, one),
        ", ".join(gallery.flags(sample, one)), one.score, None if one.boxes is None else len(one.boxes),
        None if sample.boxes is None else len(sample.boxes), one.reason, one.error or "",
    )  # fmt: skip


def _csv(head: Sequence[str], rows: Iterable[Sequence[str | float | int | None]]) -> str:
    """Every text is quoted, so that no program splits it at another mark, and is no formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(head)
    for row in rows:
        writer.writerow(
            [
                "" if cell is None else tables.formula_safe(cell) if isinstance(cell, str) else cell
                for cell in row
            ]
        )
    return out.getvalue()


def _confusion(
    title: str, told: Sequence[tuple[str, str]], rows: Sequence[str], columns: Sequence[str]
) -> Confusion:
    counted = Counter(told)
    lines = []
    for truth in rows:
        numbers = [counted[truth, column] for column in columns]
        lines.append((truth, tuple((number, round(9 * number / max(sum(numbers), 1))) for number in numbers)))
    return Confusion(title, tuple(columns), lines)


def _tiles(results: Results, outcomes: Counter[str]) -> list[tuple[str, str, int]]:
    """(style, name, number) of the tiles."""
    known = results.evaluation is not None and results.evaluation.detection is not None
    shown = (
        (("good", "right"), ("defect", "missed"), ("defect", "false alarm"), ("unsure", "unsure"))
        if known
        else (("good", "good"), ("defect", "defect"), ("unsure", "unsure"))
    )
    more = (("failed", "failed"),) if outcomes["failed"] or not known else ()
    return [(style, name, outcomes[name]) for style, name in (*shown, *more)]


def _filter_style(group: str, kinds: Sequence[str]) -> str:
    """Style of one row of filters: a chosen one hides the cards of other kinds and is marked; `kinds` are our own names."""
    return "".join(
        f"#{group}-{kind}:checked ~ .cards .card:not(.{kind}) {{ display: none; }}\n"
        f"#{group}-{kind}:checked ~ .chips [for={group}-{kind}] {{ background: var(--accent); color: var(--card); }}\n"
        f"#{group}-{kind}:focus-visible ~ .chips [for={group}-{kind}] {{ outline: 3px solid var(--accent); outline-offset: 2px; }}\n"
        for kind in kinds
    ) + (
        f"#{group}-all:checked ~ .chips [for={group}-all] {{ background: var(--accent); color: var(--card); }}\n"
        f"#{group}-all:focus-visible ~ .chips [for={group}-all] {{ outline: 3px solid var(--accent); outline-offset: 2px; }}\n"
    )


def _told(results: Results) -> dict[str, object]:
    outcomes = Counter(gallery.outcome(sample, one) for sample, one in results.pairs)
    statuses = Counter(reply.answer.status for _, one in results.pairs for reply in one.replies)
    return {
        "title": results.title,
        "run": results.run.model_dump(mode="json"),
        "images": len(results.pairs),
        "outcomes": dict(sorted(outcomes.items())),
        "replies": dict(sorted(statuses.items())),
        "notes": list(results.notes),
    }
