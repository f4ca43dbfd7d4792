"""ELPV from its package, and drawn parts."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest

from anomalyr1 import data
from anomalyr1.drawn import dataset as drawn_dataset
from anomalyr1.prompts import GROUNDING_TEXT
from anomalyr1.types import SetupError

needs_elpv = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="needs the package elpv-dataset"
)


@needs_elpv
def test_elpv():
    samples = data.load("elpv")
    assert len(samples) == 2624
    assert Counter(sample.anomalous for sample in samples) == {False: 1508, True: 715, None: 401}
    assert samples.notes["cells of unsure verdict"] == 401
    assert samples[0].image.is_file()
    kinds = {question.kind for sample in samples for question in sample.questions}
    assert kinds == {"anomaly detection", "object classification"}


@needs_elpv
def test_a_threshold_decides_unsure_cells():
    assert Counter(sample.anomalous for sample in data.load("elpv", threshold=0.5)) == {
        False: 1803,
        True: 821,
    }


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="pip install elpv-dataset"):
        data.load("elpv")


def test_drawn(tmp_path):
    samples = data.load("drawn:dev?n=4&seed=2", folder=tmp_path)
    assert list(samples) == drawn_dataset.write("drawn:dev?n=4&seed=2", tmp_path, GROUNDING_TEXT)
    assert all(sample.image.is_file() for sample in samples)
