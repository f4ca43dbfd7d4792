"""The log-probabilities of completions that share their prompt: every prompt is read once, however many completions it has.

Two forms, both exact. *Branched*: a pass over the prompts fills a cache, the cache is repeated for each
completion, and a second pass reads all completions as one batch; no mask of its own, so any attention
implementation serves. *Packed*: one row a prompt,

    prompt[:-1] + (prompt[-1:] + completion_1[:-1]) + ... + (prompt[-1:] + completion_G[:-1])

with a mask that shows each branch the prompt and itself, and positions that restart after the prompt in each
branch. A branch begins with a copy of the prompt's last token, so that the usual shift right holds inside it.
This form needs no cache, which gradient checkpointing does not allow, and pads nothing. Its attention grows
with (P + G L)^2, so that long completions of many are told in several rows, each with the prompt anew
(`divided`); at the most that is a row a completion, which is what TRL reads.

For Qwen2.5-VL and Qwen3-VL, whose positions follow the images (`get_rope_index`). `install` puts both behind
the model's own forward, so that wrappers (adapters, DDP, autocast) see one call.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anomalyr1.shared_prefix.groups import Form, Groups, divided
from anomalyr1.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Model types whose forward takes positions and patches as this module gives them."""
SUPPRESSED = -1e4
"""Logit of a token that must not be written: its probability is exactly 0 in every dtype, and nothing becomes
NaN."""


def positions_of(model: PreTrainedModel, groups: Groups) -> list[Tensor]:
    """(3, P_b) positions in time, height and width of each prompt, from the model's own `get_rope_index`."""
    found = []
    for prompt, grids in zip(groups.prompts, groups.grids, strict=True):
        kinds = (prompt == model.config.image_token_id).int()[None]
        at, _ = model.model.get_rope_index(prompt[None], kinds, image_grid_thw=grids if len(grids) else None)
        found.append(at[:, 0])
    return found


def branched(model: PreTrainedModel, groups: Groups) -> Tensor:
    """(K, D) last hidden states from which the K written tokens are predicted, row by row."""
    prefix = read_prompts(model, groups)
    first = prefix.hidden[:, -1][groups.group_of]  # (N, D): the prompt's last token predicts each first one
    if groups.completions.shape[1] == 1:
        return first[groups.written[:, 0]]
    prefix.cache.batch_select_indices(groups.group_of)
    before = groups.completions[:, :-1]  # (N, L - 1)
    mask = None
    if prefix.mask is not None:
        mask = torch.cat([prefix.mask[groups.group_of], torch.ones_like(before)], 1)
    steps = torch.arange(before.shape[1], device=before.device)
    at = (prefix.next_position[groups.group_of][:, None] + steps).expand(3, -1, -1)
    rest = model.model(
        input_ids=before, attention_mask=mask, position_ids=at, past_key_values=prefix.cache, use_cache=True
    )
    hidden = torch.cat([first[:, None], rest.last_hidden_state], 1)  # (N, L, D)
    return hidden[groups.written]


@dataclass(frozen=True)
class Prefix:
    """B prompts as the model has read them."""

    hidden: Tensor
    """(B, P, D), padded on the left."""
    cache: Any
    """transformers' cache of keys and values."""
    mask: Tensor | None
    """(B, P) 0 where padded; None = nothing is."""
    next_position: Tensor
    """(B,) where a completion begins."""


def read_prompts(model: PreTrainedModel, groups: Groups, drop_last: bool = False) -> Prefix:
    """One pass over the prompts that fills a cache; `drop_last` leaves the last token of each out, as `generate` wants it."""
    device = groups.completions.device
    prompts = [prompt[:-1] if drop_last else prompt for prompt in groups.prompts]
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), int(prompts[0][0]), device=device)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    at = torch.ones(3, len(prompts), longest, dtype=torch.long, device=device)
    whole = positions_of(model, groups)
    for row, (prompt, own) in enumerate(zip(prompts, whole, strict=True)):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
        at[:, row, longest - len(prompt) :] = own[:, : len(prompt)]
    padded = bool((mask == 0).any())
    out = model.model(
        input_ids=ids,
        attention_mask=mask if padded else None,
        position_ids=at,
        use_cache=True,
        **_image_inputs(groups),
    )
    start = torch.stack([own.max() + 1 for own in whole])
    return Prefix(out.last_hidden_state, out.past_key_values, mask if padded else None, start)


def packed(model: PreTrainedModel, groups: Groups) -> Tensor:
    """(K, D) last hidden states from which the K written tokens are predicted, row by row."""
    groups = divided(model.config.get_text_config(), groups)
    device = groups.completions.device
    lengths = groups.lengths.tolist()
    rows, starts = [], [0] * len(lengths)
    for group, (prompt, at) in enumerate(zip(groups.prompts, positions_of(model, groups), strict=True)):
        ids, positions, segment = (
            [prompt[:-1]],
            [at[:, :-1]],
            [torch.full((len(prompt) - 1,), -1, device=device)],
        )
        column = len(prompt) - 1
        for i in (groups.group_of == group).nonzero()[:, 0].tolist():
            ids += [prompt[-1:], groups.completions[i, : lengths[i] - 1]] if lengths[i] else []
            positions.append(at[:, -1:] + torch.arange(lengths[i], device=device))
            segment.append(torch.full((lengths[i],), i, device=device))
            starts[i] = column
            column += lengths[i]
        rows.append((torch.cat(ids), torch.cat(positions, 1), torch.cat(segment)))
    whole, places, segments = _padded(rows)
    mask = branch_mask(segments, model.get_input_embeddings().weight.dtype)
    out = model.model(
        input_ids=whole, attention_mask=mask, position_ids=places, use_cache=False, **_image_inputs(groups)
    )
    i, t = groups.written.nonzero(as_tuple=True)
    hidden: Tensor = out.last_hidden_state[groups.group_of[i], torch.tensor(starts, device=device)[i] + t]
    return hidden


def branch_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, S, S) what is added to attention logits: 0 where a token may look, the dtype's least number elsewhere.

    `segments` (B, S) is -1 for the prompt, the branch's own number in a branch, -2 in padding.
    """
    visible = (segments[:, None, :] == -1) | (segments[:, None, :] == segments[:, :, None])
    visible &= torch.ones(visible.shape[1:], dtype=torch.bool, device=segments.device).tril()
    return torch.zeros(visible.shape, dtype=dtype, device=segments.device).masked_fill(
        ~visible, torch.finfo(dtype).min
    )[:, None]


def _padded(rows: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of ids (S,), positions (3, S) and segments (S,) as (B, S), (3, B, S) and (B, S), padded on the right."""
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence([row[0] for row in rows], batch_first=True, padding_value=int(rows[0][0][0]))
    at = pad_sequence([row[1].T for row in rows], batch_first=True).permute(2, 0, 1)
    return ids, at, pad_sequence([row[2] for row in rows], batch_first=True, padding_value=-2)


def _image_inputs(groups: Groups) -> dict[str, Tensor]:
    shown = [i for i, grids in enumerate(groups.grids) if len(grids)]
    if not shown:
        return {}
    return {
        "pixel_values": torch.cat([groups.pixels[i] for i in shown]),
        "image_grid_thw": torch.cat([groups.grids[i] for i in shown]),
    }


def score(
    model: PreTrainedModel,
    groups: Groups,
    form: Form,
    temperature: float = 1.0,
    entropy: bool = True,
    head_in_float32: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """(N, L) log-probabilities of the scored tokens and entropies of their distributions, 0 elsewhere.

    The head and the arithmetic are TRL's fused ones, on the scored tokens alone.
    """
    hidden = branched(model, groups) if form == "branched" else packed(model, groups)
    scored = groups.written
    if groups.scored is not None:
        scored = groups.scored
        hidden = hidden[scored[groups.written]]
    chosen = groups.completions[scored]  # (K,)
    log_probs, entropies = _head(model, hidden, chosen, temperature, entropy, head_in_float32)
    shape = scored.shape
    # masked_scatter keeps the graph where no token counts, so that the backward pass runs on such a batch too
    return (
        log_probs.new_zeros(shape).masked_scatter(scored, log_probs),
        entropies.new_zeros(shape).masked_scatter(scored, entropies) if entropies is not None else None,
    )


def _head(
    model: PreTrainedModel,
    hidden: Tensor,
    chosen: Tensor,
    temperature: float,
    entropy: bool,
    in_float32: bool,
) -> tuple[Tensor, Tensor | None]:
    """(K,) log-probabilities and entropies of the tokens after `hidden` (K, D), with TRL's kernel."""
    from contextlib import nullcontext

    from torch.distributed.tensor import DTensor, Partial
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, maybe_gather_lm_head_ctx

    head = _head_of(model)
    weight, bias = head.weight, head.bias
    if isinstance(weight, DTensor):  # FSDP2 gives shards, and takes the mean of all processes' gradients
        weight = weight.full_tensor(grad_placements=[Partial("avg")] * weight.device_mesh.ndim)
    hidden = hidden.to(weight.device)
    exact = torch.autocast(hidden.device.type, enabled=False) if in_float32 else nullcontext()
    outputs = ("log_probs", "entropy") if entropy else ("log_probs",)
    with exact, maybe_gather_lm_head_ctx(weight):
        found = ChunkedLogProbFunction.apply(
            hidden.float() if in_float32 else hidden,
            weight,
            bias,
            chosen,
            temperature,
            _CHUNKED_LOGPROB_CHUNK_SIZE,
            None,
            1.0,
            outputs,
        )
    return found[0], found[1]


def _head_of(model: PreTrainedModel) -> torch.nn.Linear:
    """The output embeddings. Raises `InputError` where something is wrapped around them: `_head` would not see what that learns."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise InputError(
            "lm_head cannot have an adapter or a copy of its own; leave it out of lora.target_modules and lora.modules_to_save"
        )
    return head


def install(model: PreTrainedModel, temperature: float = 1.0, head_in_float32: bool = False) -> None:
    """Let `model(groups=..., form=..., entropy=...)` be `score`; every other call of the model stays what it was."""
    _head_of(model)
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` checks its arguments against this signature
    def forward(
        self: PreTrainedModel,
        *args: object,
        groups: Groups | None = None,
        form: Form = "branched",
        entropy: bool = True,
        **kwargs: object,
    ) -> object:
        if groups is None:
            return original(*args, **kwargs)
        return score(self, groups, form, temperature, entropy, head_in_float32)

    model.forward = types.MethodType(forward, model)


def suppress(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Take tokens out of the distribution that `model` samples from and is scored by: a bias in its head, which is not saved."""
    head = _head_of(model)
    if head.bias is not None:
        raise ValueError(
            "the output embeddings have a bias of their own; expected a Qwen2.5-VL or Qwen3-VL, whose have none"
        )
    # DeepSpeed leaves a weight of no rows where it has sharded one
    bias = torch.zeros(head.out_features, dtype=head.weight.dtype, device=head.weight.device)
    bias[list(ids)] = SUPPRESSED
    del head._parameters["bias"]
    head.register_buffer("bias", bias, persistent=False)
