"""Drawn good parts, each with a grain of its own, and parts with a dark spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from anomalyr1.evidence.learning import Settings

SETTINGS = Settings(short_side=96, max_patches=500)
"""Quick to compute."""
SPOT_XYXY = (60, 40, 80, 56)


def part(number: int, spot: bool = False) -> Image.Image:
    """A grey part of 128 x 96 pixels; with a dark spot where it is bad."""
    rng = np.random.default_rng(number)
    pixels = 150 + rng.normal(0, 6, (96, 128, 3))
    pixels[20:70, 30:90] += 40
    if spot:
        x1, y1, x2, y2 = SPOT_XYXY
        pixels[y1:y2, x1:x2] = 20
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def save_parts(folder: Path, count: int, first: int = 0) -> list[Path]:
    """So many good parts as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        part(number).save(folder / f"{number:02}.png")
    return sorted(folder.glob("*.png"))
