"""Box and mask arithmetic on numpy arrays; boxes are xyxy, half-open, in pixels.

Half-open means that a box from 3 to 4 is one pixel wide and that a box has IoU 1 with itself at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomalyr1.types import PLACES, Box, InputError, Mask, MaskSource

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Matches(NamedTuple):
    """One-to-one pairs of predicted and gold boxes, K = min(N, M)."""

    pred: NDArray[np.intp]
    """(K,) indices into the predicted boxes."""
    gold: NDArray[np.intp]
    """(K,) indices into the gold boxes."""
    iou: Floats
    """(K,) IoU of each pair; may be 0."""


def to_array(boxes: Sequence[Box]) -> Floats:
    """(N, 4) xyxy of records; (0, 4) for none."""
    return np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)


def area(xyxy: ArrayLike) -> Floats:
    """(N,) areas of (N, 4) boxes; 0 where a box is empty or reversed."""
    a = _as_boxes(xyxy)
    areas: Floats = np.prod(np.clip(a[:, 2:] - a[:, :2], 0, None), axis=1)
    return areas


def iou(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> Floats:
    """(N, M) intersection over union of every pair; 0 where the union is empty."""
    intersection, union = _intersection_union(_as_boxes(a_xyxy), _as_boxes(b_xyxy))
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def giou(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> Floats:
    """(N, M) generalised IoU in -1..1 of every pair (Rezatofighi et al. 2019, algorithm 1)."""
    a, b = _as_boxes(a_xyxy), _as_boxes(b_xyxy)
    _, union = _intersection_union(a, b)
    hull_wh = np.maximum(a[:, None, 2:], b[None, :, 2:]) - np.minimum(a[:, None, :2], b[None, :, :2])
    hull = np.prod(hull_wh, axis=2)
    outside = np.divide(hull - union, hull, out=np.zeros_like(hull), where=hull > 0)
    generalised: Floats = iou(a, b) - outside
    return generalised


def clip(xyxy: ArrayLike, size_wh: tuple[float, float]) -> Floats:
    """(N, 4) boxes cut to an image of width and height `size_wh`; a box outside becomes empty. Idempotent."""
    w, h = size_wh
    return np.clip(_as_boxes(xyxy), 0, np.array([w, h, w, h], dtype=np.float64))


def match(pred_xyxy: ArrayLike, gold_xyxy: ArrayLike) -> Matches:
    """The one-to-one pairing with the largest total IoU (Hungarian)."""
    overlap = iou(pred_xyxy, gold_xyxy)
    pred, gold = assign(overlap)
    return Matches(pred, gold, overlap[pred, gold])


def assign(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns, (K,) each, of the one-to-one pairing with the largest total of (N, M) scores (Hungarian)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(scores, maximize=True)
    return rows, columns


def set_iou(pred_xyxy: ArrayLike, gold_xyxy: ArrayLike) -> float:
    """How well two sets of boxes agree, 0..1: the IoU of matched pairs over pairs + misses + false boxes; 1 when both are empty.

    With one box on each side it is plain IoU; a missed and a false box cost the same.
    """
    pred, gold = _as_boxes(pred_xyxy), _as_boxes(gold_xyxy)
    if len(pred) == 0 and len(gold) == 0:
        return 1.0
    return float(match(pred, gold).iou.sum() / max(len(pred), len(gold)))


def place(box: Box, size_wh: tuple[float, float]) -> str:
    """The one of `types.PLACES` (3 x 3 regions) that holds the centre of a box."""
    w, h = size_wh
    column = int(np.clip((box.x1 + box.x2) / 2 * 3 / w, 0, 2))
    row = int(np.clip((box.y1 + box.y2) / 2 * 3 / h, 0, 2))
    return PLACES[3 * row + column]


def encode_mask(mask: Bools, source: MaskSource) -> Mask:
    """A boolean (H, W) array as a record, lossless."""
    from pycocotools import mask as coco

    height, width = mask.shape
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Mask(size_wh=(width, height), rle=rle["counts"].decode("ascii"), source=source)


def decode_mask(mask: Mask) -> Bools:
    """The boolean (H, W) array of a record. Raises `InputError` when the counts do not fit the size."""
    from pycocotools import mask as coco

    width, height = mask.size_wh
    try:
        array: Bools = coco.decode({"size": [height, width], "counts": mask.rle.encode("ascii")}).astype(
            np.bool_
        )
    except ValueError:
        array = np.zeros((0, 0), dtype=np.bool_)
    # COCO's decoder takes runs that end early for zeros; what it read must be what was written.
    if array.size == 0 or encode_mask(array, mask.source) != mask:
        raise InputError(
            f"the run lengths of a mask do not fill its size of {width} x {height} pixels; write the mask again"
        )
    return array


def polygons(mask: Bools, tolerance: float = 0.0) -> list[NDArray[np.int32]]:
    """Outer contours of a boolean (H, W) array, each (K, 2) in pixel centres, xy order; `tolerance` in pixels simplifies them."""
    import cv2

    mode = cv2.CHAIN_APPROX_NONE if tolerance == 0 else cv2.CHAIN_APPROX_SIMPLE
    contours, _ = cv2.findContours(np.ascontiguousarray(mask, dtype=np.uint8), cv2.RETR_EXTERNAL, mode)
    if tolerance > 0:
        contours = [cv2.approxPolyDP(contour, tolerance, closed=True) for contour in contours]
    return [np.asarray(contour, dtype=np.int32).reshape(-1, 2) for contour in contours]


def fill_polygons(contours: Sequence[NDArray[np.int32]], size_wh: tuple[int, int]) -> Bools:
    """The boolean (H, W) array whose outer contours these are; holes are filled."""
    import cv2

    canvas = np.zeros((size_wh[1], size_wh[0]), dtype=np.uint8)
    if contours:
        cv2.drawContours(
            canvas, [contour.reshape(-1, 1, 2) for contour in contours], -1, 1, thickness=cv2.FILLED
        )
    return canvas.astype(np.bool_)


def components(mask: Bools, min_pixels: int = 1, label: str = "") -> tuple[Box, ...]:
    """The tight box of each 8-connected component of at least `min_pixels` pixels, largest first."""
    import cv2

    count, _, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask, dtype=np.uint8), connectivity=8
    )
    rows = [tuple(int(value) for value in stats[i]) for i in range(1, count)]
    rows = sorted((row for row in rows if row[4] >= min_pixels), key=lambda row: -row[4])
    return tuple(Box(x1=x, y1=y, x2=x + w, y2=y + h, label=label) for x, y, w, h, _ in rows)


def _as_boxes(xyxy: ArrayLike) -> Floats:
    array = np.asarray(xyxy, dtype=np.float64)
    return array.reshape(-1, 4)


def _intersection_union(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection: Floats = np.prod(np.clip(high - low, 0, None), axis=2)
    return intersection, area(a)[:, None] + area(b)[None, :] - intersection
