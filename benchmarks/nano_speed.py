"""What nano costs: drawings a second, loading, one image inspected, peak memory.

    python benchmarks/nano_speed.py

Figures are medians in seconds on two threads; the model part is both questions of `inspect` about one 224 x 224 drawing.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from PIL import Image

from anomalyr1 import Inspector
from anomalyr1.data import procedural

IMAGES = 120


def median_seconds(work: Callable[[], object], times: int) -> float:
    """Of `times` runs."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def main() -> None:
    """Print a line a figure."""
    cv2.setNumThreads(1)
    begin = time.perf_counter()
    for seed in range(IMAGES):
        procedural.draw(seed)
    print(f"drawing: {IMAGES / (time.perf_counter() - begin):.0f} images a second, one core")
    torch.set_num_threads(2)
    begin = time.perf_counter()
    inspector = Inspector.load("nano")
    first = time.perf_counter() - begin
    again = median_seconds(lambda: Inspector.load("nano"), 3)
    print(f"first load, imports included: {first:.2f} s; again: {again:.2f} s")
    seed = next(seed for seed in range(1000) if procedural.draw(seed).image.shape == (224, 224, 3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.png"
        Image.fromarray(procedural.draw(seed).image).save(path)
        inspector(path)
        print(f"one image, verdict and boxes: {median_seconds(lambda: inspector(path), 15):.2f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
