"""Several questions behind one image prefix: the packed batch and the forward pass of a Qwen2.5-VL that trains on it.

The forward runs on the weights of the Hugging Face modules and equals their forward (a test holds that to
1e-4), but it takes whole batches of equally sized images, a float 4-D mask, and the parts of `layers`.
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
class Branch:
    """One question behind the prefix of its row."""

    prompt: list[int]
    """Token ids from the question to the start of the assistant's turn."""
    completion: list[int]
    """Token ids that are learned, the end of the turn included."""
    weights: list[float] | None = None
    """Loss weight of each completion token; None = all 1."""


@dataclass(frozen=True)
class Row:
    """One prefix with its images and branches."""

    prefix: list[int]
    """Token ids; each image already stands as its run of image tokens."""
    grids_hw: tuple[tuple[int, int], ...]
    """Rows and columns of image tokens of each image, in order."""
    branches: list[Branch]
    unheard: bool = False
    """Whether the object has an invented name (`invented`)."""


@dataclass(frozen=True)
class Packed:
    """A batch of rows as tensors; B rows of at most S tokens, K learned tokens, T image tokens in all."""

    ids: Tensor
    """(B, S)"""
    positions: Tensor
    """(3, B, S), time, height and width; they restart after the prefix in each branch."""
    mask: Tensor
    """(B, 1, S, S) bool: the prefix and itself are what a branch sees."""
    image_at: tuple[Tensor, Tensor]
    """Row and column of each of the T image tokens."""
    last_image_at: tuple[Tensor, Tensor]
    """The same for the tokens of each row's last image, the inspected one."""
    learned_at: tuple[Tensor, Tensor]
    """Row and column of the K tokens whose next token is learned."""
    targets: Tensor
    """(K,) the tokens to learn."""
    weights: Tensor
    """(K,) their loss weights."""


def pack(rows: Sequence[Row], rope: PreTrainedModel, image_id: int, pad_id: int) -> Packed:
    """The tensors of a batch; `rope` is the `Qwen2_5_VLModel`, whose `get_rope_index` gives the positions of each prefix."""
    length = max(
        len(row.prefix) + sum(len(b.prompt) + len(b.completion) for b in row.branches) for row in rows
    )
    ids: Ints = np.full((len(rows), length), pad_id, dtype=np.int64)
    segment: Ints = np.full((len(rows), length), -2, dtype=np.int64)
    positions: Ints = np.zeros((3, len(rows), length), dtype=np.int64)
    row_at: list[int] = []
    column_at: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    for i, row in enumerate(rows):
        at = len(row.prefix)
        ids[i, :at], segment[i, :at] = row.prefix, -1
        positions[:, i, :at] = prefix_positions(row, rope, image_id)
        restart = int(positions[:, i, :at].max()) + 1
        for j, branch in enumerate(row.branches):
            tokens = branch.prompt + branch.completion
            ids[i, at : at + len(tokens)], segment[i, at : at + len(tokens)] = tokens, j
            positions[:, i, at : at + len(tokens)] = restart + np.arange(len(tokens))
            first = at + len(branch.prompt) - 1
            column_at += range(first, first + len(branch.completion))
            row_at += [i] * len(branch.completion)
            targets += branch.completion
            weights += branch.weights or [1.0] * len(branch.completion)
            at += len(tokens)
    images = np.nonzero(ids == image_id)
    last = [i for i in range(len(images[0])) if _in_last_image(rows[images[0][i]], int(images[1][i]))]
    return Packed(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=_branch_mask(torch.from_numpy(segment)),
        image_at=(torch.from_numpy(images[0]), torch.from_numpy(images[1])),
        last_image_at=(torch.from_numpy(images[0][last]), torch.from_numpy(images[1][last])),
        learned_at=(torch.tensor(row_at), torch.tensor(column_at)),
        targets=torch.tensor(targets),
        weights=torch.tensor(weights),
    )


def prefix_positions(row: Row, rope: PreTrainedModel, image_id: int) -> Ints:
    """(3, P) positions of a prefix, from the model's own `get_rope_index`."""
    ids = torch.tensor([row.prefix])
    merge = rope.config.vision_config.spatial_merge_size
    grids = torch.tensor([[1, merge * h, merge * w] for h, w in row.grids_hw]) if row.grids_hw else None
    positions, _ = rope.get_rope_index(ids, (ids == image_id).int(), image_grid_thw=grids)
    array: Ints = positions[:, 0].numpy()
    return array


def _in_last_image(row: Row, column: int) -> bool:
    """Whether an image token belongs to the last image: only the closing vision token and text stand behind that."""
    h, w = row.grids_hw[-1]
    end = len(row.prefix) - 1
    while row.prefix[end] != row.prefix[column]:
        end -= 1
    return column > end - h * w


def _branch_mask(segment: Tensor) -> Tensor:
    visible = (segment[:, None, :] == -1) | (segment[:, None, :] == segment[:, :, None])
    return (visible & torch.ones(visible.shape[1:], dtype=torch.bool).tril())[:, None]


def patches(images: Sequence[Pixels], patch: int) -> Tensor:
    """(B, N, 3 * patch * patch) normalised patches of equally sized images, in the merged-block order of Qwen2-VL's image processor."""
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    b, _, height, width = x.shape
    h, w, merge = height // CELL, width // CELL, CELL // patch
    x = x.view(b, 3, h, merge, patch, w, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.reshape(b, h * w * merge**2, 3 * patch**2)


def see(model: PreTrainedModel, images: Sequence[Pixels]) -> list[Tensor]:
    """The image tokens, (h * w, D) each, of images whose sides are multiples of 28 pixels; equal sizes run as one batch."""
    found: list[Tensor | None] = [None] * len(images)
    for shape in sorted({image.shape for image in images}):
        which = [i for i, image in enumerate(images) if image.shape == shape]
        tokens = vision(model.model.visual, [images[i] for i in which])
        for i, one in zip(which, tokens, strict=True):
            found[i] = one
    return [one for one in found if one is not None]


def vision(tower: PreTrainedModel, images: Sequence[Pixels]) -> Tensor:
    """(B, h * w, D) image tokens of B equally sized images whose sides are multiples of 28 pixels."""
    return merged(tower, fine(tower, images))


def merged(tower: PreTrainedModel, states: Tensor) -> Tensor:
    """(B, h * w, D) image tokens of the states of patches that `fine` gives."""
    tokens: Tensor = tower.merger.mlp(_norm(states, tower.merger.ln_q).flatten(2))
    return tokens


def fine(tower: PreTrainedModel, images: Sequence[Pixels]) -> Tensor:
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
    """Cuts (B, heads, N, D) states into (B, windows, heads, patches, D) squares of `side` x `side` tokens; those at the edge are padded."""

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
    """The embedding of (3, B, S) positions: sections of the frequencies take time, height and width in turn."""
    angles = positions[..., None].float() * language.rotary_emb.inv_freq.float()
    sections = angles.split(language.rotary_emb.mrope_section, -1)
    angles = torch.cat([section[i % 3] for i, section in enumerate(sections)], -1)
    return rotary(angles, language.config.num_attention_heads, dtype)


class Inside(NamedTuple):
    """What a layer of the text model computed."""

    states: Tensor
    """(B, S, D) after it, not normed."""
    looks: Tensor
    """(B, heads, S, keys) how much each token looked at each."""


class Cache:
    """Keys and values of every layer, room for `length` tokens, filled up to `at`."""

    def __init__(self, language: PreTrainedModel, batch: int, length: int) -> None:
        """Empty, in the type of the model's weights."""
        attend = language.layers[0].self_attn
        shape = (batch, attend.k_proj.out_features // attend.head_dim, length, attend.head_dim)
        dtype = language.embed_tokens.weight.dtype
        self.at = 0
        self.layers = [
            (torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in language.layers
        ]

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, the new ones included."""
        end = self.at + k.shape[2]
        keys, values = self.layers[layer]
        keys[:, :, self.at : end], values[:, :, self.at : end] = k, v
        return keys[:, :, :end], values[:, :, :end]


def read(
    language: PreTrainedModel, x: Tensor, places: Rotary, mask: Tensor, cache: Cache | None = None
) -> tuple[Tensor, list[Inside]]:
    """(B, S, D) embeddings through the text model: the normed last hidden states, and what helper losses see of each layer."""
    b, s, _ = x.shape
    inside: list[Inside] = []
    for i, layer in enumerate(language.layers):
        attend = layer.self_attn
        h = _norm(x, layer.input_layernorm)
        flat = rotate(attend.q_proj(h), places), rotate(attend.k_proj(h), places), attend.v_proj(h)
        q, k, v = (part.view(b, s, -1, attend.head_dim).transpose(1, 2) for part in flat)
        if cache is not None:
            k, v = cache.add(i, k, v)
        if attend.num_key_value_groups > 1:
            k, v = (part.repeat_interleave(attend.num_key_value_groups, 1) for part in (k, v))
        y, looks = attention(q, k, v, mask)
        x = x + attend.o_proj(y.transpose(1, 2).reshape(b, s, -1))
        h = _norm(x, layer.post_attention_layernorm)
        x = x + layer.mlp.down_proj(functional.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
        inside.append(Inside(x, looks))
    if cache is not None:
        cache.at += s
    return _norm(x, language.norm), inside


def embed(
    model: PreTrainedModel, ids: Tensor, image_at: tuple[Tensor, Tensor], tokens: Sequence[Tensor]
) -> Tensor:
    """(B, S, D) embeddings with the image tokens (in reading order) put in their places."""
    x: Tensor = model.model.language_model.embed_tokens(ids)
    return x.index_put(image_at, torch.cat(list(tokens)).to(x.dtype)) if tokens else x


def float_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive mask of a bool one."""
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, HIDDEN)


def hidden(model: PreTrainedModel, batch: Packed, tokens: Sequence[Tensor]) -> tuple[Tensor, list[Inside]]:
    """(B, S, D) hidden states of a packed batch as `read` gives them; `tokens` are its images in reading order (rows, then images)."""
    language = model.model.language_model
    x = embed(model, batch.ids, batch.image_at, tokens)
    return read(language, x, text_rotary(language, batch.positions, x.dtype), float_mask(batch.mask, x.dtype))


def logits(model: PreTrainedModel, states: Tensor, batch: Packed) -> Tensor:
    """(K, vocabulary) logits of the learned tokens."""
    return functional.linear(states[batch.learned_at], model.lm_head.weight).float()


@torch.inference_mode()
def generate(
    model: PreTrainedModel, rows: Sequence[Row], tokens: Sequence[Tensor], special: tuple[int, int, int], limit: int,
    draw: torch.Generator | None = None,
) -> list[list[int]]:  # fmt: skip
    """Completions (token ids without the end) of rows with one branch each; `special` = ids of image, padding and end.

    Greedy, or sampled at temperature 1 when `draw` is given.

    Rows of different lengths are padded on the right and each token goes on from its own row's position.
    """
    image_id, pad_id, end_id = special
    language, weight = model.model.language_model, model.lm_head.weight
    batch = pack(
        [Row(r.prefix, r.grids_hw, [Branch(r.branches[0].prompt, [])]) for r in rows],
        model.model,
        image_id,
        pad_id,
    )
    b, s = batch.ids.shape
    lengths = torch.tensor([len(r.prefix) + len(r.branches[0].prompt) for r in rows])
    cache = Cache(language, b, s + limit)
    x = embed(model, batch.ids, batch.image_at, tokens)
    states, _ = read(
        language, x, text_rotary(language, batch.positions, x.dtype), float_mask(batch.mask, x.dtype), cache
    )
    last = states[torch.arange(b), lengths - 1]
    position = batch.positions[0].gather(1, lengths[:, None] - 1)  # (B, 1)
    seen = torch.ones(b, 1, 1, s + limit, dtype=torch.bool)
    seen[:, 0, 0, :s] = torch.arange(s) < lengths[:, None]
    mask = float_mask(seen, x.dtype)
    written: list[Tensor] = []
    done = torch.zeros(b, dtype=torch.bool)
    for step in range(limit):
        scores = functional.linear(last, weight)
        scores[:, image_id] = float("-inf")
        chosen = (
            scores.argmax(-1)
            if draw is None
            else torch.multinomial(scores.float().softmax(-1), 1, generator=draw)[:, 0]
        )
        token = torch.where(done, end_id, chosen)
        written.append(token)
        done = done | (token == end_id)
        if bool(done.all()) or step == limit - 1:
            break
        places = text_rotary(language, (position + step + 1).expand(3, -1, -1), x.dtype)
        states, _ = read(
            language, language.embed_tokens(token[:, None]), places, mask[..., : s + step + 1], cache
        )
        last = states[:, 0]
    found: list[list[int]] = torch.stack(written, 1).tolist()
    return [ids[: ids.index(end_id)] if end_id in ids else ids for ids in found]
