"""What travels with a trained policy, beside its weights and its processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from anomalyr1.files import read_json
from anomalyr1.images.frames import Family
from anomalyr1.policy.licences import base_of, licence_of
from anomalyr1.policy.load import Policy
from anomalyr1.policy.taught import Taught, write_taught
from anomalyr1.training.resolved import Resolved
from anomalyr1.training.run_folder import RUN
from anomalyr1.types import InputError, first_error
from anomalyr1.version import __version__

KEY = "taught"
"""Where `run.json` keeps what a policy is taught with."""


def taught_by(policy: Policy, resolved: Resolved) -> Taught:
    """What a run teaches `policy` with."""
    return Taught(
        anomalyr1=__version__,
        style=resolved.prompt_style.style,
        text=resolved.prompt_style.text,
        max_pixels=policy.max_pixels,
        base=base_of(policy.name),
        licence=licence_of(policy.name),
        evidence=resolved.recipe.evidence,
    )


def taught_in(run: Path) -> Taught | None:
    """What a run taught its policy with, as its `run.json` says; None for a folder that is no run.

    Raises `InputError` for a `run.json` that cannot be read.
    """
    if not (run / RUN).is_file():
        return None
    record: Any = read_json(run / RUN)
    if not isinstance(record, dict) or KEY not in record:  # runs of version 0.10 do not say it
        return None
    try:
        return Taught.model_validate(record[KEY])
    except ValidationError as error:
        raise InputError(f"{str(run / RUN)!r}: {KEY}: {first_error(error)}; restore the file") from error


def hand_over(folder: Path, taught: Taught, family: Family) -> None:
    """Write what travels with a policy into its new folder, beside weights and processor."""
    write_taught(folder, taught, family)
