"""Looks that no category has, so that a policy learns what a defect is rather than what twelve categories look like.

A defect is what its image has more than its twin. That difference can stand on any ground: on drawn textures,
in other colours, and as a *decoy* on both the inspected and the reference image, where it belongs to the
design and is no defect at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalyr1.nano.packing import Pixels
from anomalyr1.nano.pool import Example, Seen

Residual = NDArray[np.int16]
GROUND_SIDE = 320
"""Pixels of a ground's sides; pieces of it are taken."""
NEGATIVE_SHARE = 0.2


def grounds(count: int, seed: int = 0) -> list[Pixels]:
    """`count` drawn textures, (320, 320, 3): clouds, stripes, grids, discs and rings, and pieces with edges."""
    rng = np.random.default_rng([seed, 11])
    return [_ground(rng) for _ in range(count)]


def piece(ground: Pixels, size_wh: tuple[int, int], rng: Generator) -> Pixels:
    """A random part of a ground, magnified at random, of the size asked for."""
    w, h = size_wh
    zoom = float(rng.uniform(0.4, 1.0))
    pw, ph = (min(GROUND_SIDE, max(8, int(n * zoom))) for n in (w, h))
    x, y = int(rng.integers(GROUND_SIDE - pw + 1)), int(rng.integers(GROUND_SIDE - ph + 1))
    part: Pixels = cv2.resize(ground[y : y + ph, x : x + pw], (w, h), interpolation=cv2.INTER_LINEAR)
    return part


def squares(found: Sequence[Seen], ground: Sequence[Pixels], rng: Generator) -> list[Seen]:
    """Pairs of squares (defective, good; see `crops`) whose difference is moved to other grounds: textures, or other squares, or both."""
    tone = Tones(rng)
    moved: list[Seen] = []
    goods = [one.image for one in found[1::2]]
    for bad, good in zip(found[::2], found[1::2], strict=True):
        size = good.image.shape[1], good.image.shape[0]
        drawn = piece(ground[int(rng.integers(len(ground)))], size, rng)
        other = np.rot90(goods[int(rng.integers(len(goods)))], int(rng.integers(4)))
        share = float(rng.choice([0.0, 1.0, rng.uniform(0.2, 0.8)]))
        under = share * drawn + (1 - share) * other
        over = under + float(rng.uniform(0.8, 1.3)) * (bad.image.astype(np.float32) - good.image)
        moved += [replace(one, image=tone(_bytes(image))) for one, image in ((bad, over), (good, under))]
    return moved


def example(one: Example, ground: Sequence[Pixels], rng: Generator) -> Example:
    """Image and reference in the same other colours and mostly behind the same texture; words for the defect's colour are dropped."""
    tone = Tones(rng)
    texture = ground[int(rng.integers(len(ground)))]
    share = float(rng.uniform(0.15, 0.5)) if rng.random() < 0.6 else 0.0

    def look(image: Pixels) -> Pixels:
        drawn = piece(texture, (image.shape[1], image.shape[0]), rng)
        return tone(_bytes(image + share * (drawn.astype(np.float32) - 128)))

    other = None if one.reference is None else look(one.reference)
    return replace(one, image=look(one.image), reference=other, look="")


def with_decoy(one: Example, residual: Residual, rng: Generator) -> Example:
    """The same mark on image and reference, where it is no defect."""
    if one.reference is None:
        return one
    moved = shifted(residual, rng)
    return replace(
        one, image=_bytes(one.image + residual.astype(np.float32)), reference=_bytes(one.reference + moved)
    )


def retaken(image: Pixels, rng: Generator) -> Pixels:
    """The same part photographed again: a few pixels aside, a little brighter or darker, with other noise."""
    light = float(rng.uniform(0.92, 1.08))
    return _bytes(light * shifted(image, rng) + rng.normal(0, 2, image.shape).astype(np.float32))


def shifted(image: NDArray[np.int16] | Pixels, rng: Generator) -> NDArray[np.float32]:
    """The image moved by up to 6 pixels; what comes in at the border mirrors it."""
    dx, dy = (float(n) for n in rng.uniform(-6, 6, 2))
    step = np.array([[1, 0, dx], [0, 1, dy]], dtype=np.float32)
    size = image.shape[1], image.shape[0]
    moved: NDArray[np.float32] = cv2.warpAffine(
        image.astype(np.float32), step, size, borderMode=cv2.BORDER_REFLECT
    )
    return moved


class Tones:
    """A random change of colours, the same for every image: channels exchanged and mixed, another tone curve, sometimes the negative."""

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
        seen: Pixels = cv2.LUT(cv2.transform(np.ascontiguousarray(image), self._matrix), self._curve)
        return seen


def _bytes(image: NDArray[Any]) -> Pixels:
    whole: Pixels = np.clip(image, 0, 255).astype(np.uint8)
    return whole


def _ground(rng: Generator) -> Pixels:
    """One texture: a few layers in two or three colours."""
    base = _clouds(rng, float(rng.uniform(8, 120)))
    for layer in rng.permutation(4)[: int(rng.integers(1, 4))]:
        mark = (_stripes, _grid, _discs, _pieces)[int(layer)](rng)
        share = float(rng.uniform(0.2, 0.9))
        base = (1 - share) * base + share * mark
    low, high = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    image = low + base[..., None] * (high - low) + rng.normal(0, float(rng.uniform(0, 8)), (*base.shape, 1))
    return _bytes(cv2.GaussianBlur(image.astype(np.float32), (0, 0), float(rng.uniform(0.4, 1.2))))


def _clouds(rng: Generator, size: float) -> NDArray[np.float32]:
    """(320, 320) in 0..1, of structures of about `size` pixels and finer ones."""
    total = np.zeros((GROUND_SIDE, GROUND_SIDE), np.float32)
    for octave in range(3):
        n = max(2, int(GROUND_SIDE / size * 2**octave))
        stretch = 1 if octave else int(rng.choice([1, 1, 4]))
        small = rng.random((n, max(2, n // stretch))).astype(np.float32)
        total += 0.5**octave * cv2.resize(small, (GROUND_SIDE, GROUND_SIDE), interpolation=cv2.INTER_CUBIC)
    even: NDArray[np.float32] = np.clip((total - total.min()) / (np.ptp(total) + 1e-6), 0, 1).astype(
        np.float32
    )
    return even


def _coordinates(rng: Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two axes at a random angle, in pixels."""
    y, x = np.mgrid[:GROUND_SIDE, :GROUND_SIDE].astype(np.float32)
    angle = float(rng.uniform(0, np.pi))
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _wave(along: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    sharp = float(rng.uniform(1, 12))
    waves = np.sin(2 * np.pi * along / float(rng.uniform(6, 60)) + float(rng.uniform(0, 6)))
    wave: NDArray[np.float32] = (1 / (1 + np.exp(-sharp * (waves - float(rng.uniform(-0.7, 0.7)))))).astype(
        np.float32
    )
    return wave


def _stripes(rng: Generator) -> NDArray[np.float32]:
    return _wave(_coordinates(rng)[0], rng)


def _grid(rng: Generator) -> NDArray[np.float32]:
    u, v = _coordinates(rng)
    return np.maximum(_wave(u, rng), _wave(v, rng))


def _discs(rng: Generator) -> NDArray[np.float32]:
    """Discs and rings, alike, in rows or anywhere."""
    canvas = np.zeros((GROUND_SIDE, GROUND_SIDE), np.float32)
    radius, thick = int(rng.integers(4, 40)), int(rng.choice([-1, 2, 4, 8]))
    step = int(radius * rng.uniform(2.2, 4))
    loose = rng.random() < 0.5
    for y in range(0, GROUND_SIDE, step):
        for x in range(0, GROUND_SIDE, step):
            at = rng.integers(0, GROUND_SIDE, 2) if loose else (x, y)
            cv2.circle(
                canvas, (int(at[0]), int(at[1])), radius, float(rng.uniform(0.7, 1)), thick, cv2.LINE_AA
            )
    return canvas


def _pieces(rng: Generator) -> NDArray[np.float32]:
    """Rectangles and polygons of even tones."""
    canvas = np.zeros((GROUND_SIDE, GROUND_SIDE), np.float32)
    for _ in range(int(rng.integers(4, 24))):
        centre, size = rng.uniform(0, GROUND_SIDE, 2), rng.uniform(8, 140, 2)
        corners = cv2.boxPoints(
            (
                tuple(map(float, centre)),
                tuple(map(float, size)),
                float(rng.choice([0, 90, rng.uniform(0, 90)])),
            )
        )
        cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], float(rng.random()), cv2.LINE_AA)
    return canvas
