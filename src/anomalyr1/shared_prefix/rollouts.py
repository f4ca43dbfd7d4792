"""Completions of a group from one reading of its prompt, sampled by transformers' own `generate`.

    prompts (B)  ->  cache (B rows)  ->  a row a completion (N)  ->  generate goes on from there

Because `generate` itself samples, every setting means what it means in TRL: temperature, top-p, top-k, min-p,
repetition penalty (which counts the prompt's tokens too), limits on the length, and whatever else a
generation configuration holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anomalyr1.shared_prefix.groups import Groups
from anomalyr1.shared_prefix.layout import pad_left
from anomalyr1.shared_prefix.score import prefill_prompts

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


@torch.no_grad()
def roll_out(model: PreTrainedModel, groups: Groups, generation: GenerationConfig) -> Tensor:
    """(N, L) ids of a completion for each row of `groups.group_of`, padded behind the token that ends it."""
    # 1. Read each prompt once but for its last token, which `generate` reads itself.
    prefix = prefill_prompts(model, groups, drop_last=True)
    # 2. Repeat what was read, a row for each completion.
    prefix.cache.batch_select_indices(groups.group_of)
    ids, is_token = pad_left(groups.prompts, filler=int(generation.pad_token_id))  # (B, P) each
    # 3. What a pass over images and prompt would have left behind: how far positions lag behind the tokens.
    deltas = prefix.next_position - is_token.sum(1)  # (B,)
    model.model.rope_deltas = deltas[groups.group_of][:, None]
    # 4. Go on from there.
    sequences: Tensor = model.generate(
        input_ids=ids[groups.group_of],
        attention_mask=is_token[groups.group_of],
        past_key_values=prefix.cache,
        generation_config=generation,
    )  # (N, P + L)
    return sequences[:, ids.shape[1] :]


def drop_repeats(prompts: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """The prompts that differ from the one before them, and for each prompt the number of its like.

    >>> drop_repeats(["a", "a", "b", "a"])
    (['a', 'b', 'a'], [0, 0, 1, 2])
    """
    distinct: list[Any] = []
    numbers: list[int] = []
    for prompt in prompts:
        if not distinct or distinct[-1] != prompt:
            distinct.append(prompt)
        numbers.append(len(distinct) - 1)
    return distinct, numbers


def prompts_as_groups(
    prompt_ids: Sequence[Sequence[int]],
    fields: Mapping[str, Any],
    rows: Sequence[int],
    image_id: int,
    merge: int,
    device: torch.device | str = "cpu",
) -> Groups:
    """Prompts with the patches of their images, waiting for completions.

    `fields` is what the processor made of them: `pixel_values` (patches, values) and `image_grid_thw`
    (images, 3) of all prompts one after the other. How many images a prompt has follows from its image
    tokens: `merge` patches to one. `rows` says which prompt each completion will answer.
    """
    prompts = [torch.tensor(ids, device=device) for ids in prompt_ids]
    grids = torch.as_tensor(fields.get("image_grid_thw", torch.empty(0, 3, dtype=torch.long))).to(device)
    pixels = torch.as_tensor(fields.get("pixel_values", torch.empty(0, 0))).to(device)
    prompt_grids, prompt_pixels = [], []
    for prompt in prompts:
        # Images from the head of those that remain, as many as fill the prompt's image tokens.
        tokens, count = int((prompt == image_id).sum()), 0
        while tokens > 0:
            tokens -= int(grids[count].prod()) // merge
            count += 1
        patches = int(grids[:count].prod(-1).sum())
        prompt_grids.append(grids[:count])
        prompt_pixels.append(pixels[:patches])
        grids, pixels = grids[count:], pixels[patches:]
    empty = torch.empty(len(rows), 0, dtype=torch.long, device=device)
    group_of = torch.tensor(rows, device=device)
    return Groups(prompts, prompt_grids, prompt_pixels, group_of, empty, empty.bool())


@contextmanager
def each_image_once(processor: Any) -> Iterator[None]:
    """Let `processor` prepare an image object once, however often it is shown; its output is the same."""
    image_processor = processor.image_processor
    processor.image_processor = _EachImageOnce(image_processor)
    try:
        yield
    finally:
        processor.image_processor = image_processor


class _EachImageOnce:
    """An image processor that remembers the images it has prepared, by identity."""

    def __init__(self, image_processor: Any) -> None:
        self._image_processor = image_processor
        self._prepared: dict[tuple[int, str], tuple[Any, Mapping[str, Tensor]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)

    def __call__(self, images: Any, **settings: Any) -> Any:
        from transformers import BatchFeature
        from transformers.image_utils import make_flat_list_of_images

        settings["return_tensors"] = "pt"
        settings_key = repr(sorted(settings.items()))
        flat = make_flat_list_of_images(images)
        if not flat:
            return self._image_processor(images, **settings)
        features = []
        for image in flat:
            key = (id(image), settings_key)
            if key not in self._prepared:
                # The image is kept with its features, so that no other one can have its identity.
                self._prepared[key] = (image, self._image_processor([image], **settings))
            features.append(self._prepared[key][1])
        names = features[0].keys()
        return BatchFeature({name: torch.cat([feature[name] for feature in features]) for name in names})


@contextmanager
def whole_weights(model: Any) -> Iterator[None]:
    """Under FSDP2: hold every weight of `model`, the one that was sharded, whole inside; elsewhere nothing.

    Rollouts call parts of the model, and each process as often as its own completions need, where sharded
    weights would be gathered in the forward pass of the whole and by all processes alike.
    """
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if sharded:
        model._get_fsdp_state()._lazy_init()  # else the part that runs ahead would be taken for the root
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)
