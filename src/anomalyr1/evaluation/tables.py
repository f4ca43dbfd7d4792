"""An evaluation as tables: for the terminal, as Markdown, and as CSV in which no cell is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from anomalyr1.evaluation.breakdown import ClassRow
from anomalyr1.evaluation.detection import FIGURES, DetectionReport
from anomalyr1.evaluation.localisation import ACCURACY_AT, Localisation
from anomalyr1.evaluation.mmad import AVERAGE, SUBTASKS, Board, Mmad
from anomalyr1.evaluation.record import Evaluation
from anomalyr1.evaluation.statistics import Interval

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#"})


class Table(NamedTuple):
    """A titled table; the first column names the rows."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def markdown(evaluation: Evaluation) -> str:
    """The evaluation in Markdown."""
    return in_markdown("Evaluation", facts(evaluation), tables(evaluation))


def in_markdown(title: str, said: Sequence[str], shown: Sequence[Table]) -> str:
    """Facts and tables in Markdown; names from data and models cannot format or link anything."""
    lines = [f"# {title}", ""]
    lines += [f"- {_plain(fact)}" for fact in said]
    for table in shown:
        lines += [
            "",
            f"## {_plain(table.title)}",
            "",
            _line(table.head),
            _line(["---"] + ["---:"] * (len(table.head) - 1), plain=False),
        ]
        lines += [_line(row) for row in table.rows]
        if table.note:
            lines += ["", _plain(table.note)]
    return "\n".join(lines) + "\n"


def text(evaluation: Evaluation) -> Iterator[str]:
    """The evaluation in plain lines for a terminal."""
    yield from facts(evaluation)
    for table in tables(evaluation):
        widths = [max(len(row[i]) for row in (table.head, *table.rows)) for i in range(len(table.head))]
        yield ""
        yield table.title
        for row in (table.head, *table.rows):
            first, *rest = zip(row, widths, strict=True)
            yield "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()
        if table.note:
            yield table.note


def scoreboard_csv(mmad: Mmad) -> str:
    """The three scoreboards, a line a cell: reading, data set, column, percent, and the ends of its 95 % interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["reading", "dataset", "column", "percent", "low", "high"])
    for reading, board in mmad.boards.items():
        for name, cells in board.cells.items():
            sides = {"Overkill": board.overkill.get(name), "Miss": board.miss.get(name)}
            for column, cell in {**cells, **sides}.items():
                if cell is not None:
                    writer.writerow(
                        [
                            reading,
                            formula_safe(name),
                            column,
                            repr(cell.value),
                            repr(cell.low),
                            repr(cell.high),
                        ]
                    )
    return out.getvalue()


def formula_safe(cell: str) -> str:
    """Text that spreadsheets take for text: an apostrophe before what would open a formula."""
    return f"'{cell}" if cell.lstrip(" ").startswith(_FORMULA) else cell


def facts(evaluation: Evaluation) -> list[str]:
    """What was evaluated and how far it can be believed, in lines."""
    run, source, origin = evaluation.run, evaluation.source, evaluation.provenance
    known = ", ".join(origin.trained_on)
    revision = f", revision {run.revision}" if run.revision else ""
    found = [
        f"model: {run.model}{revision}; prompt {run.style}, {run.sampling}, engine {run.engine}",
        f"data: {source.spec} {' '.join(f'{key}={value}' for key, value in source.options.items())}".rstrip()
        + f", {source.samples} samples",
        f"protocol: {origin.protocol}",
        f"training data: {f'{known}. ' if known else ''}{origin.statement}",
        *(f"overlap: {kind}, {n} evaluated samples" for kind, n in origin.overlaps.items()),
        *(f"left out: {n} {name}" for name, n in evaluation.left_out.items()),
    ]
    if evaluation.failed:
        found.append(
            f"failed: {evaluation.failed} images, their questions count as wrong; the first: {evaluation.errors[0]}"
        )
    if evaluation.mmad is not None:
        found += _mmad_facts(evaluation.mmad)
    return found


def _mmad_facts(mmad: Mmad) -> list[str]:
    statuses = ", ".join(f"{n} {name}" for name, n in sorted(mmad.statuses.items()))
    agree = mmad.consistency
    found = [
        f"{mmad.questions} questions about {mmad.images} images: {statuses}; unparseable or without reply {percent(mmad.unparseable)} %",
        *(f"left out: {n} {name}" for name, n in mmad.left_out.items()),
    ]
    if agree.share is not None:
        found.append(
            f"reasoning and answer agree in {agree.agree} of {agree.both} replies whose reasoning names an option "
            f"({percent(agree.share)} %); {agree.silent} name none"
        )
    for gap in mmad.gaps:
        share = (
            "" if gap.share_by_parsing is None else f", parsing is {100 * gap.share_by_parsing:.0f} % of it"
        )
        found.append(
            f"official less {gap.reading}: {gap.points:+.2f} points, "
            f"{gap.by_parsing:+.2f} by parsing and {gap.by_counting:+.2f} by counting{share}"
        )
    if mmad.deleted or mmad.skipped:
        found.append(
            f"the published scorer deletes {mmad.deleted} answers and skips {mmad.skipped} after them"
        )
    return found


def tables(evaluation: Evaluation) -> list[Table]:
    """All tables of an evaluation."""
    found = []
    if evaluation.mmad is not None:
        found += [_board(board) for board in evaluation.mmad.boards.values()]
        found += [_classes(evaluation.mmad)]
        if evaluation.mmad.anomalies:
            found += [_anomalies(evaluation.mmad)]
    if evaluation.detection is not None:
        found += [_detection(evaluation), *_detection_classes(evaluation.detection)]
    if evaluation.localisation is not None:
        found += [_localisation(evaluation.localisation), *_maps(evaluation.localisation)]
    return found


def _board(board: Board) -> Table:
    columns = [name for name in (*SUBTASKS, AVERAGE) if any(name in cells for cells in board.cells.values())]
    rows = []
    for name, cells in board.cells.items():
        sides = (board.overkill.get(name), board.miss.get(name))
        figures = [cells.get(column) for column in columns]
        rows.append((name, *(("-" if one is None else f"{one.value:.1f}") for one in (*figures, *sides))))
    note = f"average {percent(board.average)}; overkill and miss: verdict questions about good and anomalous images not answered right"
    return Table(
        f"Scoreboard, {board.reading}, in percent", ("data set", *columns, "Overkill", "Miss"), rows, note
    )


def _classes(mmad: Mmad) -> Table:
    rows = [
        (one.name, str(one.images), str(one.questions), *_both(one), _rate(one.overkill), _rate(one.miss))
        for one in mmad.classes
    ]
    return Table(
        "Classes, in percent", ("class", "images", "questions", "strict", "lenient", "overkill", "miss"), rows
    )


def _anomalies(mmad: Mmad) -> Table:
    rows = [
        (
            one.sort,
            str(one.images),
            "-" if one.found is None else percent(one.found),
            str(one.questions),
            percent(one.right),
        )
        for one in mmad.anomalies
    ]
    head = ("anomalies", "images", "found", "questions", "answered right")
    return Table(
        "Logical and structural anomalies, in percent", head, rows, "read leniently; data sets that have both"
    )


def _detection(evaluation: Evaluation) -> Table:
    assert evaluation.detection is not None
    overall, means = evaluation.detection.overall, evaluation.detection.category_means
    rows = []
    for name in FIGURES:
        figure: Interval | None = getattr(overall, name)
        if figure is not None:
            rows.append((FIGURES[name], _interval(figure), f"{means[name]:.3f}" if name in means else "-"))
    note = f"{overall.good} good and {overall.anomalous} anomalous images, {overall.unscored} without a score, {overall.failed} failed"
    return Table("Detection", ("figure", "all images", "mean of classes"), rows, note)


def _localisation(found: Localisation) -> Table:
    rows = []
    for name, size in found.sizes.items():
        figures = (
            size.box_miou,
            *(size.accuracy_at.get(f"{at:g}") for at in ACCURACY_AT),
            size.mask_iou,
            size.mask_f1,
        )
        rows.append((name, str(size.images), *("-" if one is None else _interval(one) for one in figures)))
    head = (
        "defect size",
        "images",
        "box mIoU",
        *(f"ACC@{at:g}" for at in ACCURACY_AT),
        "mask IoU",
        "mask F1",
    )
    coco = (
        ""
        if found.coco is None
        else "; " + ", ".join(f"{name} {value:.3f}" for name, value in found.coco.items())
    )
    note = f"{found.unsaid} of {found.images} without readable boxes; {found.false_boxes} of {found.good} good images have a box{coco}"
    return Table("Localisation", head, rows, note)


def _detection_classes(found: DetectionReport) -> list[Table]:
    """A row a class, where there are several."""
    if len(found.categories) < 2:
        return []
    names = [name for name in FIGURES if name in found.category_means]
    rows = []
    for label, one in found.categories.items():
        figures: list[Interval | None] = [getattr(one, name) for name in names]
        rows.append(
            (
                label,
                str(one.good),
                str(one.anomalous),
                *("-" if own is None else f"{own.value:.3f}" for own in figures),
            )
        )
    head = ("class", "good", "anomalous", *(FIGURES[name] for name in names))
    return [Table("Detection by class", head, rows)]


def _maps(found: Localisation) -> list[Table]:
    """The figures of anomaly maps, where there are any."""
    if (maps := found.maps) is None:
        return []
    bounds = {
        "pixel AUROC": maps.bound_auroc,
        "pixel F1-max": maps.bound_f1_max,
        "AUPRO to 30 % FPR": maps.bound_aupro,
    }
    figures = zip(bounds.items(), (maps.auroc, maps.f1_max, maps.aupro), strict=True)
    rows = [
        (name, _interval(figure), f"{bound:.2g}" if maps.bins else "exact")
        for (name, bound), figure in figures
        if figure is not None
    ]
    rows += [
        (f"AUPRO, {size} defects", f"{value:.3f}", "" if maps.bins else "exact")
        for size, value in maps.aupro_by_size.items()
    ]
    regions = ", ".join(f"{n} {size}" for size, n in maps.regions.items())
    note = f"{maps.images} maps, {found.maps_scaled} scaled to their image; {maps.pixels:,} pixels; regions: {regions}"
    return [Table("Anomaly maps", ("figure", "all images", "off by at most"), rows, note)]


def percent(figure: Interval) -> str:
    """A percentage with its interval."""
    return f"{figure.value:.1f} [{figure.low:.1f}, {figure.high:.1f}]"


def _both(one: ClassRow) -> tuple[str, str]:
    """The strict and the lenient figure of a class; one image has no interval."""
    if one.images == 1:
        return f"{one.strict.value:.1f}", f"{one.lenient.value:.1f}"
    return percent(one.strict), percent(one.lenient)


def _interval(figure: Interval) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _line(cells: Sequence[str], plain: bool = True) -> str:
    return "| " + " | ".join(_plain(cell) if plain else cell for cell in cells) + " |"


def _plain(text: str) -> str:
    printable = "".join(
        c if c.isprintable() else " " if c in "\n\r\t" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
    return printable.translate(_MARKS)
