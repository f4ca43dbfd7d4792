"""Pictures that have nothing in common."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def picture(seed, size=160):
    """A smooth random picture: two seeds have nothing in common."""
    noise = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    return Image.fromarray(noise).resize((size, size)).filter(ImageFilter.GaussianBlur(4))
