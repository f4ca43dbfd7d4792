"""The verb `anomalyr1 reproduce`."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from anomalyr1.terminal import OK, say
from anomalyr1.types import InputError

LIMIT = 200


def reproduce(
    experiment: Annotated[Literal["roam"], typer.Argument(help="roam: does ROAM help, against the answer reward alone and SFT?")],
    scale: Annotated[
        Literal["nano", "3b"], typer.Option(help="nano: drawn parts, a CPU, hours. 3b: Qwen2.5-VL-3B, your data, GPUs.")
    ] = "nano",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every arm.")] = 3,
    full: Annotated[
        bool, typer.Option("--full", help="The ablations, too: shots, values of ROAM, letters, groups, KL, resampling.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the experiment; the same command goes on where it stopped.")] = Path("runs/roam"),
    arm: Annotated[list[str] | None, typer.Option(help="An arm to run; may be given more than once; default: all.")] = None,
    start: Annotated[list[str] | None, typer.Option(help="NAME=MODEL to start from, or nano-raw; may be given more than once.")] = None,
    data: Annotated[
        str | None, typer.Option(help="What is learned from, such as split:FILE; scale 3b needs it. {shots} in it is filled in.")
    ] = None,
    test: Annotated[list[str] | None, typer.Option(help="NAME=SPEC of one more test set; may be given more than once.")] = None,
    limit: Annotated[int, typer.Option(min=2, help="Most images of a test set.")] = LIMIT,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side; default: a core each on a CPU, else 1.")] = None,
    launch: Annotated[str, typer.Option(help="Command to train with, such as 'accelerate launch --config_file FILE'.")] = "",
) -> int:
    """Run the paper's experiment: the same start and few images, trained in every way, asked about images it never saw."""
    import torch

    from anomalyr1.doctor import cores, machine
    from anomalyr1.reproduction import arms, page
    from anomalyr1.reproduction.study import Runner, Study

    size = arms.SCALES[scale]
    starts = size.starts if not start else dict(_named(one) for one in start)
    few = data or size.few
    if not few:
        raise InputError("scale 3b learns from your data: give --data split:FILE (anomalyr1 data split mmad:PATH --shots 3 --out FILE)")
    chosen = arms.chosen(arm or [], full)
    settled = size.model_copy(update={"starts": starts, "few": few})
    tests = {**(size.tests or {"held out": settled.learned(3)}), **dict(_named(one) for one in test or ())}
    settled = settled.model_copy(update={"tests": tests})
    if other := [one.name for one in chosen if settled.learned(one.shots) == settled.learned(3) and one.shots != 3]:
        raise InputError(
            f"{', '.join(other)} learn from another number of images a class, but --data {few!r} says not where that stands: write "
            "{shots} into it, such as 'split:mmad-{shots}-shot.json', or name the arms to run with --arm"
        )
    study = Study(scale=settled, arms=tuple(one.name for one in chosen), seeds=seeds, limit=limit)
    try:
        Runner(out, study, say, launch).run(jobs or (1 if torch.cuda.is_available() else cores()))
    finally:
        if any(out.glob("*/*/*/judged.jsonl")):
            command = shlex.join(["anomalyr1", *sys.argv[1:]])
            say(f"page: {page.write(out, study, machine(), datetime.datetime.now(tz=datetime.UTC).date().isoformat(), command)}")
    return OK


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return (name, value) if equals else (Path(text).name, text)
