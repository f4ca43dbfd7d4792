"""What every engine takes and gives: prompts and images in, completions out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image
from pydantic import Field

from anomalyr1.images.door import ImageError, LoadedImage
from anomalyr1.images.frames import Family, Frame, resize
from anomalyr1.policy.taught import Taught
from anomalyr1.prompts import DEFAULT_STYLE, Prompt
from anomalyr1.types import Answer, Fingerprint, InputError, Record
from anomalyr1.version import __version__


class Sampling(Record):
    """How the tokens of a completion are chosen."""

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
        if self.temperature == 0:
            return f"greedy, {limit}"
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}, {limit}"


GREEDY = Sampling()


@dataclass(frozen=True)
class Completion:
    """What a policy wrote to one prompt, and how it reads."""

    text: str
    """The completion without special tokens; untrusted."""
    answer: Answer
    """What `text` says, its boxes mapped by `frame`: the one time that a completion is parsed on its way."""
    frame: Frame | None
    """The frame of the inspected image, the prompt's last one; None = no image, or it is not known how the
    model saw it."""
    prompt_tokens: int
    """Length of the prompt, image tokens included; 0 = not known."""
    completion_tokens: int
    """Length of the completion, the stop token included; 0 = not known."""
    finish: Literal["stop", "length"]
    """Whether the policy ended it, or `max_new_tokens` did."""
    option_scores: dict[str, float] | None = None
    """Probability of each option letter where the completion answers with one, normalised over the options;
    None = not known."""
    error: str | None = None
    """Name of what kept this prompt from an answer; the text is then empty and the answer unparseable. Only
    engines that ask a server set it."""


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


def taught_of(engine: Engine) -> Taught | None:
    """What the policy of an engine was taught with; None where nothing is known, as behind a server."""
    taught: Taught | None = getattr(engine, "taught", None)
    return taught


def choose_prompt(engine: Engine, style: str | None, text: str | None) -> tuple[str, str | None]:
    """The style and the text to ask with: as is asked for, else as the policy was taught, else ours."""
    taught = taught_of(engine)
    if style is None and text is None and taught is not None:
        return taught.style, taught.text
    return style or DEFAULT_STYLE, text


def make_fingerprint(
    engine: Engine,
    model: str,
    revision: str,
    family: str,
    max_pixels: int,
    sampling: Sampling,
    versions: Mapping[str, str],
    extra_fields: str = "",
) -> Fingerprint:
    """The fingerprint of an engine that runs `model`; `extra_fields`: what it asks for beside `sampling`."""
    return Fingerprint(
        model=model,
        revision=revision,
        family=family,
        style="",
        max_pixels=max_pixels,
        seed=sampling.seed,
        engine=engine.name,
        sampling=f"{sampling}{extra_fields}",
        versions={"anomalyr1": __version__, **versions},
    )


def name_prompt(prompt: Prompt) -> str:
    """Which prompt a message is about, in words."""
    return f"sample {prompt.sample_id!r}, question {prompt.question.id!r}"


def refuse_fast(sampling: Sampling, reason: str) -> None:
    """Raise `InputError` with the reason where answers without reasoning are asked for."""
    if sampling.fast:
        raise InputError(reason)


def require_images(prompt: Prompt, images: Mapping[Path, LoadedImage]) -> None:
    """Raise `InputError` where an image is absent, and where images and their places differ in number."""
    absent_paths = [path for path in prompt.images if path not in images]
    if absent_paths:
        raise InputError(
            f"{name_prompt(prompt)}: the image {str(absent_paths[0])!r} was not given to the engine; "
            "open it and pass it along"
        )
    places = 0
    for message in prompt.messages:
        if not isinstance(message["content"], str):
            places += sum(part["type"] == "image" for part in message["content"])
    if places != len(prompt.images):
        raise InputError(
            f"{name_prompt(prompt)}: {len(prompt.images)} images for {places} places; "
            "build it with anomalyr1.prompts"
        )


def resize_images(
    prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], family: Family, max_pixels: int
) -> dict[Path, tuple[Image.Image, Frame]]:
    """Every image that the prompts show at the size the model sees, with its frame, each resized once.

    Raises `InputError` where an image is absent, and `ImageError` where no size of its aspect is possible.
    """
    resized: dict[Path, tuple[Image.Image, Frame]] = {}
    for prompt in prompts:
        require_images(prompt, images)
        for path in prompt.images:
            if path in resized:
                continue
            try:
                resized[path] = resize(images[path].rgb, family, max_pixels)
            except ImageError as error:
                raise ImageError(f"{name_prompt(prompt)}, image {str(path)!r}: {error}") from error
    return resized


def draw_seeds(prompts: Sequence[Prompt], seed: int) -> list[int]:
    """A seed for each prompt, by which its completion is sampled.

    It depends on `seed`, the ids of sample and question, and how often the same call has asked that question
    before; no other prompt matters.
    """
    repeats: Counter[tuple[str, str]] = Counter()
    seeds = []
    for prompt in prompts:
        ids = (prompt.sample_id, prompt.question.id)
        key = repr((seed, *ids, repeats[ids])).encode("utf-8", "surrogatepass")
        seeds.append(int.from_bytes(hashlib.sha256(key).digest()[:8], "little", signed=True))
        repeats[ids] += 1
    return seeds
