"""Tables of images and labels: separators, words, and what is refused by name."""

from __future__ import annotations

import pytest

from anomalyr1 import data
from anomalyr1.data.label_tables import BAD, GOOD, read_label_table
from anomalyr1.types import InputError
from support import layouts

ROWS = [("filename", "label"), ("a.png", "ok"), ("sub/b.png", "NG"), ("c, d.png", "Schlecht"), ("e.png", "")]


def table(folder, rows=ROWS, separator=",", head="", encoding="utf-8"):
    lines = [separator.join(f'"{cell}"' if separator in cell else cell for cell in row) for row in rows]
    (folder / "labels.csv").write_text(head + "\n".join(lines) + "\n", encoding=encoding)
    return folder / "labels.csv"


@pytest.mark.parametrize(
    ("separator", "head", "encoding"),
    [
        (",", "", "utf-8"),
        (";", "", "utf-8-sig"),  # Excel in Germany
        ("\t", "", "utf-8"),
        (";", "sep=;\r\n", "utf-8-sig"),
        ("|", "sep=|\n", "utf-8"),
    ],
)
def test_separators(tmp_path, separator, head, encoding):
    samples = data.load(f"csv:{table(tmp_path, ROWS, separator, head, encoding)}")
    assert [(sample.id, sample.anomalous) for sample in samples] == [
        ("a.png", False), ("sub/b.png", True), ("c, d.png", True), ("e.png", None),
    ]  # fmt: skip
    assert samples[1].image == tmp_path / "sub/b.png" and samples.notes["images without a label"] == 1
    assert [question.kind for question in samples[0].questions] == ["anomaly detection"]
    assert data.load(f"csv:{tmp_path / 'labels.csv'}", root=tmp_path / "x")[0].image == tmp_path / "x/a.png"


def test_words_mean_one_thing(tmp_path):
    rows = [("path", "verdict"), *((f"{word}.png", word.upper()) for word in sorted(GOOD | BAD))]
    found = {
        line.name.removesuffix(".png"): line.anomalous for line in read_label_table(table(tmp_path, rows))
    }
    assert found == dict.fromkeys(GOOD, False) | dict.fromkeys(BAD, True) and not GOOD & BAD


def test_sorts_of_defects_and_paths_of_windows(tmp_path):
    rows = [("image", "label", "defect", "line"), ("x\\a.png", "1", "scratch", "3"), ("b.png", "0", "", "4")]
    samples = data.load(f"csv:{table(tmp_path, rows, ';')}", name="housing")
    assert (samples[0].image, samples[0].defect) == (tmp_path / "x/a.png", "scratch")
    assert (samples[1].anomalous, samples[1].category) == (False, "housing")
    assert samples.notes["backslashes in paths, read as slashes"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,label\na,ok\nb,maybe\nc,perhaps\nd,maybe\n",
            r"2 labels .*'maybe' \(line 3\), 'perhaps' \(line 4",
        ),
        ("a,b\n1,2\n", "expected a column of images .*, got 'a, b'"),
        ("", "got none"),
        ("file,path,label\na,b,ok\n", "each once, got 'file, path, label'"),
        ("file,label\na,ok\na,ng\n", "line 3 of .*'a' has a label already"),
        ("file,label\na\n", "line 2 .* has 1 cells, its header 2"),
        ("sep=;\nfile;label\na;ok;x\n", "line 3 .* has 3 cells"),
        ('file,label\n"a,ok\n', "is no CSV table"),
        ("file,label\n../a.png,ok\n", "names a parent folder"),
        ("file,label\nC:\\a.png,ok\n", "starts with a drive letter"),
        ("file,label\n", "rows below a column"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        data.load(f"csv:{tmp_path / 'labels.csv'}")


def test_other_encodings_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_bytes("datei;label\nstück.png;gut\n".encode("cp1252"))
    with pytest.raises(InputError, match="not UTF-8"):
        data.load(f"csv:{tmp_path / 'labels.csv'}")


def test_check_finds_nothing_wrong(tmp_path, call):
    for name in ("a.png", "sub/b.png"):
        layouts.image(tmp_path / name, kind=None if name == "a.png" else "scratch")
    code, out, _ = call("data", "check", f"csv:{table(tmp_path, ROWS[:3])}")
    assert (code, out) == (0, "2 samples checked: no problems\n")
