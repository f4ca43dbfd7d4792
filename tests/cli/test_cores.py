"""Verbs compute on the cores that are free."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from anomalyr1.cli import cores


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """As many processes that never rest as there are cores."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, whose /proc/stat is read")
def test_beside_busy_processes_a_single_core_is_taken(busy_machine: None) -> None:
    assert cores.free_cores() == 1


def test_free_cores_are_those_that_nobody_keeps_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    for busy, free in ((0, 4), (3, 4), (6, 2), (8, 1), (40, 1)):
        monkeypatch.setattr(cores, "_busy_processes", lambda busy=busy: busy)
        assert cores.free_cores() == free


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    cores.take_free_cores()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("3", "PASSIVE")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(cores, "free_cores", lambda: 2)
    cores.take_free_cores()
    assert os.environ["OMP_NUM_THREADS"] == "2"
