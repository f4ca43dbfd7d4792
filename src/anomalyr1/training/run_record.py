"""`run.json`: what a run was made of, so that it can be trusted, and resumed on the same ground."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from anomalyr1.data import splits
from anomalyr1.data.leaks import LEARNED, Trace
from anomalyr1.data.sources import LICENCES
from anomalyr1.data.splits import Side
from anomalyr1.files import read_json, write_whole
from anomalyr1.policy.licences import licence_of
from anomalyr1.policy.load import Policy
from anomalyr1.prompts import style_id
from anomalyr1.training.dataset import TrainingSet, fingerprint, held_out_fingerprint
from anomalyr1.training.handover import KEY, taught_by
from anomalyr1.training.plan import Plan
from anomalyr1.training.processes import is_main_process
from anomalyr1.training.recipes import Recipe, dump_recipe
from anomalyr1.training.resolved import Resolved
from anomalyr1.training.run_folder import RECIPE, RUN
from anomalyr1.types import InputError, Sample
from anomalyr1.version import __version__

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy", "Pillow")
"""The packages whose versions are written down."""
GROUND = ("data fingerprint", "held-out fingerprint", "model revision", "prompt", "processes")
"""What must be the same when a run is resumed."""


def record_of(
    resolved: Resolved,
    training_set: TrainingSet,
    held_out: Sequence[Sample],
    policy: Policy,
    plan: Plan,
    command: str,
) -> dict[str, Any]:
    """What is written about a run when it begins."""
    recipe = resolved.recipe
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "seed": recipe.seed,
        "data fingerprint": fingerprint(training_set),
        "data": [{"spec": spec, "licence": _licence(spec)} for spec in recipe.data],
        "held out": [{"spec": spec, "licence": _licence(spec, "test")} for spec in recipe.held_out],
        "samples": len(training_set.samples),
        "prompts": len(training_set.tasks),
        "left out": training_set.counts,
        "held-out samples": len(held_out),
        "held-out fingerprint": held_out_fingerprint(held_out),
        "model": policy.name,
        "model revision": policy.revision,
        "model licence": licence_of(policy.name),
        "max_pixels": policy.max_pixels,
        "prompt": style_id(*resolved.prompt_style, recipe.evidence),
        KEY: taught_by(policy, resolved).model_dump(),
        "parameters": plan.parameters,
        "trained parameters": plan.trained,
        "predicted bytes": {name: round(size) for name, size in plan.bytes.items()},
        "predicted hours": plan.hours,
        "steps": plan.steps,
        "device": plan.device,
        "processes": plan.processes,
        "versions": {
            "anomalyr1": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "resumed": [],
    }


def write_record(
    out: Path,
    record: dict[str, Any],
    traces: Sequence[Trace],
    recipe: Recipe,
    checkpoint: Path | None,
) -> list[str]:
    """Write `run.json`, the traces of what is learned from, then the recipe, which makes the folder a run.

    A resumed run keeps its record and adds to it. Gives notes. Raises `InputError` when the ground of the run
    has changed.
    """
    notes: list[str] = []
    if (out / RECIPE).is_file():
        original: dict[str, Any] = read_json(out / RUN)
        _require_same_ground(out, original, record)
        notes += _version_notes(original["versions"], record["versions"])
        resumption = {
            "at": record["started"],
            "from": checkpoint.name if checkpoint else "the beginning",
            "versions": record["versions"],
        }
        record = {**original, "resumed": [*original["resumed"], resumption]}
    if is_main_process():
        write_whole(out / RUN, json.dumps(record, indent=1).encode())
        write_whole(out / LEARNED, "".join(f"{trace.to_json()}\n" for trace in traces).encode("ascii"))
        write_whole(out / RECIPE, dump_recipe(recipe).encode())
    return notes


def _require_same_ground(out: Path, original: dict[str, Any], record: dict[str, Any]) -> None:
    """Raise `InputError` that names what of `GROUND` has changed since the run began."""
    changes = [
        f"{name} was {original[name]!r} and is now {record[name]!r}"
        for name in GROUND
        if original.get(name, record[name]) != record[name]
    ]
    if changes:
        raise InputError(
            f"{str(out)!r} was begun on other ground, so it cannot be resumed: {'; '.join(changes)}. Restore "
            "it, or begin anew"
        )


def _version_notes(original: dict[str, str], current: dict[str, str]) -> list[str]:
    """A note that names the versions that have changed since the run began; none where none has."""
    pairs = [(name, original[name], version) for name, version in current.items()]
    changes = ", ".join(f"{name} {before} -> {now}" for name, before, now in pairs if before != now)
    note = f"note: other versions than the run began with, so it may not end with the same bits: {changes}"
    return [note] if changes else []


def _licence(spec: str, side: Side = "train") -> str:
    """The licence of the data of a spec; of a split, that of what it was drawn from."""
    if spec.startswith("split:"):
        spec = splits.read(spec.partition(":")[2]).source(side)[0]
    return LICENCES.get(spec.partition(":")[0], "your own data, or not known: ask who owns it")
