"""Pixel AUROC, pixel F1 and AUPRO of anomaly maps, exact while the pixels fit in memory, else from bins with a bound on the error.

AUPRO is the area under the per-region-overlap curve up to a false-positive rate of 30 %, divided by 0.3
(Bergmann et al. 2020): at each level of the map, the mean over the regions (8-connected components of the
masks) of the share of the region that lies at or above it, against the share of good pixels that do. Small
and large regions count the same.

Within one bin the order of pixels is lost, so the curve may be anywhere in the rectangle that the bin spans;
the bounds add these up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from anomalyr1.evaluation import curves
from anomalyr1.evaluation.curves import Counts, Floats
from anomalyr1.evaluation.statistics import LEVEL, REPEATS, Interval, interval, resampled_sums
from anomalyr1.types import InputError, Record

Bools = NDArray[np.bool_]
Map = NDArray[np.float32]

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
    """Of the image."""
    scores: Map
    """(H, W), higher is more anomalous."""
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
    """The same over regions of one size, at the same false-positive rates."""
    bound_auroc: float = 0.0
    """The exact figure is at most so far from the one given; likewise the two below."""
    bound_f1_max: float = 0.0
    bound_aupro: float = 0.0


class _Tally(NamedTuple):
    """What lies at each level, highest first; a pixel is at the highest level that its score reaches. Leading axes are resamples."""

    levels: Floats
    """(U,)"""
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
    return SIZES[0] if share <= SMALL else SIZES[2] if share >= LARGE else SIZES[1]


def measure(
    items: Callable[[], Iterator[MapItem]],
    bins: int | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    level: float = LEVEL,
) -> PixelFigures | None:
    """Figures of the maps, which are gone through at most three times; None without maps.

    `bins` None is exact up to `EXACT_PIXELS` and `BINS` beyond, 0 is exact. Intervals are bootstraps by image
    over 256 levels, moved to the exact figure. Raises `InputError` that names the image when a map and its
    mask differ in size, or a map holds NaN or infinity.
    """
    images, pixels, low, high = 0, 0, np.inf, -np.inf
    for item in items():
        _check(item)
        images, pixels = images + 1, pixels + item.scores.size
        low, high = min(low, float(item.scores.min())), max(high, float(item.scores.max()))
    if not images:
        return None
    if bins is None:
        bins = 0 if pixels <= EXACT_PIXELS else BINS
    if bins:
        levels = np.linspace(low, high, bins + 1)[:-1]
    else:
        levels = np.unique(np.concatenate([item.scores.ravel() for item in items()])).astype(np.float64)
    by_size = [_empty(levels) for _ in SIZES]
    for item in items():
        _add(item, by_size)
    whole = _all_sizes(by_size)
    figures = _figures(whole)
    found: dict[str, object] = {
        name: Interval(value=value, low=value, high=value) for name, value in figures.items()
    }
    if figures and images > 1 and repeats:
        found |= _intervals(items, whole, figures, (repeats, seed, level))
    if "f1_max" in figures:
        found["f1_threshold"] = float(whole.levels[int(np.nanargmax(curves.f1(whole.counts))) - 1])
    if "aupro" in figures:
        sized = zip(SIZES, by_size, strict=True)
        found["aupro_by_size"] = {
            size: _aupro(whole._replace(overlap=one.overlap, regions=one.regions))
            for size, one in sized
            if one.regions
        }
    if bins and figures:
        found |= _bounds(whole, figures)
    regions = {size: int(one.regions.item()) for size, one in zip(SIZES, by_size, strict=True)}
    return PixelFigures.model_validate(
        {"images": images, "pixels": pixels, "regions": regions, "bins": bins, **found}
    )


def _check(item: MapItem) -> None:
    if item.scores.shape != item.mask.shape:
        raise InputError(
            f"the map of {item.name!r} is {item.scores.shape}, its mask {item.mask.shape}; scale the map to the image"
        )
    if not item.scores.size or not np.isfinite(item.scores).all():
        raise InputError(f"the map of {item.name!r} is empty or holds NaN or infinity; write finite scores")


def _empty(rising: Floats) -> _Tally:
    good, defect, overlap = np.zeros((3, len(rising)))
    return _Tally(rising[::-1], good, defect, overlap, np.zeros(1))


def _all_sizes(by_size: Sequence[_Tally]) -> _Tally:
    overlap: Floats = np.sum([one.overlap for one in by_size], axis=0)
    regions: Floats = np.sum([one.regions for one in by_size], axis=0)
    return by_size[0]._replace(overlap=overlap, regions=regions)


def _add(item: MapItem, by_size: Sequence[_Tally]) -> None:
    """Count the pixels of one image; the regions of each size go to the tally of that size, the pixels to the first."""
    import cv2

    first = by_size[0]
    rising, scores, mask = first.levels[::-1], item.scores.ravel(), item.mask.ravel()
    places = np.flatnonzero(mask)[np.argsort(scores[mask], kind="stable")]
    # Sorted scores are looked up several times faster: their neighbours are in the cache.
    _count(first.good, len(rising) - np.searchsorted(rising, np.sort(scores[~mask]), side="right"), None)
    at = len(rising) - np.searchsorted(rising, scores[places], side="right")
    _count(first.defect, at, None)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(item.mask, dtype=np.uint8), connectivity=8
    )
    areas = stats[:, cv2.CC_STAT_AREA]
    sizes = np.array([SIZES.index(size_of(area / mask.size)) for area in areas])
    region = labels.ravel()[places]
    for size, tally in enumerate(by_size):
        own = sizes[region] == size
        _count(tally.overlap, at[own], 1 / areas[region[own]])
        tally.regions[0] += (sizes[1:] == size).sum()


def _count(into: Floats, at: NDArray[np.intp], values: Floats | None) -> None:
    """Add values (1 when None) at places, in the cheaper of two ways."""
    if len(at) > len(into):
        into += np.bincount(at, weights=values, minlength=len(into))
    else:
        np.add.at(into, at, 1.0 if values is None else values)


def _figures(whole: _Tally) -> dict[str, float]:
    """The figures that are defined."""
    values = {
        "auroc": float(curves.auroc(whole.counts)),
        "f1_max": float(np.nanmax(curves.f1(whole.counts))) if whole.defect.any() else np.nan,
        "aupro": _aupro(whole),
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
    """Area under the curve up to `LIMIT`, where it is cut between two levels in a straight line; NaN without regions or good pixels."""
    x, y = _pro_curve(tally)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    last = int(np.searchsorted(x, LIMIT, side="right"))
    end = np.interp(LIMIT, x[last - 1 : last + 1], y[last - 1 : last + 1])
    return float(curves.area(np.append(x[:last], LIMIT), np.append(y[:last], end)) / LIMIT)


def _intervals(
    items: Callable[[], Iterator[MapItem]],
    whole: _Tally,
    figures: dict[str, float],
    bootstrap: tuple[int, int, float],
) -> dict[str, object]:
    """Percentile intervals over images; levels are quantiles of the good and of the defective pixels."""
    repeats, seed, level = bootstrap
    rising = np.unique(
        np.concatenate(
            [_quantiles(whole.levels, whole.good), _quantiles(whole.levels, whole.defect), whole.levels[-1:]]
        )
    )
    rows = []
    for item in items():
        tallies = [_empty(rising) for _ in SIZES]
        _add(item, tallies)
        rows.append(np.concatenate(_all_sizes(tallies)[1:]))
    total, drawn = resampled_sums(np.stack(rows), np.arange(len(rows)), repeats, seed)
    split = [len(rising), 2 * len(rising), 3 * len(rising)]
    coarse = _figures(_Tally(rising[::-1], *np.split(total, split)))
    resampled = [_figures(_Tally(rising[::-1], *np.split(row, split))) for row in drawn]
    found: dict[str, object] = {}
    for name, value in figures.items():
        shifted = np.array([one.get(name, np.nan) for one in resampled]) + value - coarse[name]
        found[name] = interval(value, np.clip(shifted, 0, 1), level)
    return found


def _quantiles(levels: Floats, pixels: Floats) -> Floats:
    """Levels between which equally many pixels lie."""
    ends = np.cumsum(pixels)
    return levels[np.searchsorted(ends, np.linspace(0, ends[-1], _COARSE // 2, endpoint=False))]


def _bounds(whole: _Tally, figures: dict[str, float]) -> dict[str, object]:
    """How far the figures of bins may lie from those of pixels: see the module's text."""
    counts = whole.counts
    bounds: dict[str, object] = {
        "bound_auroc": float((np.diff(counts.fallout) * np.diff(counts.recall)).sum() / 2)
    }
    # At some level inside a bin all its defects may be found before its first good pixel.
    best = 2 * counts.hits[1:] / (counts.hits[1:] + counts.alarms[:-1] + counts.hits[-1])
    bounds["bound_f1_max"] = float(max(0.0, best.max() - figures["f1_max"]))
    if "aupro" in figures:
        x, y = _pro_curve(whole)
        last = int(np.searchsorted(x, LIMIT, side="right"))
        inside = (np.diff(x) * np.diff(y))[: last - 1].sum() / 2
        cut = (LIMIT - x[last - 1]) * (y[last] - y[last - 1]) if last < len(x) else 0.0
        bounds["bound_aupro"] = float((inside + cut) / LIMIT)
    return bounds
