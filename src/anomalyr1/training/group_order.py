"""The order in which groups are learned from: that of an uninterrupted run, and whole groups in every
microbatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import RepeatSampler


class ResumableSampler(RepeatSampler):  # type: ignore[misc]  # TRL is not typed
    """TRL's sampler, whose order in an epoch does not depend on whether this process ran the epochs before
    it.
    """

    def __init__(self, sampler: RepeatSampler, epoch: Callable[[], float]) -> None:
        super().__init__(
            sampler.data_source,
            sampler.mini_repeat_count,
            sampler.batch_size,
            sampler.repeat_count,
            sampler.shuffle,
            sampler.seed,
        )
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(int(self._epoch() + 1e-6)):  # as an uninterrupted run has drawn by now
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()


def shuffle_groups(rows: int, size: int) -> Tensor:
    """(rows,) an order in which blocks of `size` stay whole, drawn as TRL draws its own: as its permutation
    meets the blocks.
    """
    permutation = torch.randperm(rows)  # (rows,)
    if rows % size:
        return torch.arange(rows)  # a process holds parts of groups; they stay where they are
    blocks = list(dict.fromkeys((permutation // size).tolist()))
    return torch.cat([torch.arange(block * size, (block + 1) * size) for block in blocks])


def reorder(values: Any, order: Tensor) -> Any:
    """(N, ...) values or a list of N in another order (N,); what has no rows stays as it is."""
    if values is None or (isinstance(values, Tensor) and values.ndim == 0):
        return values
    return values[order] if isinstance(values, Tensor) else [values[i] for i in order.tolist()]
