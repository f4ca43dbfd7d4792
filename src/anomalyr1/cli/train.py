"""The verb `anomalyr1 train`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from anomalyr1.cli.terminal import OK, USER_ERROR, say


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
        return USER_ERROR if run.plan_run(chosen, say).too_long else OK
    folder = out or Path("runs") / Path(recipe).name.removesuffix(".yaml").removesuffix(".yml")
    command = shlex.join(["anomalyr1", *sys.argv[1:]])
    policy = run.train(chosen, folder, resume=resume, say=say, command=command)
    say(f"next: anomalyr1 inspect IMAGES --model {shlex.quote(str(policy))}")
    return OK
