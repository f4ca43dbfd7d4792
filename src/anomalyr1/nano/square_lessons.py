"""Lessons for the vision tower alone: squares of images with a defect, and of the same place without.

No layer of the tower looks beyond its square (`NanoShape.window`), so it sees a square alone as within its
image. Most of an image is good surface; lessons of squares around defects hold far more to learn per second,
and each has its twin, a square of the same part good, that differs by the defect only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from anomalyr1.nano.helper_losses import Floats
from anomalyr1.nano.packing import CELL
from anomalyr1.nano.pool import ImageWithTruth, Pool

ANYWHERE = 0.15
"""Share of squares that are cut without regard to the defect."""
VISIBLE = 0.02
"""Share of some 14-pixel square that a defect must cover to count as visible in a square."""


def cut_squares(pool: Pool, count: int, side: int, rng: Generator) -> list[ImageWithTruth]:
    """`count` pairs of squares of `side` cells on the grid of the tower's windows, flipped at random.

    A pair is a square that mostly shows a defect, and behind it the same square of the part good.
    """
    squares: list[ImageWithTruth] = []
    transposed = bool(rng.random() < 0.5)
    for bad, good in pool.pairs(count, rng):
        top, left = _choose_place(bad.truth.cover, side, rng)
        flips = int(rng.integers(4))
        squares += [_flip(_cut(image, top, left, side), flips, transposed) for image in (bad, good)]
    return squares


def _choose_place(cover: Floats, side: int, rng: Generator) -> tuple[int, int]:
    """The top row and left column of a square, in cells; mostly of one with the defect."""
    h, w = cover.shape[0] // 2, cover.shape[1] // 2
    tops, lefts = range(0, h - side + 1, side), range(0, w - side + 1, side)
    covers = [[cover[2 * t : 2 * (t + side), 2 * c : 2 * (c + side)].sum() for c in lefts] for t in tops]
    share = np.array(covers).ravel() ** 0.5
    if rng.random() < ANYWHERE or share.sum() == 0:
        share = np.ones(len(share))
    row, column = divmod(int(rng.choice(len(share), p=share / share.sum())), len(lefts))
    return tops[row], lefts[column]


def _cut(image: ImageWithTruth, top: int, left: int, side: int) -> ImageWithTruth:
    """A square of an image with what can be seen of its defect there."""
    size = side * CELL
    square = image.image[top * CELL : top * CELL + size, left * CELL : left * CELL + size]
    cover = image.truth.cover[2 * top : 2 * (top + side), 2 * left : 2 * (left + side)]
    truth = replace(image.truth, cover=cover)
    if cover.max() <= VISIBLE:
        return ImageWithTruth(square, truth.without_defect())
    boxes = truth.boxes_xyxy - CELL * np.array([left, top, left, top], dtype=np.float32)
    inside = (boxes[:, :2] < size).all(1) & (boxes[:, 2:] > 0).all(1)
    return ImageWithTruth(square, replace(truth, boxes_xyxy=boxes[inside]))


def _flip(square: ImageWithTruth, flips: int, transposed: bool) -> ImageWithTruth:
    """Mirrored left to right (flips & 1), upside down (flips & 2), and at its diagonal."""
    image, cover, boxes = square.image, square.truth.cover, square.truth.boxes_xyxy.copy()
    size = len(image)
    if flips & 1:
        image, cover = image[:, ::-1], cover[:, ::-1]
        boxes[:, [0, 2]] = size - boxes[:, [2, 0]]
    if flips & 2:
        image, cover = image[::-1], cover[::-1]
        boxes[:, [1, 3]] = size - boxes[:, [3, 1]]
    if transposed:
        image, cover, boxes = image.transpose(1, 0, 2), cover.T, boxes[:, [1, 0, 3, 2]]
    truth = replace(square.truth, cover=np.ascontiguousarray(cover), boxes_xyxy=boxes)
    return ImageWithTruth(np.ascontiguousarray(image), truth)
