"""Inspecting adds no memory: the short form of benchmarks/inspect_memory.py, with a tiny model."""

import re
import subprocess
import sys

import pytest

import tiny
from conftest import ROOT


def growth(*more):
    """MB per 100 images."""
    size = {"--images": 90, "--parts": 10, "--warm": 50, "--every": 10, "--threads": 1, "--model": tiny.folder_of("qwen2_5_vl")}
    options = [str(part) for pair in size.items() for part in pair]
    command = [sys.executable, ROOT / "benchmarks" / "inspect_memory.py", *options, "--fast", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^from 50 images on: (\S+) MB per 100 images", done.stdout, re.MULTILINE)
    assert found, done.stderr
    return float(found[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
@pytest.mark.timeout(600)  # two processes that load torch
def test_inspections_add_no_memory():
    """So short a run is still warming up by half a megabyte; an image that stays is 0.2 MB."""
    assert growth() < 4
    assert growth("--leak") > 8  # control: an engine that keeps its images
