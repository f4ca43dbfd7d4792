"""Labelled defects beside good parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from anomalyr1.evidence import bank_file
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.features import Features
from anomalyr1.evidence.head import DISTANCES, fit, learned_beside, vector_of
from anomalyr1.evidence.learning import Settings
from anomalyr1.types import InputError
from support.parts import draw_part, write_parts

SETTINGS = Settings(short_side=96, max_patches=500)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("good"), 12)


@pytest.fixture(scope="module")
def bank(good):
    return Bank.learn(good, SETTINGS)


@pytest.fixture(scope="module")
def defective(tmp_path_factory):
    """Parts whose defect the bank does not see: they are a little darker as a whole."""
    folder = tmp_path_factory.mktemp("bad")
    for number in range(8):
        draw_part(200 + number).point(lambda value: value * 0.93).save(folder / f"{number}.png")
    return sorted(folder.glob("*.png"))


def darker(number):
    return draw_part(number).point(lambda value: value * 0.93)


def test_what_defective_parts_teach_is_used_and_kept(bank, defective, tmp_path):
    taught = bank.with_defects(defective)
    assert taught.head.is_better and taught.head.auroc > taught.head.bank_auroc
    scores = [taught.measure(draw_part(number)).evidence.score for number in range(300, 306)]
    dark = [taught.measure(darker(number)).evidence.score for number in range(300, 306)]
    assert np.mean([a < b for a, b in zip(scores, dark, strict=True)]) >= 5 / 6
    taught.write(tmp_path / "taught.bank")
    again = Bank.read(tmp_path / "taught.bank")
    assert again.head == taught.head and again.digest == taught.digest != bank.digest
    evidence = again.measure(darker(300)).evidence
    assert evidence.score == taught.measure(darker(300)).evidence.score
    held_out = [again.measure(part.name).evidence for part in again.parts if part.held_out]
    assert evidence.threshold == max(part.score for part in held_out) and not any(
        part.is_strange for part in held_out
    )
    assert evidence.defects == 8 and again.parts == bank.parts  # how strange good parts are stays
    assert "8 defective parts, too" in "\n".join(taught.describe())
    with pytest.raises(InputError, match="labelled defects is not merged"):
        taught.merge(bank)


def test_a_head_that_is_no_better_is_not_used(bank, defective):
    taught = bank.with_defects(defective)
    worse = replace(bank, head=taught.head.model_copy(update={"auroc": taught.head.bank_auroc}))
    picture = draw_part(500)
    assert worse.measure(picture).evidence == bank.measure(picture).evidence
    assert "ranks no better and is not used" in "\n".join(worse.describe())
    assert taught.measure(picture).evidence.score != bank.measure(picture).evidence.score  # control


def test_too_few_are_refused(bank, defective):
    with pytest.raises(InputError, match=r"at least 5 good parts .* got 8 and 4"):
        bank.with_defects(defective[:4])


def test_without_held_out_parts_defective_ones_make_the_threshold(good, defective):
    everything = Bank.learn(good, SETTINGS, learned=len(good))
    head = everything.with_defects(defective).head
    assert head.threshold is None
    figures = {"auroc": 0.9, "bank_auroc": 0.8, "bank_threshold": 0.25}
    better = replace(everything, head=head.model_copy(update=figures))
    assert better.measure(draw_part(500)).evidence.threshold == 0.5
    worse = replace(everything, head=head.model_copy(update=figures | {"auroc": 0.7}))
    evidence = worse.measure(draw_part(500)).evidence
    assert evidence.score == everything.measure(draw_part(500)).evidence.score
    assert evidence.threshold == 0.25 != everything.threshold and evidence.defects == 8
    none = replace(everything, head=worse.head.model_copy(update={"bank_threshold": None}))
    assert none.threshold == everything.threshold


def test_a_part_cannot_be_good_and_defective(bank, good, defective):
    with pytest.raises(
        InputError, match=r"good-03\.png' is named as defective and, as .*good-03\.png', as good"
    ):
        bank.with_defects([*defective, good[3]])


def test_a_head_of_another_size_is_refused(bank, defective, tmp_path):
    taught = bank.with_defects(defective)
    for change in ({"weights": taught.head.weights[1:]}, {"scale": (0.0, *taught.head.scale[1:])}):
        damaged = replace(taught, head=taught.head.model_copy(update=change))
        damaged.write(tmp_path / "damaged.bank")
        with pytest.raises(InputError, match=r"damaged\.bank.* its head has"):
            bank_file.read(tmp_path / "damaged.bank")
    taught.write(tmp_path / "whole.bank")
    bank_file.read(tmp_path / "whole.bank")  # the control


def rows(count, shift, feature, seed=0, features=DISTANCES + 40):
    """(count, F) features, of which one is shifted."""
    drawn = np.random.default_rng(seed).normal(0, 1, (count, features))
    drawn[:, feature] += shift
    return list(drawn)


def test_a_head_ranks_what_it_was_not_fitted_to():
    for feature in (2, DISTANCES + 5):  # a distance, and how the part looks
        head = fit(rows(40, 0, 0), rows(40, 6, feature, seed=1))
        assert head.auroc > 0.95 and head.balanced_accuracy > 0.85 and head.bank_auroc < 0.7
        assert np.mean([head(row) > 0.5 for row in rows(40, 6, feature, seed=2)]) > 0.8
        assert np.mean([head(row) <= 0.5 for row in rows(40, 0, feature, seed=3)]) > 0.8


def test_where_the_score_tells_all_the_bank_decides():
    good, bad = rows(20, -6, 0), rows(20, -1, 0, seed=1)
    head = fit(good, bad)
    assert head.bank_auroc == head.bank_balanced_accuracy == 1 and not head.is_better
    scores = [np.exp([row[0] for row in side]) for side in (good, bad)]
    assert max(scores[0]) < head.bank_threshold < min(scores[1])


def test_defective_parts_that_are_less_strange_make_no_threshold():
    head = fit(rows(20, 3, 0), rows(20, 0, 0, seed=1))
    assert head.bank_threshold is None and head.bank_auroc < 0.5 < head.auroc and head.is_better
    same = rows(20, 0, 0)
    assert not fit(same, same).is_better


def test_the_same_parts_make_the_same_head():
    good, bad = rows(8, 0, 0, features=1), rows(6, 2, 0, seed=1, features=1)
    assert fit(good, bad, 3) == fit(good, bad, 3) != fit(good, bad, 4)


def test_what_a_head_sees_of_a_part():
    patches = torch.eye(20)
    grid = np.linspace(0, 0.19, 20, dtype=np.float32).reshape(4, 5)  # the last patch is the strangest
    vector = vector_of(Features(patches, (5, 4), torch.tensor([1.0, 0.0])), grid)
    assert len(vector) == DISTANCES + 2 + 20
    assert np.exp(vector[[0, 4, 5]]) - 1e-4 == pytest.approx([0.19, 0.19, 0.095])
    assert vector[DISTANCES:].tolist() == [1, 0, *[0] * 19, 1]


def test_as_many_good_parts_are_learned_as_defective_ones():
    assert [learned_beside(count) for count in (5, 8, 30)] == [8, 8, 30]
