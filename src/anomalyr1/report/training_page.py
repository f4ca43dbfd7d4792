"""A training run as one self-contained page: held-out figures, curves, recipe, and what the policy wrote
last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomalyr1.evaluation.tables import Table, in_markdown
from anomalyr1.files import write_together
from anomalyr1.report import svg
from anomalyr1.report.evaluation_page import figures_csv
from anomalyr1.report.html import render
from anomalyr1.report.plots import run_plots

Line = Mapping[str, object]


@dataclass(frozen=True)
class LastGroup:
    """What the policy wrote to one prompt."""

    step: int
    sample_id: str
    question: str
    gold: str
    completions: Sequence[tuple[str, float | None, float]]
    """Text, reward (None = none applies) and advantage."""


@dataclass(frozen=True)
class TrainingRun:
    """A run folder, read."""

    title: str
    metrics: Sequence[Line]
    """Objects with a "step"."""
    evaluations: Sequence[Line]
    recipe: str
    about: Mapping[str, object]
    """What run.json holds."""
    last_groups: Sequence[LastGroup]
    version: str = ""


def write(folder: Path, run: TrainingRun) -> Path:
    """Write index.html, report.md, report.json, figures.csv and plots/*.svg, and return the page's path."""
    from markupsafe import Markup

    # Held-out figures are in both files; where they have their own they are shown once.
    twice = ("held_out/",) if run.evaluations else ()
    metrics = [
        {name: value for name, value in line.items() if not name.startswith(twice)} for line in run.metrics
    ]
    plots = [*run_plots(run.evaluations, "held out: ").values(), *run_plots(metrics).values()]
    held_out, last_values = _held_out(run.evaluations), _last(metrics)
    page = render(
        "training_page.html.j2",
        ["page.css", "evaluation_page.css"],
        run=run,
        steps=max((int(str(line["step"])) for line in (*run.metrics, *run.evaluations)), default=0),
        plots=[Markup(plot) for plot in plots],  # our own; texts in it are escaped where it is made
        held_out=held_out,
        last=last_values,
        about=[
            (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for name, value in run.about.items()
        ],
    )
    record = {
        "metrics": list(run.metrics),
        "evaluations": list(run.evaluations),
        "run": dict(run.about),
        "recipe": run.recipe,
    }
    files = {
        "index.html": page,
        "report.md": in_markdown("Training run", [run.title], [held_out, last_values]),
        "report.json": json.dumps(record, indent=1, ensure_ascii=True) + "\n",
        "figures.csv": figures_csv([held_out, last_values]),
        **{f"plots/{number:02}.svg": svg.file(plot) for number, plot in enumerate(plots, start=1)},
    }
    write_together(folder, {name: text.encode("utf-8", "backslashreplace") for name, text in files.items()})
    return folder / "index.html"


def _held_out(evaluations: Sequence[Line]) -> Table:
    """A row a figure, first and last."""
    names: dict[str, None] = {}
    for line in evaluations:
        names |= {name: None for name, value in line.items() if name != "step" and _is_number(value)}
    rows = []
    for name in names:
        values = [line[name] for line in evaluations if _is_number(line.get(name))]
        numbers = [float(str(value)) for value in values]
        rows.append(
            (
                name,
                f"{numbers[0]:.4g}",
                f"{numbers[-1]:.4g}",
                f"{numbers[-1] - numbers[0]:+.4g}",
                str(len(numbers)),
            )
        )
    note = "Measured on images that are not trained on, as far as the recipe says."
    return Table("Held-out figures", ("figure", "first", "last", "change", "times"), rows, note)


def _last(metrics: Sequence[Line]) -> Table:
    values_by_name: dict[str, tuple[object, object]] = {}
    for line in metrics:
        values_by_name.update(
            {
                name: (line["step"], value)
                for name, value in line.items()
                if name != "step" and _is_number(value)
            }
        )
    rows = [
        (name, f"{float(str(value)):.4g}", str(step))
        for name, (step, value) in sorted(values_by_name.items())
    ]
    return Table("Last logged values", ("figure", "value", "step"), rows)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
