"""The engine behind a URL: any server of OpenAI's chat completions (vLLM, SGLang, llama.cpp, a cloud).

Images are resized here to the size that the model family would choose under the configured pixel cap, and
sent as PNG data URLs, so that the server has nothing left to resize. Whether it resizes again all the same is
probed before the first question, and again after a connection was lost: three pictures of known sizes must
cost exactly the image tokens that the family's rule gives. Where they do not, or the server does not say what
a prompt cost, the frame is unknown: completions come without one, and no box is mapped. The first picture is
asked about at length at first: so it is seen whether the server splits reasoning off.

A question that fails has a named error (`Completion.error`), and the others go on. A server that cannot be
reached for `deadline_seconds`, or that fails the probe, is a `SetupError`: what is recorded is kept, and the
same command goes on when it is back.

Not covered: a server that changes its model under the same name between two questions, and one whose chat
template adds words of its own (`anomalyr1 parity` shows that as other token counts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from anomalyr1 import prompts
from anomalyr1.answers import parse_with_place
from anomalyr1.engines import openai_format
from anomalyr1.engines.connection import Connection, Request
from anomalyr1.engines.endpoint_config import EndpointConfig
from anomalyr1.engines.engine import (
    GREEDY,
    Completion,
    Sampling,
    draw_seeds,
    make_fingerprint,
    name_prompt,
    refuse_fast,
    resize_images,
)
from anomalyr1.engines.openai_format import PUT_BACK, ReplyError, ServerReply
from anomalyr1.images.door import LoadedImage
from anomalyr1.images.frames import FAMILIES, Frame, fit
from anomalyr1.prompts import Prompt
from anomalyr1.types import Answer, Fingerprint, InputError, Question, Sample, SetupError

_PROBE = Question(id="#probe", kind="object analysis", text="Is this grey?", options=("Yes.", "No."))
_PROBE_SIZES_WH = ((40, 40), (4000, 3000), (2000, 500))
"""A picture that is enlarged, one that the cap scales down, and a wide one."""
_PROBE_PATH = Path("probe.png")
PUT_BACK_FINDING = "split off by the server or its template, put back"
_NO_FAST = (
    "a server writes its own beginning of an answer, so it cannot answer without reasoning; leave fast out"
)


@dataclass(frozen=True)
class Probe:
    """What a server was found to do."""

    frame_known: bool
    """Whether it sees pictures at the size we send."""
    logprobs: Literal["given", "ignored", "refused"]
    """What it does when asked for log-probabilities."""
    reasoning: str
    """Where its reasoning was found."""
    finding: str
    """How the frame was found to be known or not, in words."""


class EndpointEngine:
    """Asks the server of an `EndpointConfig`."""

    name = "endpoint"

    def __init__(self, config: EndpointConfig) -> None:
        """Raises `SetupError` when a package or the key is missing; nothing is sent yet."""
        self.config = config
        self._connection = Connection(config)
        self._probe: Probe | None = None

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """What completions depend on, as far as a server tells.

        The caller fills in `style`, `masks` and `option_order`. Raises `InputError` for `fast`, and
        `SetupError` when the server cannot be used.
        """
        refuse_fast(sampling, _NO_FAST)
        config, probe = self.config, self.probe()
        versions = {
            "url": config.url,
            "frame": "known" if probe.frame_known else "unknown",
            "logprobs": probe.logprobs,
            "reasoning": probe.reasoning,
        }
        extra = "".join(f", {name} {value}" for name, value in sorted(config.extra.items()))
        return make_fingerprint(
            self, config.model, config.revision, config.family, config.cap, sampling, versions, extra
        )

    def probe(self) -> Probe:
        """What the server does with images and log-probabilities, asked once.

        Raises `SetupError` when it cannot be used.
        """
        if self._probe is None:
            self._probe = self._ask_about_grey(patient=False)
        return self._probe

    def complete(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """One completion a prompt, in their order; what the server fails at has an `error` and no text.

        Raises `InputError` before anything is sent for an image that is not in `images`, and for text that
        writes special tokens; `SetupError` when the server is not there.
        """
        refuse_fast(sampling, _NO_FAST)
        if not prompts:
            return []
        # 1. Images at the size that the model sees.
        for prompt in prompts:
            if "<|" in openai_format.prompt_text(prompt):
                raise InputError(
                    f"{name_prompt(prompt)}: the prompt's text writes a special token; "
                    "build it with anomalyr1.prompts"
                )
        resized = resize_images(prompts, images, FAMILIES[self.config.family], self.config.cap)
        urls = {path: openai_format.data_url(picture) for path, (picture, _) in resized.items()}
        # 2. One request a prompt, and the completion in its reply.
        probe, losses = self.probe(), self._connection.losses
        requests = []
        for prompt, seed in zip(prompts, draw_seeds(prompts, sampling.seed), strict=True):
            frame = resized[prompt.images[-1]][1] if prompt.images and probe.frame_known else None
            requests.append(self._request(prompt, urls, sampling, seed, probe.logprobs != "refused", frame))
        completions = [
            _failed(outcome, request.frame) if isinstance(outcome, ReplyError) else outcome.completion
            for outcome, request in zip(self._connection.ask(requests), requests, strict=True)
        ]
        # 3. Where a connection was lost, what came back may be another server's: are the frames still true?
        if self._connection.losses > losses:
            self._probe = replace(self._ask_about_grey(patient=True), reasoning=probe.reasoning)
        if self.probe().frame_known:
            return completions
        return [
            _without_frame(completion, request.options)
            for completion, request in zip(completions, requests, strict=True)
        ]

    def _request(
        self,
        prompt: Prompt,
        urls: Mapping[Path, str],
        sampling: Sampling,
        seed: int,
        logprobs: bool,
        frame: Frame | None = None,
    ) -> Request:
        config, options = self.config, prompt.question.options
        body = openai_format.write_request(
            prompt, urls, config.model, sampling, seed, logprobs and bool(options), config.extra
        )
        return Request(body, options, frame, openai_format.reply_limit(sampling.max_new_tokens))

    def _ask_about_grey(self, patient: bool) -> Probe:
        """Ask about three grey pictures, and compare what they cost; when `patient`, for a word each.

        Raises `SetupError` when the server cannot be used.
        """
        family, cap = FAMILIES[self.config.family], self.config.cap
        sizes_wh = [fit(size_wh, family, cap) for size_wh in _PROBE_SIZES_WH]
        word = Sampling(max_new_tokens=1)
        sampling = word if patient else GREEDY
        # 1. The smallest picture, without log-probabilities where the server refuses those.
        is_refused = False
        outcomes = self._connection.ask([self._grey_request(sizes_wh[0], sampling, True)], patient)
        if isinstance(outcomes[0], ReplyError) and outcomes[0].status in (400, 422):
            is_refused = True
            outcomes = self._connection.ask([self._grey_request(sizes_wh[0], sampling, False)], patient)
        # 2. The larger ones, of which only the cost matters.
        if not isinstance(outcomes[0], ReplyError):
            requests = [self._grey_request(size_wh, word, False) for size_wh in sizes_wh[1:]]
            outcomes += self._connection.ask(requests, patient)
        replies: list[ServerReply] = []
        for outcome in outcomes:
            if isinstance(outcome, ReplyError):
                raise SetupError(
                    f"the server at {self.config.url} cannot be used: asked about a grey picture, "
                    f"it failed with {outcome}"
                )
            replies.append(outcome)
        # 3. What the replies show.
        fault = self._frame_fault(sizes_wh, [reply.completion.prompt_tokens for reply in replies])
        answers_logprobs: Literal["given", "ignored"] = "given" if replies[0].has_logprobs else "ignored"
        return Probe(
            frame_known=not fault,
            logprobs="refused" if is_refused else answers_logprobs,
            reasoning=PUT_BACK_FINDING if PUT_BACK in replies[0].completion.answer.counts else "as it came",
            finding=fault or f"pictures of {sizes_wh} cost the image tokens they should",
        )

    def _frame_fault(self, sizes_wh: Sequence[tuple[int, int]], costs: Sequence[int]) -> str:
        """Why pictures are not seen at these sizes, by the tokens of their prompts; empty where they are.

        Differences of prompt lengths are compared, so that the words around the picture do not matter.
        """
        if 0 in costs:
            return "frame unknown: the server does not say how many tokens a prompt has"
        family = FAMILIES[self.config.family]
        expected = [w * h // family.factor**2 for w, h in sizes_wh]
        extra_costs = [cost - costs[0] for cost in costs[1:]]
        extra_expected = [tokens - expected[0] for tokens in expected[1:]]
        if extra_costs == extra_expected:
            return ""
        return (
            f"frame unknown: pictures of {sizes_wh} should cost {expected} image tokens for {family.name} at "
            f"{self.config.cap:,} pixels, but beyond the first they cost {extra_costs} more instead of "
            f"{extra_expected}; the server resizes them again: correct family and max_pixels"
        )

    def _grey_request(self, size_wh: tuple[int, int], sampling: Sampling, logprobs: bool) -> Request:
        prompt = prompts.build(Sample(id="#probe", image=_PROBE_PATH), _PROBE)
        urls = {_PROBE_PATH: openai_format.data_url(Image.new("RGB", size_wh, (128, 128, 128)))}
        return self._request(prompt, urls, sampling, 0, logprobs)


def _failed(error: ReplyError, frame: Frame | None) -> Completion:
    return Completion("", Answer(status="unparseable"), frame, 0, 0, "stop", error=str(error))


def _without_frame(completion: Completion, options: Sequence[str]) -> Completion:
    """The completion read again, its boxes in the model's units."""
    if completion.frame is None:
        return completion
    answer, _ = parse_with_place(completion.text, options)
    put_back = {PUT_BACK: 1} if PUT_BACK in completion.answer.counts else {}
    answer = answer.model_copy(update={"counts": answer.counts | put_back})
    return replace(completion, answer=answer, frame=None)
