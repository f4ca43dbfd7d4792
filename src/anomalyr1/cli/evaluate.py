"""The verbs about figures: `anomalyr1 evaluate` and `anomalyr1 compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomalyr1.cli.terminal import OK, SOME_FAILED, say
from anomalyr1.data import sources
from anomalyr1.types import Fingerprint, InputError, Inspection

if TYPE_CHECKING:
    from anomalyr1.data.sources import LoadedSource
    from anomalyr1.evaluation.comparison import Comparison
    from anomalyr1.evaluation.run import Evaluation
    from anomalyr1.inspection.inspector import Inspector


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            help="mmad or model: ask a model the data's questions; a file: the inspections of an earlier run."
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
    style: Annotated[str, typer.Option(help="Prompt style: ours, mmad or released.")] = "ours",
    fast: Annotated[
        bool, typer.Option("--fast", help="No reasoning, no boxes: one forward pass a question.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, vllm, or endpoint:FILE for a server (docs/engines.md).")
    ] = "local",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Option of the loader as key=value.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Evaluate a file that has not all samples; it is written down.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the figures, and for inspections.jsonl.")] = Path(
        "evaluation"
    ),
) -> int:
    """Figures of a model on labelled data: three scoreboards, detection, what is behind them. Run again to go on after a stop."""
    from anomalyr1 import records
    from anomalyr1.cli.data import pairs
    from anomalyr1.evaluation import provenance
    from anomalyr1.evaluation import run as evaluations

    ask = what in ("mmad", "model")
    if what == "mmad" and not data.startswith(("mmad:", sources.SPLIT)):
        raise InputError(
            f"`evaluate mmad` asks the questions of MMAD, so --data is mmad:FOLDER, not {data!r}; for other data: evaluate model"
        )
    options = pairs(option) | _for_mmad(shots, template, knowledge)
    loaded = sources.load_source(data, options, out / "drawn")
    if ask:
        from anomalyr1.inspection.inspector import Inspector

        if not any(sample.questions for sample in loaded.samples):
            raise InputError(
                f"{data!r} asks no question, so there is nothing to evaluate; give labelled data (anomalyr1 data show SPEC ID)"
            )
        inspector = Inspector.load(
            model, revision=revision, max_pixels=max_pixels, style=style, fast=fast, engine=engine
        )
        path = out / evaluations.INSPECTIONS
        run, inspections = _ask(inspector, loaded, path)
    else:
        if (model, revision, max_pixels, style, fast, engine) != ("nano", None, None, "ours", False, "local"):
            raise InputError(
                f"{what!r} is taken as an inspections file, which has its own model and prompt; leave their options out"
            )
        path = Path(what)
        run, inspections = records.read(path)
        evaluations.require_same_data(path, run, loaded.samples)
    source = evaluations.Source(
        spec=data, options=options, folder=str((out / "drawn").absolute()), samples=len(loaded.samples),
        questions=provenance.questions_digest(loaded.samples, given=False),
        inspections=evaluations.INSPECTIONS if ask else str(path.absolute()), notes=loaded.notes,
    )  # fmt: skip
    found = evaluations.evaluate(loaded, run, inspections, source, partial)
    return _written(out, found)


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
    """Which answers of the second run flipped, whether that is more than chance, and how many questions would show it."""
    import anomalyr1
    from anomalyr1.evaluation import comparison as comparisons
    from anomalyr1.files import write_whole
    from anomalyr1.report import comparison_page as flips

    runs = comparisons.open_run(first), comparisons.open_run(second)
    found = comparisons.compare(*runs, reading)
    write_whole(out / "comparison.json", found.to_json().encode("ascii") + b"\n")
    flips.write(out / "index.html", found, runs, anomalyr1.__version__)
    for line in _comparison(found):
        say(line)
    say(f"page: {out / 'index.html'}")
    return OK


def _comparison(found: Comparison) -> list[str]:
    """What a person should know of a comparison."""
    lines = [
        f"{found.second} against {found.first}, answers read {found.reading}",
        *(f"differs in {one}" for one in found.differences),
    ]
    for group in found.groups:
        paired, gap = group.paired, group.paired.difference
        lines.append(
            f"{group.name}: {group.first:.1f} -> {group.second:.1f} %, {100 * gap.value:+.1f} points "
            f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]; {paired.gained} gained, {paired.lost} lost of {paired.rows}; "
            f"p {group.p_adjusted:.2g} by image{'' if paired.rows > paired.clusters else f', {paired.p_mcnemar:.2g} McNemar'}"
        )
    for points, number in found.needed.items():
        needed = (
            "cannot come about where runs differ so seldom" if number is None else f"needs {number} questions"
        )
        lines.append(f"a difference of {points} points {needed}")
    return lines


def _for_mmad(shots: int, template: str, knowledge: bool) -> dict[str, str]:
    """The loader's options for MMAD; none where none of them is asked for."""
    if template != "random" and not shots:
        raise InputError(f"--template {template} chooses reference images, so say how many with --shots")
    return (
        {"shots": str(shots), "template": template, "knowledge": str(knowledge)} if shots or knowledge else {}
    )


def _written(out: Path, found: Evaluation) -> int:
    """Write an evaluation and say it; gives the exit code."""
    from anomalyr1.evaluation import run as evaluations
    from anomalyr1.evaluation import tables

    boards = {evaluations.SCOREBOARD: tables.scoreboard_csv(found.mmad)} if found.mmad else {}
    evaluations.write(out, found, {evaluations.MARKDOWN: tables.markdown(found), **boards})
    for line in tables.text(found):
        say(line)
    say(f"evaluation: {out / evaluations.FILE}")
    return SOME_FAILED if found.failed else OK


def _ask(inspector: Inspector, loaded: LoadedSource, path: Path) -> tuple[Fingerprint, list[Inspection]]:
    """Ask the model what the file does not hold yet, with a line for each hundredth and each failure."""
    from dataclasses import replace

    from anomalyr1.evaluation.run import given

    samples = loaded.samples
    step = max(1, len(samples) // 100)

    def progress(done: int, inspection: Inspection) -> None:
        if done % step == 0 or inspection.error is not None:
            say(
                f"{done}/{len(samples)} {inspection.sample_id}{'' if inspection.error is None else f'  failed: {inspection.error}'}",
                err=True,
            )

    asking = replace(inspector, own_questions=True)
    digest = given(samples)
    inspections = asking.run(samples, path, progress, digest)
    return asking.fingerprint(digest), inspections
