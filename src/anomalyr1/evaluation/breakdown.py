"""What lies behind the scoreboards: each class, logical and structural anomalies apart, and whether reasoning and answer agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from anomalyr1.evaluation import statistics
from anomalyr1.evaluation.rows import Row
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
    """Likewise of anomalous images."""


class Anomalies(Record):
    """How one sort of anomaly is answered, read leniently, in percent; only of data sets that have both sorts."""

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


def percent(values: Sequence[bool], rows: Sequence[Row], repeats: int, seed: int) -> Interval:
    """The share of rows for which something holds, in percent."""
    names = [row.sample_id for row in rows]
    return statistics.bootstrap_ratio(
        100 * np.asarray(values, dtype=np.float64), np.ones(len(rows)), names, repeats, seed
    )


def by_class(rows: Sequence[Row], repeats: int, seed: int) -> tuple[ClassRow, ...]:
    """One row a class, in the order of the questions."""
    classes: dict[str, list[Row]] = {}
    for row in rows:
        classes.setdefault(
            "/".join(dict.fromkeys(part for part in (row.dataset, row.category) if part)) or "(no class)", []
        ).append(row)
    return tuple(
        ClassRow(
            name=name,
            questions=len(own),
            images=len({row.sample_id for row in own}),
            strict=percent([row.right("strict") for row in own], own, repeats, seed),
            lenient=percent([row.right("lenient") for row in own], own, repeats, seed),
            overkill=_wrong_verdicts(own, anomalous=False),
            miss=_wrong_verdicts(own, anomalous=True),
        )
        for name, own in classes.items()
    )


def by_subtask(rows: Sequence[Row], values: Sequence[bool], subtasks: Sequence[str]) -> dict[str, float]:
    """The share of each subtask's rows for which something holds, in percent; `subtasks` names that of each row."""
    asked, held = (
        Counter(subtasks),
        Counter(name for name, value in zip(subtasks, values, strict=True) if value),
    )
    return {name: 100 * held[name] / n for name, n in asked.items()}


def anomalies(rows: Sequence[Row], repeats: int, seed: int) -> tuple[Anomalies, ...]:
    """Logical and structural anomalies of the data sets that have logical ones."""
    datasets = {row.dataset for row in rows if row.logical}
    found = []
    sorts: tuple[Literal["logical", "structural"], ...] = ("logical", "structural")
    for sort in sorts:
        own = [
            row
            for row in rows
            if row.dataset in datasets and row.anomalous and row.logical == (sort == "logical")
        ]
        asked = [row for row in own if row.kind == "anomaly detection"]
        if own:
            found.append(
                Anomalies(
                    sort=sort,
                    images=len({row.sample_id for row in own}),
                    found=percent([row.right("lenient") for row in asked], asked, repeats, seed)
                    if asked
                    else None,
                    questions=len(own),
                    right=percent([row.right("lenient") for row in own], own, repeats, seed),
                )
            )
    return tuple(found)


def consistency(rows: Sequence[Row], repeats: int, seed: int) -> Consistency:
    """Reasoning against answer, of the replies that answer (read leniently)."""
    answered = [row for row in rows if row.lenient is not None]
    both = [row for row in answered if row.conclusion is not None]
    agree = [row.conclusion == row.lenient for row in both]
    return Consistency(
        both=len(both),
        agree=sum(agree),
        silent=len(answered) - len(both),
        cases=dict(Counter(_case(row) for row in answered)),
        share=percent(agree, both, repeats, seed) if both else None,
    )


def _case(row: Row) -> str:
    said = (
        "silent" if row.conclusion is None else "agrees" if row.conclusion == row.lenient else "contradicts"
    )
    if said == "contradicts" and row.conclusion == row.gold:
        said = "contradicts and was right"
    return f"answer {'right' if row.right('lenient') else 'wrong'}, reasoning {said}"


def _wrong_verdicts(rows: Sequence[Row], anomalous: bool) -> float | None:
    own = [row for row in rows if row.kind == "anomaly detection" and row.anomalous is anomalous]
    return 100 * sum(not row.right("lenient") for row in own) / len(own) if own else None
