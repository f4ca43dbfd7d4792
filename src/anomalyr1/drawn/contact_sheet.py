"""A picture of drawn parts for people."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anomalyr1.drawn.draw import LEGAL, draw
from anomalyr1.drawn.record import Drawn, Image


def contact_sheet(categories: Sequence[str], seed: int = 0, columns: int = 7, cell: int = 168) -> Image:
    """A picture of drawn parts, (H, W, 3) uint8, in cells of `cell` pixels.

    A row for each category: two good parts, then defects with their boxes and descriptions.
    """
    rows = []
    for row, category in enumerate(categories):
        kinds = [None, None, *LEGAL[category]]
        if len(kinds) > columns:
            kinds = kinds[: columns - 1] + kinds[-1:]
        else:
            kinds = [*kinds, *LEGAL[category]][:columns]
        drawings = [draw(seed + 31 * row + k, category, kind) for k, kind in enumerate(kinds)]
        rows.append(np.hstack([_tile(drawing, cell) for drawing in drawings]))
    return np.vstack(rows)


def _tile(drawing: Drawn, cell: int) -> Image:
    """An image with its boxes, scaled into a square `cell`, above its caption."""
    h, w = drawing.image.shape[:2]
    scale = cell / max(h, w)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(drawing.image, (round(w * scale), round(h * scale)), interpolation=interpolation)
    for box in drawing.boxes:
        low = int(box.x1 * scale) - 2, int(box.y1 * scale) - 2
        high = int(box.x2 * scale) + 2, int(box.y2 * scale) + 2
        cv2.rectangle(picture, low, high, (255, 0, 200), 1, cv2.LINE_AA)
    tile = np.full((cell + 18, cell + 6, 3), 255, np.uint8)
    tile[: picture.shape[0], : picture.shape[1]] = picture
    caption = drawing.description or f"{drawing.category}, good"
    cv2.putText(tile, caption, (2, cell + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (20, 20, 20), 1, cv2.LINE_AA)
    return tile
