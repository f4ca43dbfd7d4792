"""Boxes as text: the JSON a model should write for them, and the reading of what a model wrote.

Form: `[{"bbox_2d": [x1, y1, x2, y2], "label": "scratch"}]` in the model's own units, `[]` for none. Nothing
is parsed before its length, nesting and numbers are within the limits below, so reading is linear in the text
and never fails.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalyr1.types import Box, InputError, ModelBox

if TYPE_CHECKING:
    from anomalyr1.images.frames import Frame

MAX_JSON_CHARS = 64 * 1024
MAX_JSON_DEPTH = 16
MAX_DIGITS = 32
MAX_BOXES = 100
MAX_LABEL_CHARS = 200

_LONG_NUMBER = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
_BRACKET = re.compile(r"[][{}]")
_NONE = frozenset(
    {"none"}
    | {
        f"no {word}"
        for word in ("defect", "defects", "anomaly", "anomalies", "box", "boxes", "bounding boxes")
    }
)
_KEYS = ("bbox_2d", "bbox", "box_2d", "box")


class BoxReading(NamedTuple):
    """What an answer says about boxes; `boxes` or `unmapped` is set when it is readable, () for none."""

    boxes: tuple[Box, ...] | None
    unmapped: tuple[ModelBox, ...] | None
    strict: bool
    """Exactly the documented form, with nothing repaired or dropped (a box cut at the image's edge is still
    exact)."""
    counts: dict[str, int]


def write_boxes(boxes: Sequence[Box], frame: Frame | None = None) -> str:
    """The JSON of boxes in the units of the frame; without a frame as they are, in original pixels, rounded.

    Raises `InputError` for more than 100 boxes, which could not be read back.
    """
    if len(boxes) > MAX_BOXES:
        raise InputError(
            f"expected at most {MAX_BOXES} boxes in one answer, got {len(boxes)}; merge boxes that touch"
        )
    rows = []
    for box in boxes:
        xyxy = frame.to_model(box.xyxy) if frame is not None else _rounded(box)
        rows.append({"bbox_2d": list(xyxy), "label": box.label} if box.label else {"bbox_2d": list(xyxy)})
    return json.dumps(rows, ensure_ascii=False)


def read_boxes(text: str, frame: Frame | None = None) -> BoxReading:
    """Read boxes from an answer: with a frame in original pixels inside the image, else in the model's units.

    Every dropped or repaired box is counted: box_not_four_numbers, box_not_finite, box_empty (a point),
    box_outside (the image), box_over_limit (more than 100), box_clipped, box_corners_swapped and box_thin
    (these three are kept; a thin box, of no width or no height, is read as one unit thick). A list of boxes
    of which none is left is unreadable, not "none".
    """
    counts: dict[str, int] = {}
    # 1. The rows of the JSON list.
    rows, strict = _rows(text, counts)
    if rows is None:
        return BoxReading(None, None, False, counts)
    # 2. Each row as a box: repaired, mapped and cut, or dropped and counted.
    kept: list[tuple[tuple[float, ...], str]] = []
    for row in rows:
        if len(kept) == MAX_BOXES:
            _count(counts, "box_over_limit")
            continue
        xyxy, exact = _numbers(row, counts)
        strict = strict and exact
        placed = _place(xyxy, frame, counts) if xyxy is not None else None
        if placed is not None:
            kept.append((placed, _label(row)))
    if rows and not kept:
        return BoxReading(None, None, False, counts)
    # 3. What is left, in the model's units or in original pixels.
    strict = strict and not counts.keys() - {"box_clipped"}
    if frame is None:
        return BoxReading(
            None,
            tuple(ModelBox(xyxy=(x[0], x[1], x[2], x[3]), label=label) for x, label in kept),
            strict,
            counts,
        )
    return BoxReading(
        tuple(Box(x1=x[0], y1=x[1], x2=x[2], y2=x[3], label=label) for x, label in kept), None, strict, counts
    )


def _rounded(box: Box) -> tuple[int, int, int, int]:
    x1, y1 = math.floor(box.x1 + 0.5), math.floor(box.y1 + 0.5)
    x2, y2 = math.floor(box.x2 + 0.5), math.floor(box.y2 + 0.5)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _rows(text: str, counts: dict[str, int]) -> tuple[list[Any] | None, bool]:
    """The rows of the list an answer holds, None without one; and whether the answer is only that list."""
    text = text.strip()
    if len(text) > MAX_JSON_CHARS:
        _count(counts, "json_too_long")
        return None, False
    if _depth(text) > MAX_JSON_DEPTH:
        _count(counts, "json_too_deep")
        return None, False
    if _LONG_NUMBER.search(text):
        _count(counts, "json_number_too_long")
        return None, False
    value = _loads(text)
    if isinstance(value, list):
        return _as_rows(value), _as_rows(value) is value
    if value is None and text.casefold().rstrip(".! ") in _NONE:
        return [], False
    if value is None:
        value = _embedded(text)
    if isinstance(value, dict):
        return [value], False
    if isinstance(value, list):
        return _as_rows(value), False
    _count(counts, "json_unreadable")
    return None, False


def _depth(text: str) -> int:
    """How deep brackets nest, those in strings included."""
    deepest = depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += 1 if bracket[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _loads(text: str) -> Any:
    """The JSON value of a text, None when it is none; integers become floats, too large ones infinite."""
    try:
        return json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        return None


def _embedded(text: str) -> Any:
    """The JSON from the first opening bracket to the last closing one, between words or code fences."""
    starts = [at for at in (text.find("["), text.find("{")) if at != -1]
    end = max(text.rfind("]"), text.rfind("}"))
    return _loads(text[min(starts) : end + 1]) if starts and end > min(starts) else None


def _as_rows(value: list[Any]) -> list[Any]:
    """A list of rows; four bare numbers are one row."""
    return [value] if len(value) == 4 and all(isinstance(number, float) for number in value) else value


def _numbers(row: object, counts: dict[str, int]) -> tuple[tuple[float, ...] | None, bool]:
    """The four finite numbers of a row, None (counted) without; and whether the row has the written form."""
    exact = (
        isinstance(row, dict)
        and "bbox_2d" in row
        and row.keys() <= {"bbox_2d", "label"}
        and isinstance(row.get("label", ""), str)
    )
    value = next((row[key] for key in _KEYS if key in row), None) if isinstance(row, dict) else row
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(isinstance(number, float) for number in value)
    ):
        _count(counts, "box_not_four_numbers")
        return None, False
    if not all(math.isfinite(number) for number in value):
        _count(counts, "box_not_finite")
        return None, False
    return tuple(value), exact


def _place(xyxy: tuple[float, ...], frame: Frame | None, counts: dict[str, int]) -> tuple[float, ...] | None:
    """A box in order, mapped and cut to the image; None (counted) when nothing of it is left."""
    x1, x2 = sorted((xyxy[0], xyxy[2]))
    y1, y2 = sorted((xyxy[1], xyxy[3]))
    if x1 == x2 and y1 == y2:
        _count(counts, "box_empty")
        return None
    if (x1, y1, x2, y2) != xyxy:
        _count(counts, "box_corners_swapped")
    if x1 == x2 or y1 == y2:
        _count(counts, "box_thin")
        right, bottom = frame.extent_wh if frame is not None else (math.inf, math.inf)
        x1, x2 = _thickened(x1, x2, right)
        y1, y2 = _thickened(y1, y2, bottom)
    if frame is None:
        return x1, y1, x2, y2
    mapped = frame.to_original((x1, y1, x2, y2))
    (w, h) = frame.original_wh
    cut = tuple(min(max(value, 0.0), float(limit)) for value, limit in zip(mapped, (w, h, w, h), strict=True))
    if not all(math.isfinite(value) for value in cut) or cut[0] >= cut[2] or cut[1] >= cut[3]:
        _count(counts, "box_outside")
        return None
    if any(abs(a - b) > 1e-9 * max(w, h) for a, b in zip(cut, mapped, strict=True)):
        _count(counts, "box_clipped")
    return cut


def _thickened(low: float, high: float, edge: float) -> tuple[float, float]:
    """Both ends of a side, of one unit where it had no length: away from the image's far edge."""
    if low < high:
        return low, high
    return (low - 1, high) if low + 1 > edge >= low else (low, high + 1)


def _label(row: object) -> str:
    label = row.get("label", "") if isinstance(row, dict) else ""
    return label[:MAX_LABEL_CHARS] if isinstance(label, str) else ""
