"""Two evaluations of the same data: which answers flipped, and whether by more than chance.

    from anomalyr1.evaluation import compare
    comparison = compare("eval1", "eval2", out="comparison")
    comparison.groups[0].paired.difference

Figures are shares of all questions with a known answer, each question counted once; unlike on the scoreboards
good and anomalous images are not weighed against each other. The p-values of the subtasks are adjusted for
how many there are (Holm).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from anomalyr1.data.samples import listed
from anomalyr1.evaluation import rows, statistics
from anomalyr1.evaluation.detection import Pair
from anomalyr1.evaluation.mmad import subtask
from anomalyr1.evaluation.record import Evaluation
from anomalyr1.evaluation.rows import AnsweredQuestion, Reading
from anomalyr1.evaluation.run import load_again
from anomalyr1.evaluation.statistics import Paired
from anomalyr1.files import write_whole
from anomalyr1.types import Fingerprint, InputError, Record

FILE = "comparison.json"
ALL = "all questions"
POINTS = (1.0, 2.0, 5.0)
"""Differences in percentage points for which the number of questions is told."""

WORDS = {"given": "what is shown beside the image: knowledge or reference images"}
"""What is said of a field of the fingerprint whose values are digests alone."""

RowPair = tuple[AnsweredQuestion, AnsweredQuestion]
"""The same question in both runs."""


class Flip(Record):
    """A question that one run answers right and the other does not."""

    sample_id: str
    question_id: str
    subtask: str
    direction: Literal["gained", "lost"]
    """Right in the second run, or in the first."""
    gold: str
    first: str | None
    """The letter that was read in the first run; None = none."""
    second: str | None
    """The letter that was read in the second run; None = none."""


class FlipGroup(Record):
    """One subtask, or all questions."""

    name: str
    first: float
    """Right answers of the first run, in percent."""
    second: float
    """Right answers of the second run, in percent."""
    paired: Paired
    p_adjusted: float
    """The permutation test's p-value, adjusted for the number of subtasks; of all questions as it is."""


class Comparison(Record):
    """The second run against the first."""

    first: str
    second: str
    reading: Reading
    differences: tuple[str, ...]
    """Settings in which the runs differ."""
    groups: tuple[FlipGroup, ...]
    """All questions, then each subtask."""
    needed: dict[str, int | None]
    """Points -> questions that would show such a difference with a chance of 80 %, as these runs differ; None
    = they differ too seldom."""
    flips: tuple[Flip, ...]
    warning: str = ""
    """That few images are behind the figures; empty where they are enough."""


class ComparedRun(NamedTuple):
    """One side of a comparison."""

    name: str
    evaluation: Evaluation
    pairs: list[Pair]
    rows: list[AnsweredQuestion]


def open_run(folder: str | Path) -> ComparedRun:
    """The run of an evaluation's folder. Raises `InputError` as `run.load_again` does."""
    evaluation, pairs = load_again(folder)
    return ComparedRun(str(folder), evaluation, pairs, rows.of_pairs(pairs, evaluation.run.style))


def compare(
    before: str | Path | ComparedRun,
    after: str | Path | ComparedRun,
    reading: Reading = "strict",
    out: str | Path | None = None,
    seed: int = 0,
) -> Comparison:
    """The second run against the first, each a folder of `evaluate` or an opened run.

    `reading` says how answers are read. With `out`, the record is written into that folder. Raises
    `InputError` that names what differs when the runs are not of the same data.
    """
    earlier, later = (run if isinstance(run, ComparedRun) else open_run(run) for run in (before, after))
    require_same(earlier, later)
    # 1. The questions with a known answer, all and by subtask.
    pairs = [pair for pair in zip(earlier.rows, later.rows, strict=True) if pair[0].gold is not None]
    if not pairs:
        raise InputError(
            "the two runs share no question with a known gold answer, so there is nothing to compare"
        )
    by_name: dict[str, list[RowPair]] = {ALL: pairs}
    for pair in pairs:
        by_name.setdefault(subtask(pair[0]), []).append(pair)
    # 2. How often the runs differ in each group, and how likely that is by chance.
    paired = {name: _pair_up(group, reading, seed) for name, group in by_name.items()}
    names = [name for name in paired if name != ALL]
    adjusted = dict(zip(names, statistics.holm([paired[name].p_cluster for name in names]), strict=True))
    groups = [
        FlipGroup(
            name=name,
            first=_percent_right([row for row, _ in group], reading),
            second=_percent_right([row for _, row in group], reading),
            paired=paired[name],
            p_adjusted=adjusted.get(name, paired[name].p_cluster),
        )
        for name, group in by_name.items()
    ]
    comparison = Comparison(
        first=earlier.name,
        second=later.name,
        reading=reading,
        differences=tuple(settings(earlier.evaluation.run, later.evaluation.run)),
        groups=tuple(groups),
        needed={f"{points:g}": _needed(points, paired[ALL]) for points in POINTS},
        flips=tuple(_flip(a, b, reading) for a, b in pairs if a.right(reading) != b.right(reading)),
        warning=_warn_of_few(earlier.pairs),
    )
    if out is not None:
        write_whole(Path(out) / FILE, comparison.to_json().encode("ascii") + b"\n")
    return comparison


def _warn_of_few(pairs: Sequence[Pair]) -> str:
    truths = Counter(sample.anomalous for sample, _ in pairs)
    if truths[None] == len(pairs):
        return statistics.warn_of_few({"images": len(pairs)})
    return statistics.warn_of_few({"good images": truths[False], "anomalous images": truths[True]})


def require_same(before: ComparedRun, after: ComparedRun) -> None:
    """Raise `InputError` that names what differs when two runs are not of the same questions and images."""
    differences = [*_other_questions(before, after), *_other_images(before, after)]
    sources = [run.evaluation.source for run in (before, after)]
    if not differences and sources[0].questions != sources[1].questions:
        differences.append("texts or options of questions")
    orders = [[(row.sample_id, row.question_id) for row in run.rows] for run in (before, after)]
    if not differences and orders[0] != orders[1]:
        differences.append("the order of the questions")
    if differences:
        specs = " and ".join(
            dict.fromkeys(
                f"{source.spec!r}" + f", {source.selection}" * bool(source.selection) for source in sources
            )
        )
        raise InputError(
            f"the two runs are not of the same data ({specs}): {'; '.join(differences)}. "
            "Evaluate both on the same data"
        )


def settings(before: Fingerprint, after: Fingerprint) -> list[str]:
    """What differs between the runs of two fingerprints, in words."""
    old, new = before.model_dump(), after.model_dump()
    return [WORDS.get(name, f"{name}: {old[name]} and {new[name]}") for name in old if old[name] != new[name]]


def _other_questions(before: ComparedRun, after: ComparedRun) -> list[str]:
    """Questions that only one run was asked, and gold answers that differ."""
    golds, new_golds = (
        {(row.sample_id, row.question_id): row.gold for row in run.rows} for run in (before, after)
    )
    differences = []
    for run, there, elsewhere in ((before, golds, new_golds), (after, new_golds, golds)):
        lone = [question_id for sample_id, question_id in there if (sample_id, question_id) not in elsewhere]
        if lone:
            differences.append(f"{len(lone)} questions only in {run.name!r}: {listed(lone, 3)}")
    changed = sorted(key[1] for key in golds.keys() & new_golds.keys() if golds[key] != new_golds[key])
    if changed:
        differences.append(f"{len(changed)} questions with another gold answer: {listed(changed, 3)}")
    return differences


def _other_images(before: ComparedRun, after: ComparedRun) -> list[str]:
    """Images whose content differs, as far as both runs know it."""
    digests, new_digests = (
        {sample.id: inspection.image_sha256 for sample, inspection in run.pairs if inspection.image_sha256}
        for run in (before, after)
    )
    common = digests.keys() & new_digests.keys()
    changed = sorted(name for name in common if digests[name] != new_digests[name])
    return [f"{len(changed)} images with other content: {listed(changed, 3)}"] if changed else []


def _percent_right(answers: Sequence[AnsweredQuestion], reading: Reading) -> float:
    return 100 * sum(row.right(reading) for row in answers) / len(answers)


def _pair_up(pairs: Sequence[RowPair], reading: Reading, seed: int) -> Paired:
    before, after = ([row.right(reading) for row in side] for side in zip(*pairs, strict=True))
    return statistics.compare(before, after, [row.sample_id for row, _ in pairs], seed)


def _needed(points: float, paired: Paired) -> int | None:
    if points / 100 > paired.discordance:
        return None
    per_image = paired.rows / paired.clusters
    return statistics.questions_needed(points, paired.discordance, paired.correlation, per_image)


def _flip(before: AnsweredQuestion, after: AnsweredQuestion, reading: Reading) -> Flip:
    return Flip(
        sample_id=before.sample_id,
        question_id=before.question_id,
        subtask=subtask(before),
        direction="gained" if after.right(reading) else "lost",
        gold=before.gold or "",
        first=getattr(before, reading),
        second=getattr(after, reading),
    )
