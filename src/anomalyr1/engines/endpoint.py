"""The engine behind a URL: any server that speaks OpenAI's chat completions (vLLM, SGLang, llama.cpp, a cloud).

Images are resized here to the size that the model family would choose under the configured pixel cap, and
sent as PNG data URLs, so that the server has nothing left to resize. Whether it resizes again all the same is
probed before the first question, and again after a connection was lost: three pictures of known sizes must
cost exactly the image tokens that the family's rule gives. Where they do not, or the server does not say what
a prompt cost, the frame is unknown: completions come without one, and no box is mapped.

An item that fails has a named error (`Completion.error`), and the others go on. A server that cannot be
reached for `deadline_seconds`, or that fails the probe, is a `SetupError`: what is recorded is kept, and the
same command goes on when it is back.

Not covered: a server that changes its model under the same name between two questions, and one whose chat
template adds words of its own (`anomalyr1 parity` shows that as other token counts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from anomalyr1.engines import openai_format as wire
from anomalyr1.engines.connection import Connection, Request
from anomalyr1.engines.endpoint_config import EndpointConfig
from anomalyr1.engines.engine import GREEDY, Completion, Sampling, describe, draw_seeds, require_images, which
from anomalyr1.engines.openai_format import ReplyError, Written
from anomalyr1.images import FAMILIES, Frame, ImageError, LoadedImage, fit, resize
from anomalyr1.prompts import Prompt
from anomalyr1.types import Fingerprint, InputError, Question, SetupError

_PROBE = Question(id="#probe", kind="object analysis", text="Is this grey?", options=("Yes.", "No."))
_PROBE_SIZES_WH = ((40, 40), (4000, 3000), (2000, 500))
"""A picture that is enlarged, one that the cap scales down, and a wide one."""


@dataclass(frozen=True)
class Probe:
    """What was found out about a server."""

    frame_known: bool
    """Whether it saw pictures at the size we sent."""
    logprobs: bool
    """Whether it takes requests for log-probabilities."""
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

    def close(self) -> None:
        """Close all connections; harmless when done twice."""
        self._connection.close()

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """What completions depend on, as far as a server tells; the caller fills in `style`, `masks` and `option_order`."""
        _refuse_fast(sampling)
        config, probe = self.config, self.probe()
        extra = "".join(f", {name} {value}" for name, value in sorted(config.extra.items()))
        versions = {
            "url": config.url,
            "frame": "known" if probe.frame_known else "unknown",
            "logprobs": "given" if probe.logprobs else "refused",
        }
        return describe(
            self, config.model, config.revision, config.family, config.cap, sampling, versions, extra
        )

    def probe(self) -> Probe:
        """What the server does with images and log-probabilities; asked once. Raises `SetupError` when it cannot be used."""
        if self._probe is None:
            self._probe = self._look(patient=False)
        return self._probe

    def complete(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """One completion a prompt, in their order; what the server fails at has an `error` and no text.

        Raises `InputError` before anything is sent for an image that is not in `images`, and for text that
        writes special tokens; `SetupError` when the server is not there.
        """
        _refuse_fast(sampling)
        if not prompts:
            return []
        shown = self._shown(prompts, images)
        probe, losses = self.probe(), self._connection.losses
        urls = {path: url for path, (url, _) in shown.items()}
        requests = [
            Request(self._body(prompt, urls, sampling, seed, probe.logprobs), prompt.question.options)
            for prompt, seed in zip(prompts, draw_seeds(prompts, sampling.seed), strict=True)
        ]
        outcomes = self._connection.ask(requests)
        if self._connection.losses > losses:  # what came back may be another server
            self._probe = self._look(patient=True)
        known = probe.frame_known and self.probe().frame_known
        frames = [shown[prompt.images[-1]][1] if known and prompt.images else None for prompt in prompts]
        return [_completion(outcome, frame) for outcome, frame in zip(outcomes, frames, strict=True)]

    def _body(
        self, prompt: Prompt, urls: Mapping[Path, str], sampling: Sampling, seed: int, logprobs: bool
    ) -> bytes:
        wanted = logprobs and bool(prompt.question.options)
        return wire.request(prompt, urls, self.config.model, sampling, seed, wanted, self.config.extra)

    def _shown(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage]
    ) -> dict[Path, tuple[str, Frame]]:
        """The data URL and the frame of every image, each prepared once."""
        prepared: dict[Path, tuple[str, Frame]] = {}
        for prompt in prompts:
            require_images(prompt, images)
            if "<|" in wire.text_of(prompt):
                raise InputError(
                    f"{which(prompt)}: the prompt's text writes a special token; build it with anomalyr1.prompts"
                )
            for path in prompt.images:
                if path in prepared:
                    continue
                try:
                    picture, frame = resize(images[path].rgb, FAMILIES[self.config.family], self.config.cap)
                except ImageError as error:
                    raise ImageError(f"{which(prompt)}, image {str(path)!r}: {error}") from error
                prepared[path] = wire.data_url(picture), frame
        return prepared

    def _look(self, patient: bool) -> Probe:
        """Ask about three grey pictures, and compare what they cost."""
        family = FAMILIES[self.config.family]
        sizes_wh = [fit(size_wh, family, self.config.cap) for size_wh in _PROBE_SIZES_WH]
        logprobs = True
        outcomes = self._connection.ask([self._probe_request(sizes_wh[0], logprobs)], patient)
        if isinstance(outcomes[0], ReplyError) and outcomes[0].status in (400, 422):
            logprobs = False
            outcomes = self._connection.ask([self._probe_request(sizes_wh[0], logprobs)], patient)
        if not isinstance(outcomes[0], ReplyError):
            outcomes += self._connection.ask(
                [self._probe_request(size_wh, logprobs) for size_wh in sizes_wh[1:]], patient
            )
        costs = []
        for outcome in outcomes:
            if isinstance(outcome, ReplyError):
                raise SetupError(
                    f"the server at {self.config.url} cannot be used: asked about a grey picture, it failed with {outcome}"
                )
            costs.append(outcome.prompt_tokens)
        expected = [w * h // family.factor**2 for w, h in sizes_wh]
        found, wanted = ([value - values[0] for value in values[1:]] for values in (costs, expected))
        if 0 in costs:
            return Probe(
                False, logprobs, "frame unknown: the server does not say how many tokens a prompt has"
            )
        if found != wanted:
            return Probe(
                False,
                logprobs,
                f"frame unknown: pictures of {sizes_wh} should cost {expected} image tokens for {family.name} at {self.config.cap:,} "
                f"pixels, but beyond the first they cost {found} more instead of {wanted}; the server resizes them again: correct family "
                "and max_pixels",
            )
        return Probe(True, logprobs, f"pictures of {sizes_wh} cost the image tokens they should")

    def _probe_request(self, size_wh: tuple[int, int], logprobs: bool) -> Request:
        path = Path("probe.png")
        content = [{"type": "image"}, {"type": "text", "text": _PROBE.text}]
        prompt = Prompt("#probe", _PROBE, [{"role": "user", "content": content}], (path,))
        urls = {path: wire.data_url(Image.new("RGB", size_wh, (128, 128, 128)))}
        return Request(self._body(prompt, urls, Sampling(max_new_tokens=1), 0, logprobs), _PROBE.options)


def _refuse_fast(sampling: Sampling) -> None:
    if sampling.fast:
        raise InputError(
            "a server writes its own beginning of an answer, so it cannot answer without reasoning; leave fast out"
        )


def _completion(outcome: Written | ReplyError, frame: Frame | None) -> Completion:
    if isinstance(outcome, ReplyError):
        return Completion("", frame, 0, 0, "stop", error=str(outcome))
    return Completion(
        outcome.text,
        frame,
        outcome.prompt_tokens,
        outcome.completion_tokens,
        outcome.finish,
        outcome.option_scores,
    )
