"""Distances of a picture's patches to good ones -> score, ratio, regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyr1.boxes import Bools, components, encode_mask
from anomalyr1.types import Evidence, Region

if TYPE_CHECKING:
    import torch

Grid = NDArray[np.float32]
"""(h, w) distances of patches."""

TOP_SHARE = 0.01
"""The score is the mean of so large a share of the patches, the strangest."""
MAX_REGIONS = 5
"""So many regions are kept, the strangest."""


class Yardstick(NamedTuple):
    """What distances good parts show among themselves."""

    usual: float
    """A patch that is farther than this is part of a region: the 0.99 quantile of all patches."""
    most: float
    """The farthest patch of a good part: a ratio of 1."""
    coherence: float
    """The largest share of the picture that patches beyond `usual` cover in one piece, in good parts."""


class Measurement(NamedTuple):
    """A picture, measured."""

    evidence: Evidence
    heat: NDArray[np.uint8]
    """(h, w) the map: 0 = as good parts are, 255 = three times as far beyond the usual as that is beyond
    the middle, or more."""


def nearest(patches: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """(N,) cosine distances, 0..2, of (N, D) unit vectors to the nearest of (M, D); 2 where M = 0."""
    import torch

    # Blocks that stay in the cache: the whole matrix of products would take longer to store than to make.
    closest = torch.full((len(patches),), -1.0)
    with torch.inference_mode():
        for rows in range(0, len(patches), 2048):
            piece = patches[rows : rows + 2048]
            for columns in range(0, len(bank), 1024):
                products = piece @ bank[columns : columns + 1024].T  # (2048, 1024)
                best = closest[rows : rows + 2048]
                torch.maximum(best, products.amax(1), out=best)
    return (1 - closest).clamp(min=0)  # half precision makes a vector a little longer or shorter


def score_of(distances: Grid) -> float:
    """The mean of the strangest patches, 0..1."""
    count = max(1, round(TOP_SHARE * distances.size))
    return float(np.clip(np.partition(distances.ravel(), -count)[-count:].mean(), 0, 1))


def regions_of(distances: Grid, yardstick: Yardstick, size_wh: tuple[int, int]) -> tuple[Region, ...]:
    """The places of a picture of this size that differ more than good parts do, the strangest first."""
    import cv2

    beyond = distances > yardstick.usual
    regions = []
    width, height = size_wh
    _, labels = cv2.connectedComponents(beyond.astype(np.uint8), connectivity=8)
    for label in range(1, labels.max() + 1):
        piece = labels == label
        peak = float(distances[piece].max())
        if peak <= yardstick.most:
            continue
        outline = enlarge(piece, size_wh)
        box = components(outline, label="strange")
        if box:
            regions.append(
                Region(
                    box=box[0],
                    ratio=peak / yardstick.most,
                    share=min(1.0, outline.sum() / (width * height)),
                    outline=encode_mask(outline, "map"),
                )
            )
    regions.sort(key=lambda region: -region.ratio)
    return tuple(regions[:MAX_REGIONS])


def enlarge(piece: Bools, size_wh: tuple[int, int]) -> Bools:
    """A (h, w) piece of the grid at the size of the picture."""
    import cv2

    large: Bools = cv2.resize(piece.astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST) > 0
    return large


def coherence_of(distances: Grid, usual: float) -> float:
    """The share of the picture that the largest piece beyond the usual covers."""
    import cv2

    beyond = (distances > usual).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(beyond, connectivity=8)
    return float(stats[1:, cv2.CC_STAT_AREA].max(initial=0) / beyond.size)
