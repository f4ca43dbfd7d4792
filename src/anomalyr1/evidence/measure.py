"""Distances of a picture's patches to good ones -> score, ratio, regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from anomalyr1.boxes import Bools, components, encode_mask
from anomalyr1.types import Evidence, Record, Region

if TYPE_CHECKING:
    import torch

Grid = NDArray[np.float32]
"""(h, w) distances of patches."""

TOP_SHARE = 0.01
"""The score is the mean of so large a share of the patches, the strangest."""
MAX_REGIONS = 5
"""So many regions are kept, the strangest."""


class Yardstick(Record):
    """What distances good parts show among themselves."""

    usual: float = Field(gt=0, le=2)
    """A patch that is farther than this is part of a region: the 0.99 quantile of all patches."""
    most: float = Field(gt=0, le=2)
    """The farthest patch of a good part: a ratio of 1."""
    coherence: float = Field(ge=0, le=1)
    """The largest share of the picture that patches beyond `usual` cover in one piece, in good parts."""


class Measurement(NamedTuple):
    """A picture, measured."""

    evidence: Evidence
    heat: NDArray[np.uint8]
    """(h, w) the map for the eye, see `heat_of`."""


def nearest(patches: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """(N,) cosine distances, 0..2, of (N, D) unit vectors to the nearest of (M, D)."""
    import torch

    pieces = [patches[i : i + 2048] for i in range(0, len(patches), 2048)]
    return torch.cat([1 - (piece @ bank.T).amax(1) for piece in pieces])


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


def heat_of(distances: Grid, yardstick: Yardstick) -> NDArray[np.uint8]:
    """(h, w) the map for the eye: 0 where good parts are so, too, 255 at twice what they show."""
    beyond = (distances - yardstick.usual) / (2 * yardstick.most - yardstick.usual)
    heat: NDArray[np.uint8] = (np.clip(beyond, 0, 1) * 255).astype(np.uint8)
    return heat


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
