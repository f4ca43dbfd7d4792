"""COCO, YOLO and index files: what is read, what is counted, what is refused."""

from __future__ import annotations

import json

import pytest

from anomalyr1 import data
from anomalyr1.types import InputError
from support import layouts


def test_coco(tmp_path):
    path = layouts.coco(tmp_path)
    good, bad, _ = samples = data.load(f"coco:{path}")
    assert (good.anomalous, good.boxes) == (False, ())
    assert (bad.anomalous, bad.defect) == (True, "scratch")
    assert {box.xyxy for box in bad.boxes} == {box.xyxy for box in layouts.drawn("washer", "scratch").boxes}
    assert {question.kind for question in bad.questions} >= {
        "anomaly detection",
        "defect classification",
        "grounding",
    }
    assert samples.notes["images without annotations, taken as good"] == 1
    assert data.load(f"coco:{path}", unannotated="unknown")[0].anomalous is None


def test_coco_counts_and_refuses(tmp_path):
    path = layouts.coco(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0] |= {"bbox": [1, 1, 0, 5], "segmentation": [[1, 1, 2, 2, 3, 1]]}
    content["annotations"].append({"image_id": 99, "category_id": 1, "bbox": [1, 1, 2, 2]})
    path.write_text(json.dumps(content))
    samples = data.load(f"coco:{path}")
    assert (samples[1].anomalous, samples[1].defect, samples[1].boxes) == (
        True,
        "scratch",
        None,
    )  # not good for want of a box
    notes = samples.notes
    assert notes["boxes without an area, left out"] == 1
    assert "annotations with a segmentation, of which the box is used" not in notes  # it is a mask
    assert notes["annotations of images that the file does not list, left out"] == 1
    content["annotations"][0]["category_id"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="category 7"):
        data.load(f"coco:{path}")
    for broken in ([], {"images": []}, {"images": [{}], "annotations": [], "categories": []}):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match="expected"):
            data.load(f"coco:{path}")


def test_root(tmp_path):
    path = layouts.coco(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere/a.json")
    assert all(sample.image.is_file() for sample in data.load(f"coco:{moved}", root=tmp_path))
    assert not any(sample.image.is_file() for sample in data.load(f"coco:{moved}"))


def test_coco_images_beside_the_folder_of_annotations(tmp_path):
    path = layouts.coco(tmp_path / "set")
    content = json.loads(path.read_text())
    for image in content["images"]:  # as COCO has them
        image["file_name"] = image["file_name"].rpartition("/")[2]
    (tmp_path / "set/annotations").mkdir()
    moved = tmp_path / "set/annotations/instances.json"
    moved.write_text(json.dumps(content))
    samples = data.load(f"coco:{moved}")
    assert all(sample.image.is_file() for sample in samples) and samples.name == "set"
    assert samples.notes["folders of images found beside the annotation file's"] == 1
    samples[0].image.unlink()  # a missing image hides no other
    assert [sample.image.is_file() for sample in data.load(f"coco:{moved}")] == [False] + [True] * (
        len(samples) - 1
    )
    content["images"][0]["file_name"] = "../images/0.png"  # no name leads the search
    moved.write_text(json.dumps(content))
    with pytest.raises(InputError, match="names a parent folder"):
        data.load(f"coco:{moved}")


def test_yolo_boxes_need_the_image(tmp_path):
    samples = data.load(f"yolo:{layouts.yolo(tmp_path)}")
    assert samples.notes["path in data.yaml, not used"] == 1
    good, bad, _ = samples
    assert (good.boxes, bad.boxes, bad.defect) == ((), None, "scratch")
    assert "grounding" not in {question.kind for sample in samples for question in sample.questions}
    assert all(
        any(question.kind == "grounding" for question in sample.questions) for sample in samples.with_boxes()
    )
    assert len(data.load(f"yolo:{tmp_path}", split="train")) == 3


def test_yolo_without_a_yaml_file(tmp_path):
    layouts.yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("scratch\nstain\n")
    assert [sample.defect for sample in data.load(f"yolo:{tmp_path}")] == [None, "scratch", "stain"]


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("0 0.1 0.1 0.4 0.1 0.4 0.4", "polygons, of which the box is used"),
        ("9 0.5 0.5 0.1 0.1", "boxes of classes without a name"),
        ("0 0.99 0.5 0.2 0.1", "boxes cut to the image"),
        ("0 0.5 0.5 0 0.1", "boxes without an area, left out"),
    ],
)
def test_yolo_counts(tmp_path, line, note):
    (layouts.yolo(tmp_path) / "labels/train/1.txt").write_text(line)
    samples = data.load(f"yolo:{tmp_path}", boxes=True)
    assert samples.notes[note] == 1
    assert (
        samples[1].anomalous is True and samples[1].boxes != ()
    )  # a box that cannot be used is no proof of a good part


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5",
        "a b c d e",
        "0 1.5 0.5 0.1 0.1",
        "0.5 0.5 0.5 0.1 0.1",
        "nan 0.5 0.5 0.1 0.1",
        "0 nan 0.5 0.1 0.1",
    ],
)
def test_yolo_refuses(tmp_path, line):
    (layouts.yolo(tmp_path) / "labels/train/1.txt").write_text(line)
    with pytest.raises(InputError, match=r"line 1 of .*1.txt"):
        data.load(f"yolo:{tmp_path}")


def test_yolo_folders(tmp_path):
    layouts.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: ../images/train\nnames: {0: scratch, 1: stain}")
    samples = data.load(f"yolo:{tmp_path}")
    assert samples.notes["folders in data.yaml that start with ../, taken from its own folder"] == 1
    assert samples[1].defect == "scratch"
    for train, said in (
        ("../../etc", "parent folder"),
        ("/etc", "absolute"),
        ("train.txt", "lists of images"),
    ):
        (tmp_path / "data.yaml").write_text(f"train: {train}")
        with pytest.raises(InputError, match=said):
            data.load(f"yolo:{tmp_path}")
    (tmp_path / "data.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        data.load(f"yolo:{tmp_path}")


def test_index(tmp_path):
    good, bad, _ = data.load(f"index:{layouts.index(tmp_path)}")
    assert (bad.id, bad.defect, bad.mask) == ("1", "scratch", tmp_path / "masks/1.png")
    assert all(box.label == "scratch" for box in bad.boxes)
    assert {question.kind for question in good.questions} == {"anomaly detection", "grounding"}


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"image": "a.png", "anomaly": 2},
        {"image": "a.png", "anomaly": 1, "boxes": [[1, 1, 1, 2]]},
        {"image": "a.png", "anomaly": 1, "boxes": [[1, 1, 2, 2]], "defects": ["a", "b"]},
        {"image": "a.png", "anomaly": 1, "boxes": "1 1 2 2"},
        {"image": "a.png", "anomaly": 1, "boxes": 3.5},
        {"image": "a.png", "anomaly": 1, "boxes": [[1e300, 1, 1.1e300, 2]]},
        {"image": "a.png", "anomaly": 1, "defects": "dent"},
        {"image": "a.png", "anomaly": 1, "boxes": [[0, 0, float("inf"), 1]]},
        {"image": "a.png", "label": "defect"},  # not read, so the verdict would be lost
        {"image": "a.png", "anomoly": 1},
    ],
)
def test_index_refuses(tmp_path, row):
    (tmp_path / "index.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="line 1"):
        data.load(f"index:{tmp_path}")


def test_an_unknown_key_of_an_index_is_named(tmp_path):
    (tmp_path / "index.jsonl").write_text('{"image": "a.png", "anomoly": 1}')
    with pytest.raises(InputError, match="'anomoly', which is not read; did you mean 'anomaly'"):
        data.load(f"index:{tmp_path}")
