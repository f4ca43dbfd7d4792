"""Evidence in what a run learns from: right, absent, wrong; and never of held-out parts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from anomalyr1.policy.taught import read_taught
from anomalyr1.training.evidence import (
    DROPPED,
    IMPOSSIBLE,
    RIGHT,
    WRONG,
    ClassBanks,
    measure_held_out,
    measure_training,
)
from anomalyr1.training.run import train
from anomalyr1.types import Box, InputError, Sample
from support import training_runs as runs
from support.parts import draw_part


def striped(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = np.full((96, 96, 3), 90.0) + rng.normal(0, 4, (96, 96, 1))
    pixels[:, ::6] += 80
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Plates, ten good and three bad, and ten good striped parts."""
    folder = tmp_path_factory.mktemp("parts")
    rows = [("plate", number, number >= 10) for number in range(13)]
    rows += [("stripes", number, False) for number in range(10)]
    result = []
    for category, number, bad in rows:
        path = folder / f"{category}{number}.png"
        picture = draw_part(number, defect=bad) if category == "plate" else striped(number)
        picture.save(path)
        boxes = (Box(x1=32, y1=16, x2=48, y2=32, label="spot"),) if bad else ()
        result.append(Sample(id=path.name, image=path, category=category, anomalous=bad, boxes=boxes))
    return result


@pytest.fixture(scope="module")
def banks(samples):
    return ClassBanks(samples)


def recipe(**changes):
    return runs.recipe("sft", prompt="ours", evidence=True, **changes)


def test_each_class_has_its_bank_of_good_parts_alone(samples, banks):
    assert sorted(banks.banks) == ["plate", "stripes"]
    names = {part.name for part in banks.banks["plate"].parts}
    assert names == {sample.image.as_posix() for sample in samples[:10]}


def test_bad_parts_are_strange_and_learned_ones_are_compared_with_the_others(samples, banks):
    everything = recipe(evidence_dropout=0, evidence_wrong=0)
    measured, counts = measure_training(samples, banks, everything)
    assert counts == {RIGHT: 23}
    scores = {sample.id: sample.evidence.score for sample in measured}
    bad = [scores[f"plate{number}.png"] for number in (10, 11, 12)]
    assert min(bad) > max(scores[f"plate{number}.png"] for number in range(10))
    assert all(sample.evidence.score > 1e-3 for sample in measured)  # a part beside itself would have 0


def test_some_carry_none_and_some_that_of_another_image(samples, banks):
    third = recipe(evidence_dropout=0.34, evidence_wrong=0.3)
    measured, counts = measure_training(samples, banks, third)
    assert set(counts) == {RIGHT, WRONG, DROPPED}
    assert sum(sample.evidence is None for sample in measured) == counts[DROPPED]
    assert measure_training(samples, banks, third)[0] == measured  # the same for a seed
    assert measure_training(samples, banks, third.model_copy(update={"seed": 7}))[0] != measured
    right = {sample.id: banks.measure(sample).evidence for sample in samples}
    wrong = [sample for sample in measured if sample.evidence and sample.evidence != right[sample.id]]
    assert len(wrong) == counts[WRONG]
    assert all(sample.evidence.same_kind for sample in wrong)  # nothing but the image tells that it is wrong


def test_an_only_good_part_carries_none(samples):
    """Beside itself it would be the least strange of all, which tells that it is good."""
    few = [samples[0], *samples[10:13]]
    everything = recipe(evidence_dropout=0, evidence_wrong=0)
    measured, counts = measure_training(few, ClassBanks(few), everything)
    assert [sample.evidence is None for sample in measured] == [True, False, False, False]
    assert counts == {RIGHT: 3, IMPOSSIBLE: 1}


def test_held_out_parts_carry_the_right_evidence_and_those_without_are_counted(samples, banks, tmp_path):
    draw_part(50, defect=True).save(tmp_path / "new.png")
    new = Sample(id="new", image=tmp_path / "new.png", category="plate", anomalous=True)
    other = new.model_copy(update={"id": "other", "category": "screw"})
    (measured, without), counts = measure_held_out([new, other], banks)
    assert measured.evidence.is_strange and without.evidence is None
    assert counts == {f"held-out {IMPOSSIBLE}": 1}


def test_without_a_good_part_there_is_no_evidence(samples):
    with pytest.raises(InputError, match="needs good parts"):
        ClassBanks([sample for sample in samples if sample.anomalous])


def test_shares_are_at_most_all(samples):
    with pytest.raises(ValueError, match="together at most 1"):
        recipe(evidence_dropout=0.7, evidence_wrong=0.7)


def test_a_run_says_so_in_its_prompts_and_to_who_loads_the_policy(samples, tmp_path):
    rows = [
        {"image": sample.image.name, "anomaly": int(sample.anomalous), "id": sample.id}
        for sample in samples[:13]
    ]
    index = samples[0].image.parent / "index.jsonl"
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"max_steps": 1}
    train(recipe(data=(f"index:{index}",), settings=settings), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "+evidence@" in record["prompt"]
    taught = read_taught(tmp_path / "run" / "final")
    assert taught.evidence and taught.style_id == record["prompt"]
    learned = [trace["id"] for trace in runs.lines(tmp_path / "run" / "learned.jsonl")]
    assert {row["id"] for row in rows if not row["anomaly"]} <= {name.rpartition("/")[2] for name in learned}
    held = recipe(data=(f"index:{index}",), held_out=(f"index:{index}",), settings=settings)
    with pytest.raises(InputError, match="held-out images are also learned from"):
        train(held, tmp_path / "leak")
    train(recipe(data=(f"index:{index}",), settings=settings), tmp_path / "again")
    assert runs.told(tmp_path / "run") == runs.told(tmp_path / "again")
    plain = runs.recipe("sft", prompt="ours", data=(f"index:{index}",), settings=settings)
    train(plain, tmp_path / "plain")  # control
    assert "+evidence" not in json.loads((tmp_path / "plain" / "run.json").read_text())["prompt"]
    assert runs.told(tmp_path / "plain") != runs.told(tmp_path / "run")
