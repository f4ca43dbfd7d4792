"""A picture of drawn parts for people."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anomalyr1.drawn.draw import LEGAL, draw
from anomalyr1.drawn.record import Drawn, Image


def contact_sheet(categories: Sequence[str], seed: int = 0, columns: int = 7, cell: int = 168) -> Image:
    """A picture of drawn parts for people, (H, W, 3): a row per category, two good parts and then defects with their boxes and names."""
    rows = []
    for row, category in enumerate(categories):
        kinds = [None, None, *LEGAL[category]]
        shown = (
            kinds[: columns - 1] + kinds[-1:]
            if len(kinds) > columns
            else [*kinds, *LEGAL[category]][:columns]
        )
        rows.append(
            np.hstack(
                [_tile(draw(seed + 31 * row + k, category, kind), cell) for k, kind in enumerate(shown)]
            )
        )
    return np.vstack(rows)


def _tile(one: Drawn, cell: int) -> Image:
    """One image with boxes, scaled into a square `cell`, above its caption."""
    h, w = one.image.shape[:2]
    scale = cell / max(h, w)
    tile = np.full((cell + 18, cell + 6, 3), 255, np.uint8)
    small = cv2.resize(
        one.image,
        (round(w * scale), round(h * scale)),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
    )
    for box in one.boxes:
        low, high = (
            (int(box.x1 * scale) - 2, int(box.y1 * scale) - 2),
            (int(box.x2 * scale) + 2, int(box.y2 * scale) + 2),
        )
        cv2.rectangle(small, low, high, (255, 0, 200), 1, cv2.LINE_AA)
    tile[: small.shape[0], : small.shape[1]] = small
    cv2.putText(
        tile,
        one.description or f"{one.category}, good",
        (2, cell + 12),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.36,
        (20, 20, 20),
        1,
        cv2.LINE_AA,
    )
    return tile
