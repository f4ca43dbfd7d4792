"""What a run learns from: questions with known answers, nothing twice, nothing held out, all left-out
counted.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalyr1 import data
from anomalyr1.data import sources
from anomalyr1.data import splits as fewshot
from anomalyr1.data.protocols import SplitPlan
from anomalyr1.rewards import REWARDS
from anomalyr1.training import dataset
from anomalyr1.training.orientations import turn_samples
from anomalyr1.training.recipes import load_recipe
from anomalyr1.training.run import plan_run
from anomalyr1.types import Box, InputError, Question, Sample
from support import training_runs as runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def drawn(folder):
    return sources.load_sources(["drawn:dev?n=4&seed=0"], folder)


def kinds(material):
    return [task.question.kind for task in material.tasks]


def test_without_boxes_of_defects_none_are_asked_for(drawn):
    assert any(one.anomalous and one.boxes for one in drawn)
    without = [
        one.model_copy(update={"boxes": None, "mask": None}) if one.anomalous else one for one in drawn
    ]
    for samples, asked in ((drawn, True), (without, False)):
        material = runs.gathered(samples, runs.recipe("sft"))
        assert any(task.question.kind == "grounding" for task in material.tasks) is asked
        assert any(name.startswith("questions for boxes") for name in material.counts) is not asked


def test_inspections_questions_come_first_and_each_question_once(drawn):
    material = runs.gathered(drawn, runs.recipe(), {"format": REWARDS["format"]})
    first = [task.question for task in material.tasks if task.sample.id == drawn[0].id]
    assert [one.id.rpartition("#")[2] for one in first[:2]] == ["verdict", "grounding"]
    assert first[0].answer == ("A" if drawn[0].anomalous else "B") and first[1].boxes == drawn[0].boxes
    assert len({(one.text, one.options) for one in first}) == len(first)
    assert (
        material.counts["questions that another one repeats"] >= 4
    )  # each drawn part brings grounding along


def test_only_the_samples_own_questions(drawn):
    material = runs.gathered(drawn, runs.recipe(questions="own"), {"format": REWARDS["format"]})
    assert not any("#" in task.question.id for task in material.tasks)
    assert len(material.tasks) == sum(len(sample.questions) for sample in drawn)


def test_questions_to_which_no_reward_applies_are_left_out(drawn):
    letters = runs.gathered(drawn, runs.recipe(), {name: REWARDS[name] for name in ("roam", "accuracy")})
    assert "grounding" not in kinds(letters) and letters.counts[
        "questions to which no reward applies"
    ] == len(drawn)
    boxes = runs.gathered(drawn, runs.recipe(), {"localisation": REWARDS["localisation"]})
    assert set(kinds(boxes)) == {"grounding"}


def test_what_cannot_be_learned_from(drawn, tmp_path):
    unknown = [Sample(id="u", image=drawn[0].image)]
    with pytest.raises(
        InputError, match=r"no question can be learned from.*questions whose answer is not known"
    ):
        runs.gathered(unknown, runs.recipe("sft"))
    asked = Question(id="q", kind="object details", text="What?", options=("a", "b"), answer="A")
    with pytest.raises(InputError, match="questions about samples of unknown truth"):
        runs.gathered([unknown[0].model_copy(update={"questions": (asked,)})], runs.recipe("sft"))
    missing = [
        one.model_copy(update={"image": tmp_path / f"{i}.png", "references": ()})
        for i, one in enumerate(drawn)
    ]
    with pytest.raises(InputError, match="4 of 4 image files are missing, so nothing was started"):
        runs.gathered(missing, runs.recipe("sft"))


def test_a_split_gives_its_two_sides(folder, tmp_path):
    samples = data.load("drawn:dev?n=12&seed=3", folder=folder / "drawn")
    path = tmp_path / "split.json"
    fewshot.write(
        path,
        fewshot.make(samples, SplitPlan(protocol="share", share=0.5), "drawn:dev?n=12&seed=3", {}),
    )
    train, test = (sources.load_sources([f"split:{path}"], folder, side) for side in ("train", "test"))
    assert train and test and not {one.id for one in train} & {one.id for one in test}
    material = runs.gathered(train, runs.recipe("sft"))
    dataset.require_apart(material, test)
    with pytest.raises(InputError, match="1 held-out images are also learned from"):
        dataset.require_apart(material, [train[0].model_copy(update={"id": "copy"})])


def test_the_fingerprint_is_of_content_not_of_place(drawn, tmp_path):
    rewards = {"format": REWARDS["format"]}
    elsewhere = sources.load_sources(["drawn:dev?n=4&seed=0"], tmp_path)
    one, other = (
        dataset.fingerprint(runs.gathered(samples, runs.recipe(), rewards)) for samples in (drawn, elsewhere)
    )
    assert one == other
    image = Path(elsewhere[0].image)
    pixels = np.array(Image.open(image))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(image)
    assert dataset.fingerprint(runs.gathered(elsewhere, runs.recipe(), rewards)) != one
    fewer = dataset.fingerprint(runs.gathered(drawn, runs.recipe(questions="own"), rewards))
    assert fewer != one


def test_completions_are_the_same_for_a_seed_and_differ_between_seeds(drawn):
    from anomalyr1.images.frames import FAMILIES

    material = runs.gathered(drawn, runs.recipe("sft"))
    frames = [material.frame(task.sample, FAMILIES["qwen2_5_vl"], 12_544) for task in material.tasks]
    written = [
        [
            dataset.gold_completion(task, frame, seed)
            for task, frame in zip(material.tasks, frames, strict=True)
        ]
        for seed in (0, 0, 1)
    ]
    assert written[0] == written[1] != written[2]


def test_a_conversations_own_reasoning_is_kept(tmp_path):
    Image.new("RGB", (60, 60), "white").save(tmp_path / "a.png")
    asked = "Is there any defect in the object?\nA. Yes.\nB. No."
    own = "<think>The rim is chipped.</think><answer>A</answer>"
    boxes = '<think>It is at the rim.</think><answer>[{"bbox_2d": [1, 2, 30, 40], "label": "chip"}]</answer>'
    turns = [
        ("human", asked),
        ("gpt", own),
        ("human", "Where?"),
        ("gpt", boxes),
        ("human", f"Again: {asked}"),
        ("gpt", "A"),
    ]
    line = {
        "image": "a.png",
        "conversations": [{"from": speaker, "value": value} for speaker, value in turns],
    }
    (tmp_path / "talk.jsonl").write_text(json.dumps(line))
    questions = data.load(f"jsonl:{tmp_path / 'talk.jsonl'}")[0].questions
    assert [one.completion for one in questions] == [own, boxes, None]
    assert questions[1].boxes == (Box(x1=1, y1=2, x2=30, y2=40, label="chip"),)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A wide image with a mark of its own colour in the box, and a reference."""
    at = tmp_path_factory.mktemp("marked")
    pixels = np.full((40, 60, 3), 90, np.uint8)
    pixels[5:12, 44:58] = (200, 10, 10)
    Image.fromarray(pixels).save(at / "bad.png")
    Image.fromarray(pixels[:, ::-1]).save(at / "other.png")
    box = Box(x1=44, y1=5, x2=58, y2=12, label="stain")
    asked = (
        Question(
            id="own", kind="anomaly detection", text="Is it broken?", options=("Yes.", "No."), answer="A"
        ),
        Question(
            id="told",
            kind="anomaly detection",
            text="Bad?",
            options=("Yes.", "No."),
            answer="A",
            completion="top right, so A",
        ),
        Question(
            id="where",
            kind="defect localization",
            text="Where is it?",
            options=("Top right.", "Center."),
            answer="A",
        ),
    )
    return Sample(
        id="parts/bad",
        image=at / "bad.png",
        references=(at / "other.png",),
        knowledge="Even.",
        anomalous=True,
        boxes=(box,),
        questions=asked,
    )


def test_turned_images_carry_their_boxes_along(marked, tmp_path):
    found = turn_samples([marked], tmp_path)
    assert len(found) == len({one.id for one in found}) == 7
    seen = set()
    for one in found:
        pixels = np.asarray(Image.open(one.image))
        (box,) = one.boxes
        inside = np.zeros(pixels.shape[:2], bool)
        inside[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
        assert ((pixels == (200, 10, 10)).all(-1) == inside).all()
        assert box.label == "stain"
        assert np.asarray(Image.open(one.references[0])).shape == pixels.shape
        seen.add(pixels.tobytes() + bytes(pixels.shape[:2]))
    whole = np.asarray(Image.open(marked.image))
    assert len(seen) == 7
    assert whole.tobytes() + bytes(whole.shape[:2]) not in seen


def test_turned_images_are_asked_for_what_does_not_hang_on_the_orientation(marked, tmp_path):
    found = turn_samples([marked], tmp_path)
    for one in found:
        assert [question.id for question in one.questions] == ["own"]
        assert (one.knowledge, one.anomalous, one.mask) == ("Even.", True, None)
    unknown = marked.model_copy(update={"boxes": None})
    assert turn_samples([unknown], tmp_path)[0].boxes is None


def test_a_recipe_with_turned_plans_eight_orientations(tmp_path, capsys):
    for on, samples in ((False, 4), (True, 32)):
        recipe = load_recipe(
            "nano-sft", ['data=["drawn:dev?n=4&seed=0"]', "held_out=[]", f"turned={str(on).lower()}"]
        )
        assert plan_run(recipe).samples == samples


def test_own_questions_for_boxes_turn_along(tmp_path):
    sample = next(one for one in sources.load_sources(["drawn:dev?n=6&seed=3"], tmp_path) if one.boxes)
    own = Question(id="where", kind="grounding", text="Where?", boxes=sample.boxes)
    found = turn_samples([sample.model_copy(update={"questions": (own,)})], tmp_path / "turned")
    assert [one.questions[0].boxes for one in found] == [one.boxes for one in found]
    assert found[0].boxes != sample.boxes


def test_what_a_prompt_does_not_show_is_counted(tmp_path):
    """The released prompt has a place for neither knowledge nor references."""
    samples = sources.load_sources(["drawn:dev?n=4&seed=3&references=1"], tmp_path)
    told = {
        style: runs.gathered(samples, runs.recipe("sft", prompt=style)).counts
        for style in ("ours", "released")
    }
    tasks = len(runs.gathered(samples, runs.recipe("sft", prompt="released")).tasks)
    assert (
        told["released"][dataset.NOT_SHOWN["unused_references"]]
        == told["released"][dataset.NOT_SHOWN["unused_knowledge"]]
        == tasks
    )
    assert not any("no place" in name for name in told["ours"])
