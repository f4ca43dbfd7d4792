"""`data.load`: every layout, its options, hostile paths and odd names; nothing is opened to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from anomalyr1 import boxes, data
from anomalyr1.data import mask_files
from anomalyr1.evaluation import checks
from anomalyr1.types import InputError, Sample, quoted
from support import layouts

LAYOUTS = {  # scheme: builder, samples, of them anomalous
    "mvtec": (layouts.mvtec, 8, 4),
    "goodsad": (lambda root: layouts.mvtec(root, "{}.png", ".jpg"), 8, 4),
    "loco": (layouts.loco, 10, 4),
    "visa": (layouts.visa, 8, 4),
    "folder": (layouts.labelled_folder, 3, 2),
    "coco": (layouts.coco, 3, 2),
    "yolo": (layouts.yolo, 3, 2),
    "index": (layouts.index, 3, 2),
}


@pytest.mark.parametrize("scheme", LAYOUTS)
def test_every_layout_loads_without_opening_an_image(tmp_path, scheme, monkeypatch):
    build, n, anomalous = LAYOUTS[scheme]
    path = build(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
        samples = data.load(f"{scheme}:{path}")
        built = list(samples)
    assert (len(samples), sum(bool(sample.anomalous) for sample in built)) == (n, anomalous)
    assert samples[-1] == built[-1] == samples[len(samples) - 1]
    for sample in built:
        assert sample.image.is_file()
        assert sample.boxes is None or sample.anomalous is False or scheme in ("coco", "index")
        assert Sample.from_json(sample.to_json()) == sample
        assert sample.questions[0].kind == "anomaly detection"


@pytest.mark.parametrize("scheme", LAYOUTS)
def test_boxes_are_those_that_were_drawn(tmp_path, scheme):
    build, _, _ = LAYOUTS[scheme]
    samples = data.load(f"{scheme}:{build(tmp_path / 'set')}", boxes=True)
    for sample in samples:
        if not sample.anomalous:
            assert sample.boxes == ()
            continue
        category = sample.category if sample.category in layouts.CATEGORIES else "washer"
        kinds = layouts.DEFECTS[category]
        kind = kinds[sample.image.stem[-1] == "1"] if scheme == "visa" else sample.defect
        kind = dict(zip(("logical_anomalies", "structural_anomalies"), kinds, strict=True)).get(kind, kind)
        one = layouts.drawn(category, kind)
        if scheme in ("coco", "yolo"):
            assert boxes.set_iou(boxes.to_array(sample.boxes), boxes.to_array(one.boxes)) > 0.999
            continue
        expected = one.boxes if scheme == "index" else boxes.components(one.mask, 4)
        assert {box.xyxy for box in sample.boxes} == {box.xyxy for box in expected}
        assert (mask_files.read_mask(sample.mask) == one.mask).all()
        grounding = next(question for question in sample.questions if question.kind == "grounding")
        assert grounding.boxes == sample.boxes


@pytest.mark.parametrize("scheme", LAYOUTS)
def test_gold_of_every_layout_earns_full_reward(tmp_path, scheme):
    build, _, _ = LAYOUTS[scheme]
    samples = data.load(f"{scheme}:{build(tmp_path / 'set')}", boxes=True)
    assert checks.check(samples) == []


def test_questions_are_the_same_in_another_process(tmp_path):
    path = layouts.mvtec(tmp_path / "set")
    load = f"data.load('mvtec:{path}', boxes=True)"
    code = f"from anomalyr1 import data; print(''.join(s.to_json() for s in {load}), end='')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other == "".join(sample.to_json() for sample in data.load(f"mvtec:{path}", boxes=True))
    changed = "".join(sample.to_json() for sample in data.load(f"mvtec:{path}", boxes=True, seed=1))
    assert other != changed


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("mvtecc:x", {}, "did you mean 'mvtec'"),
        ("/data/parts", {}, "folder:FOLDER"),
        ("mvtec", {}, "write it as mvtec:FOLDER"),
        ("mvtec:{}", {"sead": 1}, "did you mean 'seed'"),
        ("mvtec:{}", {"seed": -1}, "option seed of mvtec"),
        ("mvtec:{}", {"split": "dev"}, "it has test, train"),
        ("folder:{}/washer/test", {"split": "test"}, "it has no splits"),
        ("mvtec:{}/nowhere", {}, "is no folder"),
        ("mvtec:{}/washer/test", {}, "expected <category>/train/good"),
        ("visa:{}/washer/test", {}, "expected <category>/Data/Images/Normal"),
        ("folder:{}", {}, "mvtec:FOLDER"),
        ("folder:{}/washer", {}, "is below a folder of good images inside"),
        ("mmad:{}", {"fix": "pill,nut"}, "'verdict' or 'masks', got 'pill,nut'"),
        ("mmad:{}", {}, "mmad.json"),
        ("index:{}/nowhere.jsonl", {}, "cannot read"),
        ("elpv:somewhere", {}, "takes no path"),
        ("drawn:dev", {}, "folder="),
    ],
)
def test_what_cannot_be_loaded_is_said(tmp_path, spec, options, said):
    path = layouts.mvtec(tmp_path / "set")
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        data.load(spec.format(path), **options)


@pytest.mark.parametrize("spec", [Path("parts"), None, ["folder:parts"]])
def test_a_spec_is_a_text(spec):
    with pytest.raises(InputError, match="expected a text such as 'folder:parts', got"):
        data.load(spec)


def test_splits(tmp_path):
    path = layouts.mvtec(tmp_path / "set")
    assert {sample.anomalous for sample in data.load(f"mvtec:{path}", split="train")} == {False}
    assert len(data.load(f"mvtec:{path}", split="test")) == 6
    assert len(data.load(f"visa:{layouts.visa(tmp_path / 'visa')}", split="train")) == 2


HOSTILE = [
    *(f"{dots}etc/passwd{n}" for n in range(8) for dots in ("../", "../../", "a/../../", "/")),
    *(f"{drive}:{slash}windows/{n}.png" for n in range(5) for drive in "CdZ" for slash in ("\\", "/", "")),
    *(f"{start}host/share/{n}.png" for n in range(3) for start in ("\\\\", "//", "\\\\?\\", "\\")),
    *(f"{scheme}://host/{n}.png" for n in range(3) for scheme in ("http", "https", "file", "s3", "ftp")),
    "data:image/png;base64,AAAA",
    "file:/etc/passwd",
    "..",
    ".",
    "",
    "./",
    "a/..",
    "a\\..\\..\\b.png",
    "..\\b.png",
    "a\0.png",
    "\0",
    "x/../y.png",
    "\ud800.png",
    "a/\udfff/b.png",
    "x" * 256,
    "x/" * 2048 + "y",
    "JAVASCRIPT:alert(1)",
    "/",
    "\\",
    "./../x.png",
]


def test_there_are_120_hostile_paths():
    assert len(HOSTILE) == len(set(HOSTILE)) >= 120


@pytest.mark.parametrize("scheme", ["index", "jsonl", "coco", "mmad", "conversation"])
def test_hostile_paths_are_refused_with_one_message(tmp_path, scheme):
    path = tmp_path / "manifest.json"
    if scheme == "mmad":
        text = json.dumps({name: layouts.entry(name) for name in HOSTILE})
    elif scheme == "coco":
        images = [{"id": n, "file_name": name} for n, name in enumerate(HOSTILE)]
        text = json.dumps({"images": images, "annotations": [], "categories": []})
    else:
        keys = {"index": {"anomaly": 0}, "jsonl": {}, "conversation": {"conversations": []}}[scheme]
        text = "\n".join(json.dumps({"id": str(n), "image": name} | keys) for n, name in enumerate(HOSTILE))
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        data.load(f"{'jsonl' if scheme == 'conversation' else scheme}:{path}")
    for name in HOSTILE:
        assert f"  {quoted(name)} " in str(caught.value)
    assert f"{len(HOSTILE)} paths" in str(caught.value)


def test_hostile_masks_and_references_are_refused_too(tmp_path):
    row = {"image": "a.png", "anomaly": 1, "mask": "../m.png", "template": "/t.png"}
    (tmp_path / "index.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="2 paths"):
        data.load(f"index:{tmp_path}")
    entry = layouts.entry(
        "VisA/candle/test/bad/1.png", mask_path="/m.png", random_templates=["../t.png"], similar_templates=[7]
    )
    with pytest.raises(InputError, match="3 paths"):
        data.load(f"mmad:{layouts.mmad(tmp_path / 'mmad', **{'VisA/candle/test/bad/1.png': entry})}")


@pytest.mark.parametrize("what", ["file", "folder", "inside"])
def test_links_out_of_the_folder_are_refused_unless_allowed(tmp_path, what):
    root = layouts.labelled_folder(tmp_path / "set")
    outside = layouts.image(tmp_path / "elsewhere/x.png")
    link = {"file": root / "good/x.png", "folder": root / "linked", "inside": root / "good/y.png"}[what]
    target = {"file": outside, "folder": outside.parent, "inside": root / "good/a.png"}[what]
    link.symlink_to(target)
    if what == "inside":  # a control: a link that stays is no matter
        assert len(data.load(f"folder:{root}")) == 4
        return
    with pytest.raises(InputError, match="symbolic link"):
        data.load(f"folder:{root}")
    assert len(data.load(f"folder:{root}", links=True)) == 4
    (tmp_path / "set/index.jsonl").write_text(
        json.dumps({"image": "linked/x.png" if what == "folder" else "good/x.png", "anomaly": 0})
    )
    with pytest.raises(InputError, match="symbolic link"):
        data.load(f"index:{root}")


def odd_names() -> list[bytes]:
    texts = [
        "new\nline",
        "-rf",
        "--help",
        "\u202ertl",
        "שלום",
        "مرحبا",
        "تصوير\u200f",
        "tab\there",
        "quote'",
        'double"',
        "back\\slash",
        "semi;colon",
        "dollar$HOME",
        "`tick`",
        "star*",
        "question?",
        "#hash",
        "%2e%2e",
        "%2F",
        "a..b",
        "space ",
        " space",
        "CON",
        "emoji🔩",
        "é",
        "e\u0301",
        "ｆｕｌｌ",
        "a&b",
        "a|b",
        "<b>",
        "{x}",
        "[x]",
        "(x)",
        "a,b",
        "a=b",
        "a@b",
        "a:b",
        "~",
        "~root",
        "carriage\rreturn",
        "bell\a",
        "escape\x1b[31m",
        "zero\u200bwidth",
        "bom\ufeff",
        "line\u2028sep",
        "\u0085next",
        "a" * 251,
        "ü" * 125,
        "日本語",
        "Ω≈ç√∫",
        "null",
        "NaN",
        "1e999",
        "true",
        "x.tar",
    ]
    names = [text.encode() for text in texts]
    names += [bytes((0x80 + n, 0xFF, 0x41 + n % 26)) for n in range(120 - len(names))]  # not UTF-8
    return [name + b".png" for name in names]


def test_odd_names_round_trip(tmp_path):
    root = tmp_path / "set"
    picture = layouts.image(tmp_path / "a.png").read_bytes()
    (root / "good").mkdir(parents=True)
    for name in odd_names():
        (root / "good" / os.fsdecode(name)).write_bytes(picture)
    assert len(set(odd_names())) == 120
    samples = data.load(f"folder:{root}")
    assert {os.fsencode(sample.image.name) for sample in samples} == set(odd_names())
    lines = []
    for sample in samples:
        assert sample.image.is_file()
        assert Sample.from_json(sample.to_json()) == sample
        lines.append(sample.model_copy(update={"image": sample.image.relative_to(root)}).to_json())
    assert all(line.isascii() and "\n" not in line for line in lines)
    (root / "samples.jsonl").write_text("\n".join(lines))
    again = data.load(f"jsonl:{root / 'samples.jsonl'}")
    assert list(again) == list(samples)
    rows = [json.dumps({"image": f"good/{sample.image.name}", "anomaly": 0}) for sample in samples]
    (root / "index.jsonl").write_text("\n".join(rows))
    assert [sample.image for sample in data.load(f"index:{root}")] == [sample.image for sample in samples]


def test_the_shared_image_sets(shared):
    for name, least in (("magnetic_tile", 386), ("bsdata", 324), ("deeppcb", 500)):
        samples = data.load(f"index:{shared / 'data' / name}")
        located = [sample for sample in samples if sample.boxes]
        assert len(located) == least
        for sample in located[::40]:
            size_wh = PIL.Image.open(sample.image).size
            assert all(
                0 <= box.x1 < box.x2 <= size_wh[0] and 0 <= box.y1 < box.y2 <= size_wh[1]
                for box in sample.boxes
            )
            if sample.mask is not None:
                found, mask_wh = mask_files.mask_boxes(sample.mask)
                assert mask_wh == size_wh
                assert {box.xyxy for box in found} == {box.xyxy for box in sample.boxes}
            else:
                assert all(reference.is_file() for reference in sample.references)
