"""The experiment in four minutes: nano learns a drawn category it never saw, by GRPO with ROAM, and is asked before and after."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anomalyr1
from anomalyr1 import report
from anomalyr1.data import sources
from anomalyr1.evaluation.tables import Table
from anomalyr1.files import write_whole
from anomalyr1.images import open_image
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.report import svg
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.overlay import overlay, scaled
from anomalyr1.reproduction.arms import SHORT
from anomalyr1.reproduction.effects import Answers, Effect, excludes_zero, said
from anomalyr1.reproduction.judge import judge, read_judged, write_records
from anomalyr1.reproduction.page import smooth
from anomalyr1.training import run
from anomalyr1.training.recipes import load_recipe
from anomalyr1.training.run_folder import FINAL, METRICS, read_lines
from anomalyr1.types import InputError, Inspection, Sample

CATEGORY = "connector"
LEARNED, ASKED, SHOWN = 12, 60, 6
"""Images that are learned from, that are asked about before and after, and of those that are shown."""
STEPS = 45
FIGURES = ("accuracy", "AUROC", "balanced yes/no", "box mIoU")
BEFORE, AFTER = "before", "after"
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
    """Teach `model`, ask it before and after, inspect some parts, and write the page to `out`, which begins anew.

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
    own = (
        "rewards={roam: 1.0, accuracy: 1.0}",
        f"model={model}",
        f'data=["{learned}"]',
        f"grpo.max_steps={STEPS}",
    )
    recipe = load_recipe("nano-grpo", [*SHORT, *own])
    judge(model, {CATEGORY: out / "samples.jsonl"}, out / f"{BEFORE}.jsonl", recipe)
    say(f"teaching it {LEARNED} others by GRPO with ROAM, {STEPS} steps")
    run.train(recipe, out / "run", say=say)
    taught = out / "run" / FINAL
    say("asking again")
    judge(str(taught), {CATEGORY: out / "samples.jsonl"}, out / f"{AFTER}.jsonl", recipe)
    found = Answers({name: [read_judged(out / f"{name}.jsonl")] for name in (BEFORE, AFTER)})
    say("inspecting some of them, before and after")
    looks = {
        name: Inspector.load(one).inspect(_shown(samples))
        for name, one in ((BEFORE, model), (AFTER, str(taught)))
    }
    change = found.difference(AFTER, BEFORE, "accuracy")
    assert change is not None  # every drawn part has questions with options
    sentence = _sentence(change)
    page = _write(out, found, _shown(samples), looks, sentence)
    return Outcome(page, taught, change, sentence)


def _shown(samples: list[Sample]) -> list[Sample]:
    """Good and defective ones in turn."""
    sides = [[one for one in samples if one.anomalous is side] for side in (True, False)]
    return [one for pair in zip(*sides, strict=False) for one in pair][:SHOWN]


def _sentence(change: Effect) -> str:
    told = f"Held-out accuracy changed by {said(change)} percentage points (95 % interval over images)"
    if not excludes_zero(change):
        return f"{told}: the interval includes zero, so this does not show that teaching helped."
    return f"{told}: it {'rose' if change.value > 0 else 'fell'}, and the interval excludes zero."


def _write(
    out: Path, found: Answers, samples: list[Sample], looks: dict[str, list[Inspection]], sentence: str
) -> Path:
    from markupsafe import Markup

    rows = []
    for name in (*FIGURES, *found.kinds):
        values = [found.figure(side, name) for side in (BEFORE, AFTER)]
        if all(value is not None for value in values):
            rows.append(
                (
                    name,
                    *(f"{100 * value.value:.1f}" for value in values if value),
                    said(found.difference(AFTER, BEFORE, name)),
                )
            )
    table = Table(
        "Held-out drawings",
        ("in percent", BEFORE, AFTER, "change, with 95 % interval"),
        rows,
        f"{len(found.images)} drawings.",
    )
    lines = read_lines(out / "run" / METRICS)
    plots = [
        svg.chart(
            title,
            "step",
            [
                svg.Series(
                    "", sorted(smooth([(line["step"], line[key]) for line in lines if key in line]).items())
                )
            ],
        )
        for key, title in (
            ("answers/right", "right, of rollouts"),
            ("reward", "reward"),
            ("kl", "distance from the start (KL)"),
        )
        if any(key in line for line in lines)
    ]
    cards = [
        (
            sample,
            data_uri(scaled(open_image(sample.image).rgb, PICTURE_LONG_SIDE)),
            [(name, look[i], _picture(sample, look[i])) for name, look in looks.items()],
        )
        for i, sample in enumerate(samples)
    ]
    page = render(
        "demo.html.j2", ["page.css", "evaluation_page.css"],
        sentence=sentence, table=table, category=CATEGORY, learned=LEARNED, cards=cards,
        plots=[Markup(plot) for plot in plots], version=anomalyr1.__version__, outcome=report.outcome,
    )  # fmt: skip
    write_whole(out / "index.html", page.encode("utf-8"))
    return out / "index.html"


def _picture(sample: Sample, inspection: Inspection) -> str:
    return data_uri(overlay(inspection, sample.image, PICTURE_LONG_SIDE))
