"""Box and mask arithmetic."""

import doctest
import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco
from pydantic import ValidationError

from anomalyr1 import boxes
from anomalyr1.types import PLACES, Box, InputError, Mask

COORDINATES = npst.arrays(np.float64, st.tuples(st.integers(0, 5), st.just(4)), elements=st.floats(-50, 150))
MASKS = npst.arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def ordered(xyxy):
    """Boxes of at least one unit from any four numbers."""
    low, high = np.minimum(xyxy[:, :2], xyxy[:, 2:]), np.maximum(xyxy[:, :2], xyxy[:, 2:])
    return np.hstack([low, high + 1])


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0, 1.0),
        ([5, 5, 6, 6], [5, 5, 6, 6], 1.0, 1.0),  # one pixel: the released code gives 0
        ([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3, 1 / 3),
        ([0, 0, 1, 1], [1, 0, 2, 1], 0.0, 0.0),  # touching boxes share nothing
        ([0, 0, 1, 1], [2, 2, 3, 3], 0.0, -7 / 9),
        ([0, 0, 0, 0], [0, 0, 1, 1], 0.0, 0.0),  # empty
        ([9, 9, 1, 1], [0, 0, 10, 10], 0.0, None),  # reversed counts as empty
    ],
)
def test_iou(a, b, iou, giou):
    assert boxes.iou([a], [b])[0, 0] == pytest.approx(iou)
    if giou is not None:
        assert boxes.giou([a], [b])[0, 0] == pytest.approx(giou)


@given(COORDINATES, COORDINATES)
def test_iou_agrees_with_coco(a, b):
    a, b = ordered(a), ordered(b)
    ours = boxes.iou(a, b)
    assert ours.shape == (len(a), len(b))
    if len(a) and len(b):
        xywh = [np.hstack([x[:, :2], x[:, 2:] - x[:, :2]]) for x in (a, b)]
        assert ours == pytest.approx(coco.iou(xywh[0], xywh[1], [0] * len(b)), abs=1e-9)
        giou = boxes.giou(a, b)
        assert ((giou <= ours + 1e-12) & (giou >= -1)).all()


@given(COORDINATES, st.floats(1, 100), st.floats(1, 100))
def test_clip_is_inside_and_idempotent(xyxy, w, h):
    once = boxes.clip(xyxy, (w, h))
    assert (once >= 0).all()
    assert (once <= [w, h, w, h]).all()
    assert (boxes.clip(once, (w, h)) == once).all()


@given(COORDINATES, COORDINATES)
def test_assign_is_the_best_pairing(a, b):
    a, b = ordered(a)[:4], ordered(b)[:4]
    overlap = boxes.iou(a, b)
    pred, gold = boxes.assign(overlap)
    k = min(len(a), len(b))
    assert len(set(pred)) == len(set(gold)) == len(pred) == k
    tried = [
        sum(overlap[i, j] for i, j in zip(rows, columns, strict=True))
        for rows in itertools.permutations(range(len(a)), k)
        for columns in itertools.combinations(range(len(b)), k)
    ]
    assert overlap[pred, gold].sum() == pytest.approx(max(tried))


@pytest.mark.parametrize(
    ("pred", "gold", "value"),
    [
        ([], [], 1.0),  # clean, and said so
        ([], [[0, 0, 1, 1]], 0.0),
        ([[0, 0, 1, 1]], [], 0.0),
        ([[0, 0, 2, 1]], [[0, 0, 1, 1]], 0.5),
        ([[0, 0, 1, 1], [5, 5, 6, 6]], [[0, 0, 1, 1]], 0.5),  # a false box
        ([[0, 0, 1, 1]], [[0, 0, 1, 1], [5, 5, 6, 6]], 0.5),  # costs what a miss costs
        ([[5, 5, 6, 6], [0, 0, 1, 1]], [[0, 0, 1, 1], [5, 5, 6, 6]], 1.0),  # order is nothing
    ],
)
def test_set_iou(pred, gold, value):
    assert boxes.set_iou(pred, gold) == pytest.approx(value)


def test_place_covers_all_nine():
    found = [
        boxes.place(Box(x1=x, y1=y, x2=x + 10, y2=y + 20), (90, 180))
        for y in (20, 80, 140)
        for x in (10, 40, 70)
    ]
    assert tuple(found) == PLACES
    assert boxes.place(Box(x1=500, y1=-90, x2=600, y2=-80), (90, 180)) == "top right"  # outside: the nearest


@given(MASKS)
def test_masks_survive_run_lengths(mask):
    record = boxes.encode_mask(mask, "box")
    assert record.size_wh == mask.shape[::-1]
    assert (boxes.decode_mask(record) == mask).all()
    assert record.rle == coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()


@pytest.mark.parametrize("rle", ["0", "999", "11", "0000000000000000000000000000000000", "PPPPPP0Q1", "o0"])
def test_run_lengths_that_do_not_fit_are_refused(rle):
    with pytest.raises(InputError, match="8 x 4"):
        boxes.decode_mask(Mask(size_wh=(8, 4), rle=rle, source="box"))


@pytest.mark.parametrize("rle", ["", "P", "0P", "~~~~~~", "PPPPPPP0", "0\n", " 0", "é0", "\ud800"])
def test_characters_that_are_no_run_lengths_make_no_mask(rle):
    with pytest.raises(ValidationError, match="rle"):
        Mask(size_wh=(8, 4), rle=rle, source="box")


@pytest.mark.parametrize("size_wh", [(0, 4), (-8, -4), (2**40, 1), (65_536, 1), (60_000, 60_000)])
def test_sides_that_no_image_has_make_no_mask(size_wh):
    with pytest.raises(ValidationError, match=r"size_wh|larger than any image"):
        Mask(size_wh=size_wh, rle="0", source="box")


HOSTILE_RUNS = """
import random
random.seed(3)
for _ in range(20_000):
    rle = "".join(chr(random.randrange(48, 112)) for _ in range(random.randrange(39)))
    decode(rle + chr(random.randrange(80, 112)))
"""
OUR_DECODER = """
from anomalyr1.boxes import decode_mask
from anomalyr1.types import InputError, Mask
def decode(rle):
    for runs in (rle, rle + "0"):  # without the end of its last number, and with it
        try:
            decode_mask(Mask(size_wh=(64, 64), rle=runs, source="box"))
        except (InputError, ValueError):
            pass
"""
PLAIN_DECODER = """
from pycocotools import mask
def decode(rle):
    try:
        mask.decode({"size": [64, 64], "counts": rle.encode()})
    except ValueError:
        pass
"""


@pytest.mark.parametrize(("decoder", "survives"), [(OUR_DECODER, True), (PLAIN_DECODER, False)])
def test_hostile_run_lengths_leave_the_memory_whole(decoder, survives):
    """The control: pycocotools' decoder reads and writes beyond its memory, and the process dies."""
    process = subprocess.run([sys.executable, "-c", decoder + HOSTILE_RUNS], capture_output=True, timeout=100)
    assert (process.returncode == 0) == survives, process.stderr[-500:]


@given(MASKS)
def test_polygons_fill_back_to_the_mask_with_its_holes_closed(mask):
    def fill(contours):
        canvas = np.zeros(mask.shape, dtype=np.uint8)
        cv2.drawContours(canvas, [line[:, None] for line in contours], -1, 1, thickness=cv2.FILLED)
        return canvas.astype(bool)

    filled = fill(boxes.polygons(mask))
    assert (filled | ~mask).all()
    assert (fill(boxes.polygons(filled)) == filled).all()


@given(MASKS)
def test_components_hold_every_pixel_tightly(mask):
    found = boxes.components(mask)
    covered = np.zeros_like(mask)
    for box in found:
        x1, y1, x2, y2 = (int(v) for v in box.xyxy)
        part = mask[y1:y2, x1:x2]
        assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
        covered[y1:y2, x1:x2] = True
    assert (covered | ~mask).all()
    assert bool(found) == bool(mask.any())


def test_small_components_can_be_left_out():
    mask = np.zeros((10, 10), bool)
    mask[0, 0] = mask[5:8, 5:9] = True
    assert [box.xyxy for box in boxes.components(mask, min_pixels=2)] == [(5, 5, 9, 8)]
    assert len(boxes.components(mask)) == 2


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(boxes, raise_on_error=True).attempted >= 9
