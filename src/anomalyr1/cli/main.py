"""The verbs of the command line: inspect, demo, doctor; those of the modules beside this one; and data with verbs of its own.

Exit codes: 0 all well, 1 the user's input, 2 some images failed, 3 the environment. Errors are one or two
lines, without a traceback.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomalyr1.cli import calibrate as cli_calibrate
from anomalyr1.cli import data as cli_data
from anomalyr1.cli import evaluate as cli_evaluate
from anomalyr1.cli import parity as cli_parity
from anomalyr1.cli import report as cli_report
from anomalyr1.cli import reproduce as cli_reproduce
from anomalyr1.cli import runs as cli_runs
from anomalyr1.cli import train as cli_train
from anomalyr1.cli.terminal import OK, SETUP_ERROR, SOME_FAILED, USER_ERROR, find_images
from anomalyr1.cli.terminal import say as _say
from anomalyr1.types import InputError, Inspection, Sample, SetupError

if TYPE_CHECKING:
    from anomalyr1.inspection.inspector import Inspector

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # not exported by name

app = typer.Typer(
    help="Inspect parts with a vision-language model that reasons, answers and points at the defect.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_data.app, name="data")
app.command()(cli_calibrate.calibrate)
app.command()(cli_parity.parity)
app.command()(cli_evaluate.evaluate)
app.command()(cli_evaluate.compare)
app.command()(cli_report.report)
app.command()(cli_report.convert)
app.command()(cli_train.train)
app.command()(cli_reproduce.reproduce)
for verb in cli_runs.VERBS:
    app.command()(verb)

TRAIN = ("accelerate", "datasets", "peft", "tensorboard", "trl")
"""What the extra `train` installs."""
Masks = Literal["default", "sam2", "box"]


@app.command()
def inspect(
    paths: Annotated[
        list[Path], typer.Argument(help="Image files, or folders that are searched for images.")
    ],
    model: Annotated[
        str, typer.Option(help="nano (drawn parts), a model folder, or a name on the Hugging Face hub.")
    ] = "nano",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub model.")] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Scale images down to this many pixels; default: 1280 image tokens.")
    ] = None,
    knowledge: Annotated[
        Path | None, typer.Option(help="Text file with what is known about good and bad parts.")
    ] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="Image of a good part; may be given more than once.")
    ] = None,
    masks: Annotated[
        Masks, typer.Option(help="default needs no download, sam2 fetches a model, box is the box itself.")
    ] = "default",
    out: Annotated[Path, typer.Option(help="Folder for inspections.jsonl, overlays and index.html.")] = Path(
        "inspections"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON line per inspection on stdout, nothing else.")
    ] = False,
    style: Annotated[str, typer.Option(help="Prompt style: ours, mmad or released.")] = "ours",
    prompt: Annotated[
        Path | None, typer.Option(help="Text file with your own prompt, instead of a style.")
    ] = None,
    votes: Annotated[
        int, typer.Option(min=1, help="Ask so many times and let the answers vote; the score is their mean.")
    ] = 1,
    fast: Annotated[
        bool, typer.Option("--fast", help="No reasoning, no boxes: one forward pass, the score alone.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, vllm, or endpoint:FILE for a server (docs/engines.md).")
    ] = "local",
    threshold: Annotated[
        Path | None, typer.Option(help="File of `anomalyr1 calibrate`: decide by the score.")
    ] = None,
) -> int:
    """Inspect images: verdict, reasoning, boxes, masks, and a page to look at. Run again to go on after a stop."""
    from anomalyr1 import prompts
    from anomalyr1.inspection.inspector import Inspector, samples_of_images
    from anomalyr1.inspection.thresholds import Threshold

    text = _read_text(knowledge)
    references = tuple(reference or ())
    samples, context = samples_of_images(find_images(paths, out, references), references, text)
    own_prompt = prompts.read_prompt(prompt) if prompt else None
    bounds = Threshold.read(threshold) if threshold else None
    inspector = Inspector.load(
        model, revision=revision, max_pixels=max_pixels, masks=masks, style=style, text=own_prompt, votes=votes, fast=fast, engine=engine,
        threshold=bounds,
    )  # fmt: skip
    results = _run(inspector, samples, out, context, as_json)
    return SOME_FAILED if any(inspection.error is not None for inspection in results) else OK


@app.command()
def demo(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Your own images or folders, inspected by what was learned.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for all results; a demo begins anew.")] = Path(
        "runs/demo"
    ),
) -> int:
    """Teach nano a drawn part it has never seen, by GRPO with ROAM, and show before and after on a page; a few minutes on a CPU."""
    from anomalyr1.inspection.inspector import Inspector
    from anomalyr1.reproduction.demo import demo as teach

    paths = find_images(images or (), out)
    found = teach(out, _say)
    results: list[Inspection] = []
    if paths:
        results = _run(
            Inspector.load(str(found.taught)),
            [Sample(id=p.as_posix(), image=p) for p in paths],
            out / "own",
            "",
            as_json=False,
        )
    _say(found.sentence)
    _say(f"page: {found.page}")
    return SOME_FAILED if any(inspection.error is not None for inspection in results) else OK


@app.command()
def doctor() -> int:
    """Check this machine: versions, device, memory, disk, extras and licences."""
    from anomalyr1.cli.doctor import examine

    findings = examine()
    for finding in findings:
        _say(f"{'ok ' if finding.ok else 'BAD'} {finding.text}")
    return OK if all(finding.ok for finding in findings) else SETUP_ERROR


def _run(
    inspector: Inspector, samples: Sequence[Sample], out: Path, given: str, as_json: bool
) -> list[Inspection]:
    """Inspect, write overlays and page, and say what came out."""
    import anomalyr1
    from anomalyr1 import report
    from anomalyr1.policy.load import licence_of, limits_of

    with _progress("inspecting", len(samples), as_json) as show:
        results = inspector.run(samples, out / "inspections.jsonl", show, given)
    fingerprint = inspector.fingerprint(given)
    command = shlex.join(["anomalyr1", *sys.argv[1:]])
    limits = limits_of(fingerprint.model)
    about = report.About(fingerprint, licence_of(fingerprint.model), limits, command, anomalyr1.__version__)
    page = report.write(out, list(zip(samples, results, strict=True)), about)
    outcomes = Counter(report.outcome(inspection) for inspection in results)
    tally = ", ".join(f"{outcomes[name]} {name}" for name in ("good", "defect", "unsure", "failed"))
    _say(f"{len(results)} inspected: {tally}", err=as_json)
    _say(f"page: {page}", err=as_json)
    if limits:
        _say(f"note: {limits}", err=as_json)
    return results


@contextlib.contextmanager
def _progress(title: str, total: int, as_json: bool) -> Iterator[Callable[[int, Inspection], None]]:
    """A bar with the time left on a terminal, one line per inspection otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if as_json:
        yield lambda done, inspection: print(inspection.to_json(), flush=True)
    elif not sys.stdout.isatty():
        yield lambda done, inspection: _say(f"{done}/{total} {_line(inspection)}")
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(markup=False, highlight=False)) as bar:
            task = bar.add_task(title, total=total)

            def show(done: int, inspection: Inspection) -> None:
                bar.console.print(
                    _line(inspection), markup=False, highlight=False, overflow="ellipsis", no_wrap=True
                )
                bar.update(task, completed=done)

            yield show


def _line(inspection: Inspection) -> str:
    from anomalyr1.report import outcome, visible

    why = " ".join((inspection.error or inspection.reason).split())
    return visible(
        f"{outcome(inspection):6} {inspection.sample_id}  {why[:120]}{'...' if len(why) > 120 else ''}"
    ).rstrip()


def _read_text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the knowledge file {str(path)!r} cannot be read ({error}); give a UTF-8 text file"
        ) from error


def _failed(message: str, code: int) -> int:
    """Say what is wrong, line by line, and give back the exit code."""
    for line in f"error: {message}".splitlines():
        _say(line, err=True)
    return code


def main() -> None:
    """Run a verb and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal that cannot show a letter shows its escape
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        said = error.format_message()  # type: ignore[attr-defined]
        code = (
            _failed(f"{said} Try: anomalyr1 --help", USER_ERROR) if said else USER_ERROR
        )  # without a verb the help was shown
    except (InputError, OSError) as error:
        code = _failed(str(error), USER_ERROR)
    except SetupError as error:
        code = _failed(str(error), SETUP_ERROR)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN:
            raise
        code = _failed(
            f'training needs {error.name}, which is not installed: pip install "anomalyr1[train]"',
            SETUP_ERROR,
        )
    except (typer.Abort, KeyboardInterrupt):
        more = " with --resume" if sys.argv[1:2] == ["train"] and "--resume" not in sys.argv else ""
        _say(f"stopped; what is done is kept, run the same command{more} to go on", err=True)
        code = 130
    sys.exit(code or OK)
