"""The page of a data set: its counts, its examples, and that text of the data stays text."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode

import pytest
from PIL import Image

from anomalyr1.drawn import dataset as drawn_dataset
from anomalyr1.report import dataset_page as dataset
from anomalyr1.types import Box, Question, Sample
from support.pages import CHROMIUM, LIVE, PAYLOADS, Dom, browse, real


def sample(name="a", **changes):
    return Sample(
        **({"id": name, "image": "gone.png", "dataset": "d", "category": "bolt", "anomalous": True} | changes)
    )


def boxes(*sides, label=""):
    return tuple(Box(x1=0, y1=0, x2=side, y2=side, label=label) for side in sides)


def test_counts():
    questions = (
        Question(id="a", kind="anomaly detection", text="?", options=("Yes", "No"), answer="A"),
        Question(id="b", kind="anomaly detection", text="?", options=("Yes", "No")),
        Question(id="c", kind="grounding", text="?", boxes=()),
        Question(id="d", kind="grounding", text="?", boxes=boxes(9)),
        Question(id="e", kind="grounding", text="?"),
    )
    got = dataset.summarise(
        [
            sample(
                defect="dent, crack",
                boxes=(*boxes(8, label="dent"), *boxes(9, 28, 500, label="crack")),
                mask="m.png",
                questions=questions,
            ),
            sample("b", defect="dent", knowledge="k"),
            sample("c", anomalous=False, boxes=(), references=("r.png",)),
            sample("d", anomalous=None, category=""),
        ]
    )
    assert {name: dict(counted) for name, counted in got.classes.items()} == {
        "d/bolt": {"anomalous": 2, "good": 1},
        "d": {"unknown": 1},
    }
    assert got.defects == {
        ("d/bolt", "dent"): 2,
        ("d/bolt", "crack"): 1,
    }  # by the labels of boxes where there are any
    assert got.sizes == {0: 1, 1: 1, 2: 1, len(dataset.EDGES): 1}
    assert {kind: dict(golds) for kind, golds in got.questions.items()} == {
        "anomaly detection": {"A": 1, "unknown": 1},
        "grounding": {"no box": 1, "boxes": 1, "unknown": 1},
    }
    assert (got.with_masks, got.with_references, got.with_knowledge, got.unlocated) == (1, 1, 1, 1)


def test_examples_are_of_as_many_kinds_as_there_is_room_for():
    samples = [
        sample(f"{defect} {i}", defect=defect, anomalous=bool(defect))
        for defect in ("dent", "crack", None)
        for i in range(9)
    ]
    summary = dataset.summarise(samples)
    assert [one.id for one in summary.chosen(4)] == ["crack 0", "crack 1", "dent 0", "None 0"]
    assert len(summary.chosen(100)) == 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return drawn_dataset.write("drawn:seen?n=12&seed=4", tmp_path_factory.mktemp("drawn"), "Where?")


def test_the_page_of_drawn_parts(drawn, tmp_path):
    summary = dataset.write(tmp_path / "page.html", "drawn:seen", drawn, {"found on the way": 1234}, "1.2")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    dom = Dom(page)
    assert (summary.samples, dom.title) == (12, "Data set of 12 samples")
    assert (
        dom.tags.count("img") == 12
        and "script" not in dom.tags
        and "http" not in re.sub(r"http-equiv", "", page)
    )
    assert "found on the way: 1,234" in page and "drawn/washer" in page
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert b64encode(hashlib.sha256(style.encode()).digest()).decode() in page
    assert page == dataset.page("drawn:seen", dataset.summarise(drawn), {"found on the way": 1234}, "1.2")


def test_an_empty_set_and_broken_pictures_have_a_page(tmp_path):
    assert "No sample is anomalous." in dataset.page("x", dataset.summarise([]), {})
    (tmp_path / "broken.png").write_bytes(b"broken")
    Image.new("RGB", (20, 20)).save(tmp_path / "good.png")
    Image.new("L", (9, 9), 255).save(tmp_path / "small.png")
    page = dataset.page(
        "x",
        dataset.summarise(
            [
                sample("a", image=tmp_path / "broken.png"),
                sample("b"),
                sample("c", image=tmp_path / "good.png", mask=tmp_path / "small.png"),
            ]
        ),
        {},
    )
    assert "img" not in Dom(page).tags
    assert page.count('class="blank"') == 3 and "gone.png" in page and "broken.png" in page


def hostile(texts, folder):
    samples = []
    for i, text in enumerate(texts):
        Image.new("RGB", (20, 20)).save(folder / f"{i}.png")
        words = real(text)
        samples.append(
            sample(
                words,
                image=folder / f"{i}.png",
                dataset=words,
                category=words,
                defect=words,
                boxes=boxes(9, label=words) if i % 2 else (),
            )
        )
    return dataset.page(
        real(texts[0]), dataset.summarise(samples), {real(text): 1 for text in texts}, real(texts[1])
    )


def test_text_of_the_data_is_only_text(tmp_path):
    texts = [*PAYLOADS, *LIVE]
    dom, plain = Dom(hostile(texts, tmp_path)), Dom(hostile([f"x{i}" for i in range(len(texts))], tmp_path))
    assert dom.handlers == [] and dom.title == plain.title
    assert sorted(dom.tags) == sorted(plain.tags)


def test_without_escaping_payloads_would_become_elements(tmp_path, monkeypatch):
    """The control of the test above."""
    import jinja2

    made = jinja2.Environment
    monkeypatch.setattr(jinja2, "Environment", lambda **settings: made(**(settings | {"autoescape": False})))
    assert "canary" in hostile(LIVE, tmp_path) and Dom(hostile(LIVE, tmp_path)).handlers


def test_names_cannot_reorder_or_hide(tmp_path):
    page = hostile(["\u202eevil\x00", "a\x1b[2J"], tmp_path)
    assert "\\u202eevil\\x00" in page and "\u202e" not in page and "\x1b" not in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_in_a_browser_payloads_do_nothing(tmp_path, canary):
    (tmp_path / "page.html").write_text(hostile([*PAYLOADS, *LIVE], tmp_path), encoding="utf-8")
    dom = browse(tmp_path / "page.html", tmp_path / "profile", canary)
    assert (
        canary.hits == []
        and dom.title == f"Data set of {len(PAYLOADS) + len(LIVE)} samples"
        and dom.handlers == []
    )
