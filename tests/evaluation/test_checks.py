"""What `data check` finds, one fault at a time, on drawn samples."""

from __future__ import annotations

import pytest
from PIL import Image

from anomalyr1 import rewards
from anomalyr1.drawn import dataset as drawn_dataset
from anomalyr1.evaluation import checks
from anomalyr1.evaluation.checks import check
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
    Image.new("L", (200, 150), 255).save(tmp_path / "all.png")
    Image.new("L", (400, 300), 255).save(tmp_path / "large.png")
    dust = Image.new("L", (200, 150))
    dust.paste(255, (40, 40, 42, 41))
    dust.save(tmp_path / "dust.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    (tmp_path / "copy.png").write_bytes((tmp_path / "part.png").read_bytes())
    (tmp_path / "cut.png").write_bytes((tmp_path / "part.png").read_bytes()[:-30])
    return tmp_path


def sample(files, **changes) -> Sample:
    questions = (
        Question(id="a", kind="defect classification", text="?", options=OPTIONS, answer="B"),
        Question(id="b", kind="grounding", text="?", boxes=(BOX,)),
    )
    paths = {"image": files / "part.png", "mask": files / "mask.png"}
    return Sample(
        **({"id": "part", "anomalous": True, "boxes": (BOX,), "questions": questions} | paths | changes)
    )


def question(**changes) -> Question:
    return Question(
        **(
            {"id": "q", "kind": "defect classification", "text": "?", "options": OPTIONS, "answer": "A"}
            | changes
        )
    )


def grounding(**changes) -> Question:
    return question(**({"kind": "grounding", "options": (), "answer": None} | changes))


def test_a_good_sample_has_no_problem(files):
    clean = sample(files, id="clean", mask=None, anomalous=False, boxes=(), questions=(grounding(boxes=()),))
    assert check([sample(files), clean]) == []


def verdict(**changes) -> Question:
    return question(
        **(
            {
                "kind": "anomaly detection",
                "text": "Is there any defect in the object?",
                "options": ("Yes.", "No."),
            }
            | changes
        )
    )


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
    (
        {"questions": (grounding(boxes=(BOX.model_copy(update={"label": "</answer>"}),)),)},
        "cannot be written",
    ),
    ({"mask": "dust.png"}, "marks 2 pixels"),
    ({"mask": "all.png"}, "marks 100% of the image"),
    ({"mask": "large.png"}, "is 400 x 300, its image 200 x 150"),
    ({"boxes": ()}, "100% of what"),
    ({"boxes": (Box(x1=40, y1=40, x2=60, y2=80),)}, "60% of what"),
    ({"boxes": (BOX, Box(x1=100, y1=100, x2=140, y2=140))}, "fills 0% of it"),
    ({"boxes": (Box(x1=0, y1=0, x2=200, y2=150),)}, "fills 7% of it"),
    ({"image": "cut.png"}, "cut.png"),
    ({"references": ("part.png",)}, "is the image itself"),
    ({"references": ("copy.png",)}, "is the image itself"),
    ({"references": ("broken.png",)}, "its reference image"),
    ({"mask": None, "boxes": None, "questions": ()}, "nothing says how or where"),
    ({"anomalous": False, "mask": None}, "has 1 boxes, but the sample is good"),
    ({"anomalous": False, "defect": "dent"}, "has the defect 'dent', but the sample is good"),
    ({"questions": (verdict(answer="B"),)}, "its gold contradicts the sample, which is anomalous"),
    ({"questions": (verdict(options=("no", "yes")),)}, "its gold contradicts the sample, which is anomalous"),
    ({"questions": (grounding(boxes=()),)}, "its gold contradicts the sample, which is anomalous"),
    ({"knowledge": "In part.png the dent is at the top left."}, "names this very image ('part.png')"),
    ({"knowledge": "This image shows a dent."}, "speaks of this one image"),
]


@pytest.mark.parametrize(("change", "said"), FAULTS)
def test_every_fault_is_found(files, change, said):
    change = {
        key: files / value if isinstance(value, str) and key in ("image", "mask") else value
        for key, value in change.items()
    }
    if "references" in change:
        change["references"] = tuple(files / one for one in change["references"])
    found = check([sample(files, **change)])
    assert any(said in problem.what for problem in found), found
    assert all(problem.sample_id == "part" and problem.fix for problem in found)


def test_duplicate_ids_are_found(files):
    assert [problem.what for problem in check([sample(files), sample(files)])] == ["2 samples have this id"]


def test_the_same_image_in_two_files_is_found(files):
    clean = {"mask": None, "boxes": (), "questions": ()}
    one, other = sample(files), sample(files, id="other", image=files / "copy.png", anomalous=False, **clean)
    (problem,) = check([one, other])
    assert (
        problem.sample_id == "other"
        and "holds the same image" in problem.what
        and "one is called good" in problem.what
    )
    assert (
        check([one, other.model_copy(update={"image": one.image})]) == []
    )  # one file asked about twice is not two images


def test_knowledge_that_differs_by_the_samples_defect_is_found(files):
    def class_of(*texts):
        return [
            sample(files, id=str(i), defect=defect, knowledge=text) for i, (defect, text) in enumerate(texts)
        ]

    told = class_of(("broken_edge", "Look for a broken edge."), ("dent", "Look for a dent."))
    assert [problem.sample_id for problem in check(told)] == ["0", "1"]
    assert "names the defect 'broken_edge', unlike that of other samples" in check(told)[0].what
    same = "Look for a broken edge or a dent."
    assert check(class_of(("broken_edge", same), ("dent", same))) == []
    assert (
        check(class_of(("broken_edge", "A good bolt has 6 sides."), ("dent", "A good bolt has 8 sides.")))
        == []
    )


@pytest.mark.parametrize(
    "change",
    [{"text": "Is the object free of defects?"}, {"text": "Is it red?"}, {"options": ("Yes", "No", "Maybe")}],
)
def test_only_plain_verdict_questions_are_compared_with_the_sample(files, change):
    assert check([sample(files, questions=(verdict(answer="B", **change),))]) == []


def test_drawn_samples_have_no_problem(tmp_path):
    assert check(drawn_dataset.write("drawn:seen?n=18", tmp_path, "Where?")) == []


def test_without_digests_the_same_image_goes_unseen(files, monkeypatch):
    """The control of the duplicate and reference checks."""
    monkeypatch.setattr(checks, "digest_of", str)
    assert check([sample(files, references=(files / "copy.png",))]) == []


def test_a_box_too_small_for_the_pixel_cap_is_found(tmp_path):
    Image.new("RGB", (2000, 2000)).save(tmp_path / "large.png")
    tiny = grounding(boxes=(Box(x1=1001, y1=1001, x2=1004, y2=1004),))
    large = Sample(id="large", image=tmp_path / "large.png", questions=(tiny,))
    assert any("earns" in problem.what for problem in check([large], max_pixels=64 * 28 * 28))
    assert check([large], max_pixels=4000 * 4000) == []


@pytest.mark.parametrize(
    "alike",
    [
        (
            Box(x1=190, y1=217, x2=237, y2=271),
        ),  # of DeepPCB 12100167: rounding moves its centre over a border of the 3 x 3 regions
        (
            Box(x1=126, y1=126, x2=160, y2=150),
            Box(x1=560, y1=560, x2=594.32, y2=584),
        ),  # rounding makes the first the larger one
    ],
)
def test_the_place_of_a_gold_answer_is_that_of_the_boxes_as_written(tmp_path, alike):
    Image.new("RGB", (640, 640)).save(tmp_path / "board.png")
    board = Sample(id="board", image=tmp_path / "board.png", questions=(grounding(boxes=alike),))
    assert check([board]) == []


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


def test_samples_that_are_neither_good_nor_bad(tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(picture)
    unlabelled = Sample(id="a", image=picture)
    (problem,) = check([unlabelled])
    assert problem.what == "1 of 1 samples have no verdict: nothing says good or defective"
    assert check([unlabelled, Sample(id="b", image=picture, anomalous=False)]) == []
