"""The engine on this machine: transformers' own modules, with one prefill for all that share a prompt.

All questions about one image and all samples of one question continue from one prefix
(`shared_prefix`), and prompts about different images are computed together, by length, as far as the
budget of slots goes. The completions are those of transformers' `generate` on one prompt at a time.

What holds of a completion: under greedy decoding it depends on its prompt and images alone. Sampled, it
depends on the seed, the ids of sample and question, and on how many times the same call has asked that
question before; neither the other prompts, nor their order, nor the budget change it. Batching changes logits
by rounding alone (1e-6 in float32), so a token could differ only where two are as good as equally likely; the
same call on the same machine gives the same bits on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from anomalyr1.engines.engine import GREEDY, Completion, Sampling, describe, draw_seeds, require_images, which
from anomalyr1.engines.option_tokens import Letters
from anomalyr1.engines.sampling import Chooser, FastChooser
from anomalyr1.images import THREADS, Frame, ImageError, LoadedImage, fit, largest_cap_that_fits, resize
from anomalyr1.policy import chat
from anomalyr1.policy.load import Policy
from anomalyr1.prompts import Prompt
from anomalyr1.shared_prefix.decode import encode_images, grow_completions, require_support
from anomalyr1.shared_prefix.trees import EncodedPrompt, Tree, batch_trees, plant_trees
from anomalyr1.types import Fingerprint, InputError


class LocalEngine:
    """Runs a `Policy` on this machine; `batch_tokens` bounds the tokens whose keys and values are held at a time."""

    name = "local"

    def __init__(self, policy: Policy, batch_tokens: int | None = None) -> None:
        """Raises `SetupError` where this version of transformers or the model cannot share a prefix."""
        require_support(policy.model)
        self.policy = policy
        self._letters = Letters(policy.processor.tokenizer)
        self.batch_tokens = batch_tokens or (32_768 if policy.device.type == "cuda" else 8_192)
        tokenizer = policy.processor.tokenizer
        self._image_id: int = tokenizer.convert_tokens_to_ids(chat.IMAGE)
        # A line asks the same of every image, so the same chats come again and again.
        self._ids_of_chat = lru_cache(256)(lambda chat_json: chat.encode(tokenizer, json.loads(chat_json)))

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """What completions depend on; the caller fills in `style`, `masks` and `option_order`."""
        policy = self.policy
        versions = {
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "device": policy.device.type,
            "dtype": str(policy.model.dtype).removeprefix("torch."),
        }
        return describe(
            self, policy.name, policy.revision, policy.family.name, policy.max_pixels, sampling, versions
        )

    def complete(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """One completion a prompt, in their order.

        Raises `InputError` before anything is generated for an image that is not in `images`, for text that
        writes special tokens, and for a prompt that is too long (nothing is ever cut off; the message says
        which pixel cap would fit).
        """
        jobs = self._jobs(prompts, images, sampling)
        chooser = self._chooser(prompts, sampling)
        most = 1 if sampling.fast else sampling.max_new_tokens
        completions: dict[int, Completion] = {}
        trees = plant_trees(jobs, self._image_id, most, self.batch_tokens)
        for batch in batch_trees(trees, most, self.batch_tokens):
            written, frames = self._grow(batch, images, chooser, most)
            for index, ids in written.items():
                frame = frames[prompts[index].images[-1]] if prompts[index].images else None
                completions[index] = self._completion(jobs[index], ids, frame, prompts[index], chooser)
        return [completions[index] for index in range(len(prompts))]

    def _jobs(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling
    ) -> list[EncodedPrompt]:
        return [
            EncodedPrompt(index, tuple(self._encode(prompt, images, sampling)), prompt.images)
            for index, prompt in enumerate(prompts)
        ]

    def _chooser(self, prompts: Sequence[Prompt], sampling: Sampling) -> Chooser | FastChooser:
        options = [prompt.question.letters for prompt in prompts]
        if sampling.fast:
            return FastChooser(
                [
                    self._letters.forced(prompt.opening, own)[1]
                    for prompt, own in zip(prompts, options, strict=True)
                ]
            )
        return Chooser(
            draw_seeds(prompts, sampling.seed), sampling, self.policy.suppressed_ids, self._letters, options
        )

    def _grow(
        self,
        batch: Sequence[Tree],
        images: Mapping[Path, LoadedImage],
        chooser: Chooser | FastChooser,
        max_new_tokens: int,
    ) -> tuple[dict[int, list[int]], dict[Path, Frame]]:
        """The ids of all completions of a batch, and the frame of each image; each image is encoded once, however many prompts show it."""
        paths = list(dict.fromkeys(path for tree in batch for path in tree.paths))
        prepared = self._pixels([images[path] for path in paths])
        seen = dict(zip(paths, encode_images(self.policy.model, [one[:2] for one in prepared]), strict=True))
        own = [[seen[path] for path in tree.paths] for tree in batch]
        written = grow_completions(
            self.policy.model, batch, own, chooser, self.policy.stop_ids, max_new_tokens
        )
        return written, {path: frame for path, (_, _, frame) in zip(paths, prepared, strict=True)}

    def _encode(self, prompt: Prompt, images: Mapping[Path, LoadedImage], sampling: Sampling) -> list[int]:
        require_images(prompt, images)
        where = which(prompt)
        try:
            ids = self._ids_of_chat(json.dumps(prompt.messages))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        sizes = [images[path].size_wh for path in prompt.images]
        try:
            tokens = self._image_tokens(sizes, self.policy.max_pixels)
        except ImageError as error:
            raise ImageError(f"{where}, images {[str(path) for path in prompt.images]}: {error}") from error
        whole = chat.expand(ids, self._image_id, tokens)
        new_tokens = sampling.max_new_tokens
        if sampling.fast:
            if not prompt.question.options:
                raise InputError(
                    f"{where}: without reasoning only questions with options can be answered; ask it without fast"
                )
            whole += self._letters.forced(prompt.opening, prompt.question.letters)[0]
            new_tokens = 1
        room = self.policy.max_tokens - new_tokens
        if len(whole) > room:
            raise InputError(
                f"{where}: {len(whole):,} prompt tokens ({sum(tokens):,} of them for {len(tokens)} images) and "
                f"{new_tokens:,} for the completion, but {self.policy.name!r} has {self.policy.max_tokens:,} positions; "
                + self._way_out(sizes, len(whole) - sum(tokens), room)
            )
        return whole

    def _image_tokens(self, sizes_wh: Sequence[tuple[int, int]], max_pixels: int) -> list[int]:
        family = self.policy.family
        seen = [fit(size_wh, family, max_pixels) for size_wh in sizes_wh]
        return [w * h // family.factor**2 for w, h in seen]

    def _way_out(self, sizes_wh: Sequence[tuple[int, int]], text_tokens: int, room: int) -> str:
        """Which pixel cap would make the prompt fit, in words."""
        cap = largest_cap_that_fits(sizes_wh, self.policy.family, room - text_tokens, self.policy.max_pixels)
        if cap is not None:
            return f"load the policy with max_pixels={cap} (--max-pixels) to make it fit"
        return "no pixel cap makes it fit: give fewer reference images, less knowledge or a smaller max_new_tokens"

    def _pixels(self, images: Sequence[LoadedImage]) -> list[tuple[Tensor, Tensor, Frame]]:
        """Each image's patches, its grid, and the frame; raises `InputError` when the processor changed the size we sent."""
        policy, patch = self.policy, self.policy.model.config.vision_config.patch_size
        with ThreadPoolExecutor(THREADS) as pool:  # resizing lets go of the interpreter
            pictures = list(
                pool.map(lambda image: resize(image.rgb, policy.family, policy.max_pixels), images)
            )
        prepared = []
        for image, (picture, frame) in zip(images, pictures, strict=True):
            made = policy.processor.image_processor(images=[picture], do_resize=False, return_tensors="pt")
            _, rows, columns = made["image_grid_thw"][0].tolist()
            seen_wh = (columns * patch, rows * patch)
            if seen_wh != frame.model_wh:
                raise InputError(
                    f"{str(image.path)!r}: sent to the processor of {policy.name!r} at {frame.model_wh}, and it made {seen_wh} of it, so "
                    "boxes could not be mapped back; use the preprocessor_config.json of the model's source"
                )
            prepared.append((made["pixel_values"], made["image_grid_thw"], frame))
        return prepared

    def _completion(
        self,
        job: EncodedPrompt,
        written: list[int],
        frame: Frame | None,
        prompt: Prompt,
        chooser: Chooser | FastChooser,
    ) -> Completion:
        if isinstance(chooser, FastChooser):
            text = prompt.closed(chooser.letter(job.index))
            return Completion(text, frame, len(job.ids), len(written), "stop", chooser.scores[job.index])
        text = self._text(written)
        scores = chooser.scores_at(
            job.index, text, prompt.question.options, lambda step: len(self._text(written[:step]))
        )
        stopped = written[-1] in self.policy.stop_ids
        return Completion(text, frame, len(job.ids), len(written), "stop" if stopped else "length", scores)

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.policy.processor.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
