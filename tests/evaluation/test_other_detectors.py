"""Scores and maps of other detectors become inspections; what is wrong with them is named by file, row and
column.
"""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from anomalyr1 import boxes, records
from anomalyr1.evaluation import detection, localisation
from anomalyr1.evaluation import other_detectors as adapters
from anomalyr1.types import InputError, Sample, SetupError
from support import recordings


def scores(path, text="sample_id,score\na,0.2\nb,0.9\n"):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"columns sample_id and score, got none"),
        ("id,score\na,1\n", r"got id, score"),
        (
            "sample_id,score\na,0.5\nb,high\n",
            r"line 3 of '.*s\.csv', column score: expected a finite number, got 'high'",
        ),
        ("sample_id,score\na,nan\n", r"line 2 .* column score"),
        ("sample_id,score\na\n", r"line 2 .* column score: .* got 'None'"),
        ("sample_id,score\n,1\n", r"line 2 .* column sample_id"),
        (
            "sample_id,score,verdict\na,1,bad\n",
            r"line 2 .* column verdict: expected good, defect, unsure or nothing, got 'bad'",
        ),
        ("sample_id,score\na,1\na,2\n", r"sample 'a' twice"),
        ("sample_id,score\n", r"holds no scores"),
        ('sample_id,score\n"a,1\n', r"cannot be read"),
    ],
)
def test_what_is_wrong_with_a_csv_file(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        adapters.read_scores(scores(tmp_path / "s.csv", text))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"scores": np.ones(2)}, r"no array 'sample_ids', it has scores"),
        (
            {"sample_ids": np.array(["a"]), "scores": np.ones(2)},
            r"array 'scores' .* shape \(2,\), expected numbers of shape \(1,\)",
        ),
        ({"sample_ids": np.array([1]), "scores": np.ones(1)}, r"array 'sample_ids' .* expected strings"),
        (
            {"sample_ids": np.array(["a", "b"]), "scores": np.array([1, np.inf])},
            r"row 1 of array 'scores'.* got 'inf'",
        ),
        (
            {"sample_ids": np.array(["a"], dtype=object), "scores": np.ones(1)},
            r"is object of shape",
        ),  # no pickles
    ],
)
def test_what_is_wrong_with_an_npz_file(tmp_path, arrays, said):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(InputError, match=said):
        adapters.read_scores(tmp_path / "s.npz")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((2, 2, 2)), r"shape \(2, 2, 2\), expected numbers of shape \(H, W\)"),
        (np.array([["x"]]), r"expected numbers"),
        (np.array([[0, 1], [np.nan, 1]]), r"array 'a' of '.*m\.npz' is nan at row 1, column 0"),
    ],
)
def test_what_is_wrong_with_a_map(tmp_path, array, said):
    np.savez(tmp_path / "m.npz", a=array)
    with pytest.raises(InputError, match=said):
        adapters.Maps(tmp_path / "m.npz")["a"]


def test_files_that_are_no_maps(tmp_path):
    np.save(tmp_path / "one.npy", np.ones((2, 2)))
    for name, said in (("one.npy", "one array"), ("gone.npz", "cannot be read")):
        with pytest.raises(InputError, match=said):
            adapters.Maps(tmp_path / name)
    np.savez(tmp_path / "m.npz", c=np.ones((2, 2)))
    with pytest.raises(InputError, match=r"1 maps .* have no score .* 'c'"):
        adapters.convert(scores(tmp_path / "s.csv"), tmp_path / "o.jsonl", "x", maps=tmp_path / "m.npz")


def test_verdicts_and_scaling(tmp_path):
    path = scores(tmp_path / "s.csv", "sample_id,score,verdict\na,-1,good\nb,3,\n")
    run = adapters.convert(path, tmp_path / "plain.jsonl", "PatchCore")
    assert [(one.verdict, one.score) for one in run] == [("good", 0), ("unsure", 1)]
    assert (
        "no threshold" in run[1].reason
        and "scaled from -1..3" in run[1].score_from
        and run[1].counts == {"score_scaled": 1}
    )
    strict = adapters.convert(path, tmp_path / "strict.jsonl", "PatchCore", threshold=3)
    assert [one.verdict for one in strict] == ["good", "defect"]
    fingerprint, read = records.read(tmp_path / "strict.jsonl")
    assert (fingerprint.model, fingerprint.engine, fingerprint.threshold) == (
        "PatchCore",
        "scores",
        "score from 3",
    ) and read == strict
    with pytest.raises(InputError, match="exists"):
        adapters.convert(path, tmp_path / "strict.jsonl", "PatchCore")
    unscaled = adapters.convert(scores(tmp_path / "t.csv"), tmp_path / "t.jsonl", "x")
    assert [one.score for one in unscaled] == [0.2, 0.9] and not unscaled[0].counts


def test_a_file_of_scores_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, out = scores(tmp_path / "s.csv"), tmp_path / "o.jsonl"

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(SetupError, match="No space left"):
            adapters.convert(path, out, "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.csv"]  # so the same command goes on
    assert adapters.convert(path, out, "x") == records.read(out)[1]


def test_anomalib_predictions_become_inspections_with_boxes(tmp_path):
    """Batches as `anomalib.engine.Engine.predict` returns them, in both shapes of its maps."""
    import torch

    paths = [
        recordings.draw(tmp_path / f"{name}.png", spot)
        for name, spot in (("a", (60, 40)), ("b", None), ("c", (20, 20)))
    ]
    low = torch.zeros(3, 42, 56)
    low[0, 20:27, 30:40], low[2, 10:17, 10:20] = 1.0, 0.8
    score, label = torch.tensor([0.9, 0.1]), torch.tensor([True, False])
    batches = [
        SimpleNamespace(
            image_path=list(map(str, paths[:2])),
            pred_score=score,
            pred_label=label,
            anomaly_map=low[:2, None],
        ),
        SimpleNamespace(
            image_path=[str(paths[2])],
            pred_score=torch.tensor([[0.7]]),
            pred_label=label[:1],
            anomaly_map=low[2:],
        ),
    ]
    table, maps = adapters.save_anomalib(batches, tmp_path)
    made = adapters.convert(table, tmp_path / "i.jsonl", "PaDiM", maps=maps, map_threshold=0.5)
    assert [one.verdict for one in made] == ["defect", "good", "defect"]
    assert [len(one.boxes) for one in made] == [1, 0, 1] == [len(one.masks) for one in made]
    assert boxes.iou(boxes.to_array(made[0].boxes), [[60, 40, 80, 54]])[0, 0] > 0.8
    assert boxes.decode_mask(made[0].masks[0]).shape == (84, 112)
    samples = [
        Sample(id=f"{i}", image=path, anomalous=i != 1, boxes=() if i == 1 else made[i].boxes)
        for i, path in enumerate(paths)
    ]
    pairs = list(zip(samples, made, strict=True))
    assert detection.detect(pairs, repeats=5).overall.auroc.value == 1
    assert localisation.localise(pairs, adapters.Maps(maps), repeats=5).sizes["all"].box_miou.value == 1
    with pytest.raises(InputError, match=r"batch 1 .* 1 image paths and 2 scores"):
        adapters.save_anomalib([SimpleNamespace(image_path=["x"], pred_score=torch.zeros(2))], tmp_path)
