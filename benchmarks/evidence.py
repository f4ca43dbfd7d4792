"""How well a few good parts see: sets x good parts learned x backbones, beside the recipe this began with.

    python benchmarks/evidence.py [--shared DIR] [--draws 10] [--count 30] [--tables ranks verdicts ...]

`DIR/data` holds `magnetic_tile`, `bsdata` and `deeppcb`; solar cells (mono) come from `elpv-dataset` where
it is installed. Tables are Markdown: the mean of the draws and, in brackets, the lowest and the highest.
Recipes were chosen on images whose id has an even SHA-256; figures are of the others, or of all with `--all`.
A draw decides which good parts are learned and which `--count` good and bad ones are measured (0 = all);
look-alikes of a part that was learned (`anomalyr1.data.leaks`) are left out. "before" is the recipe of the
first day on the same draws: both blocks of the network count the same, cells at 224 pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from anomalyr1 import data
from anomalyr1.boxes import decode_mask, iou, to_array
from anomalyr1.data import leaks
from anomalyr1.data.mask_files import true_mask
from anomalyr1.evidence import learning, measure, promise
from anomalyr1.evidence.backbone import DEFAULT, Backbone, Features, load_backbone
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.efficientnet import BLOCKS
from anomalyr1.evidence.head import vector_of
from anomalyr1.evidence.learning import Settings
from anomalyr1.images.door import open_image
from anomalyr1.types import InputError, Sample, SetupError

SHARED = Path(__file__).resolve().parents[2] / "shared"
FINE = 40
"""Channels of the finer block, which come first."""
BEFORE_SHORT_SIDE = {"elpv": 224}
"""The first day's; 320 for the other sets."""


@dataclass
class Remembered:
    """A backbone that computes what it is shown once."""

    backbone: Backbone
    memory: dict[tuple[str, int], Features] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name, self.digest = self.backbone.name, self.backbone.digest

    def features(self, rgb: Image.Image, short_side: int) -> Features:
        """As those of the backbone, in half precision."""
        key = hashlib.sha256(rgb.tobytes()).hexdigest(), short_side
        if key not in self.memory:
            features = self.backbone.features(rgb, short_side)
            self.memory[key] = features._replace(patches=features.patches.half())
        features = self.memory[key]
        return features._replace(patches=features.patches.float())


class Before:
    """The default network as the first day's recipe read it: two blocks that count the same."""

    def __init__(self, backbone: Backbone) -> None:
        self.name, self.digest = backbone.name, backbone.digest
        self._backbone = backbone

    def features(self, rgb: Image.Image, short_side: int) -> Features:
        """The features of a picture."""
        features = self._backbone.features(rgb, short_side)
        patches = features.patches.clone()
        patches[:, :FINE] /= BLOCKS[2]
        return features._replace(patches=torch.nn.functional.normalize(patches, dim=1))


@dataclass
class Photographs:
    """The images of a set, and what is the same of them in all draws."""

    name: str
    good: list[Sample]
    bad: list[Sample]
    hashes: dict[str, str]

    def draw(self, number: int, learned: int, count: int) -> tuple[list[Path], list[Sample], list[Sample]]:
        """Good parts to learn, good parts and bad parts to measure, none of them like one that is learned."""
        rng = random.Random(number)
        good = rng.sample(self.good, len(self.good))
        learnt, others = good[:learned], good[learned:]
        bad = rng.sample(self.bad, len(self.bad))
        sides = [self.unlike(side, learnt) for side in (others, bad)]
        limit = count or None
        return [sample.image for sample in learnt], sides[0][:limit], sides[1][:limit]

    def unlike(self, samples: list[Sample], learned: list[Sample]) -> list[Sample]:
        """Those that look like none that was learned."""
        words = np.stack([self._bits(sample) for sample in learned])  # (learned, 32)
        return [
            sample
            for sample in samples
            if np.bitwise_count(words ^ self._bits(sample)).sum(1).min() > leaks.MAX_DISTANCE
        ]

    def _bits(self, sample: Sample) -> np.ndarray:
        return np.frombuffer(bytes.fromhex(self.hashes[sample.id]), np.uint8)


def is_even(sample: Sample) -> bool:
    """Whether the recipe was chosen on this image."""
    return hashlib.sha256(sample.id.encode()).digest()[-1] % 2 == 0


def photographs(name: str, shared: Path, everything: bool) -> Photographs | None:
    """The images of a set; None where it is not here."""
    try:
        spec = "elpv" if name == "elpv" else f"index:{shared / 'data' / name}"
        samples = [sample for sample in data.load(spec) if sample.anomalous is not None]
    except (InputError, SetupError) as error:
        print(f"{name} is left out: {error}\n", flush=True)
        return None
    kept = [
        sample
        for sample in samples
        if sample.category != "polycrystalline solar cell" and (everything or not is_even(sample))
    ]
    hashes = {sample.id: leaks.perceptual_hash(open_image(sample.image).rgb) for sample in kept}
    sides = [[sample for sample in kept if sample.anomalous is truth] for truth in (False, True)]
    return Photographs(name, sides[0], sides[1], hashes)


def learn(paths: list[Path], network: Remembered, settings: Settings, learned: int | None = None) -> Bank:
    """A bank, made with a network that remembers."""
    content = learning.learn(paths, network, settings, learned, lambda done, total: None)
    return Bank(settings=settings, backbone=network, **content._asdict())


def grids(bank: Bank, samples: list[Sample], network: Remembered) -> Iterator[measure.Grid]:
    """(h, w) distances of each image."""
    patches = bank.patches.float()
    for sample in samples:
        features = network.features(open_image(sample.image).rgb, bank.settings.short_side)
        yield learning.distances_of(features, patches)


def auroc(good: list[float], bad: list[float]) -> float:
    """How often a bad part is stranger than a good one."""
    return float(roc_auc_score([0] * len(good) + [1] * len(bad), good + bad))


def spread(values: list[float]) -> str:
    """The mean, and the lowest and highest of the draws."""
    return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def ranks(photos: Photographs, network: Remembered, options: argparse.Namespace) -> None:
    """How well scores rank, by the number of good parts learned."""
    old = Settings(short_side=BEFORE_SHORT_SIDE.get(photos.name, 320), backbone=network.name)
    before = Remembered(Before(network.backbone)) if network.name == DEFAULT else None
    for count in options.good:
        now, then = [], []
        for number in range(options.draws):
            paths, *sides = photos.draw(number, count, options.count)
            for recipe, settings, values in (
                (network, Settings(backbone=network.name), now),
                (before, old, then),
            ):
                if recipe is not None:
                    bank = learn(paths, recipe, settings, count)
                    scores = [[measure.score_of(g) for g in grids(bank, side, recipe)] for side in sides]
                    values.append(auroc(*scores))
        beside = spread(then) if then else "-"
        print(f"| {photos.name} | {network.name} | {count} | {spread(now)} | {beside} |", flush=True)


def verdicts(photos: Photographs, network: Remembered, options: argparse.Namespace) -> None:
    """What the threshold of 29 held-out good parts decides, and how often a promise holds."""
    figures: dict[str, list[float]] = {}
    for number in range(options.draws):
        paths, *sides = photos.draw(number, 37, options.count)
        bank = learn(paths, network, Settings(backbone=network.name), 8)
        good, bad = ([measure.score_of(g) for g in grids(bank, side, network)] for side in sides)
        ordered = sorted(bank.held_out_scores, reverse=True)
        for alarms, threshold in enumerate(ordered[:4]):
            found, passed = (
                np.mean(np.array(bad) > threshold),
                np.mean(np.array(good) <= threshold),
            )
            figures.setdefault(f"balanced {alarms}", []).append(float(found + passed) / 2)
            figures.setdefault(f"found {alarms}", []).append(float(found))
            figures.setdefault(f"passed {alarms}", []).append(float(passed))
    for alarms in (0, 1, 2, 3):
        bound = promise.false_alarm_bound(29, alarms)
        row = " | ".join(spread(figures[f"{key} {alarms}"]) for key in ("balanced", "found", "passed"))
        print(f"| {photos.name} | {alarms} | {bound:.3f} | {row} |", flush=True)


def labelled(photos: Photographs, network: Remembered, options: argparse.Namespace) -> None:
    """What as many labelled defective parts teach, beside good parts alone with a threshold of both."""
    figures: list[list[float]] = []
    for number in range(options.draws):
        paths, good, bad = photos.draw(number, 32, 0)
        lessons = bad[:32]
        bank = learn(paths, network, Settings(backbone=network.name), 32)
        bank = bank.with_defects([sample.image for sample in lessons])
        head = bank.head
        assert head is not None and head.bank_threshold is not None
        limit = options.count or None
        sides = photos.unlike(good, lessons)[:limit], photos.unlike(bad[32:], lessons)[:limit]
        looks = [[bank._look(open_image(sample.image).rgb) for sample in side] for side in sides]
        alone = [np.array([measure.score_of(grid) for _, grid in side]) for side in looks]
        taught = alone
        if head.is_better:
            taught = [np.array([head(vector_of(*look)) for look in side]) for side in looks]
        row = [float(head.is_better)]
        for (passed, found), threshold in ((taught, bank.threshold), (alone, head.bank_threshold)):
            row.append(float(np.mean(found > threshold) + np.mean(passed <= threshold)) / 2)
            row.append(auroc(list(passed), list(found)))
        figures.append(row)
    columns = list(zip(*figures, strict=True))
    cells = " | ".join(spread(list(column)) for column in columns[1:])
    print(f"| {photos.name} | {np.mean(columns[0]):.1f} | {cells} |", flush=True)


def promises(photos: Photographs, network: Remembered, options: argparse.Namespace) -> None:
    """In what share of 1,000 draws of real scores false alarms are within the promise."""
    paths, good, _ = photos.draw(0, 8, 0)
    bank = learn(paths, network, Settings(backbone=network.name), 8)
    scores = np.array([measure.score_of(grid) for grid in grids(bank, good, network)])
    rng = np.random.default_rng(0)
    for held_out in (29, 59):
        if len(scores) < 3 * held_out:
            continue
        bound = promise.false_alarm_bound(held_out)
        rates = []
        for _ in range(1000):
            mixed = rng.permutation(scores)
            rates.append(np.mean(mixed[held_out:] > mixed[:held_out].max()))
        print(
            f"| {photos.name} | {held_out} | {bound:.3f} | {np.mean(np.array(rates) <= bound):.3f} |",
            flush=True,
        )


def places(photos: Photographs, network: Remembered, options: argparse.Namespace) -> None:
    """Boxes and masks of regions beside the true ones, 8 good learned and 29 held out."""
    rows: dict[str, list[float]] = {key: [] for key in ("none", "listed", "iou", "recall", "mask")}
    for number in range(min(options.draws, 3)):
        paths, good, bad = photos.draw(number, 37, options.count)
        bank = learn(paths, network, Settings(backbone=network.name), 8)
        for sample, grid in zip(good + bad, grids(bank, good + bad, network), strict=True):
            size_wh = open_image(sample.image).size_wh
            regions = measure.regions_of(grid, bank.yardstick, size_wh)
            if not sample.anomalous:
                rows["none"].append(not regions)
                continue
            rows["listed"].append(bool(regions))
            boxes = to_array([region.box for region in regions]).reshape(-1, 4)
            overlaps = iou(to_array(sample.boxes or ()).reshape(-1, 4), boxes)  # (true, regions)
            best = overlaps.max(1, initial=0).tolist()
            rows["iou"] += best
            rows["recall"] += [value >= 0.3 for value in best]
            if (mask := true_mask(sample)) is not None:
                outlines = [decode_mask(r.outline) for r in regions if r.outline is not None]
                union = np.logical_or.reduce([np.zeros_like(mask), *outlines])
                rows["mask"].append(float((union & mask).sum() / max(1, (union | mask).sum())))
    cells = " | ".join(f"{np.mean(values):.3f}" if values else "-" for values in rows.values())
    print(f"| {photos.name} | {cells} |", flush=True)


def boards(shared: Path, network: Remembered, options: argparse.Namespace) -> None:
    """Circuit boards beside their template, the one good part: pixels and boxes."""
    samples = list(data.load(f"index:{shared / 'data' / 'deeppcb'}"))
    samples = [sample for sample in samples if options.all or not is_even(sample)]
    before = Remembered(Before(network.backbone))
    now, old = Settings(backbone=network.name), Settings(short_side=320)
    for name, recipe, settings in (
        ("now", network, now),
        ("before", before, old),
    ):
        pixels, recall = [], []
        for sample in random.Random(0).sample(samples, min(len(samples), options.count or len(samples))):
            bank = learn([sample.references[0]], recipe, settings)
            grid = next(grids(bank, [sample], recipe))
            image = open_image(sample.image)
            width, height = image.size_wh
            large = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))
            truth = np.zeros((height, width), bool)
            for x1, y1, x2, y2 in to_array(sample.boxes or ()).astype(int):
                truth[y1:y2, x1:x2] = True
            pixels.append(float(roc_auc_score(truth[::2, ::2].ravel(), large[::2, ::2].ravel())))
            regions = measure.regions_of(grid, bank.yardstick, image.size_wh)
            boxes = to_array([region.box for region in regions]).reshape(-1, 4)
            recall += (iou(to_array(sample.boxes or ()), boxes).max(1, initial=0) >= 0.3).tolist()
        print(f"| deeppcb, {name} | {np.mean(pixels):.3f} | {np.mean(recall):.3f} |", flush=True)


def kinds(sets: list[Photographs], network: Remembered, options: argparse.Namespace) -> None:
    """How often a part of the same and of another set is said to be another kind of part."""
    for photos in sets:
        paths, good, bad = photos.draw(0, 8, 0)
        bank = learn(paths, network, Settings(backbone=network.name), 8)
        cells = []
        for other in sets:
            samples = good + bad if other is photos else other.good[:40] + other.bad[:40]
            features = [network.features(open_image(s.image).rgb, bank.settings.short_side) for s in samples]
            cells.append(f"{np.mean([not bank._is_same_kind(f.pooled) for f in features]):.3f}")
        print(f"| {photos.name} | {' | '.join(cells)} |", flush=True)


TABLES = {
    "ranks": (ranks, "set | backbone | good parts learned | AUROC | before"),
    "verdicts": (
        verdicts,
        "set | held out above it | promised | balanced accuracy | found | passed",
    ),
    "labelled": (
        labelled,
        "set, 32 good and 32 defective | head used | balanced accuracy | AUROC | good alone | AUROC",
    ),
    "promises": (promises, "set | held out | promised | share of 1,000 draws within it"),
    "places": (places, "set | good: no place | bad: a place | box mIoU | recall at IoU 0.3 | mask IoU"),
}


def print_head(columns: str) -> None:
    """The head of a Markdown table."""
    print(f"\n| {columns} |\n|{'---|' * (columns.count('|') + 1)}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--good", type=int, nargs="+", default=[1, 4, 8, 32])
    parser.add_argument("--all", action="store_true", help="images that the recipe was chosen on, too")
    parser.add_argument("--sets", nargs="+", default=["elpv", "magnetic_tile", "bsdata", "deeppcb"])
    parser.add_argument("--tables", nargs="+", default=[*TABLES, "boards", "kinds"])
    parser.add_argument("--backbone", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.time()
    names = [name for name in options.sets if name != "deeppcb"]
    sets = [p for name in names if (p := photographs(name, options.shared, options.all)) is not None]
    networks = {photos.name: Remembered(load_backbone(options.backbone)) for photos in sets}
    for table, (function, columns) in TABLES.items():
        if table in options.tables:
            print_head(columns)
            for photos in sets:
                if table != "places" or photos.name != "elpv":
                    function(photos, networks[photos.name], options)
    network = Remembered(load_backbone(options.backbone))
    if "boards" in options.tables and "deeppcb" in options.sets and (options.shared / "data").is_dir():
        print_head("set | pixel AUROC | recall of boxes at IoU 0.3")
        boards(options.shared, network, options)
    if "kinds" in options.tables:
        print_head(" | ".join(["said to be another kind: learned", *(photos.name for photos in sets)]))
        kinds(sets, network, options)
    print(f"\n{time.time() - start:.0f} s, {options.threads} threads")


if __name__ == "__main__":
    main()
