"""The verbs about data as a user types them."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from anomalyr1 import data
from anomalyr1.data import export
from anomalyr1.data import splits as fewshot
from anomalyr1.drawn import dataset as drawn_dataset
from support import layouts
from support.pictures import picture


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The spec of drawn parts in a JSON lines file."""
    folder = tmp_path_factory.mktemp("drawn")
    samples = drawn_dataset.write("drawn:seen?n=24&seed=4", folder / "in", "Where?")
    return export.export(samples, "jsonl", folder / "out").load


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def parts():
    """A folder of own parts that any split leaks in: each image is there twice."""
    for kind, count in (("good", 6), ("dent", 6)):
        Path("parts", kind).mkdir(parents=True)
        for i in range(count):
            picture(100 * (kind == "dent") + i // 2, 64).save(Path("parts", kind, f"{i}.png"))
    return "folder:parts"


def test_check_of_good_data_is_code_0(call, drawn):
    code, out, err = call("data", "check", drawn)
    assert (code, err) == (0, "") and out.splitlines()[-1] == "24 samples checked: no problems"


def test_check_lists_problems_and_is_code_2(call, parts):
    Path("parts/good/0.png").write_bytes(b"broken")
    code, out, _ = call("data", "check", parts)
    assert code == 2
    lines = out.splitlines()
    assert any("0.png" in line and "image" in line for line in lines)
    assert any("holds the same image as" in line for line in lines)
    assert lines[-1].startswith("12 samples checked: ") and "problems of" in lines[-1]


def test_a_mask_that_cannot_be_read_stops_nothing(call):
    layouts.labelled_folder(Path("parts"))
    Path("parts/masks/scratch/b.png").write_bytes(b"broken")
    for option in ("boxes=false", "boxes=true"):
        code, out, _ = call("data", "check", "folder:parts", "-o", option)
        assert (
            code == 2
            and "scratch/b.png: its mask: " in out
            and out.endswith("3 samples checked: 1 problems of 1 samples\n")
        )
        assert call("data", "stats", "folder:parts", "-o", option)[0] == 0
        assert call("data", "show", "folder:parts", "stain/b.png", "-o", option)[0] == 0


def test_check_finds_15_planted_faults(call, drawn, tmp_path):
    """One fault a sample, in a JSON lines file that is otherwise good."""
    samples = [one.model_dump(mode="json") for one in data.load(drawn)]
    anomalous = [one for one in samples if one["boxes"] and one["mask"]]
    good = [one for one in samples if one["anomalous"] is False]

    def plant(one, **changes):
        one.update(changes)
        planted.add(one["id"])

    def picture_file(name, image):
        image.save(tmp_path / name)
        return str(tmp_path / name)

    planted = set()
    size = Image.open(anomalous[3]["image"]).size
    plant(anomalous[0], image="gone.png")
    plant(
        anomalous[1], mask=picture_file("empty.png", Image.new("L", Image.open(anomalous[1]["image"]).size))
    )
    plant(anomalous[2], mask=picture_file("large.png", Image.new("L", (999, 999), 255)))
    plant(anomalous[3], boxes=[{"x1": 0, "y1": 0, "x2": size[0] + 9, "y2": 9}], mask=None, questions=[])
    plant(anomalous[4], questions=[anomalous[4]["questions"][0] | {"answer": None}])
    plant(anomalous[5], questions=[anomalous[5]["questions"][0]] * 2)
    plant(anomalous[6], boxes=[{"x1": 0, "y1": 0, "x2": 5, "y2": 5}], questions=[])
    plant(anomalous[7], references=[anomalous[7]["image"]])
    plant(anomalous[8], anomalous=False, boxes=[], questions=[], defect=None)  # its mask marks a defect
    plant(anomalous[9], defect=None, boxes=None, mask=None, questions=[])
    plant(good[0], knowledge=f"{good[0]['image'].rsplit('/')[-1]} is a good part.")
    plant(good[1], questions=[good[1]["questions"][0] | {"options": ["Yes.", "yes"]}])
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(good[2]["image"]).read_bytes()[:200])
    plant(good[2], image=str(broken))
    verdict = next(one for one in good[3]["questions"] if one["kind"] == "anomaly detection")
    plant(good[3], questions=[verdict | {"answer": "AB".replace(verdict["answer"], "")}])
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(good[4]["image"]).read_bytes())
    plant(good[5], image=str(copy))
    assert len(planted) == 15

    root = Path("/")
    for one in samples:  # paths in a manifest are relative
        for key in ("image", "mask"):
            one[key] = one[key] and str(Path(one[key]).absolute().relative_to(root))
        one["references"] = [str(Path(path).absolute().relative_to(root)) for path in one["references"]]
    Path("faulty.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    code, out, _ = call("data", "check", "jsonl:faulty.jsonl", "--option", f"root={root}")
    found = {line.split(": ")[0] for line in out.splitlines()[:-1]}
    assert code == 2 and found == planted


def test_five_in_a_hundred_missing_three_doubled_two_leaked_are_all_found(call):
    """What risk R21 of the project's list asks for."""
    for side, first in (("train", 0), ("test", 50)):
        Path(side, "good").mkdir(parents=True)
        for i in range(50):
            picture(first + i, 48).save(Path(side, "good", f"{i}.png"))
    for i in range(2):
        Path(f"test/good/{i}.png").write_bytes(Path(f"train/good/{i}.png").read_bytes())
    code, _, err = call("data", "split", "folder:train", "--test", "folder:test", "--out", "s.json")
    assert code == 1 and "exact 2;" in err
    rows = [{"id": str(i), "image": f"train/good/{i}.png", "anomaly": 0} for i in range(50)]
    for i in range(3):
        Path(f"train/good/{i + 10}.png").write_bytes(Path(f"train/good/{i}.png").read_bytes())
    for i in range(5):
        Path(f"train/good/{i + 20}.png").unlink()
    Path("index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = call("data", "check", "index:index.jsonl")
    assert code == 2 and out.count("is missing") == 5 and out.count("holds the same image as") == 3
    code, _, err = call("data", "split", "index:index.jsonl", "--out", "s.json", "--protocol", "share")
    assert code == 1 and "5 image files are missing" in err and not Path("s.json").exists()


def test_split_writes_a_manifest(call, drawn):
    code, out, err = call("data", "split", drawn, "--out", "s.json", "--protocol", "share", "--seed", "3")
    assert (code, err) == (0, "")
    manifest = fewshot.read("s.json")
    assert out.splitlines() == [
        f"train: {len(manifest.train)}",
        f"test: {len(manifest.test)}",
        "leaks: none found",
        "warning: to test on there are only 7 good images: fewer than 10 say almost nothing; believe the "
        "intervals, not the figures; take fewer --shots, or add images",
        "split: s.json",
        "next: anomalyr1 train nano-sft data=split:s.json",
    ]
    assert (
        manifest.spec == drawn and manifest.plan.seed == 3 and len(manifest.train) + len(manifest.test) == 24
    )
    first = Path("s.json").read_bytes()
    call("data", "split", drawn, "--out", "s.json", "--protocol", "share", "--seed", "3")
    assert Path("s.json").read_bytes() == first


def test_a_split_that_leaks_is_refused_unless_allowed(call, parts):
    arguments = ("data", "split", parts, "--out", "s.json", "--shots", "2")
    code, out, err = call(*arguments)
    assert (
        (code, out) == (1, "") and "exact" in err and "--allow-leaks" in err and not Path("s.json").exists()
    )
    code, out, _ = call(*arguments, "--allow-leaks")
    assert code == 0 and "exact (allowed, and written down)" in out
    assert json.loads(Path("s.json").read_text())["leaks"]["allowed"] is True


def test_protocols_and_pairs(call, drawn, parts):
    code, out, _ = call(
        "data", "split", drawn, "--out", "s.json", "--protocol", "leave-classes-out", "--hold-out", "washer"
    )
    assert code == 0 and "test: 2" in out.splitlines()
    code, _, _ = call(
        "data", "split", drawn, "--out", "s.json", "--test", parts, "--test-option", "seed=1", "--force"
    )
    assert code == 0 and fewshot.read("s.json").test_options == {"seed": "1"}
    code, _, err = call("data", "split", drawn, "--out", "s.json", "--test", parts, "--shots", "2")
    assert code == 1 and "'given' makes no use of --shots" in err
    code, _, err = call("data", "split", drawn, "--out", "s.json", "--test", parts, "--protocol", "share")
    assert code == 1 and "--test takes both sets as they are" in err
    code, _, err = call("data", "split", drawn, "--out", "s.json", "--test", drawn)
    assert code == 1 and "exact 24" in err


def test_stats_writes_a_page(call, drawn):
    code, out, _ = call("data", "stats", drawn, "--out", "page.html")
    assert code == 0 and out.splitlines()[-1] == "page: page.html" and "24 samples of 12 classes" in out
    assert "Data set of 24 samples" in Path("page.html").read_text(encoding="utf-8")


def test_export_names_what_is_lost(call, drawn):
    code, out, _ = call("data", "export", drawn, "--to", "coco", "--out", "coco")
    assert (
        code == 0 and "24 of 24 samples exported to coco" in out and "dropped: knowledge, 24 samples" in out
    )
    assert out.splitlines()[-1] == "load it with: coco:coco/annotations.json"
    assert len(data.load("coco:coco/annotations.json")) == 24
    assert call("data", "export", drawn, "--to", "coco", "--out", "coco")[0] == 1  # nothing is written over


def test_one_side_of_a_split_is_exported(call, drawn):
    call("data", "split", drawn, "--out", "s.json", "--protocol", "share")
    code, _, _ = call("data", "export", drawn, "--to", "jsonl", "--out", "train", "--split", "s.json")
    assert code == 0
    assert [one.id for one in data.load("jsonl:train/samples.jsonl")] == [
        entry.id for entry in fewshot.read("s.json").train
    ]


def test_show_prints_a_sample_and_writes_its_picture(call, drawn):
    sample = next(one for one in data.load(drawn) if one.boxes)
    code, out, _ = call("data", "show", drawn, sample.id, "--out", "p.png")
    assert code == 0
    assert (
        f"verdict:    anomalous\ndefect:     {sample.defect}\n" in out
        and f"boxes:      {sample.defect} (" in out
    )
    assert out.count("  * ") == len(sample.questions)
    with Image.open("p.png") as shown, Image.open(sample.image) as plain:
        assert shown.size == plain.size and shown.tobytes() != plain.convert("RGB").tobytes()
    code, _, err = call("data", "show", drawn, "seen-99")
    assert code == 1 and "there is no sample 'seen-99'" in err and "drawn/seen-" in err


def test_options_reach_the_loader(call, parts):
    assert call("data", "check", parts, "--option", "seed=3")[0] == 2
    for option, said in (("sede=3", "did you mean 'seed'"), ("seed", "key=value"), ("seed=x", "seed")):
        code, out, err = call("data", "check", parts, "-o", option)
        assert (code, out) == (1, "") and said in err
    assert "twice" in call("data", "check", parts, "-o", "seed=1", "-o", "seed=2")[2]


def test_extract(call):
    with zipfile.ZipFile("a.zip", "w") as opened:
        opened.writestr("good/1.png", b"x")
    code, out, _ = call("data", "extract", "a.zip", "--out", "new")
    assert (code, out) == (0, "1 files, 1 bytes in new\n") and Path("new/good/1.png").read_bytes() == b"x"
    with zipfile.ZipFile("b.zip", "w") as opened:
        opened.writestr("../evil\x1b[2J", b"x")
    code, _, err = call("data", "extract", "b.zip", "--out", "other")
    assert (
        code == 1 and "parent folder" in err and err.rstrip("\n").isprintable() and not Path("other").exists()
    )


@pytest.mark.parametrize(
    "arguments",
    [("data", "check", "mvtec"), ("data", "stats", "x:y"), ("data", "show", "jsonl:gone", "a"), ("data",)],
)
def test_wrong_input_is_code_1_without_a_traceback(call, arguments):
    code, _, err = call(*arguments)
    assert code == 1 and "Traceback" not in err


def test_names_of_the_data_never_move_the_cursor(call, tmp_path):
    Path("parts/good").mkdir(parents=True)
    Path("parts/good/\x1b[2J\u202e.png").write_bytes(b"broken")
    code, out, _ = call("data", "check", "folder:parts")
    assert code == 2 and "\x1b" not in out and "\u202e" not in out and "\\x1b[2J" in out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders on this system")
def test_pipes_and_endless_files_stop_neither_check_nor_split(call, parts):
    os.mkfifo("parts/dent/x.png")
    with Path("parts/dent/y.png").open("wb") as file:
        file.truncate(300 * 2**30)
    code, out, err = call("data", "check", parts)
    assert (code, err) == (2, "")
    assert any("x.png" in line for line in out.splitlines())
    assert any("y.png" in line and "at most 33,554,432 bytes" in line for line in out.splitlines())
    code, out, err = call("data", "split", parts, "--shots", 1, "--out", "split.json", "--allow-leaks")
    assert code == 1
    assert "y.png" in err and "cannot be read" in err
    assert not Path("split.json").exists()
