"""Three scoreboards of multiple-choice questions side by side: strict, lenient, and as MMAD's scorer has it.

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
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyr1.boxes import Floats
from anomalyr1.evaluation import breakdown, statistics
from anomalyr1.evaluation.rows import READINGS, AnsweredQuestion, Reading
from anomalyr1.evaluation.statistics import Interval
from anomalyr1.types import InputError, Record

SUBTASKS = (
    "Anomaly Detection", "Defect Classification", "Defect Localization", "Defect Description",
    "Defect Analysis", "Object Classification", "Object Analysis",
)  # fmt: skip
"""In the order of the published tables."""
DATASETS = ("DS-MVTec", "MVTec-AD", "MVTec-LOCO", "VisA", "GoodsAD")
AVERAGE = "Average"
DETECTION = SUBTASKS[0]
_FOLDED = {"Object Structure": "Object Analysis", "Object Details": "Object Analysis"}
_LETTERS = frozenset("ABCDE")


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
    """The official average less ours, in percentage points."""
    by_parsing: float
    """Points of the difference that are due to reading other letters."""
    by_counting: float
    """Points of the difference that are due to what is deleted, skipped or never counted, and to good told by
    the path."""
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


class OfficialCount(NamedTuple):
    """What the published scorer counts of a list of rows."""

    mask: tuple[bool, ...]
    """Whether it counts each row."""
    deleted: int
    skipped: int


class CountedRows(NamedTuple):
    """The rows that a scorer counts, and the table they are counted in."""

    table: _Table
    rows: list[AnsweredQuestion]
    right: list[bool]
    """Whether each row is right."""
    anomalous: list[bool]
    """On which side each row counts."""


def evaluate(rows: Sequence[AnsweredQuestion], repeats: int = statistics.REPEATS, seed: int = 0) -> Mmad:
    """Everything about the questions of `rows`; intervals are of images.

    Raises `InputError` without a question of known gold answer.
    """
    scorable = [row for row in rows if row.gold is not None]
    if not scorable:
        raise InputError(
            "no question has a known gold answer, so there is nothing to score; "
            "evaluate data with questions and answers"
        )
    boards = {reading: board(scorable, reading, repeats, seed) for reading in READINGS[:2]}
    gaps: tuple[Gap, ...] = ()
    official = OfficialCount(mask=(), deleted=0, skipped=0)
    if all(row.dataset in DATASETS and row.sample_id.startswith(f"{row.dataset}/") for row in rows):
        gaps, boards["official"] = _compare_officially(rows, boards, repeats, seed)
        official = counted_officially(rows)
    unread = [row.status in ("unparseable", "no reply") for row in scorable]
    left_out = {
        "questions without a gold answer": len(rows) - len(scorable),
        "verdict questions about images of unknown truth": len(scorable) - sum(map(_countable, scorable)),
    }
    return Mmad(
        questions=len(scorable),
        images=len({row.sample_id for row in scorable}),
        statuses=dict(Counter(row.status for row in scorable)),
        unparseable=breakdown.percent(unread, scorable, repeats, seed),
        unparseable_by_subtask=breakdown.by_subtask(unread, [subtask(row) for row in scorable]),
        boards=boards,
        gaps=gaps,
        deleted=official.deleted,
        skipped=official.skipped,
        consistency=breakdown.consistency(scorable, repeats, seed),
        classes=breakdown.by_class(scorable, repeats, seed),
        anomalies=breakdown.anomalies(scorable, repeats, seed),
        left_out={reason: n for reason, n in left_out.items() if n},
    )


def subtask(row: AnsweredQuestion) -> str:
    """The subtask under which a question is counted."""
    name = row.kind.title()
    return _FOLDED.get(name, name)


def board(
    rows: Sequence[AnsweredQuestion], reading: Reading, repeats: int = statistics.REPEATS, seed: int = 0
) -> Board:
    """One scoreboard.

    Rows without a gold answer are left out, except that the official board needs them in their places. Raises
    `InputError` when there is nothing to put on it.
    """
    counts = official_counts(rows) if reading == "official" else our_counts(rows, reading)
    sums, images = counts.table.sums(counts), [row.sample_id for row in counts.rows]
    if not counts.rows:  # the published scorer makes a table of zeros
        sums, images = np.zeros((1, counts.table.width)), [""]
    total, resampled = statistics.resampled_sums(sums, images, repeats, seed)
    return counts.table.board(reading, total, resampled, counts.table.count_images(counts))


def our_counts(rows: Sequence[AnsweredQuestion], reading: Reading) -> CountedRows:
    """The rows with a gold answer, whatever their reply; of verdict questions those about known images."""
    scorable = _require_some([row for row in rows if row.gold is not None])
    counted = [row for row in scorable if _countable(row)]
    anomalous = [row.anomalous is True for row in counted]
    return CountedRows(
        _Table.of(scorable, math.nan), counted, [row.right(reading) for row in counted], anomalous
    )


def official_counts(rows: Sequence[AnsweredQuestion]) -> CountedRows:
    """The rows that the published scorer counts; an image is good when "good" is in its path."""
    # Whatever is in the scorer's list gives its table a row and a column, counted or not.
    listed = _require_some([row for row in rows if row.status != "no reply"])
    mask = counted_officially(rows).mask
    counted = [row for row, counts in zip(rows, mask, strict=True) if counts]
    anomalous = ["good" not in row.sample_id for row in counted]
    return CountedRows(_Table.of(listed, 0.0), counted, [row.right("official") for row in counted], anomalous)


def counted_officially(rows: Sequence[AnsweredQuestion]) -> OfficialCount:
    """Which rows the published scorer counts: with letters A to E, and not right after one without.

    A row without is deleted, and the one after it skipped; a row without a reply is not in its list.
    """
    mask, deleted, skipped, skip = [], 0, 0, False
    for row in rows:
        if row.status == "no reply":
            mask.append(False)
            continue
        valid = row.gold in _LETTERS and row.official in _LETTERS
        mask.append(valid and not skip)
        skipped += skip
        deleted += not valid and not skip
        skip = not valid and not skip
    return OfficialCount(tuple(mask), deleted, skipped)


def _countable(row: AnsweredQuestion) -> bool:
    """Whether a row has a gold answer and, for a verdict question, an image known to be good or anomalous."""
    return row.gold is not None and (row.kind != "anomaly detection" or row.anomalous is not None)


def _require_some(rows: list[AnsweredQuestion]) -> list[AnsweredQuestion]:
    if not rows:
        raise InputError(
            "no question got a reply, so there is no scoreboard; see the errors of the inspections"
        )
    return rows


def _compare_officially(
    rows: Sequence[AnsweredQuestion], boards: Mapping[Reading, Board], repeats: int, seed: int
) -> tuple[tuple[Gap, ...], Board]:
    """How far the official board lies from ours and why, and the official board."""
    official = board(rows, "official", repeats, seed)
    # The same questions as on our boards, but with the letters that the official reader takes.
    swapped = our_counts([row for row in rows if row.gold is not None], "official")
    total = swapped.table.sums(swapped).sum(axis=0)  # (2 K,)
    cells, _ = swapped.table.shares(total[None])
    average = float(cells[0, -1, -1])
    gaps = [
        _gap(reading, ours.average.value, average, official.average.value) for reading, ours in boards.items()
    ]
    return tuple(gaps), official


class _Table(NamedTuple):
    """Data sets by subtasks, each cell with a good and an anomalous side.

    Sums are of 2 K numbers: K right answers and K answers, by data set, subtask and side.
    """

    datasets: tuple[str, ...]
    subtasks: tuple[str, ...]
    absent: float
    """What a share of no answers is."""

    @classmethod
    def of(cls, rows: Sequence[AnsweredQuestion], absent: float) -> _Table:
        """The table of the data sets and subtasks of rows, in their order."""
        datasets, subtasks = dict.fromkeys(row.dataset for row in rows), dict.fromkeys(map(subtask, rows))
        return cls(tuple(datasets), tuple(subtasks), absent)

    @property
    def width(self) -> int:
        return 4 * len(self.datasets) * len(self.subtasks)

    def sums(self, counts: CountedRows) -> Floats:
        """(N, 2 K) what each row adds."""
        line_of = {name: place for place, name in enumerate(self.datasets)}
        column_of = {name: place for place, name in enumerate(self.subtasks)}
        cells = [line_of[row.dataset] * len(column_of) + column_of[subtask(row)] for row in counts.rows]
        places = 2 * np.array(cells, dtype=np.intp) + np.asarray(counts.anomalous, dtype=np.intp)  # (N,)
        values = np.zeros((len(cells), self.width))
        lines = np.arange(len(cells))
        values[lines, places] = counts.right
        values[lines, self.width // 2 + places] = 1
        return values

    def shares(self, sums: Floats) -> tuple[Floats, Floats]:
        """Percentages of sums (R, 2 K), for R resamples.

        With averages (R, datasets + 1, subtasks + 1); and of the verdict's sides (R, datasets, 2).
        """
        shape = (len(sums), 2, len(self.datasets), len(self.subtasks), 2)
        right, answers = np.moveaxis(sums.reshape(shape), 1, 0)  # (R, datasets, subtasks, 2)
        cells = 100 * _ratio(right.sum(axis=-1), answers.sum(axis=-1), self.absent)
        sides = np.full((len(sums), len(self.datasets), 2), self.absent)
        if DETECTION in self.subtasks:
            column = self.subtasks.index(DETECTION)
            sides = 100 * _ratio(right[:, :, column], answers[:, :, column], self.absent)
            cells[:, :, column] = _mean(sides, 2)
        return with_averages(cells), sides

    def count_images(self, counts: CountedRows) -> NDArray[np.intp]:
        """(datasets, subtasks, 2) how many images are behind each side of each cell."""
        images: NDArray[np.intp] = np.zeros((len(self.datasets), len(self.subtasks), 2), dtype=np.intp)
        places = {
            (row.dataset, subtask(row), anomalous, row.sample_id)
            for row, anomalous in zip(counts.rows, counts.anomalous, strict=True)
        }
        for dataset, column, anomalous, _ in places:
            images[self.datasets.index(dataset), self.subtasks.index(column), int(anomalous)] += 1
        return images

    def board(self, reading: Reading, total: Floats, resampled: Floats, images: NDArray[np.intp]) -> Board:
        """The scoreboard of the sums of all rows (2 K,) and of the resampled ones (R, 2 K).

        `images` (datasets, subtasks, 2) are those of `count_images`.
        """
        columns, names = (*self.subtasks, AVERAGE), (*self.datasets, AVERAGE)
        # 1. The cells, with averages.
        (cells,), (sides,) = self.shares(total[None])
        resampled_cells, resampled_sides = self.shares(resampled)
        lines = zip(names, cells, np.moveaxis(resampled_cells, 1, 0), self._fewest(images), strict=True)
        # 2. What is wrong on either side, with the mean over data sets.
        wrong, resampled_wrong = 100 - sides, 100 - resampled_sides
        wrong = np.vstack([wrong, _mean(wrong, 0)])  # (datasets + 1, 2)
        mean = _mean(resampled_wrong, 1)[:, None]
        resampled_wrong = np.concatenate([resampled_wrong, mean], axis=1)  # (R, datasets + 1, 2)
        behind = np.zeros((len(names), 2), dtype=np.intp)  # images
        answers = np.zeros((len(self.datasets), 2))
        if DETECTION in self.subtasks:
            column = self.subtasks.index(DETECTION)
            behind[:-1] = images[:, column]
            answers = total.reshape(2, len(self.datasets), len(self.subtasks), 2)[1, :, column]
        behind[-1] = _least(behind[:-1], 0)
        overkill, miss = (
            _intervals(names, wrong[:, side], resampled_wrong[:, :, side], behind[:, side])
            | _exact_shares(names, wrong[:, side], behind[:, side], answers[:, side])
            for side in (0, 1)
        )
        return Board(
            reading=reading,
            cells={name: _intervals(columns, line, samples, n) for name, line, samples, n in lines},
            overkill=overkill,
            miss=miss,
        )

    def _fewest(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """(datasets + 1, subtasks + 1) images behind each cell; a mean is as sure as its smallest part."""
        cells = images.sum(axis=2)
        if DETECTION in self.subtasks:
            column = self.subtasks.index(DETECTION)
            cells[:, column] = _least(images[:, column], 1)
        cells = np.concatenate([cells, _least(cells, 1)[:, None]], axis=1)
        return np.concatenate([cells, _least(cells, 0)[None]])


def with_averages(cells: Floats) -> Floats:
    """Tables (R, D, S) with MMAD's averages: (R, D + 1, S + 1); NaN is absent.

    The added column holds the mean of each line's cells, the added line the mean of the lines.
    """
    cells = np.concatenate([cells, _mean(cells, 2)[:, :, None]], axis=2)
    return np.concatenate([cells, _mean(cells, 1)[:, None]], axis=1)


def _intervals(
    names: Sequence[str], values: Floats, resampled: Floats, images: NDArray[np.intp]
) -> dict[str, Interval]:
    """The values (M,) that are there, with their intervals of resampled ones (R, M); `images` (M,)."""
    return {
        name: statistics.interval(float(value), samples, max(1, int(number)), (0, 100))
        for name, value, samples, number in zip(names, values, resampled.T, images, strict=True)
        if math.isfinite(value)
    }


def _exact_shares(
    names: Sequence[str], values: Floats, images: NDArray[np.intp], answers: Floats
) -> dict[str, Interval]:
    """The percentages (M,) of data sets that ask one question an image, with their exact intervals."""
    return {
        name: statistics.proportion(round(float(value) * int(number) / 100), int(number), 100)
        for name, value, number, answers_of_images in zip(names, values, images, answers, strict=False)
        if number and answers_of_images == number and math.isfinite(value)
    }


def _least(counts: NDArray[np.intp], axis: int) -> NDArray[np.intp]:
    """The least of what is not 0; 0 where all is."""
    most = np.iinfo(np.intp).max
    least: NDArray[np.intp] = np.where(counts > 0, counts, most).min(axis=axis, initial=most)
    return np.where(least == most, 0, least)


def _ratio(right: Floats, answers: Floats, absent: float) -> Floats:
    shares: Floats = np.divide(right, answers, out=np.full(right.shape, absent), where=answers > 0)
    return shares


def _mean(values: Floats, axis: int) -> Floats:
    """The mean of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    return _ratio(
        np.where(there, values, 0).sum(axis=axis), there.sum(axis=axis).astype(np.float64), math.nan
    )


def _gap(reading: Reading, ours: float, swapped: float, official: float) -> Gap:
    """How far apart two averages are; `swapped` is ours with the letters of the official reader."""
    points, parsing, counting = (
        0.0 if abs(difference) < 1e-9 else difference
        for difference in (official - ours, swapped - ours, official - swapped)
    )
    return Gap(
        reading=reading,
        points=points,
        by_parsing=parsing,
        by_counting=counting,
        share_by_parsing=parsing / points if points else None,
    )
