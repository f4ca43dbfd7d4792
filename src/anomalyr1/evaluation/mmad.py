"""Three scoreboards of multiple-choice questions side by side: strict, lenient, and as MMAD's published scorer computes it.

All are tables of data sets by MMAD's seven subtasks in percent (object structure and object details belong to
object analysis). A cell is the share of right answers; of anomaly detection it is the mean of the shares on
good and on anomalous images. A row's average is the mean of its cells, the last row the mean of the rows.

*Strict* and *lenient* keep every question in the denominator: what cannot be read, or got no reply, is wrong.
*Official* follows jam-cc/MMAD (bad03b4, `helper/summary.py`): its parser; an image is good when "good" is in
its path; what has no letter A to E is deleted from the list that is being iterated over, so that the answer
after it is skipped unseen; a cell without answers counts as 0; images without a reply were never in its list.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyr1.evaluation import breakdown, statistics
from anomalyr1.evaluation.rows import READINGS, Reading, Row
from anomalyr1.evaluation.statistics import Interval
from anomalyr1.types import InputError, Record

SUBTASKS = (
    "Anomaly Detection", "Defect Classification", "Defect Localization", "Defect Description", "Defect Analysis",
    "Object Classification", "Object Analysis",
)  # fmt: skip
"""In the order of the published tables."""
DATASETS = ("DS-MVTec", "MVTec-AD", "MVTec-LOCO", "VisA", "GoodsAD")
AVERAGE = "Average"
DETECTION = SUBTASKS[0]
_FOLDED = {"Object Structure": "Object Analysis", "Object Details": "Object Analysis"}
_LETTERS = frozenset("ABCDE")

Floats = NDArray[np.float64]


class Board(Record):
    """One scoreboard, in percent."""

    reading: Reading
    cells: dict[str, dict[str, Interval]]
    """Data set (and "Average") -> subtask (and "Average") -> figure; cells without questions are absent."""
    overkill: dict[str, Interval]
    """Data set -> good images whose verdict question was not answered right, in percent."""
    miss: dict[str, Interval]
    """Data set -> anomalous images whose verdict question was not answered right, in percent."""

    @property
    def average(self) -> Interval:
        """The one figure of the board."""
        return self.cells[AVERAGE][AVERAGE]


class Gap(Record):
    """How far the official average lies from one of ours, and why."""

    reading: Reading
    points: float
    """Official less ours, in percentage points."""
    by_parsing: float
    """Points due to reading other letters."""
    by_counting: float
    """Points due to what is deleted, skipped or never counted, and to good told by the path."""
    share_by_parsing: float | None
    """`by_parsing` over `points`; None when there is no difference. May be below 0 or above 1 where the two
    work against each other."""


class Mmad(Record):
    """All that is said about the multiple-choice questions."""

    questions: int
    images: int
    statuses: dict[str, int]
    """How many replies are strict, lenient, unparseable, or missing."""
    unparseable: Interval
    """Percent of all questions, those without a reply included."""
    unparseable_by_subtask: dict[str, float]
    boards: dict[Reading, Board]
    """The official one only for MMAD's own images: its scorer tells data set and good images by the path."""
    gaps: tuple[Gap, ...]
    """Empty without the official board."""
    deleted: int
    """Answers that the published scorer deletes."""
    skipped: int
    """Answers that it skips after a deletion."""
    consistency: breakdown.Consistency
    classes: tuple[breakdown.ClassRow, ...]
    anomalies: tuple[breakdown.Anomalies, ...]
    left_out: dict[str, int]


class _Counted(Record):
    """Which rows of a list the published scorer counts."""

    mask: tuple[bool, ...]
    deleted: int
    skipped: int


def evaluate(rows: Sequence[Row], repeats: int = statistics.REPEATS, seed: int = 0) -> Mmad:
    """Everything about the questions of `rows`; intervals are of images. Raises `InputError` without a question of known gold answer."""
    known = [row for row in rows if row.gold is not None]
    if not known:
        raise InputError(
            "no question has a known gold answer, so there is nothing to score; evaluate data with questions and answers"
        )
    boards: dict[Reading, Board] = {reading: board(known, reading, repeats, seed) for reading in READINGS[:2]}
    gaps: tuple[Gap, ...] = ()
    counted = _Counted(mask=(), deleted=0, skipped=0)
    if all(row.dataset in DATASETS and row.sample_id.startswith(f"{row.dataset}/") for row in rows):
        boards["official"] = board(rows, "official", repeats, seed)
        counted = counted_officially(rows)
        swapped = _average(known, [row.official == row.gold for row in known])
        gaps = tuple(
            _gap(reading, boards[reading].average.value, swapped, boards["official"].average.value)
            for reading in READINGS[:2]
        )
    unread = [row.status in ("unparseable", "no reply") for row in known]
    left_out = {
        "questions without a gold answer": len(rows) - len(known),
        "verdict questions about images of unknown truth": len(known) - sum(_countable(known)),
    }
    return Mmad(
        questions=len(known),
        images=len({row.sample_id for row in known}),
        statuses=dict(Counter(row.status for row in known)),
        unparseable=breakdown.percent(unread, known, repeats, seed),
        unparseable_by_subtask=breakdown.by_subtask(known, unread, [subtask(row) for row in known]),
        boards=boards,
        gaps=gaps,
        deleted=counted.deleted,
        skipped=counted.skipped,
        consistency=breakdown.consistency(known, repeats, seed),
        classes=breakdown.by_class(known, repeats, seed),
        anomalies=breakdown.anomalies(known, repeats, seed),
        left_out={name: n for name, n in left_out.items() if n},
    )


def subtask(row: Row) -> str:
    """The subtask under which a question is counted."""
    name = row.kind.title()
    return _FOLDED.get(name, name)


def counted_officially(rows: Sequence[Row]) -> _Counted:
    """What the published scorer counts: a row without a letter A to E is deleted, and the one after it skipped; no reply, no row."""
    mask, deleted, skipped, skip = [], 0, 0, False
    for row in rows:
        valid = row.gold in _LETTERS and row.official in _LETTERS
        if row.status == "no reply":
            mask.append(False)
            continue
        mask.append(valid and not skip)
        skipped += skip
        deleted += not valid and not skip
        skip = not valid and not skip
    return _Counted(mask=tuple(mask), deleted=deleted, skipped=skipped)


def board(rows: Sequence[Row], reading: Reading, repeats: int = statistics.REPEATS, seed: int = 0) -> Board:
    """One scoreboard. Rows without a gold answer are left out, except that the official one needs them in their places.

    Raises `InputError` when there is nothing to put on it.
    """
    official = reading == "official"
    # Whatever is in the published scorer's list gives its table a row and a column, counted or not.
    seen = [row for row in rows if (row.status != "no reply" if official else row.gold is not None)]
    if not seen:
        raise InputError(
            "no question got a reply, so there is no scoreboard; see the errors of the inspections"
        )
    table = _Table(
        tuple(dict.fromkeys(row.dataset for row in seen)),
        tuple(dict.fromkeys(map(subtask, seen))),
        0.0 if official else math.nan,
    )
    if official:
        counted, anomalous = counted_officially(rows).mask, [("good" not in row.sample_id) for row in rows]
    else:
        counted, anomalous = _countable(rows), [row.anomalous is True for row in rows]
    ours = [place for place, used in enumerate(counted) if used]
    kept = [rows[place] for place in ours]
    sums = table.sums(kept, [row.right(reading) for row in kept], [anomalous[place] for place in ours])
    names = [row.sample_id for row in kept]
    if not kept:  # the published scorer makes a table of zeros
        sums, names = np.zeros((1, table.width)), [""]
    total, drawn = statistics.resampled_sums(sums, names, repeats, seed)
    return table.board(reading, total, drawn)


def _countable(rows: Sequence[Row]) -> tuple[bool, ...]:
    """Rows with a gold answer; of verdict questions those about images known to be good or anomalous."""
    return tuple(
        row.gold is not None and (row.kind != "anomaly detection" or row.anomalous is not None)
        for row in rows
    )


class _Table(NamedTuple):
    """Data sets by subtasks, each cell with a good and an anomalous side.

    Sums are of 2 K numbers: K right answers and K answers, by data set, subtask and side.
    """

    datasets: tuple[str, ...]
    subtasks: tuple[str, ...]
    absent: float
    """What a share of no answers is."""

    @property
    def width(self) -> int:
        return 4 * len(self.datasets) * len(self.subtasks)

    def sums(self, rows: Sequence[Row], right: Sequence[bool], anomalous: Sequence[bool]) -> Floats:
        """One line a row, (N, 2 K)."""
        row_of, column_of = ({name: place for place, name in enumerate(names)} for names in self[:2])
        places = np.array(
            [row_of[row.dataset] * len(column_of) + column_of[subtask(row)] for row in rows], dtype=np.intp
        )
        places = 2 * places + np.asarray(anomalous, dtype=np.intp)
        values = np.zeros((len(rows), self.width))
        lines = np.arange(len(rows))
        values[lines, places] = right
        values[lines, self.width // 2 + places] = 1
        return values

    def shares(self, sums: Floats) -> tuple[Floats, Floats]:
        """Percentages of sums (R, 2 K): with averages (R, datasets + 1, subtasks + 1), and of the verdict's sides (R, datasets, 2)."""
        right, asked = np.moveaxis(
            sums.reshape(len(sums), 2, len(self.datasets), len(self.subtasks), 2), 1, 0
        )
        cells = 100 * _ratio(right.sum(axis=-1), asked.sum(axis=-1), self.absent)
        sides = np.full((len(sums), len(self.datasets), 2), self.absent)
        if DETECTION in self.subtasks:
            column = self.subtasks.index(DETECTION)
            sides = 100 * _ratio(right[:, :, column], asked[:, :, column], self.absent)
            cells[:, :, column] = _mean(sides, 2)
        return with_averages(cells), sides

    def board(self, reading: Reading, total: Floats, drawn: Floats) -> Board:
        """The scoreboard of the sums of all rows and of the resampled ones."""
        (cells,), (sides,) = self.shares(total[None])
        drawn_cells, drawn_sides = self.shares(drawn)
        columns, names = (*self.subtasks, AVERAGE), (*self.datasets, AVERAGE)
        made: dict[str, dict[str, Interval]] = {
            name: {
                column: statistics.interval(float(cells[i, j]), drawn_cells[:, i, j])
                for j, column in enumerate(columns)
                if math.isfinite(cells[i, j])
            }
            for i, name in enumerate(names)
        }
        wrong, drawn_wrong = 100 - sides, 100 - drawn_sides
        wrong, drawn_wrong = (
            np.vstack([wrong, _mean(wrong, 0)]),
            np.concatenate([drawn_wrong, _mean(drawn_wrong, 1)[:, None]], axis=1),
        )
        overkill, miss = (
            {
                name: statistics.interval(float(wrong[i, side]), drawn_wrong[:, i, side])
                for i, name in enumerate(names)
                if math.isfinite(wrong[i, side])
            }
            for side in (0, 1)
        )
        return Board(reading=reading, cells=made, overkill=overkill, miss=miss)


def with_averages(cells: Floats) -> Floats:
    """Tables (R, D, S) with MMAD's averages: each row's mean of its cells, then the mean of the rows, (R, D + 1, S + 1); NaN is absent."""
    cells = np.concatenate([cells, _mean(cells, 2)[:, :, None]], axis=2)
    return np.concatenate([cells, _mean(cells, 1)[:, None]], axis=1)


def _ratio(right: Floats, asked: Floats, absent: float) -> Floats:
    shares: Floats = np.divide(right, asked, out=np.full(right.shape, absent), where=asked > 0)
    return shares


def _mean(values: Floats, axis: int) -> Floats:
    """The mean of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    return _ratio(
        np.where(there, values, 0).sum(axis=axis), there.sum(axis=axis).astype(np.float64), math.nan
    )


def _average(rows: Sequence[Row], right: Sequence[bool]) -> float:
    """The board's one figure, with our denominators and other letters."""
    table = _Table(
        tuple(dict.fromkeys(row.dataset for row in rows)), tuple(dict.fromkeys(map(subtask, rows))), math.nan
    )
    used = _countable(rows)
    kept = [row for row, one in zip(rows, used, strict=True) if one]
    sums = table.sums(
        kept,
        [one for one, there in zip(right, used, strict=True) if there],
        [row.anomalous is True for row in kept],
    )
    return float(table.shares(sums.sum(axis=0)[None])[0][0, -1, -1])


def _gap(reading: Reading, ours: float, swapped: float, official: float) -> Gap:
    points, parsing, counting = (
        0.0 if abs(one) < 1e-9 else one for one in (official - ours, swapped - ours, official - swapped)
    )
    return Gap(
        reading=reading,
        points=points,
        by_parsing=parsing,
        by_counting=counting,
        share_by_parsing=parsing / points if points else None,
    )
