"""Whether inspecting many images adds memory: the resident memory of the real inspector after every 100 images.

    python benchmarks/inspect_memory.py [--images 1000] [--warm 200] [--model nano] [--threads 2] [--fast]

100 drawn parts are inspected again and again under new names, in one run into one inspections file, so that each hundred asks for the same
sizes. What grows after the warm-up is a leak, or the allocator's fragments: at the end malloc_trim gives back the latter. The results that
the run hands back are memory too; their share is shown. Exit code 1 where the slope is above 1 MB per 100 images.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anomalyr1 import Inspector
from anomalyr1.data import procedural
from anomalyr1.types import Inspection, Sample

SHEET = 100
MOST_MB = 1.0
"""Allowed growth per 100 images."""


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope(marks: list[tuple[int, float]]) -> float:
    """MB per 100 images, by least squares over (images, MB)."""
    done, held = np.array(marks).T
    return 100 * float(np.polyfit(done, held, 1)[0])


def drawn(count: int, folder: Path) -> list[Sample]:
    """`count` samples on 100 drawn parts, good and defective."""
    files = []
    for number in range(min(count, SHEET)):
        files.append(folder / f"{number:03}.png")
        Image.fromarray(procedural.draw(8_400_000_000 + number).image).save(files[-1])
    return [Sample(id=f"{number:05}", image=files[number % len(files)]) for number in range(count)]


def main() -> None:
    """Print a line for every 100 images, then the slope."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--warm", type=int, default=200, help="images before the slope is taken")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fast", action="store_true", help="scores alone: a twentieth of the time")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    inspector = Inspector.load(given.model, fast=given.fast)
    marks: list[tuple[int, float]] = []
    began = time.perf_counter()

    def mark(done: int, inspection: Inspection) -> None:
        if done % given.every == 0:
            gc.collect()
            marks.append((done, resident_mb()))
            print(f"{done:6} images {time.perf_counter() - began:7.1f} s {marks[-1][1]:9.1f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        samples = drawn(given.images, Path(folder))
        results = inspector.run(samples, Path(folder) / "inspections.jsonl", mark)
    written = sum(len(one.to_json()) for one in results)
    found = slope([one for one in marks if one[0] >= given.warm])
    ctypes.CDLL(None).malloc_trim(0)
    print(f"slope after {given.warm} images: {found:+.2f} MB per 100; malloc_trim gives back {marks[-1][1] - resident_mb():.1f} MB")
    print(f"results held: {len(results)}, {written / 2**20:.1f} MB as JSON; failed: {sum(one.error is not None for one in results)}")
    sys.exit(int(found > MOST_MB))


if __name__ == "__main__":
    main()
