"""Polygons and run lengths of COCO files as masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from anomalyr1 import data
from anomalyr1.boxes import decode_mask, encode_mask
from anomalyr1.data.export import export
from anomalyr1.data.mask_files import true_mask
from anomalyr1.data.segmentations import MOST_EDGES, can_fill, fill
from anomalyr1.evaluation.checks import check
from anomalyr1.images.door import ImageError

SIZE = (40, 30)
DIAMOND = [20, 5, 30, 15, 20, 25, 10, 15]
RECTANGLE = np.zeros(SIZE[::-1], np.bool_)
RECTANGLE[4:9, 10:22] = True
RUNS = encode_mask(RECTANGLE, "map").rle


def filled(*segmentations, size=SIZE):
    assert can_fill(segmentations, size)
    return decode_mask(fill(segmentations, size))


def test_a_rectangle_holds_what_lies_inside():
    corners = [10, 4, 22, 4, 22, 9, 10, 9]
    for polygon in (corners, corners[4:] + corners[:4], [10.4, 4.4, 22.4, 4.4, 22.4, 9.4, 10.4, 9.4]):
        assert np.array_equal(filled([polygon]), RECTANGLE)


@pytest.mark.parametrize("seed", range(5))
def test_polygons_are_filled_as_their_area_says(seed):
    random = np.random.default_rng(seed)
    angles, radii = np.sort(random.uniform(0, 2 * np.pi, 9)), random.uniform(100, 200, 9)
    points = np.stack([250 + radii * np.cos(angles), 220 + radii * np.sin(angles)], axis=1)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert filled([points.ravel().tolist()], size=(500, 450)).sum() == pytest.approx(area, rel=0.01)


def test_several_make_one_mask_and_the_image_ends_them():
    both = filled([DIAMOND, [0, 0, 5, 0, 5, 5, 0, 5]], {"size": [30, 40], "counts": RUNS})
    assert np.array_equal(both, filled([DIAMOND]) | filled([[0, 0, 5, 0, 5, 5, 0, 5]]) | RECTANGLE)
    assert filled([[-9, -9, 90, -9, 90, 90, -9, 90]]).all()
    assert not filled([[50, 50, 60, 50, 60, 60]]).any()
    unpacked = {"size": [30, 40], "counts": [40 * 30 - 5, 5]}
    assert filled(unpacked).sum() == 5 and filled(unpacked)[25:, 39].all()


@pytest.mark.parametrize(
    "value",
    [
        "x", 3, {}, [], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["1", 2, 3, 4, 5, 6]],
        [[float("nan"), 2, 3, 4, 5, 6]], [[1e300, 2, 3, 4, 5, 6]], [[True, 2, 3, 4, 5, 6]],
        {"size": [40, 30], "counts": RUNS}, {"size": [30, 40], "counts": 3}, {"size": [30, 40]},
        [[0, 1] * (MOST_EDGES + 1)],
    ],
)  # fmt: skip
def test_what_outlines_nothing(value):
    assert not can_fill([value], SIZE)
    assert not can_fill([[DIAMOND]], (8001, 8001))


@pytest.mark.parametrize("counts", ["0", "~~~", [1], [-1, 1201], [600.0, 600], [1201], RUNS + "0"])
def test_run_lengths_that_do_not_fill(counts):
    with pytest.raises(ImageError, match="run lengths"):
        fill([{"size": [30, 40], "counts": counts}], SIZE)


def coco(folder, *annotations):
    Image.new("RGB", SIZE).save(folder / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    annotations = [{"image_id": 1, "category_id": 1, **one} for one in annotations]
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "dent"}]}
    (folder / "a.json").write_text(json.dumps(content))
    return f"coco:{folder / 'a.json'}"


def test_masks_come_with_boxes_and_go_with_exports(tmp_path):
    spec = coco(tmp_path, {"bbox": [10, 5, 20, 20], "segmentation": [DIAMOND]})
    samples = data.load(spec)
    assert samples[0].mask_runs is None and true_mask(samples[0]) is None
    (sample,) = samples.with_boxes()
    assert np.array_equal(true_mask(sample), filled([DIAMOND])) and check([sample]) == []
    for name in ("jsonl", "coco"):
        again = data.load(export([sample], name, tmp_path / name).load).with_boxes()[0]
        assert np.array_equal(true_mask(again), true_mask(sample))


def test_a_mask_lacks_no_defect(tmp_path):
    spec = coco(
        tmp_path,
        {"bbox": [10, 5, 20, 20], "segmentation": [DIAMOND]},
        {"bbox": [1, 1, 4, 4]},  # not outlined: the mask would be half of the truth
    )
    (sample,) = samples = data.load(spec, boxes=True)
    assert true_mask(sample) is None and len(sample.boxes) == 2
    assert samples.notes["annotations with a segmentation, of which the box is used"] == 1
