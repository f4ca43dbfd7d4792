"""Labelled defects beside good parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.head import fit
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
    assert evidence.threshold == max(part.score for part in taught.parts if part.held_out)
    assert "8 defective parts, too" in "\n".join(taught.describe())
    with pytest.raises(InputError, match="labelled defects is not merged"):
        taught.merge(bank)


def test_a_head_that_is_no_better_is_not_used(bank, defective):
    taught = bank.with_defects(defective)
    worse = replace(bank, head=taught.head.model_copy(update={"auroc": taught.head.bank_auroc}))
    picture = draw_part(500)
    assert worse.measure(picture).evidence.score == bank.measure(picture).evidence.score
    assert "add nothing" in "\n".join(worse.describe())
    assert taught.measure(picture).evidence.score != bank.measure(picture).evidence.score  # control


def test_too_few_are_refused(bank, defective):
    with pytest.raises(InputError, match=r"at least 5 good parts .* got 8 and 4"):
        bank.with_defects(defective[:4])


def test_a_head_ranks_what_it_was_not_fitted_to():
    rng = np.random.default_rng(0)
    good, bad = rng.normal(0, 1, (40, 6)), rng.normal(0, 1, (40, 6))
    bad[:, 2] += 3
    head = fit(list(good), list(bad))
    assert head.auroc > 0.95 and head.balanced_accuracy > 0.85 and head.bank_auroc < 0.7
    assert np.mean([head(row) > 0.5 for row in bad]) > 0.9
