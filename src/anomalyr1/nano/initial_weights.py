"""How a policy begins, so that it learns from few images: patches told apart, heads that look around, know their place, and match words.

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

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RIDGE = 0.05
"""Added to the variances, in units of their mean: directions that are mostly noise stay quiet."""
SHARPNESS = 5.0
"""How strongly heads of the first two layers prefer their neighbour; the others begin at 0.7 of it and look
twice as far."""
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
"""Steps in patches down and to the right, one a head."""

LOUD = 8.0
"""Size of the keys, and logit, by which heads that tell a place find their two tokens."""
VOICE = 0.18
"""Size of what they write, beside image tokens of about unit size."""
MATCHING = 3.3
"""Factor on the queries and keys of heads that look at tokens like the own one."""
MATCHERS = ((1, 0), (1, 1), (4, 0))
"""Their layers and heads."""

COMPARERS = (2, (1, 2))
"""The layer and its heads that find the like of an image's cell in the image before."""
BETWEEN = 70
"""Steps of the rotary time axis from an image to the next, about: knowledge stands between them."""
LIKENESS, ELSEWHERE = 3.0, 12.0
"""How firmly cells find their like, and how firmly they look at another image than their own."""

COPIERS = ((0, 2), (1, 2))
"""Layers and heads that copy: the one that looks at the token before, and the one that continues what it
finds."""
SLOW = 0.006
"""Radians a token: the rotary frequencies below it hardly tell distances of a prompt's length."""
STEP_BACK, TELLING, FINDING, COPYING = 6.0, 0.4, 1.8, 1.0
"""How firmly the first looks one token back, how loud it tells, how firmly the second finds, how loud it
continues."""


@torch.no_grad()
def whiten(tower: PreTrainedModel, patches: torch.Tensor) -> None:
    """Set the patch embedding to the principal directions of `patches`, (N, 3 * p * p) normalised ones, each of unit variance."""
    weight = tower.patch_embed.proj.weight  # (width, 3, 2, p, p)
    x = patches.double()
    variances, directions = torch.linalg.eigh(x.T @ x / len(x))
    variances, directions = variances.flip(0), directions.flip(1)
    count = min(len(weight), len(variances))
    kept = variances[:count]
    rows = (directions[:, :count] / torch.sqrt(kept + RIDGE * kept.mean())).T
    if count < len(weight):
        mix = torch.randn(
            len(weight) - count, count, dtype=torch.double, generator=torch.Generator().manual_seed(3)
        )
        rows = torch.cat([rows, mix @ rows / count**0.5])
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
def tell_place(language: PreTrainedModel, anchor_id: int, rest_id: int) -> None:
    """Let the first two heads of the text model's first layer tell image tokens their row and their column.

    A transformer with rotary embeddings knows distances only. Each of these heads weighs the token that opens
    the image (`anchor_id`) against tokens that stand anywhere (`rest_id`); how much it looks at the first
    falls with the rows or columns between, and that is written to the residual stream. Without this start,
    boxes wait for the text model to find it.
    """
    attend, config = language.layers[0].self_attn, language.config
    size = attend.head_dim
    anchor, rest = (e / e.norm() for e in (language.embed_tokens.weight[i] for i in (anchor_id, rest_id)))
    key = LOUD / config.hidden_size**0.5  # times a normed embedding gives LOUD
    axes = _axes(config.rope_parameters["mrope_section"])
    draw = torch.Generator().manual_seed(4)
    for head, axis, slow, phase, power in ((0, 1, 0.1, 0.8, 4.0), (1, 2, 0.06, 1.1, 6.0)):
        frequency = language.rotary_emb.inv_freq.float()
        fitting = [i for i, own in enumerate(axes) if own == axis]
        pair = min(fitting, key=lambda i: abs(float(frequency[i]) - slow))
        constant = size // 2 - 1  # turns too slowly to matter
        first = head * size
        q, k = attend.q_proj.bias, attend.k_proj.weight
        q[first + pair], q[first + pair + size // 2] = power * math.cos(phase), power * math.sin(phase)
        q[first + constant] = LOUD
        k[first + pair] = key * anchor
        k[first + constant] = key * (anchor + rest)
        told = torch.randn(size, generator=draw) * VOICE
        attend.v_proj.weight[first : first + size] = told[:, None] * anchor


@torch.no_grad()
def match_words(language: PreTrainedModel) -> None:
    """Let heads of the second and fifth layer (`MATCHERS`) look at tokens like the own one, which finds an option by its words.

    Call it after `tell_place`: these heads do not see what that writes.
    """
    first, width = language.layers[0].self_attn, language.config.hidden_size
    size = first.head_dim
    places = [
        first.o_proj.weight[:, h * size : (h + 1) * size]
        @ first.v_proj.weight[h * size : (h + 1) * size].sum(1)
        for h in (0, 1)
    ]
    basis = torch.linalg.qr(torch.stack(places, 1))[0]  # (width, 2)
    blind = torch.eye(width) - basis @ basis.T
    for number, head in MATCHERS:
        attend = language.layers[number].self_attn
        rows = slice(head * size, (head + 1) * size)
        attend.q_proj.weight[rows] = MATCHING * attend.q_proj.weight[rows] @ blind
        attend.k_proj.weight[rows] = attend.q_proj.weight[rows]


@torch.no_grad()
def copy_words(language: PreTrainedModel) -> None:
    """Wire two heads to copy: one tells each token what stands before it, the next looks behind the last place where the own token stood.

    Together they continue a word that was read before (the "induction heads" of Elhage et al., 2021, and
    Olsson et al., 2022). Training alone did not find them in the time there is, and without them a name that
    only the knowledge tells cannot be written.
    """
    config, frequency = language.config, language.rotary_emb.inv_freq.float()
    width, size = config.hidden_size, language.layers[0].self_attn.head_dim
    half, (before, behind) = size // 2, COPIERS
    mixed = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(5)))[0]
    turned = _slow(frequency)  # what hardly turns with distance compares content
    read, written, said = mixed[: len(turned)], mixed[len(turned) : 2 * len(turned)], mixed[-size:]

    number, head = before
    attend, rows = language.layers[number].self_attn, slice(head * size, (head + 1) * size)
    for part in (attend.q_proj, attend.k_proj):
        part.weight[rows] *= 0.1
    attend.q_proj.bias[rows] = STEP_BACK * torch.cat([frequency.cos(), -frequency.sin()])
    attend.k_proj.bias[rows] = STEP_BACK * torch.cat([torch.ones(half), torch.zeros(half)])
    attend.v_proj.weight[rows] = 0
    attend.v_proj.weight[rows][: len(turned)] = read
    attend.o_proj.weight[:, rows] = 0
    attend.o_proj.weight[:, rows][:, : len(turned)] = TELLING * written.T

    number, head = behind
    attend, rows = language.layers[number].self_attn, slice(head * size, (head + 1) * size)
    for part, seen in ((attend.q_proj, read), (attend.k_proj, written)):
        part.weight[rows] *= 0.1
        part.weight[rows][turned] = FINDING * seen
    attend.v_proj.weight[rows] = said
    attend.o_proj.weight[:, rows] = COPYING * said.T


@torch.no_grad()
def compare_images(language: PreTrainedModel) -> None:
    """Let heads of the third layer (`COMPARERS`) look from each cell of an image at the cells like it in the image before.

    A defect is what the reference has nothing like; nearest neighbours in a memory of good parts are how
    PatchCore (Roth et al., 2022) finds it.
    """
    config, frequency = language.config, language.rotary_emb.inv_freq.float()
    attend, half, width = (
        language.layers[COMPARERS[0]].self_attn,
        language.layers[0].self_attn.head_dim // 2,
        config.hidden_size,
    )
    turned = _slow(frequency)
    in_time = [i for i, axis in enumerate(_axes(config.rope_parameters["mrope_section"])) if axis == 0]
    pair = min(in_time, key=lambda i: abs(float(frequency[i]) * BETWEEN - 2.1))
    angle = float(frequency[pair]) * BETWEEN
    for head in COMPARERS[1]:
        rows = slice(2 * half * head, 2 * half * (head + 1))
        mixed = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(6 + head)))[
            0
        ]
        for part in (attend.q_proj, attend.k_proj):
            part.weight[rows] *= 0.1
            part.weight[rows][turned] = LIKENESS * mixed[: len(turned)]
            part.bias[rows] = 0
        attend.q_proj.bias[rows][[pair, pair + half]] = ELSEWHERE * torch.tensor(
            [math.cos(angle), -math.sin(angle)]
        )
        attend.k_proj.bias[rows][pair] = ELSEWHERE
        attend.v_proj.weight[rows] = mixed[-2 * half :]


def _slow(frequency: torch.Tensor) -> torch.Tensor:
    """The entries of a head that hardly turn with the distance of tokens."""
    slow = [i for i in range(len(frequency)) if float(frequency[i]) < SLOW]
    return torch.tensor([*slow, *(i + len(frequency) for i in slow)])


def _axes(sections: list[int]) -> list[int]:
    """Which of time, height and width each frequency of the multimodal rotary embedding follows."""
    return [number % 3 for number, count in enumerate(sections) for _ in range(count)]
