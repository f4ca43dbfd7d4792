"""What to know of a model before it is used: the licence of its weights, and what its verdicts are worth."""

from __future__ import annotations

import json
import re
from pathlib import Path

from anomalyr1.policy.folders import BUNDLED

LICENCES = (
    (re.compile(r"qwen2\.5-vl-3b"), "Qwen Research License: non-commercial research only"),
    (re.compile(r"qwen2\.5-vl-72b"), "Qwen License: commercial use is free below 100 million monthly users"),
    (re.compile(r"qwen2\.5-vl-(7b|32b)"), "Apache-2.0"),
    (re.compile(r"qwen3-vl-"), "Apache-2.0"),
)
"""The licence of a model's weights by a part of its name in lower case; fine-tuned models inherit it."""


def licence_of(name: str) -> str:
    """The licence of a model's weights by its name, or the request to read it up."""
    if name in BUNDLED:
        return "the package's own licence (see LICENSE)"
    for pattern, licence in LICENCES:
        if pattern.search(name.lower()):
            return licence
    return f"unknown: read the model card of {name!r}; a fine-tuned model inherits the licence of its base"


def limits_of(name: str) -> str:
    """What to know before a verdict of this model is believed; empty where nothing is known against it."""
    if name in BUNDLED:
        return (
            f"{name} knows drawn parts only: on a photograph of a real part its verdict means nothing; "
            "name a real model with --model"
        )
    if start := _bundled_start(name):
        return (
            f"{name} was {start}, which knows drawn parts only, before it was taught: on a photograph of a "
            "part it was not taught its verdict means nothing, and on one it was taught only as much as an "
            "evaluation on held-out images shows"
        )
    return ""


def _bundled_start(name: str) -> str:
    """The bundled policy that a run (`RUN/final`, `RUN/checkpoint-N`) goes back to; empty = none is known.

    A run says in `run.json` what it began with, which may be a run again. It names that as seen from where it
    was started: from here, or from a folder above the run.
    """
    starting_points, run_files = [Path()], set()
    try:
        while name not in BUNDLED:
            folders = ((point / Path(name).expanduser()).resolve() for point in starting_points)
            folder = next(filter(Path.is_dir, folders), None)
            if folder is None:
                return ""
            run_file = folder.parent / "run.json"
            if run_file in run_files:  # runs that name each other
                return ""
            run_files.add(run_file)
            name = str(json.loads(run_file.read_bytes())["model"])
            starting_points = [Path(), *run_file.parents]
    except (OSError, ValueError, LookupError, TypeError, RuntimeError):  # no run.json, or not one of ours
        return ""
    return name
