"""Looks that no category has, so that a policy learns what a defect is, not how twelve categories look.

A defect is what its image has more than the same part good. That difference can stand on any texture, in any
colours, and as a *decoy* on both the inspected and the reference image, where it belongs to the design and is
no defect at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalyr1.nano.helper_losses import Floats
from anomalyr1.nano.packing import Pixels
from anomalyr1.nano.pool import ImageExample, ImageWithTruth

TEXTURE_SIDE = 320
"""Pixels of a texture's sides; pieces of it are cut."""
NEGATIVE_SHARE = 0.2
"""Share of the changes of colour that give the negative."""


def draw_textures(count: int, seed: int = 0) -> list[Pixels]:
    """`count` textures, (320, 320, 3): clouds, stripes, grids, discs and rings, and pieces with edges."""
    rng = np.random.default_rng([seed, 11])
    return [_draw_texture(rng) for _ in range(count)]


def cut_piece(texture: Pixels, size_wh: tuple[int, int], rng: Generator) -> Pixels:
    """A random part of a texture, magnified at random, of size `size_wh`."""
    w, h = size_wh
    zoom = float(rng.uniform(0.4, 1.0))
    pw, ph = (min(TEXTURE_SIDE, max(8, int(n * zoom))) for n in (w, h))
    x, y = int(rng.integers(TEXTURE_SIDE - pw + 1)), int(rng.integers(TEXTURE_SIDE - ph + 1))
    piece: Pixels = cv2.resize(texture[y : y + ph, x : x + pw], (w, h), interpolation=cv2.INTER_LINEAR)
    return piece


def move_squares(
    squares: Sequence[ImageWithTruth], textures: Sequence[Pixels], rng: Generator
) -> list[ImageWithTruth]:
    """Pairs of squares (defective, good; see `square_lessons`) whose difference stands on another ground.

    That is a texture, another square, or a mixture of them.
    """
    tone = ToneChange(rng)
    moved: list[ImageWithTruth] = []
    good_images = [square.image for square in squares[1::2]]
    for bad, good in zip(squares[::2], squares[1::2], strict=True):
        size_wh = good.image.shape[1], good.image.shape[0]
        texture = cut_piece(textures[int(rng.integers(len(textures)))], size_wh, rng)
        surface = np.rot90(good_images[int(rng.integers(len(good_images)))], int(rng.integers(4)))
        share = float(rng.choice([0.0, 1.0, rng.uniform(0.2, 0.8)]))
        ground = share * texture + (1 - share) * surface
        residual = bad.image.astype(np.float32) - good.image
        marked = ground + float(rng.uniform(0.8, 1.3)) * residual
        moved.append(replace(bad, image=tone(_bytes(marked))))
        moved.append(replace(good, image=tone(_bytes(ground))))
    return moved


def restyle(example: ImageExample, textures: Sequence[Pixels], rng: Generator) -> ImageExample:
    """Image and reference in the same other colours, and mostly behind the same texture.

    Words for the defect's colour are dropped.
    """
    tone = ToneChange(rng)
    texture = textures[int(rng.integers(len(textures)))]
    share = float(rng.uniform(0.15, 0.5)) if rng.random() < 0.6 else 0.0

    def repaint(image: Pixels) -> Pixels:
        piece = cut_piece(texture, (image.shape[1], image.shape[0]), rng)
        return tone(_bytes(image + share * (piece.astype(np.float32) - 128)))

    reference = None if example.reference is None else repaint(example.reference)
    return replace(example, image=repaint(example.image), reference=reference, look="")


def add_decoy(example: ImageExample, residual: NDArray[np.int16], rng: Generator) -> ImageExample:
    """The same mark on image and reference, where it is no defect; nothing where there is no reference."""
    if example.reference is None:
        return example
    moved = _shift(residual, rng)
    image = _bytes(example.image + residual.astype(np.float32))
    return replace(example, image=image, reference=_bytes(example.reference + moved))


def photograph_again(image: Pixels, rng: Generator) -> Pixels:
    """The same part a few pixels aside, a little brighter or darker, with other noise."""
    light = float(rng.uniform(0.92, 1.08))
    return _bytes(light * _shift(image, rng) + rng.normal(0, 2, image.shape).astype(np.float32))


def _shift(image: NDArray[np.int16] | Pixels, rng: Generator) -> Floats:
    """The image moved by up to 6 pixels; what comes in at the border mirrors it."""
    dx, dy = (float(n) for n in rng.uniform(-6, 6, 2))
    step = np.array([[1, 0, dx], [0, 1, dy]], dtype=np.float32)
    size_wh = image.shape[1], image.shape[0]
    moved: Floats = cv2.warpAffine(image.astype(np.float32), step, size_wh, borderMode=cv2.BORDER_REFLECT)
    return moved


class ToneChange:
    """A random change of colours, the same for every image.

    Channels are exchanged and mixed, the tone curve is another, sometimes the negative is shown.
    """

    def __init__(self, rng: Generator) -> None:
        """Draw the change."""
        order = np.eye(3, dtype=np.float32)[rng.permutation(3)]
        mixed = rng.uniform(0, 1, (3, 3)).astype(np.float32)
        share = float(rng.choice([0.0, rng.uniform(0, 0.7)]))
        self._matrix = (1 - share) * order + share * mixed / mixed.sum(1, keepdims=True)
        curve = 255 * (np.arange(256) / 255) ** float(2 ** rng.uniform(-0.8, 0.8))
        curve = curve if rng.random() > NEGATIVE_SHARE else 255 - curve
        self._curve = np.clip(curve, 0, 255).astype(np.uint8)

    def __call__(self, image: Pixels) -> Pixels:
        """(H, W, 3) to the same."""
        changed: Pixels = cv2.LUT(cv2.transform(np.ascontiguousarray(image), self._matrix), self._curve)
        return changed


def _bytes(image: NDArray[Any]) -> Pixels:
    pixels: Pixels = np.clip(image, 0, 255).astype(np.uint8)
    return pixels


def _draw_texture(rng: Generator) -> Pixels:
    """One texture: a few layers in two or three colours."""
    base = _clouds(rng, float(rng.uniform(8, 120)))
    for layer in rng.permutation(4)[: int(rng.integers(1, 4))]:
        mark = (_stripes, _grid, _discs, _pieces)[int(layer)](rng)
        share = float(rng.uniform(0.2, 0.9))
        base = (1 - share) * base + share * mark
    low, high = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    image = low + base[..., None] * (high - low) + rng.normal(0, float(rng.uniform(0, 8)), (*base.shape, 1))
    return _bytes(cv2.GaussianBlur(image.astype(np.float32), (0, 0), float(rng.uniform(0.4, 1.2))))


def _clouds(rng: Generator, size: float) -> Floats:
    """(320, 320) in 0..1, of structures of about `size` pixels and finer ones."""
    total = np.zeros((TEXTURE_SIDE, TEXTURE_SIDE), np.float32)
    for octave in range(3):
        n = max(2, int(TEXTURE_SIDE / size * 2**octave))
        stretch = 1 if octave else int(rng.choice([1, 1, 4]))
        small = rng.random((n, max(2, n // stretch))).astype(np.float32)
        total += 0.5**octave * cv2.resize(small, (TEXTURE_SIDE, TEXTURE_SIDE), interpolation=cv2.INTER_CUBIC)
    stretched = (total - total.min()) / (np.ptp(total) + 1e-6)
    clouds: Floats = np.clip(stretched, 0, 1).astype(np.float32)
    return clouds


def _coordinates(rng: Generator) -> tuple[Floats, Floats]:
    """Two axes at a random angle, in pixels."""
    y, x = np.mgrid[:TEXTURE_SIDE, :TEXTURE_SIDE].astype(np.float32)
    angle = float(rng.uniform(0, np.pi))
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _wave(along: Floats, rng: Generator) -> Floats:
    sharp = float(rng.uniform(1, 12))
    waves = np.sin(2 * np.pi * along / float(rng.uniform(6, 60)) + float(rng.uniform(0, 6)))
    rise = -sharp * (waves - float(rng.uniform(-0.7, 0.7)))
    wave: Floats = (1 / (1 + np.exp(rise))).astype(np.float32)
    return wave


def _stripes(rng: Generator) -> Floats:
    return _wave(_coordinates(rng)[0], rng)


def _grid(rng: Generator) -> Floats:
    u, v = _coordinates(rng)
    return np.maximum(_wave(u, rng), _wave(v, rng))


def _discs(rng: Generator) -> Floats:
    """Discs and rings, alike, in rows or anywhere."""
    canvas = np.zeros((TEXTURE_SIDE, TEXTURE_SIDE), np.float32)
    radius, thick = int(rng.integers(4, 40)), int(rng.choice([-1, 2, 4, 8]))
    step = int(radius * rng.uniform(2.2, 4))
    loose = rng.random() < 0.5
    for y in range(0, TEXTURE_SIDE, step):
        for x in range(0, TEXTURE_SIDE, step):
            centre = rng.integers(0, TEXTURE_SIDE, 2).tolist() if loose else (x, y)
            cv2.circle(canvas, centre, radius, float(rng.uniform(0.7, 1)), thick, cv2.LINE_AA)
    return canvas


def _pieces(rng: Generator) -> Floats:
    """Rectangles and polygons of even tones."""
    canvas = np.zeros((TEXTURE_SIDE, TEXTURE_SIDE), np.float32)
    for _ in range(int(rng.integers(4, 24))):
        centre, size = rng.uniform(0, TEXTURE_SIDE, 2), rng.uniform(8, 140, 2)
        angle = float(rng.choice([0, 90, rng.uniform(0, 90)]))
        corners = cv2.boxPoints((tuple(map(float, centre)), tuple(map(float, size)), angle))
        cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], float(rng.random()), cv2.LINE_AA)
    return canvas
