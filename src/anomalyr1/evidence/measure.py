"""Distances of a picture's patches to good ones -> score, ratio, regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from anomalyr1.boxes import components, decode_mask, encode_mask
from anomalyr1.types import Evidence, Mask, Record, Region

if TYPE_CHECKING:
    import torch

Grid = NDArray[np.float32]
"""(h, w) distances of patches."""

TOP_SHARE = 0.01
"""The score is the mean of so large a share of the patches, the strangest."""
MAX_REGIONS = 8
"""So many regions are kept, the strangest."""
REGION_LONG_SIDE = 512
"""Regions are outlined on a map of at most this size."""


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


def without(distances: Grid, ignore: Mask) -> Grid:
    """(h, w) distances, 0 at each patch of which a mask, stretched to the picture, covers half or more."""
    import cv2

    height, width = distances.shape
    covered = cv2.resize(
        decode_mask(ignore).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
    )  # (h, w), 0..1
    return np.where(covered >= 0.5, np.float32(0), distances)


def regions_of(
    distances: Grid, yardstick: Yardstick, size_wh: tuple[int, int], smallest: int = 1
) -> tuple[Region, ...]:
    """The places of a picture of this size that differ more than good parts do, the strangest first.

    A place is where the distance is beyond the middle between the usual and its peak; one of fewer pixels of
    the picture than `smallest` is none.
    """
    import cv2

    # 1. The map at the picture's aspect, smooth; what is beyond the usual, in pieces.
    scale = min(1.0, REGION_LONG_SIDE / max(size_wh))
    map_wh = max(1, round(size_wh[0] * scale)), max(1, round(size_wh[1] * scale))
    smooth = cv2.resize(distances, map_wh, interpolation=cv2.INTER_LINEAR)  # (h, w)
    _, pieces = cv2.connectedComponents((smooth > yardstick.usual).astype(np.uint8), connectivity=8)
    peaks = np.zeros(pieces.max() + 1, np.float32)
    np.maximum.at(peaks, pieces.ravel(), smooth.ravel())
    # 2. Of each piece that is stranger than any in good parts, what is beyond its middle.
    middles = np.where(peaks > yardstick.most, (yardstick.usual + peaks) / 2, np.inf)
    middles[0] = np.inf  # what is not beyond the usual
    cores = (smooth > middles[pieces]).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cores, connectivity=8)
    regions = []
    for label, (x, y, width, height, _) in enumerate(stats.tolist()[1:], start=1):
        window = labels[y : y + height, x : x + width] == label
        peak = float(smooth[y : y + height, x : x + width][window].max())
        if peak > yardstick.most:
            core = np.zeros(labels.shape, np.uint8)
            core[y : y + height, x : x + width] = window
            regions.append(_region(core, peak / yardstick.most, size_wh))
    regions = [region for region in regions if region.share * size_wh[0] * size_wh[1] >= smallest - 0.5]
    regions.sort(key=lambda region: -region.ratio)
    return tuple(regions[:MAX_REGIONS])


def _region(core: NDArray[np.uint8], ratio: float, size_wh: tuple[int, int]) -> Region:
    """A place, from its (h, w) shape on the map, at the size of the picture."""
    import cv2

    outline = cv2.resize(core * 255, size_wh, interpolation=cv2.INTER_LINEAR) >= 128
    if not outline.any():  # thinner than a pixel of a small picture
        outline = cv2.resize(core, size_wh, interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return Region(
        box=components(outline, label="differs from good parts")[0],
        ratio=ratio,
        share=float(outline.mean()),
        outline=encode_mask(outline, "map"),
    )


def heat_of(distances: Grid, yardstick: Yardstick) -> NDArray[np.uint8]:
    """(h, w) the map for the eye: 0 where good parts are so, too, 255 at twice what they show."""
    beyond = (distances - yardstick.usual) / (2 * yardstick.most - yardstick.usual)
    heat: NDArray[np.uint8] = (np.clip(beyond, 0, 1) * 255).astype(np.uint8)
    return heat


def coherence_of(distances: Grid, usual: float) -> float:
    """The share of the picture that the largest piece beyond the usual covers."""
    import cv2

    beyond = (distances > usual).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(beyond, connectivity=8)
    return float(stats[1:, cv2.CC_STAT_AREA].max(initial=0) / beyond.size)
