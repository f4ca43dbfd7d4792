"""Which prompts continue from one prefix, and which prefixes are computed together; token ids only, no torch.

Prompts that show the same images after the same words make a tree: a prefix, the questions behind it, and the
samples of each question.

    "Inspect: <image>"  +-- " Is there a defect?"   samples 0, 1
                        +-- " Where is it?"         sample 2

Every token that prompts share is computed once. What a tree costs is counted in slots, one for each token
whose keys and values are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BRANCH_SLOTS = 2560
"""A tree may hold so many slots beside its prefix, or twice its prefix if that is more: branches share one
attention, whose cost grows with all of them together, so beyond this it is cheaper to compute a prefix
again."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the model will read it."""

    index: int
    """The place of the prompt in the call."""
    ids: tuple[int, ...]
    """The token ids, each image's token repeated as often as the image needs."""
    paths: tuple[Path, ...]
    """The image files, in the order of their tokens."""


@dataclass(frozen=True)
class Branch:
    """A question behind a prefix."""

    suffix: tuple[int, ...]
    """The token ids that follow the prefix; at least one."""
    samples: tuple[int, ...]
    """The places in the call of the prompts that ask this question: a completion grows for each."""


@dataclass(frozen=True)
class Tree:
    """Questions behind one prefix."""

    prefix: tuple[int, ...]
    """The token ids that all questions share."""
    paths: tuple[Path, ...]
    """The image files of the prefix, in the order of their tokens."""
    branches: tuple[Branch, ...]
    """The questions."""

    @property
    def suffix_tokens(self) -> int:
        """How many tokens all suffixes have together."""
        return sum(len(branch.suffix) for branch in self.branches)

    @property
    def samples(self) -> int:
        """How many completions grow from it."""
        return sum(len(branch.samples) for branch in self.branches)


def plant_trees(
    prompts: Sequence[EncodedPrompt], image_id: int, max_new_tokens: int, budget: int
) -> list[Tree]:
    """The trees of all prompts.

    Prompts that show the same images after the same words share one, as many as fit into `budget` slots.
    """
    groups: dict[tuple[tuple[Path, ...], tuple[int, ...]], list[EncodedPrompt]] = {}
    for prompt in prompts:
        groups.setdefault((prompt.paths, _through_images(prompt.ids, image_id)), []).append(prompt)
    trees: list[Tree] = []
    for group in groups.values():
        trees += [_grow_tree(part) for part in _split_group(group, max_new_tokens, budget)]
    return trees


def batch_trees(trees: Sequence[Tree], max_new_tokens: int, budget: int) -> Iterator[list[Tree]]:
    """Trees of similar length together, the longest ahead, each batch within `budget` slots.

    A tree that is too large for the budget comes alone.
    """
    batch: list[Tree] = []
    for tree in sorted(trees, key=lambda tree: (-len(tree.prefix), -tree.samples)):
        if batch and count_slots([*batch, tree], max_new_tokens) > budget:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def count_slots(trees: Sequence[Tree], max_new_tokens: int) -> int:
    """How many slots the trees hold when they are computed together, the padding of shorter ones included."""
    prefix = max(len(tree.prefix) for tree in trees)
    suffixes = max(tree.suffix_tokens for tree in trees)
    completions = max(tree.samples for tree in trees) * max_new_tokens
    return len(trees) * (prefix + suffixes + completions)


def _through_images(ids: tuple[int, ...], image_id: int) -> tuple[int, ...]:
    """The ids up to and with the image token at the end; none without images."""
    end = next((place for place in range(len(ids), 0, -1) if ids[place - 1] == image_id), 0)
    return ids[:end]


def _split_group(
    group: Sequence[EncodedPrompt], max_new_tokens: int, budget: int
) -> Iterator[list[EncodedPrompt]]:
    """A group cut where its tree would grow too large; equal prompts come behind each other."""
    # 1. The room beside the prefix that all prompts of the group share.
    prefix = _shared_length(group)
    room = min(max(BRANCH_SLOTS, 2 * prefix), budget - prefix)
    # 2. Equal prompts side by side, in the order in which each of them appears.
    order: dict[tuple[int, ...], int] = {}
    for prompt in group:
        order.setdefault(prompt.ids, len(order))
    # 3. Fill the room: a prompt that equals the one before it costs no suffix of its own.
    part: list[EncodedPrompt] = []
    taken_slots = 0
    for prompt in sorted(group, key=lambda prompt: order[prompt.ids]):
        suffix = len(prompt.ids) - prefix
        is_sample = bool(part) and part[-1].ids == prompt.ids
        cost = max_new_tokens + (0 if is_sample else suffix)
        if part and taken_slots + cost > room:
            yield part
            part, taken_slots, cost = [], 0, max_new_tokens + suffix
        part.append(prompt)
        taken_slots += cost
    yield part


def _grow_tree(prompts: Sequence[EncodedPrompt]) -> Tree:
    """One tree of prompts that share their images: what they have in common is its prefix."""
    prefix = _shared_length(prompts)
    questions: dict[tuple[int, ...], list[int]] = {}
    for prompt in prompts:
        questions.setdefault(prompt.ids, []).append(prompt.index)
    branches = tuple(Branch(ids[prefix:], tuple(samples)) for ids, samples in questions.items())
    return Tree(prompts[0].ids[:prefix], prompts[0].paths, branches)


def _shared_length(prompts: Sequence[EncodedPrompt]) -> int:
    """How many tokens at their beginning the prompts share, with at least one left in each."""
    # What the smallest and the largest in dictionary order share, all between them share.
    low, high = min(prompt.ids for prompt in prompts), max(prompt.ids for prompt in prompts)
    differing = (place for place, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    shortest = min(len(prompt.ids) for prompt in prompts)
    return min(next(differing, len(low)), shortest - 1)
