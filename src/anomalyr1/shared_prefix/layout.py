"""How a prompt and its continuations lie in one row, and which token looks at which.

Behind the tokens of a prompt lie those of its branches (questions, completions), one branch after the other
or in turns. Every column of the row has an owner: `PREFIX`, the number of a branch (from 1), or `PADDING`.

    row      The  image  shows   a  dent    no  dent
    owner     0     0      0     1   1      2    2

A token looks at the prefix and at its own branch, up to itself: the last "dent" at "The image shows no dent".
So no branch knows of another, and each is computed as if it stood alone behind the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PREFIX, PADDING = 0, -1
"""The owners of columns that all branches of the row may see, and of columns that none may see."""


def attention_mask(owners: Tensor, query_owners: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """(B, 1, C, K) what is added to attention logits: 0 where a token looks, the least number elsewhere.

    `owners` (B, K) are those of all columns. The C columns at the end look: each at the prefix and at the
    columns of those owners that `query_owners`, (B, C) each, name for it; never at what comes behind it.
    """
    columns = query_owners[0].shape[1]
    key_owners = owners[:, None, :]  # (B, 1, K)
    visible = key_owners == PREFIX
    for query_owner in query_owners:
        visible = visible | (key_owners == query_owner[:, :, None])  # (B, C, K)
    causal = torch.ones((columns, columns), dtype=torch.bool, device=owners.device).tril()
    visible[:, :, -columns:] &= causal
    mask = torch.zeros(visible.shape, dtype=dtype, device=owners.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def pad_left(rows: Sequence[Tensor], filler: int) -> tuple[Tensor, Tensor]:
    """(B, P) token ids of B rows that end together, and (B, P) 1 where there is a token, 0 for the filler."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), filler, device=rows[0].device)
    is_token = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = row
        is_token[i, longest - len(row) :] = 1
    return ids, is_token
