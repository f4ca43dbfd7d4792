"""Box and mask arithmetic on numpy arrays; boxes are xyxy, half-open, in pixels of one image.

Half-open means that a box from 3 to 4 is one pixel wide and that a box has IoU 1 with itself at any size.
Functions on boxes take (N, 4) arrays, or lists of lists of four numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomalyr1.types import PLACES, Box, InputError, Mask, MaskSource

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Contour = NDArray[np.int32]
"""(K, 2) points in pixel centres, x before y."""
_ZERO, _MOST_DIGITS = 48, 7
"""The character that means 0 in run lengths, and the most characters of a number."""


def to_array(boxes: Sequence[Box]) -> Floats:
    """(N, 4) xyxy of N records; (0, 4) for none.

    >>> to_array([Box(x1=0, y1=0, x2=10, y2=10, label="dent")])
    array([[ 0.,  0., 10., 10.]])
    """
    return np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)


def area(xyxy: ArrayLike) -> Floats:
    """(N,) areas of (N, 4) boxes in square pixels; 0 where a box is empty or reversed.

    >>> area([[0, 0, 10, 5], [10, 10, 0, 0]])
    array([50.,  0.])
    """
    boxes = _as_boxes(xyxy)
    areas: Floats = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    return areas


def iou(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> Floats:
    """(N, M) intersection over union of every pair of (N, 4) and (M, 4) boxes; 0 where the union is empty.

    >>> iou([[0, 0, 10, 10]], [[0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]])
    array([[1. , 0.5, 0. ]])
    """
    intersection, union = _intersection_union(_as_boxes(a_xyxy), _as_boxes(b_xyxy))
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def giou(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> Floats:
    """(N, M) generalised IoU in -1..1 of every pair of (N, 4) and (M, 4) boxes.

    Unlike IoU it still tells near from far where boxes do not meet: from IoU it takes off the part of their
    common hull that neither covers (Rezatofighi et al. 2019, algorithm 1).

    >>> giou([[0, 0, 10, 10]], [[0, 0, 10, 10], [10, 0, 20, 10], [30, 0, 40, 10]])
    array([[ 1. ,  0. , -0.5]])
    """
    a, b = _as_boxes(a_xyxy), _as_boxes(b_xyxy)
    _, union = _intersection_union(a, b)
    hull_wh = np.maximum(a[:, None, 2:], b[None, :, 2:]) - np.minimum(a[:, None, :2], b[None, :, :2])
    hull = np.prod(hull_wh, axis=2)
    outside = np.divide(hull - union, hull, out=np.zeros_like(hull), where=hull > 0)
    generalised: Floats = iou(a, b) - outside
    return generalised


def clip(xyxy: ArrayLike, size_wh: tuple[float, float]) -> Floats:
    """(N, 4) boxes cut to an image of width and height `size_wh`; a box outside becomes empty.

    >>> clip([[-5, 5, 15, 25]], size_wh=(20, 20))
    array([[ 0.,  5., 15., 20.]])
    """
    w, h = size_wh
    return np.clip(_as_boxes(xyxy), 0, np.array([w, h, w, h], dtype=np.float64))


def assign(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The one-to-one pairing with the largest total of (N, M) scores (Hungarian method).

    Returns the rows and the columns of the pairs, (K,) each, K = min(N, M).

    >>> assign(np.array([[0.9, 0.8], [0.7, 0.1]]))  # 0.8 + 0.7 is more than 0.9 + 0.1
    (array([0, 1]), array([1, 0]))
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(scores, maximize=True)
    return rows, columns


def set_iou(pred_xyxy: ArrayLike, gold_xyxy: ArrayLike) -> float:
    """How well (N, 4) predicted and (M, 4) gold boxes agree, 0..1; 1 when there are none of either.

    The boxes are paired so that the total IoU is largest, and that total is divided by the number of pairs,
    misses and false boxes. With one box on each side it is plain IoU; a missed and a false box cost the same.

    >>> set_iou([[0, 0, 10, 10], [50, 50, 60, 60]], [[0, 0, 10, 10]])  # the second box is false
    0.5
    """
    pred, gold = _as_boxes(pred_xyxy), _as_boxes(gold_xyxy)
    if len(pred) == 0 and len(gold) == 0:
        return 1.0
    overlap = iou(pred, gold)  # (N, M)
    return float(overlap[assign(overlap)].sum() / max(len(pred), len(gold)))


def place(box: Box, size_wh: tuple[float, float]) -> str:
    """The one of `types.PLACES` that holds a box's centre in an image of width and height `size_wh`.

    >>> place(Box(x1=0, y1=0, x2=10, y2=10), size_wh=(90, 90))
    'top left'
    """
    w, h = size_wh
    column = int(np.clip((box.x1 + box.x2) / 2 * 3 / w, 0, 2))
    row = int(np.clip((box.y1 + box.y2) / 2 * 3 / h, 0, 2))
    return PLACES[3 * row + column]


def encode_mask(mask: Bools, source: MaskSource) -> Mask:
    """A boolean (H, W) array as a record, lossless, in the very characters that pycocotools writes."""
    height, width = mask.shape
    # 1. Run lengths down the columns, in turn of False and of True; the first may be 0.
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(np.concatenate([[0], [0] if pixels[:1].any() else [], edges, [pixels.size]]))
    # 2. From the fourth on, what is written is how much a run differs from the one two before it.
    numbers = runs.astype(np.int64)
    numbers[3:] -= numbers[1:-2].copy()
    # 3. Five bits a character, the lowest first; the sixth says that the number goes on.
    digits = (numbers[:, None] >> (5 * np.arange(_MOST_DIGITS))) & 31  # (N, 7)
    remainders = numbers[:, None] >> (5 * np.arange(1, _MOST_DIGITS + 1))
    ends = np.where(digits & 16, remainders == -1, remainders == 0)
    position = ends.argmax(axis=1)[:, None] - np.arange(_MOST_DIGITS)  # characters that still follow
    characters = (digits + 32 * (position > 0) + _ZERO).astype(np.uint8)[position >= 0]
    return Mask(size_wh=(width, height), rle=characters.tobytes().decode("ascii"), source=source)


def decode_mask(mask: Mask) -> Bools:
    """The boolean (H, W) array of a record. Raises `InputError` when the run lengths do not fit the size.

    Numpy reads them, since pycocotools' decoder writes beyond its memory where run lengths are hostile.
    """
    width, height = mask.size_wh
    codes = np.frombuffer(mask.rle.encode("ascii"), np.uint8).astype(np.int64) - _ZERO
    # 1. Numbers from characters; `Mask` has checked that the last one ends and that none is too long.
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= (codes[ends] & 16 > 0) * (np.int64(1) << 5 * lengths)
    # 2. Run lengths from differences.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    # 3. They must fill the picture, neither more nor less; each is bounded before all are added up.
    if runs.min() < 0 or runs.max() > width * height or runs.sum() != width * height:
        raise InputError(
            f"the run lengths of a mask do not fill its size of {width} x {height} pixels; "
            "write the mask again"
        )
    pixels = np.repeat(np.arange(runs.size) % 2 == 1, runs)
    return pixels.reshape(width, height).T


def polygons(mask: Bools, tolerance: float = 0.0) -> list[Contour]:
    """The outer contours of a boolean (H, W) array; `tolerance`, in pixels, simplifies them."""
    import cv2

    mode = cv2.CHAIN_APPROX_NONE if tolerance == 0 else cv2.CHAIN_APPROX_SIMPLE
    contours, _ = cv2.findContours(np.ascontiguousarray(mask, dtype=np.uint8), cv2.RETR_EXTERNAL, mode)
    if tolerance > 0:
        contours = [cv2.approxPolyDP(contour, tolerance, closed=True) for contour in contours]
    return [np.asarray(contour, dtype=np.int32).reshape(-1, 2) for contour in contours]


def components(mask: Bools, min_pixels: int = 1, label: str = "") -> tuple[Box, ...]:
    """The tight box of each 8-connected component of a boolean (H, W) array, the largest component first.

    Components of fewer than `min_pixels` pixels are left out; each box bears `label`.

    >>> components(np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1]], dtype=bool), min_pixels=2)
    (Box(x1=2.0, y1=1.0, x2=3.0, y2=3.0, label=''),)
    """
    import cv2

    image = np.ascontiguousarray(mask, dtype=np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=8)  # (1 + components, 5)
    xywh_pixels = [row for row in stats[1:].tolist() if row[4] >= min_pixels]  # row 0 is the background
    xywh_pixels.sort(key=lambda row: -row[4])
    return tuple(Box(x1=x, y1=y, x2=x + w, y2=y + h, label=label) for x, y, w, h, _ in xywh_pixels)


def _as_boxes(xyxy: ArrayLike) -> Floats:
    return np.asarray(xyxy, dtype=np.float64).reshape(-1, 4)


def _intersection_union(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """(N, M) areas of the intersection and of the union of every pair."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection: Floats = np.prod(np.clip(high - low, 0, None), axis=2)
    return intersection, area(a)[:, None] + area(b)[None, :] - intersection
