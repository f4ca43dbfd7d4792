"""Log-probabilities of completions that share their prompt: each prompt is read once for all its completions.

Two forms, both exact. *Branched*: a pass over the prompts fills a cache, the cache is repeated for each
completion, and a second pass reads all completions as one batch. It takes no mask of its own, so any
attention implementation serves.

    prompt           ->  cache  ->  completion 1
                                ->  completion 2

*Packed*: one row a prompt, with a mask that shows each branch the prompt and itself (`layout.py`), and
positions that restart after the prompt in each branch.

    prompt[:-1]   prompt[-1:] + completion 1[:-1]   prompt[-1:] + completion 2[:-1]

A branch begins with a copy of the prompt's last token, so that the usual shift holds inside it: each token
predicts the one behind it. This form needs no cache, which gradient checkpointing does not allow, and pads
nothing. Its attention grows with the square of a row's length, so that many long completions are read in
several rows, each with the prompt anew (`groups.repeat_prompts`); at the most that is a row a completion,
which is what TRL reads.

For Qwen2.5-VL and Qwen3-VL, whose positions follow the images (`get_rope_index`). `install_scoring` puts both
behind the model's own forward, so that wrappers (adapters, DDP, autocast) see one call.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from anomalyr1.shared_prefix.groups import Form, Groups, repeat_prompts
from anomalyr1.shared_prefix.layout import PADDING, PREFIX, attention_mask, pad_left
from anomalyr1.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Model types whose forward takes positions and patches as this module gives them."""
SUPPRESSED = -1e4
"""The logit of a token that must not be written: its probability is exactly 0 in every dtype, and nothing
becomes NaN."""


def score_completions(
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
    # 1. The hidden states (K, D) that predict the K tokens there are, row by row.
    hidden = read_branched(model, groups) if form == "branched" else read_packed(model, groups)
    # 2. Those of the scored tokens.
    scored = groups.is_token
    if groups.scored is not None:
        scored = groups.scored
        hidden = hidden[scored[groups.is_token]]
    # 3. Their log-probabilities and entropies, (K,) each.
    tokens = groups.completions[scored]
    log_probs, entropies = _apply_head(model, hidden, tokens, temperature, entropy, head_in_float32)
    # 4. Back to their places.
    return _place(log_probs, scored), None if entropies is None else _place(entropies, scored)


def _place(values: Tensor, places: Tensor) -> Tensor:
    """(N, L) the K `values` where `places` (N, L) is true, 0 elsewhere."""
    # masked_scatter keeps the graph where no place is true, so that the backward pass runs there too.
    return values.new_zeros(places.shape).masked_scatter(places, values)


def read_branched(model: PreTrainedModel, groups: Groups) -> Tensor:
    """(K, D) last hidden states that predict the K tokens of the completions, row by row."""
    # 1. Read each prompt once, which fills a cache. Its last token predicts the first one of a completion.
    prefix = prefill_prompts(model, groups)
    at_prompt = prefix.hidden[:, -1][groups.group_of]  # (N, D)
    if groups.completions.shape[1] == 1:
        return at_prompt[groups.is_token[:, 0]]
    # 2. Repeat the cache, a row for each completion.
    prefix.cache.batch_select_indices(groups.group_of)
    # 3. Read the completions behind it but for their last tokens, which predict nothing that is scored.
    inputs = groups.completions[:, :-1]  # (N, L - 1)
    mask = None
    if prefix.is_token is not None:
        mask = torch.cat([prefix.is_token[groups.group_of], torch.ones_like(inputs)], 1)  # (N, P + L - 1)
    steps = torch.arange(inputs.shape[1], device=inputs.device)
    positions = prefix.next_position[groups.group_of][:, None] + steps  # (N, L - 1)
    output = model.model(
        input_ids=inputs,
        attention_mask=mask,
        position_ids=positions.expand(3, -1, -1),
        past_key_values=prefix.cache,
        use_cache=True,
    )
    # 4. Keep what predicts a token.
    hidden = torch.cat([at_prompt[:, None], output.last_hidden_state], 1)  # (N, L, D)
    return hidden[groups.is_token]


def read_packed(model: PreTrainedModel, groups: Groups) -> Tensor:
    """(K, D) last hidden states that predict the K tokens of the completions, row by row."""
    # 1. Several rows a prompt where that costs less than one long row.
    groups = repeat_prompts(model.config.get_text_config(), groups)
    device = groups.completions.device
    lengths = groups.lengths.tolist()
    # 2. A row a prompt: all but its last token, then for each completion a branch that begins with that one.
    rows: list[tuple[Tensor, Tensor, Tensor]] = []  # ids (S,), positions (3, S), owners (S,)
    start_columns = [0] * len(lengths)
    for group, (prompt, prompt_positions) in enumerate(
        zip(groups.prompts, positions_of(model, groups), strict=True)
    ):
        ids, positions = [prompt[:-1]], [prompt_positions[:, :-1]]
        owners = [torch.full((len(prompt) - 1,), PREFIX, device=device)]
        column = len(prompt) - 1
        for i in (groups.group_of == group).nonzero()[:, 0].tolist():
            if lengths[i]:  # an empty completion has no branch: [: -1] would be all but its last token
                ids += [prompt[-1:], groups.completions[i, : lengths[i] - 1]]
            positions.append(prompt_positions[:, -1:] + torch.arange(lengths[i], device=device))
            owners.append(torch.full((lengths[i],), i + 1, device=device))
            start_columns[i] = column
            column += lengths[i]
        rows.append((torch.cat(ids), torch.cat(positions, 1), torch.cat(owners)))
    # 3. One pass over all rows, padded on the right.
    ids_table = pad_sequence(
        [ids for ids, _, _ in rows], batch_first=True, padding_value=int(rows[0][0][0])
    )  # (B, S)
    positions_table = pad_sequence([positions.T for _, positions, _ in rows], batch_first=True)  # (B, S, 3)
    owners_table = pad_sequence([owners for _, _, owners in rows], batch_first=True, padding_value=PADDING)
    dtype = model.get_input_embeddings().weight.dtype
    output = model.model(
        input_ids=ids_table,
        attention_mask=attention_mask(owners_table, [owners_table], dtype),
        position_ids=positions_table.permute(2, 0, 1),
        use_cache=False,
        **_image_inputs(groups),
    )
    # 4. Token t of completion i is predicted t columns behind the start of its branch.
    i, t = groups.is_token.nonzero(as_tuple=True)
    hidden: Tensor = output.last_hidden_state[
        groups.group_of[i], torch.tensor(start_columns, device=device)[i] + t
    ]
    return hidden


@dataclass(frozen=True)
class PrefilledPrompts:
    """B prompts of at most P tokens as the model has read them, padded on the left."""

    hidden: Tensor
    """(B, P, D) last hidden states."""
    cache: Any
    """transformers' cache of keys and values."""
    is_token: Tensor | None
    """(B, P) 1 where there is a token, 0 where there is padding; None = nothing is padded."""
    next_position: Tensor
    """(B,) the position at which a completion begins."""


def prefill_prompts(model: PreTrainedModel, groups: Groups, drop_last: bool = False) -> PrefilledPrompts:
    """One pass over the prompts that fills a cache.

    `drop_last` leaves the last token of each out, as `generate` wants it.
    """
    # 1. Prompts of different lengths end together.
    prompts = [prompt[:-1] if drop_last else prompt for prompt in groups.prompts]
    ids, is_token = pad_left(prompts, filler=int(prompts[0][0]))  # (B, P) each
    # 2. Their positions, which follow the images; padding has any.
    prompt_positions = positions_of(model, groups)
    positions = torch.ones(3, *ids.shape, dtype=torch.long, device=ids.device)
    for row, (prompt, prompt_position) in enumerate(zip(prompts, prompt_positions, strict=True)):
        positions[:, row, ids.shape[1] - len(prompt) :] = prompt_position[:, : len(prompt)]
    # 3. One pass, with all images.
    padded = bool((is_token == 0).any())
    output = model.model(
        input_ids=ids,
        attention_mask=is_token if padded else None,
        position_ids=positions,
        use_cache=True,
        **_image_inputs(groups),
    )
    next_position = torch.stack([prompt_position.max() + 1 for prompt_position in prompt_positions])
    return PrefilledPrompts(
        output.last_hidden_state, output.past_key_values, is_token if padded else None, next_position
    )


def positions_of(model: PreTrainedModel, groups: Groups) -> list[Tensor]:
    """(3, P_b) positions in time, height and width of each prompt, from the model's own `get_rope_index`."""
    positions = []
    for prompt, grids in zip(groups.prompts, groups.grids, strict=True):
        is_image = (prompt == model.config.image_token_id).int()
        prompt_positions, _ = model.model.get_rope_index(
            prompt[None], is_image[None], image_grid_thw=grids if len(grids) else None
        )  # (3, 1, P_b)
        positions.append(prompt_positions[:, 0])
    return positions


def _image_inputs(groups: Groups) -> dict[str, Tensor]:
    """Patches and grids of all images, as the model's forward takes them."""
    with_images = [number for number, grids in enumerate(groups.grids) if len(grids)]
    if not with_images:
        return {}
    return {
        "pixel_values": torch.cat([groups.pixels[number] for number in with_images]),
        "image_grid_thw": torch.cat([groups.grids[number] for number in with_images]),
    }


def _apply_head(
    model: PreTrainedModel,
    hidden: Tensor,
    tokens: Tensor,
    temperature: float,
    entropy: bool,
    in_float32: bool,
) -> tuple[Tensor, Tensor | None]:
    """(K,) log-probabilities and entropies of the `tokens` (K,) after `hidden` (K, D), with TRL's kernel."""
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
        log_probs, entropies, *_ = ChunkedLogProbFunction.apply(
            hidden.float() if in_float32 else hidden,
            weight,
            bias,
            tokens,
            temperature,
            _CHUNKED_LOGPROB_CHUNK_SIZE,
            None,
            1.0,
            outputs,
        )
    return log_probs, entropies


def _head_of(model: PreTrainedModel) -> torch.nn.Linear:
    """The output embeddings.

    Raises `InputError` where something is wrapped around them: `_apply_head` would not see what that learns.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise InputError(
            "lm_head cannot have an adapter or a copy of its own; "
            "leave it out of lora.target_modules and lora.modules_to_save"
        )
    return head


def install_scoring(model: PreTrainedModel, temperature: float = 1.0, head_in_float32: bool = False) -> None:
    """Let `model(groups=..., form=..., entropy=...)` be `score_completions`; other calls stay what they were.

    Raises `InputError` where something is wrapped around the output embeddings.
    """
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
        return score_completions(self, groups, form, temperature, entropy, head_in_float32)

    model.forward = types.MethodType(forward, model)


def suppress_tokens(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Take tokens out of the distribution that `model` samples from and is scored by.

    That is a bias in its head, which is not saved. Raises `ValueError` for a head that has one of its own.
    """
    head = _head_of(model)
    if head.bias is not None:
        raise ValueError(
            "the output embeddings have a bias of their own; "
            "expected a Qwen2.5-VL or Qwen3-VL, whose have none"
        )
    # DeepSpeed leaves a weight of no rows where it has sharded one
    bias = torch.zeros(head.out_features, dtype=head.weight.dtype, device=head.weight.device)
    bias[list(ids)] = SUPPRESSED
    del head._parameters["bias"]
    head.register_buffer("bias", bias, persistent=False)
