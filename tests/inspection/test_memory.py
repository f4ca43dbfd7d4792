"""Inspecting adds no memory: the short form of benchmarks/inspect_memory.py, with a tiny model."""

import os
import re
import subprocess
import sys

import pytest

from support import tiny
from support.places import ROOT


def growth(*more):
    """MB per 100 images."""
    size = {
        "--images": 180,
        "--parts": 10,
        "--warm": 60,
        "--every": 10,
        "--threads": 1,
        "--model": tiny.folder_of("qwen2_5_vl"),
    }
    options = [str(part) for pair in size.items() for part in pair]
    command = [sys.executable, ROOT / "benchmarks" / "inspect_memory.py", *options, "--fast", *more]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "MALLOC_ARENA_MAX": "1"}
    )
    found = re.search(r"^from 60 images on: (\S+) MB per 100 images", done.stdout, re.MULTILINE)
    assert found, done.stderr
    return float(found[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
@pytest.mark.timeout(600)  # two processes that load torch
def test_inspections_add_no_memory():
    """So short a run has single jumps of a few megabytes; images that stay are 0.2 MB each, and the control
    shows that they are seen.
    """
    assert growth() < growth("--leak") / 3
