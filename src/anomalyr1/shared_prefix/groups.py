"""Which completions answer which prompt, and by which form of `shared_prefix` they are read at the least cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Form = Literal["branched", "packed"]

MASKABLE = ("sdpa", "eager")
"""Attention implementations that take the packed form's float mask."""


@dataclass(frozen=True)
class Groups:
    """B prompts and N completions of at most L tokens, each with the prompt that it answers."""

    prompts: list[Tensor]
    """(P_b,) token ids of each prompt, without padding."""
    grids: list[Tensor]
    """(images, 3) patches of each prompt's images in time, height and width; of no rows where it has none."""
    pixels: list[Tensor]
    """(patches, values) of each prompt's images; of no rows where it has none."""
    group_of: Tensor
    """(N,) which prompt a completion answers."""
    completions: Tensor
    """(N, L) token ids, padded on the right."""
    written: Tensor
    """(N, L) bool: the tokens that are there, from the first on."""
    scored: Tensor | None = None
    """(N, L) bool: those of them whose log-probabilities are wanted; None = all."""

    @property
    def lengths(self) -> Tensor:
        """(N,) how many tokens of each completion count."""
        return self.written.sum(1)


def find_groups(
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_tokens: int,
    pixels: Tensor | None = None,
    grids: Tensor | None = None,
    num_images: Sequence[int] | None = None,
) -> Groups:
    """The groups in a batch as TRL makes it: (N, P + L) ids, prompts padded on the left, completions on the right.

    Rows belong together when prompt and images are the same to the last bit; they need not stand side by
    side. `pixels` (patches, values) and `grids` (images, 3) hold the images of all rows one after the other,
    `num_images` of them a row.
    """
    ids, real = input_ids[:, :-completion_tokens], attention_mask[:, :-completion_tokens].bool()
    prompts = [row[keep] for row, keep in zip(ids, real, strict=True)]
    row_pixels, row_grids = _images_of_rows(len(prompts), pixels, grids, num_images)
    first: list[int] = []
    like: dict[bytes, list[int]] = {}
    group_of: list[int] = []
    for row, prompt in enumerate(prompts):
        candidates = like.setdefault(prompt.cpu().numpy().tobytes(), [])
        found = next(
            (
                group
                for group in candidates
                if torch.equal(row_grids[first[group]], row_grids[row])
                and torch.equal(row_pixels[first[group]], row_pixels[row])
            ),
            None,
        )
        if found is None:
            found = len(first)
            first.append(row)
            candidates.append(found)
        group_of.append(found)
    return Groups(
        prompts=[prompts[row] for row in first],
        grids=[row_grids[row] for row in first],
        pixels=[row_pixels[row] for row in first],
        group_of=torch.tensor(group_of, device=input_ids.device),
        completions=input_ids[:, -completion_tokens:],
        written=attention_mask[:, -completion_tokens:].bool(),
    )


def _images_of_rows(
    rows: int, pixels: Tensor | None, grids: Tensor | None, num_images: Sequence[int] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Patches and grids of each row."""
    if pixels is None or grids is None or num_images is None:
        return [torch.empty(0, 0)] * rows, [torch.empty(0, 3, dtype=torch.long)] * rows
    row_grids = list(torch.split_with_sizes(grids, list(num_images)))
    return list(torch.split_with_sizes(pixels, [int(one.prod(-1).sum()) for one in row_grids])), row_grids


def parts(groups: Groups, rows: int) -> Iterator[Groups]:
    """`groups` in pieces of at most `rows` completions in their order, each with the prompts that it needs."""
    if rows >= len(groups.group_of):
        yield groups
        return
    for begin in range(0, len(groups.group_of), rows):
        own, completions, written = (
            each[begin : begin + rows] for each in (groups.group_of, groups.completions, groups.written)
        )
        which = sorted(set(own.tolist()))
        number = torch.searchsorted(torch.tensor(which, device=own.device), own)
        prompts, grids, pixels = (
            [each[i] for i in which] for each in (groups.prompts, groups.grids, groups.pixels)
        )
        yield Groups(prompts, grids, pixels, number, completions, written)


def choose(
    model: PreTrainedModel,
    groups: Groups,
    wanted: Form | None = None,
    agree: Callable[[Tensor], Tensor] | None = None,
) -> Form | None:
    """The cheaper form that this model can run now, by counted operations; None = it can run neither.

    Gradient checkpointing takes the cache away (branched), flash attention the mask (packed). A `wanted` form
    is taken where it can run. Costs are those of this process, or what `agree` makes of them (see
    `agreement`).
    """
    config = model.config.get_text_config()
    can_branch = not (model.is_gradient_checkpointing and model.training)
    can_pack = config._attn_implementation in MASKABLE
    if can_branch and can_pack:
        if wanted:
            return wanted
        costs = torch.tensor(
            [_cost(config, groups, "branched"), _cost(config, divided(config, groups), "packed")],
            device=groups.completions.device,
        )
        if agree is not None:
            if groups.completions.shape[1] == 1:
                costs[0] = torch.inf  # branched would run the text model once here, and twice elsewhere
            costs = agree(costs)
        return "branched" if costs[0] <= costs[1] else "packed"
    return "branched" if can_branch else "packed" if can_pack else None


def agreement(accelerator: Any) -> Callable[[Tensor], Tensor] | None:
    """Sums costs over all processes where weights may lie in shards, None elsewhere.

    The forms run the text model a different number of times, and shards are gathered at each, by all
    processes together.
    """
    from accelerate.utils import DistributedType

    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return functools.partial(accelerator.reduce, reduction="sum")
    return None


def _cost(config: Any, groups: Groups, form: Form) -> float:
    """Multiplications of one forward pass of the text model, in units of the hidden size and layers."""
    prompt = torch.tensor([len(one) for one in groups.prompts])
    if form == "branched":
        n, length = groups.completions.shape
        tokens = len(prompt) * int(prompt.max()) + n * length
        pairs = float(len(prompt) * prompt.max() ** 2 / 2 + n * length * (prompt.max() + length))
    else:
        written = torch.zeros_like(prompt).index_add(0, groups.group_of.cpu(), groups.lengths.cpu())
        longest = int((prompt - 1 + written).max())
        tokens, pairs = len(prompt) * longest, float(len(prompt) * longest**2)
    return tokens * _per_token(config) + 2 * pairs


def _per_token(config: Any) -> float:
    return 4.0 * int(config.hidden_size) + 3.0 * int(config.intermediate_size)


def divided(config: Any, groups: Groups) -> Groups:
    """The groups with prompts repeated, each for a part of its completions, so that packed rows cost least by counted operations.

    To see the images of a prompt again counts as much as to read it again.
    """
    own = sum(len(prompt) for prompt in groups.prompts)
    sizes = [int(torch.bincount(groups.group_of).max())]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))

    def cost(one: Groups) -> float:
        return _cost(config, one, "packed") + (sum(len(prompt) for prompt in one.prompts) - own) * _per_token(
            config
        )

    return min((_in_rows(groups, most) for most in sizes), key=cost)


def _in_rows(groups: Groups, most: int) -> Groups:
    """The groups with at most `most` completions a prompt, which is repeated for the others."""
    belongs = groups.group_of[:, None] == torch.arange(
        len(groups.prompts), device=groups.group_of.device
    )  # (N, B)
    part = (belongs.cumsum(0).gather(1, groups.group_of[:, None])[:, 0] - 1) // most
    counts = [-(-int(count) // most) for count in belongs.sum(0).clamp(min=1)]
    first = torch.tensor([0, *counts], device=groups.group_of.device).cumsum(0)
    which = [i for i, count in enumerate(counts) for _ in range(count)]
    prompts, grids, pixels = (
        [each[i] for i in which] for each in (groups.prompts, groups.grids, groups.pixels)
    )
    return replace(
        groups, prompts=prompts, grids=grids, pixels=pixels, group_of=first[groups.group_of] + part
    )
