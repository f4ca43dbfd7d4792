"""What `data check` finds, one fault at a time, on drawn samples."""

from __future__ import annotations

import pytest
from PIL import Image

from anomalyr1 import checks, rewards
from anomalyr1.checks import check
from anomalyr1.types import Box, InputError, Question, Sample

BOX = Box(x1=40, y1=40, x2=90, y2=80, label="dent")
OPTIONS = ("Crack", "Dent")


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (200, 150), "grey").save(tmp_path / "part.png")
    mask = Image.new("L", (200, 150))
    mask.paste(255, (40, 40, 90, 80))
    mask.save(tmp_path / "mask.png")
    Image.new("L", (100, 150), 255).save(tmp_path / "small.png")
    Image.new("L", (200, 150)).save(tmp_path / "empty.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    return tmp_path


def sample(files, **changes) -> Sample:
    questions = (
        Question(id="a", kind="defect classification", text="?", options=OPTIONS, answer="B"),
        Question(id="b", kind="grounding", text="?", boxes=(BOX,)),
    )
    paths = {"image": files / "part.png", "mask": files / "mask.png"}
    return Sample(**({"id": "part", "anomalous": True, "boxes": (BOX,), "questions": questions} | paths | changes))


def question(**changes) -> Question:
    return Question(**({"id": "q", "kind": "defect classification", "text": "?", "options": OPTIONS, "answer": "A"} | changes))


def grounding(**changes) -> Question:
    return question(**({"kind": "grounding", "options": (), "answer": None} | changes))


def test_a_good_sample_has_no_problem(files):
    clean = sample(files, id="clean", mask=None, anomalous=False, boxes=(), questions=(grounding(boxes=()),))
    assert check([sample(files), clean]) == []


FAULTS = [  # what is changed, what is said
    ({"image": "gone.png"}, "is missing"),
    ({"image": "broken.png"}, "broken.png"),
    ({"references": ("gone.png",)}, "is missing"),
    ({"mask": "gone.png"}, "is missing"),
    ({"mask": "broken.png"}, "its mask"),
    ({"mask": "small.png"}, "is 100 x 150, its image 200 x 150"),
    ({"mask": "empty.png"}, "marks nothing"),
    ({"anomalous": False}, "the sample is good"),
    ({"boxes": (Box(x1=150, y1=0, x2=201, y2=10),)}, "outside its image"),
    ({"questions": (grounding(boxes=(Box(x1=-1, y1=0, x2=9, y2=9),)),)}, "outside its image"),
    ({"questions": (question(answer=None),)}, "no gold answer"),
    ({"questions": (grounding(),)}, "no gold boxes"),
    ({"questions": (question(options=("Crack",)),)}, "one option"),
    ({"questions": (question(options=("Crack", "crack.")),)}, "read the same"),
    ({"questions": (question(options=("Crack", "")),)}, "read the same or are empty"),
    ({"questions": (question(), question())}, "2 questions have the id"),
    ({"questions": (grounding(boxes=(BOX.model_copy(update={"label": "</answer>"}),)),)}, "cannot be written"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS)
def test_every_fault_is_found(files, change, said):
    change = {key: files / value if isinstance(value, str) else value for key, value in change.items()}
    if "references" in change:
        change["references"] = tuple(files / one for one in change["references"])
    found = check([sample(files, **change)])
    assert any(said in problem.what for problem in found), found
    assert all(problem.sample_id == "part" and problem.fix for problem in found)


def test_duplicate_ids_are_found(files):
    assert [problem.what for problem in check([sample(files), sample(files)])] == ["2 samples have this id"]


def test_a_box_too_small_for_the_pixel_cap_is_found(tmp_path):
    Image.new("RGB", (2000, 2000)).save(tmp_path / "large.png")
    tiny = grounding(boxes=(Box(x1=1001, y1=1001, x2=1004, y2=1004),))
    large = Sample(id="large", image=tmp_path / "large.png", questions=(tiny,))
    assert any("earns" in problem.what for problem in check([large], max_pixels=64 * 28 * 28))
    assert check([large], max_pixels=4000 * 4000) == []


def test_gold_answers_are_fed_through_every_reward(files, monkeypatch):
    monkeypatch.setitem(rewards.REWARDS, "never", lambda answer, question: 0.5)
    assert {problem.what.split(" from ")[1].split(" ")[0] for problem in check([sample(files)])} == {"never"}


def test_a_gold_letter_that_reads_back_wrong_is_found(files, monkeypatch):
    monkeypatch.setattr(checks.answers, "write", lambda *_: "<think>x</think><answer>A</answer>")
    assert any("accuracy" in problem.what for problem in check([sample(files)]))


def test_an_unknown_family_is_refused():
    with pytest.raises(InputError, match="known: "):
        check([], family="gpt")


def test_an_image_too_narrow_for_the_model_is_a_problem_and_no_crash(files):
    Image.new("RGB", (41, 8200)).save(files / "strip.png")
    (problem,) = check([sample(files, image=files / "strip.png", mask=None, boxes=(), questions=())])
    assert "strip.png" in problem.what
