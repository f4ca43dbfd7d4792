"""Pictures that are drawn, and their files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter


def picture(seed, size=160):
    """A smooth random picture: two seeds have nothing in common."""
    noise = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    return Image.fromarray(noise).resize((size, size)).filter(ImageFilter.GaussianBlur(4))


def drawn(size_wh=(96, 64)) -> Image.Image:
    """A smooth picture with grain, so that every format has something to compress."""
    w, h = size_wh
    y, x = np.mgrid[0:h, 0:w]
    grain = np.random.default_rng(7).integers(0, 24, (h, w))
    return Image.fromarray(
        np.stack([x * 230 // w, y * 230 // h, (x + y) * 115 // (w + h)], 2).astype(np.uint8)
        + grain[..., None].astype(np.uint8)
    )


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def saved(folder: Path, data: bytes, name="image.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path
