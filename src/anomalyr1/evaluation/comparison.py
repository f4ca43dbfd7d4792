"""Two evaluations of the same data: which answers flipped, whether that is more than chance, and how many questions would show it.

Figures are shares of all questions with a known answer, each question counted once; unlike on the scoreboards
good and anomalous images are not weighed against each other. The p-values of the subtasks are adjusted for
how many there are (Holm).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from anomalyr1.data.samples import listed
from anomalyr1.evaluation import rows as answered
from anomalyr1.evaluation import statistics
from anomalyr1.evaluation.mmad import subtask
from anomalyr1.evaluation.rows import Reading, Row
from anomalyr1.evaluation.run import Evaluation, load_again
from anomalyr1.evaluation.statistics import Paired
from anomalyr1.types import Fingerprint, InputError, Inspection, Record, Sample

ALL = "all questions"
POINTS = (1.0, 2.0, 5.0)
"""Differences in percentage points for which the number of questions is told."""


class Flip(Record):
    """A question that one run answers right and the other does not."""

    sample_id: str
    question_id: str
    subtask: str
    direction: Literal["gained", "lost"]
    """Right in the second run, or in the first."""
    gold: str
    first: str | None
    second: str | None
    """The letters that were read; None = none."""


class Group(Record):
    """One subtask, or all questions."""

    name: str
    first: float
    second: float
    """Right answers, in percent."""
    paired: Paired
    p_adjusted: float
    """The permutation test's, adjusted for the number of subtasks; of all questions as it is."""


class Comparison(Record):
    """The second run against the first."""

    first: str
    second: str
    reading: Reading
    differences: tuple[str, ...]
    """Settings in which the runs differ."""
    groups: tuple[Group, ...]
    """All questions, then each subtask."""
    needed: dict[str, int | None]
    """Points -> questions that would show such a difference with a chance of 80 %, as these runs differ; None
    = they differ too seldom."""
    flips: tuple[Flip, ...]


class Run(NamedTuple):
    """One side of a comparison."""

    name: str
    evaluation: Evaluation
    pairs: list[tuple[Sample, Inspection]]
    rows: list[Row]


def open_run(folder: str | Path) -> Run:
    """The run of an evaluation's folder. Raises `InputError` as `evaluate.load_again` does."""
    evaluation, pairs = load_again(folder)
    return Run(str(folder), evaluation, pairs, answered.rows(pairs, evaluation.run.style))


def compare(first: Run, second: Run, reading: Reading = "strict", seed: int = 0) -> Comparison:
    """The second run against the first. Raises `InputError` that names what differs when they are not of the same data."""
    require_same(first, second)
    both = [(a, b) for a, b in zip(first.rows, second.rows, strict=True) if a.gold is not None]
    if not both:
        raise InputError(
            "the two runs share no question with a known gold answer, so there is nothing to compare"
        )
    by_name: dict[str, list[tuple[Row, Row]]] = {ALL: both}
    for a, b in both:
        by_name.setdefault(subtask(a), []).append((a, b))
    paired = {name: _paired(rows, reading, seed) for name, rows in by_name.items()}
    names = [name for name in paired if name != ALL]
    adjusted = dict(zip(names, statistics.holm([paired[name].p_cluster for name in names]), strict=True))
    groups = [
        Group(
            name=name,
            first=100 * sum(a.right(reading) for a, _ in rows) / len(rows),
            second=100 * sum(b.right(reading) for _, b in rows) / len(rows),
            paired=paired[name],
            p_adjusted=adjusted.get(name, paired[name].p_cluster),
        )
        for name, rows in by_name.items()
    ]
    return Comparison(
        first=first.name,
        second=second.name,
        reading=reading,
        differences=tuple(settings(first.evaluation.run, second.evaluation.run)),
        groups=tuple(groups),
        needed={f"{points:g}": _needed(points, paired[ALL]) for points in POINTS},
        flips=tuple(_flip(a, b, reading) for a, b in both if a.right(reading) != b.right(reading)),
    )


def require_same(first: Run, second: Run) -> None:
    """Raise `InputError` that names what differs when two runs are not of the same questions about the same images."""
    found = []
    asked = [{(row.sample_id, row.question_id): row.gold for row in run.rows} for run in (first, second)]
    for name, own, other in ((first.name, *asked), (second.name, *reversed(asked))):
        alone = [f"{key[1]}" for key in own if key not in other]
        if alone:
            found.append(f"{len(alone)} questions only in {name!r}: {listed(alone, 3)}")
    other_gold = [key[1] for key in asked[0].keys() & asked[1].keys() if asked[0][key] != asked[1][key]]
    if other_gold:
        found.append(f"{len(other_gold)} questions with another gold answer: {listed(sorted(other_gold), 3)}")
    hashes = [
        {sample.id: one.image_sha256 for sample, one in run.pairs if one.image_sha256}
        for run in (first, second)
    ]
    changed = [name for name in hashes[0].keys() & hashes[1].keys() if hashes[0][name] != hashes[1][name]]
    if changed:
        found.append(f"{len(changed)} images with other content: {listed(sorted(changed), 3)}")
    texts = [run.evaluation.source for run in (first, second)]
    if not found and texts[0].questions != texts[1].questions:
        found.append("texts or options of questions")
    if not found and [row[:2] for row in first.rows] != [row[:2] for row in second.rows]:
        found.append("the order of the questions")
    if found:
        specs = " and ".join(dict.fromkeys(repr(one.spec) for one in texts))
        raise InputError(
            f"the two runs are not of the same data ({specs}): {'; '.join(found)}. Evaluate both on the same data"
        )


def settings(first: Fingerprint, second: Fingerprint) -> list[str]:
    """What differs between the runs of two fingerprints, in words."""
    old, new = first.model_dump(), second.model_dump()
    return [f"{name}: {old[name]} and {new[name]}" for name in old if old[name] != new[name]]


def _paired(rows: Sequence[tuple[Row, Row]], reading: Reading, seed: int) -> Paired:
    right = [[row.right(reading) for row in side] for side in zip(*rows, strict=True)]
    return statistics.compare(right[0], right[1], [a.sample_id for a, _ in rows], seed)


def _needed(points: float, paired: Paired) -> int | None:
    if points / 100 > paired.discordance:
        return None
    return statistics.questions_needed(
        points, paired.discordance, paired.correlation, paired.rows / paired.clusters
    )


def _flip(a: Row, b: Row, reading: Reading) -> Flip:
    return Flip(
        sample_id=a.sample_id,
        question_id=a.question_id,
        subtask=subtask(a),
        direction="gained" if b.right(reading) else "lost",
        gold=a.gold or "",
        first=getattr(a, reading),
        second=getattr(b, reading),
    )
