"""MMAD as published: schema, shots, knowledge, option order, known faults; the real subset."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from anomalyr1 import data
from anomalyr1.types import InputError
from support import layouts

BAD, GOOD = "DS-MVTec/pill/image/crack/000.png", "DS-MVTec/pill/image/good/000.png"
LOCO = "MVTec-LOCO/pushpins/test/logical_anomalies/007.png"
WHERE = layouts.question("Defect Localization", "C", A="Top.", B="Left.", C="Bottom.", D="Right.")
TEMPLATES = [f"MVTec-AD/pill/train/good/{n:03d}.png" for n in range(4)]


@pytest.fixture
def folder(tmp_path):
    return layouts.mmad(
        tmp_path / "MMAD",
        **{
            BAD: layouts.entry(
                BAD, layouts.question(), WHERE, mask_path="DS-MVTec/pill/rbg_mask/crack/000.png",
                random_templates=TEMPLATES,
                similar_templates=TEMPLATES[::-1],
            ),
            GOOD: layouts.entry(GOOD, layouts.question(answer="B"), random_templates=TEMPLATES[:1]),
            LOCO: layouts.entry(LOCO, WHERE),
        },
    )  # fmt: skip


def test_an_entry_becomes_a_sample(folder):
    bad, good, loco = data.load(f"mmad:{folder}")
    assert (bad.id, bad.dataset, bad.category, bad.defect, bad.anomalous) == (
        BAD,
        "DS-MVTec",
        "pill",
        "crack",
        True,
    )
    assert bad.image == folder / BAD
    assert bad.mask == folder / "DS-MVTec/pill/rbg_mask/crack/000.png"
    assert (bad.references, bad.knowledge, bad.boxes) == ((), "", None)
    verdict, where = bad.questions
    assert (verdict.id, verdict.kind, verdict.options, verdict.answer) == (
        f"{BAD}#0",
        "anomaly detection",
        ("Yes.", "No."),
        "A",
    )
    assert (where.kind, where.options[2], where.answer) == ("defect localization", "Bottom.", "C")
    assert (good.anomalous, good.defect, good.boxes) == (False, None, ())
    assert (loco.logical, bad.logical) == (True, False)


def test_shots_and_templates(folder):
    bad, good, _ = samples = data.load(f"mmad:{folder / 'mmad.json'}", shots=2)
    assert [path.name for path in bad.references] == ["000.png", "001.png"]
    assert len(good.references) == 1
    assert samples.notes["samples with fewer than 2 random templates"] == 2
    assert [path.name for path in data.load(f"mmad:{folder}", shots=1, template="similar")[0].references] == [
        "003.png"
    ]


def test_knowledge_is_all_texts_of_the_class(folder):
    bad, _, loco = data.load(f"mmad:{folder}", knowledge=True)
    assert (bad.knowledge, loco.knowledge) == ("White.\nSplit.", "One pin a cell.")
    (folder / "domain_knowledge.json").unlink()
    with pytest.raises(InputError, match="domain_knowledge"):
        data.load(f"mmad:{folder}", knowledge=True)


def test_a_shuffle_moves_the_gold_with_its_text(folder):
    given = data.load(f"mmad:{folder}")[0].questions[1]
    orders = set()
    for seed in range(12):
        shuffled = data.load(f"mmad:{folder}", option_order="shuffled", seed=seed)[0].questions[1]
        assert sorted(shuffled.options) == sorted(given.options)
        assert shuffled.options[shuffled.letters.index(shuffled.answer)] == "Bottom."
        orders.add(shuffled.options)
    assert len(orders) > 5


def test_known_faults_are_reported_and_mended(folder):
    plain = data.load(f"mmad:{folder}")
    assert dict(plain.notes) == {
        "images of pill/good that show metal nuts": 1, "images without a verdict question": 1,
        "LOCO anomalies without a mask": 1,
        "logical anomalies": 1,
    }  # fmt: skip
    mended = data.load(f"mmad:{folder}", fix="all")
    assert mended.notes == plain.notes
    assert [sample.id for sample in mended] == [BAD, LOCO]
    added = mended[1].questions[-1]
    assert (added.id, added.kind, added.options[added.letters.index(added.answer)]) == (
        f"{LOCO}#verdict",
        "anomaly detection",
        "Yes.",
    )
    assert mended[1].mask == folder / "MVTec-LOCO/pushpins/ground_truth/logical_anomalies/007"
    assert len(data.load(f"mmad:{folder}", fix=["verdict"])) == 3
    assert list(data.load(f"mmad:{folder}", fix="pill, verdict,masks")) == list(mended)
    with pytest.raises(InputError, match="option fix of mmad"):
        data.load(f"mmad:{folder}", fix="everything")


def test_masks(tmp_path):
    names = {
        "VisA/candle/test/bad/1.JPG": "ground_truth/bad/1.png",
        "MVTec-LOCO/a/test/logical_anomalies/3.png": None,
    }
    names["MVTec-LOCO/a/test/logical_anomalies/3.png"] = (
        "MVTec-LOCO/a/ground_truth/logical_anomalies/3/000.png"
    )
    folder = layouts.mmad(
        tmp_path / "m", **{name: layouts.entry(name, mask_path=mask) for name, mask in names.items()}
    )
    visa, loco = data.load(f"mmad:{folder}")
    assert (
        visa.mask == folder / "VisA/candle/test/ground_truth/bad/1.png"
    )  # at the first three components of the image's path
    assert loco.mask == folder / "MVTec-LOCO/a/ground_truth/logical_anomalies/3"  # all files of the mask


def test_boxes_come_from_the_mask_on_demand(folder):
    layouts.mask(folder / "DS-MVTec/pill/rbg_mask/crack/000.png")
    samples = data.load(f"mmad:{folder}")
    one = layouts.drawn("washer", "scratch")
    boxes = samples.with_boxes()[0].boxes
    assert {box.xyxy for box in boxes} == {box.xyxy for box in one.boxes}
    assert samples.with_boxes()[0].questions == samples[0].questions
    assert samples.with_boxes()[2].boxes is None  # no mask is named


def test_faults_of_questions_are_counted(tmp_path):
    asked = [
        layouts.question(answer="B"), layouts.question("Defect Analysis", "E", A="a", B="b"),
        layouts.question(" object  DETAILS ", "2", **{"1": "a", "2": "b"}),
    ]  # fmt: skip
    (sample,) = samples = data.load(
        f"mmad:{layouts.mmad(tmp_path / 'm', **{BAD: layouts.entry(BAD, *asked)})}"
    )
    assert [question.answer for question in sample.questions] == ["B", None, "B"]
    assert sample.questions[2].kind == "object details"
    for name in (
        "verdict questions that contradict the folder",
        "gold answers that are none of the options",
        "questions whose options had other letters",
    ):
        assert samples.notes[name] == 1, name


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({BAD: layouts.entry(BAD, layouts.question("Smell"))}, "unknown question types 'Smell'"),
        ({BAD: {"image_path": BAD}}, "no conversation"),
        ({BAD: layouts.entry(BAD, {"Question": "?"})}, "no object with Question"),
        ({BAD: layouts.entry(BAD, layouts.question(**{f"o{n}": "x" for n in range(27)}))}, "at most 26"),
        ({BAD: layouts.entry(BAD, layouts.question() | {"Answer": ["A"]})}, "no object with Question"),
        ({"a.png": layouts.entry("a.png")}, "no path of data set"),
        ({}, "no samples"),
    ],
)
def test_another_form_is_refused(tmp_path, entries, said):
    with pytest.raises(InputError, match=said):
        data.load(f"mmad:{layouts.mmad(tmp_path / 'm', **entries)}")


def test_a_folder_with_another_file_of_questions_says_how_to_name_it(folder):
    (folder / "mmad.json").rename(folder / "mmad_subset.json")
    with pytest.raises(InputError, match=r"holds no mmad\.json; name the file: mmad:.*/mmad_subset\.json"):
        data.load(f"mmad:{folder}")
    assert len(data.load(f"mmad:{folder / 'mmad_subset.json'}")) == 3


def test_an_image_that_comes_twice_is_refused(tmp_path):
    path = tmp_path / "mmad.json"
    one = json.dumps(layouts.entry(BAD))
    path.write_text(f'{{"{BAD}": {one}, "{BAD}": {one}}}')
    with pytest.raises(InputError, match="more than once"):
        data.load(f"mmad:{path}")


def test_the_real_subset(shared):
    samples = data.load(f"mmad:{shared / 'data/mmad/mmad_subset.json'}", knowledge=True, shots=1)
    assert len(samples) == 293
    kinds = Counter(question.kind for sample in samples for question in sample.questions)
    assert sum(kinds.values()) == 1439
    assert set(kinds) == {
        "anomaly detection", "defect classification", "defect localization", "defect description",
        "defect analysis",
        "object classification",        "object analysis", "object structure", "object details",
    }  # fmt: skip
    assert len({(sample.dataset, sample.category) for sample in samples if sample.knowledge}) == 38
    assert all(
        len(sample.references) == 1 and question.answer for sample in samples for question in sample.questions
    )
    assert dict(samples.notes) == {
        "images of pill/good that show metal nuts": 1, "images without a verdict question": 1,
        "logical anomalies": 54,
    }  # fmt: skip
    assert not any(sample.image.exists() for sample in samples)
