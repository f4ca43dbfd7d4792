"""Masks opened on demand: files, folders of files, what marks and what is dust."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from anomalyr1.data import mask_files
from anomalyr1.images.door import ImageError
from anomalyr1.types import Box, Sample


def put(path, *spots, value=1, mode="L", size_wh=(40, 30)):
    array = np.zeros(size_wh[::-1], np.uint8)
    for x1, y1, x2, y2 in spots:
        array[y1:y2, x1:x2] = value
    path.parent.mkdir(exist_ok=True)
    PIL.Image.fromarray(array).convert(mode).save(path)
    return path


def test_every_value_but_0_marks(tmp_path):
    for value, mode in ((1, "L"), (255, "1"), (7, "RGB")):
        boxes, size_wh = mask_files.mask_boxes(
            put(tmp_path / "m.png", (3, 4, 9, 8), (20, 20, 30, 28), value=value, mode=mode), "dent"
        )
        assert [box.xyxy for box in boxes] == [(20, 20, 30, 28), (3, 4, 9, 8)]
        assert (size_wh, boxes[0].label) == ((40, 30), "dent")


def test_jpeg_blurs_edges(tmp_path):
    boxes, _ = mask_files.mask_boxes(put(tmp_path / "m.jpg", (8, 8, 24, 16), value=255))
    assert [box.xyxy for box in boxes] == [(8, 8, 24, 16)]


def test_dust_is_no_defect(tmp_path):
    boxes, _ = mask_files.mask_boxes(put(tmp_path / "m.png", (3, 4, 4, 7), (20, 20, 22, 22)))
    assert [box.xyxy for box in boxes] == [(20, 20, 22, 22)]


def test_a_folder_is_one_mask(tmp_path):
    put(tmp_path / "m/000.png", (3, 4, 9, 8))
    put(tmp_path / "m/001.png", (20, 20, 30, 28), (3, 4, 6, 8))
    assert len(mask_files.mask_boxes(tmp_path / "m")[0]) == 2
    put(tmp_path / "m/002.png", size_wh=(20, 20))
    with pytest.raises(ImageError, match="differs in size"):
        mask_files.read_mask(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="folder has none"):
        mask_files.read_mask(tmp_path / "empty")


def test_boxes_of(tmp_path):
    box = Box(x1=1, y1=1, x2=2, y2=2)
    mask = put(tmp_path / "m.png", (3, 4, 9, 8))
    assert mask_files.boxes_of(Sample(id="s", image="x.png", boxes=(box,), mask=mask)) == (box,)
    assert mask_files.boxes_of(Sample(id="s", image="x.png", anomalous=False)) == ()
    assert mask_files.boxes_of(Sample(id="s", image="x.png", anomalous=True)) is None
    (found,) = mask_files.boxes_of(Sample(id="s", image="x.png", anomalous=True, mask=mask, defect="dent"))
    assert (found.xyxy, found.label) == ((3, 4, 9, 8), "dent")
    with pytest.raises(ImageError, match=r"gone\.png"):
        mask_files.boxes_of(Sample(id="s", image="x.png", anomalous=True, mask=tmp_path / "gone.png"))
