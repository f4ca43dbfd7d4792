"""Samples: a sequence that builds lazily, cheap to select from and to send to another process."""

from __future__ import annotations

import pickle

import pytest

from anomalyr1 import data
from anomalyr1.data.samples import Samples, require_unique
from anomalyr1.types import InputError
from support import layouts


@pytest.fixture
def samples(tmp_path):
    return data.load(f"mvtec:{layouts.mvtec(tmp_path / 'set')}")


def test_a_sequence(samples):
    everything = list(samples)
    assert [samples[i] for i in range(len(samples))] == everything
    assert samples[-2] == everything[-2]
    assert list(samples[1:6:2]) == everything[1:6:2]
    assert list(samples.select([5, 0, 0])) == [everything[5], everything[0], everything[0]]
    assert list(samples[2:].select([1])) == [everything[3]]
    assert list(reversed(samples)) == everything[::-1]
    assert everything[3] in samples
    with pytest.raises(IndexError):
        samples[len(samples)]
    with pytest.raises(IndexError):
        samples.select([99])


def test_selections_keep_spec_notes_and_boxes(samples):
    part = samples.with_boxes()[::2].select([0, 1])
    assert (part.spec, part.name, part.notes) == (samples.spec, samples.name, samples.notes)
    assert all(sample.boxes is not None for sample in part)
    assert list(part.without_opening()) == list(samples[::2].select([0, 1]))
    with pytest.raises(TypeError):
        samples.notes["x"] = 1


def test_pickling(samples):
    assert list(pickle.loads(pickle.dumps(samples[3:]))) == list(samples[3:])


def test_a_selection_sends_only_its_rows(samples):
    assert len(pickle.dumps(samples[:1])) < len(pickle.dumps(samples)) / 2


def test_rows_and_notes_stay_what_they_were(samples):
    rows = [{"n": n} for n in range(4)]
    counted = Samples("x:y", "x", rows, lambda row, _: row["n"], {"left out": 2, "never seen": 0})
    assert list(counted.select([3, 1])[1:]) == [1] and list(counted) == [0, 1, 2, 3]
    assert dict(counted.notes) == dict(counted[:1].notes) == {"left out": 2}


def test_ids_come_once():
    with pytest.raises(InputError, match=r"1 ids come more than once: 'a'"):
        require_unique(["a", "b", "a"], "x")
