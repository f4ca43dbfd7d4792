"""Which prompts share a prefix, and what is computed together."""

import random
from pathlib import Path

import pytest

from anomalyr1.shared_prefix.trees import EncodedPrompt, batch_trees, count_slots, plant_trees

IMAGE_ID = 7


def prompt(index, text, paths=()):
    """A prompt whose ids are the letters of `text`; "i" is an image token."""
    ids = tuple(IMAGE_ID if letter == "i" else ord(letter) for letter in text)
    return EncodedPrompt(index, ids, tuple(map(Path, paths)))


def shape(trees):
    return sorted((len(tree.prefix), [(len(b.suffix), b.samples) for b in tree.branches]) for tree in trees)


def planted(*prompts, most=1, budget=1000):
    return plant_trees(prompts, IMAGE_ID, most, budget)


def test_trees():
    assert shape(planted(prompt(0, "abiiq", "x"), prompt(1, "abiirs", "x"))) == [(4, [(1, (0,)), (2, (1,))])]
    assert shape(planted(prompt(0, "abiiq", "x"), prompt(1, "abiiq", "x"))) == [
        (4, [(1, (0, 1))])
    ]  # two samples of one question
    assert shape(planted(prompt(0, "abiiq", "x"), prompt(1, "abiiq", "y"))) == [
        (4, [(1, (0,))]),
        (4, [(1, (1,))]),
    ]  # other images
    assert shape(planted(prompt(0, "abiiq", "x"), prompt(1, "aciiq", "x"))) == [
        (4, [(1, (0,))]),
        (4, [(1, (1,))]),
    ]  # other words before
    assert shape(planted(prompt(0, "abc"), prompt(1, "abcd"))) == [
        (2, [(1, (0,)), (2, (1,))])
    ]  # one begins the other
    assert shape(planted(prompt(0, "a"), prompt(1, "b"))) == [
        (0, [(1, (0,)), (1, (1,))])
    ]  # nothing shared, nothing before
    assert planted() == []


def test_a_group_that_outgrows_the_budget_is_cut():
    prompts = [prompt(number, "aaaaiiiibb", "x") for number in range(6)]
    trees = planted(*prompts, most=10, budget=50)
    assert [tree.samples for tree in trees] == [4, 2]
    assert all(count_slots([tree], 10) <= 50 for tree in trees)
    alone = planted(*prompts, most=100, budget=50)  # each is too large even alone
    assert [tree.samples for tree in alone] == [1] * 6


@pytest.mark.parametrize("seed", range(20))
def test_plans_hold_every_prompt_once_and_keep_to_the_budget(seed):
    rng = random.Random(seed)
    prompts = []
    for index in range(60):
        picture = rng.choice("xyz")
        suffix = "".join(rng.choices("bc", k=rng.randint(1, 5)))
        prompts.append(prompt(index, "a" * 5 + "i" * 9 + suffix, picture))
    parts = list(batch_trees(plant_trees(prompts, IMAGE_ID, 4, 150), 4, 150))
    assert sorted(
        i for part in parts for tree in part for branch in tree.branches for i in branch.samples
    ) == list(range(60))
    for part in parts:
        assert count_slots(part, 4) <= 150
        for tree in part:
            for branch in tree.branches:
                assert {tree.prefix + branch.suffix} == {prompts[index].ids for index in branch.samples}
