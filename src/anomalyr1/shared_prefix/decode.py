"""Many completions from one prefill: every image once through the vision tower, every shared token once through the text model.

The trees of a batch (`trees.py`) are the rows of one cache. Behind the prefix a row holds the suffixes of all
its questions and the tokens of all its completions, and a mask lets each token see the prefix, its own
question and its own completion, so that no key or value is ever copied to a branch. Positions go on after the
prefix in every branch, as if it were alone. The model's own modules do all the computing; their logits differ
from those of one prompt alone by rounding (1e-6 in float32).

Covered: Qwen2.5-VL, Qwen3-VL and its mixtures of experts, with `sdpa` or `eager` attention. Not covered:
sliding windows, which these models do not use, and attention kernels that take no mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer

from anomalyr1.shared_prefix.trees import Tree
from anomalyr1.types import SetupError

VISION_TOKENS = 4096
"""Images are encoded together up to so many image tokens."""
PREFIX, NOTHING = 0, -1
"""Owners of a cache column: all branches of its row, or padding."""

Choose = Callable[[Tensor, Sequence[int]], list[int]]
"""Logits (N, V) and the N places in the call that they belong to -> the next token of each."""


@dataclass(frozen=True)
class Seen:
    """An image as the vision tower sees it."""

    tokens: Tensor
    """(T, D)"""
    deep: tuple[Tensor, ...]
    """(T, D) for each of the first text layers of Qwen3-VL; empty for Qwen2.5-VL."""
    grid_thw: Tensor
    """(1, 3)"""


@dataclass
class _Twig:
    """A completion on its way."""

    index: int
    """Its place in the call."""
    row: int
    question: int
    """The owner number of its question's columns."""
    own: int
    """The owner number of its own columns."""
    position: int
    """Of the next token that is fed."""
    written: list[int]


def require_support(model: Any) -> None:
    """Raise `SetupError` where this version of transformers or this model cannot share a prefix."""
    if "mm_encoder_outputs" not in inspect.signature(model.model.forward).parameters:
        raise SetupError(
            "this version of transformers cannot reuse encoded images; run: pip install -U 'transformers>=5.23,<6'"
        )
    if "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        raise SetupError(
            "this model attends through sliding windows, which the local engine does not support; use another checkpoint"
        )


@torch.inference_mode()
def see(model: Any, pictures: Sequence[tuple[Tensor, Tensor]]) -> list[Seen]:
    """Encode images, each given as its patches and its grid (1, 3)."""
    merge = model.config.vision_config.spatial_merge_size**2
    seen: list[Seen] = []
    for part in _runs([len(patches) // merge for patches, _ in pictures], VISION_TOKENS):
        patches = torch.cat([pictures[i][0] for i in part]).to(model.device)
        grids = torch.cat([pictures[i][1] for i in part]).to(model.device)
        found = model.model.get_image_features(patches, grids, return_dict=True)
        deep = getattr(found, "deepstack_features", None) or []
        seen += [
            Seen(found.pooler_output[place], tuple(layer[place] for layer in deep), grids[place : place + 1])
            for place in range(len(part))
        ]
    return seen


@torch.inference_mode()
def grow(
    model: Any,
    trees: Sequence[Tree],
    images: Sequence[Sequence[Seen]],
    choose: Choose,
    stop_ids: Sequence[int],
    max_new_tokens: int,
) -> dict[int, list[int]]:
    """The completions of trees that are computed together: place in the call -> token ids, the stop token included.

    `images` are those of each tree, in the order of its prefix. A completion that has ended is not computed
    further.
    """
    cache = _RowCache(model, trees, max_new_tokens)
    starts = _prefill(model, cache, trees, images)
    logits, live = _ask(model, cache, trees, starts)
    grown: dict[int, list[int]] = {}
    for step in range(1, max_new_tokens + 1):
        going = []
        for twig, token in zip(live, choose(logits, [twig.index for twig in live]), strict=True):
            twig.written.append(token)
            if step == max_new_tokens or token in stop_ids:
                grown[twig.index] = twig.written
            else:
                going.append(twig)
        if not going:
            break
        live = cache.keep_rows_of(going)
        logits = _step(model, cache, live)
    return grown


class _RowCache:
    """Keys and values of all rows, and whose each column is."""

    def __init__(self, model: Any, trees: Sequence[Tree], max_new_tokens: int) -> None:
        longest = max(len(tree.prefix) for tree in trees)
        known = longest + max(tree.suffix_tokens for tree in trees)
        # Room for the completions comes as they grow: most end long before the limit.
        room = known + max(tree.samples for tree in trees) * min(max_new_tokens, 32)
        layers = model.config.get_text_config().num_hidden_layers
        self.states = Cache(layers=[_GrowingLayer(room) for _ in range(layers)])
        self.owners = torch.empty((len(trees), 0), dtype=torch.long, device=model.device)  # (B, columns)
        self._dtype = model.dtype

    def mask(self, own: Tensor, *also: Tensor) -> Tensor:
        """The float mask (B, 1, C, columns + C) of C new columns with the owners `own` (B, C), which are noted down.

        A new column sees the prefix, what has its own owner up to itself, and what has one of the owners
        `also` (each (B, C)).
        """
        new = own.shape[1]
        self.owners = torch.cat([self.owners, own], dim=1)
        held = self.owners[:, None, :]  # (B, 1, columns + C)
        visible = (held == PREFIX) | (held == own[:, :, None])
        for owner in also:
            visible |= held == owner[:, :, None]
        visible[:, :, -new:] &= torch.ones((new, new), dtype=torch.bool, device=own.device).tril()
        visible &= held != NOTHING
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=own.device)
        return mask.masked_fill_(~visible, torch.finfo(self._dtype).min)[:, None]

    def keep_rows_of(self, twigs: list[_Twig]) -> list[_Twig]:
        """Drop the rows that no twig needs, once they are a quarter of all (dropping copies the others)."""
        rows = sorted({twig.row for twig in twigs})
        if 4 * len(rows) <= 3 * len(self.owners):
            kept = torch.tensor(rows, device=self.owners.device)
            self.owners = self.owners[kept]
            self.states.batch_select_indices(kept)
            for twig in twigs:
                twig.row = rows.index(twig.row)
        return twigs


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values in a buffer with room for more, so that a step does not copy all of them."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._length = 0
        self._buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, heads, C, D); returns all of them, as views."""
        end = self._length + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if not self._buffers or end > self._buffers[0].shape[2]:
            self._room = max(self._room, end, self._length * 5 // 4)
            self._buffers = [self._larger(i, states) for i, states in enumerate((key_states, value_states))]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def _larger(self, i: int, states: Tensor) -> Tensor:
        batch, heads, _, size = states.shape
        larger = states.new_empty((batch, heads, self._room, size))
        if self._buffers:
            larger[:, :, : self._length] = self._buffers[i][:, :, : self._length]
        return larger

    def get_seq_length(self) -> int:
        """How many columns it holds."""
        return self._length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)


def _prefill(
    model: Any, cache: _RowCache, trees: Sequence[Tree], images: Sequence[Sequence[Seen]]
) -> list[int]:
    """Compute the prefixes, padded on the left; returns where positions go on in each row."""
    longest = max(len(tree.prefix) for tree in trees)
    if longest == 0:
        return [0] * len(trees)
    device, pads = model.device, [longest - len(tree.prefix) for tree in trees]
    ids = torch.tensor(
        [[0] * pad + list(tree.prefix) for pad, tree in zip(pads, trees, strict=True)], device=device
    )  # (B, P)
    real = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads], device=device)  # (B, P)
    shown = [one for own in images for one in own]
    kinds = ((ids == model.config.image_token_id) & (real == 1)).int()
    grids = torch.cat([one.grid_thw for one in shown]) if shown else None
    positions, _ = model.model.get_rope_index(
        ids, mm_token_type_ids=kinds, image_grid_thw=grids, attention_mask=real
    )  # (3, B, P)
    encoded = SimpleNamespace(
        pooler_output=tuple(one.tokens for one in shown),
        deepstack_features=[tuple(layer) for layer in zip(*(one.deep for one in shown), strict=True)],
    )
    model.model(
        input_ids=ids,
        attention_mask=real if any(pads) else None,
        position_ids=positions,
        past_key_values=cache.states,
        use_cache=True,
        **({"mm_encoder_outputs": {"image": encoded}} if shown else {}),
    )
    cache.owners = torch.where(real == 1, PREFIX, NOTHING)
    ends = positions.amax(dim=0).masked_fill(real == 0, -1).amax(dim=1) + 1  # (B,)
    return [int(end) for end in ends]


def _ask(
    model: Any, cache: _RowCache, trees: Sequence[Tree], starts: Sequence[int]
) -> tuple[Tensor, list[_Twig]]:
    """Compute the suffixes of all questions; returns the logits (N, V) of the first token of each completion."""
    columns = max(tree.suffix_tokens for tree in trees)
    ids = torch.zeros((len(trees), columns), dtype=torch.long)
    owners, positions = torch.full_like(ids, NOTHING), torch.zeros_like(ids)
    twigs: list[_Twig] = []
    last: list[int] = []
    for row, (tree, start) in enumerate(zip(trees, starts, strict=True)):
        at, own = 0, len(tree.branches)
        for question, branch in enumerate(tree.branches, start=1):
            end = at + len(branch.suffix)
            ids[row, at:end] = torch.tensor(branch.suffix)
            owners[row, at:end] = question
            positions[row, at:end] = torch.arange(start, start + end - at)
            for index in branch.samples:
                own += 1
                twigs.append(_Twig(index, row, question, own, start + end - at, []))
                last.append(end - 1)
            at = end
    hidden = _forward(model, cache, ids, positions, cache.mask(owners.to(model.device)))
    return _logits(model, hidden, twigs, last), twigs


def _step(model: Any, cache: _RowCache, live: Sequence[_Twig]) -> Tensor:
    """Feed each completion's last token; returns the logits (N, V) of the next."""
    rows: list[list[_Twig]] = [[] for _ in cache.owners]
    column: list[int] = []
    for twig in live:
        column.append(len(rows[twig.row]))
        rows[twig.row].append(twig)
    widest = max(map(len, rows))
    ids = torch.zeros((len(rows), widest), dtype=torch.long)  # (B, C)
    own, questions, positions = (
        torch.full_like(ids, NOTHING),
        torch.full_like(ids, NOTHING),
        torch.zeros_like(ids),
    )
    for row, twigs in enumerate(rows):
        end = len(twigs)
        ids[row, :end] = torch.tensor([twig.written[-1] for twig in twigs], dtype=torch.long)
        own[row, :end] = torch.tensor([twig.own for twig in twigs], dtype=torch.long)
        questions[row, :end] = torch.tensor([twig.question for twig in twigs], dtype=torch.long)
        positions[row, :end] = torch.tensor([twig.position for twig in twigs], dtype=torch.long)
    for twig in live:
        twig.position += 1
    hidden = _forward(
        model, cache, ids, positions, cache.mask(own.to(model.device), questions.to(model.device))
    )
    return _logits(model, hidden, live, column)


def _forward(model: Any, cache: _RowCache, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """The hidden states (B, C, D) of new columns of text."""
    out = model.model(
        input_ids=ids.to(model.device),
        attention_mask=mask,
        position_ids=positions.to(model.device).expand(3, *ids.shape),
        past_key_values=cache.states,
        use_cache=True,
    )
    hidden: Tensor = out.last_hidden_state
    return hidden


def _logits(model: Any, hidden: Tensor, twigs: Sequence[_Twig], columns: Sequence[int]) -> Tensor:
    """The logits (N, V) in float32 at each twig's column of `hidden`."""
    rows = torch.tensor([twig.row for twig in twigs], device=hidden.device)
    picked = hidden[rows, torch.tensor(columns, device=hidden.device)]  # (N, D)
    logits: Tensor = model.get_output_embeddings()(picked)
    return logits.float()


def _runs(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of neighbouring sizes that together stay within `most`; a larger one comes alone."""
    run: list[int] = []
    for place, size in enumerate(sizes):
        if run and sum(sizes[i] for i in run) + size > most:
            yield run
            run = []
        run.append(place)
    if run:
        yield run
