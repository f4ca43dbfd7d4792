"""How well boxes become masks: `masks.masks_for` and simple baselines on real images with true boxes.

    python benchmarks/masks.py [--shared DIR] [--sam2 MODEL]

The figure is the mean over the anomalous images that have boxes of the IoU between the true mask and the
union of the masks of all true boxes of the image. Jitter s moves each edge by a uniform random part in -s..s
of the box's width or height, the same for every method. The constants of `masks.posterior` were chosen on the
"tuned" half of the images; "held out" is the other half.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from anomalyr1.boxes import Bools, decode_mask
from anomalyr1.inspection.masks import Pixels, Sam2, Window, masks_for, window
from anomalyr1.types import Box

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATASETS = ("magnetic_tile", "bsdata")
JITTERS = (0.0, 0.1, 0.2)
Method = Callable[[Image.Image, Sequence[Box]], Bools]
"""An image and its boxes -> the union of their masks, (H, W)."""


@dataclass(frozen=True)
class Item:
    """An anomalous image with its true mask and boxes."""

    id: str
    image: Image.Image
    mask: Bools
    boxes: tuple[Box, ...]

    @property
    def tuned(self) -> bool:
        """Whether it is in the half on which the constants were chosen."""
        return zlib.crc32(self.id.encode()) % 2 == 0


def items(folder: Path) -> Iterator[Item]:
    """The anomalous images of a folder of `shared/data` that have boxes."""
    for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["anomaly"] and row["boxes"]:
            boxes = tuple(Box(x1=x1, y1=y1, x2=x2, y2=y2) for x1, y1, x2, y2 in row["boxes"])
            mask = np.array(Image.open(folder / row["mask"]).convert("1"))
            yield Item(row["id"], Image.open(folder / row["image"]).convert("RGB"), mask, boxes)


def jittered(item: Item, amount: float) -> tuple[Box, ...]:
    """The boxes of an item with every edge moved, the same each time."""
    rng = np.random.default_rng(zlib.crc32(item.id.encode()))
    moved = []
    for box in item.boxes:
        size = np.tile([box.x2 - box.x1, box.y2 - box.y1], 2)
        x1, y1, x2, y2 = (np.array(box.xyxy) + rng.uniform(-amount, amount, 4) * size).tolist()
        moved.append(Box(x1=x1, y1=y1, x2=x2, y2=y2))
    return tuple(moved)


def ious(method: Method, chosen: Sequence[Item], jitter: float = 0.0) -> np.ndarray:
    """(len(chosen),) IoU of each image's union of masks with its true mask."""
    unions = [(method(item.image, jittered(item, jitter)), item.mask) for item in chosen]
    return np.array([(found & true).sum() / max(1, (found | true).sum()) for found, true in unions])


def ours(method: str, sam2: Sam2 | None = None) -> Method:
    """`masks_for` as a method here."""

    def run(image: Image.Image, boxes: Sequence[Box]) -> Bools:
        masks, _ = masks_for(image, boxes, method, sam2)
        return np.logical_or.reduce([decode_mask(mask) for mask in masks])

    return run


def baseline(segment: Callable[[Pixels, Window], Bools]) -> Method:
    """A function of the pixels and one window as a method.

    Where it finds 2 % of the box or less, the box is filled.
    """

    def run(image: Image.Image, boxes: Sequence[Box]) -> Bools:
        pixels = np.asarray(image)
        union = np.zeros(pixels.shape[:2], dtype=np.bool_)
        for box in boxes:
            place = window(box.xyxy, image.size)
            if place is not None:
                x1, y1, x2, y2 = place
                part = segment(pixels, place)
                union[y1:y2, x1:x2] |= part if part.mean() > 0.02 else True
        return union

    return run


def otsu_dark(pixels: Pixels, box: Window) -> Bools:
    """Otsu's threshold inside the box; the dark side is the defect, as defects of these data are dark."""
    x1, y1, x2, y2 = box
    grey = np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[y1:y2, x1:x2])
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    return grey <= threshold


def otsu_border(pixels: Pixels, box: Window) -> Bools:
    """Otsu's threshold inside the box; the side that has less of the box's outermost pixels is the defect."""
    dark = otsu_dark(pixels, box)
    edge = np.concatenate([dark[0], dark[-1], dark[1:-1, 0], dark[1:-1, -1]])
    return dark if edge.mean() <= 0.5 else ~dark


def otsu_ring(pixels: Pixels, box: Window) -> Bools:
    """Otsu's threshold inside the box; the defect has less of a ring of a quarter of the box around it."""
    x1, y1, x2, y2 = box
    dark = otsu_dark(pixels, box)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    threshold = grey[y1:y2, x1:x2][dark].max()
    ring_x, ring_y = max(2, (x2 - x1) // 4), max(2, (y2 - y1) // 4)
    outer = grey[max(0, y1 - ring_y) : y2 + ring_y, max(0, x1 - ring_x) : x2 + ring_x] <= threshold
    around = (outer.sum() - dark.sum()) / max(1, outer.size - dark.size)
    return dark if around <= 0.5 else ~dark


def grabcut(pixels: Pixels, box: Window) -> Bools:
    """OpenCV's GrabCut, 5 rounds, on the box, probably foreground, and 30 % around it, at most 96 pixels."""
    x1, y1, x2, y2 = box
    pad_x, pad_y = (max(6, int(0.3 * side)) for side in (x2 - x1, y2 - y1))
    left, top = max(0, x1 - pad_x), max(0, y1 - pad_y)
    crop = pixels[top : y2 + pad_y, left : x2 + pad_x]
    labels = np.full(crop.shape[:2], cv2.GC_BGD, dtype=np.uint8)
    labels[y1 - top : y2 - top, x1 - left : x2 - left] = cv2.GC_PR_FGD
    scale = min(1.0, 96 / max(labels.shape))
    small = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    seeds = cv2.resize(labels, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    if min((seeds == cv2.GC_BGD).sum(), (seeds == cv2.GC_PR_FGD).sum()) < 8:
        return np.ones((y2 - y1, x2 - x1), dtype=np.bool_)  # too few pixels for its mixtures
    cv2.setRNGSeed(0)
    seeds, _, _ = cv2.grabCut(
        small, seeds, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK
    )
    found = cv2.resize(seeds, labels.shape[::-1], interpolation=cv2.INTER_NEAREST) == cv2.GC_PR_FGD
    return found[y1 - top : y2 - top, x1 - left : x2 - left]


BASELINES: dict[str, Method] = {
    "fill the box": ours("box"),
    "Otsu, border polarity": baseline(otsu_border),
    "Otsu, ring polarity": baseline(otsu_ring),
    "Otsu, dark side": baseline(otsu_dark),
    "GrabCut": baseline(grabcut),
}


def row(name: str, method: Method, dataset: Sequence[Item]) -> str:
    """One line of the table."""
    started = time.perf_counter()
    exact = ious(method, dataset)
    milliseconds = 1000 * (time.perf_counter() - started) / sum(len(item.boxes) for item in dataset)
    tuned = np.array([item.tuned for item in dataset])
    moved = [ious(method, dataset, jitter).mean() for jitter in JITTERS[1:]]
    figures = (exact.mean(), exact[tuned].mean(), exact[~tuned].mean(), *moved)
    return f"| {name:22} | " + " | ".join(f"{value:8.3f}" for value in figures) + f" | {milliseconds:10.1f} |"


def main() -> None:
    """Print one table for each set of images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=SHARED, help="the developers' folder of real images")
    parser.add_argument("--sam2", help="also measure this SAM2, a hub name or a folder")
    arguments = parser.parse_args()
    if not (arguments.shared / "data").is_dir():
        print(
            f"skipped: {arguments.shared}/data is not there; "
            "name the developers' folder of real images with --shared DIR"
        )
        return
    methods = {**BASELINES, "default (posterior)": ours("default")}
    if arguments.sam2:
        methods["SAM2"] = ours("sam2", Sam2.load(arguments.sam2))
    for name in DATASETS:
        dataset = list(items(arguments.shared / "data" / name))
        count = sum(len(item.boxes) for item in dataset)
        print(f"\n{name}: {len(dataset)} images, {count} boxes; mean IoU with the true mask\n")
        jitters = f"jitter {JITTERS[1]:.0%} | {JITTERS[2]:.0%}"
        print(f"| {'method':22} | exact    | tuned    | held out | {jitters} | ms per box |")
        print("|---|---|---|---|---|---|---|")
        for label, method in methods.items():
            print(row(label, method, dataset), flush=True)


if __name__ == "__main__":
    main()
