"""The verb `anomalyr1 train`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import OK, USER_ERROR, say, stop_explained
from anomalyr1.errors import InputError


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A shipped recipe such as nano-grpo, or a YAML file (docs/guide/training.md)."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values to change, e.g. train.learning_rate=1e-6 model=FOLDER.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default: runs/NAME of the recipe.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in the folder from its newest complete checkpoint."
        ),
    ] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let the recipe's own rewards run: they are code, read them.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what the run takes (tokens, memory, time) and stop.")
    ] = False,
) -> int:
    """Fine-tune a policy, by SFT or by GRPO with ROAM; leaves a run folder that can be read and resumed."""
    from anomalyr1.training import run
    from anomalyr1.training.recipes import load_recipe

    chosen = load_recipe(recipe, overrides or [], allow_code=allow_code or plan)  # a plan runs none
    if plan:
        is_too_long = run.plan_run(chosen, say).too_long
        try:
            load_recipe(recipe, overrides or [], allow_code=allow_code)
        except InputError as error:  # its own rewards are not allowed yet
            say(f"note: the run will be refused: {error}")
        return USER_ERROR if is_too_long else OK
    folder = out or Path("runs") / Path(recipe).name.removesuffix(".yaml").removesuffix(".yml")
    require_output("train", folder, (recipe,))
    command = shlex.join(["anomalyr1", *sys.argv[1:]])
    with stop_explained(lambda: _where_stopped(folder, resume)):
        policy = run.train(chosen, folder, resume=resume, say=say, command=command)
    say(f"next: anomalyr1 inspect IMAGES --model {shlex.quote(str(policy))}")
    return OK


def _where_stopped(folder: Path, resume: bool) -> str:
    """After which step a run stopped, and what it goes on from."""
    from anomalyr1.training import checkpoints, run_folder

    if not (folder / run_folder.RECIPE).is_file():
        return "stopped before the first step; the same command begins again"
    steps = [line["step"] for line in run_folder.read_lines(folder / run_folder.METRICS)]
    complete = checkpoints.sealed(folder)
    way = f"goes on from {complete[-1].name}" if complete else "begins again: there is no checkpoint yet"
    command = f"the same command{'' if resume else ' with --resume'}"
    return f"stopped after step {steps[-1] if steps else 0}; {command} {way}"
