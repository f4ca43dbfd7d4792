"""COCO's segmentations, polygons and run lengths, as masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from anomalyr1.boxes import Bools, Floats, decode_mask, encode_mask
from anomalyr1.images.door import DEFAULT_LIMITS, ImageError
from anomalyr1.types import InputError, Mask

Segmentation = list[list[float]] | dict[str, Any]
"""Polygons, [x1, y1, x2, y2, ...] each, or `size` (height, width) and `counts` (a text, or a list)."""

LARGEST = 1e7
"""No picture is as wide, in pixels."""
MOST_EDGES, MOST_WORK = 50_000, 2e8
"""Edges of the polygons of an image, and edges times rows (for run lengths a tenth of the pixels) that are
filled: about two seconds."""


def can_fill(values: Sequence[Any], size_wh: tuple[int, int]) -> bool:
    """Whether values of a COCO file outline something in an image of this size, and are not too many.

    Whether run lengths fill the image shows later.
    """
    w, h = size_wh
    edges, work = 0.0, 0.0
    for value in values:
        if isinstance(value, dict):
            counts = value.get("counts")
            if value.get("size") != [h, w] or not isinstance(counts, str | list) or not counts:
                return False
            work += w * h / 10
            continue
        if not isinstance(value, list) or not value or not all(map(_is_polygon, value)):
            return False
        edges += sum(map(len, value)) / 2
    return w * h <= DEFAULT_LIMITS.max_pixels and edges <= MOST_EDGES and work + edges * h <= MOST_WORK


def fill(segmentations: Sequence[Segmentation], size_wh: tuple[int, int]) -> Mask:
    """All pixels of an image that its segmentations hold, as one mask.

    Raises `ImageError` for run lengths that do not fill the image.
    """
    w, h = size_wh
    mask = np.zeros((h, w), dtype=np.bool_)
    for segmentation in segmentations:
        if isinstance(segmentation, dict):
            mask |= _decode(segmentation["counts"], size_wh)
            continue
        for polygon in segmentation:
            _add_polygon(mask, np.asarray(polygon, dtype=np.float64).reshape(-1, 2))
    return encode_mask(mask, "map")


def _is_polygon(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 6
        and len(value) % 2 == 0
        and all(type(number) in (int, float) and abs(number) < LARGEST for number in value)
    )


def _decode(counts: str | list[int], size_wh: tuple[int, int]) -> Bools:
    """Run lengths, which go down the columns, as an (H, W) array."""
    w, h = size_wh
    try:
        if isinstance(counts, str):
            return decode_mask(Mask(size_wh=size_wh, rle=counts, source="map"))
    except (InputError, ValueError) as error:
        raise ImageError(f"the run lengths of a segmentation cannot be read: {error}") from error
    if not all(type(count) is int and 0 <= count <= w * h for count in counts) or sum(counts) != w * h:
        raise ImageError(f"the run lengths of a segmentation do not fill its image of {w} x {h} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(w, h).T


def _add_polygon(mask: Bools, points: Floats) -> None:
    """Mark the pixels of an (H, W) mask whose centres lie inside a polygon, (N, 2) of x and y.

    Inside is where a ray to the left crosses an odd number of edges.
    """
    h, w = mask.shape
    top, bottom = max(0, math.floor(points[:, 1].min())), min(h, math.ceil(points[:, 1].max()))
    if top >= bottom:
        return
    # 1. Where edges cross the middle of a row: an odd or even number of times before each pixel.
    crossings = np.zeros((bottom - top, w + 1), dtype=np.uint8)
    for (x1, y1), (x2, y2) in pairwise([*points, points[0]]):
        first, end = sorted((math.ceil(y1 - 0.5), math.ceil(y2 - 0.5)))
        rows = np.arange(max(first, top), min(end, bottom))
        if len(rows):
            x = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
            columns = np.clip(np.ceil(x - 0.5), 0, w).astype(np.intp)
            crossings[rows - top, columns] ^= 1
    # 2. Pixels with an odd number of crossings at or before them.
    mask[top:bottom] |= np.bitwise_xor.accumulate(crossings[:, :-1], axis=1).astype(np.bool_)
