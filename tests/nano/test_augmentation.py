"""Defects on strange grounds keep their truth; decoys stand on both images; knowledge tells objects."""

from __future__ import annotations

import numpy as np
import pytest

from anomalyr1.drawn.words import MATERIAL, PURPOSE, SPLITS
from anomalyr1.nano import augmentation
from anomalyr1.nano.invented_names import rename_object
from anomalyr1.nano.pool import Pool, draw_shard
from anomalyr1.nano.square_lessons import cut_squares
from anomalyr1.types import LETTERS

GROUNDS = augmentation.draw_textures(6)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    draw_shard(folder, 0, 24, 448 * 448)
    return Pool(folder)


def test_grounds_are_the_same_for_a_seed_and_differ_among_themselves():
    assert all((one == two).all() for one, two in zip(GROUNDS, augmentation.draw_textures(6), strict=True))
    assert len({one.tobytes() for one in GROUNDS}) == 6
    assert {one.shape for one in GROUNDS} == {(augmentation.TEXTURE_SIDE, augmentation.TEXTURE_SIDE, 3)}


def test_moved_squares_differ_where_their_truth_says(pool):
    found = cut_squares(pool, 60, 2, np.random.default_rng(0))
    moved = augmentation.move_squares(found, GROUNDS, np.random.default_rng(1))
    assert [one.truth for one in found] == [one.truth for one in moved]
    inside, outside = [], []
    for bad, good, old in zip(moved[::2], moved[1::2], found[1::2], strict=True):
        assert bad.image.shape == old.image.shape and bad.image.dtype == np.uint8
        change = np.abs(bad.image.astype(int) - good.image).max(axis=2)
        covered = np.kron(bad.truth.cover > 0.5, np.ones((14, 14), bool))
        inside += list(change[covered])
        outside += list(change[np.kron(bad.truth.cover == 0, np.ones((14, 14), bool))])
    assert np.mean(inside) > 5 * np.mean(outside)
    assert np.mean([(one.image != two.image).mean() for one, two in zip(found, moved, strict=True)]) > 0.8


def test_a_batch_holds_the_share_of_good_parts_asked_for(pool):
    for share in (0.0, 1.0):
        examples = pool.batch(np.random.default_rng(1), 200, with_reference=True, good=share)
        assert {one.sample.anomalous for one in examples} == {share == 0.0}
    some = [
        one
        for seed in range(30)
        for one in pool.batch(np.random.default_rng(seed), 200, with_reference=True, good=0.4)
    ]
    assert 0.5 < np.mean([one.sample.anomalous for one in some]) < 0.7


def test_a_decoy_stands_on_both_images(pool):
    rng = np.random.default_rng(2)
    examples = pool.batch(rng, 200, with_reference=True)
    marks = pool.residuals(rng, examples[0].frame.model_wh, len(examples))
    for one, mark in zip(examples, marks, strict=True):
        two = augmentation.add_decoy(one, mark, rng)
        assert two.sample == one.sample
        for before, after in ((one.image, two.image), (one.reference, two.reference)):
            assert (before != after).any() == (mark != 0).any()


def test_a_strange_look_is_the_same_on_image_and_reference(pool):
    rng = np.random.default_rng(3)
    one = pool.batch(rng, 200, with_reference=True, aligned=True)[0]
    side = augmentation.TEXTURE_SIDE
    two = augmentation.restyle(one, [np.full((side, side, 3), 200, np.uint8)], rng)
    same = (one.image == one.reference).all(axis=2)
    assert same.mean() > 0.5
    assert (two.image == two.reference).all(axis=2)[same].all()
    assert (two.image != one.image).any() and two.look == ""


def test_a_part_photographed_again_is_nearly_the_same(pool):
    image = pool.batch(np.random.default_rng(4), 100, with_reference=False)[0].image
    again = augmentation.photograph_again(image, np.random.default_rng(5))
    assert again.shape == image.shape and (again != image).any()
    assert np.corrcoef(image[..., 0].ravel(), again[..., 0].ravel())[0, 1] > 0.5


def test_invented_objects_are_told_by_their_knowledge(pool):
    rng = np.random.default_rng(6)
    unseen = {PURPOSE[name] for split in ("dev", "final") for name in SPLITS[split]}
    for sample in pool.samples(24):
        other = rename_object(sample, rng)
        assert other.category != sample.category and other.category in other.knowledge
        assert not any(purpose in other.knowledge for purpose in unseen)
        assert sample.category not in other.knowledge.split(".")[0]
        for old, new in zip(sample.questions, other.questions, strict=True):
            if old.answer is None:
                assert new == old
                continue
            gold = new.options[LETTERS.index(new.answer)]
            assert len(set(new.options)) == len(old.options)
            if old.kind in ("object classification", "object analysis"):
                assert gold in other.knowledge
            elif MATERIAL[sample.category] not in old.options:
                assert new == old
