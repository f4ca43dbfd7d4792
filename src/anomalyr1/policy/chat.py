"""Qwen's chat format: our own template, which is rendered whatever template a model folder brings along.

    <|im_start|>user
    Inspect: <|vision_start|><|image_pad|><|vision_end|>
    Is there any defect in the object?<|im_end|>
    <|im_start|>assistant

It adds no system message of its own: every word a model reads comes from `prompts.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from anomalyr1.types import InputError

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""In Jinja, as transformers and TRL take it. It has one image token an image; `expand` makes them as many as
the image needs."""

TURN_START, TURN_END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
IMAGE_START, IMAGE, IMAGE_END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
REQUIRED_TOKENS = (TURN_START, TURN_END, TEXT_END, IMAGE_START, IMAGE, IMAGE_END)
"""What a tokenizer must have, each as one special token."""
STOP_TOKENS = (TURN_END, TEXT_END)
"""The tokens that end a completion."""
NEVER_WRITTEN = (
    TURN_START, IMAGE_START, IMAGE, IMAGE_END, "<|vision_pad|>", "<|video_pad|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>",
)  # fmt: skip
"""Tokens that a completion must never hold: an image token without an image breaks the next forward pass."""


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of all special tokens."""
    return frozenset(id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special)


def encode(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The token ids of a chat up to where the assistant speaks, with one image token an image.

    Raises `InputError` when the special tokens are not exactly the template's own: then some text has written
    one.
    """
    rendered = tokenizer.apply_chat_template(
        list(messages), chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    ids = cast("list[int]", tokenizer(rendered, add_special_tokens=False)["input_ids"])
    special = special_ids(tokenizer)
    actual = tokenizer.convert_ids_to_tokens([id_ for id_ in ids if id_ in special])
    expected = _special_tokens(messages)
    if actual != expected:
        misplaced = (token for token, right in zip(actual, expected, strict=False) if token != right)
        foreign = next(misplaced, (actual + expected)[-1])
        raise InputError(
            f"the prompt's text writes a special token: expected {len(expected)} of them, "
            f"found {len(actual)}, the first out of place is {foreign!r}; "
            "build prompts with anomalyr1.prompts, which breaks such text up"
        )
    return ids


def _special_tokens(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The special tokens that the template itself writes for a chat."""
    expected: list[str] = []
    for message in messages:
        parts = [] if isinstance(message["content"], str) else message["content"]
        images = sum(part["type"] == "image" for part in parts)
        expected += [TURN_START, *(IMAGE_START, IMAGE, IMAGE_END) * images, TURN_END]
    return [*expected, TURN_START]


def expand(ids: Sequence[int], image_id: int, image_tokens: Sequence[int]) -> list[int]:
    """`ids` with the n-th image token repeated for each of the `image_tokens[n]` tokens of the n-th image.

    >>> expand([1, 9, 2, 9, 3], image_id=9, image_tokens=[3, 1])
    [1, 9, 9, 9, 2, 9, 3]
    """
    counts = iter(image_tokens)
    expanded: list[int] = []
    for id_ in ids:
        expanded += [id_] * (next(counts) if id_ == image_id else 1)
    return expanded
