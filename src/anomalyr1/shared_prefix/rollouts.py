"""Completions of a group from one reading of its prompt: the cache is filled once, repeated, and transformers' `generate` goes on from it.

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
from anomalyr1.shared_prefix.score import read_prompts

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


def distinct(prompts: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """The prompts of which each differs from the one before it, and for every prompt the number of its like among them."""
    kept: list[Any] = []
    number: list[int] = []
    for prompt in prompts:
        if not kept or kept[-1] != prompt:
            kept.append(prompt)
        number.append(len(kept) - 1)
    return kept, number


def prompts_as_groups(
    ids: Sequence[Sequence[int]],
    fields: Mapping[str, Any],
    rows: Sequence[int],
    image_id: int,
    merge: int,
    device: torch.device | str = "cpu",
) -> Groups:
    """Prompts with the patches of their images, waiting for completions; `rows` says which prompt each completion will answer.

    `fields` is what the processor made of them: `pixel_values` (patches, values) and `image_grid_thw`
    (images, 3) of all prompts one after the other. How many images a prompt has follows from its image
    tokens: `merge` patches to one.
    """
    prompts = [torch.tensor(one, device=device) for one in ids]
    grids = torch.as_tensor(fields.get("image_grid_thw", torch.empty(0, 3, dtype=torch.long))).to(device)
    pixels = torch.as_tensor(fields.get("pixel_values", torch.empty(0, 0))).to(device)
    own_grids, own_pixels = [], []
    for prompt in prompts:
        tokens, count = int((prompt == image_id).sum()), 0
        while tokens > 0:
            tokens -= int(grids[count].prod()) // merge
            count += 1
        patches = int(grids[:count].prod(-1).sum())
        own_grids.append(grids[:count])
        own_pixels.append(pixels[:patches])
        grids, pixels = grids[count:], pixels[patches:]
    empty = torch.empty(len(rows), 0, dtype=torch.long, device=device)
    return Groups(prompts, own_grids, own_pixels, torch.tensor(rows, device=device), empty, empty.bool())


@contextmanager
def each_image_once(processor: Any) -> Iterator[None]:
    """Let `processor` prepare an image object once, however often it is shown inside; what it returns is the same."""
    inner = processor.image_processor
    processor.image_processor = _EachImageOnce(inner)
    try:
        yield
    finally:
        processor.image_processor = inner


class _EachImageOnce:
    """An image processor that remembers the images it has prepared, by identity."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._done: dict[tuple[int, str], tuple[Any, Mapping[str, Tensor]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, images: Any, **settings: Any) -> Any:
        from transformers import BatchFeature
        from transformers.image_utils import make_flat_list_of_images

        settings["return_tensors"] = "pt"
        kind = repr(sorted(settings.items()))
        shown = make_flat_list_of_images(images)
        if not shown:
            return self._inner(images, **settings)
        made = []
        for image in shown:
            if (id(image), kind) not in self._done:
                # The image is kept with what was made of it, so that no other one can have its identity.
                self._done[id(image), kind] = (image, self._inner([image], **settings))
            made.append(self._done[id(image), kind][1])
        return BatchFeature({name: torch.cat([one[name] for one in made]) for name in made[0]})


@contextmanager
def whole_weights(model: Any) -> Iterator[None]:
    """Under FSDP2: hold every weight of `model`, the one that was sharded, whole inside; elsewhere nothing happens.

    Rollouts call parts of the model, and each process as often as its own completions need, where sharded
    weights would be gathered in the forward pass of the whole and by all processes alike.
    """
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if sharded:
        model._get_fsdp_state()._lazy_init()  # else the first part that runs would be taken for the root
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


@torch.no_grad()
def roll_out(model: PreTrainedModel, groups: Groups, generation: GenerationConfig) -> Tensor:
    """(N, L) ids of one completion for every row of `groups.group_of`, padded behind the token that ends it."""
    prefix = read_prompts(model, groups, drop_last=True)
    prefix.cache.batch_select_indices(groups.group_of)
    longest = max(len(prompt) for prompt in groups.prompts)
    ids = torch.full(
        (len(groups.prompts), longest), int(generation.pad_token_id), device=groups.group_of.device
    )
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(groups.prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    deltas = prefix.next_position - mask.sum(1)
    # What a pass over images and prompt would have left behind: how far positions lag the number of tokens.
    model.model.rope_deltas = deltas[groups.group_of][:, None]
    written: Tensor = model.generate(
        input_ids=ids[groups.group_of],
        attention_mask=mask[groups.group_of],
        past_key_values=prefix.cache,
        generation_config=generation,
    )
    return written[:, longest:]
