"""`run.json`: what a run was made of, so that its figures can be trusted and the run resumed on the same ground."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from anomalyr1.data import splits as fewshot
from anomalyr1.data.sources import LICENCES
from anomalyr1.data.splits import Side
from anomalyr1.files import write_whole
from anomalyr1.policy.load import Policy, licence_of
from anomalyr1.prompts import style_id
from anomalyr1.training.dataset import Material, fingerprint, held_out_fingerprint, prompt_style
from anomalyr1.training.plan import Plan
from anomalyr1.training.recipes import Recipe, dump_recipe
from anomalyr1.training.run_folder import RECIPE, RUN
from anomalyr1.types import InputError, Sample
from anomalyr1.version import __version__

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "numpy", "Pillow")
GROUND = ("data fingerprint", "held-out fingerprint", "model revision", "prompt", "processes")
"""What must be the same when a run is resumed."""


def record_of(
    recipe: Recipe, material: Material, held_out: Sequence[Sample], policy: Policy, plan: Plan, command: str
) -> dict[str, Any]:
    """What is written about a run when it begins."""
    return {
        "started": _now(),
        "command": command,
        "seed": recipe.seed,
        "data fingerprint": fingerprint(material),
        "data": [{"spec": spec, "licence": _licence(spec)} for spec in recipe.data],
        "held out": [{"spec": spec, "licence": _licence(spec, "test")} for spec in recipe.held_out],
        "samples": len(material.samples),
        "prompts": len(material.tasks),
        "left out": material.counts,
        "held-out samples": len(held_out),
        "held-out fingerprint": held_out_fingerprint(held_out),
        "model": policy.name,
        "model revision": policy.revision,
        "model licence": licence_of(policy.name),
        "max_pixels": policy.max_pixels,
        "prompt": style_id(*prompt_style(recipe)),
        "parameters": plan.parameters,
        "trained parameters": plan.trained,
        "predicted bytes": {name: round(value) for name, value in plan.bytes.items()},
        "predicted hours": plan.hours,
        "steps": plan.steps,
        "device": plan.device,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "versions": {
            "anomalyr1": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "resumed": [],
    }


def write_record(out: Path, record: dict[str, Any], recipe: Recipe, checkpoint: Path | None) -> list[str]:
    """Write `run.json`, then the recipe, which makes the folder a run; a resumed one keeps its record and adds to it. Gives notes.

    Raises `InputError` when the ground of the run has changed.
    """
    notes: list[str] = []
    if (out / RECIPE).is_file():
        begun: dict[str, Any] = json.loads((out / RUN).read_text(encoding="utf-8"))
        if changed := [
            f"{name} was {begun[name]!r} and is now {record[name]!r}"
            for name in GROUND
            if begun.get(name, record[name]) != record[name]
        ]:
            raise InputError(
                f"{str(out)!r} was begun on other ground, so it cannot be resumed: {'; '.join(changed)}. Restore it, or begin anew"
            )
        if other := [
            f"{name} {begun['versions'][name]} -> {now}"
            for name, now in record["versions"].items()
            if begun["versions"][name] != now
        ]:
            notes.append(
                f"note: other versions than the run began with, so it may not end with the same bits: {', '.join(other)}"
            )
        again = {
            "at": record["started"],
            "from": checkpoint.name if checkpoint else "the beginning",
            "versions": record["versions"],
        }
        record = {**begun, "resumed": [*begun["resumed"], again]}
    if os.environ.get("RANK", "0") == "0":
        write_whole(out / RUN, json.dumps(record, indent=1).encode())
        write_whole(out / RECIPE, dump_recipe(recipe).encode())
    return notes


def _licence(spec: str, side: Side = "train") -> str:
    """That of the data of a spec; of a split, of what it was drawn from."""
    if spec.startswith("split:"):
        spec = fewshot.read(spec.partition(":")[2]).source(side)[0]
    return LICENCES.get(spec.partition(":")[0], "your own data, or not known: ask who owns it")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
