"""Data sets that are folders: MVTec AD, MVTec LOCO, VisA, GoodsAD, and a folder of one's own.

Nothing but listings (and VisA's tables) is read. A mask is found by its name in the listing of the masks;
LOCO keeps the mask of an image as a folder of files that together are the mask, and that folder is the
sample's mask (`truth.read_mask`).
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from pathlib import Path

from anomalyr1.data import readers as manifests
from anomalyr1.data.rows import Collector, Options, Row
from anomalyr1.data.samples import Samples
from anomalyr1.types import InputError

GOOD = frozenset(("good", "ok", "normal"))
"""Names of folders of good images."""
_LOGICAL = "logical_anomalies"
_PARTS = ("train", "validation", "test")
_MVTEC_EXPECTED = "<category>/train/good, <category>/test/<defect or good>, <category>/ground_truth/<defect>"
_VISA_EXPECTED = "<category>/Data/Images/Normal and Anomaly, <category>/Data/Masks/Anomaly, split_csv/1cls.csv; or the layout of MVTec AD"


def mvtec(spec: str, path: Path, options: Options) -> Samples:
    """MVTec AD: all categories below a folder, or one category."""
    return _mvtec_like(spec, path, options, "MVTec-AD")


def loco(spec: str, path: Path, options: Options) -> Samples:
    """MVTec LOCO; logical anomalies are marked."""
    return _mvtec_like(spec, path, options, "MVTec-LOCO")


def goodsad(spec: str, path: Path, options: Options) -> Samples:
    """GoodsAD: the layout of MVTec AD with masks that have their image's name."""
    return _mvtec_like(spec, path, options, "GoodsAD")


def visa(spec: str, path: Path, options: Options) -> Samples:
    """VisA as published (Data/Images, split_csv/1cls.csv, image_anno.csv), or converted to the layout of MVTec AD."""
    root = manifests.require_folder(path)
    single = (root / "Data").is_dir()
    names = [""] if single else [name for name in manifests.folders(root) if (root / name / "Data").is_dir()]
    if not names:
        return _mvtec_like(spec, path, options, "VisA", _VISA_EXPECTED)
    into = Collector(spec, "VisA", root, root, options)
    splits = _visa_splits(root, into)
    for name in names:
        _visa_category(into, name, name or root.resolve().name, splits)
    return into.done(_VISA_EXPECTED)


def own(spec: str, path: Path, options: Options) -> Samples:
    """A folder of one's own: good/, a folder for each kind of defect, and masks/ if there are any.

    A mask is masks/<defect>/<name> or masks/<name>, with any image suffix. Without masks only the verdict is
    asked.
    """
    root = manifests.require_folder(path)
    category = root.resolve().name
    into = Collector(spec, category, root, root, options)
    masks = {posixpath.splitext(mask)[0]: mask for mask in into.door.images("masks")}
    for label in manifests.folders(root):
        if label == "masks":
            continue
        good = label.casefold() in GOOD
        for image in into.door.images(label, into.notes):
            if not good and not GOOD.isdisjoint(image.casefold().split("/")[1:-1]):
                raise InputError(
                    f"{str(root)!r}: {image!r} is below a folder of good images inside {label!r}, which would be read as a defect; name "
                    "the folder that holds good/ itself, or load the layouts of MVTec AD as mvtec:FOLDER"
                )
            row: Row = {"id": image, "image": image, "category": category, "anomalous": not good}
            if not good:
                row["defects"] = [label]
                stem = posixpath.splitext(image)[0]
                _set_mask(
                    into,
                    row,
                    masks,
                    [f"masks/{stem}", f"masks/{stem}_mask", f"masks/{posixpath.basename(stem)}"],
                )
            into.add(row)
    into.notes["images outside the folders of good and of defects, left out"] = sum(
        entry.is_file() and manifests.is_image(entry.name) for entry in manifests.scan(root)
    )
    return into.done(
        "good/ with good images and a folder of images for each kind of defect", unmarked_verdict_only=True
    )


def _mvtec_like(
    spec: str, path: Path, options: Options, dataset: str, expected: str = _MVTEC_EXPECTED
) -> Samples:
    root = manifests.require_folder(path)
    single = any((root / part).is_dir() for part in _PARTS)
    names = (
        [""]
        if single
        else [
            name for name in manifests.folders(root) if any((root / name / part).is_dir() for part in _PARTS)
        ]
    )
    into = Collector(spec, dataset, root, root, options)
    for name in names:
        _mvtec_category(into, name, name or root.resolve().name)
    return into.done(expected)


def _mvtec_category(into: Collector, under: str, category: str) -> None:
    prefix = f"{under}/" if under else ""
    masks = _by_stem(into.door.images(f"{prefix}ground_truth"))
    for part in _PARTS:
        for image in into.door.images(f"{prefix}{part}", into.notes):
            label, inside, _ = image.removeprefix(f"{prefix}{part}/").partition("/")
            if not inside:
                into.notes["images outside the folders of good and of defects, left out"] += 1
                continue
            good = label.casefold() in GOOD
            row: Row = {
                "id": f"{into.dataset}/{category}/{image.removeprefix(prefix)}",
                "image": image,
                "category": category,
            }
            row["anomalous"] = not good
            if not good:
                row["defects"] = [label]
                row["logical"] = label == _LOGICAL
                stem = posixpath.splitext(f"{prefix}ground_truth/{image.removeprefix(f'{prefix}{part}/')}")[0]
                _set_mask(into, row, masks, [f"{stem}_mask", stem])
            into.add(row, part)


def _by_stem(paths: list[str]) -> dict[str, str]:
    """Mask files by their path without suffix, and the folders that hold them by their own path (LOCO: a folder is one mask)."""
    known: dict[str, str] = {}
    for path in paths:
        known.setdefault(posixpath.dirname(path), posixpath.dirname(path))
    known.update((posixpath.splitext(path)[0], path) for path in paths)
    return known


def _set_mask(into: Collector, row: Row, masks: dict[str, str], stems: list[str]) -> None:
    for stem in stems:
        if stem in masks:
            row["mask"] = masks[stem]
            return
    into.notes["anomalous images without a mask"] += 1


def _visa_splits(root: Path, into: Collector) -> dict[str, str]:
    """Split by image, of VisA's one-class protocol; empty where its table is not there."""
    path = root / "split_csv" / "1cls.csv"
    if not path.is_file():
        into.notes["data sets without split_csv/1cls.csv, so without splits"] = 1
        return {}
    splits = {}
    for row in manifests.table(path, ("object", "split", "label", "image", "mask")):
        into.door.check(row["image"])
        splits[row["image"]] = row["split"]
    return splits


def _visa_defects(root: Path, prefix: str) -> dict[str, list[str]]:
    """Labels by image; the table names several of an image with commas."""
    path = root / f"{prefix}image_anno.csv"
    if not path.is_file():
        return {}
    known: defaultdict[str, list[str]] = defaultdict(list)
    for row in manifests.table(path, ("image", "label", "mask")):
        known[
            posixpath.basename(posixpath.dirname(row["image"])) + "/" + posixpath.basename(row["image"])
        ] += [label.strip() for label in row["label"].split(",") if label.strip()]
    return dict(known)


def _visa_category(into: Collector, under: str, category: str, splits: dict[str, str]) -> None:
    prefix = f"{under}/" if under else ""
    masks = _by_stem(into.door.images(f"{prefix}Data/Masks"))
    labels = _visa_defects(into.root, prefix)
    for image in into.door.images(f"{prefix}Data/Images", into.notes):
        kind = posixpath.basename(posixpath.dirname(image))
        good = kind.casefold() in GOOD
        row: Row = {
            "id": f"VisA/{category}/{image.removeprefix(prefix)}",
            "image": image,
            "category": category,
            "anomalous": not good,
        }
        if not good:
            row["defects"] = list(dict.fromkeys(labels.get(f"{kind}/{posixpath.basename(image)}", ["bad"])))
            stem = posixpath.splitext(f"{prefix}Data/Masks/{kind}/{posixpath.basename(image)}")[0]
            _set_mask(into, row, masks, [stem])
        into.add(row, splits.get(image, ""))
