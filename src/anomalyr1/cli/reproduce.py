"""The verb `anomalyr1 reproduce`."""

from __future__ import annotations

import datetime
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import OK, SOME_FAILED, find_images, say, stop_explained
from anomalyr1.errors import InputError

if TYPE_CHECKING:
    from anomalyr1.types import Inspection

LIMIT = 200


def reproduce(
    experiment: Annotated[
        Literal["roam"], typer.Argument(help="roam: does ROAM help, against the answer reward alone and SFT?")
    ],
    scale: Annotated[
        Literal["nano", "3b"],
        typer.Option(help="nano: drawn parts, a CPU, hours. 3b: Qwen2.5-VL-3B, your data, GPUs."),
    ] = "nano",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every arm.")] = 3,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="The ablations, too: shots, values of ROAM, letters, groups, KL, resampling."
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of the experiment; the same command goes on where it stopped.")
    ] = Path("runs/roam"),
    arm: Annotated[
        list[str] | None, typer.Option(help="An arm to run; may be given more than once; default: all.")
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(help="NAME=MODEL to start from, or nano-raw; may be given more than once."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=(
                "The labelled images that are learned from and asked about, such as mmad:PATH; scale 3b "
                "needs it."
            )
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "NAME=SPEC of one more test set; may be given more than once; default: elpv, real cells, "
                "where it is installed."
            )
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Most images of a test set.")] = LIMIT,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side; default: a core each on a CPU, else 1.")
    ] = None,
    launch: Annotated[
        str, typer.Option(help="Command to train with, such as 'accelerate launch --config_file FILE'.")
    ] = "",
) -> int:
    """Run the paper's experiment: the same start and few images, trained in every way, asked about images it
    never saw.
    """
    import torch

    from anomalyr1.cli.cores import usable_cores
    from anomalyr1.cli.doctor import machine
    from anomalyr1.reproduction import arms, page
    from anomalyr1.reproduction.study import Runner, Study, begin, settle

    require_output("reproduce", out, (data, *(start or ()), *(test or ())))
    starts = named(start or [], "--start")
    size = settle(arms.SCALES[scale], out, starts, data, None if test is None else named(test, "--test"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops what runs, as Ctrl-C does
    study = begin(out, Study.of(size, arms.choose_arms(arm or [], full), seeds, limit))
    runner = Runner(out, study, say, launch)
    try:
        with stop_explained(runner.describe_stop):
            runner.run(jobs or (1 if torch.cuda.is_available() else usable_cores()))
    finally:
        if page.finished(out, study):
            today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
            command = shlex.join(["anomalyr1", *sys.argv[1:]])
            say(f"page: {page.write(out, study, machine(), today, command)}")
    return OK


def named(texts: list[str], option: str) -> dict[str, str]:
    """NAME=SPEC; the name of what has none is the last part of its path. Raises `InputError` for a name that
    comes twice.
    """
    specs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or set(name) & set(":?/\\"):  # an "=" within the spec itself
            name, value = Path(text.partition("?")[0]).name, text
        if name in specs:
            raise InputError(f"{option} names {name!r} twice; give each a name of its own: {option} NAME=...")
        specs[name] = value
    return specs


def demo(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Your own images or folders, inspected by what was learned.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for all results; a demo begins anew.")] = Path(
        "runs/demo"
    ),
) -> int:
    """Teach nano a drawn part it has never seen, by GRPO with ROAM, and show before and after on a page; a
    few minutes on a CPU.
    """
    from anomalyr1.cli.inspect import inspect_samples
    from anomalyr1.inspection.inspector import Inspector
    from anomalyr1.inspection.samples import samples_of_images
    from anomalyr1.reproduction import demo as demonstration

    require_output("demo", out, images or ())
    paths = find_images(images or (), out)
    with stop_explained(lambda: "stopped; the same command begins anew"):
        result = demonstration.demo(out, say)
    inspections: list[Inspection] = []
    if paths:
        samples, _ = samples_of_images(paths)
        inspections = inspect_samples(
            Inspector.load(str(result.taught)), samples, out / "own", given_digest="", as_json=False
        )
    say(result.sentence)
    say(f"page: {result.page}")
    return SOME_FAILED if any(inspection.error is not None for inspection in inspections) else OK
