"""How well boxes, masks and anomaly maps show where the defect is, overall and by the size of the defect.

Boxes and masks are measured on anomalous images whose place is known; an image without a box scores 0,
whether the model said that there is none or nothing could be read. What is drawn on good images costs AP and
is counted as false boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from anomalyr1 import boxes as geometry
from anomalyr1.data import mask_files as truth
from anomalyr1.evaluation import pixels
from anomalyr1.evaluation.detection import Pair
from anomalyr1.evaluation.pixels import Bools, MapItem, PixelFigures, size_of
from anomalyr1.evaluation.statistics import LEVEL, REPEATS, Interval, bootstrap_ratio
from anomalyr1.types import Box, InputError, Inspection, Record, Sample

ACCURACY_AT = (0.1, 0.3, 0.5)
"""IoU from which an image counts as located."""
ALL = "all"


class Located(NamedTuple):
    """One anomalous image with a known place."""

    sample_id: str
    size: str
    """One of `pixels.SIZES`; empty where the image's size is not known."""
    box_iou: float | None
    """Set IoU of the boxes; None when no true boxes are known."""
    mask_iou: float | None
    """None when no true mask is known, or when masks were not asked for."""
    mask_pixels: tuple[int, int, int] | None
    """Right, falsely marked and missed pixels."""


class SizeFigures(Record):
    """Figures of the anomalous images whose defect has one size."""

    images: int
    box_miou: Interval | None = None
    """Mean set IoU: matched pairs' IoU over pairs, misses and false boxes (`boxes.set_iou`)."""
    accuracy_at: dict[str, Interval] = Field(default_factory=dict)
    """IoU -> share of images whose set IoU reaches it."""
    mask_iou: Interval | None = None
    """Mean IoU of all predicted masks together with the true mask."""
    mask_f1: Interval | None = None
    """F1 of the pixels of all images together."""


class Localisation(Record):
    """Figures of a run; None where they are not defined."""

    images: int
    """Anomalous images with known boxes or mask."""
    unknown_place: int
    """Anomalous images of which neither boxes nor mask are known."""
    unsaid: int
    """Of `images`: the model's boxes could not be read, or the inspection failed."""
    good: int
    false_boxes: int
    """Good images with a box."""
    sizes: dict[str, SizeFigures]
    """"all", and each size of `pixels.SIZES` that comes."""
    coco: dict[str, float] | None = None
    """AP over IoU 0.5 to 0.95, AP50 and AP75 of boxes as one class; the confidence of a box is its image's
    score."""
    coco_unscored: int = 0
    """Images whose boxes had no score and count with confidence 1."""
    maps: PixelFigures | None = None
    maps_scaled: int = 0
    """Maps that had another size than their image and were scaled to it."""


def localise(
    pairs: Sequence[Pair],
    maps: Mapping[str, NDArray[np.float32]] | None = None,
    bins: int | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    level: float = LEVEL,
) -> Localisation | None:
    """Figures of samples with their inspections; `maps` (H, W) by the inspection's sample id. None when no place is known.

    Masks are opened one at a time. Raises `ImageError` when one cannot be read, and `InputError` when masks
    differ in size.
    """
    located, gold, unknown, unsaid, good, false_boxes = [], [], 0, 0, 0, 0
    for sample, inspection in pairs:
        if sample.anomalous is None:
            continue
        boxes, mask = _truth(sample)
        if sample.anomalous is False:
            good, false_boxes = good + 1, false_boxes + bool(inspection.boxes)
        elif boxes is None and mask is None:
            unknown += 1
            continue
        else:
            unsaid += inspection.boxes is None
            located.append(_located(sample, inspection, boxes, mask))
        if boxes is not None:
            gold.append((boxes, inspection))
    if not located:
        return None
    names = [ALL, *(size for size in pixels.SIZES if any(one.size == size for one in located))]
    scaled = _Scaled(pairs, maps or {})
    return Localisation(
        images=len(located),
        unknown_place=unknown,
        unsaid=unsaid,
        good=good,
        false_boxes=false_boxes,
        sizes={
            name: summarise([one for one in located if name in (ALL, one.size)], repeats, seed, level)
            for name in names
        },
        coco=coco_ap(
            [(boxes, one.boxes or (), 1.0 if one.score is None else one.score) for boxes, one in gold]
        ),
        coco_unscored=sum(bool(one.boxes) and one.score is None for _, one in gold),
        maps=pixels.measure(scaled.items, bins, repeats, seed, level),
        maps_scaled=scaled.count,
    )


def summarise(
    located: Sequence[Located], repeats: int = REPEATS, seed: int = 0, level: float = LEVEL
) -> SizeFigures:
    """Means over images, with intervals by image."""
    ious = np.array([one.box_iou for one in located if one.box_iou is not None])
    masks = np.array([one.mask_iou for one in located if one.mask_iou is not None])
    marked = np.array(
        [one.mask_pixels for one in located if one.mask_pixels is not None], dtype=np.float64
    ).reshape(-1, 3)

    def ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> Interval:
        return bootstrap_ratio(top, bottom, np.arange(len(top)), repeats, seed, level)

    return SizeFigures(
        images=len(located),
        box_miou=ratio(ious, np.ones_like(ious)) if len(ious) else None,
        accuracy_at={
            f"{at:g}": ratio((ious >= at).astype(np.float64), np.ones_like(ious)) for at in ACCURACY_AT
        }
        if len(ious)
        else {},
        mask_iou=ratio(masks, np.ones_like(masks)) if len(masks) else None,
        mask_f1=ratio(2 * marked[:, 0], 2 * marked[:, 0] + marked[:, 1] + marked[:, 2])
        if marked.any()
        else None,
    )


def coco_ap(images: Sequence[tuple[Sequence[Box], Sequence[Box], float]]) -> dict[str, float] | None:
    """COCO's box AP, AP50 and AP75 of (true boxes, predicted boxes, confidence of the predicted ones) an image; None without a true box.

    All boxes are one class. Source: Lin et al. 2014, computed by faster-coco-eval; at most 100 boxes an image
    count.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    gold: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    for number, (true, predicted, confidence) in enumerate(images, start=1):
        gold += [
            _coco_box(box, number) | {"id": len(gold) + k, "iscrowd": 0}
            for k, box in enumerate(true, start=1)
        ]
        found += [_coco_box(box, number) | {"score": confidence} for box in predicted]
    if not gold:
        return None
    if not found:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    listed = [{"id": number} for number in range(1, len(images) + 1)]
    truths = COCO({"images": listed, "annotations": gold, "categories": [{"id": 1, "name": "defect"}]})
    run = COCOeval_faster(truths, truths.loadRes(found), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return {name: float(run.stats[place]) for name, place in (("AP", 0), ("AP50", 1), ("AP75", 2))}


def mask_pixels(predicted: Bools, true: Bools) -> tuple[int, int, int]:
    """Right, falsely marked and missed pixels of two (H, W) masks."""
    return int((predicted & true).sum()), int((predicted & ~true).sum()), int((~predicted & true).sum())


def _truth(sample: Sample) -> tuple[tuple[Box, ...] | None, Bools | None]:
    """True boxes and mask, the file opened once."""
    if not sample.anomalous:
        return (), None
    mask = None if sample.mask is None else truth.read_mask(sample.mask)
    boxes = sample.boxes
    if boxes is None and mask is not None:
        boxes = geometry.components(mask, truth.LEAST_PIXELS, sample.defect or "")
    return boxes or None, mask


def _located(
    sample: Sample, inspection: Inspection, boxes: tuple[Box, ...] | None, mask: Bools | None
) -> Located:
    found = inspection.boxes or ()
    marked = None
    if mask is not None and (inspection.masks is not None or not found):
        marked = mask_pixels(_union(inspection, mask.shape), mask)
    share = _share(sample, inspection, boxes or (), mask)
    return Located(
        sample_id=sample.id,
        size="" if share is None else size_of(share),
        box_iou=None
        if boxes is None
        else geometry.set_iou(geometry.to_array(found), geometry.to_array(boxes)),
        mask_iou=None if marked is None else marked[0] / sum(marked) if any(marked) else 1.0,
        mask_pixels=marked,
    )


def _union(inspection: Inspection, shape: tuple[int, ...]) -> Bools:
    """All masks of an inspection together."""
    whole = np.zeros(shape, dtype=np.bool_)
    for mask in inspection.masks or ():
        one = geometry.decode_mask(mask)
        if one.shape != shape:
            raise InputError(
                f"a mask of {inspection.sample_id!r} is {one.shape}, the true one {shape}; name the data set of these images"
            )
        whole |= one
    return whole


def _share(sample: Sample, inspection: Inspection, boxes: Sequence[Box], mask: Bools | None) -> float | None:
    """The share of the image that the defect covers, by its mask, else its boxes; None when the image's size is not known."""
    if mask is not None:
        return float(mask.mean())
    size_wh = inspection.masks[0].size_wh if inspection.masks else _size_wh(sample)
    return (
        None
        if size_wh is None
        else min(1.0, float(geometry.area(geometry.to_array(boxes)).sum()) / (size_wh[0] * size_wh[1]))
    )


def _size_wh(sample: Sample) -> tuple[int, int] | None:
    from anomalyr1.images import ImageError, open_image

    try:
        return open_image(sample.image).size_wh
    except (ImageError, OSError):
        return None


def _coco_box(box: Box, image: int) -> dict[str, object]:
    width, height = box.x2 - box.x1, box.y2 - box.y1
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": [box.x1, box.y1, width, height],
        "area": width * height,
    }


class _Scaled:
    """Maps at the size of their masks, anew at each pass, without holding them."""

    def __init__(self, pairs: Sequence[Pair], maps: Mapping[str, NDArray[np.float32]]) -> None:
        self._pairs, self._maps, self.count = pairs, maps, 0

    def items(self) -> Iterator[MapItem]:
        """The maps of good images, and of anomalous ones whose mask is known."""
        import cv2

        self.count = 0
        for sample, inspection in self._pairs:
            scores = self._maps.get(inspection.sample_id)
            if scores is None or sample.anomalous is None or (sample.anomalous and sample.mask is None):
                continue
            mask = (
                truth.read_mask(sample.mask)
                if sample.anomalous and sample.mask is not None
                else np.zeros(scores.shape, dtype=np.bool_)
            )
            if scores.shape != mask.shape:
                self.count += 1
                scores = cv2.resize(
                    scores, (mask.shape[1], mask.shape[0]), interpolation=cv2.INTER_LINEAR
                ).astype(np.float32)
            yield MapItem(sample.id, scores, mask)
