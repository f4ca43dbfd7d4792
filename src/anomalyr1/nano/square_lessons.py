"""Lessons for the vision tower alone: single squares of images, with a defect and, from the same place of the same part, without.

No layer of the tower looks beyond its square (`Shape.window`), so a square alone is seen as it is within its
image. Most of an image is good surface; lessons of squares around defects hold far more to learn per second,
and each has its twin that differs by the defect only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalyr1.nano.helper_losses import Truth
from anomalyr1.nano.packing import CELL, Pixels
from anomalyr1.nano.pool import Pool, Seen

ANYWHERE = 0.15
"""Share of squares taken without regard to the defect."""
VISIBLE = 0.02
"""Share of some 14-pixel square that a defect must cover to count as visible in a square."""


def crops(pool: Pool, count: int, side: int, rng: Generator) -> list[Seen]:
    """`count` pairs of squares of `side` cells on the grid of the tower's windows: defective (mostly) and good, flipped at random.

    Kinds that a square cannot show (a wrong count) are left out.
    """
    found: list[Seen] = []
    turned = bool(rng.random() < 0.5)
    for bad, good in pool.pairs(count, rng):
        top, left = _place(bad.truth.cover, side, rng)
        flips = int(rng.integers(4))
        found += [_flipped(_cut(one.image, one.truth, top, left, side), flips, turned) for one in (bad, good)]
    return found


def _place(cover: NDArray[np.float32], side: int, rng: Generator) -> tuple[int, int]:
    """The first row and column of a square, in cells, mostly one with the defect."""
    h, w = cover.shape[0] // 2, cover.shape[1] // 2
    tops, lefts = range(0, h - side + 1, side), range(0, w - side + 1, side)
    share = (
        np.array(
            [[cover[2 * t : 2 * (t + side), 2 * c : 2 * (c + side)].sum() for c in lefts] for t in tops]
        ).ravel()
        ** 0.5
    )
    if rng.random() < ANYWHERE or share.sum() == 0:
        share = np.ones(len(share))
    row, column = divmod(int(rng.choice(len(share), p=share / share.sum())), len(lefts))
    return tops[row], lefts[column]


def _cut(image: Pixels, truth: Truth, top: int, left: int, side: int) -> Seen:
    cover = truth.cover[2 * top : 2 * (top + side), 2 * left : 2 * (left + side)]
    size = side * CELL
    boxes = truth.boxes_xyxy - CELL * np.array([left, top, left, top], dtype=np.float32)
    inside = (boxes[:, :2] < size).all(1) & (boxes[:, 2:] > 0).all(1)
    visible = bool(cover.max() > VISIBLE)
    cut = image[top * CELL : top * CELL + size, left * CELL : left * CELL + size]
    if visible:
        return Seen(cut, replace(truth, cover=cover, boxes_xyxy=boxes[inside]))
    return Seen(cut, replace(truth, kind=0, cover=0 * cover, boxes_xyxy=boxes[:0], look=""))


def _flipped(one: Seen, flips: int, turned: bool) -> Seen:
    """Mirrored left to right (flips & 1), upside down (flips & 2), and at its diagonal."""
    image, cover, boxes, size = one.image, one.truth.cover, one.truth.boxes_xyxy.copy(), one.image.shape[0]
    if flips & 1:
        image, cover = image[:, ::-1], cover[:, ::-1]
        boxes[:, [0, 2]] = size - boxes[:, [2, 0]]
    if flips & 2:
        image, cover = image[::-1], cover[::-1]
        boxes[:, [1, 3]] = size - boxes[:, [3, 1]]
    if turned:
        image, cover, boxes = image.transpose(1, 0, 2), cover.T, boxes[:, [1, 0, 3, 2]]
    return Seen(
        np.ascontiguousarray(image), replace(one.truth, cover=np.ascontiguousarray(cover), boxes_xyxy=boxes)
    )
