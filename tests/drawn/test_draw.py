"""Drawn parts: the same in any process, gold that is true, and a mask that says where the image changed."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import PIL.Image
import pytest

from anomalyr1 import boxes
from anomalyr1.drawn import contact_sheet, dataset, questions
from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.drawn.draw import DEFECTS, LEGAL, draw, reference
from anomalyr1.drawn.words import (
    EFFECT,
    GOOD_LOOK,
    HELD_OUT_DEFECTS,
    MATERIAL,
    PURPOSE,
    SHAPES,
    SPLITS,
    UNFAMILIAR,
)
from anomalyr1.types import PLACES, InputError

OPEN = (*SPLITS["seen"], *SPLITS["dev"])
"""What tests may look at; the final split is only checked to exist and to be the same twice."""
CASES = [(category, kind) for category in OPEN for kind in LEGAL[category]]


@pytest.fixture(scope="module")
def many():
    return [draw(seed, OPEN[seed % len(OPEN)]) for seed in range(240)]


def digest(one):
    parts = (
        one.image.tobytes(),
        one.mask.tobytes(),
        repr((one.boxes, one.category, one.defect, one.description, one.place, one.knowledge)).encode(),
    )
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_splits_are_disjoint_and_every_category_has_all_its_words():
    names = [name for split in SPLITS.values() for name in split]
    assert [len(split) for split in SPLITS.values()] == [12, 3, 3]
    assert len(set(names)) == len(names) == 18
    for table in (LEGAL, GOOD_LOOK, MATERIAL, PURPOSE):
        assert set(table) == {*names, UNFAMILIAR}
    assert set(SHAPES) == set(names)
    assert set(EFFECT) == set(DEFECTS)
    assert len(DEFECTS) >= 12
    assert len(HELD_OUT_DEFECTS) == 2
    shown = {kind for kinds in LEGAL.values() for kind in kinds}
    assert shown == set(DEFECTS)


@pytest.mark.parametrize("category", [name for split in SPLITS.values() for name in split])
def test_same_seed_same_part(category):
    assert digest(draw(7, category)) == digest(draw(7, category))
    assert digest(draw(7, category)) != digest(draw(8, category))


def test_same_in_another_process():
    code = (
        "import hashlib; from anomalyr1.drawn.draw import draw; d = draw(5, 'label', 'stain');"
        "print(hashlib.sha256(d.image.tobytes() + d.mask.tobytes()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    one = draw(5, "label", "stain")
    assert other == hashlib.sha256(one.image.tobytes() + one.mask.tobytes()).hexdigest()


def test_importing_needs_no_torch():
    code = "import sys, anomalyr1.drawn.draw; print('torch' in sys.modules, 'transformers' in sys.modules)"
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split() == ["False", "False"]


@pytest.mark.parametrize(("category", "kind"), CASES)
def test_defect_changes_the_part_only_at_its_mask(category, kind):
    bad, good = draw(21, category, kind), draw(21, category, None)
    changed = np.abs(bad.image.astype(int) - good.image.astype(int)).max(axis=2)
    near = cv2.dilate(bad.mask.astype(np.uint8), np.ones((45, 45), np.uint8)) > 0
    assert bad.mask.sum() >= 24
    assert changed[bad.mask].mean() > 3 * max(
        1.0, changed[~near].mean()
    )  # the same noise in both, so outside is nearly still
    assert np.percentile(changed[~near], 99) <= 3 if (~near).any() else True
    other = draw(
        48, category, None
    )  # negative control: another good part of the same size differs everywhere
    assert np.abs(other.image.astype(int) - good.image.astype(int)).max(axis=2)[~near].mean() > 5


@pytest.mark.parametrize(("category", "kind"), CASES)
def test_boxes_hold_the_mask_tightly(category, kind):
    one = draw(33, category, kind)
    inside = np.zeros_like(one.mask)
    for box in one.boxes:
        x1, y1, x2, y2 = (int(v) for v in box.xyxy)
        window = one.mask[y1:y2, x1:x2]
        inside[y1:y2, x1:x2] = True
        assert box.label == kind
        for edge in (window[0], window[-1], window[:, 0], window[:, -1]):
            assert edge.any()
    assert one.mask[~inside].sum() == 0
    assert one.place == boxes.place(max(one.boxes, key=lambda box: box.area), one.mask.shape[::-1])


def test_good_and_defective_parts(many):
    defective = [one for one in many if one.defect is not None]
    assert 0.45 < len(defective) / len(many) < 0.65
    for one in many:
        good = one.defect is None
        assert one.image.dtype == np.uint8
        assert one.image.shape == (*one.mask.shape, 3)
        assert 168 <= min(one.mask.shape) <= max(one.mask.shape) <= 448
        assert (
            good
            == (one.boxes == ())
            == (one.place is None)
            == (one.description == "")
            == (not one.mask.any())
        )
        assert one.category in one.knowledge
    aligned = np.mean([all(side % 28 == 0 for side in one.mask.shape) for one in many])
    assert 0.7 < aligned < 0.9


def test_seen_parts_never_show_a_held_out_kind(many):
    seen = [one for one in many if one.category in SPLITS["seen"]]
    assert not {one.defect for one in seen} & set(HELD_OUT_DEFECTS)
    dev = [draw(seed, SPLITS["dev"][seed % 3]).defect for seed in range(90)]  # control: elsewhere they come
    assert set(HELD_OUT_DEFECTS) <= set(dev)


def test_knowledge_does_not_depend_on_the_defect():
    for category, kind in CASES[::4]:
        assert draw(4, category, kind).knowledge == draw(4, category, None).knowledge


@pytest.mark.parametrize("category", OPEN)
def test_reference_is_another_picture_of_the_same_design(category):
    bad, good = draw(12, category), draw(12, category, None)
    picture = reference(bad)
    assert picture.shape == good.image.shape
    assert np.array_equal(picture, reference(good))  # so it shows nothing of the defect
    assert np.abs(picture.astype(int) - good.image.astype(int)).mean() > 2
    assert not np.array_equal(picture, reference(bad, 1))
    same, other = [], []
    for seed in range(40, 52):
        one = draw(seed, category, None)
        same.append(distance(one.image, reference(one)))
        other.append(distance(one.image, draw(seed + 100, category, None).image))
    assert np.mean(same) < 0.8 * np.mean(other)  # the colours are the design's


def distance(a, b):
    """How far two images' colours are apart, wherever they lie."""
    hist = [
        cv2.calcHist([cv2.cvtColor(i, cv2.COLOR_RGB2LAB)], [1, 2], None, [24, 24], [80, 208, 80, 208])
        / i[..., 0].size
        for i in (a, b)
    ]
    return float(
        np.abs(cv2.GaussianBlur(hist[0], (0, 0), 1.5) - cv2.GaussianBlur(hist[1], (0, 0), 1.5)).sum()
    )


def test_questions_have_true_gold(many):
    for one in many:
        asked = {
            q.kind: q
            for q in questions.questions(one, np.random.default_rng(one.seed), grounding_text="Find it.")
        }
        about_defect = {kind for kind in asked if kind.startswith("defect")}
        assert len(about_defect) == (4 if one.defect else 0)
        gold = {
            "anomaly detection": "No." if one.defect is None else "Yes.",
            "defect classification": one.defect,
            "defect localization": one.place,
            "defect description": one.description,
            "object classification": one.category,
            "object analysis": PURPOSE[one.category],
        }
        for kind, question in asked.items():
            if kind == "grounding":
                assert question.text == "Find it."
                assert question.boxes == one.boxes
                assert not question.options
                continue
            assert len(question.options) == (2 if kind == "anomaly detection" else 4), question
            assert len(set(question.options)) == len(question.options)
            if kind in gold:
                assert question.options[question.letters.index(question.answer)] == gold[kind]
        if one.defect:
            assert set(asked["defect localization"].options) <= set(PLACES)


def test_questions_about_facts(many):
    for one in many:
        for question in questions.questions(one, np.random.default_rng(1), "Find it."):
            if question.kind not in ("object structure", "object details"):
                continue
            answer = question.options[question.letters.index(question.answer)]
            facts = (one.facts.material, one.facts.shape, one.facts.colour)
            assert (
                answer == str(one.facts.count[1]) if question.text.startswith("How many") else answer in facts
            )
            if question.text.startswith("How many"):
                assert one.defect not in ("missing part", "extra part", "wrong count")


def test_seen_parts_never_list_unseen_names(many):
    hidden = {*SPLITS["dev"], *SPLITS["final"], *HELD_OUT_DEFECTS}
    for one in many:
        options = {
            option
            for q in questions.questions(one, np.random.default_rng(2), "Find it.")
            for option in q.options
        }
        if one.category in SPLITS["seen"]:
            assert not options & hidden
        assert not options & set(SPLITS["final"])


def test_unfamiliar_parts_are_of_many_designs_and_name_no_category_that_is_kept_apart():
    goods = [draw(seed, UNFAMILIAR, None) for seed in range(40)]
    hidden = {*SPLITS["dev"], *SPLITS["final"], *HELD_OUT_DEFECTS}
    for one in goods:
        kinds = [kind for kind in LEGAL[UNFAMILIAR] if one.facts.count or kind not in LOGICAL]
        bad = draw(one.seed, UNFAMILIAR, kinds[one.seed % len(kinds)])
        assert bad.boxes
        assert np.array_equal(reference(bad), reference(one))
        asked = questions.questions(bad, np.random.default_rng(3), "")
        assert not hidden & {option for question in asked for option in question.options}
    assert len({(one.facts.shape, one.facts.colour, one.facts.count) for one in goods}) > 30
    assert 2 < sum(one.facts.count is None for one in goods) < 20
    with pytest.raises(InputError, match="choose one of"):
        dataset.parse_spec("drawn:unfamiliar-part?n=1&seed=0")  # no test set: it is for training nano alone


def test_letters_are_balanced(many):
    for kind, chance in (("anomaly detection", 1 / 2), ("object classification", 1 / 4)):
        letters = [
            q.answer
            for one in many
            for q in questions.questions(one, np.random.default_rng(one.seed), "")
            if q.kind == kind
        ]
        assert abs(letters.count("A") / len(letters) - chance) < 0.1


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("drawn:seen", ("seen", 64, 0)),  # defaults
        ("drawn:dev?n=7", ("dev", 7, 0)),
        ("drawn:final?seed=3&n=64", ("final", 64, 3)),  # any order
        ("drawn:ceramic-tile?n=2&references=0", ("ceramic-tile", 2, 0)),  # one category
    ],
)
def test_parse_spec(spec, expected):
    read = dataset.parse_spec(spec)
    assert (read.split, read.n, read.seed) == expected


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("mmad:folder", "drawn:seen"),  # another scheme
        ("drawn", "drawn:seen"),  # no split
        ("drawn:", "seen, dev, final"),  # an empty one
        ("drawn:test", "'test'"),  # an unknown one
        ("drawn:dev?m=3", "'m'"),  # an unknown key
        ("drawn:dev?n", "whole number"),  # no value
        ("drawn:dev?n=-3", "'-3'"),
        ("drawn:dev?n=3.5", "'3.5'"),
        ("drawn:dev?n=3&n=4", "twice"),
        ("drawn:dev?n=0", "asks for 0"),
        ("drawn:dev?n=²", "whole number"),  # a digit that int() refuses
        (f"drawn:dev?n={'9' * 5000}", "at most 12 digits"),  # Python itself refuses to read so many
        ("drawn:dev?n=3&", "nothing beside an &"),
        ("drawn:dev?references=2", "0 or 1"),
        ("drawn:ceramic tile", "ceramic-tile"),  # a blank
    ],
)
def test_parse_spec_names_what_is_wrong(spec, names):
    with pytest.raises(InputError, match=names.replace("?", r"\?")):
        dataset.parse_spec(spec)


@pytest.mark.parametrize(
    ("category", "defect", "names"),
    [
        ("teapot", "any", "'teapot'"),  # unknown category
        ("woven fabric", "wrong count", "'wrong count'"),  # no such thing on cloth
        ("washer", "smell", "'smell'"),  # unknown kind
    ],
)
def test_draw_refuses_what_cannot_be(category, defect, names):
    with pytest.raises(InputError, match=names):
        draw(1, category, defect)


def test_write(tmp_path):
    samples = dataset.write("drawn:dev?n=6&seed=3", tmp_path, "Find it.")
    assert [sample.id for sample in samples] == [f"drawn/dev-{3_000_000 + i:09d}" for i in range(6)]
    for sample, one in zip(samples, dataset.draw_spec("drawn:dev?n=6&seed=3"), strict=True):
        assert np.array_equal(np.asarray(PIL.Image.open(sample.image)), one.image)
        assert np.array_equal(np.asarray(PIL.Image.open(sample.references[0])), reference(one))
        assert sample.anomalous == (one.defect is not None) == (sample.mask is not None)
        assert sample.boxes == one.boxes
        assert all(question.id.startswith(sample.id + "/") for question in sample.questions)
        if sample.mask is not None:
            stored = PIL.Image.open(sample.mask)
            assert stored.mode == "1"
            assert np.array_equal(np.asarray(stored), one.mask)
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".png"}  # nothing half written
    first = dataset.write("drawn:dev?n=2&seed=3", tmp_path / "again", "Find it.")
    assert [s.id for s in first] == [s.id for s in samples[:2]]  # a smaller n is a prefix
    assert [s.questions for s in first] == [s.questions for s in samples[:2]]


def test_contact_sheet():
    sheet = contact_sheet.contact_sheet(("washer", "woven fabric"), columns=5, cell=84)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * (84 + 18), 5 * (84 + 6), 3)


@pytest.mark.parametrize("sides", [3, 4, 5, 8])
def test_the_slope_around_a_corner_is_whole(sides):
    """Beyond a corner a slope reaches farther than it is wide: a larger window shows no more of it."""
    from anomalyr1.drawn.scene import Outline, Scene, Spot
    from anomalyr1.drawn.unfamiliar import _polygon

    outline = _polygon(30.0, sides)
    heights = []
    for shape in (outline, Outline(outline.distance, 500.0)):
        planes = (np.zeros((128, 128), np.float32) for _ in range(3))
        scene = Scene(np.zeros((128, 128, 3), np.float32), *planes)
        scene.stamp(Spot(64.0, 64.0, 0.2), shape, (1.0, 1.0, 1.0), raised=4.0, bevel=16.0)
        heights.append(scene.height)
    assert heights[0].max() > 0 and np.array_equal(*heights)
