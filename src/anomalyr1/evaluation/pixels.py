"""Pixel AUROC, pixel F1 and AUPRO of anomaly maps.

They are exact while the pixels fit in memory, else made from bins, with a bound on the error.

AUPRO is the area under the per-region-overlap curve up to a false-positive rate of 30 %, divided by 0.3
(Bergmann et al. 2020): at each level of the map, the mean over the regions (8-connected components of the
masks) of the share of the region that lies at or above it, against the share of good pixels that do. Small
and large regions count the same.

Within one bin the order of pixels is lost, so the curve may be anywhere in the rectangle that the bin spans;
the bounds add these up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from anomalyr1.boxes import Bools, Floats
from anomalyr1.evaluation import curves
from anomalyr1.evaluation.curves import Counts
from anomalyr1.evaluation.statistics import REPEATS, Interval, interval, resampled_sums
from anomalyr1.types import InputError, Record

Map = NDArray[np.float32]
"""(H, W) anomaly scores of pixels, higher is more anomalous."""

LIMIT = 0.3
"""False-positive rate up to which AUPRO looks."""
EXACT_PIXELS = 1 << 23
"""So many pixels are sorted in memory (0.7 GB); with more the figures are binned."""
BINS = 1 << 16
SMALL, LARGE = 0.02, 0.1
"""Share of the image up to which a defect is small, and from which it is large."""
SIZES = ("small", "medium", "large")
_COARSE = 256
"""Levels that the bootstrap tells apart."""


class MapItem(NamedTuple):
    """The map of one image and its truth, of the same size."""

    name: str
    """What messages call the image."""
    scores: Map
    mask: Bools
    """(H, W), True on a defect."""


class PixelFigures(Record):
    """Figures of all maps together; None where they are not defined: no defect, or no good pixel."""

    images: int
    pixels: int
    regions: dict[str, int]
    """Connected components by size."""
    bins: int
    """0 = exact."""
    auroc: Interval | None = None
    f1_max: Interval | None = None
    f1_threshold: float | None = None
    aupro: Interval | None = None
    aupro_by_size: dict[str, float] = Field(default_factory=dict)
    """AUPRO over the regions of one size, at the false-positive rates of all pixels."""
    bound_auroc: float = 0.0
    """The exact pixel AUROC is at most so far away."""
    bound_f1_max: float = 0.0
    """The exact largest F1 is at most so far away."""
    bound_aupro: float = 0.0
    """The exact AUPRO is at most so far away."""


class _Tally(NamedTuple):
    """What lies at each level, highest first; a pixel is at the highest level that its score reaches.

    Leading axes are resamples.
    """

    levels: Floats
    """(U,) levels, falling."""
    good: Floats
    """(..., U) good pixels."""
    defect: Floats
    """(..., U) pixels of defects."""
    overlap: Floats
    """(..., U) sums over regions of 1 / region's pixels."""
    regions: Floats
    """(..., 1) how many regions."""

    @property
    def counts(self) -> Counts:
        """Pixels at or above each level."""
        return curves.from_levels(self.levels, self.defect, self.good)


def size_of(share: float) -> str:
    """The size of a defect that covers this share of its image."""
    if share <= SMALL:
        return "small"
    return "large" if share >= LARGE else "medium"


def measure(
    items: Callable[[], Iterator[MapItem]],
    bins: int | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> PixelFigures | None:
    """Figures of the maps, which are gone through at most four times; None without maps.

    `bins` None is exact up to `EXACT_PIXELS` and `BINS` beyond, 0 is exact. Intervals are bootstraps by image
    over 256 levels, moved to the exact figure. Raises `InputError` that names the image when a map and its
    mask differ in size, or a map holds NaN or infinity.
    """
    # 1. How many pixels there are, and between which scores.
    images, pixels, low, high = 0, 0, np.inf, -np.inf
    for item in items():
        _check(item)
        images, pixels = images + 1, pixels + item.scores.size
        low, high = min(low, float(item.scores.min())), max(high, float(item.scores.max()))
    if not images:
        return None
    if bins is None:
        bins = 0 if pixels <= EXACT_PIXELS else BINS
    # 2. What lies at each level.
    if bins:
        levels = np.linspace(low, high, bins + 1)[:-1]
    else:
        levels = np.unique(np.concatenate([item.scores.ravel() for item in items()])).astype(np.float64)
    by_size = {size: _empty(levels) for size in SIZES}
    for item in items():
        _add(item, by_size)
    total = _all_sizes(by_size)
    # 3. The figures that are defined, their intervals and bounds.
    figures = _figures(total)
    fields: dict[str, object] = {
        name: interval(value, np.empty(0), images) for name, value in figures.items()
    }
    if figures and images > 1 and repeats:
        fields |= _intervals(items, total, figures, repeats, seed)
    if "f1_max" in figures:
        fields["f1_threshold"] = float(total.levels[int(np.nanargmax(curves.f1(total.counts))) - 1])
    if "aupro" in figures:
        fields["aupro_by_size"] = {
            size: _aupro(total._replace(overlap=tally.overlap, regions=tally.regions))
            for size, tally in by_size.items()
            if tally.regions
        }
    if bins and figures:
        fields |= _bounds(total, figures)
    regions = {size: int(tally.regions.item()) for size, tally in by_size.items()}
    return PixelFigures.model_validate(
        {"images": images, "pixels": pixels, "regions": regions, "bins": bins, **fields}
    )


def _check(item: MapItem) -> None:
    if item.scores.shape != item.mask.shape:
        raise InputError(
            f"the map of {item.name!r} is {item.scores.shape}, its mask {item.mask.shape}; "
            "scale the map to the image"
        )
    if not item.scores.size or not np.isfinite(item.scores).all():
        raise InputError(f"the map of {item.name!r} is empty or holds NaN or infinity; write finite scores")


def _empty(rising: Floats) -> _Tally:
    good, defect, overlap = np.zeros((3, len(rising)))
    return _Tally(rising[::-1], good, defect, overlap, np.zeros(1))


def _all_sizes(by_size: Mapping[str, _Tally]) -> _Tally:
    overlap: Floats = np.sum([tally.overlap for tally in by_size.values()], axis=0)
    regions: Floats = np.sum([tally.regions for tally in by_size.values()], axis=0)
    return by_size[SIZES[0]]._replace(overlap=overlap, regions=regions)


def _add(item: MapItem, by_size: Mapping[str, _Tally]) -> None:
    """Count the pixels of one image.

    Regions go to the tally of their size, pixels of all sizes to that of `SIZES[0]`.
    """
    import cv2

    # 1. The level of each pixel. Sorted scores are looked up several times faster: neighbours are cached.
    pixels = by_size[SIZES[0]]
    rising, scores, mask = pixels.levels[::-1], item.scores.ravel(), item.mask.ravel()
    places = np.flatnonzero(mask)[np.argsort(scores[mask], kind="stable")]
    at_good = len(rising) - np.searchsorted(rising, np.sort(scores[~mask]), side="right")
    at_defect = len(rising) - np.searchsorted(rising, scores[places], side="right")
    _count(pixels.good, at_good, None)
    _count(pixels.defect, at_defect, None)
    # 2. The regions of the mask: each pixel counts 1 / pixels of its region.
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(item.mask, dtype=np.uint8), connectivity=8
    )
    areas = stats[:, cv2.CC_STAT_AREA]  # (regions + 1,), the background first
    sizes = [size_of(area / mask.size) for area in areas]
    region = labels.ravel()[places]
    for size, tally in by_size.items():
        has_size = np.array([region_size == size for region_size in sizes])
        inside = has_size[region]
        _count(tally.overlap, at_defect[inside], 1 / areas[region[inside]])
        tally.regions[0] += has_size[1:].sum()


def _count(into: Floats, at: NDArray[np.intp], values: Floats | None) -> None:
    """Add values (n,) (1 when None) at places (n,) of an array (U,), in the cheaper of two ways."""
    if len(at) > len(into):
        into += np.bincount(at, weights=values, minlength=len(into))
    else:
        np.add.at(into, at, 1.0 if values is None else values)


def _figures(total: _Tally) -> dict[str, float]:
    """The figures that are defined."""
    values = {
        "auroc": float(curves.roc_area(total.counts)),
        "f1_max": float(np.nanmax(curves.f1(total.counts))) if total.defect.any() else np.nan,
        "aupro": _aupro(total),
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _pro_curve(tally: _Tally) -> tuple[Floats, Floats]:
    """(..., U + 1) false-positive rates and mean overlaps."""
    zero = np.zeros((*tally.overlap.shape[:-1], 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return tally.counts.fallout, np.concatenate(
            [zero, np.cumsum(tally.overlap, axis=-1) / tally.regions], axis=-1
        )


def _aupro(tally: _Tally) -> float:
    """Area under the curve up to `LIMIT`, where a straight line between two levels cuts it.

    NaN without regions or good pixels.
    """
    x, y = _pro_curve(tally)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    cut = int(np.searchsorted(x, LIMIT, side="right"))
    y_at_limit = np.interp(LIMIT, x[cut - 1 : cut + 1], y[cut - 1 : cut + 1])
    return float(curves.area(np.append(x[:cut], LIMIT), np.append(y[:cut], y_at_limit)) / LIMIT)


def _intervals(
    items: Callable[[], Iterator[MapItem]],
    total: _Tally,
    figures: Mapping[str, float],
    repeats: int,
    seed: int,
) -> dict[str, object]:
    """Percentile intervals over images."""
    # 1. Few levels: quantiles of the good and of the defective pixels.
    quantiles = [_quantiles(total.levels, total.good), _quantiles(total.levels, total.defect)]
    rising = np.unique(np.concatenate([*quantiles, total.levels[-1:]]))  # (V,)
    # 2. The tally of each image, and of each resample of images.
    rows = []
    for item in items():
        by_size = {size: _empty(rising) for size in SIZES}
        _add(item, by_size)
        rows.append(np.concatenate(_all_sizes(by_size)[1:]))  # (3 V + 1,)
    sums, resampled_rows = resampled_sums(np.stack(rows), np.arange(len(rows)), repeats, seed)
    # 3. The spread of the coarse figures, moved to the exact ones.
    parts = [len(rising), 2 * len(rising), 3 * len(rising)]
    coarse = _figures(_Tally(rising[::-1], *np.split(sums, parts)))
    resampled = [_figures(_Tally(rising[::-1], *np.split(row, parts))) for row in resampled_rows]
    intervals: dict[str, object] = {}
    for name, value in figures.items():
        shifted = np.array([sample.get(name, np.nan) for sample in resampled]) + value - coarse[name]
        intervals[name] = interval(value, np.clip(shifted, 0, 1), len(rows))
    return intervals


def _quantiles(levels: Floats, pixels: Floats) -> Floats:
    """Levels, of (U,) with so many pixels (U,) at each, between which equally many pixels lie."""
    ends = np.cumsum(pixels)
    return levels[np.searchsorted(ends, np.linspace(0, ends[-1], _COARSE // 2, endpoint=False))]


def _bounds(total: _Tally, figures: dict[str, float]) -> dict[str, object]:
    """How far the figures of bins may lie from those of pixels: see the module's text."""
    counts = total.counts
    bounds: dict[str, object] = {
        "bound_auroc": float((np.diff(counts.fallout) * np.diff(counts.recall)).sum() / 2)
    }
    # At some level inside a bin all its defects may be found before its first good pixel.
    best = 2 * counts.hits[1:] / (counts.hits[1:] + counts.alarms[:-1] + counts.hits[-1])
    bounds["bound_f1_max"] = float(max(0.0, best.max() - figures["f1_max"]))
    if "aupro" in figures:
        x, y = _pro_curve(total)
        cut = int(np.searchsorted(x, LIMIT, side="right"))
        inside = (np.diff(x) * np.diff(y))[: cut - 1].sum() / 2
        across = (LIMIT - x[cut - 1]) * (y[cut] - y[cut - 1]) if cut < len(x) else 0.0
        bounds["bound_aupro"] = float((inside + across) / LIMIT)
    return bounds
