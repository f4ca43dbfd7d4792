"""The report: tables, plots and gallery of an evaluation in files that run nothing and load nothing."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from anomalyr1 import answers, boxes, records
from anomalyr1.drawn import draw as procedural
from anomalyr1.evaluation.tables import Table
from anomalyr1.images.door import open_image
from anomalyr1.report import evaluation_page as results
from anomalyr1.report import gallery, svg
from anomalyr1.types import Answer, Box, Inspection, Question, Reply, Sample
from support import recordings, runs

FOUND = (Box(x1=60, y1=40, x2=80, y2=54, label="stain"),)
OPTIONS = ("Yes", "No")
LABELS = {"anomalous": True, "boxes": FOUND, "defect": "stain"}


def reply(
    name, text="<think>There is a stain, so the answer is A.</think><answer>A</answer>", options=OPTIONS
):
    return Reply(question_id=f"{name}#verdict", completion=text, answer=answers.parse(text, options))


def said(name, verdict="defect", score=0.9, found=FOUND, text=None, **more):
    masks = None
    if found:
        canvas = np.zeros((84, 112), bool)
        canvas[40:54, 60:80] = True
        masks = (boxes.encode_mask(canvas, "box"),)
    replies = (reply(name) if text is None else reply(name, text),)
    return Inspection(
        sample_id=name,
        verdict=verdict,
        score=score,
        reason="because",
        boxes=found,
        masks=masks,
        replies=replies,
        **more,
    )


CASES = {
    "right": (LABELS, said("right")),
    "missed": (
        LABELS,
        said("missed", "good", 0.1, (), "<think>All is even, so the answer is B.</think><answer>B</answer>"),
    ),
    "false": ({"anomalous": False}, said("false")),
    "unsure": (
        {"anomalous": False},
        said("unsure", "unsure", 0.5, None, "<think>The answer is B.</think><answer>A</answer>"),
    ),
    "mute": (LABELS, said("mute", "unsure", None, None, "no idea")),
    "failed": (
        LABELS,
        Inspection(sample_id="failed", verdict="unsure", reason="it failed", error="the disk is gone"),
    ),
}


def pairs(tmp_path):
    return [
        (Sample(id=name, image=recordings.draw(tmp_path / f"{name}.png"), category="plate", **known), one)
        for name, (known, one) in CASES.items()
    ]


def evaluated(known, title="inspections.jsonl"):
    from anomalyr1.data.sources import LoadedSource
    from anomalyr1.evaluation import run as evaluate

    source = evaluate.Source(spec="folder:parts", samples=len(known), questions="", inspections="x")
    loaded = LoadedSource([sample for sample, _ in known], {}, None)
    found = evaluate.measure(loaded, recordings.FINGERPRINT, [one for _, one in known], source, repeats=20)
    return results.Results(title, recordings.FINGERPRINT, known, found, [], "0.0")


def test_outcomes_and_flags(tmp_path):
    known = {
        sample.id: (gallery.outcome(sample, one), gallery.flags(sample, one))
        for sample, one in pairs(tmp_path)
    }
    assert known == {
        "right": ("right", ()),
        "missed": ("missed", ("wrong answer",)),
        "false": ("false alarm", ("wrong answer",)),
        "unsure": ("unsure", ("contradicting", "wrong answer")),
        "mute": ("unsure", ("unparseable", "wrong answer")),
        "failed": ("failed", ()),
    }
    assert gallery.outcome(Sample(id="x", image="x"), said("x")) == "defect"  # what is true is not known


@pytest.mark.parametrize(
    ("reasoning", "marked"),
    [
        (
            "It is round. There is a stain, so the answer is A. I am done.",
            "There is a stain, so the answer is A.",
        ),
        ("First I thought the answer is B. Wait, no, the answer is A.", "Wait, no, the answer is A."),
        ("The answer is A", "The answer is A"),
        ("Nothing is said here.", ""),
        ("", ""),
    ],
)
def test_the_conclusion_is_marked(reasoning, marked):
    answer = answers.parse(f"<think>{reasoning}</think><answer>A</answer>", OPTIONS)
    found = gallery.mark_conclusion(answer.reasoning, answer, OPTIONS)
    assert found.conclusion == marked
    assert "".join(found) == answer.reasoning


def test_a_defect_is_marked_where_no_letter_is_concluded():
    answer = Answer(
        status="strict", reasoning="The plate is grey. A dark stain is visible. Look.", says_defect=True
    )
    assert gallery.mark_conclusion(answer.reasoning, answer, ()).conclusion == "A dark stain is visible."


def test_all_files_are_written(tmp_path):
    path = results.write(tmp_path / "out", evaluated(pairs(tmp_path)))
    html = path.read_text(encoding="utf-8")
    written = sorted(
        file.relative_to(tmp_path / "out").as_posix()
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    )
    plots = [f"plots/{name}.svg" for name in ("cost", "precision_recall", "reliability", "roc", "scores")]
    assert written == ["figures.csv", "index.html", "items.csv", *plots, "report.json", "report.md"]
    assert (
        html.count("<article") == len(CASES) and html.count("data:image/webp;base64,") == 11
    )  # "unsure" found nothing on a good part
    for text in (
        "the disk is gone",
        "AUROC",
        "ACC@0.3",
        "<mark>There is a stain, so the answer is A.</mark>",
        "wrong answer 4",
        "right 1",
    ):
        assert text in html, text
    assert not re.search(r"<script|<link|<iframe|src=\"http|\son\w+=|\sstyle=|url\(|@import", html)
    assert "default-src 'none'" in html
    order = [html.index(f">{name}</h2>") for name in ("failed", "missed", "false", "unsure", "right")]
    assert order == sorted(order)  # what needs a look first
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["detection"]["overall"]["verdicts"]["anomalous"] == {"good": 1, "defect": 1, "unsure": 2}
    assert "| AUROC |" in (tmp_path / "out" / "report.md").read_text()
    items = list(csv.DictReader(io.StringIO((tmp_path / "out" / "items.csv").read_text())))
    assert [row["outcome"] for row in items] == [
        "right",
        "missed",
        "false alarm",
        "unsure",
        "unsure",
        "failed",
    ]
    assert (
        results.write(tmp_path / "out", evaluated(pairs(tmp_path))).read_text(encoding="utf-8") == html
    )  # nothing depends on time


def test_without_truth_it_says_so(tmp_path):
    known = [(Sample(id=sample.id, image=sample.image), one) for sample, one in pairs(tmp_path)]
    shown = results.Results("x.jsonl", recordings.FINGERPRINT, known, None, ["What is true is not known."])
    html = results.write(tmp_path / "out", shown).read_text(encoding="utf-8")
    assert "What is true is not known" in html and "AUROC" not in html and "<svg" not in html
    assert "Truth</dt><dd>not known" in html
    assert "| defect | 2 |" in (tmp_path / "out" / "report.md").read_text()


def test_confusions_of_answers():
    question = Question(
        id="q", kind="defect classification", text="?", options=("dent", "hole", "other thing"), answer="B"
    )
    told = [("A", "B"), ("B", "B"), ("B", "A"), (None, "B"), ("C", "A")]
    known = []
    for number, (choice, gold) in enumerate(told):
        answer = Answer(status="strict" if choice else "unparseable", choice=choice)
        sample = Sample(id=f"{number}", image="x", questions=(question.model_copy(update={"answer": gold}),))
        replies = (Reply(question_id="q", completion="", answer=answer),)
        known.append(
            (sample, Inspection(sample_id=f"{number}", verdict="unsure", reason="r", replies=replies))
        )
    (found,) = results.confusions_of_answers(known)
    assert found.columns == ("1", "2", "other", "unread")
    assert [(name, [n for n, _ in cells]) for name, cells in found.rows] == [
        ("1. dent", [0, 1, 1, 0]),
        ("2. hole", [1, 1, 0, 1]),
    ]


# What spreadsheets take for formulas, commands or new cells, each in some disguises.
_OPENINGS = ("=", "+", "-", "@", "\t=", "\r=", " \n=", "＝")
_BODIES = (
    "1+1",
    "cmd|' /C calc'!A0",
    'HYPERLINK("http://canary.test","x")',
    "SUM(1;2)",
    "IMPORTXML(1,2)",
    "A1",
    '1";=1',
    "1\n=2",
)
FORMULAS = [opening + body for opening in _OPENINGS for body in _BODIES]


def test_64_formulas_stay_text():
    assert len(FORMULAS) == 64 == len(set(FORMULAS))
    known = [
        (
            Sample(id=text, image="x", category=text, defect=text, anomalous=True),
            Inspection(sample_id=text, verdict="unsure", score=0.5, reason=text, error=text),
        )
        for text in FORMULAS
    ]
    tables = [Table(text, (text, text), [(text, text)]) for text in FORMULAS]
    for written, rows in ((results.items_csv(known), 64), (results.figures_csv(tables), 64)):
        read = list(csv.reader(io.StringIO(written)))[1:]
        assert len(read) == rows
        cells = [cell for row in read for cell in row if cell not in ("", "0.5")]
        assert not any(map(opens_a_formula, cells))
        assert all(  # nothing is lost
            text.replace("'", "") in row[0].replace("'", "") for row, text in zip(read, FORMULAS, strict=True)
        )
        # Every text stands in quotes, and a program that splits at semicolons finds no formula all the same.
        assert all(
            f'"{cell.replace(chr(34), chr(34) * 2)}"' in written for cell in cells if cell not in "0123456789"
        )
        split = [
            cell
            for row in csv.reader(io.StringIO(written.replace("\r", "\n")), delimiter=";")
            for cell in row
        ]
        assert len(split) > len(read) and not any(map(opens_a_formula, split))


def test_quotes_alone_do_not_keep_a_formula_in_its_cell():
    line = '"strict","evil;=1+1;","x"'
    assert any(map(opens_a_formula, next(csv.reader([line], delimiter=";"))))


def opens_a_formula(cell):
    """Whether a spreadsheet may take a cell for a formula: after blanks and control characters it begins as
    one.
    """
    return cell.lstrip(" \t\r\n")[:1] in {*"=+-@＝＋－＠"}


def test_the_formula_check_sees_formulas():
    assert all(map(opens_a_formula, FORMULAS))
    assert not opens_a_formula("'=1") and not opens_a_formula("1")


@pytest.mark.parametrize("title", ["plain", "<script>alert(1)</script>", "\u202e&\"'\x00", "x" * 300])
def test_charts_are_whole_svg(title):
    lines = [
        svg.Curve(title, [(0, 0), (0.5, float("nan")), (1, 1)], look)
        for look in ("line", "dashed", "dots", "bars")
    ]
    drawn = svg.chart(title, title, lines, (0, 1), (0, 1))
    for text in (drawn, svg.file(drawn)):
        root = ElementTree.fromstring(text)
        assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
            "svg",
            "text",
            "line",
            "polyline",
            "circle",
            "rect",
        }
    assert "currentColor" not in svg.file(drawn)


@pytest.mark.parametrize(
    "values", [[], [(0, 1)], [(5, 3), (6, 3)], [(0, 1e-9), (1e9, -4)], [(0, float("inf"))]]
)
def test_any_range_has_axes(values):
    ElementTree.fromstring(svg.chart("t", "x", [svg.Curve("s", values)]))


def test_long_lines_are_thinned():
    drawn = svg.chart("t", "x", [svg.Curve("s", [(i, i) for i in range(100_000)])])
    assert len(drawn) < 12_000


def test_a_large_page_stays_small_and_opens_each_picture_once(tmp_path, monkeypatch):
    """At most 30 kB an image of 0.5 megapixels, which is decoded once for both of its pictures."""
    categories = (
        "metal plate",
        "washer",
        "circuit board",
        "casting",
        "woven fabric",
        "wood panel",
        "wire mesh",
        "label",
    )
    for number, category in enumerate(categories):
        image = Image.fromarray(procedural.draw(number, category, None).image)
        image.resize((800, 600), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg", quality=90)
    random, known = np.random.default_rng(0), []
    text = (
        "<think>"
        + "I look at the part from left to right and see a stain. " * 6
        + "So the answer is A.</think><answer>A</answer>"
    )
    for number in range(200):
        bad, name = number % 2 == 0, f"{number}"
        gold = FOUND if bad else ()
        sample = Sample(
            id=name,
            image=tmp_path / f"{number % 8}.jpg",
            category=categories[number % 8],
            anomalous=bad,
            boxes=gold,
        )
        one = Inspection(
            sample_id=name, verdict="defect", score=random.random(), boxes=FOUND, replies=(reply(name, text),)
        )
        known.append((sample, one))
    shown = evaluated(known)
    opened = Counter()

    def counting(path):
        opened[path] += 1
        return open_image(path)

    monkeypatch.setattr(gallery, "open_image", counting)
    path = results.write(tmp_path / "out", shown)
    assert path.read_text(encoding="utf-8").count("<article") == opened.total() == 200
    assert path.stat().st_size < 200 * 30_000


def test_the_verb(tmp_path, call):
    known = pairs(tmp_path)
    with records.Writer(tmp_path / "inspections.jsonl", recordings.FINGERPRINT) as writer:
        for sample, one in known:
            writer.append(one.model_copy(update={"sample_id": sample.image.as_posix()}))
    code, out, _ = call("report", tmp_path / "inspections.jsonl", "--out", tmp_path / "plain")
    assert code == 0 and "index.html" in out
    assert "not known" in (tmp_path / "plain" / "index.html").read_text(encoding="utf-8")
    assert "warning" not in out  # the control: no figures, no warning
    rows = []
    for sample, _ in known:
        about = {
            "anomaly": int(sample.anomalous),
            "defect": sample.defect or "",
            "boxes": [list(box.xyxy) for box in sample.boxes or ()],
        }
        rows.append({"id": sample.id, "image": sample.image.name, **about})
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.savez(
        tmp_path / "maps.npz",
        **{sample.image.as_posix(): np.full((21, 28), float(sample.anomalous)) for sample, _ in known},
    )
    code, out, err = call(
        "report",
        tmp_path,
        "--data",
        f"index:{tmp_path}",
        "--maps",
        tmp_path / "maps.npz",
        "--out",
        tmp_path / "full",
    )
    assert code == 0, err
    assert "fewer than 10 say almost nothing" in out.partition("report: ")[0]
    assert "AUROC" in (tmp_path / "full" / "index.html").read_text(encoding="utf-8")
    for arguments, problem in (
        (("report", tmp_path / "gone"), "holds no inspections"),
        (("report", tmp_path, "--maps", "x"), "need --data"),
    ):
        code, _, err = call(*arguments, "--out", tmp_path / "no")
        assert code == 1 and problem in err


def test_scores_of_another_detector_come_to_the_same_page(tmp_path, call):
    paths = [
        recordings.draw(tmp_path / "parts" / kind / f"{i}.png", spot)
        for i, (kind, spot) in enumerate((("good", None), ("stain", (60, 40))) * 2)
    ]
    (tmp_path / "s.csv").write_text(
        "sample_id,score\n" + "".join(f"{path.as_posix()},{i % 2 + 0.1}\n" for i, path in enumerate(paths))
    )
    code, out, err = call(
        "convert",
        tmp_path / "s.csv",
        "--out",
        tmp_path / "i.jsonl",
        "--name",
        "PatchCore",
        "--threshold",
        "0.5",
    )
    assert code == 0 and "4 inspections" in out, err
    code, _, err = call(
        "report", tmp_path / "i.jsonl", "--data", f"folder:{tmp_path / 'parts'}", "--out", tmp_path / "out"
    )
    assert code == 0, err
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "model PatchCore" in html
    assert re.search("<td>AUROC</td><td>1.000 \\[0.[01]\\d\\d,\u00a01.000]</td>", html)  # 2 and 2 images


def test_a_training_run(tmp_path, call):
    held_out = [(step, {"AUROC": 0.5 + step / 100, "images": 12}) for step in (1, 20)]
    made = runs.made(
        tmp_path / "run", 20, lambda step: {"loss": 1 / step, "rewards/roam/mean": step / 20}, held_out
    )
    (made / "recipe.yaml").write_text("model: nano\n")
    (made / "run.json").write_text('{"seed": 7, "licence": {"model": "Apache-2.0"}}')
    code, _, err = call("report", made, "--out", tmp_path / "out")
    assert code == 0, err
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for text in (
        "20 steps",
        "<td>AUROC</td><td>0.51</td><td>0.7</td><td>+0.19</td>",
        "model: nano",
        "Apache-2.0",
        ">loss</text>",
        "held out: AUROC",
    ):
        assert text in html, text
    assert "<script" not in html and "held_out/AUROC" not in html
    assert json.loads((tmp_path / "out" / "report.json").read_text())["evaluations"][1][
        "AUROC"
    ] == pytest.approx(0.7)
    (made / "run.json").write_text("{")
    code, _, err = call("report", made, "--out", tmp_path / "out")
    assert code == 1 and "run.json" in err
