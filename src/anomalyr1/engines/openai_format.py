"""The chat-completions form of the OpenAI API: prompts to requests, replies to what was written. Pure functions, no network.

What comes back is untrusted: a reply that is not what was asked for is a `ReplyError` with a name of its own,
never an empty text.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anomalyr1 import answers
from anomalyr1.engines.engine import Sampling
from anomalyr1.prompts import Prompt
from anomalyr1.types import LETTERS

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
_LETTER = re.compile(r"(\W*)([A-Z])\W*")
"""A token that writes one option letter, and the marks before it."""
_ROUNDING = 1e-3
"""A log-probability may be so much above 0."""


class ReplyError(RuntimeError):
    """A reply that cannot be used; the message says what was expected and what came."""

    def __init__(self, problem: Problem, message: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(f"{problem}: {message}")
        self.problem = problem
        self.status = status
        """Of HTTP; 0 = none."""
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""

    @property
    def passing(self) -> bool:
        """Whether asking again may help."""
        return self.status in PASSING_STATUS if self.problem == "HTTP status" else self.problem not in LASTING


class _Part(BaseModel):
    """What is read of a reply; fields that are not named here are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Token(_Part):
    """A token and its log-probability."""

    token: str
    logprob: float


class Place(Token):
    """The token that was written, and its likeliest alternatives."""

    top_logprobs: list[Token] = []


class _Logprobs(_Part):
    content: list[Place] | None = None


class _Message(_Part):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(_Part):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(_Part):
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Reply(_Part):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


@dataclass(frozen=True)
class Written:
    """What a server wrote."""

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    """0 = the server does not say."""
    completion_tokens: int
    option_scores: dict[str, float] | None
    """By letter; None = the server gives no log-probabilities, or the answer is no letter."""


def text_of(prompt: Prompt) -> str:
    """All text of a prompt, whatever its form."""
    contents = [message["content"] for message in prompt.messages]
    return "\n".join(
        c if isinstance(c, str) else "\n".join(part.get("text", "") for part in c) for c in contents
    )


def data_url(picture: Image.Image) -> str:
    """A picture as a PNG data URL: lossless, so that the server sees the very pixels that a model here would see."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def request(
    prompt: Prompt,
    urls: Mapping[Path, str],
    model: str,
    sampling: Sampling,
    seed: int,
    logprobs: bool,
    extra: Mapping[str, object],
) -> bytes:
    """The body of a request; `urls` holds the data URL of every image of the prompt, `seed` is that of its draw."""
    images = iter(prompt.images)
    body: dict[str, object] = {
        **extra,
        "model": model,
        "messages": [
            {"role": message["role"], "content": _content(message["content"], images, urls)}
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


def _content(content: Any, images: Any, urls: Mapping[Path, str]) -> object:
    if isinstance(content, str) or all(part["type"] == "text" for part in content):
        return content if isinstance(content, str) else "".join(part["text"] for part in content)
    return [
        {"type": "image_url", "image_url": {"url": urls[next(images)]}}
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in content
    ]


def read(data: bytes, options: Sequence[str] = ()) -> Written:
    """What a reply of status 200 says to a question with these options. Raises `ReplyError`."""
    if data.lstrip()[:1] == b"<":
        raise ReplyError("HTML instead of JSON", f"expected a chat completion, got {_shown(data)}")
    try:
        reply = _Reply.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise ReplyError(
                "broken JSON", f"{len(data)} bytes that do not end as JSON does ({first['msg']})"
            ) from error
        place = ".".join(str(part) for part in first["loc"])
        raise ReplyError(
            "another form of JSON", f"expected a chat completion, but {place or 'the whole'}: {first['msg']}"
        ) from error
    choice = reply.choices[0]
    message, finish = choice.message, choice.finish_reason
    if finish not in ("stop", "length"):
        raise ReplyError(
            "stopped otherwise", f"finish_reason is {str(finish)[:40]!r}, expected stop or length"
        )
    if not message.content:
        if message.reasoning_content or message.reasoning:
            raise ReplyError(
                "reasoning split off",
                "the server's reasoning parser took the whole text; start it without one",
            )
        if message.content is None:
            raise ReplyError("no text", "the reply's message has no content")
    usage = reply.usage or _Usage()
    places = choice.logprobs.content if choice.logprobs else None
    scores = option_scores(message.content or "", places, options) if places and options else None
    return Written(
        message.content or "",
        "stop" if finish == "stop" else "length",
        usage.prompt_tokens,
        usage.completion_tokens,
        scores,
    )


def option_scores(text: str, places: Sequence[Place], options: Sequence[str]) -> dict[str, float] | None:
    """The probability of each option where the completion `text` gives its answer, normalised over the options.

    The letters compete after the same marks, as in the local engine. None where the answer is no letter, or
    where the tokens do not spell the text. A letter that is not among the server's alternatives there counts
    as 0: it is less likely than all of them.
    """
    at = answers.choice_at(text, options)
    if at is None or not "".join(place.token for place in places).startswith(text[: at + 1]):
        return None
    end = 0
    for place in places:
        begin, end = end, end + len(place.token)
        if end > at:
            written = _LETTER.fullmatch(place.token)
            return (
                _normalised(place, written[1], LETTERS[: len(options)])
                if written and begin + len(written[1]) == at
                else None
            )
    return None


def _normalised(place: Place, lead: str, letters: str) -> dict[str, float] | None:
    by_token = {one.token: one.logprob for one in (*place.top_logprobs, place)}
    sums = dict.fromkeys(letters, 0.0)
    for token, logprob in by_token.items():
        other = _LETTER.fullmatch(token)
        if other is None or other[1] != lead or other[2] not in sums:
            continue
        if not logprob < _ROUNDING:  # more than certain, or NaN
            return None
        sums[other[2]] += math.exp(logprob)
    total = sum(sums.values())
    return {letter: value / total for letter, value in sums.items()} if total > 0 else None


def _shown(data: bytes) -> str:
    """The beginning of a reply in one line."""
    return repr(" ".join(data[:200].decode("utf-8", "replace").split())[:100])


def status_error(status: int, data: bytes, retry_after: str = "") -> ReplyError:
    """The error for a reply that has not status 200."""
    try:
        seconds = min(60.0, max(0.0, float(retry_after)))
    except ValueError:
        seconds = 0.0
    return ReplyError("HTTP status", f"{status}, with {_shown(data)}", status, seconds)
