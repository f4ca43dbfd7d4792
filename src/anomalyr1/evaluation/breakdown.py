"""What lies behind the scoreboards: classes, sorts of anomalies, whether reasoning and answer agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from anomalyr1.evaluation import statistics
from anomalyr1.evaluation.rows import AnsweredQuestion
from anomalyr1.evaluation.statistics import Interval
from anomalyr1.types import Record


class ClassRow(Record):
    """One class (data set and category), in percent."""

    name: str
    questions: int
    images: int
    strict: Interval
    lenient: Interval
    overkill: float | None
    """Good images whose verdict question was not answered right, read leniently; None = none was asked."""
    miss: float | None
    """Anomalous images whose verdict question was not answered right, read leniently; None = none was
    asked."""


class Anomalies(Record):
    """How one sort of anomaly is answered, read leniently, in percent; of data sets that have both sorts."""

    sort: Literal["logical", "structural"]
    images: int
    found: Interval | None
    """Verdict questions answered right; None = none was asked."""
    questions: int
    right: Interval
    """All questions about these images."""


class Consistency(Record):
    """Whether the reasoning ends on the option that is then answered."""

    both: int
    """Replies whose reasoning names an option and whose answer does too."""
    agree: int
    silent: int
    """Replies that answer, but whose reasoning names no option."""
    cases: dict[str, int]
    """All replies that answer, by what the reasoning ends on and whether the answer is right."""
    share: Interval | None
    """`agree` of `both`, in percent; None where there are none."""


def percent(values: Sequence[bool], rows: Sequence[AnsweredQuestion], repeats: int, seed: int) -> Interval:
    """The share of rows for which something holds, in percent."""
    images = [row.sample_id for row in rows]
    numerators = 100 * np.asarray(values, dtype=np.float64)
    return statistics.bootstrap_ratio(numerators, np.ones(len(rows)), images, repeats, seed, (0, 100))


def by_class(rows: Sequence[AnsweredQuestion], repeats: int, seed: int) -> tuple[ClassRow, ...]:
    """One row a class, in the order of the questions."""
    classes: dict[str, list[AnsweredQuestion]] = {}
    for row in rows:
        classes.setdefault(row.class_name, []).append(row)
    return tuple(
        ClassRow(
            name=name,
            questions=len(class_rows),
            images=len({row.sample_id for row in class_rows}),
            strict=percent([row.right("strict") for row in class_rows], class_rows, repeats, seed),
            lenient=percent([row.right("lenient") for row in class_rows], class_rows, repeats, seed),
            overkill=_wrong_verdicts(class_rows, anomalous=False),
            miss=_wrong_verdicts(class_rows, anomalous=True),
        )
        for name, class_rows in classes.items()
    )


def by_subtask(values: Sequence[bool], subtasks: Sequence[str]) -> dict[str, float]:
    """The share of each subtask's rows for which something holds, in percent; both in the order of rows."""
    numbers = Counter(subtasks)
    hits = Counter(name for name, value in zip(subtasks, values, strict=True) if value)
    return {name: 100 * hits[name] / number for name, number in numbers.items()}


def anomalies(rows: Sequence[AnsweredQuestion], repeats: int, seed: int) -> tuple[Anomalies, ...]:
    """Logical and structural anomalies of the data sets that have logical ones."""
    datasets = {row.dataset for row in rows if row.logical}
    anomalous = [row for row in rows if row.anomalous and row.dataset in datasets]
    sorts: tuple[tuple[Literal["logical", "structural"], bool], ...] = (
        ("logical", True),
        ("structural", False),
    )
    figures = []
    for sort, logical in sorts:
        of_sort = [row for row in anomalous if row.logical == logical]
        verdict_rows = [row for row in of_sort if row.kind == "anomaly detection"]
        if of_sort:
            figures.append(
                Anomalies(
                    sort=sort,
                    images=len({row.sample_id for row in of_sort}),
                    found=_right(verdict_rows, repeats, seed) if verdict_rows else None,
                    questions=len(of_sort),
                    right=_right(of_sort, repeats, seed),
                )
            )
    return tuple(figures)


def consistency(rows: Sequence[AnsweredQuestion], repeats: int, seed: int) -> Consistency:
    """Reasoning against answer, of the replies that answer (read leniently)."""
    answered = [row for row in rows if row.lenient is not None]
    concluding = [row for row in answered if row.conclusion is not None]
    agree = [row.conclusion == row.lenient for row in concluding]
    return Consistency(
        both=len(concluding),
        agree=sum(agree),
        silent=len(answered) - len(concluding),
        cases=dict(Counter(_case(row) for row in answered)),
        share=percent(agree, concluding, repeats, seed) if concluding else None,
    )


def _case(row: AnsweredQuestion) -> str:
    if row.conclusion is None:
        reasoning = "silent"
    elif row.conclusion == row.lenient:
        reasoning = "agrees"
    elif row.conclusion == row.gold:
        reasoning = "contradicts and was right"
    else:
        reasoning = "contradicts"
    return f"answer {'right' if row.right('lenient') else 'wrong'}, reasoning {reasoning}"


def _right(rows: Sequence[AnsweredQuestion], repeats: int, seed: int) -> Interval:
    return percent([row.right("lenient") for row in rows], rows, repeats, seed)


def _wrong_verdicts(rows: Sequence[AnsweredQuestion], anomalous: bool) -> float | None:
    of_kind = [row for row in rows if row.kind == "anomaly detection" and row.anomalous is anomalous]
    return 100 * sum(not row.right("lenient") for row in of_kind) / len(of_kind) if of_kind else None
