"""Engines turn prompts into completions. What every engine takes and gives; nothing here needs torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from anomalyr1.images import Frame, LoadedImage
from anomalyr1.prompts import Prompt
from anomalyr1.types import Fingerprint, InputError, Record
from anomalyr1.version import __version__


class Sampling(Record):
    """How completions are written."""

    max_new_tokens: int = Field(default=256, gt=0)
    temperature: float = Field(default=0.0, ge=0)
    """0 = greedy: always the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the likeliest tokens that together have this probability."""
    seed: int = Field(default=0, ge=0)
    fast: bool = False
    """No reasoning: one forward pass gives each option's probability where the answer would stand; the
    likeliest is the completion."""

    def __str__(self) -> str:
        if self.fast:
            return "fast: the likeliest option, without reasoning"
        limit = f"at most {self.max_new_tokens} tokens"
        return (
            f"greedy, {limit}"
            if self.temperature == 0
            else f"temperature {self.temperature:g}, top_p {self.top_p:g}, {limit}"
        )


GREEDY = Sampling()


@dataclass(frozen=True)
class Completion:
    """What a policy wrote to one prompt."""

    text: str
    """Without special tokens; untrusted."""
    frame: Frame | None
    """Of the inspected image, the prompt's last one; None = no image, or not known how the model saw it."""
    prompt_tokens: int
    """Image tokens included; 0 = not known."""
    completion_tokens: int
    """The stop token included; 0 = not known."""
    finish: Literal["stop", "length"]
    """Whether the policy ended it, or `max_new_tokens` did."""
    option_scores: dict[str, float] | None = None
    """Probability of each option letter where the completion answers with one, normalised over the options;
    None = not known."""
    error: str | None = None
    """What kept this one item from an answer, by name; the text is then empty. Only engines that ask others
    give it."""


class Engine(Protocol):
    """Turns prompts into completions."""

    @property
    def name(self) -> str:
        """The engine's own name, e.g. "local"."""
        ...

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """What completions depend on; the caller fills in `style`, `masks` and `option_order`."""
        ...

    def complete(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """One completion a prompt, in their order; `images` holds every image that the prompts name."""
        ...


def describe(
    engine: Engine,
    model: str,
    revision: str,
    family: str,
    max_pixels: int,
    sampling: Sampling,
    versions: Mapping[str, str],
    more: str = "",
) -> Fingerprint:
    """The fingerprint of an engine that runs `model`; `more` is what it asks for beside `sampling`."""
    return Fingerprint(
        model=model,
        revision=revision,
        family=family,
        style="",
        max_pixels=max_pixels,
        seed=sampling.seed,
        engine=engine.name,
        sampling=f"{sampling}{more}",
        versions={"anomalyr1": __version__, **versions},
    )


def which(prompt: Prompt) -> str:
    """Which prompt a message is about, in words."""
    return f"sample {prompt.sample_id!r}, question {prompt.question.id!r}"


def require_images(prompt: Prompt, images: Mapping[Path, LoadedImage]) -> None:
    """Raise `InputError` for an image that was not given, and where images and their places differ in number."""
    if absent := [path for path in prompt.images if path not in images]:
        raise InputError(
            f"{which(prompt)}: the image {str(absent[0])!r} was not given to the engine; open it and pass it along"
        )
    parts = [
        part
        for message in prompt.messages
        if not isinstance(message["content"], str)
        for part in message["content"]
    ]
    places = sum(part["type"] == "image" for part in parts)
    if places != len(prompt.images):
        raise InputError(
            f"{which(prompt)}: {len(prompt.images)} images for {places} places; build it with anomalyr1.prompts"
        )


def draw_seeds(prompts: Sequence[Prompt], seed: int) -> list[int]:
    """A seed for each prompt: of `seed`, the ids, and how often the same call has asked that question before; no other prompt matters."""
    asked: Counter[tuple[str, str]] = Counter()
    seeds = []
    for prompt in prompts:
        key = (prompt.sample_id, prompt.question.id)
        whole = repr((seed, *key, asked[key])).encode("utf-8", "surrogatepass")
        seeds.append(int.from_bytes(hashlib.sha256(whole).digest()[:8], "little", signed=True))
        asked[key] += 1
    return seeds
