"""Which prompts continue from one prefix, and which prefixes are computed together; token ids only, no torch.

A tree is a prefix (its images included), the questions behind it, and the samples behind each question: every
token that prompts share is computed once. What a tree costs is counted in slots, one for each token whose
keys and values are held.
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
class Job:
    """A prompt as the model will read it."""

    index: int
    """Its place in the call."""
    ids: tuple[int, ...]
    """Every image's token repeated as often as the image needs."""
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Branch:
    """One question: what follows the prefix, and the places in the call of the prompts that ask it."""

    suffix: tuple[int, ...]
    samples: tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """Questions behind one prefix; at least one token follows the prefix in each."""

    prefix: tuple[int, ...]
    paths: tuple[Path, ...]
    branches: tuple[Branch, ...]

    @property
    def suffix_tokens(self) -> int:
        """How many tokens all suffixes have together."""
        return sum(len(branch.suffix) for branch in self.branches)

    @property
    def samples(self) -> int:
        """How many completions grow from it."""
        return sum(len(branch.samples) for branch in self.branches)


def plant(jobs: Sequence[Job], image_id: int, max_new_tokens: int, budget: int) -> list[Tree]:
    """The trees of all jobs: jobs that show the same images after the same words share one, as many as fit into `budget` slots."""
    together: dict[tuple[tuple[Path, ...], tuple[int, ...]], list[Job]] = {}
    for job in jobs:
        together.setdefault((job.paths, _through_images(job.ids, image_id)), []).append(job)
    return [_tree(part) for group in together.values() for part in _parts(group, max_new_tokens, budget)]


def batches(trees: Sequence[Tree], max_new_tokens: int, budget: int) -> Iterator[list[Tree]]:
    """Trees of similar length together, the longest first; a tree that is too large for the budget comes alone."""
    batch: list[Tree] = []
    for tree in sorted(trees, key=lambda tree: (-len(tree.prefix), -tree.samples)):
        if batch and slots([*batch, tree], max_new_tokens) > budget:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def slots(trees: Sequence[Tree], max_new_tokens: int) -> int:
    """How many slots the trees hold when they are computed together, the padding of the shorter ones included."""
    longest = max(len(tree.prefix) for tree in trees)
    suffixes = max(tree.suffix_tokens for tree in trees)
    return len(trees) * (longest + suffixes + max(tree.samples for tree in trees) * max_new_tokens)


def _through_images(ids: tuple[int, ...], image_id: int) -> tuple[int, ...]:
    """The ids up to the last image token."""
    end = next((place for place in range(len(ids), 0, -1) if ids[place - 1] == image_id), 0)
    return ids[:end]


def _parts(group: Sequence[Job], max_new_tokens: int, budget: int) -> Iterator[list[Job]]:
    """A group cut where its tree would grow too large; equal prompts come behind each other."""
    prefix = _common(group)
    room = min(max(BRANCH_SLOTS, 2 * prefix), budget - prefix)
    first: dict[tuple[int, ...], int] = {}
    for job in group:
        first.setdefault(job.ids, len(first))
    part: list[Job] = []
    used = 0
    for job in sorted(group, key=lambda job: first[job.ids]):
        cost = max_new_tokens + (0 if part and part[-1].ids == job.ids else len(job.ids) - prefix)
        if part and used + cost > room:
            yield part
            part, used, cost = [], 0, max_new_tokens + len(job.ids) - prefix
        part.append(job)
        used += cost
    yield part


def _tree(jobs: Sequence[Job]) -> Tree:
    prefix = _common(jobs)
    questions: dict[tuple[int, ...], list[int]] = {}
    for job in jobs:
        questions.setdefault(job.ids, []).append(job.index)
    branches = tuple(Branch(ids[prefix:], tuple(samples)) for ids, samples in questions.items())
    return Tree(jobs[0].ids[:prefix], jobs[0].paths, branches)


def _common(jobs: Sequence[Job]) -> int:
    """How many first tokens the jobs share, with at least one left in each."""
    first, last = min(job.ids for job in jobs), max(job.ids for job in jobs)
    shared = next(
        (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other),
        len(first),
    )
    return min(shared, min(len(job.ids) for job in jobs) - 1)
