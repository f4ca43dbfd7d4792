"""What to know of a model before it is used: the licence of its weights, and what its verdicts are worth."""

from __future__ import annotations

import re
from pathlib import Path

from anomalyr1.files import read_json
from anomalyr1.policy.folders import BUNDLED, FINAL, RUN_FILES
from anomalyr1.policy.taught import Taught, read_taught
from anomalyr1.types import InputError

LICENCES = (
    (re.compile(r"qwen2\.5-vl-3b"), "Qwen Research License: non-commercial research only"),
    (re.compile(r"qwen2\.5-vl-72b"), "Qwen License: commercial use is free below 100 million monthly users"),
    (re.compile(r"qwen2\.5-vl-(7b|32b)"), "Apache-2.0"),
    (re.compile(r"qwen3-vl-"), "Apache-2.0"),
)
"""The licence of a model's weights by a part of its name in lower case; fine-tuned models inherit it."""


def licence_of(name: str) -> str:
    """The licence of a model's weights, or the request to read it up; a taught policy has its base's."""
    base = base_of(name)
    if base in BUNDLED:
        return "the package's own licence (see LICENSE)"
    for pattern, licence in LICENCES:
        if pattern.search(base.lower()):
            return licence
    folder = _find_folder(name, [Path()])
    taught = _taught_in(folder) if folder else None
    if taught:
        return taught.licence
    return f"unknown: read the model card of {base!r}; a fine-tuned model inherits the licence of its base"


def limits_of(name: str, evidence_decides: bool = False) -> str:
    """What to know before a verdict of this model is believed; empty where nothing is known against it.

    `evidence_decides`: the verdicts of the run are those of good parts that were compared with.
    """
    start = base_of(name)
    if evidence_decides and start in BUNDLED:
        return (
            f"{start} knows drawn parts only, so no verdict rests on what {name} says alone: "
            "the good parts decide"
        )
    if name in BUNDLED:
        return (
            f"{name} knows drawn parts only: on a photograph of a real part its verdict means nothing; "
            "name a real model with --model"
        )
    if start in BUNDLED:
        return (
            f"{name} was {start}, which knows drawn parts only, before it was taught: on a photograph of a "
            "part it was not taught its verdict means nothing, and on one it was taught only as much as an "
            "evaluation on held-out images shows"
        )
    return ""


def base_of(name: str) -> str:
    """The model that a taught policy goes back to; the name itself where nothing is known of one.

    A policy's folder says it in `anomalyr1.json`, else the `run.json` beside `RUN/final` or
    `RUN/checkpoint-N` says what the run began with, which may be a run again. It names that as seen from
    where it was started: from here, or from a folder above the run.
    """
    starting_points, run_files, start = [Path()], set[Path](), name
    while start not in BUNDLED:
        folder = _find_folder(start, starting_points)
        if folder is None:
            return start
        if taught := _taught_in(folder):
            return taught.base
        run_file = folder.parent / RUN_FILES[0]
        try:
            model = read_json(run_file)["model"] if run_file not in run_files else None
        except (InputError, LookupError, TypeError):  # no run.json, or not one of ours
            return start
        if not isinstance(model, str):
            return name
        run_files.add(run_file)  # runs may name each other
        start, starting_points = model, [Path(), *run_file.parents]
    return start


def _find_folder(name: str, starting_points: list[Path]) -> Path | None:
    """The folder that a name means as seen from one of these places; of a run, that of its policy."""
    try:
        folders = ((point / Path(name).expanduser()).resolve() for point in starting_points)
        folder = next(filter(Path.is_dir, folders), None)
    except (OSError, ValueError, RuntimeError):  # a name that no file system takes
        return None
    return folder / FINAL if folder and (folder / FINAL / "config.json").is_file() else folder


def _taught_in(folder: Path) -> Taught | None:
    try:
        return read_taught(folder)
    except InputError:
        return None
