"""Many completions from one reading of their prompt: each image and each shared token is computed once.

The trees of a batch (`trees.py`) are the rows of one cache. Behind the prefix a row holds the suffixes of all
its questions, and then, step by step, the tokens of all its completions:

    columns   prefix: words, images, words   question 1   question 2   step 1    step 2
    owners    0  0  0  0  0  0  0  0  0  0   1  1  1  1   2  2  2      3  4  5   3  4  5

Here completions 3 and 4 answer question 1, and 5 answers question 2. A token looks at the prefix, its own
question and its own completion (`layout.py`), so that no key or value is ever copied to a branch. Positions
go on after the prefix in every branch, as if it were alone. The model's own modules do all the computing;
their logits differ from those of one prompt alone by rounding (1e-6 in float32).

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

from anomalyr1.shared_prefix.layout import PADDING, PREFIX, attention_mask, pad_left
from anomalyr1.shared_prefix.trees import Tree
from anomalyr1.types import SetupError

VISION_TOKENS = 4096
"""Images are encoded together up to so many image tokens."""

ChooseTokens = Callable[[Tensor, Sequence[int]], list[int]]
"""Logits (N, V) and the N places in the call that they belong to -> the next token of each."""


@dataclass(frozen=True)
class EncodedImage:
    """An image as the vision tower sees it: T tokens of the text model's D numbers."""

    tokens: Tensor
    """(T, D) what stands in the prompt for the image."""
    deep: tuple[Tensor, ...]
    """(T, D) what is added in each of the lowest text layers of Qwen3-VL; empty for Qwen2.5-VL."""
    grid_thw: Tensor
    """(1, 3) its patches in time, height and width."""


@dataclass
class _LiveCompletion:
    """A completion on its way."""

    index: int
    """Its place in the call."""
    row: int
    """The row of the cache that holds it."""
    question: int
    """The owner number of its question's columns."""
    owner: int
    """The owner number of its own columns."""
    position: int
    """The position of the next token that is fed."""
    ids: list[int]
    """The tokens that have been chosen."""


def require_support(model: Any) -> None:
    """Raise `SetupError` where this version of transformers or this model cannot share a prefix."""
    if "mm_encoder_outputs" not in inspect.signature(model.model.forward).parameters:
        raise SetupError(
            "this version of transformers cannot reuse encoded images; "
            "run: pip install -U 'transformers>=5.23,<6'"
        )
    if "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        raise SetupError(
            "this model attends through sliding windows, which the local engine does not support; "
            "use another checkpoint"
        )


@torch.inference_mode()
def encode_images(model: Any, pictures: Sequence[tuple[Tensor, Tensor]]) -> list[EncodedImage]:
    """What the vision tower makes of images, each given as its patches (patches, values) and grid (1, 3)."""
    patches_a_token = model.config.vision_config.spatial_merge_size**2
    tokens = [len(patches) // patches_a_token for patches, _ in pictures]
    encoded: list[EncodedImage] = []
    for places in _split_within(tokens, VISION_TOKENS):
        patches = torch.cat([pictures[place][0] for place in places]).to(model.device)
        grids = torch.cat([pictures[place][1] for place in places]).to(model.device)
        output = model.model.get_image_features(patches, grids, return_dict=True)
        deep_layers = getattr(output, "deepstack_features", None) or []
        for i in range(len(places)):
            deep = tuple(layer[i] for layer in deep_layers)
            encoded.append(EncodedImage(output.pooler_output[i], deep, grids[i : i + 1]))
    return encoded


@torch.inference_mode()
def grow_completions(
    model: Any,
    trees: Sequence[Tree],
    images: Sequence[Sequence[EncodedImage]],
    choose_tokens: ChooseTokens,
    stop_ids: Sequence[int],
    max_new_tokens: int,
) -> dict[int, list[int]]:
    """The completions of trees that are computed together, by their place in the call.

    A completion is its token ids, the stop token included. `images` are those of each tree, in the order of
    its prefix. A completion that has ended is not computed further.
    """
    # 1. Prefill: every prefix once, in a row of its own. Positions go on behind it, at `starts`.
    cache = _RowCache(model, trees, max_new_tokens)
    starts = _prefill(model, cache, trees, images)
    # 2. Read all questions behind their prefixes: logits (N, V) of each completion's first token.
    logits, live = _read_questions(model, cache, trees, starts)
    finished: dict[int, list[int]] = {}
    for step in range(1, max_new_tokens + 1):
        # 3. Choose a token for each completion, and set aside those that end with it.
        tokens = choose_tokens(logits, [completion.index for completion in live])
        going_on = []
        for completion, token in zip(live, tokens, strict=True):
            completion.ids.append(token)
            if step == max_new_tokens or token in stop_ids:
                finished[completion.index] = completion.ids
            else:
                going_on.append(completion)
        if not going_on:
            break
        # 4. Feed these tokens, a column for each, and go on at 3 with the logits (N, V) of the next ones.
        live = cache.keep_rows_of(going_on)
        logits = _feed_tokens(model, cache, live)
    return finished


class _RowCache:
    """Keys and values of all rows, and whose each column is."""

    def __init__(self, model: Any, trees: Sequence[Tree], max_new_tokens: int) -> None:
        prompt_columns = max(len(tree.prefix) for tree in trees) + max(tree.suffix_tokens for tree in trees)
        # Room for the completions comes as they grow: most end long before the limit.
        room = prompt_columns + max(tree.samples for tree in trees) * min(max_new_tokens, 32)
        layers = model.config.get_text_config().num_hidden_layers
        self.states = Cache(layers=[_GrowingLayer(room) for _ in range(layers)])
        self.owners = torch.empty((len(trees), 0), dtype=torch.long, device=model.device)  # (B, columns)
        self._dtype = model.dtype

    def mask(self, owners: Tensor, *questions: Tensor) -> Tensor:
        """The float mask (B, 1, C, columns + C) of C new columns whose `owners` (B, C) are noted down.

        A new column looks at the prefix and its own branch, and at the branches that `questions`, (B, C)
        each, name for it.
        """
        self.owners = torch.cat([self.owners, owners], dim=1)
        return attention_mask(self.owners, (owners, *questions), self._dtype)

    def keep_rows_of(self, completions: list[_LiveCompletion]) -> list[_LiveCompletion]:
        """Drop the rows without one of these, once they are a quarter of all (dropping copies the others)."""
        rows = sorted({completion.row for completion in completions})
        if 4 * len(rows) <= 3 * len(self.owners):
            indices = torch.tensor(rows, device=self.owners.device)
            self.owners = self.owners[indices]
            self.states.batch_select_indices(indices)
            for completion in completions:
                completion.row = rows.index(completion.row)
        return completions


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values in a buffer with room for more, so that a step does not copy all of them."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._length = 0
        self._buffers: list[Tensor] = []  # keys and values, (B, heads, room, D) each

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, heads, C, D); returns all of them, as views."""
        end = self._length + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if not self._buffers or end > self._buffers[0].shape[2]:
            self._room = max(self._room, end, self._length * 5 // 4)
            self._buffers = [self._enlarge(i, states) for i, states in enumerate((key_states, value_states))]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def _enlarge(self, i: int, states: Tensor) -> Tensor:
        """A buffer of the new room with what the i-th one holds."""
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
    model: Any, cache: _RowCache, trees: Sequence[Tree], images: Sequence[Sequence[EncodedImage]]
) -> list[int]:
    """Compute the prefixes, padded on the left; returns where positions go on in each row."""
    if not any(tree.prefix for tree in trees):
        return [0] * len(trees)
    # 1. Prefixes of different lengths end together.
    ids, is_token = pad_left([torch.tensor(tree.prefix, dtype=torch.long) for tree in trees], filler=0)
    ids, is_token = ids.to(model.device), is_token.to(model.device)  # (B, P) each
    # 2. The model's own positions, which follow the images.
    encoded = [image for tree_images in images for image in tree_images]
    is_image = (ids == model.config.image_token_id) & (is_token == 1)
    positions, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=is_image.int(),
        image_grid_thw=torch.cat([image.grid_thw for image in encoded]) if encoded else None,
        attention_mask=is_token,
    )  # (3, B, P)
    # 3. One pass over all rows, with what the vision tower made of the images.
    vision_output = SimpleNamespace(
        pooler_output=tuple(image.tokens for image in encoded),
        deepstack_features=[tuple(layer) for layer in zip(*(image.deep for image in encoded), strict=True)],
    )
    model.model(
        input_ids=ids,
        attention_mask=is_token if len({len(tree.prefix) for tree in trees}) > 1 else None,
        position_ids=positions,
        past_key_values=cache.states,
        use_cache=True,
        **({"mm_encoder_outputs": {"image": vision_output}} if encoded else {}),
    )
    # 4. Whose columns they are, and the position behind the largest one of each row.
    cache.owners = torch.where(is_token == 1, PREFIX, PADDING)
    ends = positions.amax(dim=0).masked_fill(is_token == 0, -1).amax(dim=1) + 1  # (B,)
    return [int(end) for end in ends]


def _read_questions(
    model: Any, cache: _RowCache, trees: Sequence[Tree], starts: Sequence[int]
) -> tuple[Tensor, list[_LiveCompletion]]:
    """Compute the suffixes of all questions; returns the logits (N, V) of each completion's first token."""
    # 1. The suffixes of a row lie side by side; each goes on behind the prefix, as if it were alone.
    columns = max(tree.suffix_tokens for tree in trees)
    ids = torch.zeros((len(trees), columns), dtype=torch.long)  # (B, C)
    owners, positions = torch.full_like(ids, PADDING), torch.zeros_like(ids)
    live: list[_LiveCompletion] = []
    end_columns: list[int] = []  # of the token that each completion follows
    for row, (tree, start) in enumerate(zip(trees, starts, strict=True)):
        column, owner = 0, len(tree.branches)
        for question, branch in enumerate(tree.branches, start=1):
            length = len(branch.suffix)
            span = slice(column, column + length)
            ids[row, span] = torch.tensor(branch.suffix)
            owners[row, span] = question
            positions[row, span] = torch.arange(start, start + length)
            column += length
            for index in branch.samples:
                owner += 1
                live.append(_LiveCompletion(index, row, question, owner, start + length, []))
                end_columns.append(column - 1)
    # 2. One pass, and the logits at the end of each completion's question.
    hidden = _forward(model, cache, ids, positions, cache.mask(owners.to(model.device)))
    return _logits_at(model, hidden, live, end_columns), live


def _feed_tokens(model: Any, cache: _RowCache, live: Sequence[_LiveCompletion]) -> Tensor:
    """Feed each completion's newest token; returns the logits (N, V) of the next."""
    # 1. The completions of a row lie side by side, a column each.
    rows = [completion.row for completion in live]
    widths = [0] * len(cache.owners)
    columns = []
    for row in rows:
        columns.append(widths[row])
        widths[row] += 1

    def table(values: list[int], filler: int) -> Tensor:
        cells = torch.full((len(widths), max(widths)), filler)  # (B, C)
        cells[rows, columns] = torch.tensor(values)
        return cells

    ids = table([completion.ids[-1] for completion in live], 0)
    positions = table([completion.position for completion in live], 0)
    # 2. Each looks at the prefix, its question and its own tokens.
    owners = table([completion.owner for completion in live], PADDING).to(model.device)
    questions = table([completion.question for completion in live], PADDING).to(model.device)
    for completion in live:
        completion.position += 1
    hidden = _forward(model, cache, ids, positions, cache.mask(owners, questions))
    return _logits_at(model, hidden, live, columns)


def _forward(model: Any, cache: _RowCache, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """The hidden states (B, C, D) of new columns of text."""
    output = model.model(
        input_ids=ids.to(model.device),
        attention_mask=mask,
        position_ids=positions.to(model.device).expand(3, *ids.shape),
        past_key_values=cache.states,
        use_cache=True,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def _logits_at(
    model: Any, hidden: Tensor, completions: Sequence[_LiveCompletion], columns: Sequence[int]
) -> Tensor:
    """The logits (N, V) in float32 at each completion's column of `hidden` (B, C, D)."""
    rows = torch.tensor([completion.row for completion in completions], device=hidden.device)
    picked = hidden[rows, torch.tensor(columns, device=hidden.device)]  # (N, D)
    logits: Tensor = model.get_output_embeddings()(picked)
    return logits.float()


def _split_within(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Places of neighbouring sizes that together stay within `limit`; a larger one comes alone."""
    run: list[int] = []
    for place, size in enumerate(sizes):
        if run and sum(sizes[i] for i in run) + size > limit:
            yield run
            run = []
        run.append(place)
    if run:
        yield run
