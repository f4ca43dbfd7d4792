"""Which completions answer which prompt, and the cheaper of two forms in which to read them (`score.py`).

In training a prompt has many completions: a group of GRPO, or the questions about one image in fine-tuning.

    prompts        group_of        completions (N, L)
    0 "Is it ...   0   0   1       "Yes." "No."  "A dent."
    1 "Where ...

`find_groups` finds them in a batch of TRL, which repeats the prompt for every completion; `choose_form`
counts operations.
"""

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
    """(N,) the number of the prompt that a completion answers."""
    completions: Tensor
    """(N, L) token ids, padded on the right."""
    is_token: Tensor
    """(N, L) bool: where there is a token, and not padding."""
    scored: Tensor | None = None
    """(N, L) bool: the tokens whose log-probabilities are computed; None = all of them."""

    @property
    def lengths(self) -> Tensor:
        """(N,) how many tokens each completion has."""
        return self.is_token.sum(1)

    def with_prompts(self, numbers: Sequence[int], group_of: Tensor) -> Groups:
        """The same completions with the prompts of these numbers; `group_of` (N,) are places among those."""
        return replace(
            self,
            prompts=[self.prompts[number] for number in numbers],
            grids=[self.grids[number] for number in numbers],
            pixels=[self.pixels[number] for number in numbers],
            group_of=group_of,
        )


def find_groups(
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_tokens: int,
    pixels: Tensor | None = None,
    grids: Tensor | None = None,
    num_images: Sequence[int] | None = None,
) -> Groups:
    """The groups in a batch as TRL makes it.

    `input_ids` and `attention_mask` are (N, P + L): prompts are padded on the left, completions, of which
    there are L = `completion_tokens` columns, on the right. `pixels` (patches, values) and `grids`
    (images, 3) hold the images of all rows one after the other, `num_images` of them a row. Rows belong
    together when prompt and images are the same to the last bit; they need not stand side by side.
    """
    # 1. Each row's prompt without its padding, and its images.
    ids, is_token = input_ids[:, :-completion_tokens], attention_mask[:, :-completion_tokens].bool()
    prompts = [row_ids[row_is_token] for row_ids, row_is_token in zip(ids, is_token, strict=True)]
    row_pixels, row_grids = _images_of_rows(len(prompts), pixels, grids, num_images)
    # 2. The group of each row: that of a row above with the same ids and images, or a new one.
    heads: list[int] = []  # the row in which each group begins
    groups_by_ids: dict[bytes, list[int]] = {}
    group_of: list[int] = []
    for row, prompt in enumerate(prompts):
        candidates = groups_by_ids.setdefault(prompt.cpu().numpy().tobytes(), [])
        for group in candidates:
            head = heads[group]
            same_grids = torch.equal(row_grids[head], row_grids[row])
            if same_grids and torch.equal(row_pixels[head], row_pixels[row]):
                break
        else:
            group = len(heads)
            heads.append(row)
            candidates.append(group)
        group_of.append(group)
    return Groups(
        prompts=[prompts[row] for row in heads],
        grids=[row_grids[row] for row in heads],
        pixels=[row_pixels[row] for row in heads],
        group_of=torch.tensor(group_of, device=input_ids.device),
        completions=input_ids[:, -completion_tokens:],
        is_token=attention_mask[:, -completion_tokens:].bool(),
    )


def _images_of_rows(
    rows: int, pixels: Tensor | None, grids: Tensor | None, num_images: Sequence[int] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Patches and grids of each row."""
    if pixels is None or grids is None or num_images is None:
        return [torch.empty(0, 0)] * rows, [torch.empty(0, 3, dtype=torch.long)] * rows
    row_grids = list(torch.split_with_sizes(grids, list(num_images)))
    patches = [int(row.prod(-1).sum()) for row in row_grids]
    return list(torch.split_with_sizes(pixels, patches)), row_grids


def split_rows(groups: Groups, rows: int) -> Iterator[Groups]:
    """`groups` in pieces of at most `rows` completions, in their order, each with the prompts it needs."""
    if rows >= len(groups.group_of):
        yield groups
        return
    for begin in range(0, len(groups.group_of), rows):
        span = slice(begin, begin + rows)
        group_of = groups.group_of[span]
        numbers = sorted(set(group_of.tolist()))
        place = torch.searchsorted(torch.tensor(numbers, device=group_of.device), group_of)
        piece = groups.with_prompts(numbers, place)
        scored = None if groups.scored is None else groups.scored[span]
        yield replace(
            piece, completions=groups.completions[span], is_token=groups.is_token[span], scored=scored
        )


def choose_form(
    model: PreTrainedModel,
    groups: Groups,
    preferred: Form | None = None,
    agree: Callable[[Tensor], Tensor] | None = None,
) -> Form | None:
    """The cheaper form that this model can run now, by counted operations; None = it can run neither.

    Gradient checkpointing takes the cache away (branched), flash attention the mask (packed). A `preferred`
    form is taken where it can run. Costs are those of this process, or what `agree` makes of them (see
    `cost_agreement`).
    """
    config = model.config.get_text_config()
    can_branch = not (model.is_gradient_checkpointing and model.training)
    can_pack = config._attn_implementation in MASKABLE
    if not can_branch:
        return "packed" if can_pack else None
    if not can_pack:
        return "branched"
    if preferred:
        return preferred
    branched = _count_multiplications(config, groups, "branched")
    packed = _count_multiplications(config, repeat_prompts(config, groups), "packed")
    costs = torch.tensor([branched, packed], device=groups.completions.device)
    if agree is not None:
        if groups.completions.shape[1] == 1:
            costs[0] = torch.inf  # branched would run the text model once here, and twice elsewhere
        costs = agree(costs)
    return "branched" if costs[0] <= costs[1] else "packed"


def cost_agreement(accelerator: Any) -> Callable[[Tensor], Tensor] | None:
    """What sums costs over all processes where weights may lie in shards; None elsewhere.

    The forms run the text model a different number of times, and shards are gathered at each, by all
    processes together.
    """
    from accelerate.utils import DistributedType

    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return functools.partial(accelerator.reduce, reduction="sum")
    return None


def _count_multiplications(config: Any, groups: Groups, form: Form) -> float:
    """Multiplications of one forward pass of the text model, in units of the hidden size and layers."""
    prompts = torch.tensor([len(prompt) for prompt in groups.prompts])  # (B,)
    if form == "branched":
        n, length = groups.completions.shape
        tokens = len(prompts) * int(prompts.max()) + n * length
        pairs = float(len(prompts) * prompts.max() ** 2 / 2 + n * length * (prompts.max() + length))
    else:
        behind = torch.zeros_like(prompts).index_add(0, groups.group_of.cpu(), groups.lengths.cpu())  # (B,)
        longest = int((prompts - 1 + behind).max())
        tokens, pairs = len(prompts) * longest, float(len(prompts) * longest**2)
    return tokens * _multiplications_a_token(config) + 2 * pairs


def _multiplications_a_token(config: Any) -> float:
    return 4.0 * int(config.hidden_size) + 3.0 * int(config.intermediate_size)


def repeat_prompts(config: Any, groups: Groups) -> Groups:
    """The groups with prompts repeated, each for a part of its completions, so that packed rows cost least.

    A packed row's attention grows with the square of its length, so that beside long completions it is
    cheaper to read a prompt again. To see its images again counts as much as to read it again.
    """
    prompt_tokens = sum(len(prompt) for prompt in groups.prompts)

    def cost(repeated: Groups) -> float:
        extra_tokens = sum(len(prompt) for prompt in repeated.prompts) - prompt_tokens
        packed = _count_multiplications(config, repeated, "packed")
        return packed + extra_tokens * _multiplications_a_token(config)

    # All completions behind one prompt, half of them, a quarter, ..., one.
    sizes = [int(torch.bincount(groups.group_of).max())]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return min((_limit_completions(groups, size) for size in sizes), key=cost)


def _limit_completions(groups: Groups, limit: int) -> Groups:
    """The groups with at most `limit` completions a prompt, which is repeated for the others."""
    device = groups.group_of.device
    # 1. Where a completion stands among those of its prompt, and so which repetition it answers.
    belongs = groups.group_of[:, None] == torch.arange(len(groups.prompts), device=device)  # (N, B)
    place = belongs.cumsum(0).gather(1, groups.group_of[:, None])[:, 0] - 1  # (N,)
    # 2. How often each prompt comes, and where its repetitions begin.
    counts = [-(-int(count) // limit) for count in belongs.sum(0).clamp(min=1)]
    begins = torch.tensor([0, *counts], device=device).cumsum(0)  # (B + 1,)
    # 3. The repeated prompts.
    numbers = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).tolist()
    return groups.with_prompts(numbers, begins[groups.group_of] + place // limit)
