"""The verbs about figures: `anomalyr1 evaluate` and `anomalyr1 compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import (
    OK,
    SOME_FAILED,
    Options,
    PromptFile,
    Style,
    inspections_file,
    loader_options,
    say,
    stop_explained,
)
from anomalyr1.errors import InputError

if TYPE_CHECKING:
    from anomalyr1.evaluation.comparison import Comparison
    from anomalyr1.evidence.bank import Bank
    from anomalyr1.types import Inspection


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            help="mmad or model: ask a model the data's questions; a path: the inspections of an earlier run."
        ),
    ],
    data: Annotated[
        str, typer.Option(help="Labelled data: a SPEC such as mmad:FOLDER, or split:FILE for its test side.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="nano (drawn parts), a model folder, or a name on the hub.")
    ] = "nano",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub model.")] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Scale images down to this many pixels; default: 1280 image tokens.")
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="MMAD: good reference images beside each image.")] = 0,
    template: Annotated[
        Literal["random", "similar"], typer.Option(help="MMAD: which reference images.")
    ] = "random",
    knowledge: Annotated[
        bool, typer.Option("--knowledge", help="MMAD: give what is known about the class.")
    ] = False,
    style: Style = None,
    prompt: PromptFile = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="No reasoning, no boxes: one forward pass a question.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, vllm, or endpoint:FILE for a server (docs/guide/engines.md).")
    ] = "local",
    option: Options = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many samples, spread over classes, good and anomalous ones."),
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Only this class; may be given more than once.")
    ] = None,
    bank: Annotated[
        str | None,
        typer.Option(
            help="Good parts to compare with: a file of `anomalyr1 learn`, or references: each sample's own."
        ),
    ] = None,
    tell: Annotated[
        bool | None,
        typer.Option("--evidence/--no-evidence", help="Whether the prompt says what the good parts say."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Evaluate a file that has not all samples; it is written down.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the figures, and for inspections.jsonl.")] = Path(
        "evaluation"
    ),
) -> int:
    """Figures of a model on labelled data: three scoreboards, detection, what is behind them. Run again to go
    on after a stop.
    """
    from anomalyr1 import prompts
    from anomalyr1.evaluation import record, run, tables

    if what == "mmad" and not data.startswith(("mmad:", "split:")):
        raise InputError(
            f"`evaluate mmad` asks the questions of MMAD, so --data is mmad:FOLDER, not {data!r}; "
            "for other data: evaluate model"
        )
    require_output("evaluate", out, (what, data, model, bank))
    options = loader_options(option) | run.mmad_options(shots, template, knowledge)
    if what in ("mmad", "model"):
        progress = _Progress()
        with stop_explained(progress.describe_stop):
            evaluation = run.evaluate(
                model,
                data,
                out=out,
                options=options,
                progress=progress,
                revision=revision,
                max_pixels=max_pixels,
                style=style,
                text=prompts.read_prompt(prompt) if prompt else None,
                fast=fast,
                engine=engine,
                limit=limit,
                classes=classes or (),
                bank=_read_bank(bank),
                tell=tell,
            )
    else:
        options_of_models = (model, revision, max_pixels, style, prompt, fast, engine, bank, tell)
        if options_of_models != ("nano", None, None, None, None, False, "local", None, None):
            raise InputError(
                f"{what!r} is taken as an inspections file, which has its own model and prompt; "
                "leave their options out"
            )
        evaluation = run.evaluate_file(
            inspections_file(Path(what)),
            data,
            out=out,
            options=options,
            partial=partial,
            limit=limit,
            classes=classes or (),
        )
    for line in tables.text(evaluation):
        say(line)
    say(f"evaluation: {out / record.FILE}")
    return SOME_FAILED if evaluation.failed else OK


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of `anomalyr1 evaluate`.")],
    second: Annotated[Path, typer.Argument(help="Folder of another evaluation of the same data.")],
    reading: Annotated[
        Literal["strict", "lenient", "official"], typer.Option(help="How answers are read.")
    ] = "strict",
    out: Annotated[Path, typer.Option(help="Folder for the comparison and the page of flips.")] = Path(
        "comparison"
    ),
) -> int:
    """Which answers of the second run flipped, whether that is more than chance, and how many questions would
    show it.
    """
    from anomalyr1.evaluation import comparison
    from anomalyr1.report import comparison_page
    from anomalyr1.version import __version__

    require_output("compare", out, (first, second))
    runs = comparison.open_run(first), comparison.open_run(second)
    result = comparison.compare(*runs, reading)
    page = comparison_page.write(out, result, runs, __version__)
    for line in _describe(result):
        say(line)
    say(f"page: {page}")
    return OK


def _read_bank(name: str | None) -> Bank | Literal["references"] | None:
    from anomalyr1.evidence.bank import Bank

    if name == "references":
        return "references"
    return None if name is None else Bank.read(name)


class _Progress:
    """How far an evaluation is: a line for each hundredth of the samples, and for each failure."""

    def __init__(self) -> None:
        self._done = self._total = 0

    def __call__(self, done: int, total: int, inspection: Inspection) -> None:
        self._done, self._total = done, total
        if done % max(1, total // 100) == 0 or inspection.error is not None:
            failure = "" if inspection.error is None else f"  failed: {inspection.error}"
            say(f"{done}/{total} {inspection.sample_id}{failure}", err=True)

    def describe_stop(self) -> str:
        """Where it stopped, and how it goes on."""
        place = f"after {self._done} of {self._total}" if self._total else "before the first sample"
        return f"stopped {place}; the same command goes on"


def _describe(comparison: Comparison) -> list[str]:
    """What a person should know of a comparison."""
    lines = [
        f"{comparison.second} against {comparison.first}, answers read {comparison.reading}",
        *(f"differs in {difference}" for difference in comparison.differences),
        *([f"warning: {comparison.warning}"] if comparison.warning else []),
    ]
    for group in comparison.groups:
        paired, gap = group.paired, group.paired.difference
        mcnemar = "" if paired.rows > paired.clusters else f", {paired.p_mcnemar:.2g} McNemar"
        lines.append(
            f"{group.name}: {group.first:.1f} -> {group.second:.1f} %, {100 * gap.value:+.1f} points "
            f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]; {paired.gained} gained, {paired.lost} lost "
            f"of {paired.rows}; p {group.p_adjusted:.2g} by image{mcnemar}"
        )
    for points, number in comparison.needed.items():
        verdict = f"needs {number} questions"
        if number is None:
            verdict = "cannot come about where runs differ so seldom"
        lines.append(f"a difference of {points} points {verdict}")
    return lines
