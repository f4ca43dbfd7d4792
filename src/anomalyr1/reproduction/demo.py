"""The experiment in four minutes: nano learns a drawn category it never saw, by GRPO with ROAM, and is asked
before and after.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from anomalyr1.data import sources
from anomalyr1.evaluation.tables import Table
from anomalyr1.files import write_whole
from anomalyr1.images.door import open_image
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.report import svg
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.inspection_page import outcome
from anomalyr1.report.overlays import overlay, scaled
from anomalyr1.reproduction.arms import SHORT
from anomalyr1.reproduction.effects import Answers, Effect, excludes_zero, in_points
from anomalyr1.reproduction.judge import judge, read_judged
from anomalyr1.reproduction.page import smooth
from anomalyr1.reproduction.samples import write_records
from anomalyr1.training import run
from anomalyr1.training.recipes import load_recipe
from anomalyr1.training.run_folder import FINAL, METRICS, read_lines
from anomalyr1.types import InputError, Inspection, Sample
from anomalyr1.version import __version__

CATEGORY = "connector"
LEARNED, ASKED, SHOWN = 12, 60, 6
"""Images that are learned from, that are asked about before and after, and of those that are shown."""
STEPS = 45
FIGURES = ("accuracy", "AUROC", "balanced yes/no", "box mIoU")
BEFORE, AFTER = "before", "after"
CURVES = {
    "answers/right": "right, of rollouts",
    "reward": "reward",
    "kl": "distance from the start (KL)",
}
"""What is logged -> title of its curve."""
MARK = "demo.txt"
"""A file in every folder that a demo made."""
PICTURE_LONG_SIDE = 320


class Outcome(NamedTuple):
    """What a demo found."""

    page: Path
    taught: Path
    """The folder of the trained policy."""
    accuracy: Effect
    """The change of held-out accuracy."""
    sentence: str


def demo(out: Path, say: Callable[[str], None], model: str = "nano") -> Outcome:
    """Teach `model`, ask it before and after, inspect some parts, and write the page to `out`, which begins
    anew.

    Raises `InputError` for a folder that holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise InputError(f"{str(out)!r} holds something that no demo made; name another folder with --out")
    for name in ("data", "run", "own"):
        shutil.rmtree(out / name, ignore_errors=True)  # what else somebody put into the folder stays
    write_whole(out / MARK, b"anomalyr1 demo\n")
    samples = sources.load_sources(
        [f"drawn:{CATEGORY}?n={ASKED}&seed=1&references=0"], out / "data" / "drawn"
    )
    write_records(out / "samples.jsonl", samples)
    say(f"asking {model} about {len(samples)} drawings of a {CATEGORY}, which it has never seen")
    learned = f"drawn:{CATEGORY}?n={LEARNED}&seed=0&references=0"
    overrides = (
        "rewards={roam: 1.0, accuracy: 1.0}",
        f"model={model}",
        f'data=["{learned}"]',
        f"grpo.max_steps={STEPS}",
    )
    recipe = load_recipe("nano-grpo", [*SHORT, *overrides])
    judge(model, {CATEGORY: out / "samples.jsonl"}, out / f"{BEFORE}.jsonl", recipe)
    say(f"teaching it {LEARNED} others by GRPO with ROAM, {STEPS} steps")
    run.train(recipe, out / "run", say=say)
    taught = out / "run" / FINAL
    say("asking again")
    judge(str(taught), {CATEGORY: out / "samples.jsonl"}, out / f"{AFTER}.jsonl", recipe)
    answers = Answers({name: [read_judged(out / f"{name}.jsonl")] for name in (BEFORE, AFTER)})
    say("inspecting some of them, before and after")
    inspections = {
        name: Inspector.load(model_name).inspect(_shown(samples))
        for name, model_name in ((BEFORE, model), (AFTER, str(taught)))
    }
    change = answers.difference(AFTER, BEFORE, "accuracy")
    assert change is not None  # every drawn part has questions with options
    sentence = _sentence(change)
    page = _write(out, answers, _shown(samples), inspections, sentence)
    return Outcome(page, taught, change, sentence)


def _shown(samples: list[Sample]) -> list[Sample]:
    """Good and defective ones in turn."""
    by_side = [[sample for sample in samples if sample.anomalous is side] for side in (True, False)]
    return [sample for pair in zip(*by_side, strict=False) for sample in pair][:SHOWN]


def _sentence(change: Effect) -> str:
    sentence = (
        f"Held-out accuracy changed by {in_points(change)} percentage points (95 % interval over images)"
    )
    if not excludes_zero(change):
        return f"{sentence}: the interval includes zero, so this does not show that teaching helped."
    return f"{sentence}: it {'rose' if change.value > 0 else 'fell'}, and the interval excludes zero."


def _write(
    out: Path,
    answers: Answers,
    samples: list[Sample],
    inspections: dict[str, list[Inspection]],
    sentence: str,
) -> Path:
    from markupsafe import Markup

    cards = []
    for i, sample in enumerate(samples):
        pictures = [(name, side[i], _picture(sample, side[i])) for name, side in inspections.items()]
        cards.append((sample, data_uri(scaled(open_image(sample.image).rgb, PICTURE_LONG_SIDE)), pictures))
    page = render(
        "demo.html.j2",
        ["page.css", "evaluation_page.css"],
        sentence=sentence,
        table=_table(answers),
        category=CATEGORY,
        learned=LEARNED,
        cards=cards,
        plots=[Markup(plot) for plot in _curves(read_lines(out / "run" / METRICS))],
        version=__version__,
        outcome=outcome,
    )
    write_whole(out / "index.html", page.encode("utf-8"))
    return out / "index.html"


def _table(answers: Answers) -> Table:
    """A row a figure that both sides have: before, after, and the change with its interval."""
    rows = []
    for name in (*FIGURES, *answers.kinds):
        before, after = (answers.figure(side, name) for side in (BEFORE, AFTER))
        if before is not None and after is not None:
            change = in_points(answers.difference(AFTER, BEFORE, name))
            rows.append((name, f"{100 * before.value:.1f}", f"{100 * after.value:.1f}", change))
    head = ("in percent", BEFORE, AFTER, "change, with 95 % interval")
    return Table("Held-out drawings", head, rows, f"{len(answers.images)} drawings.")


def _curves(lines: list[dict[str, Any]]) -> list[str]:
    """What was logged while it learned, as charts."""
    plots = []
    for key, title in CURVES.items():
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            plots.append(svg.chart(title, "step", [svg.Curve("", sorted(smooth(points).items()))]))
    return plots


def _picture(sample: Sample, inspection: Inspection) -> str:
    return data_uri(overlay(inspection, sample.image, PICTURE_LONG_SIDE))
