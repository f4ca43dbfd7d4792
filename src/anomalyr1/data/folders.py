"""Data sets that are folders: MVTec AD, MVTec LOCO, VisA, GoodsAD, and a folder of one's own.

Nothing but listings (and VisA's tables) is read. A mask is found by its name in the listing of the masks;
LOCO keeps the mask of an image as a folder of files that together are the mask, and that folder is the
sample's mask (`mask_files.read_mask`).
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from pathlib import Path

from anomalyr1.data.readers import is_image, list_folder, read_csv, require_folder, subfolder_names
from anomalyr1.data.rows import Collector, LabelledRow, LoadOptions
from anomalyr1.data.samples import Samples
from anomalyr1.types import InputError

FolderOptions = LoadOptions
"""Folders have no options but those of all data sets."""

GOOD = frozenset(("good", "ok", "normal", "gut"))
"""Names of folders of good images."""
_LOGICAL = "logical_anomalies"
_PARTS = ("train", "validation", "test")
_MVTEC_EXPECTED = "<category>/train/good, <category>/test/<defect or good>, <category>/ground_truth/<defect>"
_VISA_EXPECTED = (
    "<category>/Data/Images/Normal and Anomaly, <category>/Data/Masks/Anomaly, split_csv/1cls.csv; "
    "or the layout of MVTec AD"
)
_OUTSIDE = "images outside the folders of good and of defects, left out"


def mvtec(spec: str, path: Path, options: FolderOptions) -> Samples:
    """MVTec AD: all categories below a folder, or one category. Raises `InputError` for another layout."""
    return _mvtec_like(spec, path, options, "MVTec-AD")


def loco(spec: str, path: Path, options: FolderOptions) -> Samples:
    """MVTec LOCO; logical anomalies are marked. Raises `InputError` for another layout."""
    return _mvtec_like(spec, path, options, "MVTec-LOCO")


def goodsad(spec: str, path: Path, options: FolderOptions) -> Samples:
    """GoodsAD: the layout of MVTec AD with masks that have their image's name.

    Raises `InputError` for another layout.
    """
    return _mvtec_like(spec, path, options, "GoodsAD")


def visa(spec: str, path: Path, options: FolderOptions) -> Samples:
    """VisA as published (Data/Images, split_csv/1cls.csv, image_anno.csv), or in the layout of MVTec AD.

    Raises `InputError` for another layout.
    """
    root = require_folder(path)
    categories = _category_folders(root, ("Data",))
    if not categories:
        return _mvtec_like(spec, path, options, "VisA", _VISA_EXPECTED)
    collector = Collector(spec, "VisA", root, root, options)
    _require_one_for_a_name(categories, collector)
    splits = _visa_splits(root, collector)
    for folder in categories:
        _add_visa_category(collector, folder, splits)
    return collector.samples(_VISA_EXPECTED)


def labelled_folder(spec: str, path: Path, options: FolderOptions) -> Samples:
    """A folder of one's own: good/, a folder for each kind of defect, and masks/ if there are any.

    A mask is masks/<defect>/<name> or masks/<name>, with any image suffix. Without masks only the verdict is
    asked. Raises `InputError` for good images inside a folder of defects, and when there is no image.
    """
    root = require_folder(path)
    collector = Collector(spec, root.resolve().name, root, root, options)
    masks = {posixpath.splitext(mask)[0]: mask for mask in collector.door.images("masks")}
    for label in subfolder_names(root):
        if label == "masks":
            continue
        good = label.casefold() in GOOD
        for image in collector.door.images(label, collector.notes):
            if not good and not GOOD.isdisjoint(image.casefold().split("/")[1:-1]):
                raise InputError(
                    f"{str(root)!r}: {image!r} is below a folder of good images inside {label!r}, "
                    "which would be read as a defect; name the folder that holds good/ itself, "
                    "or load the layouts of MVTec AD as mvtec:FOLDER"
                )
            row: LabelledRow = {"id": image, "image": image, "anomalous": not good}
            row["category"] = collector.category
            if not good:
                row["defects"] = [label]
                stem = posixpath.splitext(image)[0]
                mask_stems = [f"masks/{stem}", f"masks/{stem}_mask", f"masks/{posixpath.basename(stem)}"]
                _set_mask(collector, row, masks, mask_stems)
            collector.add(row)
    collector.notes[_OUTSIDE] = sum(entry.is_file() and is_image(entry.name) for entry in list_folder(root))
    return collector.samples(
        "good/ with good images and a folder of images for each kind of defect", unmarked_verdict_only=True
    )


def _mvtec_like(
    spec: str, path: Path, options: FolderOptions, dataset: str, expected: str = _MVTEC_EXPECTED
) -> Samples:
    root = require_folder(path)
    collector = Collector(spec, dataset, root, root, options)
    folders = _category_folders(root, _PARTS)
    _require_one_for_a_name(folders, collector)
    for folder in folders:
        _add_mvtec_category(collector, folder)
    return collector.samples(expected)


def _category_folders(root: Path, parts: tuple[str, ...]) -> list[str]:
    """Names of the folders that hold any of the parts of a category; "" where `root` itself is one."""

    def is_category(folder: Path) -> bool:
        return any((folder / part).is_dir() for part in parts)

    return [""] if is_category(root) else [name for name in subfolder_names(root) if is_category(root / name)]


def _require_one_for_a_name(folders: list[str], collector: Collector) -> None:
    """Raise `InputError` where one name is given to what the data set calls by names of its own."""
    if collector.options.name and folders != [""]:
        raise InputError(
            f"{str(collector.source)!r} names its categories itself ({', '.join(folders)[:200]}); leave the "
            "option name out"
        )


def _add_mvtec_category(collector: Collector, folder: str) -> None:
    """Add the rows of a category's folder; "" where the root itself is the category."""
    prefix = f"{folder}/" if folder else ""
    masks = _masks_by_stem(collector.door.images(f"{prefix}ground_truth"))
    for part in _PARTS:
        for image in collector.door.images(f"{prefix}{part}", collector.notes):
            name = image.removeprefix(f"{prefix}{part}/")
            label, inside, _ = name.partition("/")
            if not inside:
                collector.notes[_OUTSIDE] += 1
                continue
            row = _row(collector, folder, image, label)
            if row["anomalous"]:
                row["defects"] = [label]
                row["logical"] = label == _LOGICAL
                stem = posixpath.splitext(f"{prefix}ground_truth/{name}")[0]
                _set_mask(collector, row, masks, [f"{stem}_mask", stem])
            collector.add(row, part)


def _row(collector: Collector, folder: str, image: str, label: str) -> LabelledRow:
    """What every image of a category has; `label` is the name of its folder: good, or a kind of defect."""
    category = folder or collector.category
    name = folder or collector.root.resolve().name
    sample_id = f"{collector.dataset}/{name}/{image.removeprefix(f'{folder}/') if folder else image}"
    return {"id": sample_id, "image": image, "category": category, "anomalous": label.casefold() not in GOOD}


def _masks_by_stem(paths: list[str]) -> dict[str, str]:
    """Masks by path without suffix: the files, and the folders that hold them (LOCO: a folder is a mask)."""
    folders = {posixpath.dirname(path): posixpath.dirname(path) for path in paths}
    return folders | {posixpath.splitext(path)[0]: path for path in paths}


def _set_mask(collector: Collector, row: LabelledRow, masks: dict[str, str], stems: list[str]) -> None:
    for stem in stems:
        if stem in masks:
            row["mask"] = masks[stem]
            return
    collector.notes["anomalous images without a mask"] += 1


def _visa_splits(root: Path, collector: Collector) -> dict[str, str]:
    """Split by image, of VisA's one-class protocol; empty where its table is not there."""
    path = root / "split_csv" / "1cls.csv"
    if not path.is_file():
        collector.notes["data sets without split_csv/1cls.csv, so without splits"] = 1
        return {}
    splits = {}
    for row in read_csv(path, ("object", "split", "label", "image", "mask")):
        collector.door.check(row["image"])
        splits[row["image"]] = row["split"]
    return splits


def _visa_defects(root: Path, prefix: str) -> dict[str, list[str]]:
    """Labels by image (its folder and name); the table names several of an image with commas."""
    path = root / f"{prefix}image_anno.csv"
    if not path.is_file():
        return {}
    defects: defaultdict[str, list[str]] = defaultdict(list)
    for row in read_csv(path, ("image", "label", "mask")):
        labels = [label.strip() for label in row["label"].split(",")]
        defects[_folder_and_name(row["image"])] += [label for label in labels if label]
    return dict(defects)


def _add_visa_category(collector: Collector, folder: str, splits: dict[str, str]) -> None:
    """Add the rows of a category's folder; "" where the root itself is the category."""
    prefix = f"{folder}/" if folder else ""
    masks = _masks_by_stem(collector.door.images(f"{prefix}Data/Masks"))
    defects = _visa_defects(collector.root, prefix)
    for image in collector.door.images(f"{prefix}Data/Images", collector.notes):
        name = _folder_and_name(image)
        row = _row(collector, folder, image, name.partition("/")[0])
        if row["anomalous"]:
            row["defects"] = list(dict.fromkeys(defects.get(name, ["bad"])))
            _set_mask(collector, row, masks, [posixpath.splitext(f"{prefix}Data/Masks/{name}")[0]])
        collector.add(row, splits.get(image, ""))


def _folder_and_name(path: str) -> str:
    return f"{posixpath.basename(posixpath.dirname(path))}/{posixpath.basename(path)}"
