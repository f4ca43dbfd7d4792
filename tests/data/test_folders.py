"""Folder layouts: what each detail of a layout becomes."""

from __future__ import annotations

import pytest

from anomalyr1 import data
from anomalyr1.types import InputError
from support import layouts


def test_mvtec(tmp_path):
    samples = {sample.id: sample for sample in data.load(f"mvtec:{layouts.mvtec(tmp_path / 'set')}")}
    bad = samples["MVTec-AD/washer/test/scratch/000.png"]
    assert (bad.dataset, bad.category, bad.defect, bad.anomalous, bad.boxes) == (
        "MVTec-AD",
        "washer",
        "scratch",
        True,
        None,
    )
    assert bad.mask == tmp_path / "set/washer/ground_truth/scratch/000_mask.png"
    good = samples["MVTec-AD/washer/train/good/000.png"]
    assert (good.defect, good.mask, good.boxes) == (None, None, ())
    assert {question.kind for question in bad.questions} == {
        "anomaly detection",
        "object classification",
        "defect classification",
    }


def test_one_category_may_be_named(tmp_path):
    samples = data.load(f"mvtec:{layouts.mvtec(tmp_path / 'set') / 'washer'}")
    assert {sample.category for sample in samples} == {"washer"}
    assert samples[0].id.startswith("MVTec-AD/washer/train/")


def test_loco_masks_are_merged_and_logical_anomalies_marked(tmp_path):
    samples = data.load(f"loco:{layouts.loco(tmp_path / 'set')}", boxes=True)
    assert samples.notes["logical anomalies"] == 2
    for sample in samples:
        assert sample.logical == (sample.defect == "logical_anomalies")
        if sample.anomalous:
            assert sample.mask.is_dir()
            assert "defect classification" not in {
                question.kind for question in sample.questions
            }  # "structural" names no type


def test_visa_as_published(tmp_path):
    samples = {sample.id: sample for sample in data.load(f"visa:{layouts.visa(tmp_path / 'set')}")}
    assert samples["VisA/washer/Data/Images/Anomaly/000.JPG"].defect == "bent"
    two = samples["VisA/washer/Data/Images/Anomaly/001.JPG"]
    assert two.defect == "melt, scratch"
    assert two.mask == tmp_path / "set/washer/Data/Masks/Anomaly/001.png"
    (tmp_path / "set/split_csv/1cls.csv").unlink()
    with pytest.raises(InputError, match="it has no splits"):
        data.load(f"visa:{tmp_path / 'set'}", split="test")


def test_visa_as_converted(tmp_path):
    samples = data.load(f"visa:{layouts.mvtec(tmp_path / 'set', '{}.png', '.jpg')}")
    assert {sample.dataset for sample in samples} == {"VisA"}
    assert all(sample.mask for sample in samples if sample.anomalous)


def test_a_folder_without_masks_is_asked_for_the_verdict_only(tmp_path):
    samples = data.load(f"folder:{layouts.labelled_folder(tmp_path / 'parts', masks=False)}")
    assert samples.name == "parts"
    assert [[question.kind for question in sample.questions] for sample in samples] == [
        ["anomaly detection"]
    ] * 3
    assert samples.notes["anomalous images without a mask"] == 2
    with_masks = data.load(f"folder:{layouts.labelled_folder(tmp_path / 'more')}")
    assert any(
        question.kind == "defect classification" for sample in with_masks for question in sample.questions
    )


def test_an_empty_mask_is_no_proof_that_there_is_nothing(tmp_path):
    root = layouts.labelled_folder(tmp_path / "set")
    layouts.put(layouts.drawn("washer", "scratch").mask & False, root / "masks/scratch/b.png")
    (sample,) = (one for one in data.load(f"folder:{root}", boxes=True) if one.defect == "scratch")
    assert sample.boxes is None
    assert "grounding" not in {question.kind for question in sample.questions}


@pytest.mark.parametrize("good", ["good", "OK", "normal"])
def test_names_of_good(tmp_path, good):
    layouts.image(tmp_path / good / "a.png")
    assert [sample.anomalous for sample in data.load(f"folder:{tmp_path}")] == [False]


def test_what_is_left_out_is_counted(tmp_path):
    root = layouts.labelled_folder(tmp_path / "set")
    (root / "good/notes.txt").write_text("x")
    (root / "good/.hidden.png").write_text("x")
    layouts.image(root / "loose.png")
    samples = data.load(f"folder:{root}")
    assert samples.notes["files that are no images, left out"] == 2
    assert samples.notes["images outside the folders of good and of defects, left out"] == 1
    root = layouts.mvtec(tmp_path / "mvtec")
    layouts.image(root / "washer/test/loose.png")
    (root / "washer/ground_truth/scratch/000_mask.png").unlink()
    samples = data.load(f"mvtec:{root}")
    assert samples.notes == {
        "images outside the folders of good and of defects, left out": 1,
        "anomalous images without a mask": 1,
    }


def test_a_link_that_leads_back_ends(tmp_path):
    root = layouts.labelled_folder(tmp_path / "set")
    (root / "good/again").symlink_to(root / "good", target_is_directory=True)
    assert len(data.load(f"folder:{root}")) == 3


def test_nothing_to_load_is_said(tmp_path):
    with pytest.raises(InputError, match="good/ with good images"):
        data.load(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("parts", "part"),
        ("Test_02", "part"),
        ("2024-05", "part"),
        ("images (3)", "part"),
        ("gear housing", "gear housing"),
    ],
)
def test_the_name_of_a_folder_is_not_always_that_of_the_part(tmp_path, folder, name):
    layouts.image(tmp_path / folder / "good/a.png")
    assert data.load(f"folder:{tmp_path / folder}")[0].category == name
    assert data.load(f"folder:{tmp_path / folder}", name="screw")[0].category == "screw"


def test_categories_with_names_take_no_other(tmp_path):
    place = layouts.mvtec(tmp_path / "set")
    with pytest.raises(InputError, match="names its categories itself"):
        data.load(f"mvtec:{place}", name="screw")
    named = data.load(f"mvtec:{place / 'washer'}", name="screw")
    assert {sample.category for sample in named} == {"screw"} and named[0].id.startswith("MVTec-AD/washer/")
