"""How well boxes, masks and anomaly maps show where the defect is, overall and by the size of the defect.

Boxes and masks are measured on anomalous images whose place is known; an image without a box scores 0,
whether the model said that there is none or nothing could be read. What is drawn on good images costs AP and
is counted as false boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from anomalyr1 import boxes
from anomalyr1.boxes import Bools, Floats
from anomalyr1.data import mask_files
from anomalyr1.evaluation import pixels
from anomalyr1.evaluation.detection import Pair
from anomalyr1.evaluation.pixels import Map, MapItem, PixelFigures
from anomalyr1.evaluation.statistics import REPEATS, Interval, bootstrap_ratio
from anomalyr1.images.door import ImageError, open_image
from anomalyr1.types import Box, InputError, Inspection, Record, Sample

ACCURACY_AT = (0.1, 0.3, 0.5)
"""IoU from which an image counts as located."""
ALL = "all"


class TruePlace(NamedTuple):
    """Where the defects of one image are."""

    boxes: tuple[Box, ...] | None
    """True boxes in original pixels: () = clean, None = unknown."""
    mask: Bools | None
    """(H, W) True on a defect; None = unknown, or clean."""


class Located(NamedTuple):
    """One anomalous image with a known place."""

    size: str
    """One of `pixels.SIZES`; empty where the image's size is not known."""
    box_iou: float | None
    """Set IoU of the boxes; None when no true boxes are known."""
    mask_iou: float | None
    """IoU of the masks; None when no true mask is known, or when masks were not asked for."""
    mask_pixels: tuple[int, int, int] | None
    """Right, falsely marked and missed pixels; None as for `mask_iou`."""


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
    """Those of `images` where the model's boxes could not be read, or the inspection failed."""
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
    maps: Mapping[str, Map] | None = None,
    bins: int | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Localisation | None:
    """Figures of samples with their inspections; `maps` (H, W) by the inspection's sample id.

    None when no place is known. Masks are opened one at a time. Raises `ImageError` when one cannot be read,
    and `InputError` when masks differ in size.
    """
    # 1. Each image beside its truth.
    located: list[Located] = []
    with_gold: list[tuple[tuple[Box, ...], Inspection]] = []
    unknown = unsaid = 0
    for sample, inspection in pairs:
        if sample.anomalous is None:
            continue
        truth = _true_place(sample)
        if sample.anomalous and truth.boxes is None and truth.mask is None:
            unknown += 1
            continue
        if sample.anomalous:
            unsaid += inspection.boxes is None
            located.append(_locate(sample, inspection, truth))
        if truth.boxes is not None:
            with_gold.append((truth.boxes, inspection))
    if not located:
        return None
    good = [inspection for sample, inspection in pairs if sample.anomalous is False]
    # 2. The figures, of all sizes and of each that comes.
    sizes = {ALL: located}
    for size in pixels.SIZES:
        of_size = [image for image in located if image.size == size]
        if of_size:
            sizes[size] = of_size
    scaled = _ScaledMaps(pairs, maps or {})
    return Localisation(
        images=len(located),
        unknown_place=unknown,
        unsaid=unsaid,
        good=len(good),
        false_boxes=sum(bool(inspection.boxes) for inspection in good),
        sizes={name: summarise(images, repeats, seed) for name, images in sizes.items()},
        coco=coco_ap([(gold, *_confident_boxes(inspection)) for gold, inspection in with_gold]),
        coco_unscored=sum(bool(inspection.boxes) and inspection.score is None for _, inspection in with_gold),
        maps=pixels.measure(scaled.items, bins, repeats, seed),
        maps_scaled=scaled.count,
    )


def summarise(located: Sequence[Located], repeats: int = REPEATS, seed: int = 0) -> SizeFigures:
    """Means over images, with intervals by image."""
    box_ious = np.array([image.box_iou for image in located if image.box_iou is not None])
    mask_ious = np.array([image.mask_iou for image in located if image.mask_iou is not None])
    counts = [image.mask_pixels for image in located if image.mask_pixels is not None]
    marked = np.array(counts, dtype=np.float64).reshape(-1, 3)
    right, false, missed = marked.T

    def ratio(top: Floats, bottom: Floats) -> Interval | None:
        if not len(top):
            return None
        return bootstrap_ratio(top, bottom, np.arange(len(top)), repeats, seed)

    accuracies = {f"{at:g}": (box_ious >= at).astype(np.float64) for at in ACCURACY_AT}
    shares = {at: ratio(reached, np.ones_like(box_ious)) for at, reached in accuracies.items()}
    return SizeFigures(
        images=len(located),
        box_miou=ratio(box_ious, np.ones_like(box_ious)),
        accuracy_at={at: share for at, share in shares.items() if share is not None},
        mask_iou=ratio(mask_ious, np.ones_like(mask_ious)),
        mask_f1=ratio(2 * right, 2 * right + false + missed) if marked.any() else None,
    )


def coco_ap(images: Sequence[tuple[Sequence[Box], Sequence[Box], float]]) -> dict[str, float] | None:
    """COCO's box AP, AP50 and AP75; None without a true box.

    Each image is (true boxes, predicted boxes, confidence of the predicted ones). All boxes are one class.
    Source: Lin et al. 2014, computed by faster-coco-eval; at most 100 boxes an image count.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    gold: list[dict[str, object]] = []
    predicted: list[dict[str, object]] = []
    for number, (true_boxes, predicted_boxes, confidence) in enumerate(images, start=1):
        for box in true_boxes:
            gold.append(_coco_box(box, number) | {"id": len(gold) + 1, "iscrowd": 0})
        predicted += [_coco_box(box, number) | {"score": confidence} for box in predicted_boxes]
    if not gold:
        return None
    if not predicted:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    numbers = [{"id": number} for number in range(1, len(images) + 1)]
    truths = COCO({"images": numbers, "annotations": gold, "categories": [{"id": 1, "name": "defect"}]})
    run = COCOeval_faster(truths, truths.loadRes(predicted), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return {name: float(run.stats[place]) for place, name in enumerate(("AP", "AP50", "AP75"))}


def mask_pixels(predicted: Bools, true: Bools) -> tuple[int, int, int]:
    """Right, falsely marked and missed pixels of two (H, W) masks."""
    return int((predicted & true).sum()), int((predicted & ~true).sum()), int((~predicted & true).sum())


def _true_place(sample: Sample) -> TruePlace:
    """True boxes and mask, the file opened once."""
    if not sample.anomalous:
        return TruePlace((), None)
    mask = mask_files.true_mask(sample)
    gold = sample.boxes
    if gold is None and mask is not None:
        gold = boxes.components(mask, mask_files.LEAST_PIXELS, sample.defect or "")
    return TruePlace(gold or None, mask)


def _locate(sample: Sample, inspection: Inspection, truth: TruePlace) -> Located:
    """How well an inspection finds the place of the defect."""
    predicted = inspection.boxes or ()
    box_iou = mask_iou = counts = None
    if truth.boxes is not None:
        box_iou = boxes.set_iou(boxes.to_array(predicted), boxes.to_array(truth.boxes))
    if truth.mask is not None and (inspection.masks is not None or not predicted):
        counts = mask_pixels(_union(inspection, truth.mask.shape), truth.mask)
        mask_iou = counts[0] / sum(counts) if any(counts) else 1.0
    share = _share(sample, inspection, truth)
    size = "" if share is None else pixels.size_of(share)
    return Located(size, box_iou, mask_iou, counts)


def _confident_boxes(inspection: Inspection) -> tuple[tuple[Box, ...], float]:
    """The boxes of an inspection and their confidence: its score, or 1 without a score."""
    return inspection.boxes or (), 1.0 if inspection.score is None else inspection.score


def _union(inspection: Inspection, shape: tuple[int, ...]) -> Bools:
    """All masks of an inspection together, (H, W)."""
    union = np.zeros(shape, dtype=np.bool_)
    for record in inspection.masks or ():
        mask = boxes.decode_mask(record)
        if mask.shape != shape:
            raise InputError(
                f"a mask of {inspection.sample_id!r} is {mask.shape}, the true one {shape}; "
                "name the data set of these images"
            )
        union |= mask
    return union


def _share(sample: Sample, inspection: Inspection, truth: TruePlace) -> float | None:
    """The share of the image that the defect covers, by its mask, else its boxes.

    None when the image's size is not known.
    """
    if truth.mask is not None:
        return float(truth.mask.mean())
    size_wh = inspection.masks[0].size_wh if inspection.masks else _size_wh(sample)
    if size_wh is None:
        return None
    covered = float(boxes.area(boxes.to_array(truth.boxes or ())).sum())
    return min(1.0, covered / (size_wh[0] * size_wh[1]))


def _size_wh(sample: Sample) -> tuple[int, int] | None:
    try:
        return open_image(sample.image).size_wh
    except (ImageError, OSError):
        return None


def _coco_box(box: Box, image: int) -> dict[str, object]:
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1],
        "area": box.area,
    }


class _ScaledMaps:
    """Maps at the size of their masks, anew at each pass, without keeping them."""

    def __init__(self, pairs: Sequence[Pair], maps: Mapping[str, Map]) -> None:
        self._pairs, self._maps, self.count = pairs, maps, 0

    def items(self) -> Iterator[MapItem]:
        """The maps of good images, and of anomalous ones whose mask is known."""
        import cv2

        self.count = 0
        for sample, inspection in self._pairs:
            scores = self._maps.get(inspection.sample_id)
            if scores is None or sample.anomalous is None:
                continue
            mask: Bools | None = np.zeros(scores.shape, dtype=np.bool_)
            if sample.anomalous:
                mask = mask_files.true_mask(sample)
            if mask is None:
                continue
            if scores.shape != mask.shape:
                self.count += 1
                size_wh = (mask.shape[1], mask.shape[0])
                scores = cv2.resize(scores, size_wh, interpolation=cv2.INTER_LINEAR).astype(np.float32)
            yield MapItem(sample.id, scores, mask)
