"""JSON lines: our own samples and VLM-R1's conversations, line by line."""

from __future__ import annotations

import json

import pytest

from anomalyr1 import data
from anomalyr1.types import Box, InputError, Question, Sample
from support import layouts

CHOICE = "<image>\nWhat is the type of the defect?\nA. Crack.\nB. Hole."


def load(folder, *lines, **options):
    (folder / "x.jsonl").write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return data.load(f"jsonl:{folder / 'x.jsonl'}", **options)


def talk(human, gpt, **changes):
    return {
        "id": 1,
        "image": "a.png",
        "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}],
    } | changes


def test_own_samples_come_back(tmp_path):
    question = Question(id="q", kind="grounding", text="Where?", boxes=(Box(x1=1, y1=2, x2=3, y2=4),))
    sample = Sample(
        id="s",
        image="a.png",
        references=("r.png",),
        mask="m.png",
        anomalous=True,
        defect="hole",
        questions=(question,),
    )
    (read,) = load(tmp_path, sample.to_json())
    assert read == sample.model_copy(
        update={"image": tmp_path / "a.png", "references": (tmp_path / "r.png",), "mask": tmp_path / "m.png"}
    )
    assert load(tmp_path, sample.to_json(), root=tmp_path / "images")[0].image == tmp_path / "images/a.png"


def test_boxes_of_own_samples_come_from_the_mask_on_demand(tmp_path):
    layouts.mask(tmp_path / "m.png")
    sample = Sample(id="s", image="a.png", mask="m.png", anomalous=True)
    assert load(tmp_path, sample.to_json())[0].boxes is None
    assert load(tmp_path, sample.to_json(), boxes=True)[0].boxes


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("B", "B"), ("(b)", None), ("B.", "B"), ("Hole", "B"), ("hole.", "B"), ("B. Hole.", "B"),
        ("B. Crack.", None), ("C", None),
        ("<think>x</think><answer>A</answer>", "A"), ("none of them", None), (3, None),
    ],
)  # fmt: skip
def test_letters(tmp_path, reply, answer):
    (sample,) = load(tmp_path, talk(CHOICE, reply))
    (question,) = sample.questions
    assert (question.text, question.options, question.answer) == (
        "What is the type of the defect?",
        ("Crack.", "Hole."),
        answer,
    )
    assert question.kind == "defect classification"


@pytest.mark.parametrize(
    ("reply", "boxes"),
    [
        ([1, 2, 3, 4], [(1, 2, 3, 4)]),
        ("[1, 2, 3, 4]", [(1, 2, 3, 4)]),
        ("<answer>[[1, 2, 3, 4], [5, 5, 9, 9]]</answer>", [(1, 2, 3, 4), (5, 5, 9, 9)]),
        ('```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "hole"}]\n```', [(1, 2, 3, 4)]),
        ("[]", []),
    ],
)
def test_boxes(tmp_path, reply, boxes):
    (sample,) = load(tmp_path, talk("<image>Where is the hole?", reply))
    (question,) = sample.questions
    assert question.kind == "grounding"
    assert [box.xyxy for box in question.boxes] == boxes
    assert sample.boxes == question.boxes


def test_kinds_and_verdicts(tmp_path):
    (sample,) = samples = load(tmp_path, talk("Anything?\nA. Yes.\nB. No.", "B", type="Anomaly Detection"))
    assert (sample.anomalous, sample.questions[0].kind) == (False, "anomaly detection")
    assert not samples.notes
    assert load(tmp_path, talk(CHOICE, "A")).notes == {"kinds of questions guessed from their words": 1}


def test_what_cannot_be_asked_is_counted(tmp_path):
    samples = load(
        tmp_path,
        talk("<image>How many?", "three"),
        talk("<image>How many?", "three", id=2, conversations=[{"from": "gpt", "value": "x"}]),
    )
    assert [sample.questions for sample in samples] == [(), ()]
    assert samples.notes == {
        "conversation turns without options or boxes, left out": 1,
        "conversation turns that are out of order, left out": 1,
    }  # fmt: skip


def test_several_images_and_mixed_lines(tmp_path):
    own = Sample(id="s", image="a.png").to_json()
    read = load(tmp_path, own, talk("<image><image>" + CHOICE, "A", image=["good.png", "a.png"]))
    assert read[1].image == tmp_path / "a.png"
    assert read[1].references == (tmp_path / "good.png",)
    assert len(read) == 2


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[1]",
        talk("x", [3, 3, 1, 1]),
        talk("x", "y", image=3),
        talk("x", "y", conversations="z"),
        '{"id": "s"}',
    ],
)
def test_other_lines_are_refused(tmp_path, line):
    with pytest.raises(InputError, match="line 1"):
        load(tmp_path, line)


@pytest.mark.parametrize(("key", "message"), [("mesages", "'messages'"), ("conversation", "'conversations'")])
def test_a_misspelled_key_is_named(tmp_path, key, message):
    with pytest.raises(InputError, match=f"has the key '{key}', did you mean {message}"):
        load(tmp_path, json.dumps({key: [], "image": "a.png"}))
    with pytest.raises(InputError, match="Field required"):  # the control
        load(tmp_path, json.dumps({"turns": [], "image": "a.png"}))


@pytest.mark.parametrize(
    ("text", "options", "kind"),
    [
        ("Is there a defect?", "Yes No", "anomaly detection"),
        ("Look closely. Is there any visible damage on the part?", "No Yes", "anomaly detection"),
        ("Is the object defective?", "Yes No", "anomaly detection"),
        ("Does this image show an anomaly?", "Yes No", "anomaly detection"),
        ("Defect?", "Yes No", "anomaly detection"),
        ("What is its state?", "OK NG", "anomaly detection"),
        ("How is it?", "defect good", "anomaly detection"),
        # control: "no" is no word for a good part here
        ("Is there a defect in the left half?", "Yes No", "object analysis"),
        ("Is the defect a scratch?", "Yes No", "object analysis"),
        ("Is the part free of defects?", "Yes No", "object analysis"),
        ("Is the thread metric?", "Yes No", "object analysis"),
        ("What is it?", "good unclear", "object analysis"),
    ],
)
def test_questions_that_ask_for_the_verdict(tmp_path, text, options, kind):
    first, last = options.split()
    samples = load(tmp_path, talk(f"{text}\nA. {first}\nB. {last}", "A"))
    verdicts = {"yes": True, "no": False, "ok": False, "ng": True, "defect": True}
    assert samples[0].questions[0].kind == kind
    assert samples[0].anomalous == (verdicts[first.casefold()] if kind == "anomaly detection" else None)


def messages(user, reply="B", **more):
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}], **more}


IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "Is there a defect?\nA. Yes\nB. No"}


@pytest.mark.parametrize(
    "line",
    [
        messages([IMAGE, TEXT], [{"type": "text", "text": "B"}], images=["a.png"]),  # TRL
        messages("<image>" + TEXT["text"], images=["a.png"]),
        messages([IMAGE, TEXT], images=[{"path": "a.png", "bytes": None}]),  # a data set of Hugging Face
        messages([TEXT, IMAGE | {"image": "a.png"}]),  # Qwen
        messages([{"type": "image_url", "image_url": {"url": "a.png"}}, TEXT]),  # OpenAI
    ],
)
def test_messages(tmp_path, line):
    line["messages"].insert(0, {"role": "system", "content": "You inspect."})
    (sample,) = load(tmp_path, line)
    assert (sample.image, sample.anomalous) == (tmp_path / "a.png", False)
    assert (sample.questions[0].text, sample.questions[0].options) == ("Is there a defect?", ("Yes", "No"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (messages("x"), "expected image"),  # none is named
        (messages([{"type": "image_url", "image_url": {"url": "https://x/a.png"}}, TEXT]), "is a URL"),
        (
            messages([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}, TEXT]),
            "is a URL",
        ),
        (messages(["x"], images=["a.png"]), "parts of content"),
        ({"messages": "x", "images": ["a.png"]}, "expected messages"),
        (messages([TEXT], images=[3]), "expected image"),
        (messages([TEXT], images="a.png"), "expected images"),
    ],
)
def test_messages_that_are_refused(tmp_path, line, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, line)
