"""The results of a study: one self-contained page, the same in Markdown and JSON, and the plots as files.

What was confirmed and what was not is written from the numbers: a claim counts as confirmed only where its interval excludes zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import anomalyr1
from anomalyr1.evaluation.statistics import Interval
from anomalyr1.evaluation.tables import Table, in_markdown
from anomalyr1.images import open_image
from anomalyr1.records import write_whole
from anomalyr1.report import svg
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.overlay import scaled
from anomalyr1.reproduction.arms import CLAIMS, Arm, Claim
from anomalyr1.reproduction.effects import FIGURES, PRIMARY, Answers, excludes_zero, said
from anomalyr1.reproduction.judge import Judged, read_judged, read_samples
from anomalyr1.reproduction.study import COST, JUDGED, Job, Study
from anomalyr1.training.run_folder import METRICS, read_lines
from anomalyr1.types import InputError, Question, Sample

START = "start"
MOST_PAIRS = 6
PICTURE_LONG_SIDE = 300
WINDOW = 5
"""Steps that a point of a learning curve averages."""
CURVES = {
    "answers/right": "right, of all rollouts",
    "answers/consistent": "reasoning agrees, of rollouts",
    "signal/zero_variance": "groups of one reward",
}


@dataclass(frozen=True)
class Pair:
    """One question that two arms answer alike, one of them against its own reasoning."""

    sample_id: str
    question: Question
    picture: str
    """Data URI."""
    contradicting: str
    agreeing: str


@dataclass(frozen=True)
class Part:
    """What came out for one start policy."""

    name: str
    tables: Sequence[Table]
    claims: Table
    sentences: Sequence[str]
    plots: Sequence[str]
    pairs: Sequence[Pair]


def write(out: Path, study: Study, machine: str, date: str, command: str) -> Path:
    """Write index.html, report.md, report.json and plots/ of what is there so far. Raises `InputError` where no arm is finished."""
    from markupsafe import Markup

    parts = [part for start in study.scale.starts if (part := _part(out, study, start)) is not None]
    if not parts:
        raise InputError(f"{str(out)!r} holds no finished arm yet, so there is nothing to report")
    about = [
        f"machine: {machine}", f"date: {date}", f"command: {command}", f"AnomalyR1 {anomalyr1.__version__}",
        f"learned from: {study.scale.learned(3)}",
        *(f"asked about {name}: {spec}" for name, spec in study.tests.items()),
    ]  # fmt: skip
    page = render(
        "reproduction.html.j2", ["page.css", "results.css"], about=about,
        parts=[(part, [Markup(plot) for plot in part.plots]) for part in parts],  # our own; texts in it are escaped where it is made
    )  # fmt: skip
    tables = [table._replace(title=f"{part.name}: {table.title}") for part in parts for table in (part.claims, *part.tables)]
    told = [f"{part.name}: {sentence}" for part in parts for sentence in part.sentences]
    files = {
        "index.html": page,
        "report.md": in_markdown("Does ROAM help?", [*about, *told], tables),
        "report.json": json.dumps([{**table._asdict(), "rows": list(table.rows)} for table in tables], indent=1) + "\n",
        **{f"plots/{part.name}-{i}.svg": svg.file(plot) for part in parts for i, plot in enumerate(part.plots, start=1)},
    }
    for name, text in files.items():
        write_whole(out / name, text.encode("utf-8", "backslashreplace"))
    return out / "index.html"


def _part(out: Path, study: Study, start: str) -> Part | None:
    """What there is of one start; None where no arm is finished."""
    arms = {arm.name: arm for arm in study.chosen}
    runs: dict[str, list[Sequence[Judged]]] = {}
    if (out / start / JUDGED).exists():
        runs[START] = [read_judged(out / start / JUDGED)]
    folders: dict[str, list[Path]] = {}
    for arm in arms.values():
        done = [folder for seed in range(study.seeds) if ((folder := out / Job(start, arm, seed).folder) / JUDGED).exists()]
        if done:
            folders[arm.name] = done
            runs[arm.name] = [read_judged(folder / JUDGED) for folder in done]
    if START not in runs or not folders:
        return None
    answers = {
        test: Answers({name: [[one for one in seed if one.test == test] for seed in seeds] for name, seeds in runs.items()})
        for test in study.tests
    }
    claims = [claim for claim in CLAIMS if claim.better in runs and claim.than in runs]
    tables = [_table(test, found, arms, runs) for test, found in answers.items()]
    return Part(
        start, [*tables, *_seeds(folders, arms, answers), _costs(folders, arms)], _claims(claims, answers),
        _sentences(claims, answers), _curves(folders, arms), _pairs(out, study, runs),
    )  # fmt: skip


def _table(test: str, found: Answers, arms: Mapping[str, Arm], runs: Mapping[str, Sequence[object]]) -> Table:
    names = [*FIGURES, *found.kinds]
    rows = []
    for arm in runs:
        cells = []
        for name in names:
            figure = found.figure(arm, name)
            cells.append("" if figure is None else _shown(figure, name))
        rows.append((arms[arm].title if arm in arms else "start policy", *cells))
    note = f"{len(found.images)} images. In percent; 95 % intervals over images and seeds at the primary endpoints; subtasks stand last."
    return Table(test, ("arm", *names), rows, note)


def _shown(figure: Interval, name: str) -> str:
    if name == "words":
        return f"{figure.value:.1f}"
    value = f"{100 * figure.value:.1f}"
    return f"{value} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]" if name in PRIMARY else value


def _costs(folders: Mapping[str, Sequence[Path]], arms: Mapping[str, Arm]) -> Table:
    rows = []
    for arm, some in folders.items():
        costs = [json.loads((folder / COST).read_text(encoding="ascii")) for folder in some]
        seconds, rollouts = (float(np.mean([cost[key] for cost in costs])) for key in ("seconds", "rollouts"))
        rows.append((arms[arm].title, str(len(some)), f"{seconds:.0f}", f"{rollouts:.0f}"))
    return Table("What a run took", ("arm", "seeds", "seconds", "rollouts"), rows, "An arm that goes on from SFT counts GRPO alone.")


def _seeds(folders: Mapping[str, Sequence[Path]], arms: Mapping[str, Arm], answers: Mapping[str, Answers]) -> Iterator[Table]:
    for name in PRIMARY:
        rows = [
            (arms[arm].title, *("; ".join(said(one) for one in found.by_seed(arm, START, name)) for found in answers.values()))
            for arm in folders
        ]
        note = "Percentage points with 95 % intervals over images."
        yield Table(f"Each seed less the start: {name}", ("arm", *answers), rows, note)


def _claims(claims: Sequence[Claim], answers: Mapping[str, Answers]) -> Table:
    rows = []
    for claim in claims:
        cells = [said(found.difference(claim.better, claim.than, figure)) for found in answers.values() for figure in PRIMARY]
        rows.append((claim.text, *cells))
    head = ("claim", *(f"{test}: {figure}" for test in answers for figure in PRIMARY))
    return Table("Differences", head, rows, "Percentage points with 95 % intervals over images and seeds; all arms saw the same images.")


def _sentences(claims: Sequence[Claim], answers: Mapping[str, Answers]) -> list[str]:
    """What was confirmed, what was contradicted, what could not be told; a claim and an endpoint each."""
    by_outcome: dict[str, list[str]] = {"Confirmed": [], "Contradicted": [], "Not shown either way": []}
    for claim in claims:
        for test, found in answers.items():
            for figure in PRIMARY:
                effect = found.difference(claim.better, claim.than, figure)
                if effect is None:
                    continue
                outcome = "Not shown either way" if not excludes_zero(effect) else "Confirmed" if effect.value > 0 else "Contradicted"
                by_outcome[outcome].append(f"{claim.text} ({figure} on {test}: {said(effect)})")
    return [f"{outcome}: {'; '.join(some) if some else 'nothing'}." for outcome, some in by_outcome.items()]


def _curves(folders: Mapping[str, Sequence[Path]], arms: Mapping[str, Arm]) -> list[str]:
    """What rollouts were like while training, the mean of the seeds."""
    plots = []
    for key, title in CURVES.items():
        series = []
        for arm, some in folders.items():
            of_seeds = [
                smooth([(int(line["step"]), float(line[key])) for line in read_lines(f / "run" / METRICS) if key in line]) for f in some
            ]
            common = set.intersection(*(set(points) for points in of_seeds))
            points = [(float(step), float(np.mean([values[step] for values in of_seeds]))) for step in sorted(common)]
            if points:
                series.append(svg.Series(arms[arm].name, points))
        if series:
            plots += [svg.chart(title, "step", series[i : i + len(svg.COLOURS)]) for i in range(0, len(series), len(svg.COLOURS))]
    return plots


def smooth(points: Sequence[tuple[int, float]]) -> dict[int, float]:
    """The mean of the last `WINDOW` values, by step."""
    return {step: float(np.mean([value for _, value in points[max(0, i - WINDOW + 1) : i + 1]])) for i, (step, _) in enumerate(points)}


def _pairs(out: Path, study: Study, runs: Mapping[str, Sequence[Sequence[Judged]]]) -> list[Pair]:
    """Questions that both arms answer rightly, with plain GRPO against its own reasoning and ROAM in line with it; the first seeds."""
    if not {"answer", "roam"} <= runs.keys():
        return []
    samples = {one.id: one for test in study.tests for one in read_samples(study.samples_file(out, test))}
    roam = {(one.sample_id, one.question_id): one for one in runs["roam"][0]}
    return list(_found_pairs(runs["answer"][0], roam, samples))


def _found_pairs(plain: Sequence[Judged], roam: Mapping[tuple[str, str], Judged], samples: Mapping[str, Sample]) -> Iterator[Pair]:
    number = 0
    for one in plain:
        other = roam[one.sample_id, one.question_id]
        question = next((q for q in samples[one.sample_id].questions if q.id == one.question_id), None)
        if one.right and one.agrees is False and other.right and other.agrees and question is not None and number < MOST_PAIRS:
            number += 1
            picture = data_uri(scaled(open_image(samples[one.sample_id].image).rgb.convert("RGB"), PICTURE_LONG_SIDE))
            yield Pair(one.sample_id, question, picture, one.text, other.text)
