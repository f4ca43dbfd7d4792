"""Small drawn parts as image files: good ones, and one with a dark spot."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw_part(seed: int, defect: bool = False, side: int = 96) -> Image.Image:
    """A brushed plate with two holes, a little different each time."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 6.28, side)
    grey = 150 + 20 * np.sin(5 * x + rng.uniform(0, 0.3))[None, :] + rng.normal(0, 4, (side, side))
    for column in (side // 4, 3 * side // 4):
        grey[side // 2 - 6 : side // 2 + 6, column - 6 : column + 6] = 40
    if defect:
        grey[side // 6 : side // 3, side // 3 : side // 2] = 230
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")


def write_parts(folder: Path, count: int, begin: int = 0) -> list[Path]:
    """So many good parts as files, the numbers of which start at `begin`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"good-{number:02}.png" for number in range(begin, begin + count)]
    for number, path in enumerate(paths, start=begin):
        draw_part(number).save(path)
    return paths
