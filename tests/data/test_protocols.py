"""Protocols of splits: who is drawn, and that draws repeat."""

from __future__ import annotations

from collections import Counter

import pytest

from anomalyr1.data import protocols
from anomalyr1.data.protocols import SplitPlan, divide
from anomalyr1.types import InputError, Sample

DEFECTS = ("crack", "dent", "stain")


def sample(name, dataset="d", category="bolt", defect=None, anomalous=None, image="none.png"):
    return Sample(
        id=name,
        image=image,
        dataset=dataset,
        category=category,
        defect=defect,
        anomalous=bool(defect) if anomalous is None else anomalous,
    )


@pytest.fixture
def many():
    """Two data sets of two classes each, 20 good and 3 x 10 anomalous images a class."""
    return [
        sample(f"{dataset}/{category}/{defect}/{i}", dataset, category, defect)
        for dataset in ("d", "e")
        for category in ("bolt", "nut")
        for defect in (None, *DEFECTS)
        for i in range(20 if defect is None else 10)
    ]


def tally(samples, names):
    return Counter((one.dataset, one.category, one.defect) for one in samples if one.id in set(names))


def test_few_shot_per_class_takes_from_all_defects(many):
    sides = divide(many, SplitPlan(protocol="few-shot", shots=4))
    drawn = tally(many, sides.train)
    for dataset in ("d", "e"):
        for category in ("bolt", "nut"):
            of_class = {defect: drawn[dataset, category, defect] for defect in (None, *DEFECTS)}
            assert of_class[None] == 4
            assert sorted(of_class[defect] for defect in DEFECTS) == [1, 1, 2]
    assert len(sides.train) == 4 * 8 and set(sides.train) | set(sides.test) == {one.id for one in many}
    assert not set(sides.train) & set(sides.test)


def test_few_shot_per_defect_and_another_number_of_good(many):
    drawn = tally(
        many, divide(many, SplitPlan(protocol="few-shot", shots=2, good_shots=5, per="defect")).train
    )
    assert {key[2]: n for key, n in drawn.items() if key[:2] == ("d", "nut")} == {
        None: 5,
        "crack": 2,
        "dent": 2,
        "stain": 2,
    }
    assert (
        None
        not in {
            key[2]
            for key in tally(many, divide(many, SplitPlan(protocol="few-shot", shots=1, good_shots=0)).train)
        }
    ) is True


def test_20_80_is_stratified_and_exact(many):
    sides = divide(many, SplitPlan(protocol="share"))
    assert len(sides.train) == 0.2 * len(many)
    assert set(tally(many, sides.train).values()) == {2, 4}
    few = [sample(f"{defect}{i}", defect=defect) for defect in ("a", "b", "c", "d", "e") for i in range(3)]
    assert (
        len(divide(few, SplitPlan(protocol="share")).train) == 3
    )  # each stratum alone would round to 1 or to 0


def test_leave_classes_out(many):
    sides = divide(many, SplitPlan(protocol="leave-classes-out", held_out=("d/nut",)))
    assert {key[:2] for key in tally(many, sides.test)} == {("d", "nut")}
    assert len(sides.test) == 50 and len(sides.train) == 150
    sides = divide(many, SplitPlan(protocol="leave-classes-out", held_out=("nut",), shots=3))
    assert {key[1] for key in tally(many, sides.test)} == {"nut"}
    assert len(sides.train) == 2 * 6 and sides.counts == {"unused": 88}


def test_a_class_is_called_as_everywhere():
    alone = [sample(str(i), "bolt", "bolt", defect) for i, defect in enumerate((None, "dent"))]
    with pytest.raises(InputError, match=r"'bolt \(good: 1\)', 'bolt \(anomalous: 1\)'"):
        divide(alone, SplitPlan(protocol="few-shot", shots=1))


def test_leave_defects_out_shares_out_the_good_ones(many):
    sides = divide(many, SplitPlan(protocol="leave-defects-out", held_out=("dent",)))
    train, test = tally(many, sides.train), tally(many, sides.test)
    assert {key[2] for key in train} == {None, "crack", "stain"} and {key[2] for key in test} == {
        None,
        "dent",
    }
    assert test["d", "bolt", None] == 7 and train["d", "bolt", None] == 13  # a third of 20


def test_leave_datasets_out(many):
    sides = divide(many, SplitPlan(protocol="leave-datasets-out", held_out=("e",)))
    assert {key[0] for key in tally(many, sides.train)} == {"d"} and {
        key[0] for key in tally(many, sides.test)
    } == {"e"}


def test_a_draw_depends_on_the_seed_and_not_on_the_order_or_the_rest(many):
    plan = SplitPlan(protocol="few-shot", shots=4)
    first = divide(many, plan)
    assert set(divide(many[::-1], plan).train) == set(first.train)
    assert set(divide(many, plan.model_copy(update={"seed": 1})).train) != set(first.train)
    bolts = [one for one in many if one.category == "bolt"]
    assert set(divide(bolts, plan).train) == {name for name in first.train if "/bolt/" in name}
    assert set(first.train) < set(
        divide(many, SplitPlan(protocol="few-shot", shots=5)).train
    )  # more shots add images


def test_what_is_unknown_is_left_out_and_counted(many):
    unknown = Sample(id="?", image="x.png")
    sides = divide([*many, unknown], SplitPlan(protocol="share"))
    assert sides.counts == {"unlabelled": 1} and "?" not in {*sides.train, *sides.test}
    only_good = [sample(f"washer{i}", category="washer") for i in range(9)]
    assert divide([*many, *only_good], SplitPlan(protocol="few-shot", shots=4)).counts == {
        "classes_without_anomalous": 1
    }


def test_short_groups_stop_the_split_or_are_counted(many):
    short = [*many, sample("rare", defect="rust"), sample("rare2", defect="rust")]
    plan = SplitPlan(protocol="few-shot", shots=2, per="defect")
    with pytest.raises(InputError, match=r"1 of 17 groups: .*d/bolt \(anomalous: rust: 2\).*--allow-short"):
        divide(short, plan)
    sides = divide(short, plan.model_copy(update={"allow_short": True}))
    assert sides.counts == {"short_groups": 1}
    assert (
        tally(short, sides.train)["d", "bolt", "rust"] == tally(short, sides.test)["d", "bolt", "rust"] == 1
    )


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (SplitPlan(protocol="few-shot"), "--shots 4"),
        (SplitPlan(protocol="given"), "--test SPEC"),
        (SplitPlan(protocol="share", shots=4), "'share' makes no use of --shots; "),
        (SplitPlan(protocol="few-shot", shots=4, share=0.5), "'few-shot' makes no use of --share; "),
        (SplitPlan(protocol="few-shot", shots=4, held_out=("d",)), "'few-shot' makes no use of --hold-out; "),
        (
            SplitPlan(protocol="leave-classes-out", held_out=("d",), good_shots=3),
            "makes no use of --good-shots without --shots",
        ),
        (SplitPlan(protocol="leave-classes-out"), "there are: 'bolt', 'd/bolt'"),
        (SplitPlan(protocol="leave-classes-out", held_out=("bolts",)), "did you mean 'bolt'"),
        (SplitPlan(protocol="leave-defects-out", held_out=("xyz",)), "there are: 'crack', 'dent', 'stain'"),
        (SplitPlan(protocol="leave-datasets-out", held_out=("d", "e")), "nothing to train on"),
    ],
)
def test_plans_that_cannot_be_carried_out(many, plan, said):
    with pytest.raises(InputError, match=said):
        divide(many, plan)


def test_ids_that_come_twice_and_empty_sides_are_refused(many):
    with pytest.raises(InputError, match="two samples have the id 'd/bolt/None/0'"):
        divide([*many, many[0]], SplitPlan(protocol="share"))
    with pytest.raises(InputError, match="nothing to train on"):
        divide([], SplitPlan(protocol="share"))


def test_a_share_without_leaks_takes_whole_series():
    series = [
        sample(f"film{film}/frame_{i}", defect="dent" if i % 2 else None)
        for film in range(20)
        for i in range(10)
    ]
    plain, whole = (divide(series, SplitPlan(protocol="share", drop_leaks=drop)) for drop in (False, True))

    def mixed(sides):
        return len({name.split("/")[0] for name in sides.train} & {name.split("/")[0] for name in sides.test})

    assert len(whole.train) == len(plain.train) == 40
    assert mixed(whole) == 0 and mixed(plain) > 15


def test_without_the_seed_in_the_rank_seeds_would_not_matter(many, monkeypatch):
    monkeypatch.setattr(protocols, "_rank", lambda seed, name: name.encode())
    one, other = (divide(many, SplitPlan(protocol="share", seed=seed)) for seed in (0, 1))
    assert one == other
