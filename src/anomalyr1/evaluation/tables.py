"""An evaluation as tables: for the terminal, as Markdown, and as CSV in which no cell is a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from anomalyr1.evaluation.detection import FIGURES, DetectionReport
from anomalyr1.evaluation.doubts import Doubts
from anomalyr1.evaluation.evidence_alone import EvidenceFigures
from anomalyr1.evaluation.localisation import ACCURACY_AT, Localisation
from anomalyr1.evaluation.mmad import AVERAGE, SUBTASKS, Board, Mmad
from anomalyr1.evaluation.record import Evaluation
from anomalyr1.evaluation.statistics import Interval, warn_of_few

_FORMULAS = re.compile(r'(^|[;\r\n])(?=[\s"]*[=+\-@＝＋－＠]|[ "]*[\t\r\n])')
"""Where a formula would open: at the beginning of a cell, and where programs that split lines at semicolons
begin another one, whatever is in quotes."""
_BLANKS = str.maketrans("\n\r\t", "   ")
_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#"})
_LINKS = re.compile(r"(?<=:)(?=//)|(?<=@)|(?<=#)(?=\d)|(?<=www)(?=\.)", re.IGNORECASE)
"""Where GitHub and others make links of plain text: https://host, www.host, @name, name@host, #12. A comment
between the two halves, which nobody sees, keeps them apart; an escape would not."""


class Table(NamedTuple):
    """A titled table; the first column names the rows."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def markdown(evaluation: Evaluation) -> str:
    """The evaluation in Markdown."""
    return in_markdown("Evaluation", [*warnings(evaluation), *facts(evaluation)], tables(evaluation))


def in_markdown(title: str, statements: Sequence[str], tables: Sequence[Table]) -> str:
    """Statements and tables in Markdown; names from data and models cannot format or link anything."""
    lines = [f"# {title}", ""]
    lines += [f"- {_plain(statement)}" for statement in statements]
    for table in tables:
        rule = " | ".join(["---", *("---:" for _ in table.head[1:])])
        lines += ["", f"## {_plain(table.title)}", "", _line(table.head), f"| {rule} |"]
        lines += [_line(row) for row in table.rows]
        if table.note:
            lines += ["", _plain(table.note)]
    return "\n".join(lines) + "\n"


def text(evaluation: Evaluation) -> Iterator[str]:
    """The evaluation in plain lines for a terminal."""
    yield from facts(evaluation)
    for warning in warnings(evaluation):
        yield f"warning: {warning}"
    for table in tables(evaluation):
        lines = [table.head, *table.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        yield ""
        yield table.title
        for line in lines:
            cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
            cells[0] = line[0].ljust(widths[0])
            yield "  ".join(cells).rstrip()
        if table.note:
            yield table.note


def scoreboard_csv(mmad: Mmad) -> str:
    """The three scoreboards, a line a cell: reading, data set, column, percent, ends of its 95 % interval."""
    lines = [line for board in mmad.boards.values() for line in _board_lines(board)]
    return in_csv(("reading", "dataset", "column", "percent", "low", "high"), lines)


def _board_lines(board: Board) -> Iterator[tuple[str | float, ...]]:
    """The cells of one scoreboard as lines of a CSV file."""
    for name, cells in board.cells.items():
        sides = {"Overkill": board.overkill.get(name), "Miss": board.miss.get(name)}
        for column, cell in {**cells, **sides}.items():
            if cell is not None:
                yield board.reading, name, column, cell.value, cell.low, cell.high


def in_csv(head: Sequence[str], rows: Iterable[Sequence[str | float | int | None]]) -> str:
    """A CSV file in which every text is quoted and none is a formula, not even where semicolons split."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(head)
    for row in rows:
        cells = ["" if cell is None else cell for cell in row]
        writer.writerow([formula_safe(cell) if isinstance(cell, str) else cell for cell in cells])
    return out.getvalue()


def formula_safe(cell: str) -> str:
    """Text that spreadsheets take for text: an apostrophe before what would open a formula."""
    return _FORMULAS.sub(r"\1'", cell)


def warnings(evaluation: Evaluation) -> list[str]:
    """What must be known before a figure is believed: that few images are behind it."""
    images = {}
    if evaluation.detection is not None:
        overall = evaluation.detection.overall
        images = {"good images": overall.good, "anomalous images": overall.anomalous}
    elif evaluation.mmad is not None:
        images = {"images": evaluation.mmad.images}
    return [warning] if (warning := warn_of_few(images)) else []


def facts(evaluation: Evaluation) -> list[str]:
    """What was evaluated and how far it can be believed, in lines."""
    run, source, origin = evaluation.run, evaluation.source, evaluation.provenance
    revision = f", revision {run.revision}" if run.revision else ""
    options = "".join(f" {key}={value}" for key, value in source.options.items())
    training_data = f"{', '.join(origin.trained_on)}. " if origin.trained_on else ""
    lines = [
        f"model: {run.model}{revision}; prompt {run.style}, {run.sampling}, engine {run.engine}",
        *([f"note: {run.taught}"] if run.taught else []),
        f"data: {source.spec}{options}, {source.samples} samples"
        + (f" ({source.selection})" if source.selection else ""),
        f"protocol: {origin.protocol}",
        f"training data: {training_data}{origin.statement}",
        *(f"overlap: {kind}, {n} evaluated samples" for kind, n in origin.overlaps.items()),
        *(f"left out: {n} {reason}" for reason, n in evaluation.left_out.items()),
    ]
    if evaluation.failed:
        lines.append(
            f"failed: {evaluation.failed} images, their questions count as wrong; "
            f"the first: {evaluation.errors[0]}"
        )
    if evaluation.mmad is not None:
        lines += _mmad_facts(evaluation.mmad)
    if evaluation.doubts is not None:
        lines.append(_doubts(evaluation.doubts))
    return lines


def _doubts(doubts: Doubts) -> str:
    accuracy = doubts.balanced_accuracy
    effect = "" if accuracy is None else f"; balanced accuracy of verdicts is {accuracy:.3f} then"
    return (
        "verdicts: answers as they stand; `inspect`, which checks them against reasoning and boxes, would "
        f"call {doubts.doubted} of {doubts.checked} unsure{effect}"
    )


def _mmad_facts(mmad: Mmad) -> list[str]:
    statuses = ", ".join(f"{n} {status}" for status, n in sorted(mmad.statuses.items()))
    lines = [
        f"{mmad.questions} questions about {mmad.images} images: {statuses}; "
        f"unparseable or without reply {percent(mmad.unparseable)} %",
        *(f"left out: {n} {reason}" for reason, n in mmad.left_out.items()),
    ]
    consistency = mmad.consistency
    if consistency.share is not None:
        lines.append(
            f"reasoning and answer agree in {consistency.agree} of {consistency.both} replies whose "
            f"reasoning names an option ({percent(consistency.share)} %); {consistency.silent} name none"
        )
    for gap in mmad.gaps:
        lines.append(
            f"official less {gap.reading}: {gap.points:+.2f} points, "
            f"{gap.by_parsing:+.2f} by parsing and {gap.by_counting:+.2f} by counting"
        )
    if mmad.deleted or mmad.skipped:
        lines.append(
            f"the published scorer deletes {mmad.deleted} answers and skips {mmad.skipped} after them"
        )
    return lines


def tables(evaluation: Evaluation) -> list[Table]:
    """All tables of an evaluation."""
    mmad, detection, localisation = evaluation.mmad, evaluation.detection, evaluation.localisation
    result: list[Table] = []
    if mmad is not None:
        result += [*map(_board, mmad.boards.values()), _classes(mmad), *_anomalies(mmad)]
    if detection is not None:
        result += [_detection(detection), *_detection_classes(detection)]
    if localisation is not None:
        result += [_localisation(localisation), *_maps(localisation)]
    return result + _evidence(evaluation.evidence)


def _evidence(evidence: EvidenceFigures | None) -> list[Table]:
    """What good parts alone say, in the same tables."""
    if evidence is None:
        return []
    result = []
    if evidence.detection is not None:
        unsure = sum(verdicts.get("unsure", 0) for verdicts in evidence.detection.overall.verdicts.values())
        agreement = ", ".join(f"{count} {name}" for name, count in evidence.agreement.items())
        table = _detection(evidence.detection)
        note = f"{table.note}; {unsure} unsure; beside the verdicts that were given: {agreement}"
        result.append(table._replace(title="Detection by good parts alone", note=note))
    if evidence.localisation is not None:
        result.append(_localisation(evidence.localisation)._replace(title="Places by good parts alone"))
    return result


def _board(board: Board) -> Table:
    columns = [name for name in (*SUBTASKS, AVERAGE) if any(name in cells for cells in board.cells.values())]
    rows = []
    for name, cells in board.cells.items():
        figures = [*map(cells.get, columns), board.overkill.get(name), board.miss.get(name)]
        rows.append((name, *_cells(figures, _short)))
    note = (
        f"average {percent(board.average)}; "
        "overkill and miss: verdict questions about good and anomalous images not answered right"
    )
    head = ("data set", *columns, "Overkill", "Miss")
    return Table(f"Scoreboard, {board.reading}, in percent", head, rows, note)


def _classes(mmad: Mmad) -> Table:
    rows = []
    for row in mmad.classes:
        rates = ["-" if rate is None else f"{rate:.1f}" for rate in (row.overkill, row.miss)]
        rows.append(
            (row.name, str(row.images), str(row.questions), percent(row.strict), percent(row.lenient), *rates)
        )
    head = ("class", "images", "questions", "strict", "lenient", "overkill", "miss")
    return Table("Classes, in percent", head, rows)


def _anomalies(mmad: Mmad) -> list[Table]:
    """Logical and structural anomalies apart, where there are both."""
    if not mmad.anomalies:
        return []
    rows = []
    for row in mmad.anomalies:
        verdicts, answers = _cells([row.found, row.right], percent)
        rows.append((row.sort, str(row.images), verdicts, str(row.questions), answers))
    head = ("anomalies", "images", "found", "questions", "answered right")
    title, note = "Logical and structural anomalies, in percent", "read leniently; data sets that have both"
    return [Table(title, head, rows, note)]


def _detection(report: DetectionReport) -> Table:
    overall, means = report.overall, report.category_means
    rows = []
    for name, title in FIGURES.items():
        figure: Interval | None = getattr(overall, name)
        if figure is not None:
            rows.append((title, _interval(figure), f"{means[name]:.3f}" if name in means else "-"))
    note = (
        f"{overall.good} good and {overall.anomalous} anomalous images, "
        f"{overall.unscored} without a score, {overall.failed} failed"
    )
    return Table("Detection", ("figure", "all images", "mean of classes"), rows, note)


def _detection_classes(report: DetectionReport) -> list[Table]:
    """A row a class, where there are several."""
    if len(report.categories) < 2:
        return []
    names = [name for name in FIGURES if name in report.category_means]
    rows = []
    for label, category in report.categories.items():
        figures: list[Interval | None] = [getattr(category, name) for name in names]
        cells = _cells(figures, lambda figure: f"{figure.value:.3f}")
        rows.append((label, str(category.good), str(category.anomalous), *cells))
    head = ("class", "good", "anomalous", *(FIGURES[name] for name in names))
    return [Table("Detection by class", head, rows)]


def _localisation(localisation: Localisation) -> Table:
    thresholds = [f"{at:g}" for at in ACCURACY_AT]
    rows = []
    for name, size in localisation.sizes.items():
        figures = [size.box_miou, *map(size.accuracy_at.get, thresholds), size.mask_iou, size.mask_f1]
        rows.append((name, str(size.images), *_cells(figures, _interval)))
    note = (
        f"{localisation.unsaid} of {localisation.images} without readable boxes; "
        f"{localisation.false_boxes} of {localisation.good} good images have a box"
    )
    if localisation.coco is not None:
        note += "; " + ", ".join(f"{name} {value:.3f}" for name, value in localisation.coco.items())
    accuracies = [f"ACC@{at}" for at in thresholds]
    head = ("defect size", "images", "box mIoU", *accuracies, "mask IoU", "mask F1")
    return Table("Localisation", head, rows, note)


def _maps(localisation: Localisation) -> list[Table]:
    """The figures of anomaly maps, where there are any."""
    maps = localisation.maps
    if maps is None:
        return []
    figures = (
        ("pixel AUROC", maps.auroc, maps.bound_auroc),
        ("pixel F1-max", maps.f1_max, maps.bound_f1_max),
        ("AUPRO to 30 % FPR", maps.aupro, maps.bound_aupro),
    )
    rows = [
        (name, _interval(figure), f"{bound:.2g}" if maps.bins else "exact")
        for name, figure, bound in figures
        if figure is not None
    ]
    rows += [
        (f"AUPRO, {size} defects", f"{value:.3f}", "" if maps.bins else "exact")
        for size, value in maps.aupro_by_size.items()
    ]
    regions = ", ".join(f"{n} {size}" for size, n in maps.regions.items())
    note = (
        f"{maps.images} maps, {localisation.maps_scaled} scaled to their image; "
        f"{maps.pixels:,} pixels; regions: {regions}"
    )
    return [Table("Anomaly maps", ("figure", "all images", "off by at most"), rows, note)]


def percent(figure: Interval) -> str:
    """A percentage with its interval."""
    return f"{figure.value:.1f} [{figure.low:.1f}, {figure.high:.1f}]"


def _cells(figures: Iterable[Interval | None], form: Callable[[Interval], str]) -> list[str]:
    return ["-" if figure is None else form(figure) for figure in figures]


def _short(figure: Interval) -> str:
    return f"{figure.value:.1f}"


def _interval(figure: Interval) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Text as one line in which nothing formats or links and nothing is invisible."""
    characters = text.translate(_BLANKS)
    printable = [c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in characters]
    return _LINKS.sub("<!-- -->", "".join(printable).translate(_MARKS))
