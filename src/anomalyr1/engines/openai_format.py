"""The chat-completions form of the OpenAI API: prompts to requests, replies to completions. No network here.

What comes back is untrusted: a reply that is not what was asked for is a `ReplyError` with a name of its own,
never an empty text.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anomalyr1.answers import parse_with_place
from anomalyr1.engines.engine import Completion, Sampling
from anomalyr1.images.frames import Frame
from anomalyr1.prompts import Prompt
from anomalyr1.types import LETTERS, first_error

MAX_REPLY_BYTES = 8 * 2**20
"""A longer reply is cut off and refused; 4,096 tokens with 20 alternatives each are about 6 MB."""
TOP_LOGPROBS = 20
"""Alternatives asked for at each place; the most that servers commonly give."""

Problem = Literal[
    "no connection",
    "connection lost",
    "deadline",
    "HTTP status",
    "HTML instead of JSON",
    "broken JSON",
    "another form of JSON",
    "too long",
    "no text",
    "reasoning split off",
    "stopped otherwise",
    "key in the reply",
]
"""What may be wrong with a reply, by name."""
LASTING = frozenset(
    {
        "another form of JSON",
        "too long",
        "no text",
        "reasoning split off",
        "stopped otherwise",
        "key in the reply",
    }
)
"""Problems that would come again."""
PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that are worth asking again."""
_LETTER_TOKEN = re.compile(r"(\W*)([A-Z])\W*")
"""A token that writes one option letter, and the marks before it."""
_ROUNDING = 1e-3
"""A log-probability may lie so much above 0."""


class ReplyError(RuntimeError):
    """A reply that cannot be used; the message says what was expected and what came."""

    def __init__(self, problem: Problem, message: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(f"{problem}: {message}")
        self.problem = problem
        self.status = status
        """The HTTP status; 0 = there was none."""
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""

    @property
    def passing(self) -> bool:
        """Whether asking again may help."""
        return self.status in PASSING_STATUS if self.problem == "HTTP status" else self.problem not in LASTING


class _ReplyPart(BaseModel):
    """A part of a reply; fields that are not named here are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TokenLogprob(_ReplyPart):
    """A token and its log-probability."""

    token: str
    logprob: float


class TokenPlace(TokenLogprob):
    """The token at one place of the completion, and its likeliest alternatives."""

    top_logprobs: list[TokenLogprob] = []


class _Logprobs(_ReplyPart):
    content: list[TokenPlace] | None = None


class _Message(_ReplyPart):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(_ReplyPart):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(_ReplyPart):
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Reply(_ReplyPart):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def prompt_text(prompt: Prompt) -> str:
    """All text of a prompt."""
    texts = []
    for message in prompt.messages:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return "\n".join(texts)


def data_url(picture: Image.Image) -> str:
    """A picture as a PNG data URL: lossless, so that a server sees the pixels that a model here would see."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def write_request(
    prompt: Prompt,
    urls: Mapping[Path, str],
    model: str,
    sampling: Sampling,
    seed: int,
    logprobs: bool,
    extra: Mapping[str, object],
) -> bytes:
    """The body of a request; `urls` holds the data URL of every image, `seed` draws the completion."""
    image_urls = iter([urls[path] for path in prompt.images])
    body: dict[str, object] = {
        **extra,
        "model": model,
        "messages": [
            {"role": message["role"], "content": _content(message["content"], image_urls)}
            for message in prompt.messages
        ],
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed % 2**31,
    }
    if logprobs:
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return json.dumps(body).encode("ascii")


def _content(content: Any, image_urls: Iterator[str]) -> object:
    """The content of a message: plain text where it shows no image, else its parts."""
    if isinstance(content, str):
        return content
    if all(part["type"] == "text" for part in content):
        return "".join(part["text"] for part in content)
    return [
        {"type": "image_url", "image_url": {"url": next(image_urls)}}
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in content
    ]


def read_reply(data: bytes, options: Sequence[str] = (), frame: Frame | None = None) -> Completion:
    """The completion in a reply of status 200 to a question with these options; `frame` maps its boxes.

    Raises `ReplyError`.
    """
    # 1. The form of the reply.
    if data.lstrip()[:1] == b"<":
        raise ReplyError("HTML instead of JSON", f"expected a chat completion, got {_beginning(data)}")
    try:
        reply = _Reply.model_validate_json(data)
    except ValidationError as error:
        field, _, fault = first_error(error).partition(": ")
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise ReplyError(
                "broken JSON", f"{len(data)} bytes that do not end as JSON does ({fault})"
            ) from error
        raise ReplyError(
            "another form of JSON", f"expected a chat completion, but {field or 'the whole'}: {fault}"
        ) from error
    # 2. How the completion ended, and whether all of it is there.
    choice = reply.choices[0]
    message, finish = choice.message, choice.finish_reason
    if finish not in ("stop", "length"):
        raise ReplyError(
            "stopped otherwise", f"finish_reason is {str(finish)[:40]!r}, expected stop or length"
        )
    if not message.content and (message.reasoning_content or message.reasoning):
        raise ReplyError(
            "reasoning split off", "the server's reasoning parser took the whole text; start it without one"
        )
    if message.content is None:
        raise ReplyError("no text", "the reply's message has no content")
    # 3. What it says, and how likely each option was where it says it.
    answer, letter_at = parse_with_place(message.content, options, frame)
    places = choice.logprobs.content if choice.logprobs else None
    scores = None
    if places and letter_at is not None:
        scores = option_scores(message.content, letter_at, places, LETTERS[: len(options)])
    usage = reply.usage or _Usage()
    return Completion(
        message.content,
        answer,
        frame,
        usage.prompt_tokens,
        usage.completion_tokens,
        "stop" if finish == "stop" else "length",
        scores,
    )


def option_scores(
    text: str, letter_at: int, places: Sequence[TokenPlace], letters: str
) -> dict[str, float] | None:
    """The probability of each option letter at the character where `text` gives its answer.

    Probabilities are normalised over the letters, which compete after the same marks, as in the local engine.
    None where the token there is no letter, or where the tokens do not spell the text. A letter that is not
    among the server's alternatives there counts as 0: it is less likely than all of them.
    """
    if not "".join(place.token for place in places).startswith(text[: letter_at + 1]):
        return None
    end = 0
    for place in places:
        begin, end = end, end + len(place.token)
        if end > letter_at:
            token = _LETTER_TOKEN.fullmatch(place.token)
            if token is None or begin + len(token[1]) != letter_at:
                return None
            return _scores_after(token[1], place, letters)
    return None


def _scores_after(marks: str, place: TokenPlace, letters: str) -> dict[str, float] | None:
    """The probability of each letter after `marks`; None where the log-probabilities make no sense."""
    logprobs = {token.token: token.logprob for token in (*place.top_logprobs, place)}
    sums = dict.fromkeys(letters, 0.0)
    for text, logprob in logprobs.items():
        token = _LETTER_TOKEN.fullmatch(text)
        if token is None or token[1] != marks or token[2] not in sums:
            continue
        if not logprob < _ROUNDING:  # more than certain, or NaN
            return None
        sums[token[2]] += math.exp(logprob)
    total = sum(sums.values())
    return {letter: weight / total for letter, weight in sums.items()} if total > 0 else None


def _beginning(data: bytes) -> str:
    """The beginning of a reply in one line."""
    return repr(" ".join(data[:200].decode("utf-8", "replace").split())[:100])


def status_error(status: int, data: bytes, retry_after: str = "") -> ReplyError:
    """The error for a reply that has not status 200."""
    try:
        seconds = min(60.0, max(0.0, float(retry_after)))
    except ValueError:
        seconds = 0.0
    return ReplyError("HTTP status", f"{status}, with {_beginning(data)}", status, seconds)
