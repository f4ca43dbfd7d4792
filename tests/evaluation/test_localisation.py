"""Localisation figures equal scikit-learn's, pycocotools' and anomalib's; bins keep their bound; nothing is
dropped silently.
"""

import contextlib
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from anomalyr1 import boxes
from anomalyr1.evaluation import localisation, pixels
from anomalyr1.evaluation.pixels import MapItem
from anomalyr1.types import Box, InputError, Inspection, Sample
from support.places import ROOT

ANOMALIB = json.loads((ROOT / "tests/data/aupro.json").read_text(encoding="utf-8"))
"""AUPRO of `maps(seed)` by anomalib 2.7.0 in double precision; its code is not needed to run the test."""


def maps(seed):
    """One to six maps with ties and masks of up to four blobs; some images are good, at least one is not."""
    random = np.random.default_rng(seed)
    items = []
    for number in range(int(random.integers(1, 7))):
        mask = np.zeros((32, 40), dtype=bool)
        for _ in range(int(random.integers(0 if number else 1, 5))):
            x, y, w, h = random.integers(0, [30, 24, 14, 12])
            mask[y : y + h + 1, x : x + w + 1] = True
        scores = random.normal(0.8 * mask, 1.0).round(int(random.integers(0, 4)))
        items.append(MapItem(f"{number}", scores.astype(np.float32), mask))
    return items


def slow_aupro(items, limit=0.3):
    """As the paper says it, threshold by threshold, with scipy's components."""
    from scipy.ndimage import label

    regions = []
    for item in items:
        labels, count = label(item.mask, structure=np.ones((3, 3)))
        regions += [item.scores[labels == one] for one in range(1, count + 1)]
    good = np.concatenate([item.scores[~item.mask] for item in items])
    levels = np.unique(np.concatenate([item.scores.ravel() for item in items]))[::-1]
    x = [0.0, *(float((good >= level).mean()) for level in levels)]
    y = [0.0, *(float(np.mean([(region >= level).mean() for region in regions])) for level in levels)]
    grid = np.union1d(x, [limit])
    grid = grid[grid <= limit]
    total = 0.0
    for a, b in itertools.pairwise(grid):
        # Where the curve rises straight up, its upper end counts to the right and its lower end to the left.
        right = max(v for u, v in zip(x, y, strict=True) if u <= a)
        after = [(u, v) for u, v in zip(x, y, strict=True) if u >= b]
        u, v = min(after)
        left = right + (v - right) * (b - a) / (u - a)
        total += (b - a) * (right + left) / 2
    return total / limit


@pytest.mark.parametrize("seed", range(50))
def test_map_figures_equal_the_references(seed):
    items = maps(seed)
    found = pixels.measure(lambda: iter(items), repeats=0)
    truth = np.concatenate([item.mask.ravel() for item in items])
    scores = np.concatenate([item.scores.ravel() for item in items])
    precision, recall, _ = metrics.precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-30)
    assert found.auroc.value == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-9)
    assert found.f1_max.value == pytest.approx(f1.max(), abs=1e-9)
    assert metrics.f1_score(truth, scores >= found.f1_threshold) == pytest.approx(f1.max(), abs=1e-9)
    assert found.aupro.value == pytest.approx(slow_aupro(items), abs=1e-9)
    assert found.aupro.value == pytest.approx(ANOMALIB[seed], abs=1e-6)
    assert found.bins == found.bound_aupro == 0


@pytest.mark.parametrize("bins", [2, 16, 256, 4096])
def test_bins_keep_their_bounds(bins):
    spent = []
    for seed in range(50):
        items = maps(seed)
        exact, binned = (
            pixels.measure(lambda items=items: iter(items), bins=n, repeats=0) for n in (0, bins)
        )
        for name in ("auroc", "f1_max", "aupro"):
            off, bound = (
                abs(getattr(exact, name).value - getattr(binned, name).value),
                getattr(binned, f"bound_{name}"),
            )
            assert off <= bound + 1e-12, (seed, name)
            spent.append(off / bound if bound > 1e-9 else 0)
        assert binned.regions == exact.regions
    assert max(spent) > 0.02  # the bounds are not empty words


def test_intervals_of_maps_hold_the_figure_and_narrow():
    many = [MapItem(f"{seed}/{item.name}", *item[1:]) for seed in range(40) for item in maps(seed)]
    few = pixels.measure(lambda: iter(many[:12]), repeats=200)
    found = pixels.measure(lambda: iter(many), repeats=200)
    for name in ("auroc", "f1_max", "aupro"):
        one, other = getattr(found, name), getattr(few, name)
        assert one.low < one.value < one.high
        assert one.high - one.low < other.high - other.low
    assert set(found.aupro_by_size) <= set(pixels.SIZES)


def test_maps_that_cannot_be_measured():
    item = maps(0)[0]
    assert pixels.measure(lambda: iter([])) is None
    for wrong, named in (
        (item._replace(scores=item.scores[1:]), "scale"),
        (item._replace(scores=item.scores * np.nan), "NaN"),
    ):
        with pytest.raises(InputError, match=f"'0'.*{named}"):
            pixels.measure(lambda wrong=wrong: iter([wrong]))
    good = item._replace(mask=np.zeros_like(item.mask))
    assert pixels.measure(lambda: iter([good])).auroc is None


def scene(random):
    """True and predicted boxes, some near each other, and a confidence."""
    true = [_box(random) for _ in range(int(random.integers(0, 4)))]
    near = [_box(random, box) for box in true if random.random() < 0.7]
    return (
        true,
        near + [_box(random) for _ in range(int(random.integers(0, 3)))],
        round(float(random.random()), 2),
    )


def _box(random, near=None):
    x, y, w, h = random.uniform([0, 0, 15, 15], [70, 70, 30, 30])
    if near is not None:
        x, y, w, h = random.normal([near.x1, near.y1, near.x2 - near.x1, near.y2 - near.y1], 2)
    return Box(x1=x, y1=y, x2=x + w, y2=y + h)


def pycocotools_ap(images):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gold = [(n, box) for n, (true, _, _) in enumerate(images, 1) for box in true]
    found = [(n, box, score) for n, (_, predicted, score) in enumerate(images, 1) for box in predicted]

    def row(n, box):
        w, h = box.x2 - box.x1, box.y2 - box.y1
        return {"image_id": n, "category_id": 1, "bbox": [box.x1, box.y1, w, h], "area": w * h, "iscrowd": 0}

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": n} for n in range(1, len(images) + 1)],
            "annotations": [row(n, box) | {"id": i} for i, (n, box) in enumerate(gold, 1)],
            "categories": [{"id": 1, "name": "defect"}],
        }
        coco.createIndex()
        run = COCOeval(
            coco, coco.loadRes([row(n, box) | {"score": score} for n, box, score in found]), "bbox"
        )
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(("AP", "AP50", "AP75"), run.stats[:3], strict=True))


@pytest.mark.parametrize("seed", range(50))
def test_coco_ap_equals_pycocotools(seed):
    random = np.random.default_rng(seed)
    images = [([_box(random)], [_box(random)], 0.5), *(scene(random) for _ in range(12))]
    assert localisation.coco_ap(images) == pytest.approx(pycocotools_ap(images), abs=1e-6)


def test_coco_ap_at_the_ends():
    box = Box(x1=0, y1=0, x2=10, y2=10)
    assert localisation.coco_ap([([], [box], 0.5)]) is None
    assert localisation.coco_ap([([box], [], 0.5)]) == {"AP": 0, "AP50": 0, "AP75": 0}
    assert localisation.coco_ap([([box], [box], 0.5)]) == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1})
    assert localisation.coco_ap([([box], [box], 0.5), ([], [box], 0.9)])["AP"] == pytest.approx(
        0.5
    )  # a surer box on a good image


@pytest.fixture
def scenes(tmp_path):
    """Pairs whose figures can be counted by hand; images are 100 x 50."""

    def sample(name, box=None, mask=True, **more):
        Image.new("RGB", (100, 50)).save(tmp_path / f"{name}.png")
        known = {"anomalous": box is not None, "boxes": None if box else ()} | more
        if box and mask:
            canvas = np.zeros((50, 100), np.uint8)
            canvas[box[1] : box[3], box[0] : box[2]] = 255
            Image.fromarray(canvas).save(tmp_path / f"{name}_mask.png")
            known["mask"] = tmp_path / f"{name}_mask.png"
        return Sample(id=name, image=tmp_path / f"{name}.png", **known)

    def said(name, *found, verdict="defect", score=0.9, **more):
        drawn = [
            np.pad(np.ones((y2 - y1, x2 - x1), bool), ((y1, 50 - y2), (x1, 100 - x2)))
            for x1, y1, x2, y2 in found
        ]
        boxed = tuple(Box(x1=a, y1=b, x2=c, y2=d) for a, b, c, d in found)
        masks = tuple(boxes.encode_mask(one, "box") for one in drawn)
        return Inspection(
            sample_id=name,
            verdict=verdict,
            score=score,
            reason="r",
            **{"boxes": boxed, "masks": masks} | more,
        )

    return [
        (sample("exact", (0, 0, 10, 10)), said("exact", (0, 0, 10, 10))),  # 2 % of the image: small
        (sample("half", (0, 0, 40, 40)), said("half", (0, 0, 40, 20), score=0.8)),  # 32 %: large
        (sample("missed", (0, 0, 20, 20)), said("missed", verdict="good", score=0.2)),  # 8 %: medium
        (
            sample("unsaid", (0, 0, 20, 20)),
            said("unsaid", verdict="unsure", score=None, boxes=None, masks=None),
        ),
        (
            sample("boxes only", (0, 0, 20, 20), mask=False, boxes=(Box(x1=0, y1=0, x2=20, y2=20),)),
            said("boxes only", (0, 0, 20, 20)),
        ),
        (sample("nowhere", (0, 0, 1, 1), mask=False), said("nowhere")),
        (sample("clean"), said("clean", verdict="good", score=0.1)),
        (sample("alarm"), said("alarm", (0, 0, 5, 5), score=0.7)),
        (sample("unknown", anomalous=None), said("unknown")),
    ]


def test_boxes_and_masks_by_hand(scenes):
    found = localisation.localise(scenes, repeats=50)
    assert (found.images, found.unknown_place, found.unsaid, found.good, found.false_boxes) == (5, 1, 1, 2, 1)
    assert {name: one.images for name, one in found.sizes.items()} == {
        "all": 5,
        "small": 1,
        "medium": 3,
        "large": 1,
    }
    whole = found.sizes["all"]
    assert whole.box_miou.value == pytest.approx((1 + 0.5 + 0 + 0 + 1) / 5)
    assert {at: one.value for at, one in whole.accuracy_at.items()} == pytest.approx(
        {"0.1": 0.6, "0.3": 0.6, "0.5": 0.6}
    )
    assert whole.mask_iou.value == pytest.approx((1 + 0.5 + 0 + 0) / 4)  # "boxes only" has no mask
    assert whole.mask_f1.value == pytest.approx(2 * 900 / (2 * 900 + 0 + 800 + 400 + 400))
    assert found.sizes["large"].mask_iou.value == 0.5
    assert found.coco["AP50"] == pytest.approx(0.604, abs=0.001) and found.coco_unscored == 0
    assert found.maps is None


def test_maps_are_scaled_to_their_images_and_counted(scenes):
    random = np.random.default_rng(0)
    given = {sample.id: random.random((50, 100)).astype(np.float32) for sample, _ in scenes}
    given["exact"] = given["exact"][::2, ::2]
    found = localisation.localise(scenes, given, repeats=0)
    assert found.maps_scaled == 1
    assert found.maps.images == 6  # four masks, two good images; places that are not known stay out
    assert found.maps.regions == {"small": 1, "medium": 2, "large": 1}


def test_a_mask_of_another_image_is_refused(scenes):
    other = scenes[0][1].model_copy(update={"masks": (boxes.encode_mask(np.ones((5, 5), bool), "box"),)})
    with pytest.raises(InputError, match=r"'exact' is \(5, 5\)"):
        localisation.localise([(scenes[0][0], other)])
    assert localisation.localise(scenes[6:]) is None
