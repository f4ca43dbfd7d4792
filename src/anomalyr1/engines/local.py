"""The engine on this machine: transformers' own modules, with one prefill for all that share a prompt.

All questions about one image and all samples of one question continue from one prefix
(`shared_prefix.decode`), and prompts about different images are computed together, by length, as far as the
budget of slots goes. The completions are those of transformers' `generate` on one prompt at a time.

What holds of a completion: under greedy decoding it depends on its prompt and images alone. Sampled, it
depends on the seed, the ids of sample and question, and on how many times the same call has asked that
question before; neither the other prompts, nor their order, nor the budget change it. Batching changes logits
by rounding alone (1e-6 in float32), so a token could differ only where two are as good as equally likely; the
same call on the same machine, with as many threads, gives the same bits on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from anomalyr1.answers import parse_with_place
from anomalyr1.engines.engine import (
    GREEDY,
    Completion,
    Sampling,
    draw_seeds,
    make_fingerprint,
    name_prompt,
    require_images,
)
from anomalyr1.engines.option_tokens import OptionTokens
from anomalyr1.engines.sampling import Chooser, FastChooser
from anomalyr1.images.door import THREADS, ImageError, LoadedImage
from anomalyr1.images.frames import Frame, fit, largest_cap_that_fits, resize
from anomalyr1.policy import chat
from anomalyr1.policy.load import Policy
from anomalyr1.prompts import Prompt
from anomalyr1.shared_prefix.decode import encode_images, grow_completions, require_support
from anomalyr1.shared_prefix.trees import EncodedPrompt, Tree, batch_trees, plant_trees
from anomalyr1.types import Fingerprint, InputError

SMALL = 100_000_000
"""Parameters below which the threads of a CPU only wait for each other: such a policy computes on one."""


class LocalEngine:
    """Runs a `Policy` on this machine.

    `batch_tokens` bounds the tokens whose keys and values are in memory at a time.
    """

    name = "local"

    def __init__(self, policy: Policy, batch_tokens: int | None = None) -> None:
        """Raises `SetupError` where this version of transformers or the model cannot share a prefix."""
        require_support(policy.model)
        self.policy = policy
        self.taught = policy.taught
        tokenizer = policy.processor.tokenizer
        self._option_tokens = OptionTokens(tokenizer)
        self.batch_tokens = batch_tokens or (32_768 if policy.device.type == "cuda" else 8_192)
        self._image_id: int = tokenizer.convert_tokens_to_ids(chat.IMAGE)
        size = sum(parameter.numel() for parameter in policy.model.parameters())
        self._small = size < SMALL and policy.device.type == "cpu"
        # A line asks the same of every image, so the same chats come again and again.
        self._ids_of_chat = lru_cache(256)(lambda chat_json: chat.encode(tokenizer, json.loads(chat_json)))

    def _threads(self) -> int:
        """How many threads compute."""
        return 1 if self._small else torch.get_num_threads()

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """What completions depend on; the caller fills in `style`, `masks` and `option_order`."""
        policy = self.policy
        versions = {
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "device": policy.device.type,
            "threads": str(self._threads()),
            "dtype": str(policy.model.dtype).removeprefix("torch."),
        }
        return make_fingerprint(
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
        # 1. Every prompt as token ids.
        encoded_prompts = self._encode_prompts(prompts, images, sampling)
        chooser = self._chooser(prompts, sampling)
        max_new_tokens = 1 if sampling.fast else sampling.max_new_tokens
        # 2. Prompts that begin alike become a tree, trees of similar length a batch.
        trees = plant_trees(encoded_prompts, self._image_id, max_new_tokens, self.batch_tokens)
        completions: dict[int, Completion] = {}
        for batch in batch_trees(trees, max_new_tokens, self.batch_tokens):
            # 3. Each batch: its images once, its prefixes once, then a token of all completions at a step.
            with _computing_on(self._threads()):
                ids_by_index, frames = self._grow(batch, images, chooser, max_new_tokens)
            # 4. Text, answer and option scores of each completion.
            for index, ids in ids_by_index.items():
                prompt = prompts[index]
                frame = frames[prompt.images[-1]] if prompt.images else None
                completions[index] = self._completion(encoded_prompts[index], ids, frame, prompt, chooser)
        return [completions[index] for index in range(len(prompts))]

    def _encode_prompts(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling
    ) -> list[EncodedPrompt]:
        return [
            EncodedPrompt(index, tuple(self._encode(prompt, images, sampling)), prompt.images)
            for index, prompt in enumerate(prompts)
        ]

    def _chooser(self, prompts: Sequence[Prompt], sampling: Sampling) -> Chooser | FastChooser:
        options = [prompt.question.letters for prompt in prompts]
        if not sampling.fast:
            seeds = draw_seeds(prompts, sampling.seed)
            return Chooser(seeds, sampling, self.policy.suppressed_ids, self._option_tokens, options)
        openings = [prompt.opening for prompt in prompts]
        encoded = map(self._option_tokens.encode_opening, openings, options)
        return FastChooser([letter_ids for _, letter_ids in encoded])

    def _grow(
        self,
        batch: Sequence[Tree],
        images: Mapping[Path, LoadedImage],
        chooser: Chooser | FastChooser,
        max_new_tokens: int,
    ) -> tuple[dict[int, list[int]], dict[Path, Frame]]:
        """The ids of all completions of a batch by their places in the call, and the frame of each image.

        Each image is encoded once, however many prompts show it.
        """
        paths = list(dict.fromkeys(path for tree in batch for path in tree.paths))
        prepared = self._pixels([images[path] for path in paths])
        encoded = encode_images(self.policy.model, [(patches, grid) for patches, grid, _ in prepared])
        encoded_by_path = dict(zip(paths, encoded, strict=True))
        tree_images = [[encoded_by_path[path] for path in tree.paths] for tree in batch]
        ids_by_index = grow_completions(
            self.policy.model, batch, tree_images, chooser, self.policy.stop_ids, max_new_tokens
        )
        return ids_by_index, {path: frame for path, (_, _, frame) in zip(paths, prepared, strict=True)}

    def _encode(self, prompt: Prompt, images: Mapping[Path, LoadedImage], sampling: Sampling) -> list[int]:
        """The token ids of a prompt, each image's token as often as the image needs. Raises `InputError`."""
        require_images(prompt, images)
        where = name_prompt(prompt)
        # 1. The chat, with one token an image.
        try:
            chat_ids = self._ids_of_chat(json.dumps(prompt.messages))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        # 2. As many tokens as each image needs.
        sizes_wh = [images[path].size_wh for path in prompt.images]
        try:
            image_tokens = self._image_tokens(sizes_wh, self.policy.max_pixels)
        except ImageError as error:
            raise ImageError(f"{where}, images {[str(path) for path in prompt.images]}: {error}") from error
        ids = chat.expand(chat_ids, self._image_id, image_tokens)
        # 3. Without reasoning, what stands before the option letter.
        new_tokens = sampling.max_new_tokens
        if sampling.fast:
            if not prompt.question.options:
                raise InputError(
                    f"{where}: without reasoning only questions with options can be answered; "
                    "ask it without fast"
                )
            ids += self._option_tokens.encode_opening(prompt.opening, prompt.question.letters)[0]
            new_tokens = 1
        # 4. Prompt and completion must fit: nothing is cut off.
        room = self.policy.max_tokens - new_tokens
        if len(ids) > room:
            raise InputError(
                f"{where}: {len(ids):,} prompt tokens ({sum(image_tokens):,} of them for {len(image_tokens)} "
                f"images) and {new_tokens:,} for the completion, but {self.policy.name!r} has "
                f"{self.policy.max_tokens:,} positions; "
                + self._way_out(sizes_wh, len(ids) - sum(image_tokens), room)
            )
        return ids

    def _image_tokens(self, sizes_wh: Sequence[tuple[int, int]], max_pixels: int) -> list[int]:
        family = self.policy.family
        model_sizes_wh = [fit(size_wh, family, max_pixels) for size_wh in sizes_wh]
        return [w * h // family.factor**2 for w, h in model_sizes_wh]

    def _way_out(self, sizes_wh: Sequence[tuple[int, int]], text_tokens: int, room: int) -> str:
        """Which pixel cap would make the prompt fit, in words."""
        cap = largest_cap_that_fits(sizes_wh, self.policy.family, room - text_tokens, self.policy.max_pixels)
        if cap is not None:
            return f"load the policy with max_pixels={cap} (--max-pixels) to make it fit"
        return (
            "no pixel cap makes it fit: "
            "give fewer reference images, less knowledge or a smaller max_new_tokens"
        )

    def _pixels(self, images: Sequence[LoadedImage]) -> list[tuple[Tensor, Tensor, Frame]]:
        """Each image's patches (P, D), its grid (1, 3) and its frame.

        Raises `InputError` when the processor changed the size we sent.
        """
        policy, patch = self.policy, self.policy.model.config.vision_config.patch_size
        with ThreadPoolExecutor(THREADS) as pool:  # resizing lets go of the interpreter
            resized = list(
                pool.map(lambda image: resize(image.rgb, policy.family, policy.max_pixels), images)
            )
        prepared = []
        for image, (picture, frame) in zip(images, resized, strict=True):
            inputs = policy.processor.image_processor(images=[picture], do_resize=False, return_tensors="pt")
            _, rows, columns = inputs["image_grid_thw"][0].tolist()
            processed_wh = (columns * patch, rows * patch)
            if processed_wh != frame.model_wh:
                raise InputError(
                    f"{str(image.path)!r}: sent to the processor of {policy.name!r} at {frame.model_wh}, and "
                    f"it made {processed_wh} of it, so boxes could not be mapped back; "
                    "use the preprocessor_config.json of the model's source"
                )
            prepared.append((inputs["pixel_values"], inputs["image_grid_thw"], frame))
        return prepared

    def _completion(
        self,
        encoded: EncodedPrompt,
        ids: list[int],
        frame: Frame | None,
        prompt: Prompt,
        chooser: Chooser | FastChooser,
    ) -> Completion:
        """What token ids say, the stop token included."""
        options, index = prompt.question.options, encoded.index
        if isinstance(chooser, FastChooser):
            text = prompt.closed(chooser.letter(index))
            answer, _ = parse_with_place(text, options, frame)
            return Completion(text, answer, frame, len(encoded.ids), len(ids), "stop", chooser.scores[index])
        text = self._text(ids)
        answer, letter_at = parse_with_place(text, options, frame)
        scores = chooser.scores_at(index, letter_at, lambda step: len(self._text(ids[:step])))
        stopped = ids[-1] in self.policy.stop_ids
        return Completion(
            text, answer, frame, len(encoded.ids), len(ids), "stop" if stopped else "length", scores
        )

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.policy.processor.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


@contextmanager
def _computing_on(number: int) -> Iterator[None]:
    """Compute on so many threads; the caller's number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
