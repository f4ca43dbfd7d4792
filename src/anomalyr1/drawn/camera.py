"""How a scene becomes a picture: a lamp and the sky light it, a camera photographs it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalyr1.drawn.scene import Colour, Floats, Scene


@dataclass(frozen=True)
class Light:
    """One lamp, one sky, and where they stand."""

    direction: tuple[float, float, float]
    ambient: float
    exposure: float
    tint: Colour
    slope_xy: tuple[float, float]
    """Falloff of the light over the image, per unit."""


def lamp(rng: Generator) -> Light:
    """A random light."""
    way, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.85)
    warm = rng.uniform(-0.04, 0.04)
    fall, turn = rng.uniform(0, 0.28), rng.uniform(0, 2 * np.pi)
    ambient, exposure = float(rng.uniform(0.3, 0.5)), float(rng.uniform(0.86, 1.12))
    direction = float(np.sin(tilt) * np.cos(way)), float(np.sin(tilt) * np.sin(way)), float(np.cos(tilt))
    slope_xy = float(fall * np.cos(turn)), float(fall * np.sin(turn))
    return Light(direction, ambient, exposure, (float(1 + warm), 1.0, float(1 - warm)), slope_xy)


def shade(scene: Scene, light: Light) -> Floats:
    """The lit scene, (H, W, 3) in 0..255 and not yet clipped.

    Lambert plus Blinn-Phong, a sky for glossy slopes, a soft shadow.
    """
    h, w = scene.height.shape
    lx, ly, lz = light.direction
    # 1. Slopes of the surface, and the length of its normal, all (H, W).
    gx = cv2.Sobel(scene.height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    gy = cv2.Sobel(scene.height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    inverse = 1 / np.sqrt(1 + gx * gx + gy * gy)
    # 2. Diffuse light, and highlights where the normal halves the way between lamp and camera.
    facing = np.maximum((lz - gx * lx - gy * ly) * inverse, 0) * np.float32((1 - light.ambient) / lz)
    halfway = np.array([lx, ly, lz + 1]) / np.sqrt(lx * lx + ly * ly + (lz + 1) ** 2)
    hx, hy, hz = (np.float32(v) for v in halfway)
    spark = np.maximum((hz - gx * hx - gy * hy) * inverse, 0)
    for _ in range(5):
        spark *= spark
    # 3. The sky in glossy slopes, the falloff over the image, the shadow on the backdrop.
    sky = 1 + 0.45 * scene.gloss * np.sin(np.float32(2.6) * (gx * ly - gy * lx + 0.7 * gy) * inverse)
    x = np.linspace(-0.5, 0.5, w, dtype=np.float32)[None, :]
    y = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None]
    falloff = 1 + light.slope_xy[0] * x + light.slope_xy[1] * y
    exposed = (light.ambient + facing) * sky * falloff * np.float32(light.exposure)
    bright = exposed * _shadow(scene.alpha, light)
    # 4. All together, in the lamp's tint.
    lit = scene.albedo * bright[..., None] + (0.85 * scene.gloss * spark * light.exposure)[..., None]
    tinted: Floats = lit * (np.array(light.tint, dtype=np.float32) * 255)
    return tinted


def _shadow(alpha: Floats, light: Light) -> Floats:
    """(H, W) factor below 1 where the part keeps light from the backdrop."""
    if float(alpha.min()) > 0.99:
        return np.ones_like(alpha)
    h, w = alpha.shape
    length = min(h, w) * 0.035
    move = np.array(
        [[1, 0, -light.direction[0] * length], [0, 1, -light.direction[1] * length]], dtype=np.float32
    )
    thrown = cv2.warpAffine(alpha, move, (w, h), borderMode=cv2.BORDER_REPLICATE)
    thrown = cv2.GaussianBlur(thrown, (0, 0), length * 0.45)
    return np.asarray(1 - 0.5 * thrown * (1 - alpha), dtype=np.float32)


def photograph(lit: Floats, rng: Generator) -> NDArray[np.uint8]:
    """What the camera stores, (H, W, 3) uint8: focus, sensor noise, and JPEG in two of three pictures."""
    h, w = lit.shape[:2]
    focus, grain, colour_grain = rng.uniform(0, 0.85), rng.uniform(0.8, 4.0), rng.uniform(0.3, 1.5)
    quality, compressed = int(rng.integers(70, 97)), rng.random() < 0.67
    if focus > 0.35:
        lit = cv2.GaussianBlur(lit, (0, 0), focus)
    noise = rng.standard_normal((h, w, 1), dtype=np.float32) * np.float32(grain)
    noise = noise + rng.standard_normal((h, w, 3), dtype=np.float32) * np.float32(colour_grain)
    image = np.clip(lit + noise, 0, 255).astype(np.uint8)
    if compressed:
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
        image = np.ascontiguousarray(decoded[..., ::-1])
    return image
