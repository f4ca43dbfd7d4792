"""Good parts, one after the other: opened ahead, and patches drawn from them, in the memory of a few."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyr1.images.door import THREADS, LoadedImage, open_image

if TYPE_CHECKING:
    import torch


def open_ahead(paths: Sequence[Path]) -> Iterator[LoadedImage]:
    """The images of these files in their order, a few of them opened while earlier ones are looked at.

    Raises `ImageError` at the first file that is no image.
    """
    waiting: deque[Future[LoadedImage]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for path in paths:
                waiting.append(pool.submit(open_image, path))
                if len(waiting) > THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class PatchDraw:
    """At most so many patches, drawn at random from parts that come one after the other."""

    patches: torch.Tensor
    """(M, D) float16, part by part."""
    part_of_patch: torch.Tensor
    """(M,) int32, ascending."""

    def __init__(self, most: int, seed: int) -> None:
        import torch

        self._most = most
        self._generator = torch.Generator().manual_seed(seed)
        self.patches = torch.empty(0, 0, dtype=torch.float16)
        self.part_of_patch = torch.empty(0, dtype=torch.int32)
        self._keys = torch.empty(0, dtype=torch.float64)

    def add(self, patches: torch.Tensor, part: int) -> None:
        """Add (N, D) patches of a part; those with the smallest random numbers are kept."""
        import torch

        keys = torch.rand(len(patches), generator=self._generator, dtype=torch.float64)
        owners = torch.full((len(patches),), part, dtype=torch.int32)
        joined = torch.cat([self.patches, patches.half()]) if len(self.patches) else patches.half()
        self._keys, self.part_of_patch = (
            torch.cat([self._keys, keys]),
            torch.cat([self.part_of_patch, owners]),
        )
        kept = (
            self._keys.topk(min(self._most, len(joined)), largest=False, sorted=False).indices.sort().values
        )
        self.patches, self.part_of_patch, self._keys = (
            joined[kept],
            self.part_of_patch[kept],
            self._keys[kept],
        )
