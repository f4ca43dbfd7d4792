"""Overlays show where, pages show what and why, and neither trusts a text."""

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anomalyr1 import boxes, report
from anomalyr1.evidence.words import describe
from anomalyr1.files import sha256_of_file
from anomalyr1.inspection.thresholds import Figures, Threshold
from anomalyr1.report.inspection_page import card, overlay_name, page
from anomalyr1.report.measured import outlines_of, place_of_box
from anomalyr1.report.overlays import BOX, CONTOUR, close_up, outlined
from anomalyr1.types import Answer, Box, Evidence, InputError, Inspection, Region, Reply, Sample
from support import recordings

ABOUT = report.About(recordings.FINGERPRINT, "Apache-2.0", "", "anomalyr1 inspect parts", "0.1.0")
FOUND = (Box(x1=60, y1=40, x2=80, y2=54, label="stain"),)


def inspection(name="a.png", verdict="defect", status="strict", **more):
    replies = (
        Reply(
            question_id=f"{name}#verdict",
            completion="<answer>A</answer>",
            answer=Answer(status=status, choice="A"),
        ),
    )
    return Inspection(sample_id=name, verdict=verdict, reason="because", replies=replies, **more)


@pytest.mark.parametrize(
    ("text", "keep", "expected"),
    [
        ("plain Ä 検査", "", "plain Ä 検査"),
        ("a\nb", "", "a\\nb"),
        ("a\nb", "\n", "a\nb"),
        ("\x1b[31mred\x07", "", "\\x1b[31mred\\x07"),
        ("invoice\u202egnp.exe", "", "invoice\\u202egnp.exe"),  # would read "exe.png"
        ("\u2066\u200b\ufeff\u2028", "", "\\u2066\\u200b\\ufeff\\u2028"),
        ("\udcff", "", "\\udcff"),  # a byte of a file name that is no UTF-8
        ("\u115f\u1160\u3164\uffa0", "", "\\u115f\\u1160\\u3164\\uffa0"),  # fillers: letters without ink
        ("\u2800\u034f\ufe0f\u17b4", "", "\\u2800\\u034f\\ufe0f\\u17b4"),
        ("\u180b\U000e0100", "", "\\u180b\\U000e0100"),
    ],
)
def test_visible(text, keep, expected):
    assert report.visible(text, keep) == expected


@given(st.text(st.characters(exclude_categories=())))
def test_visible_text_can_be_printed(text):
    shown = report.visible(text)
    assert shown.isprintable()
    shown.encode("utf-8")


def test_an_overlay_shows_box_and_mask_and_leaves_the_rest(tmp_path):
    path = recordings.draw(tmp_path / "a.png")
    import numpy as np

    filled = np.zeros((84, 112), bool)
    filled[43:51, 64:76] = True
    one = inspection(boxes=FOUND, masks=(boxes.encode_mask(filled, "posterior"),))
    image = report.overlay(one, path)
    before = Image.open(path).convert("RGB")
    assert image.size == recordings.SIZE_WH
    assert {image.getpixel((59, y)) for y in range(42, 52)} == {
        BOX["defect"]
    }  # the frame lies around the box
    assert {image.getpixel((80, y)) for y in range(42, 52)} == {
        BOX["defect"]
    }  # half-open: column 79 is the last inside
    assert {image.getpixel((x, y)) == before.getpixel((x, y)) for x in (60, 79) for y in range(42, 52)} == {
        True
    }
    assert image.getpixel((70, 47)) != before.getpixel((70, 47))  # tinted
    assert image.getpixel((20, 70)) == before.getpixel((20, 70))
    assert report.overlay(one, before).tobytes() == image.tobytes()
    assert report.overlay(one, path, long_side=480).size == (480, 360)


@pytest.mark.parametrize(
    "box",
    [
        Box(x1=-500, y1=-500, x2=5000, y2=5000),
        Box(x1=200, y1=200, x2=300, y2=300),
        Box(x1=0, y1=0, x2=0.2, y2=0.1, label="x" * 5000),
        Box(x1=1, y1=1, x2=2, y2=2, label="\udcff\n\u202e検査 <b>"),
    ],
)
@pytest.mark.parametrize("size_wh", [(112, 84), (1, 1), (3, 300)])
def test_an_overlay_of_any_box_can_be_drawn(box, size_wh):
    one = inspection(boxes=(box,), masks=())
    assert report.overlay(one, Image.new("L", size_wh)).size == size_wh
    assert close_up(Image.new("RGB", size_wh), box, 64).size == (64, 64)


def test_twenty_boxes_and_masks_are_drawn(tmp_path):
    path = recordings.draw(tmp_path / "a.png")
    many = [Box(x1=4 * n, y1=4, x2=4 * n + 3, y2=9) for n in range(22)]
    masks = [boxes.encode_mask(_square(4 * n, 60), "box") for n in range(22)]
    drawn = report.overlay(inspection(boxes=many, masks=masks), path)
    twenty = report.overlay(inspection(boxes=many[:20], masks=masks[:20]), path)
    nineteen = report.overlay(inspection(boxes=many[:19], masks=masks[:19]), path)
    assert drawn.tobytes() == twenty.tobytes() != nineteen.tobytes()


def _square(x: int, y: int):
    import numpy as np

    mask = np.zeros((84, 112), bool)
    mask[y : y + 3, x : x + 3] = True
    return mask


def test_overlay_files_of_large_images_are_drawn_at_a_size_that_is_bounded(tmp_path):
    results = []
    for name, size_wh in (("large.png", (4096, 60)), ("usual.png", (2048, 60))):
        Image.new("RGB", size_wh, "gray").save(tmp_path / name)
        box = Box(x1=10, y1=5, x2=50, y2=40)
        sample = recordings.sample(tmp_path / name)
        digest = sha256_of_file(tmp_path / name)
        results.append((sample, inspection(sample.id, boxes=(box,), masks=(), image_sha256=digest)))
    report.write(tmp_path / "out", results, ABOUT)
    sizes = {Image.open(tmp_path / "out/overlays" / overlay_name(one.id)).size for one, _ in results}
    assert sizes == {(2048, 30), (2048, 60)}


def test_an_overlay_refuses_another_image(tmp_path):
    import numpy as np

    one = inspection(boxes=FOUND, masks=(boxes.encode_mask(np.ones((5, 5), bool), "box"),))
    with pytest.raises(InputError, match=r"\(5, 5\)"):
        report.overlay(one, recordings.draw(tmp_path / "a.png"))


@given(st.lists(st.text(st.characters(exclude_categories=())), unique=True))
def test_overlay_names_are_safe_and_differ(names):
    made = [overlay_name(name) for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,60}\.png", name) for name in made)
    assert len(set(made)) == len(names)


def write(tmp_path, results):
    """The page of results whose images are as they were when they were inspected."""
    results = [
        (sample, one.model_copy(update={"image_sha256": digest(sample.image)})) for sample, one in results
    ]
    return report.write(tmp_path / "out", results, ABOUT).read_text(encoding="utf-8")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def test_a_page_holds_everything_and_loads_nothing(tmp_path):
    paths = [recordings.draw(tmp_path / f"{name}.png") for name in "abc"]
    results = [
        (
            recordings.sample(paths[0], knowledge="Plates are even."),
            inspection(paths[0].as_posix(), boxes=FOUND, masks=()),
        ),
        (recordings.sample(paths[1]), inspection(paths[1].as_posix(), "good", boxes=())),
        (
            recordings.sample(tmp_path / "gone.png"),
            Inspection(sample_id="gone", verdict="unsure", reason="failed", error="it is gone"),
        ),
    ]
    html = write(tmp_path, results)
    for text in (
        "Plates are even.",
        "because",
        "it is gone",
        "60, 40, 80, 54",
        "stain",
        "Apache-2.0",
        "anomalyr1 inspect parts",
        "No picture",
    ):
        assert text in html, text
    assert html.count("data:image/jpeg;base64,") == 4
    assert "default-src 'none'" in html
    assert not re.search(r"<script|<link|<iframe|https?:|\son\w+=|\sstyle=|url\(|@import", html)
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}" in html.replace(
        "&#43;", "+"
    )
    assert [path.name for path in (tmp_path / "out" / "overlays").iterdir()] == [
        overlay_name(paths[0].as_posix())
    ]
    assert write(tmp_path, results) == html  # nothing in it depends on time


@pytest.mark.parametrize(
    ("statuses", "explained"),
    [(["strict"] * 4 + ["lenient"], False), (["strict"] * 3 + ["lenient"], True), ([], False)],
)
def test_a_page_explains_many_replies_in_another_form(statuses, explained):
    html = page([], [inspection(f"{i}", status=status) for i, status in enumerate(statuses)], ABOUT)
    assert ("Fine-tuning" in html) == explained


def test_a_page_shows_defect_unsure_failed_good_and_says_what_it_leaves_out(tmp_path):
    path = recordings.draw(tmp_path / "a.png")
    names = ("even part", "lost part", "bent part", "odd part", "dented part")
    verdicts = ("good", "unsure", "defect", "unsure", "defect")
    results = [
        (Sample(id=name, image=path), inspection(name, verdict, error="gone" if "lost" in name else None))
        for name, verdict in zip(names, verdicts, strict=True)
    ]
    html = report.write(tmp_path, results, ABOUT, max_cards=4).read_text(encoding="utf-8")
    assert "Shown are 4 of 5" in html and "even part" not in html
    places = [html.index(f"{name}</h2>") for name in ("bent part", "dented part", "odd part", "lost part")]
    assert places == sorted(places)
    counts = re.findall(r'for="show-(\w+)"><b>(\d)</b>', html)  # a click on a count shows only those
    assert counts == [("all", "5"), ("defect", "2"), ("unsure", "1"), ("failed", "1"), ("good", "1")]


def test_a_picture_that_was_not_inspected_is_not_shown(tmp_path):
    path = recordings.draw(tmp_path / "a.png")
    results = [(recordings.sample(path), inspection(path.as_posix()))]
    assert "data:image" in write(tmp_path, results)  # control
    for digest in ("", "0" * 64):  # none is known, or that of another picture
        one = inspection(path.as_posix(), image_sha256=digest)
        html = report.write(tmp_path / digest, [(recordings.sample(path), one)], ABOUT).read_text()
        assert "data:image" not in html and "no longer the one that was inspected" in html


def a_threshold(**changes):
    figures = dict.fromkeys(Figures.model_fields, 0)
    fields = {"threshold": 0.6, "low": 0.5, "high": 0.7, "cost_miss": 20, "cost_false_alarm": 1}
    fields |= {"defect_rate": 0.05, "good": 9, "defect": 4, "figures": figures, "run": ABOUT.fingerprint}
    return Threshold.model_validate(
        {**fields, "calibration": {"method": "platt", "slope": 1, "intercept": 0}, **changes}
    )


@pytest.mark.parametrize(
    ("score", "choice", "said"),
    [
        (0.9, "A", None),
        (0.9, "B", "The score says defect, the answer good"),
        (0.1, "A", "The score says good, the answer defect"),
        (0.1, "B", None),
        (0.6, "B", None),  # the score says nothing
        (0.9, None, None),  # the answer says nothing
        (None, "A", None),
    ],
)
def test_a_page_shows_the_threshold_and_where_score_and_answer_differ(tmp_path, score, choice, said):
    one = inspection("a.png", score=score)
    reply = one.replies[0]
    answer = reply.answer.model_copy(update={"choice": choice})
    one = one.model_copy(update={"replies": (reply.model_copy(update={"answer": answer}),)})
    about = replace(ABOUT, threshold=a_threshold())
    html = report.write(tmp_path, [(recordings.sample(Path("a.png")), one)], about).read_text()
    for text in (
        "a score of 0.6;",
        "below 0.5 good, from 0.7 on defect",
        "a miss costs 20 and a false alarm 1",
    ):
        assert text in html
    assert (said in html) if said else ("The score says" not in html)
    plain = report.write(tmp_path, [(recordings.sample(Path("a.png")), one)], ABOUT).read_text()
    assert "Threshold" not in plain and "The score says" not in plain


def an_evidence(**more):
    """A part with one strange place, measured beside 8 good parts, 29 more of which were held out."""
    import numpy as np

    shape = np.zeros((84, 112), bool)
    shape[30:50, 40:60] = True
    box = Box(x1=40, y1=30, x2=60, y2=50)
    region = Region(box=box, ratio=6.24, share=0.043, outline=boxes.encode_mask(shape, "map"))
    fields = {"score": 0.41, "ratio": 6.24, "threshold": 0.3, "false_alarm_rate": 0.098, "calibrated": True}
    return Evidence.model_validate(
        {**fields, "learned": 8, "held_out": 29, "regions": (region,), **more}, strict=False
    )


def colours(image):
    return {colour for _, colour in image.getcolors(2**24)}


def test_a_place_is_outlined_and_nothing_lies_over_it():
    image = Image.effect_noise((112, 84), 60).convert("RGB")
    (outline,) = outlines_of(an_evidence(), image.size)
    drawn = outlined(image, [outline], 112, "defect")
    inside = (42, 34, 58, 48)
    assert drawn.crop(inside).tobytes() == image.crop(inside).tobytes()
    assert drawn.getpixel((5, 80)) == image.getpixel((5, 80))  # far away
    assert CONTOUR in {drawn.getpixel((x, 40)) for x in range(30, 41)}  # the line
    assert BOX["defect"] in colours(drawn)
    assert BOX["defect"] not in colours(outlined(image, [outline], 112))  # without a verdict no number
    with pytest.raises(InputError, match=r"\(112, 84\)"):
        outlined(image.resize((50, 50)), [outline], 112)


def test_a_region_without_an_outline_is_shown_as_its_box():
    evidence = an_evidence()
    bare = evidence.regions[0].model_copy(update={"outline": None})
    assert outlines_of(evidence.model_copy(update={"regions": (bare,)}), (112, 84)) == [
        evidence.regions[0].outline
    ]


def test_a_page_says_what_good_parts_say_and_where(tmp_path):
    path = recordings.draw(tmp_path / "a.png")
    evidence = an_evidence()
    one = inspection(path.as_posix(), evidence=evidence, score=0.41, score_from="good parts")
    one = one.model_copy(
        update={"reason": describe(evidence, recordings.SIZE_WH), "boxes": (evidence.regions[0].box,)}
    )
    html = write(tmp_path, [(recordings.sample(path), one)])
    for text in (
        "Compared with 8 good parts. 29 more were held out: at most 9.8 % of good parts are called strange",
        '<td>1</td><td class="label">center</td><td>6.2</td><td>4.3 %</td>',
        "stranger than 29 good parts that were held out (score 0.410, at most 0.300 in good parts)",
        "at most 9.8 % of good parts are",
        "The policy agrees: it says defect.",
        "Outlined: 1 place that differs more than good parts do",
        "Place 1, enlarged",
        "<summary>The policy&#39;s own words",
    ):
        assert text in html or text.replace("&#39;", "'") in html, text
    assert (
        html.count(describe(evidence, recordings.SIZE_WH).splitlines()[0]) == 1
    )  # once, though it is the reason, too
    badge, sentence = '<span class="badge defect">', describe(evidence, recordings.SIZE_WH).splitlines()[0]
    assert html.index("</h2>") < html.index(badge) < html.index(sentence)  # the verdict first
    assert "Found by the policy" not in html and "<th>Box</th>" not in html  # the boxes are the places
    assert [file.name for file in (tmp_path / "out/overlays").iterdir()] == [overlay_name(path.as_posix())]


def test_the_words_of_the_policy_are_folded_where_good_parts_speak(tmp_path):
    path = recordings.draw(tmp_path / "a.png")
    words = "There is a dark stain."
    one = inspection(path.as_posix(), "unsure", evidence=an_evidence(), boxes=FOUND)
    answer = one.replies[0].answer.model_copy(update={"reasoning": words, "choice": "B"})
    reply = one.replies[0].model_copy(update={"answer": answer})
    one = one.model_copy(update={"replies": (reply,), "reason": f"Unsure because they differ.\n{words}"})
    html = write(tmp_path, [(recordings.sample(path), one)])
    folded = html.partition("<details>")[2]
    assert html.count(words) == folded.count(words) == 1
    assert '<p class="reason">Unsure because they differ.</p>' in html
    assert "The policy does not agree: it says good." in html
    assert "Found by the policy: 1 box" in html and "<td>not measured</td>" in html
    plain = write(tmp_path, [(recordings.sample(path), one.model_copy(update={"evidence": None}))])
    assert plain.count(words) == 2 and "Beside good parts" not in plain and "Compared with" not in plain


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"same_kind": False}, "This looks like another kind of part"),
        ({"regions": ()}, "no single place stands out"),
        (
            {"threshold": None, "false_alarm_rate": None},
            "so few good parts have no threshold",
        ),
        ({"threshold": None, "false_alarm_rate": None}, "so nothing is promised of false alarms"),
        ({"calibrated": False, "learned": 1}, "estimated from changed copies of so few"),
        ({"score": 0.3}, "no stranger than 29 good parts"),
    ],
)
def test_a_page_says_what_evidence_is_worth(tmp_path, changes, text):
    one = inspection("a.png", evidence=an_evidence(**changes))
    sample = recordings.sample(Path("a.png"))
    assert text in report.write(tmp_path / "a", [(sample, one)], ABOUT).read_text()
    usual = inspection("a.png", evidence=an_evidence())
    assert text not in report.write(tmp_path / "b", [(sample, usual)], ABOUT).read_text()  # control


def test_boxes_are_matched_with_places():
    evidence = an_evidence()
    assert place_of_box(Box(x1=45, y1=35, x2=90, y2=80), evidence) == "place 1"
    assert place_of_box(Box(x1=60, y1=30, x2=90, y2=80), evidence) == "not measured"  # they only touch
    assert place_of_box(FOUND[0], an_evidence(regions=())) == "not measured"


def test_every_text_is_escaped():
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}"
    box = Box(x1=0, y1=0, x2=2, y2=2, label=hostile)
    answer = Answer(status="strict", reasoning=hostile, conclusion="A", choice="A")
    reply = Reply(question_id=hostile, completion=hostile, answer=answer)
    one = Inspection(
        sample_id=hostile,
        verdict="unsure",
        reason=hostile,
        boxes=(box,),
        replies=(reply,),
        counts={hostile: 1},
        evidence=Evidence(score=0.5, ratio=2),
    )
    failed = Inspection(sample_id=hostile, verdict="unsure", reason=hostile, error=hostile)
    known = Sample(id=hostile, image=hostile, knowledge=hostile, references=(hostile,))
    fingerprint = recordings.FINGERPRINT.model_copy(
        update={"model": hostile, "revision": hostile, "evidence": hostile, "versions": {hostile: hostile}}
    )
    image = Image.new("RGB", (8, 8))
    about = report.About(fingerprint, hostile, hostile, hostile, hostile)
    html = page([card(known, one, image), card(known, failed, None)], [one, failed], about)
    assert "<script>" not in html and "<img src=x" not in html
    assert "{{ 7*7 }}" in html  # shown, not computed
    assert html.count("&lt;script&gt;") >= 15
