"""The engine on this machine: transformers' own generation, in batches of similar length.

What holds of a completion: under greedy decoding it depends on its prompt and images alone. Sampled, it depends on the seed, the ids of
sample and question, and on how many times the same call has asked that question before; neither the other prompts, nor their order,
nor the batch size change it. Batching changes logits by rounding alone (1e-6 in float32), so a token could differ only where two are
as good as equally likely; the same call on the same machine gives the same bits on a CPU.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from anomalyr1 import __version__
from anomalyr1.engines import GREEDY, Completion, Sampling
from anomalyr1.images import Frame, ImageError, LoadedImage, fit, resize
from anomalyr1.policy import chat
from anomalyr1.policy.load import Policy
from anomalyr1.prompts import Prompt
from anomalyr1.types import Fingerprint, InputError


@dataclass(frozen=True)
class _Job:
    """A prompt as the model will read it."""

    index: int
    """Its place in the call."""
    ids: list[int]
    """Every image's token repeated as often as the image needs."""
    paths: tuple[Path, ...]
    seed: int


class LocalEngine:
    """Runs a `Policy` on this machine; `batch_tokens` bounds rows times (prompt + completion) of one batch."""

    name = "local"

    def __init__(self, policy: Policy, batch_tokens: int | None = None) -> None:
        self.policy = policy
        self.batch_tokens = batch_tokens or (32_768 if policy.device.type == "cuda" else 8_192)
        self._image_id: int = policy.processor.tokenizer.convert_tokens_to_ids(chat.IMAGE)

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """What completions depend on; the caller fills in `style`, `masks` and `option_order`."""
        policy = self.policy
        return Fingerprint(
            model=policy.name,
            revision=policy.revision,
            family=policy.family.name,
            style="",
            max_pixels=policy.max_pixels,
            seed=sampling.seed,
            engine=self.name,
            sampling=str(sampling),
            versions={
                "anomalyr1": __version__,
                "torch": torch.__version__,
                "transformers": version("transformers"),
                "device": policy.device.type,
                "dtype": str(policy.model.dtype).removeprefix("torch."),
            },
        )

    def complete(self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling = GREEDY) -> list[Completion]:
        """One completion a prompt, in their order.

        Raises `InputError` before anything is generated for an image that is not in `images`, for text that writes special tokens, and
        for a prompt that is too long (nothing is ever cut off; the message says which pixel cap would fit).
        """
        jobs = self._jobs(prompts, images, sampling)
        completions: dict[int, Completion] = {}
        for batch in _batches(jobs, sampling.max_new_tokens, self.batch_tokens):
            for job, completion in zip(batch, self._complete_batch(batch, images, sampling), strict=True):
                completions[job.index] = completion
        return [completions[index] for index in range(len(prompts))]

    def _jobs(self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling) -> list[_Job]:
        asked: Counter[tuple[str, str]] = Counter()
        jobs = []
        for index, prompt in enumerate(prompts):
            key = (prompt.sample_id, prompt.question.id)
            jobs.append(_Job(index, self._encode(prompt, images, sampling), prompt.images, _seed(sampling.seed, *key, asked[key])))
            asked[key] += 1
        return jobs

    def _encode(self, prompt: Prompt, images: Mapping[Path, LoadedImage], sampling: Sampling) -> list[int]:
        where = f"sample {prompt.sample_id!r}, question {prompt.question.id!r}"
        if absent := [path for path in prompt.images if path not in images]:
            raise InputError(f"{where}: the image {str(absent[0])!r} was not given to the engine; open it and pass it along")
        try:
            ids = chat.encode(self.policy.processor.tokenizer, prompt.messages)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if ids.count(self._image_id) != len(prompt.images):
            raise InputError(
                f"{where}: {len(prompt.images)} images for {ids.count(self._image_id)} places; build it with anomalyr1.prompts"
            )
        sizes = [images[path].size_wh for path in prompt.images]
        try:
            tokens = self._image_tokens(sizes, self.policy.max_pixels)
        except ImageError as error:
            raise ImageError(f"{where}, images {[str(path) for path in prompt.images]}: {error}") from error
        whole = chat.expand(ids, self._image_id, tokens)
        room = self.policy.max_tokens - sampling.max_new_tokens
        if len(whole) > room:
            raise InputError(
                f"{where}: {len(whole):,} prompt tokens ({sum(tokens):,} of them for {len(tokens)} images) and "
                f"{sampling.max_new_tokens:,} for the completion, but {self.policy.name!r} has {self.policy.max_tokens:,} positions; "
                + self._way_out(sizes, len(whole) - sum(tokens), room)
            )
        return whole

    def _image_tokens(self, sizes_wh: Sequence[tuple[int, int]], max_pixels: int) -> list[int]:
        family = self.policy.family
        seen = [fit(size_wh, family, max_pixels) for size_wh in sizes_wh]
        return [w * h // family.factor**2 for w, h in seen]

    def _way_out(self, sizes_wh: Sequence[tuple[int, int]], text_tokens: int, room: int) -> str:
        """Which pixel cap would make the prompt fit, in words."""
        cap, step = self.policy.max_pixels, self.policy.family.factor**2
        while cap >= self.policy.family.min_pixels:
            try:
                tokens = sum(self._image_tokens(sizes_wh, cap))
            except ImageError:  # no size of this aspect lies under so small a cap
                break
            if text_tokens + tokens <= room:
                return f"load the policy with max_pixels={cap} (--max-pixels) to make it fit"
            cap = min(cap - step, cap * max(0, room - text_tokens) // max(1, tokens))
        return "no pixel cap makes it fit: give fewer reference images, less knowledge or a smaller max_new_tokens"

    def _complete_batch(self, batch: Sequence[_Job], images: Mapping[Path, LoadedImage], sampling: Sampling) -> list[Completion]:
        from transformers import GenerationConfig, LogitsProcessorList

        policy = self.policy
        inputs, frames = self._inputs(batch, images)
        draw = [_Draw([job.seed for job in batch], sampling)] if sampling.temperature > 0 else []
        written = policy.model.generate(
            **inputs,
            generation_config=GenerationConfig(
                do_sample=False,  # sampling is in `_Draw`, row by row
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=list(policy.stop_ids),
                pad_token_id=policy.stop_ids[-1],
                suppress_tokens=list(policy.suppressed_ids) or None,
            ),
            logits_processor=LogitsProcessorList(draw),
        )  # (B, P + L)
        rows = written[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._completion(job, row, frames[job.paths[-1]] if job.paths else None) for job, row in zip(batch, rows, strict=True)]

    def _inputs(self, batch: Sequence[_Job], images: Mapping[Path, LoadedImage]) -> tuple[dict[str, Any], dict[Path, Frame]]:
        """What the model's forward takes, padded on the left; each image is prepared once, however many prompts show it."""
        device, longest = self.policy.device, max(len(job.ids) for job in batch)
        pad = self.policy.stop_ids[-1]
        ids = torch.tensor([[pad] * (longest - len(job.ids)) + job.ids for job in batch])  # (B, P)
        mask = torch.tensor([[0] * (longest - len(job.ids)) + [1] * len(job.ids) for job in batch])  # (B, P)
        inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == self._image_id).long()}
        shown = {path: self._pixels(images[path]) for job in batch for path in job.paths}
        order = [path for job in batch for path in job.paths]
        if order:
            inputs["pixel_values"] = torch.cat([shown[path][0] for path in order])  # (patches of all images, values of a patch)
            inputs["image_grid_thw"] = torch.cat([shown[path][1] for path in order])  # (images, 3)
        return {name: value.to(device) for name, value in inputs.items()}, {path: frame for path, (_, _, frame) in shown.items()}

    def _pixels(self, image: LoadedImage) -> tuple[torch.Tensor, torch.Tensor, Frame]:
        """An image's patches, its grid, and the frame; raises `InputError` when the processor changed the size we sent."""
        picture, frame = resize(image.rgb, self.policy.family, self.policy.max_pixels)
        patch = self.policy.model.config.vision_config.patch_size
        prepared = self.policy.processor.image_processor(images=[picture], do_resize=False, return_tensors="pt")
        _, rows, columns = prepared["image_grid_thw"][0].tolist()
        seen_wh = (columns * patch, rows * patch)
        if seen_wh != frame.model_wh:
            raise InputError(
                f"{str(image.path)!r}: sent to the processor of {self.policy.name!r} at {frame.model_wh}, and it made {seen_wh} of it, so "
                "boxes could not be mapped back; use the preprocessor_config.json of the model's source"
            )
        return prepared["pixel_values"], prepared["image_grid_thw"], frame

    def _completion(self, job: _Job, row: list[int], frame: Frame | None) -> Completion:
        length = next((place + 1 for place, id_ in enumerate(row) if id_ in self.policy.stop_ids), None)
        own = row[:length]
        text = self.policy.processor.tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(text, frame, len(job.ids), len(own), "length" if length is None else "stop")


class _Draw:
    """Sampling as a logits processor: scores plus Gumbel noise, whose largest entry is a sample of the softmax.

    Every row has its own generator, so that no other row changes what it draws.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._sampling = sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V) -> scores (B, V) whose argmax is the drawn token."""
        logits = scores.double() / self._sampling.temperature
        if self._sampling.top_p < 1:
            ordered, places = logits.sort(dim=-1, descending=True, stable=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # the probability of all likelier tokens
            out = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, places, before >= self._sampling.top_p)
            logits = logits.masked_fill(out, -torch.inf)
        uniform = torch.stack([torch.rand(scores.shape[-1], dtype=torch.float64, generator=one) for one in self._generators])
        return logits - torch.log(-torch.log(uniform)).to(logits.device)


def _batches(jobs: Sequence[_Job], max_new_tokens: int, batch_tokens: int) -> Iterator[list[_Job]]:
    """Jobs of similar length together, the longest first; a job that is too long for the budget comes alone."""
    batch: list[_Job] = []
    for job in sorted(jobs, key=lambda job: -len(job.ids)):
        longest = len(batch[0].ids) if batch else len(job.ids)
        if batch and (len(batch) + 1) * (longest + max_new_tokens) > batch_tokens:
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()[:8], "little", signed=True)
