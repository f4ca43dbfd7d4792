"""How many CPU cores a verb computes on: those that are free when it begins."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

_SAMPLES, _PAUSE_SECONDS = 9, 0.01


def usable_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_cores() -> int:
    """How many of the usable cores no other process keeps busy at the moment; at least 1."""
    idle = (os.cpu_count() or 1) - _busy_processes()
    return max(1, min(usable_cores(), idle))


def take_free_cores() -> None:
    """Say to the libraries that compute, before they are loaded, how many threads to use and how to wait.

    What the environment says already stays. A thread that waits sleeps: where it spins instead on a core
    that somebody else needs, two threads take several times as long as a single thread.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(free_cores())


def _busy_processes() -> int:
    """How many other processes run or want to."""
    try:
        counts = []
        for _ in range(_SAMPLES):
            counts.append(_running())
            time.sleep(_PAUSE_SECONDS)
        return max(0, round(statistics.median(counts)) - 1)  # without this one
    except (OSError, StopIteration, ValueError):  # no Linux
        return round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0


def _running() -> int:
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("procs_running")).split()[1])
