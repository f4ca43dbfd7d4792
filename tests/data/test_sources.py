"""Specs as verbs name them: a data set, drawn parts, a side of a split; boxes by need; the face of data/."""

from __future__ import annotations

import subprocess
import sys

import pytest

from anomalyr1 import data
from anomalyr1.data import splits
from anomalyr1.data.protocols import SplitPlan
from anomalyr1.data.sources import load_source, load_sources
from anomalyr1.types import InputError
from support import layouts

DRAWN = "drawn:dev?n=12&seed=3"


@pytest.fixture
def split(tmp_path):
    """A split of drawn parts, as `anomalyr1 data split` writes it."""
    samples = load_source(DRAWN, {}, tmp_path / "whole").samples
    path = tmp_path / "split.json"
    splits.write(path, splits.make(samples, SplitPlan(protocol="share", share=0.5), DRAWN, {}))
    return path


def test_drawn_parts_are_drawn_into_the_folder_unless_an_option_names_another(tmp_path):
    source = load_source(DRAWN, {}, tmp_path / "a")
    assert len(source.samples) == 12 and source.split is None
    assert all(sample.image.is_relative_to(tmp_path / "a") for sample in source.samples)
    elsewhere = load_source(DRAWN, {"folder": tmp_path / "b"}, tmp_path / "a").samples
    assert all(sample.image.is_relative_to(tmp_path / "b") for sample in elsewhere)
    with pytest.raises(InputError, match="folder="):
        load_source(DRAWN)


def test_a_side_of_a_split(split, tmp_path):
    manifest = splits.read(split)
    sides = {side: load_source(f"split:{split}", {}, tmp_path / "x", side) for side in ("train", "test")}
    for side, entries in (("train", manifest.train), ("test", manifest.test)):
        assert [sample.id for sample in sides[side].samples] == [entry.id for entry in entries]
        assert sides[side].split == manifest
    assert load_source(f"split:{split}", {}, tmp_path / "x") == sides["test"]
    assert load_sources([f"split:{split}"], tmp_path / "x") == sides["train"].samples


def test_what_a_split_sets_is_not_set_again(tmp_path):
    spec = f"mvtec:{layouts.mvtec(tmp_path / 'set')}"
    manifest = splits.make(data.load(spec), SplitPlan(protocol="share", share=0.5), spec, {"seed": "3"}, True)
    splits.write(tmp_path / "s.json", manifest)
    assert len(load_source(f"split:{tmp_path / 's.json'}", {"links": "true"}).samples) == len(manifest.test)
    with pytest.raises(InputError, match="sets seed itself"):
        load_source(f"split:{tmp_path / 's.json'}", {"seed": 4})


@pytest.mark.parametrize(
    ("boxes", "options", "opened"),
    [
        ("always", {}, True),
        ("always", {"boxes": False}, True),  # training needs them
        ("unless MMAD", {}, True),
        ("unless MMAD", {"boxes": False}, False),  # the options say how
        ("as asked", {}, False),
        ("as asked", {"boxes": True}, True),
    ],
)
def test_masks_are_opened_by_need(tmp_path, boxes, options, opened):
    spec = f"mvtec:{layouts.mvtec(tmp_path / 'set')}"
    samples = load_source(spec, options, boxes=boxes).samples
    assert all((sample.boxes is not None) == (opened or not sample.anomalous) for sample in samples)


def test_mmad_may_be_there_without_its_masks(tmp_path):
    name = "VisA/candle/test/bad/1.png"
    spec = f"mmad:{layouts.mmad(tmp_path, **{name: layouts.entry(name, mask_path='ground_truth/1.png')})}"
    assert load_source(spec).samples[0].boxes is None
    with pytest.raises(ValueError, match=r"1\.png"):
        load_source(spec, boxes="always")


def test_ids_of_several_specs_come_once(tmp_path):
    spec = f"folder:{layouts.labelled_folder(tmp_path / 'set')}"
    assert len(load_sources([spec, DRAWN], tmp_path / "drawn")) == 3 + 12
    with pytest.raises(InputError, match="3 ids come more than once"):
        load_sources([spec, spec], tmp_path / "drawn")


def test_the_face_lists_what_is_public():
    for name in data.__all__:
        assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="attribute loads"):
        data.loads  # noqa: B018  # that is the test


def test_importing_the_face_loads_nothing_heavy():
    heavy = ("numpy", "cv2", "pydantic", "yaml", "torch")
    code = f"import sys, anomalyr1.data; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
