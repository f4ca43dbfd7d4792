"""The engine over vLLM's offline `LLM`, with prefix caching: the prompts, frames and limits of the local engine on a GPU at full speed.

vLLM gets the token ids of our own chat template, with one image token an image, which it makes as many as the
image needs, and pictures that already have the size the model sees. Whether it saw them so is checked on
every prompt: it must have made exactly as many tokens of it as we count. The model folder is checked as for
the local engine, its sampling defaults are ignored, and tokens that no completion may hold get the lowest
bias.

Not tested with vLLM itself: there was no GPU where this was made. `tests/test_vllm.py` runs it over a
stand-in that holds nano to the calls and fields of vLLM 0.30.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anomalyr1.engines import openai_format as wire
from anomalyr1.engines.engine import GREEDY, Completion, Sampling, describe, draw_seeds, require_images, which
from anomalyr1.images import Frame, ImageError, LoadedImage, resize
from anomalyr1.policy import chat
from anomalyr1.policy.load import find_folder, load_processor, pixel_cap
from anomalyr1.prompts import Prompt
from anomalyr1.types import Fingerprint, InputError, SetupError

MAX_IMAGES = 16
"""Images of one prompt; vLLM reserves memory for so many."""
_NEVER = -100.0
"""The lowest bias that vLLM takes."""


class VllmEngine:
    """Runs a model folder or a model of the hub in vLLM; `options` go to `vllm.LLM`, e.g. `tensor_parallel_size`."""

    name = "vllm"

    def __init__(
        self, model: str, revision: str | None = None, max_pixels: int | None = None, **options: object
    ) -> None:
        """Raises `SetupError` where vLLM is missing, and `InputError` for a folder that is refused."""
        try:
            import vllm
        except ImportError as error:
            raise SetupError(
                'vLLM is missing: pip install "anomalyr1[vllm]" on a machine with a GPU, or run without --engine vllm'
            ) from error
        found = find_folder(model, revision)
        self._processor = load_processor(found.folder)
        self._tokenizer = self._processor.tokenizer
        self._model, self._revision, self._family = model, found.revision, found.family
        self._max_pixels = pixel_cap(found.folder, self._processor, found.family, max_pixels)
        self._params: Any = vllm.SamplingParams
        known = self._tokenizer.get_vocab()
        self._stop_ids = [known[name] for name in chat.STOP_TOKENS]
        never = {known[name] for name in chat.NEVER_WRITTEN if name in known} | set(
            chat.special_ids(self._tokenizer)
        )
        self._bias = dict.fromkeys(sorted(never - set(self._stop_ids)), _NEVER)
        kwargs: dict[str, Any] = {
            "model": str(found.folder),
            "trust_remote_code": False,
            "enable_prefix_caching": True,
            "generation_config": "vllm",
            "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
            "mm_processor_kwargs": {"min_pixels": found.family.min_pixels, "max_pixels": self._max_pixels},
            "seed": 0,
        }
        self._llm: Any = vllm.LLM(**(kwargs | options))

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """What completions depend on; the caller fills in `style`, `masks` and `option_order`."""
        _refuse_fast(sampling)
        versions = {"vllm": version("vllm"), "transformers": version("transformers")}
        return describe(
            self, self._model, self._revision, self._family.name, self._max_pixels, sampling, versions
        )

    def complete(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """One completion a prompt, in their order.

        Raises `InputError` for an image that is not in `images`, for text that writes special tokens, and for
        an image that vLLM resized.
        """
        _refuse_fast(sampling)
        if not prompts:
            return []
        seen = {
            path: self._resized(prompt, path, images)
            for prompt in prompts
            for path in self._paths(prompt, images)
        }
        asked: list[dict[str, Any]] = []
        for prompt in prompts:
            asked.append({"prompt_token_ids": self._encode(prompt)})
            if prompt.images:
                asked[-1]["multi_modal_data"] = {"image": [seen[path][0] for path in prompt.images]}
        seeds = draw_seeds(prompts, sampling.seed)
        params = [self._sampling(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        outputs = self._llm.generate(asked, params, use_tqdm=False)
        return [
            self._completion(
                prompt, one["prompt_token_ids"], output, [seen[path][1] for path in prompt.images]
            )
            for prompt, one, output in zip(prompts, asked, outputs, strict=True)
        ]

    def _paths(self, prompt: Prompt, images: Mapping[Path, LoadedImage]) -> tuple[Path, ...]:
        require_images(prompt, images)
        return prompt.images

    def _resized(self, prompt: Prompt, path: Path, images: Mapping[Path, LoadedImage]) -> tuple[Any, Frame]:
        try:
            return resize(images[path].rgb, self._family, self._max_pixels)
        except ImageError as error:
            raise ImageError(f"{which(prompt)}, image {str(path)!r}: {error}") from error

    def _encode(self, prompt: Prompt) -> list[int]:
        """The ids with one image token an image."""
        try:
            return chat.encode(self._tokenizer, prompt.messages)
        except InputError as error:
            raise InputError(f"{which(prompt)}: {error}") from error

    def _sampling(self, prompt: Prompt, sampling: Sampling, seed: int) -> Any:
        return self._params(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed % 2**31,
            stop_token_ids=self._stop_ids,
            logit_bias=self._bias,
            logprobs=wire.TOP_LOGPROBS if prompt.question.options else None,
            skip_special_tokens=True,
        )

    def _completion(
        self, prompt: Prompt, ids: Sequence[int], output: Any, frames: Sequence[Frame]
    ) -> Completion:
        expected = len(ids) + sum(
            w * h // self._family.factor**2 - 1 for w, h in (frame.model_wh for frame in frames)
        )
        found = len(output.prompt_token_ids)
        if found != expected:
            raise InputError(
                f"{which(prompt)}: expected a prompt of {expected:,} tokens, vLLM made {found:,} of it, so it resized an image and boxes "
                "could not be mapped back; use the preprocessor_config.json of the model's source"
            )
        own = output.outputs[0]
        places = self._places(own.token_ids, own.logprobs) if own.logprobs else []
        scores = wire.option_scores(own.text, places, prompt.question.options) if places else None
        frame = frames[-1] if frames else None
        return Completion(
            own.text,
            frame,
            found,
            len(own.token_ids),
            "length" if own.finish_reason == "length" else "stop",
            scores,
        )

    def _places(self, ids: Sequence[int], logprobs: Sequence[Mapping[int, Any]]) -> list[wire.Place]:
        """The log-probabilities in the form of the wire: at each place the token written and its alternatives."""
        return [
            wire.Place(
                token=self._name(id_),
                logprob=one[id_].logprob,
                top_logprobs=[
                    wire.Token(token=self._name(other), logprob=value.logprob) for other, value in one.items()
                ],
            )
            for id_, one in zip(ids, logprobs, strict=True)
        ]

    def _name(self, id_: int) -> str:
        text: str = self._tokenizer.decode(
            [id_], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def _refuse_fast(sampling: Sampling) -> None:
    if sampling.fast:
        raise InputError(
            "the vLLM engine does not answer without reasoning yet; leave fast out, or use the local engine"
        )
