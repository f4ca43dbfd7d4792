"""The engine over vLLM's offline `LLM`, with prefix caching: for a GPU at full speed.

Prompts, frames and limits are those of the local engine. vLLM gets the token ids of our own chat template,
with one image token an image, which it makes as many as the image needs, and pictures that already have the
size the model sees. Whether it saw them so is checked on every prompt: it must have made exactly as many
tokens of it as we count. The model folder is checked as for the local engine, its sampling defaults are
ignored, and tokens that no completion may hold get the lowest bias.

Not tested with vLLM itself: there was no GPU where this was made. `tests/engines/test_vllm.py` runs it over a
stand-in that holds nano to the calls and fields of vLLM 0.30.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anomalyr1.answers import parse_with_place
from anomalyr1.engines import openai_format
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
from anomalyr1.engines.openai_format import TokenLogprob, TokenPlace
from anomalyr1.images.door import LoadedImage
from anomalyr1.images.frames import Frame
from anomalyr1.policy import chat
from anomalyr1.policy.folders import find_folder
from anomalyr1.policy.load import load_processor, pixel_cap
from anomalyr1.policy.taught import read_taught
from anomalyr1.prompts import Prompt
from anomalyr1.types import Fingerprint, InputError, SetupError

MAX_IMAGES = 16
"""Images of one prompt; vLLM reserves memory for so many."""
_LOWEST_BIAS = -100.0
"""The lowest bias that vLLM takes."""
_NO_FAST = "the vLLM engine does not answer without reasoning yet; leave fast out, or use the local engine"


class VllmEngine:
    """Runs a model folder or a model of the hub in vLLM.

    `options` go to `vllm.LLM`, e.g. `tensor_parallel_size`.
    """

    name = "vllm"

    def __init__(
        self, model: str, revision: str | None = None, max_pixels: int | None = None, **options: object
    ) -> None:
        """Raises `SetupError` where vLLM is missing, and `InputError` for a folder that is refused."""
        try:
            import vllm
        except ImportError as error:
            raise SetupError(
                'vLLM is missing: pip install ".[vllm]" in the checkout of anomalyr1, on a machine with a '
                "GPU, or run without --engine vllm"
            ) from error
        # 1. The folder, checked as for the local engine.
        source = find_folder(model, revision)
        self._processor = load_processor(source.folder)
        self._tokenizer = self._processor.tokenizer
        self._model, self._revision, self._family = source.name, source.revision, source.family
        self.taught = read_taught(source.folder)
        self._max_pixels = pixel_cap(source.folder, self._processor, source.family, max_pixels)
        # 2. Tokens that end a completion, and tokens that none may hold.
        vocabulary = self._tokenizer.get_vocab()
        self._stop_ids = [vocabulary[name] for name in chat.STOP_TOKENS]
        never_written = {vocabulary[name] for name in chat.NEVER_WRITTEN if name in vocabulary}
        never_written |= chat.special_ids(self._tokenizer)
        self._bias = dict.fromkeys(sorted(never_written - set(self._stop_ids)), _LOWEST_BIAS)
        # 3. vLLM itself.
        pixel_bounds = {"min_pixels": source.family.min_pixels, "max_pixels": self._max_pixels}
        defaults: dict[str, Any] = {
            "model": str(source.folder),
            "trust_remote_code": False,
            "enable_prefix_caching": True,
            "generation_config": "vllm",
            "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
            "mm_processor_kwargs": pixel_bounds,
            "seed": 0,
        }
        self._sampling_params: Any = vllm.SamplingParams
        self._llm: Any = vllm.LLM(**(defaults | options))

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """What completions depend on; the caller fills in `style`, `masks` and `option_order`."""
        refuse_fast(sampling, _NO_FAST)
        versions = {"vllm": version("vllm"), "transformers": version("transformers")}
        return make_fingerprint(
            self, self._model, self._revision, self._family.name, self._max_pixels, sampling, versions
        )

    def complete(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """One completion a prompt, in their order.

        Raises `InputError` for an image that is not in `images`, for text that writes special tokens, and for
        an image that vLLM resized.
        """
        refuse_fast(sampling, _NO_FAST)
        if not prompts:
            return []
        # 1. What vLLM gets: token ids, pictures at the size that the model sees, sampling parameters.
        resized = resize_images(prompts, images, self._family, self._max_pixels)
        inputs: list[dict[str, Any]] = []
        for prompt in prompts:
            inputs.append({"prompt_token_ids": self._encode(prompt)})
            if prompt.images:
                inputs[-1]["multi_modal_data"] = {"image": [resized[path][0] for path in prompt.images]}
        seeds = draw_seeds(prompts, sampling.seed)
        params = [self._params(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        # 2. What it makes of it.
        outputs = self._llm.generate(inputs, params, use_tqdm=False)
        completions = []
        for prompt, prompt_input, output in zip(prompts, inputs, outputs, strict=True):
            frames = [resized[path][1] for path in prompt.images]
            self._require_token_count(prompt, prompt_input["prompt_token_ids"], output, frames)
            completions.append(self._completion(prompt, output, frames[-1] if frames else None))
        return completions

    def _encode(self, prompt: Prompt) -> list[int]:
        """The ids with one image token an image."""
        try:
            return chat.encode(self._tokenizer, prompt.messages)
        except InputError as error:
            raise InputError(f"{name_prompt(prompt)}: {error}") from error

    def _params(self, prompt: Prompt, sampling: Sampling, seed: int) -> Any:
        return self._sampling_params(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed % 2**31,
            stop_token_ids=self._stop_ids,
            logit_bias=self._bias,
            logprobs=openai_format.TOP_LOGPROBS if prompt.question.options else None,
            skip_special_tokens=True,
        )

    def _require_token_count(
        self, prompt: Prompt, ids: Sequence[int], output: Any, frames: Sequence[Frame]
    ) -> None:
        """Raise `InputError` where vLLM made another number of tokens of the prompt than we count."""
        expected = len(ids)
        for frame in frames:
            w, h = frame.model_wh
            expected += w * h // self._family.factor**2 - 1
        if len(output.prompt_token_ids) != expected:
            raise InputError(
                f"{name_prompt(prompt)}: expected a prompt of {expected:,} tokens, vLLM made "
                f"{len(output.prompt_token_ids):,} of it, so it resized an image and boxes could not be "
                "mapped back; use the preprocessor_config.json of the model's source"
            )

    def _completion(self, prompt: Prompt, output: Any, frame: Frame | None) -> Completion:
        generated, options = output.outputs[0], prompt.question.options
        answer, letter_at = parse_with_place(generated.text, options, frame)
        scores = None
        if generated.logprobs and letter_at is not None:
            places = self._places(generated.token_ids, generated.logprobs)
            scores = openai_format.option_scores(generated.text, letter_at, places, prompt.question.letters)
        lengths = len(output.prompt_token_ids), len(generated.token_ids)
        cut_off = generated.finish_reason == "length"
        return Completion(generated.text, answer, frame, *lengths, "length" if cut_off else "stop", scores)

    def _places(self, ids: Sequence[int], logprobs: Sequence[Mapping[int, Any]]) -> list[TokenPlace]:
        """The log-probabilities in the form of the OpenAI API: each token with its likeliest alternatives."""
        places = []
        for id_, alternatives in zip(ids, logprobs, strict=True):
            tokens = {
                top_id: TokenLogprob(token=self._token_text(top_id), logprob=value.logprob)
                for top_id, value in alternatives.items()
            }
            token = tokens[id_]
            top = list(tokens.values())
            places.append(TokenPlace(token=token.token, logprob=token.logprob, top_logprobs=top))
        return places

    def _token_text(self, id_: int) -> str:
        text: str = self._tokenizer.decode(
            [id_], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
