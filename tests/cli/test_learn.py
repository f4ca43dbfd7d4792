"""`anomalyr1 learn`: a bank and its page from good parts, and from nothing that is kept to test on."""

from pathlib import Path

import pytest
from PIL import Image

from anomalyr1.boxes import decode_mask
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.learning import Settings
from support import recordings
from support.parts import draw_part, write_parts


class Small(Settings):
    """The default at the size of the drawn parts, so that tests are quick."""

    short_side: int = 96


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anomalyr1.evidence.learning.Settings", Small)
    return tmp_path


def mvtec(root: Path, category: str, begin: int) -> None:
    """A category with three good parts to learn from, one good and one bad to test on."""
    write_parts(root / category / "train/good", 3, begin)
    write_parts(root / category / "test/good", 1, begin + 3)
    bad = root / category / "test/dent/bad.png"
    bad.parent.mkdir(parents=True)
    draw_part(begin + 4, defect=True).save(bad)


def names(bank: str) -> set[str]:
    return {Path(one.name).name for one in Bank.read(bank).parts}


def test_a_bank_its_page_what_is_promised_and_what_comes_next(here, call):
    write_parts(Path("good"), 5)
    code, out, err = call("learn", "good", "--out", "housing.bank", "--learn", 4)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "learned from 4 good parts, 1 held out"
    assert "for at most 10 %: 28 more good parts" in lines
    assert "bank: housing.bank" in lines
    assert lines[-1] == "next: anomalyr1 inspect IMAGES --bank housing.bank"
    assert Bank.read("housing.bank").learned == 4
    assert '<meta name="generator" content="AnomalyR1 learn">' in Path("housing.html").read_text()
    assert call("learn", "good", "--out", "housing.bank")[0] == 0  # its own is replaced


@pytest.mark.parametrize("name", ["housing.bank", "housing.html"])
def test_nothing_else_is_written_over(here, call, name):
    write_parts(Path("good"), 1)
    Path(name).write_text("somebody's")
    code, _, err = call("learn", "good", "--out", "housing.bank")
    assert code == 1 and f"'{name}' is nothing that `anomalyr1 learn` of this version wrote" in err
    assert Path(name).read_text() == "somebody's"
    assert {path.name for path in here.iterdir()} == {"good", name}


def test_parts_that_lie_turned_are_learned_so(here, call):
    write_parts(Path("good"), 1)
    for line, is_turned in ((["--rotations"], True), ([], False)):
        assert call("learn", "good", "--out", "a.bank", *line)[0] == 0
        assert Bank.read("a.bank").settings.rotations is is_turned


def test_what_does_not_count_is_kept_in_the_bank(here, call):
    write_parts(Path("good"), 1)
    mask = Image.new("L", (96, 96))
    mask.paste(255, (0, 0, 96, 10))
    mask.save("mask.png")
    assert call("learn", "good", "--out", "a.bank", "--ignore", "mask.png", "--smallest", 9)[0] == 0
    settings = Bank.read("a.bank").settings
    assert settings.smallest == 9 and decode_mask(settings.ignore).sum() == 960
    code, _, err = call("learn", "good", "--out", "a.bank", "--ignore", "none.png")
    assert code == 1 and "none.png" in err


def test_copies_promise_nothing(here, call):
    paths = write_parts(Path("good"), 2)
    Path("good/copy.png").write_bytes(paths[0].read_bytes())
    _, out, _ = call("learn", "good", "--out", "a.bank")
    assert "1 image is a copy of others, byte for byte: left out" in out
    assert len(Bank.read("a.bank").parts) == 2
    assert "1 image is a copy of others" in Path("a.html").read_text()


def test_only_the_good_parts_of_a_train_side_are_learned(here, call):
    mvtec(Path("set"), "nut", 0)
    code, _, err = call("learn", "mvtec:set", "--out", "nut.bank")
    assert code == 0, err
    assert names("nut.bank") == {f"good-0{i}.png" for i in range(3)}


def test_of_several_classes_one_is_chosen(here, call):
    mvtec(Path("set"), "nut", 0)
    mvtec(Path("set"), "bolt", 10)
    code, _, err = call("learn", "mvtec:set", "--out", "a.bank")
    assert code == 1 and "good images of 2 classes (MVTec-AD/bolt, MVTec-AD/nut)" in err and "--class" in err
    assert not Path("a.bank").exists()
    assert call("learn", "mvtec:set", "--class", "MVTec-AD/bolt", "--out", "a.bank")[0] == 0
    assert names("a.bank") == {f"good-{i}.png" for i in range(10, 13)}
    code, _, err = call("learn", "mvtec:set", "--class", "MVTec-AD/screw", "--out", "a.bank")
    assert code == 1 and "no good image of 'MVTec-AD/screw'" in err and "MVTec-AD/bolt, MVTec-AD/nut" in err


def test_the_good_ones_of_a_labelled_folder(here, call):
    write_parts(Path("parts/good"), 2)
    recordings.draw(Path("parts/bad/b.png"))
    assert call("learn", "folder:parts", "--out", "a.bank")[0] == 0
    assert names("a.bank") == {"good-00.png", "good-01.png"}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["gone"], "no such file or folder"),
        (["folder:gone"], "gone"),
        (["mmad:set"], "there to test on"),
        (["good", "--backbone", "resnet"], "resnet"),
        (["broken"], "broken"),
        (["good", "--out", "page.html"], "is the name of a page"),
        (["good", "--out", "good"], "is what is read"),
    ],
)
def test_what_cannot_be_learned_is_refused_by_name(here, call, line, text):
    write_parts(Path("good"), 1)
    write_parts(Path("set/nut/train/good"), 1)
    Path("broken").mkdir()
    Path("broken/words.png").write_text("no image")
    out = [] if "--out" in line else ["--out", "a.bank"]
    code, _, err = call("learn", *line, *out)
    assert code == 1 and text in err, err
    assert not Path("a.bank").exists() and not Path("a.html").exists()


def test_a_bad_part_among_the_good_is_named(here, call):
    write_parts(Path("good"), 7)
    draw_part(20, defect=True).save("good/odd.png")
    _, out, _ = call("learn", "good", "--out", "a.bank")
    assert "look at it, is it good? good/odd.png" in out


def test_defective_parts_teach_too(here, call):
    write_parts(Path("good"), 12)
    Path("bad").mkdir()
    for number in range(9):
        draw_part(200 + number, defect=True).save(f"bad/{number}.png")
    Path("bad/copy.png").write_bytes(Path("bad/0.png").read_bytes())
    code, out, err = call("learn", "good", "--out", "a.bank", "--defects", "bad")
    assert code == 0, err
    assert "defective: 1 image is a copy of others, byte for byte: left out" in out
    bank = Bank.read("a.bank")
    assert bank.head is not None and bank.head.defects == 9 and bank.learned == 9
    assert bank.head.describe() in out and bank.head.describe() in Path("a.html").read_text()
    code, _, err = call("learn", "good", "--out", "a.bank", "--defects", "good")
    assert code == 1 and "is named as defective and, as " in err
