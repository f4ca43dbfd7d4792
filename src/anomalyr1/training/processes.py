"""The processes of a run, as their launcher (`accelerate launch`) describes them in the environment; one
without it.
"""

from __future__ import annotations

import os


def world_size() -> int:
    """How many processes make the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that writes files and speaks."""
    return os.environ.get("RANK", "0") == "0"


def weights_are_sharded() -> bool:
    """Whether accelerate divides the weights among the processes (ZeRO-3, FSDP)."""
    return any(
        os.environ.get(name, "").lower() == "true"
        for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
    )


def wait_for_all() -> None:
    """Return when every process of the run has come here."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
