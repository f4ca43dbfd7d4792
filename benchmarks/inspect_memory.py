"""Whether inspecting many images adds memory: the resident memory of the inspector after every 100 images.

    python benchmarks/inspect_memory.py [--images 1000] [--warm 200] [--model nano] [--threads 2] [--fast]
        [--hold] [--leak]

100 drawn parts are inspected again and again under new names, so that each hundred asks for the same sizes.
Before a mark malloc_trim gives back what is free but in pieces: what still grows is held by something. The
slope before trimming is shown too. The results are written down and dropped, as a service does; `--hold`
makes one run of it, which hands back all results (about 8 KB each). `--leak` keeps every image that the
engine was shown, to see that a leak is seen. Exit code 1 where the slope is above 1 MB per 100 images.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anomalyr1 import Inspector
from anomalyr1.drawn.draw import draw
from anomalyr1.engines.engine import Engine
from anomalyr1.types import Sample

MOST_MB = 1.0
"""Allowed growth per 100 images."""


def resident_mb() -> float:
    """Resident memory of this process that is its own.

    Pages of libraries come as they are used, and are no leak.
    """
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")
    )
    return int(line.split()[1]) / 1024


def slope(marks: list[tuple[int, float]]) -> float:
    """MB per 100 images, by least squares over (images, MB)."""
    done, held = np.array(marks).T
    return 100 * float(np.polyfit(done, held, 1)[0])


class Leaking:
    """An engine that keeps the images it is shown."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._kept, self.name = engine, list[object](), engine.name

    def __getattr__(self, name: str) -> Any:
        """All else is the engine's."""
        return getattr(self._engine, name)

    def complete(self, asked: Any, images: Any, sampling: Any) -> Any:
        """What the engine says."""
        self._kept.append(images)
        return self._engine.complete(asked, images, sampling)


def drawn(count: int, parts: int, folder: Path) -> list[Sample]:
    """`count` samples on so many drawn parts, good and defective."""
    files = []
    for number in range(parts):
        files.append(folder / f"{number:03}.png")
        Image.fromarray(draw(8_400_000_000 + number).image).save(files[-1])
    return [Sample(id=f"{number:05}", image=files[number % len(files)]) for number in range(count)]


def main() -> None:
    """Print a line for every 100 images, then the slope."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--warm", type=int, default=200, help="images before the slope is taken")
    parser.add_argument("--parts", type=int, default=100, help="different images among them")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fast", action="store_true", help="scores alone")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--leak", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    inspector = Inspector.load(given.model, fast=given.fast)
    if given.leak:
        inspector.engine = Leaking(inspector.engine)
    marks: list[tuple[int, float, float]] = []
    began = time.perf_counter()

    def mark(done: int) -> None:
        if done % given.every == 0:
            gc.collect()
            before = resident_mb()
            ctypes.CDLL(None).malloc_trim(0)
            marks.append((done, before, resident_mb()))
            seconds, after = time.perf_counter() - began, marks[-1][2]
            print(f"{done:6} images {seconds:7.1f} s {before:9.1f} MB, trimmed {after:9.1f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        samples = drawn(given.images, given.parts, Path(folder))
        if given.hold:
            inspector.run(samples, Path(folder) / "inspections.jsonl", lambda done, inspection: mark(done))
        for start in range(0, 0 if given.hold else len(samples), inspector.batch):
            with (Path(folder) / "inspections.jsonl").open("a") as file:
                file.writelines(
                    f"{one.to_json()}\n"
                    for one in inspector.inspect(samples[start : start + inspector.batch])
                )
            mark(min(start + inspector.batch, len(samples)))
    kept = [one for one in marks if one[0] >= given.warm]
    plain, trimmed = (slope([(one[0], one[i]) for one in kept]) for i in (1, 2))
    print(f"from {given.warm} images on: {trimmed:+.2f} MB per 100 images (before trimming {plain:+.2f})")
    sys.exit(int(trimmed > MOST_MB))


if __name__ == "__main__":
    main()
