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
from typing import Any, Literal, NamedTuple

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anomalyr1.answers import parse_with_place
from anomalyr1.engines.engine import Completion, Sampling
from anomalyr1.images.frames import Frame
from anomalyr1.prompts import Prompt
from anomalyr1.types import LETTERS, first_error

MIN_REPLY_LIMIT = 2**20
_BYTES_PER_TOKEN = 4096
"""Room for a token and its alternatives in a reply; they take 1,800 as vLLM writes them."""
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
_MOST_TOKENS = 10**9
PUT_BACK = "reasoning_put_back"
"""The name by which a completion is counted that had its reasoning put back."""
_LETTER_TOKEN = re.compile(r"(\W*)([A-Z])\W*")
"""A token that writes one option letter, and the marks before it."""
_THINK = re.compile("</?think>", re.IGNORECASE)
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


class _TextPart(_ReplyPart):
    type: Literal["text"]
    text: str


class _Message(_ReplyPart):
    content: str | list[_TextPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None

    @property
    def text(self) -> str | None:
        """The content in one piece."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content

    @property
    def split_reasoning(self) -> str:
        """What a server gave as reasoning beside the text, by either name; empty where there is none."""
        return "\n".join(dict.fromkeys(filter(None, (self.reasoning_content, self.reasoning))))


class _Choice(_ReplyPart):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(_ReplyPart):
    prompt_tokens: int = Field(default=0, ge=0, le=_MOST_TOKENS)
    completion_tokens: int = Field(default=0, ge=0, le=_MOST_TOKENS)


class _Reply(_ReplyPart):
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage | None = None


class ServerReply(NamedTuple):
    """What a server replied to one request."""

    completion: Completion
    has_logprobs: bool
    """Whether it gave log-probabilities."""


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


def reply_limit(max_new_tokens: int) -> int:
    """Bytes of the longest reply that is taken; a longer one is cut off and refused."""
    return max(MIN_REPLY_LIMIT, _BYTES_PER_TOKEN * max_new_tokens)


def read_reply(data: bytes, options: Sequence[str] = (), frame: Frame | None = None) -> ServerReply:
    """What a reply of status 200 says to a question with these options; `frame` maps its boxes.

    Reasoning that the server gave beside the text is put back in front of it, as is the tag that its chat
    template opened it with; both are counted in the answer as reasoning_put_back. Raises `ReplyError`.
    """
    # 1. The form of the reply.
    if data.lstrip()[:1] == b"<":
        beginning = _beginning(data.decode("utf-8", "replace"))
        raise ReplyError("HTML instead of JSON", f"expected a chat completion, got {beginning}")
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
    # 2. How the completion ended, and all of its text.
    choice = reply.choices[0]
    text, prefix = _whole_text(choice)
    # 3. What it says, and how likely each option was where it says it.
    answer, letter_at = parse_with_place(text, options, frame)
    if prefix:
        answer = answer.model_copy(update={"counts": answer.counts | {PUT_BACK: 1}})
    places = choice.logprobs.content if choice.logprobs else None
    scores = None
    if places and letter_at is not None:
        scores = option_scores(text, letter_at, places, LETTERS[: len(options)], prefix)
    usage = reply.usage or _Usage()
    completion = Completion(
        text,
        answer,
        frame,
        usage.prompt_tokens,
        usage.completion_tokens,
        "stop" if choice.finish_reason == "stop" else "length",
        scores,
    )
    return ServerReply(completion, bool(places))


def _whole_text(choice: _Choice) -> tuple[str, int]:
    """The text of a completion, and the length of what was put back in front of it.

    Raises `ReplyError` where it did not end by itself or by its length, or where there is no text.
    """
    message, finish = choice.message, choice.finish_reason
    if finish not in ("stop", "length"):
        raise ReplyError(
            "stopped otherwise", f"finish_reason is {str(finish)[:40]!r}, expected stop or length"
        )
    if message.refusal or message.tool_calls:
        raise ReplyError("stopped otherwise", "the message refuses or calls a tool, expected a text")
    text, reasoning = message.text or "", message.split_reasoning
    if finish == "stop" and not text and reasoning:
        raise ReplyError(
            "reasoning split off", "the server's reasoning parser took the whole text; start it without one"
        )
    if finish == "stop" and message.text is None:
        raise ReplyError("no text", "the reply's message has no content")
    if _THINK.search(text):  # the reasoning is there
        if reasoning.strip() not in text:
            raise ReplyError(
                "another form of JSON", "expected one reasoning, but there is another one beside the text"
            )
        reasoning = ""
    prefix = f"<think>{reasoning}{'</think>' if text else ''}" if reasoning else ""
    if "</think>" in text and "<think>" not in text:  # the server's chat template opened it
        prefix = "<think>"
    return prefix + text, len(prefix)


def option_scores(
    text: str, letter_at: int, places: Sequence[TokenPlace], letters: str, put_back: int = 0
) -> dict[str, float] | None:
    """The probability of each option letter at the character where `text` gives its answer.

    Probabilities are normalised over the letters, which compete after the same marks, as in the local engine.
    None where the token there is no letter, or where the tokens do not spell the text; of its beginning of
    `put_back` characters a server may have dropped blanks. A letter that is not among the server's
    alternatives there counts as 0: it is less likely than all of them.
    """
    spelled = "".join(place.token for place in places)
    if 0 < put_back <= letter_at and spelled.count(text[put_back:]) == 1:
        letter_at += spelled.index(text[put_back:]) - put_back
    elif not spelled.startswith(text[: letter_at + 1]):
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


def _beginning(text: str) -> str:
    """The beginning of a reply in one line."""
    return repr(" ".join(text[:200].split())[:100])


def status_error(status: int, text: str, retry_after: str = "") -> ReplyError:
    """The error for a reply that has not status 200."""
    try:
        seconds = min(60.0, max(0.0, float(retry_after)))
    except ValueError:
        seconds = 0.0
    return ReplyError("HTTP status", f"{status}, with {_beginning(text)}", status, seconds)
