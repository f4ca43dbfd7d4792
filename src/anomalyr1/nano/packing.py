"""Several questions behind one image prefix: the packed batch, and a Qwen2.5-VL's forward pass over it.

The forward runs on the weights of the Hugging Face modules and equals their forward (a test holds that to
1e-4), but it takes batches of equally sized images, a float 4-D mask, and the parts of `layers`, gives the
hidden states and attention weights that helper losses need, and is faster on a CPU: `nano_forward.py` among
the benchmarks compares it with the forward of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from anomalyr1.nano.layers import Rotary, attention, rms_norm, rotary, rotate
from anomalyr1.shared_prefix.layout import PADDING, PREFIX, attention_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]

CELL = 28
"""Pixels of the model's frame that one image token covers, in both directions."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Qwen2-VL's image normalisation."""
HIDDEN = -1e4
"""What the float mask adds to attention logits of what a token must not see."""


@dataclass(frozen=True)
class QuestionBranch:
    """One question behind the prefix of its row."""

    prompt: list[int]
    """Token ids from the question to the start of the assistant's turn."""
    completion: list[int]
    """Token ids that are learned, the end of the turn included."""
    weights: list[float] | None = None
    """Loss weight of each completion token; None = all 1."""


@dataclass(frozen=True)
class PrefixRow:
    """One prefix with its images, and the questions behind it."""

    prefix: list[int]
    """Token ids; each image already stands as its run of image tokens."""
    grids_hw: tuple[tuple[int, int], ...]
    """Rows and columns of image tokens of each image, in order."""
    branches: list[QuestionBranch]
    invented: bool = False
    """Whether the object has an invented name (`invented_names`)."""

    @property
    def length(self) -> int:
        """Tokens of the prefix and of all branches."""
        return len(self.prefix) + sum(len(b.prompt) + len(b.completion) for b in self.branches)


@dataclass(frozen=True)
class PackedBatch:
    """A batch of rows as tensors; B rows of at most S tokens, K learned tokens, T image tokens in all."""

    ids: Tensor
    """(B, S)"""
    positions: Tensor
    """(3, B, S), time, height and width; they restart after the prefix in each branch."""
    mask: Tensor
    """(B, 1, S, S) bool: the prefix and itself are what a branch sees."""
    image_at: tuple[Tensor, Tensor]
    """(T,) rows and columns of the image tokens."""
    last_image_at: tuple[Tensor, Tensor]
    """The same of each row's last image, the inspected one."""
    learned_at: tuple[Tensor, Tensor]
    """(K,) rows and columns of the tokens whose next token is learned."""
    targets: Tensor
    """(K,) the tokens to learn."""
    weights: Tensor
    """(K,) their loss weights."""


def pack(rows: Sequence[PrefixRow], model: PreTrainedModel) -> PackedBatch:
    """The tensors of a batch for `model`, padded on the right."""
    shape = len(rows), max(row.length for row in rows)
    ids: Ints = np.full(shape, model.config.get_text_config().pad_token_id, dtype=np.int64)
    owners: Ints = np.full(shape, PADDING, dtype=np.int64)
    positions: Ints = np.zeros((3, *shape), dtype=np.int64)
    inspected: list[tuple[int, int]] = []
    learned: list[tuple[int, int]] = []
    targets: list[int] = []
    weights: list[float] = []
    for i, row in enumerate(rows):
        # 1. The prefix, with the model's own positions.
        end = len(row.prefix)
        ids[i, :end], owners[i, :end] = row.prefix, PREFIX
        positions[:, i, :end] = _prefix_positions(row, model)
        restart = int(positions[:, i, :end].max()) + 1
        if row.grids_hw:
            h, w = row.grids_hw[-1]
            image_columns = np.flatnonzero(ids[i] == model.config.image_token_id)
            inspected += [(i, int(column)) for column in image_columns[-h * w :]]
        # 2. Its branches one behind the other, each as if it stood right behind the prefix.
        for number, branch in enumerate(row.branches, start=1):
            tokens = branch.prompt + branch.completion
            start, end = end, end + len(tokens)
            ids[i, start:end], owners[i, start:end] = tokens, number
            positions[:, i, start:end] = restart + np.arange(len(tokens))
            learned += [(i, column) for column in range(start + len(branch.prompt) - 1, end - 1)]
            targets += branch.completion
            weights += branch.weights or [1.0] * len(branch.completion)
    return PackedBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=attention_mask(torch.from_numpy(owners), [torch.from_numpy(owners)], torch.float32) == 0,
        image_at=_as_indices(np.argwhere(ids == model.config.image_token_id)),
        last_image_at=_as_indices(inspected),
        learned_at=_as_indices(learned),
        targets=torch.tensor(targets),
        weights=torch.tensor(weights),
    )


def _as_indices(places: Sequence[tuple[int, int]] | Ints) -> tuple[Tensor, Tensor]:
    """(N,) rows and (N,) columns of N places."""
    rows, columns = torch.tensor(places, dtype=torch.long).view(-1, 2).T.contiguous()
    return rows, columns


def _prefix_positions(row: PrefixRow, model: PreTrainedModel) -> Ints:
    """(3, P) positions of a prefix, from the model's own `get_rope_index`."""
    ids = torch.tensor([row.prefix])
    merge = model.config.vision_config.spatial_merge_size
    grids = torch.tensor([[1, merge * h, merge * w] for h, w in row.grids_hw]) if row.grids_hw else None
    image_tokens = (ids == model.config.image_token_id).int()
    positions, _ = model.model.get_rope_index(ids, image_tokens, image_grid_thw=grids)
    array: Ints = positions[:, 0].numpy()
    return array


def patches(images: Sequence[Pixels], patch: int) -> Tensor:
    """(B, N, 3 * patch * patch) normalised patches of equally sized images.

    They stand in the merged-block order of Qwen2-VL's image processor.
    """
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    b, _, height, width = x.shape
    h, w, merge = height // CELL, width // CELL, CELL // patch
    x = x.view(b, 3, h, merge, patch, w, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.reshape(b, h * w * merge**2, 3 * patch**2)


def encode_images(tower: PreTrainedModel, images: Sequence[Pixels]) -> Tensor:
    """(B, h * w, D) image tokens of B equally sized images whose sides are multiples of 28 pixels."""
    return merge_patches(tower, patch_states(tower, images))


def merge_patches(tower: PreTrainedModel, states: Tensor) -> Tensor:
    """(B, h * w, D) image tokens of the states of patches that `patch_states` gives."""
    tokens: Tensor = tower.merger.mlp(_norm(states, tower.merger.ln_q).flatten(2))
    return tokens


def patch_states(tower: PreTrainedModel, images: Sequence[Pixels]) -> Tensor:
    """(B, h * w, m * m, width) states of all patches before they are merged, m * m to a token."""
    weight = tower.patch_embed.proj.weight.sum(2).flatten(1)  # both frames of a still image are the same
    x = functional.linear(patches(images, tower.config.patch_size).to(weight.dtype), weight)
    merge, (b, n, _) = tower.config.spatial_merge_size, x.shape
    grid_hw = images[0].shape[0] // CELL, images[0].shape[1] // CELL
    places = rotary(_axial_angles(tower, grid_hw), 2 * tower.config.num_heads, x.dtype)
    windows = _Windows(grid_hw, merge**2, tower.config.window_size // CELL)
    for i, block in enumerate(tower.blocks):
        qk, v = block.attn.qkv(_norm(x, block.norm1)).split((2 * x.shape[-1], x.shape[-1]), -1)
        flat = *rotate(qk, places).chunk(2, -1), v
        q, k, v = (part.reshape(b, n, block.attn.num_heads, -1).transpose(1, 2) for part in flat)
        if i in tower.config.fullatt_block_indexes:
            y = attention(q, k, v)[0]
        else:
            y = windows.join(
                attention(windows.split(q), windows.split(k), windows.split(v), windows.mask(x.dtype))[0]
            )
        x = x + block.attn.proj(y.transpose(1, 2).reshape(b, n, -1))
        x = x + block.mlp(_norm(x, block.norm2))
    return x.view(b, n // merge**2, merge**2, -1)


class _Windows:
    """Cuts (B, heads, N, D) states into (B, windows, heads, patches, D) squares of `side` x `side` tokens.

    Those at the edge are padded.
    """

    def __init__(self, grid_hw: tuple[int, int], unit: int, side: int) -> None:
        self.grid_hw, self.unit, self.side = grid_hw, unit, side
        self.down, self.across = (-(-n // side) for n in grid_hw)
        self.pad = (0, 0, 0, 0, 0, self.across * side - grid_hw[1], 0, self.down * side - grid_hw[0])

    def split(self, x: Tensor) -> Tensor:
        b, heads, _, d = x.shape
        x = functional.pad(x.reshape(b, heads, *self.grid_hw, self.unit, d), self.pad)
        x = x.view(b, heads, self.down, self.side, self.across, self.side, self.unit, d)
        return x.permute(0, 2, 4, 1, 3, 5, 6, 7).reshape(
            b, self.down * self.across, heads, self.side**2 * self.unit, d
        )

    def join(self, x: Tensor) -> Tensor:
        b, _, heads, _, d = x.shape
        x = x.view(b, self.down, self.across, heads, self.side, self.side, self.unit, d).permute(
            0, 3, 1, 4, 2, 5, 6, 7
        )
        x = x.reshape(b, heads, self.down * self.side, self.across * self.side, self.unit, d)
        return x[:, :, : self.grid_hw[0], : self.grid_hw[1]].reshape(b, heads, -1, d)

    def mask(self, dtype: torch.dtype) -> Tensor | None:
        """(windows, 1, 1, patches) that hides the padding; None where there is none."""
        if not any(self.pad):
            return None
        real = self.split(torch.ones(1, 1, self.grid_hw[0] * self.grid_hw[1] * self.unit, 1))[
            0, :, :, None, :, 0
        ]
        return float_mask(real > 0, dtype)


def _axial_angles(tower: PreTrainedModel, grid_hw: tuple[int, int]) -> Tensor:
    (h, w), merge = grid_hw, tower.config.spatial_merge_size
    rows, columns = torch.meshgrid(torch.arange(merge * h), torch.arange(merge * w), indexing="ij")
    frequencies = tower.rotary_pos_emb.inv_freq.float()
    by_block = [
        axis.reshape(h, merge, w, merge).permute(0, 2, 1, 3).reshape(-1, 1) * frequencies
        for axis in (rows, columns)
    ]
    return torch.cat(by_block, -1)


def _norm(x: Tensor, module: Qwen2_5_VLRMSNorm) -> Tensor:
    return rms_norm(x, module.weight, module.variance_epsilon)


def text_rotary(language: PreTrainedModel, positions: Tensor, dtype: torch.dtype) -> Rotary:
    """The embedding of (3, B, S) positions: sections of frequencies take time, height and width in turn."""
    angles = positions[..., None].float() * language.rotary_emb.inv_freq.float()
    sections = angles.split(language.rotary_emb.mrope_section, -1)
    angles = torch.cat([section[i % 3] for i, section in enumerate(sections)], -1)
    return rotary(angles, language.config.num_attention_heads, dtype)


class LayerOutput(NamedTuple):
    """What a layer of the text model computed."""

    states: Tensor
    """(B, S, D) after it, not normed."""
    attention: Tensor
    """(B, heads, S, keys) attention weights."""


def run_text_model(
    language: PreTrainedModel, x: Tensor, places: Rotary, mask: Tensor
) -> tuple[Tensor, list[LayerOutput]]:
    """(B, S, D) normed last hidden states of (B, S, D) embeddings, and the output of each layer."""
    b, s, _ = x.shape
    outputs: list[LayerOutput] = []
    for layer in language.layers:
        attend = layer.self_attn
        h = _norm(x, layer.input_layernorm)
        flat = rotate(attend.q_proj(h), places), rotate(attend.k_proj(h), places), attend.v_proj(h)
        q, k, v = (part.view(b, s, -1, attend.head_dim).transpose(1, 2) for part in flat)
        if attend.num_key_value_groups > 1:
            k, v = (part.repeat_interleave(attend.num_key_value_groups, 1) for part in (k, v))
        y, weights = attention(q, k, v, mask)
        x = x + attend.o_proj(y.transpose(1, 2).reshape(b, s, -1))
        h = _norm(x, layer.post_attention_layernorm)
        x = x + layer.mlp.down_proj(functional.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
        outputs.append(LayerOutput(x, weights))
    return _norm(x, language.norm), outputs


def float_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive mask of a bool one."""
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, HIDDEN)


def hidden_states(
    model: PreTrainedModel, batch: PackedBatch, tokens: Sequence[Tensor]
) -> tuple[Tensor, list[LayerOutput]]:
    """(B, S, D) hidden states of a packed batch as `run_text_model` gives them.

    `tokens` are its images' in reading order: rows, then images.
    """
    language = model.model.language_model
    x: Tensor = language.embed_tokens(batch.ids)
    if tokens:
        x = x.index_put(batch.image_at, torch.cat(list(tokens)).to(x.dtype))
    places = text_rotary(language, batch.positions, x.dtype)
    return run_text_model(language, x, places, float_mask(batch.mask, x.dtype))


def learned_logits(model: PreTrainedModel, states: Tensor, batch: PackedBatch) -> Tensor:
    """(K, vocabulary) logits of the learned tokens."""
    return functional.linear(states[batch.learned_at], model.lm_head.weight).float()
