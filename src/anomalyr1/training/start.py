"""How a vision tower begins, so that it learns from few images: patches told apart by their content, heads that look around.

Transformers learn what convolutions have by construction only after many images. Two starting points spare most of that: patch
embeddings that whiten patches of real inputs (as in Coates and Ng, 2012), and attention biases that make each head look at one
neighbour through the rotary embedding, which is convolution's wiring (d'Ascoli et al., "ConViT", 2021; here without a new layer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RIDGE = 0.05
"""Added to the variances, in units of their mean: directions that are mostly noise stay quiet."""
SHARPNESS = 5.0
"""How strongly heads of the first two layers prefer their neighbour; the others begin at 0.7 of it and look twice as far."""
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
"""Steps in patches down and to the right, one a head."""


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
        mix = torch.randn(len(weight) - count, count, dtype=torch.double, generator=torch.Generator().manual_seed(3))
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
