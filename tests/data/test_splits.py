"""Splits: who is drawn, that draws repeat to the byte, that leaks stop them, and that what is written is read back."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from anomalyr1.data import protocols
from anomalyr1.data.protocols import SplitPlan, divide
from anomalyr1.data.splits import make, pair, read, select, write
from anomalyr1.types import InputError, Sample
from support.pictures import picture

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
    drawn = tally(many, divide(many, SplitPlan(protocol="few-shot", shots=2, good_shots=5, per="defect")).train)
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
    assert len(divide(few, SplitPlan(protocol="share")).train) == 3  # each stratum alone would round to 1 or to 0


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
    with pytest.raises(InputError, match=r"1 groups .*d/bolt \(anomalous: rust: 2\).*--allow-short"):
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


@pytest.fixture
def on_disk(tmp_path):
    samples = []
    for i in range(20):
        path = tmp_path / f"{i}.png"
        picture(i, 64).save(path)
        samples.append(sample(f"part {i}", defect="dent" if i % 2 else None, image=path))
    return samples


def test_two_runs_write_the_same_bytes_and_are_read_back(on_disk, tmp_path):
    plan = SplitPlan(protocol="few-shot", shots=3, seed=7)
    for name in ("a.json", "b.json"):
        write(tmp_path / name, make(on_disk, plan, "folder:x", {"order": "given"}))
    text = (tmp_path / "a.json").read_bytes()
    assert text == (tmp_path / "b.json").read_bytes()
    manifest = read(tmp_path / "a.json")
    assert (manifest.spec, manifest.options, manifest.plan, manifest.leaks.found) == (
        "folder:x",
        {"order": "given"},
        plan,
        (),
    )
    assert len(manifest.train) == 6 and len(manifest.test) == 14
    assert len(json.loads(text)["train"][0]["sha256"]) == 64
    train, test = select(manifest, on_disk, "train"), select(manifest, iter(on_disk), "test")
    assert [one.id for one in train] == [entry.id for entry in manifest.train]
    assert {one.id for one in (*train, *test)} == {one.id for one in on_disk}


def test_odd_ids_are_read_back(on_disk, tmp_path):
    odd = [one.model_copy(update={"id": f"new\nline \udce9 \u202e {i}"}) for i, one in enumerate(on_disk)]
    manifest = make(odd, SplitPlan(protocol="share"), "folder:\udce9")
    write(tmp_path / "a.json", manifest)
    assert read(tmp_path / "a.json") == manifest and (tmp_path / "a.json").read_bytes().isascii()


def test_changed_and_missing_images_are_named(on_disk, tmp_path):
    manifest = make(on_disk, SplitPlan(protocol="share"), "folder:x")
    picture(99, 64).save(on_disk[0].image)
    side = "train" if on_disk[0].id in {entry.id for entry in manifest.train} else "test"
    with pytest.raises(InputError, match="1 images are not those"):
        select(manifest, on_disk, side)
    assert select(manifest, on_disk, side, verify=False)
    with pytest.raises(InputError, match=r"samples of the split are not in the data.*folder:x"):
        select(manifest, on_disk[1:], side)


def test_leaks_refuse_unless_allowed_and_the_record_says_so(on_disk):
    copied = [*on_disk, *(one.model_copy(update={"id": f"copy of {one.id}"}) for one in on_disk)]
    plan = SplitPlan(protocol="few-shot", shots=3)
    with pytest.raises(InputError, match=r"leaks into the training set \(exact \d+.*--allow-leaks"):
        make(copied, plan, "folder:x")
    manifest = make(copied, plan, "folder:x", allow_leaks=True)
    assert manifest.leaks.allowed and manifest.leaks.counts["exact"] == len(manifest.leaks.found) > 0
    assert make(on_disk, plan, "folder:x").leaks.allowed is False


def test_the_distance_of_copies_can_be_chosen(on_disk):
    everything = SplitPlan(protocol="share", max_distance=256)
    with pytest.raises(InputError, match="perceptual"):
        make(on_disk, everything, "folder:x")
    assert make(on_disk, SplitPlan(protocol="share"), "folder:x").plan.max_distance == 16


def test_leaks_can_be_dropped_from_the_test_set(on_disk):
    copied = [*on_disk, *(one.model_copy(update={"id": f"copy of {one.id}"}) for one in on_disk)]
    manifest = make(copied, SplitPlan(protocol="few-shot", shots=3, drop_leaks=True), "folder:x")
    dropped = manifest.counts["left_out_of_test_as_leaks"]
    assert dropped > 0 and len(manifest.train) == 6 and len(manifest.test) == 40 - 6 - dropped
    assert manifest.leaks.found == () and not {one.sha256 for one in manifest.train} & {
        one.sha256 for one in manifest.test
    }
    with pytest.raises(InputError, match="all 8 test samples leak"):
        pair(on_disk[:8], on_disk[:8], SplitPlan(protocol="given", drop_leaks=True), ("folder:a", "folder:a"))


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


def test_a_given_pair(on_disk):
    plan, specs = SplitPlan(protocol="given"), ("folder:a", "folder:b")
    manifest = pair(on_disk[:8], on_disk[8:], plan, specs)
    assert (manifest.test_spec, len(manifest.train), len(manifest.test)) == ("folder:b", 8, 12)
    with pytest.raises(InputError, match="exact 1"):
        pair(on_disk[:8], on_disk[7:], plan, specs)
    with pytest.raises(InputError, match=r"not in the data.*folder:b"):
        select(manifest, on_disk[:8], "test")
    with pytest.raises(InputError, match="'given' makes no use of --per"):
        pair(on_disk[:8], on_disk[8:], SplitPlan(protocol="given", per="defect"), specs)
    with pytest.raises(InputError, match="two samples have the id"):
        pair(on_disk[:1] * 2, on_disk[8:], plan, specs)
    with pytest.raises(InputError, match="holds none"):
        pair(on_disk, [], plan, specs)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"format": "anomalyr1-split-1"}', b"[" * 100_000, b"\xff\xfe"]
)
def test_other_files_are_no_split(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json"):
        read(tmp_path / "x.json")
    with pytest.raises(InputError, match="cannot read the split"):
        read(tmp_path / "gone.json")


def test_without_the_seed_in_the_rank_seeds_would_not_matter(many, monkeypatch):
    monkeypatch.setattr(protocols, "_rank", lambda seed, name: name.encode())
    one, other = (divide(many, SplitPlan(protocol="share", seed=seed)) for seed in (0, 1))
    assert one == other
