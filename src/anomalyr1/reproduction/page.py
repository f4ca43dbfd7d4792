"""The results of a study: one self-contained page, the same in Markdown and JSON, and the plots as files.

What was confirmed and what was not is written from the numbers: a claim counts as confirmed only where its
interval excludes zero.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomalyr1.evaluation.statistics import holm
from anomalyr1.evaluation.tables import Table, in_markdown
from anomalyr1.files import write_together
from anomalyr1.images.door import open_image
from anomalyr1.report import svg
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.overlays import scaled
from anomalyr1.reproduction.arms import CLAIMS, PRIMARY, Arm, Claim
from anomalyr1.reproduction.effects import FIGURES, Answers, Effect, by_test, excludes_zero, in_points
from anomalyr1.reproduction.judge import Judged, read_judged
from anomalyr1.reproduction.samples import read_samples
from anomalyr1.reproduction.study import COST, FEW_SHOT, JUDGED, ArmRun, Study
from anomalyr1.training.held_out import questions_about
from anomalyr1.training.run_folder import METRICS, read_lines
from anomalyr1.types import InputError, Question

START = "start"
MOST_PAIRS = 6
FEWEST_SEEDS, ALPHA = 2, 0.05
PICTURE_LONG_SIDE = 300
WINDOW = 5
"""Steps that a point of a learning curve averages."""
CURVES = {
    "answers/right": "right, of rollouts",
    "answers/right_but_contradicted": "right, but against its own reasoning, of rollouts",
    "signal/zero_variance": "groups of one reward",
}


@dataclass(frozen=True)
class ContradictionPair:
    """One question that two arms answer alike, one of them against its own reasoning."""

    sample_id: str
    question: Question
    picture: str
    """Data URI."""
    contradicting: str
    agreeing: str


@dataclass(frozen=True)
class StartResults:
    """What came out for one start policy."""

    name: str
    tables: Sequence[Table]
    claims: Table
    sentences: Sequence[str]
    plots: Sequence[str]
    pairs: Sequence[ContradictionPair]
    seen_pairs: str
    """How many such pairs there are, and how many the other way round."""


def write(out: Path, study: Study, machine: str, date: str, command: str) -> Path:
    """Write index.html, report.md, report.json and plots/ of what is there so far. Raises `InputError` where
    no arm is finished.
    """
    from markupsafe import Markup

    results = [
        result for start in study.scale.starts if (result := _results_of(out, study, start)) is not None
    ]
    if not results:
        raise InputError(f"{str(out)!r} holds no finished arm yet, so there is nothing to report")
    about = [
        f"machine: {machine}",
        f"date: {date}",
        f"command: {command}",
        f"AnomalyR1 {study.made_by}",
        f"few-shot splits of: {study.scale.data}",
        f"asked about {FEW_SHOT}: those of it that no split learns from",
        *(f"asked about {name}: {spec}" for name, spec in study.scale.tests.items()),
    ]
    page = render(
        "reproduction.html.j2",
        ["page.css", "evaluation_page.css"],
        about=about,
        # Our own plots; texts in them are escaped where they are made
        parts=[(result, [Markup(plot) for plot in result.plots]) for result in results],
    )
    tables, conclusions, plots = [], [], {}
    for result in results:
        of_start = (result.claims, *result.tables)
        tables += [table._replace(title=f"{result.name}: {table.title}") for table in of_start]
        sentences_of_start = [*result.sentences, *([result.seen_pairs] if result.seen_pairs else [])]
        conclusions += [f"{result.name}: {sentence}" for sentence in sentences_of_start]
        for number, plot in enumerate(result.plots, start=1):
            plots[f"plots/{result.name}-{number}.svg"] = svg.file(plot)
    rows = [{**table._asdict(), "rows": list(table.rows)} for table in tables]
    files = {
        "index.html": page,
        "report.md": in_markdown("Does ROAM help?", [*about, *conclusions], tables),
        "report.json": json.dumps(rows, indent=1) + "\n",
        **plots,
    }
    write_together(out, {name: text.encode("utf-8", "backslashreplace") for name, text in files.items()})
    return out / "index.html"


def finished(out: Path, study: Study) -> bool:
    """Whether there is something to report."""
    return any((out / start / JUDGED).exists() and _done(out, study, start) for start in study.scale.starts)


def _results_of(out: Path, study: Study, start: str) -> StartResults | None:
    """What there is of one start; None where no arm is finished."""
    arms = {arm.name: arm for arm in study.arms_to_run}
    folders = _done(out, study, start)
    if not (out / start / JUDGED).exists() or not folders:
        return None
    runs: dict[str, list[Sequence[Judged]]] = {START: [read_judged(out / start / JUDGED)]}
    runs |= {
        arm: [read_judged(folder / JUDGED) for folder in seed_folders]
        for arm, seed_folders in folders.items()
    }
    answers = by_test(runs, study.tests)
    tables = [_table(test, test_answers, arms, runs) for test, test_answers in answers.items()]
    claim_results = list(differences(runs, answers))
    pairs, pair_counts = _pairs(out, study, runs)
    tables += [*_seeds(folders, arms, answers), _costs(folders, arms, study.seeds)]
    return StartResults(
        start,
        tables,
        _claims(claim_results, list(answers)),
        sentences(claim_results),
        _curves(folders, arms),
        pairs,
        pair_counts,
    )


def _done(out: Path, study: Study, start: str) -> dict[str, list[Path]]:
    """The folders of the runs of one start that are finished, by arm."""
    all_folders = {
        arm.name: [out / ArmRun(start, arm, seed).folder for seed in range(study.seeds)]
        for arm in study.arms_to_run
    }
    finished_folders = {
        arm: [folder for folder in folders if (folder / JUDGED).exists()]
        for arm, folders in all_folders.items()
    }
    return {arm: folders for arm, folders in finished_folders.items() if folders}


def _table(
    test: str, answers: Answers, arms: Mapping[str, Arm], runs: Mapping[str, Sequence[object]]
) -> Table:
    names = [*FIGURES, *answers.kinds]
    rows = []
    for arm in runs:
        cells = []
        for name in names:
            figure = answers.figure(arm, name)
            cells.append("" if figure is None else _shown(figure, name))
        rows.append((arms[arm].title if arm in arms else "start policy", *cells))
    alone = (
        ", ".join(arm for arm, seeds_of_arm in runs.items() if arm != START and len(seeds_of_arm) == 1)
        or "none"
    )
    note = (
        f"{len(answers.images)} images. In percent, with 95 % intervals over images and seeds; of the start "
        "and of arms with one seed "
        f"({alone}) over images alone. agrees: of right "
        "answers to questions with options whose reasoning concludes something, those that it concludes; "
        "sampled: at temperature 1, else "
        "greedy. Subtasks last."
    )
    return Table(test, ("arm", *names), rows, note)


def _shown(figure: Effect, name: str) -> str:
    if name == "words":
        return f"{figure.value:.1f}"
    low, high = max(0.0, figure.low), min(1.0, figure.high)  # it is a share
    return f"{100 * figure.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _costs(folders: Mapping[str, Sequence[Path]], arms: Mapping[str, Arm], seeds: int) -> Table:
    rows = []
    for arm, seed_folders in folders.items():
        costs = [json.loads((folder / COST).read_text(encoding="ascii")) for folder in seed_folders]
        seconds, rollouts = (float(np.mean([cost[key] for cost in costs])) for key in ("seconds", "rollouts"))
        rows.append((arms[arm].title, str(len(seed_folders)), f"{seconds:.0f}", f"{rollouts:.0f}"))
    missing = [
        f"{seeds - len(folders.get(name, ()))} of {arm.title}"
        for name, arm in arms.items()
        if len(folders.get(name, ())) < seeds
    ]
    note = (
        "An arm that goes on from SFT counts its second stage alone. Runs that are not there: "
        f"{'; '.join(missing) or 'none'}."
    )
    return Table("What a run took", ("arm", "seeds", "seconds", "rollouts"), rows, note)


def _seeds(
    folders: Mapping[str, Sequence[Path]], arms: Mapping[str, Arm], answers: Mapping[str, Answers]
) -> Iterator[Table]:
    for name in PRIMARY:
        rows = [
            (
                arms[arm].title,
                *(
                    "; ".join(in_points(effect) for effect in test_answers.by_seed(arm, START, name))
                    for test_answers in answers.values()
                ),
            )
            for arm in folders
        ]
        note = "Percentage points with 95 % intervals over images."
        yield Table(f"Each seed less the start: {name}", ("arm", *answers), rows, note)


class ClaimResult(NamedTuple):
    """What came out about a claim in one figure on one test set."""

    claim: Claim
    test: str
    figure: str
    effect: Effect
    seeds: int
    """Fewest of the trained arms that are compared."""

    @property
    def outcome(self) -> str:
        """Under which heading it stands."""
        if self.seeds < FEWEST_SEEDS:
            return "Not judged (one seed)"
        if not excludes_zero(self.effect):
            return "Not shown either way"
        return "Confirmed" if self.effect.value > 0 or self.claim.either_way else "Contradicted"


def differences(
    runs: Mapping[str, Sequence[object]], answers: Mapping[str, Answers]
) -> Iterator[ClaimResult]:
    """Every claim about arms that were run, on every test set."""
    for claim in CLAIMS:
        if claim.better in runs and claim.than in runs:
            seeds = min(len(runs[arm]) for arm in (claim.better, claim.than) if arm != START)
            for test, test_answers in answers.items():
                for figure in claim.figures:
                    if (effect := test_answers.difference(claim.better, claim.than, figure)) is not None:
                        yield ClaimResult(claim, test, figure, effect, seeds)


def _claims(results: Sequence[ClaimResult], tests: Sequence[str]) -> Table:
    rows = []
    for claim, figure in dict.fromkeys((result.claim, result.figure) for result in results):
        cells = {
            result.test: in_points(result.effect)
            for result in results
            if (result.claim, result.figure) == (claim, figure)
        }
        rows.append((claim.text, figure, *(cells.get(test, "") for test in tests)))
    note = "Percentage points with 95 % intervals over images and seeds; all arms saw the same images."
    return Table("Differences", ("claim", "figure", *tests), rows, note)


def sentences(results: Sequence[ClaimResult]) -> list[str]:
    """What was confirmed, what was contradicted, what could not be told."""
    adjusted = holm([result.effect.p for result in results])
    looked_at = Counter(result.claim.text for result in results)
    sentences_by_outcome = []
    for outcome in ("Confirmed", "Contradicted", "Not shown either way", "Not judged (one seed)"):
        by_claim: dict[str, list[str]] = {}
        for result, p in zip(results, adjusted, strict=True):
            if result.outcome == outcome:
                star = "*" if p < ALPHA else ""
                by_claim.setdefault(result.claim.text, []).append(
                    f"{result.figure} on {result.test} {in_points(result.effect)}{star}"
                )
        if by_claim or outcome == "Confirmed":
            settled = outcome in ("Confirmed", "Contradicted")
            claims_with_places = []
            for claim, places in by_claim.items():
                where = ", ".join(places) if settled else f"{len(places)} of {looked_at[claim]} differences"
                claims_with_places.append(f"{claim} ({where})")
            sentences_by_outcome.append(f"{outcome}: {'; '.join(claims_with_places) or 'nothing'}.")
    return [
        *sentences_by_outcome,
        f"{len(results)} differences were looked at. Where nothing differs, one in twenty intervals "
        "excludes zero by chance; those with a "
        "star stay clear of zero with Holm's correction for all of them, too.",
    ]


def _curves(folders: Mapping[str, Sequence[Path]], arms: Mapping[str, Arm]) -> list[str]:
    """What rollouts were like while training, the mean of the seeds."""
    plots = []
    for key, title in CURVES.items():
        series = []
        for arm, seed_folders in folders.items():
            seed_curves = [
                smooth(
                    [
                        (int(line["step"]), float(line[key]))
                        for line in read_lines(f / "run" / METRICS)
                        if key in line
                    ]
                )
                for f in seed_folders
            ]
            common = set.intersection(*(set(points) for points in seed_curves))
            points = [
                (float(step), float(np.mean([values[step] for values in seed_curves])))
                for step in sorted(common)
            ]
            if points:
                series.append(svg.Curve(arms[arm].name, points))
        if series:
            plots += [
                svg.chart(title, "step", series[i : i + len(svg.COLOURS)])
                for i in range(0, len(series), len(svg.COLOURS))
            ]
    return plots


def smooth(points: Sequence[tuple[int, float]]) -> dict[int, float]:
    """The mean of the last `WINDOW` values, by step."""
    return {
        step: float(np.mean([value for _, value in points[max(0, i - WINDOW + 1) : i + 1]]))
        for i, (step, _) in enumerate(points)
    }


def _pairs(
    out: Path, study: Study, runs: Mapping[str, Sequence[Sequence[Judged]]]
) -> tuple[list[ContradictionPair], str]:
    """Questions that the first seeds of both arms answer rightly when sampled, plain GRPO against its
    reasoning, ROAM in line with it.

    With options, since neither arm is paid for boxes. And in words how often that and the reverse were seen.
    """
    if not {"answer", "roam"} <= runs.keys():
        return [], ""
    samples = {sample.id: sample for sample in read_samples(study.samples_file(out, FEW_SHOT))}
    plain, roam = (
        [
            plain_answer
            for plain_answer in runs[arm][0]
            if plain_answer.sampled and plain_answer.kind != "grounding"
        ]
        for arm in ("answer", "roam")
    )
    right_pairs = [
        (plain_answer, roam_answer)
        for plain_answer, roam_answer in zip(plain, roam, strict=True)
        if plain_answer.right and roam_answer.right
    ]  # the same questions in the same order
    contradictions = [
        (plain_answer, roam_answer)
        for plain_answer, roam_answer in right_pairs
        if plain_answer.agrees is False and roam_answer.agrees
    ]
    pairs: list[ContradictionPair] = []
    for plain_answer, roam_answer in contradictions[:MOST_PAIRS]:
        sample = samples[plain_answer.sample_id]
        questions = questions_about(sample, 0, all_questions=True)
        question = next(question for question in questions if question.id == plain_answer.question_id)
        picture = data_uri(scaled(open_image(sample.image).rgb.convert("RGB"), PICTURE_LONG_SIDE))
        pairs.append(
            ContradictionPair(plain_answer.sample_id, question, picture, plain_answer.text, roam_answer.text)
        )
    reverse = sum(
        bool(plain_answer.agrees) and roam_answer.agrees is False for plain_answer, roam_answer in right_pairs
    )
    pair_counts = (
        f"Of {len(right_pairs)} questions that the first seeds of both arms answer rightly at temperature "
        "1, plain GRPO contradicts its reasoning "
        f"and ROAM does not in {len(contradictions)}; the other way round in {reverse}."
    )
    return pairs, pair_counts
