"""What nano costs: drawings a second, loading, one inspection, peak memory, and what its layers gain.

    python benchmarks/nano_speed.py

Figures are medians in seconds on two threads; the model part is both questions of `inspect` about one 224 x
224 drawing. Gains are ratios of times with gradients in bfloat16, at sizes of its training.
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
from anomalyr1.drawn.draw import draw
from anomalyr1.nano import layers

IMAGES = 120


def median_seconds(work: Callable[[], object], times: int) -> float:
    """Of `times` runs."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def gains() -> dict[str, float]:
    """How many times the time of nano's own layers the built-in ones take; the two take turns."""
    functional, kind = torch.nn.functional, torch.bfloat16
    q, k, v = (torch.randn(10, 3, 450, 64, dtype=kind, requires_grad=True) for _ in range(3))
    mask = torch.zeros(10, 1, 450, 450, dtype=kind)
    x = torch.randn(10, 450, 192, dtype=kind, requires_grad=True)
    weight = torch.ones(192, dtype=kind, requires_grad=True)
    pairs = {
        "norm": (
            lambda: functional.rms_norm(x, (192,), weight, 1e-6),
            lambda: layers.rms_norm(x, weight, 1e-6),
        ),
        "attention": (
            lambda: functional.scaled_dot_product_attention(q, k, v, attn_mask=mask),
            lambda: layers.attention(q, k, v, mask)[0],
        ),
    }
    ratios = {}
    for name, pair in pairs.items():
        seconds = [
            [median_seconds(lambda layer=layer: layer().sum().backward(), 1) for layer in pair]
            for _ in range(31)
        ]
        theirs, ours = (statistics.median(column) for column in zip(*seconds, strict=True))
        ratios[name] = theirs / ours
    return ratios


def main() -> None:
    """Print a line a figure."""
    cv2.setNumThreads(1)
    begin = time.perf_counter()
    for seed in range(IMAGES):
        draw(seed)
    print(f"drawing: {IMAGES / (time.perf_counter() - begin):.0f} images a second, one core")
    torch.set_num_threads(2)
    begin = time.perf_counter()
    inspector = Inspector.load("nano")
    loading = time.perf_counter() - begin
    again = median_seconds(lambda: Inspector.load("nano"), 3)
    print(f"first load, imports included: {loading:.2f} s; again: {again:.2f} s")
    seed = next(seed for seed in range(1000) if draw(seed).image.shape == (224, 224, 3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.png"
        Image.fromarray(draw(seed).image).save(path)
        inspector(path)
        print(f"one image, verdict and boxes: {median_seconds(lambda: inspector(path), 15):.2f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    print(", ".join(f"{name}: {ratio:.1f} times the built-in one's speed" for name, ratio in gains().items()))


if __name__ == "__main__":
    main()
