"""Splits: leaks stop them, the same plan writes the same bytes, and what is written is read back."""

from __future__ import annotations

import json

import pytest

from anomalyr1.data.protocols import SplitPlan
from anomalyr1.data.splits import make, pair, read, select, write
from anomalyr1.types import InputError, Sample
from support.pictures import picture


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
