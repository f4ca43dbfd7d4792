"""The page of what was learned: a bad part among the good is seen first, and only held-out parts promise."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from anomalyr1.boxes import components, decode_mask, iou
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.learning import Settings
from anomalyr1.report import learn_page
from anomalyr1.report.overlays import outlined
from support.pages import CHROMIUM, PAYLOADS, browse, real
from support.parts import draw_part, write_parts

SETTINGS = Settings(short_side=96, max_patches=2000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve good parts, of which the fourth is bad."""
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder, 12)
    draw_part(3, defect=True).save(folder / "good-03.png")
    return folder


@pytest.fixture(scope="module")
def bank(folder):
    return Bank.learn(sorted(folder.iterdir()), SETTINGS)


def write(tmp_path: Path, bank: Bank, **more) -> str:
    file = tmp_path / "housing.bank"
    bank.write(file)
    return learn_page.write(tmp_path / "housing.html", bank, file, **more).read_text(encoding="utf-8")


def names(html: str) -> list[str]:
    return re.findall(r"<br>(good-\d+\.png)|</b>(good-\d+\.png)", html)


@pytest.mark.parametrize("learned", [4, 8, 12])
def test_a_bad_part_among_the_good_is_shown_first(tmp_path, folder, learned):
    bank = Bank.learn(sorted(folder.iterdir()), SETTINGS, learned)
    html = write(tmp_path, bank)
    assert names(html)[0] == ("good-03.png", ""), names(html)  # and it is marked
    assert len(names(html)) == 12
    assert "Is a bad part among the good ones?" in html and "<li>good-03.png</li>" in html
    assert Path(learn_page.that_stand_out(bank)[0].name).name == "good-03.png"


def test_good_parts_alone_raise_no_question(tmp_path, folder):
    good = [path for path in sorted(folder.iterdir()) if path.name != "good-03.png"]
    html = write(tmp_path, Bank.learn(good, SETTINGS))
    assert "Is a bad part" not in html and "Stands out" not in html


def test_the_strangest_place_is_outlined_where_the_defect_is(bank, folder):
    strangest = learn_page.ranked(bank)[0]
    with Image.open(folder / "good-03.png") as image:
        place = learn_page.strangest_place(bank, strangest, image.convert("RGB"))
        drawn = outlined(image.convert("RGB"), (place,), 96)
        found = components(decode_mask(place))[0]
        assert iou([found.xyxy], [(32, 16, 48, 32)])[0, 0] > 0.1
        assert drawn.getpixel((40, 24)) == image.convert("RGB").getpixel((40, 24))  # nothing over the defect


@pytest.mark.parametrize(
    ("given", "learned", "texts"),
    [
        (12, None, ["Learned from 8 good parts", "With 4 held out: at most 52.7 %", "add 25 good parts"]),
        (
            6,
            None,
            [
                "Nothing: every good part was learned",
                "an estimate, from the learned",
                "add 29 good parts",
                "never a promise",
            ],
        ),
        (2, None, ["So few parts cannot be compared", "learn 4 good parts or more"]),
        (1, None, ["Learned from 1 good part<", "changed copies of it"]),
    ],
)
def test_what_may_be_promised_is_said(tmp_path, folder, given, learned, texts):
    images = [path for path in sorted(folder.iterdir()) if path.name != "good-03.png"]
    images = [*images, folder / "good-03.png"][:given]
    html = write(tmp_path, Bank.learn(images, SETTINGS, learned))
    for text in texts:
        assert text in html, text


def test_with_29_held_out_ten_percent_are_promised(bank):
    held_out = bank.parts[-1].model_copy(update={"held_out": True})
    learned = tuple(one for one in bank.parts if not one.held_out)
    many = replace(bank, parts=(*learned, *[held_out] * 29))
    assert [(row.needed, row.lacking) for row in learn_page.promises(many)] == [
        (29, 0),
        (59, 30),
        (149, 120),
        (299, 270),
    ]


def test_a_picture_that_was_not_learned_is_not_shown(tmp_path):
    paths = write_parts(tmp_path / "parts", 4)
    bank = Bank.learn(paths, SETTINGS)
    assert write(tmp_path, bank).count("data:image") == 4  # control
    paths[0].unlink()
    draw_part(99).save(paths[1])
    html = write(tmp_path, bank)
    assert html.count("data:image") == 2 and html.count("no longer the one that was learned") == 2


def test_the_page_loads_nothing_and_is_the_same_again(tmp_path, bank):
    html = write(tmp_path, bank, notes=["2 images are copies"])
    assert "2 images are copies" in html
    assert "default-src 'none'" in html
    assert not re.search(r"<script|<link|<iframe|https?:|\son\w+=|\sstyle=|url\(|@import", html)
    assert write(tmp_path, bank, notes=["2 images are copies"]) == html


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_names_of_parts_do_nothing(tmp_path, bank, canary):
    hostile = tuple(
        bank.parts[i % len(bank.parts)].model_copy(update={"name": f"parts/{i}{real(text)}"})
        for i, text in enumerate(PAYLOADS)
    )
    page = tmp_path / "housing.html"
    (tmp_path / "x.bank").write_bytes(b"")
    learn_page.write(page, replace(bank, parts=hostile), tmp_path / "x.bank", [real(PAYLOADS[0])])
    dom = browse(page, tmp_path / "profile", canary)
    assert dom.title.startswith("Learned from")
    assert canary.hits == [] and dom.handlers == []


def test_a_broken_tile_among_the_good_is_shown_first(shared):
    folder = shared / "data/magnetic_tile"
    rows = [json.loads(line) for line in (folder / "index.jsonl").open()]
    good = [folder / row["image"] for row in rows if not row["anomaly"]][10:19]
    broken = [folder / row["image"] for row in rows if row["defect"] == "break"][1]
    bank = Bank.learn([*good, broken], Settings(short_side=224), learned=8)
    assert learn_page.ranked(bank)[0].name == broken.as_posix()
