"""How a policy begins, so that it learns from few images.

Patches are told apart; heads look around, know their place, match and copy words, and compare images.

Transformers learn what convolutions have by construction only after many images. Two starting points spare
most of that: patch embeddings that whiten patches of real inputs (as in Coates and Ng, 2012), and attention
biases that make each head look at one neighbour through the rotary embedding, which is convolution's wiring
(d'Ascoli et al., "ConViT", 2021; here without a new layer). The text model's heads get the same help with
places and with equal words (queries and keys alike: Trockman and Kolter, 2023).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLAttention

RIDGE = 0.05
"""Added to the variances, in units of their mean: directions that are mostly noise stay quiet."""
SHARPNESS = 5.0
"""How strongly heads of the lowest two layers prefer their neighbour; those above begin at 0.7 of it and look
twice as far."""
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
"""Steps in patches down and to the right, one a head."""

LOUD = 8.0
"""Size of the keys, and logit, by which heads that tell a place find their two tokens."""
VOICE = 0.18
"""Size of what they write, beside image tokens of about unit size."""
MATCHING = 3.3
"""Factor on the queries and keys of heads that look at tokens like their own."""
MATCHERS = ((1, 0), (1, 1), (4, 0))
"""Layers and heads of the heads that look at tokens like their own."""

COMPARERS = (2, (1, 2))
"""The layer and its heads that find the like of an image's cell in the image before."""
BETWEEN = 70
"""Steps of the rotary time axis from an image to the next, about: knowledge stands between them."""
LIKENESS, ELSEWHERE = 3.0, 12.0
"""How firmly cells find their like, and how firmly they look at an image that is not their own."""

COPIERS = ((0, 2), (1, 2))
"""Layers and heads that copy: the one that looks at the token before, and the one that continues what it
finds."""
SLOW = 0.006
"""Radians a token: the rotary frequencies below it hardly tell distances of a prompt's length."""
STEP_BACK, TELLING, FINDING, COPYING = 6.0, 0.4, 1.8, 1.0
"""How firmly the lower copier looks one token back, how loud it tells what it saw, how firmly the upper one
finds that, how loud it continues."""


@torch.no_grad()
def whiten(tower: PreTrainedModel, patches: Tensor) -> None:
    """Set the patch embedding to the principal directions of (N, 3 * p * p) normalised `patches`.

    Each direction gets unit variance.
    """
    weight = tower.patch_embed.proj.weight  # (width, 3, 2, p, p)
    x = patches.double()
    variances, directions = torch.linalg.eigh(x.T @ x / len(x))
    variances, directions = variances.flip(0), directions.flip(1)
    count = min(len(weight), len(variances))
    variances = variances[:count]
    rows = (directions[:, :count] / torch.sqrt(variances + RIDGE * variances.mean())).T
    if count < len(weight):  # mixtures of the directions fill the width
        shape, generator = (len(weight) - count, count), torch.Generator().manual_seed(3)
        mixture = torch.randn(shape, dtype=torch.double, generator=generator)
        rows = torch.cat([rows, mixture @ rows / count**0.5])
    frames = weight.shape[2]  # a still image stands in all of them
    weight.copy_((rows / frames).view(len(weight), 3, 1, *weight.shape[3:]).expand_as(weight).float())


@torch.no_grad()
def look_around(tower: PreTrainedModel) -> None:
    """Set the attention biases so that head h of every layer looks at the patch `NEIGHBOURS[h % 8]` away."""
    frequencies = tower.rotary_pos_emb.inv_freq.float()
    for number, block in enumerate(tower.blocks):
        heads = block.attn.num_heads
        bias = torch.zeros(3, heads, 4 * len(frequencies))
        strength, reach = (SHARPNESS, 1) if number < 2 else (0.7 * SHARPNESS, 2)
        for head in range(heads):
            down, right = NEIGHBOURS[head % len(NEIGHBOURS)]
            angle = torch.cat([frequencies * down * reach, frequencies * right * reach])
            bias[0, head] = strength * torch.cat([angle.cos(), angle.sin()])
            bias[1, head, : len(angle)] = strength
        block.attn.qkv.bias.copy_(bias.flatten())


@torch.no_grad()
def tell_place(model: PreTrainedModel) -> None:
    """Let the lowest two heads of the text model tell image tokens their row and their column.

    A transformer with rotary embeddings knows distances only. Each of these heads weighs the token that opens
    the image against the token that opens a turn, which stands anywhere; how much it looks at the image's
    opening falls with the rows or columns between, and that is written to the residual stream. Without this
    start, boxes wait for the text model to find it.
    """
    language, config = model.model.language_model, model.model.language_model.config
    attend, frequencies = language.layers[0].self_attn, language.rotary_emb.inv_freq.float()
    size = attend.head_dim
    ids = (model.config.vision_start_token_id, config.bos_token_id)
    anchor, turn = (e / e.norm() for e in (language.embed_tokens.weight[i] for i in ids))
    key = LOUD / config.hidden_size**0.5  # times a normed embedding gives LOUD
    axes = _axes(config.rope_parameters["mrope_section"])
    generator = torch.Generator().manual_seed(4)
    for head, axis, slow, phase, power in ((0, 1, 0.1, 0.8, 4.0), (1, 2, 0.06, 1.1, 6.0)):
        rows = _rows_of_head(attend, head)
        # 1. The query turns with the way from the image's opening along the axis, or not at all.
        pair = _nearest_frequency(frequencies, axes, axis, slow)
        constant = size // 2 - 1  # turns too slowly to matter
        query = attend.q_proj.bias[rows]
        query[pair], query[pair + size // 2] = power * math.cos(phase), power * math.sin(phase)
        query[constant] = LOUD
        # 2. The image's opening answers to it, and so do, always alike, both tokens.
        keys = attend.k_proj.weight[rows]
        keys[pair] = key * anchor
        keys[constant] = key * (anchor + turn)
        # 3. Only the image's opening says something.
        attend.v_proj.weight[rows] = (torch.randn(size, generator=generator) * VOICE)[:, None] * anchor


@torch.no_grad()
def match_words(language: PreTrainedModel) -> None:
    """Let heads of the second and fifth layer (`MATCHERS`) look at tokens like their own.

    That finds an option by its words. Call it after `tell_place`: these heads do not see what that writes.
    """
    lowest, width = language.layers[0].self_attn, language.config.hidden_size
    places = [
        lowest.o_proj.weight[:, rows] @ lowest.v_proj.weight[rows].sum(1)
        for rows in (_rows_of_head(lowest, head) for head in (0, 1))
    ]
    basis = torch.linalg.qr(torch.stack(places, 1))[0]  # (width, 2)
    blind = torch.eye(width) - basis @ basis.T
    for number, head in MATCHERS:
        attend = language.layers[number].self_attn
        rows = _rows_of_head(attend, head)
        attend.q_proj.weight[rows] = MATCHING * attend.q_proj.weight[rows] @ blind
        attend.k_proj.weight[rows] = attend.q_proj.weight[rows]


@torch.no_grad()
def copy_words(language: PreTrainedModel) -> None:
    """Wire two heads to copy.

    The lower tells each token what stands before it; the upper looks behind the nearest place where its own
    token stood. Together they continue a word that stood before (the "induction heads" of Elhage et al.,
    2021, and Olsson et al., 2022). Training alone did not find them in the time there is, and without them a
    name that only the knowledge tells cannot be copied.
    """
    frequencies = language.rotary_emb.inv_freq.float()
    lower, upper = ((language.layers[number].self_attn, head) for number, head in COPIERS)
    width, size = language.config.hidden_size, lower[0].head_dim
    directions = _random_directions(width, seed=5)
    slow = _slow_entries(frequencies)  # what hardly turns with distance compares content
    content, note, voice = directions[: len(slow)], directions[len(slow) : 2 * len(slow)], directions[-size:]

    # 1. The lower head looks one token back and notes its content.
    attend, rows = lower[0], _rows_of_head(*lower)
    for projection in (attend.q_proj, attend.k_proj):
        projection.weight[rows] *= 0.1
    attend.q_proj.bias[rows] = STEP_BACK * torch.cat([frequencies.cos(), -frequencies.sin()])
    attend.k_proj.bias[rows] = STEP_BACK * torch.cat([torch.ones(size // 2), torch.zeros(size // 2)])
    attend.v_proj.weight[rows] = 0
    attend.v_proj.weight[rows][: len(slow)] = content
    attend.o_proj.weight[:, rows] = 0
    attend.o_proj.weight[:, rows][:, : len(slow)] = TELLING * note.T

    # 2. The upper head looks for its own content among the notes, and says what stands there.
    attend, rows = upper[0], _rows_of_head(*upper)
    for projection, source in ((attend.q_proj, content), (attend.k_proj, note)):
        projection.weight[rows] *= 0.1
        projection.weight[rows][slow] = FINDING * source
    attend.v_proj.weight[rows] = voice
    attend.o_proj.weight[:, rows] = COPYING * voice.T


@torch.no_grad()
def compare_images(language: PreTrainedModel) -> None:
    """Let heads of the third layer (`COMPARERS`) look from each cell of an image at its like in another one.

    The other one is the image before it. A defect is what the reference has nothing like; nearest neighbours
    in a memory of good parts are how PatchCore (Roth et al., 2022) finds it.
    """
    config, frequencies = language.config, language.rotary_emb.inv_freq.float()
    layer, heads = COMPARERS
    attend = language.layers[layer].self_attn
    slow = _slow_entries(frequencies)
    pair = _nearest_frequency(frequencies * BETWEEN, _axes(config.rope_parameters["mrope_section"]), 0, 2.1)
    angle = float(frequencies[pair]) * BETWEEN
    turned_by_an_image = torch.tensor([math.cos(angle), -math.sin(angle)])
    for head in heads:
        rows = _rows_of_head(attend, head)
        directions = _random_directions(config.hidden_size, seed=6 + head)
        # 1. Queries and keys compare content.
        for projection in (attend.q_proj, attend.k_proj):
            projection.weight[rows] *= 0.1
            projection.weight[rows][slow] = LIKENESS * directions[: len(slow)]
            projection.bias[rows] = 0
        # 2. They fit best at a distance in time of one image.
        attend.q_proj.bias[rows][[pair, pair + len(frequencies)]] = ELSEWHERE * turned_by_an_image
        attend.k_proj.bias[rows][pair] = ELSEWHERE
        attend.v_proj.weight[rows] = directions[-attend.head_dim :]


def _rows_of_head(attend: Qwen2_5_VLAttention, head: int) -> slice:
    """The rows of a head in the weights of queries, keys and values."""
    return slice(head * attend.head_dim, (head + 1) * attend.head_dim)


def _random_directions(width: int, seed: int) -> Tensor:
    """(width, width) orthonormal rows, the same for a seed."""
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(seed))
    directions: Tensor = torch.linalg.qr(noise)[0]
    return directions


def _nearest_frequency(frequencies: Tensor, axes: list[int], axis: int, target: float) -> int:
    """The number of the frequency nearest to `target` among those that follow an axis."""
    candidates = [i for i, followed in enumerate(axes) if followed == axis]
    return min(candidates, key=lambda i: abs(float(frequencies[i]) - target))


def _slow_entries(frequencies: Tensor) -> Tensor:
    """The entries of a head that hardly turn with the distance of tokens."""
    slow = [i for i in range(len(frequencies)) if float(frequencies[i]) < SLOW]
    return torch.tensor([*slow, *(i + len(frequencies) for i in slow)])


def _axes(sections: list[int]) -> list[int]:
    """Which of time, height and width each frequency of the multimodal rotary embedding follows."""
    return [number % 3 for number, count in enumerate(sections) for _ in range(count)]
