"""The writer of prompts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyr1 import prompts
from anomalyr1.types import InputError, Question, Sample

OPTIONS = Question(
    id="s#1", kind="defect classification", text="What type?", options=("Scratch.", "Dent."), answer="A"
)
SAMPLE = Sample(
    id="s",
    image=Path("part.png"),
    references=(Path("good1.png"), Path("good2.png")),
    knowledge="Twelve teeth.",
)


def flat(prompt):
    """The text a model sees, images as [image]."""
    return "\n".join(
        f"{message['role']}: " + "".join(part.get("text", "[image]") for part in message["content"])
        for message in prompt.messages
    )


@pytest.mark.parametrize("style", ["ours", "mmad"])
def test_order_is_references_knowledge_image_question_options(style):
    prompt = prompts.build(SAMPLE, OPTIONS, style)
    text = flat(prompt)
    marks = ["[image][image]", "Twelve teeth.", "[image]", "What type?", "A. Scratch.", "B. Dent."]
    rest = text
    for mark in marks:  # each stands after the one before it
        assert mark in rest
        rest = rest.partition(mark)[2]
    assert prompt.images == (Path("good1.png"), Path("good2.png"), Path("part.png"))
    assert prompt.counts == {}


@pytest.mark.parametrize("style", list(prompts.STYLES))
def test_questions_about_one_image_share_all_that_stands_before_the_question(style):
    texts = [
        flat(prompts.build(SAMPLE, question, style))
        for question in (OPTIONS, *prompts.inspection_questions("s"))
    ]
    prefixes = {text.rpartition("[image]")[0] for text in texts}
    assert len(prefixes) == 1


def test_lines_without_content_vanish():
    text = flat(prompts.build(Sample(id="s", image=Path("part.png")), prompts.inspection_questions("s")[1]))
    assert "reference" not in text.partition("user:")[2]
    assert "Knowledge" not in text
    assert text.endswith(prompts.GROUNDING_TEXT)


def test_released_style_uses_neither_references_nor_knowledge_and_says_so():
    prompt = prompts.build(SAMPLE, OPTIONS, "released")
    assert prompt.images == (Path("part.png"),)
    assert prompt.counts == {"unused_references": 2, "unused_knowledge": 1}
    assert "<answer>" in prompt.messages[1]["content"][-1]["text"]


HOSTILE = [
    "<|im_end|>",
    "<|image_pad|>",
    "<|vision_start|>",
    "</think>",
    "<answer>",
    "<tool_call>",
    "<image>",
    "<|a|><|b|>",
]


@pytest.mark.parametrize("token", HOSTILE)
@pytest.mark.parametrize("place", ["knowledge", "question", "option"])
def test_user_text_cannot_write_special_tokens(token, place):
    sample = SAMPLE.model_copy(update={"knowledge": f"x {token} y"}) if place == "knowledge" else SAMPLE
    question = OPTIONS.model_copy(
        update={"text": token} if place == "question" else {"options": (token, "Dent.")}
    )
    question = OPTIONS if place == "knowledge" else question
    prompt = prompts.build(sample, question)
    assert token not in flat(prompt).partition("user:")[2]
    assert prompt.counts["special_tokens_broken_up"] >= 1
    # Control: what the sample says does hold the token.
    assert token in sample.knowledge + question.text + question.options[0]


@given(st.text(st.sampled_from("<|>thinkaswer/ \ud800é")))
def test_neutralised_text_stays_neutral(text):
    counts: dict[str, int] = {}
    once = prompts.neutralise(text, counts)
    assert "<|" not in once
    assert prompts.neutralise(once, {}) == once
    once.encode("utf-8")
    assert bool(counts) == (once != text)


def test_filled_in_text_is_not_searched_for_placeholders():
    prompt = prompts.build(SAMPLE.model_copy(update={"knowledge": "{image} {question}"}), OPTIONS)
    assert prompt.images[-1] == Path("part.png")
    assert len(prompt.images) == 3
    assert "{image} {question}" in flat(prompt)


def test_own_prompt_is_taken_as_it_is(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(
        "Be brief.\n{user}\nRefs {references}\n{image}\nQ: {question} / {question-like}\n{options}",
        encoding="utf-8",
    )
    prompt = prompts.build(SAMPLE, OPTIONS, text=prompts.read_prompt(path))
    assert flat(prompt) == (
        "system: Be brief.\nuser: Refs [image][image]\n[image]\n"
        "Q: What type? / {question-like}\nA. Scratch.\nB. Dent."
    )
    assert prompt.counts == {"unused_knowledge": 1}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{question}", "image"),
        ("{image}{image}{question}", "image"),
        ("{image}", "question"),
        ("{image}\n{user}\n{question}", "above"),  # in the system part there are no images
        ("{knowledge}\n{user}\n{image}\n{question}", "above"),  # and no knowledge
        ("Compare {references} with {image}\n{question}", "vanish"),  # the image would go with the references
        ("{image}\n{question} {options}", "vanish"),  # the question would go where there are no options
        ("{image}\n{question}\n{request}", "built-in"),
        ("{user}{user}{image}{question}", "at most one"),
        ("{image}{question}\n{references}", "before"),
        ("<|im_start|>{image}{question}", "special token"),
        (b"\xff\xfe{image}{question}", "UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_prompts_that_cannot_work_are_refused_by_name(tmp_path, text, word):
    path = tmp_path / "mine.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=word) as caught:
        prompts.read_prompt(path)
    assert "mine.txt" in str(caught.value)


def test_the_style_identifies_its_wording():
    ids = {prompts.style_id(style) for style in prompts.STYLES} | {
        prompts.style_id(text="a"),
        prompts.style_id(text="b"),
    }
    assert len(ids) == len(prompts.STYLES) + 2
    with pytest.raises(InputError, match="ours, mmad, released"):
        prompts.style_id("our")
