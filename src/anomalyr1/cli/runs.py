"""The verbs about training runs: `anomalyr1 explain`, `diagnose` and `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import OK, SOME_FAILED, say

Run = Annotated[Path, typer.Argument(help="The folder of a training run.")]


def explain(
    run: Run,
    step: Annotated[int | None, typer.Option(min=1, help="Step of the group; default: the last one.")] = None,
    group: Annotated[int, typer.Option(min=1, help="Which group of that step.")] = 1,
) -> int:
    """Show one group: what the parser saw, which row of ROAM that is, each reward, and the advantages."""
    from anomalyr1.training.explain import explain_group

    for line in explain_group(run, step, group):
        say(line)
    return OK


def diagnose(run: Run) -> int:
    """Say what is wrong with a run and what to do; exit code 2 where something is."""
    from anomalyr1.training import diagnosis, run_folder

    faults = diagnosis.diagnose(run)
    steps = len(run_folder.read_lines(run / run_folder.METRICS))
    for sentence in faults or [f"nothing wrong was found in {steps} logged steps"]:
        say(sentence[:1].upper() + sentence[1:] + ".")
    return SOME_FAILED if faults else OK


def merge(
    source: Annotated[
        Path,
        typer.Argument(help="A run with an adapter, one of its checkpoints, or the folder of an adapter."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the merged model; it must not exist.")],
    model: Annotated[
        str | None,
        typer.Option(help="The model that the adapter was trained on; default: what the run says."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Its commit on the hub.")] = None,
) -> int:
    """Write a model with an adapter merged into its weights, as every tool for transformers' models loads
    it.
    """
    from anomalyr1.training.merge import merge_adapter

    require_output("merge", out, (source, model))
    say(f"merged: {merge_adapter(source, out, model, revision, say)}")
    return OK


VERBS = (explain, diagnose, merge)
