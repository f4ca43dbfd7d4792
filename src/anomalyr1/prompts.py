"""Sample and question -> chat messages; the only prompt text of the package.

A prompt style is a text with placeholders, and so is a user's own prompt file:

    {user}        what stands above it is the system message (optional)
    {references}  the good reference images
    {knowledge}   what is known about the class
    {image}       the image to inspect
    {evidence}    what good parts say about it (`evidence.words`); where a text has no place for it, the line
                  below the image
    {question}    the question's text
    {options}     its options, one a line: "A. text"
    {request}     the style's own request for a form of answer (built-in styles only)

A line vanishes where what it would hold is empty. All questions about one sample share everything up to
`{question}`, so that engines can share that prefix. Text of users and data sets cannot write special tokens
or the tags of our answer format: they are broken up and counted.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anomalyr1.types import LETTERS, InputError, Question, Sample

VERDICT_TEXT = "Is there any defect in the object?"
VERDICT_OPTIONS = ("Yes.", "No.")
DEFECT_LETTER, GOOD_LETTER = "A", "B"
"""The letters of these options."""
GROUNDING_TEXT = "Where are the defects? Answer with the box of each defect as JSON, or [] if there is none."

DEFAULT_STYLE = "ours"


@dataclass(frozen=True)
class Style:
    """A built-in prompt style."""

    text: str
    """The prompt with its placeholders."""
    option_request: str = ""
    """What `{request}` says for a question with options."""
    box_request: str = ""
    """What `{request}` says for grounding."""
    opening: str = "<think></think><answer>"
    """What a completion without reasoning opens with, before the option letter."""


STYLES: dict[str, Style] = {
    # Reason, then answer. One instruction for both kinds of question keeps the prefix common.
    "ours": Style(
        "You inspect industrial parts. Look at the image, compare it with what is known about good parts, "
        "and reason inside <think></think>: name the object, what you see, where it is, and what follows. "
        "Then answer inside <answer></answer> with the letter of one option, or, when boxes are asked for, "
        'with JSON: [{"bbox_2d": [x1, y1, x2, y2], "label": "defect"}].\n'
        "{user}\n"
        "Good reference: {references}\n"
        "Knowledge: {knowledge}\n"
        "Inspect: {image}\n"
        "{question}\n"
        "{options}"
    ),
    # The option letter directly, reference images first, as the MMAD benchmark asks.
    "mmad": Style(
        "You are a helpful assistant.\n"
        "{user}\n"
        "These are images of the same product without any defect, for comparison: {references}\n"
        "What experts note about this product: {knowledge}\n"
        "This is the image the question is about: {image}\n"
        "Question: {question}\n"
        "{options}\n"
        "{request}",
        "Reply with nothing but the letter of the right option.",
        'Reply with nothing but JSON: [{"bbox_2d": [x1, y1, x2, y2], "label": "defect"}], '
        "or [] if there is none.",
        opening="",
    ),
    # Image, question and the request for a format in one user turn, as the released training code asks; no
    # references, no knowledge.
    "released": Style(
        "You are a helpful assistant.\n{user}\n{image}\n{question}\n{options}\n{request}",
        "Think about the question step by step between <think> and </think>, "
        "then put the letter of your choice between <answer> and </answer>.",
        "Think about the question step by step between <think> and </think>, "
        "then put between <answer> and </answer> the JSON "
        '[{"bbox_2d": [x1, y1, x2, y2], "label": "defect"}], or [] if there is none.',
    ),
}

_PLACEHOLDER = re.compile(r"(\{(?:references|knowledge|image|evidence|question|options|request)\})")
_VANISHING = frozenset(["{references}", "{knowledge}", "{evidence}", "{options}"])
"""Placeholders that may be empty, their lines with them."""
_SPECIAL = (
    "<think>", "</think>", "<answer>", "</answer>", "<image>", "<video>",
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
)  # fmt: skip
"""Tokens and tags of the chat formats that are not of the form `<|name|>`."""


@dataclass(frozen=True)
class Prompt:
    """What an engine needs to ask one question about one sample."""

    sample_id: str
    """The id of the sample that is asked about."""
    question: Question
    """The question that is asked."""
    messages: list[dict[str, Any]]
    """Chat messages in the form of transformers' chat templates; `{"type": "image"}` stands for the next
    image."""
    images: tuple[Path, ...]
    """The image files in the order of their placeholders; the inspected one comes at the end."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often something was broken up, replaced or left unused, under its name."""
    opening: str = Style.opening
    """What a completion without reasoning opens with (`Sampling.fast`)."""

    def closed(self, letter: str) -> str:
        """The completion that answers with `letter` without reasoning."""
        return f"{self.opening}{letter}" + ("</answer>" if self.opening.endswith("<answer>") else "")


def build(
    sample: Sample,
    question: Question,
    style: str = DEFAULT_STYLE,
    text: str | None = None,
    evidence: str = "",
) -> Prompt:
    """The prompt for one question, in a built-in `style` or in the user's own `text` (see `read_prompt`).

    `evidence` is what good parts say about the image, in the box units of the model that is asked. Raises
    `InputError` for an unknown style.
    """
    wording = _find_style(style, text)
    if evidence:
        wording = replace(wording, text=_with_evidence(wording.text))
    counts: dict[str, int] = {}
    values = {
        "{knowledge}": neutralise(sample.knowledge, counts).strip(),
        "{evidence}": evidence,
        "{question}": neutralise(question.text, counts),
        "{options}": "\n".join(
            f"{LETTERS[i]}. {neutralise(option, counts)}" for i, option in enumerate(question.options)
        ),
        "{request}": wording.option_request if question.options else wording.box_request,
    }
    pictures = {"{references}": sample.references, "{image}": (sample.image,)}
    if sample.references and "{references}" not in wording.text:
        counts["unused_references"] = len(sample.references)
    if sample.knowledge and "{knowledge}" not in wording.text:
        counts["unused_knowledge"] = 1
    system, _, user = wording.text.rpartition("{user}")
    pieces = _fill(user.strip("\n"), values, pictures)
    messages: list[dict[str, Any]] = []
    if system.strip():
        messages.append({"role": "system", "content": [{"type": "text", "text": system.strip()}]})
    messages.append({"role": "user", "content": _message_parts(pieces)})
    images = tuple(piece for piece in pieces if isinstance(piece, Path))
    return Prompt(sample.id, question, messages, images, counts, wording.opening)


def inspection_questions(sample_id: str) -> tuple[Question, Question]:
    """The two questions that `inspect` asks about every sample: the verdict (A = defect) and the boxes."""
    verdict = Question(
        id=f"{sample_id}#verdict", kind="anomaly detection", text=VERDICT_TEXT, options=VERDICT_OPTIONS
    )
    return verdict, Question(id=f"{sample_id}#grounding", kind="grounding", text=GROUNDING_TEXT)


def with_gold(sample: Sample, question: Question) -> Question:
    """One of the two questions that `inspect` asks, with its gold from the sample's truth, where known."""
    if question.kind == "grounding":
        return question.model_copy(update={"boxes": () if sample.anomalous is False else sample.boxes})
    return question.model_copy(
        update={"answer": {True: DEFECT_LETTER, False: GOOD_LETTER, None: None}[sample.anomalous]}
    )


def gold_inspection_questions(sample: Sample) -> tuple[Question, Question]:
    """The verdict and grounding questions of `inspect` with gold."""
    verdict, grounding = inspection_questions(sample.id)
    return with_gold(sample, verdict), with_gold(sample, grounding)


def neutralise(text: str, counts: dict[str, int]) -> str:
    """`text` in which no special token and no tag of the answer format is left.

    What was broken up or replaced is added to `counts`.
    """
    broken_up = 0
    for token in ("<|", *_SPECIAL):
        broken_up += text.count(token)
        text = text.replace(token, "< " + token[1:])
    if broken_up:
        counts["special_tokens_broken_up"] = counts.get("special_tokens_broken_up", 0) + broken_up
    clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if clean != text:
        counts["surrogates_replaced"] = counts.get("surrogates_replaced", 0) + 1
    return clean


def read_prompt(path: Path) -> str:
    """The text of a user's own prompt file, as is. Raises `InputError` when it cannot serve as a prompt."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: the prompt file cannot be read ({error}); give a UTF-8 text file"
        ) from error
    require_usable(text, str(path))
    return text


def require_usable(text: str, where: str) -> None:
    """Raise `InputError` where a text cannot serve as a prompt; `where` names it."""
    if fault := _find_fault(text):
        raise InputError(f"{where}: {fault}")


def _find_fault(text: str) -> str | None:
    """Why a text cannot serve as a prompt, and what to do; None = it can."""
    if text.count("{user}") > 1:
        return "a prompt has at most one {user}, between its system part and its user part"
    system, _, user = text.rpartition("{user}")
    if _PLACEHOLDER.search(system) or "{request}" in user:
        return (
            "above {user} there are no placeholders, and {request} is for built-in styles only; "
            "see docs/guide/prompts.md"
        )
    for line in user.split("\n"):
        names = set(_PLACEHOLDER.findall(line))
        if names & {"{image}", "{question}"} and names & _VANISHING:
            return (
                f"the line {line.strip()!r} would vanish, image or question with it, where there are no "
                "references, knowledge, evidence or options; put {image} and {question} on lines without them"
            )
    for name in ("{image}", "{question}"):
        if user.count(name) != 1:
            return f"a prompt needs {name} exactly once in its user part; see docs/guide/prompts.md"
    if text.find("{references}") > text.find("{image}"):
        return (
            "{references} must stand before {image} in the user part, since the inspected image is the "
            "last one"
        )
    if "<|" in text:
        return "the prompt writes a special token (<|...|>); the chat template does that, leave it out"
    return None


def style_id(style: str = DEFAULT_STYLE, text: str | None = None, evidence: bool = False) -> str:
    """What the fingerprint says of the prompt: the style's name (or "file") and a digest of its wording.

    With `evidence` it says that prompts may hold what good parts say.
    """
    wording = _find_style(style, text)
    whole = _with_evidence(wording.text) if evidence else wording.text
    texts = (whole, wording.option_request, wording.box_request)
    question_texts = (VERDICT_TEXT, *VERDICT_OPTIONS, GROUNDING_TEXT)
    digest = hashlib.sha256("\0".join(texts + question_texts).encode()).hexdigest()
    return f"{style if text is None else 'file'}{'+evidence' if evidence else ''}@{digest[:12]}"


def _with_evidence(text: str) -> str:
    """A prompt's text with a place for evidence: its own, else the line below the image."""
    if "{evidence}" in text:
        return text
    head, image, tail = text.partition("{image}")
    line, newline, below = tail.partition("\n")
    return f"{head}{image}{line}\n{{evidence}}{newline}{below}"


def _find_style(name: str, text: str | None) -> Style:
    """The built-in style of this name, or the user's own `text` as one."""
    if text is not None:
        return Style(text)
    if name not in STYLES:
        raise InputError(
            f"unknown prompt style {name!r}; choose one of {', '.join(STYLES)}, "
            "or give your own text (--prompt FILE; from Python: text=)"
        )
    return STYLES[name]


def _fill(template: str, values: dict[str, str], pictures: dict[str, tuple[Path, ...]]) -> list[str | Path]:
    """The template's text with its placeholders filled, as pieces of text and image files in their order."""
    pieces: list[str | Path] = []
    for line in template.split("\n"):
        tokens = _PLACEHOLDER.split(line)
        if any(not pictures.get(token, values.get(token)) for token in tokens[1::2]):
            continue
        for token in tokens:
            # What is filled in is never searched for placeholders again.
            pieces += pictures.get(token, (values.get(token, token),))
        pieces.append("\n")
    return pieces[:-1]


def _message_parts(pieces: list[str | Path]) -> list[dict[str, Any]]:
    """The parts of one message: neighbouring texts are joined, an image file becomes a place for it."""
    parts: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, Path):
            parts.append({"type": "image"})
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += piece
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts
