"""Exports come back through the loaders; what a format cannot hold is counted and named."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from anomalyr1 import data
from anomalyr1.data.export import FORMATS, export
from anomalyr1.data.mask_files import read_mask
from anomalyr1.drawn import dataset as drawn_dataset
from anomalyr1.types import Box, InputError, Question, Sample, SetupError
from support import layouts


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return drawn_dataset.write("drawn:seen?n=12&seed=4", tmp_path_factory.mktemp("drawn"), "Where?")


def bytes_of(path):
    return path.read_bytes()


def test_jsonl_holds_everything(drawn, tmp_path):
    got = export(drawn, "jsonl", tmp_path / "out")
    assert (got.samples, got.dropped, got.left_out) == (12, {}, {})
    back = data.load(got.load)
    for one, other in zip(drawn, back, strict=True):
        paths = {"image", "references", "mask"}
        assert one.model_dump(exclude=paths) == other.model_dump(exclude=paths)
        assert bytes_of(one.image) == bytes_of(other.image) and other.image.is_relative_to(tmp_path / "out")
        assert [bytes_of(path) for path in one.references] == [bytes_of(path) for path in other.references]
        assert (one.mask is None) == (other.mask is None) and (
            one.mask is None or bytes_of(one.mask) == bytes_of(other.mask)
        )


LAYOUTS = {
    "mvtec": layouts.mvtec, "goodsad": lambda root: layouts.mvtec(root, "{}.png", ".jpg"),
    "loco": layouts.loco, "visa": layouts.visa,
    "folder": layouts.labelled_folder, "coco": layouts.coco, "yolo": layouts.yolo, "index": layouts.index,
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_comes_back_from_our_json_lines(tmp_path, layout):
    made = LAYOUTS[layout](tmp_path / "in")
    samples = data.load(f"{layout}:{made}", boxes=True)
    assert len(samples) > 0
    back = data.load(export(samples, "jsonl", tmp_path / "out").load, boxes=True)
    paths = {"image", "references", "mask"}
    assert [one.model_dump(exclude=paths) for one in samples] == [
        one.model_dump(exclude=paths) for one in back
    ]
    for one, other in zip(samples, back, strict=True):
        assert bytes_of(one.image) == bytes_of(other.image)
        assert one.mask is None or (read_mask(one.mask) == read_mask(other.mask)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_every_layout_keeps_its_verdicts_and_boxes_in_coco_and_yolo(tmp_path, layout, form):
    samples = data.load(f"{layout}:{LAYOUTS[layout](tmp_path / 'in')}", boxes=True)
    got = export(samples, form, tmp_path / "out")
    assert got.samples + sum(got.left_out.values()) == len(samples)
    digests = {(bytes_of(one.image), one.anomalous, tuple(rounded(one.boxes or ()))) for one in samples}
    for one in data.load(got.load, boxes=True):
        boxes = tuple((label if label != "defect" else "", *xyxy) for label, *xyxy in rounded(one.boxes))
        assert (bytes_of(one.image), one.anomalous, boxes) in digests


def rounded(boxes):
    return [(box.label, *(round(value, 4) for value in box.xyxy)) for box in boxes]


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_coco_and_yolo_hold_images_verdicts_and_boxes_and_name_what_they_lose(drawn, tmp_path, form):
    got = export(drawn, form, tmp_path / "out")
    masks = {} if form == "coco" else {"mask": sum(one.mask is not None for one in drawn), "dataset": 12}
    assert (
        got.dropped
        == {
            "category": 12,
            "id": 12,
            "knowledge": 12,
            "logical": sum(one.logical for one in drawn),
            "questions": 12,
            "references": 12,
        }
        | masks
    )
    assert (got.samples, got.left_out) == (12, {})
    back = {one.image.name: one for one in data.load(got.load, boxes=True)}
    assert len(back) == 12
    for one in drawn:
        other = back[one.image.name]
        assert (one.anomalous, one.defect) == (other.anomalous, other.defect)
        assert rounded(one.boxes) == rounded(other.boxes)
        assert bytes_of(one.image) == bytes_of(other.image)


def test_cocos_own_library_reads_boxes_and_masks(drawn, tmp_path):
    from pycocotools.coco import COCO

    export(drawn, "coco", tmp_path / "out")
    coco = COCO(str(tmp_path / "out" / "annotations.json"))
    for one in drawn:
        (image,) = (row for row in coco.dataset["images"] if row["file_name"].endswith(one.image.name))
        rows = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert [coco.cats[row["category_id"]]["name"] for row in rows] == [box.label for box in one.boxes]
        if one.mask:
            union = np.any([coco.annToMask(row) for row in rows], axis=0)
            assert (union == read_mask(one.mask)).all()


def test_a_hugging_face_data_set_holds_everything(drawn, tmp_path):
    datasets = pytest.importorskip("datasets")
    got = export(drawn, "hf", tmp_path / "out")
    assert (got.samples, got.dropped, got.left_out) == (12, {}, {})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset"]
    for one, row in zip(drawn, datasets.load_from_disk(str(tmp_path / "out" / "dataset")), strict=True):
        assert (row["id"], row["anomalous"], row["defect"], row["knowledge"]) == (
            one.id,
            one.anomalous,
            one.defect,
            one.knowledge,
        )
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(one.image)))
        assert [Box(**box) for box in row["boxes"]["boxes"]] == list(one.boxes) and row["boxes"]["known"]
        for question, asked in zip(one.questions, row["questions"], strict=True):
            boxes = tuple(Box(**box) for box in asked["boxes"]["boxes"]) if asked["boxes"]["known"] else None
            assert Question(**(asked | {"options": tuple(asked["options"]), "boxes": boxes})) == question


@pytest.fixture
def odd(tmp_path):
    """A good image, and samples that not every format can hold."""
    names = ["good.png", "unknown.png", "nowhere.png", "twin.png", "twin.bmp"]
    for i, name in enumerate(names):
        Image.new("RGB", (40, 30), (i * 40, 0, 0)).save(tmp_path / name)
    box = (Box(x1=30, y1=10, x2=44, y2=20),)
    kinds = [False, None, True, True, True]
    boxes = [(), None, None, box, box]
    return [
        Sample(id=name, image=tmp_path / name, anomalous=kind, boxes=known)
        for name, kind, known in zip(names, kinds, boxes, strict=True)
    ]


def test_what_would_come_back_as_something_else_is_left_out(odd, tmp_path):
    got = export([*odd, odd[0].model_copy(update={"id": "again"})], "coco", tmp_path / "coco")
    assert got.left_out == {
        "not known to be good or anomalous": 1,
        "anomalous without boxes, which would read as good": 1,
        "another question about an image that is exported already": 1,
    }
    assert got.samples == 3 and [one.anomalous for one in data.load(got.load)] == [False, True, True]
    got = export(odd, "yolo", tmp_path / "yolo")
    assert got.dropped["boxes (cut to the image)"] == 1
    assert got.left_out["named like another image but for its suffix, so both would share their labels"] == 1
    outside = odd[3].model_copy(update={"boxes": (Box(x1=50, y1=0, x2=60, y2=9),)})
    assert "outside the image" in next(iter(export([odd[0], outside], "yolo", tmp_path / "outside").left_out))
    with pytest.raises(InputError, match="nothing is left to export to yolo: 1 not known"):
        export(odd[1:2], "yolo", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_label_that_no_name_tells_is_dropped_and_counted(odd, tmp_path):
    named = odd[3].model_copy(update={"defect": "dent"})
    assert export([named], "coco", tmp_path / "out").dropped == {"defect": 1, "id": 1}
    boxes = (Box(x1=1, y1=1, x2=9, y2=9, label="dent"), Box(x1=11, y1=1, x2=19, y2=9, label="crack"))
    both = odd[3].model_copy(update={"defect": "dent, crack", "boxes": boxes})
    assert export([both], "coco", tmp_path / "both").dropped == {"id": 1}


def test_masks_that_are_folders(odd, tmp_path):
    (tmp_path / "parts").mkdir()
    for i in range(2):
        part = np.zeros((30, 40), np.uint8)
        part[2:9, 3 + 20 * i : 12 + 20 * i] = 255
        Image.fromarray(part).save(tmp_path / "parts" / f"{i}.png")
    sample = odd[3].model_copy(update={"mask": tmp_path / "parts", "boxes": None})
    got = export([sample], "jsonl", tmp_path / "jsonl")
    assert (read_mask(data.load(got.load)[0].mask) == read_mask(tmp_path / "parts")).all()
    assert len(data.load(export([sample], "yolo", tmp_path / "yolo").load, boxes=True)[0].boxes) == 2
    datasets = pytest.importorskip("datasets")
    export([sample], "hf", tmp_path / "hf")
    row = datasets.load_from_disk(str(tmp_path / "hf" / "dataset"))[0]
    assert (np.asarray(row["mask"]) > 0).sum() == read_mask(tmp_path / "parts").sum()


ODD_NAMES = [
    "new\nline.png",
    "-rf.png",
    "\u202eleft.png",
    "n" * 251 + ".png",
    os.fsdecode(b"caf\xe9.png"),
    "a b#c%20.png",
    "C:d.png",
]


@pytest.mark.parametrize("form", ["jsonl", "coco", "yolo"])
def test_odd_file_names_come_back(tmp_path, form):
    samples = []
    for i, name in enumerate(ODD_NAMES):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (i * 30, 0, 0)).save(tmp_path / "in" / name, format="PNG")
        samples.append(
            Sample(
                id=name,
                image=tmp_path / "in" / name,
                anomalous=bool(i),
                boxes=(Box(x1=1, y1=1, x2=9, y2=9),) if i else (),
            )
        )
    back = list(data.load(export(samples, form, tmp_path / "out").load, boxes=True))
    assert {one.image.name: bytes_of(one.image) for one in back} == {
        one.image.name: bytes_of(one.image) for one in samples
    }


def test_text_that_is_not_utf_8_is_replaced_for_hugging_face_and_counted(odd, tmp_path):
    pytest.importorskip("datasets")
    assert export([odd[0].model_copy(update={"id": "a\udce9"})], "hf", tmp_path / "out").dropped == {
        "bytes that are not UTF-8 (replaced)": 1
    }


@pytest.mark.parametrize("form", FORMATS)
def test_a_failure_leaves_nothing(odd, tmp_path, form, monkeypatch):
    gone = odd[0].model_copy(update={"id": "gone", "image": tmp_path / "gone.png"})
    lost = odd[0].model_copy(update={"id": "lost", "image": tmp_path / "lost.png"})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"2 files are missing.*gone\.png.*lost\.png"):
        export([odd[0], gone, lost], form, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
    with monkeypatch.context() as patch:  # a file that goes away later
        patch.setattr("anomalyr1.data.export._require_files", lambda *_: None)
        with pytest.raises((InputError, SetupError), match=r"gone\.png"):
            export([odd[0], gone], form, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists"):
        export(odd, form, tmp_path / "out")


def test_unknown_formats_and_a_missing_package(odd, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="coco, yolo, jsonl, hf"):
        export(odd, "voc", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SetupError, match="pip install"):
        export(odd, "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_exports_are_the_same_to_the_byte(drawn, tmp_path):
    for name in ("a", "b"):
        export(drawn, "coco", tmp_path / name)
    assert (tmp_path / "a" / "annotations.json").read_bytes() == (
        tmp_path / "b" / "annotations.json"
    ).read_bytes()
    assert json.loads((tmp_path / "a" / "annotations.json").read_bytes())["info"]["description"] == "drawn"
