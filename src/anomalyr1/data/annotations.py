"""Data sets that are annotation files: COCO, YOLO, and the index files of this project's development data."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from anomalyr1.data import readers as manifests
from anomalyr1.data import rows as labelled
from anomalyr1.data.readers import Json
from anomalyr1.data.rows import Collector, Row
from anomalyr1.data.samples import Samples
from anomalyr1.types import InputError

LabelledBox = tuple[float, float, float, float, str]
"""xyxy and label."""

_COCO_EXPECTED = "a JSON object with the lists images, annotations and categories"
_YOLO_EXPECTED = "images/ with labels/ beside it, and data.yaml with the names of the classes"


_LARGEST_PIXEL = 1e7
"""No image is as large; above it, x + w may be x."""


class Options(labelled.Options):
    """What an annotation file can be asked for."""

    root: Path | None = None
    """Where the paths of images start; None = the folder of the annotation file."""
    unannotated: Literal["good", "unknown"] = "good"
    """What an image without annotations is."""


def coco(spec: str, path: Path, options: Options) -> Samples:
    """A COCO file: boxes with categories as labels of defects. Of a segmentation the box is used, and that is counted."""
    data = manifests.whole(path)
    if not isinstance(data, dict) or not all(
        isinstance(data.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise InputError(f"{str(path)!r} is no COCO file; expected {_COCO_EXPECTED}")
    into = _collector(spec, path, options)
    names = {str(_field(path, one, "id")): str(_field(path, one, "name")) for one in data["categories"]}
    found: defaultdict[str, list[Json]] = defaultdict(list)
    for one in data["annotations"]:
        found[str(_field(path, one, "image_id"))].append(one)
    for image in data["images"]:
        file = _field(path, image, "file_name")
        into.door.check(file)
        boxes = list(_coco_boxes(path, found.pop(str(_field(path, image, "id")), []), names, into))
        row: Row = {
            "id": str(file),
            "image": str(file),
            "category": into.dataset,
            "boxes": _with_area(boxes, into),
        }
        _set_size(row, image)
        _set_verdict(into, row, [box[4] for box in boxes])
        into.add(row)
    into.notes["annotations of images that the file does not list, left out"] = sum(map(len, found.values()))
    return into.done(_COCO_EXPECTED)


def _with_area(boxes: list[LabelledBox], into: Collector) -> list[LabelledBox]:
    """Without those that have no area, counted; their labels still tell that the image is anomalous."""
    kept = [box for box in boxes if box[0] < box[2] and box[1] < box[3]]
    into.notes["boxes without an area, left out"] += len(boxes) - len(kept)
    return kept


def _coco_boxes(
    path: Path, annotations: list[Json], names: Mapping[str, str], into: Collector
) -> Iterator[LabelledBox]:
    """Those that are no box (numbers missing, infinite or absurd) as boxes without an area."""
    for one in annotations:
        xywh = _field(path, one, "bbox")
        label = names.get(str(one.get("category_id")))
        if label is None:
            raise InputError(
                f"{str(path)!r}: an annotation has the category {one.get('category_id')!r}, which the file does not define"
            )
        into.notes["annotations with a segmentation, of which the box is used"] += bool(
            one.get("segmentation")
        )
        x, y, w, h = xywh if _numbers(xywh, 4) else (0, 0, 0, 0)
        yield x, y, x + w, y + h, label


def yolo(spec: str, path: Path, options: Options) -> Samples:
    """A YOLO folder. Its boxes are shares of the image's size, so they are known only where images may be opened (`with_boxes`)."""
    root = manifests.require_folder(path)
    into = _collector(spec, root / "data.yaml", options)
    config = _yolo_config(root)
    names = _class_names(root, config)
    for split, folder in _yolo_folders(root, config, into):
        for image in into.door.images(folder, into.notes):
            row: Row = {"id": image, "image": image, "category": into.dataset}
            labels = root / _label_file(image)
            if labels.is_file():
                boxes = list(_yolo_boxes(labels, names, into))
                row["shares"] = _with_area(boxes, into)
                _set_verdict(into, row, [box[4] for box in boxes], empty="good")
            else:
                _set_verdict(into, row, [])
            into.add(row, split)
    return into.done(_YOLO_EXPECTED)


def _yolo_config(root: Path) -> dict[str, Any]:
    import yaml

    for name in ("data.yaml", "data.yml"):
        if (root / name).is_file():
            try:
                config = yaml.safe_load(manifests.text(root / name))
            except yaml.YAMLError as error:
                raise InputError(
                    f"{str(root / name)!r} is no YAML ({error}); see the documentation of your label tool"
                ) from error
            if not isinstance(config, dict):
                raise InputError(f"{str(root / name)!r}: expected keys such as train, val and names")
            return config
    return {}


def _yolo_folders(root: Path, config: dict[str, Any], into: Collector) -> Iterator[tuple[str, str]]:
    """Split and folder of images. The folder that was named is the root, whatever `path` says: it was written on another machine."""
    into.notes["path in data.yaml, not used"] = int("path" in config)
    named = [(split, config[split]) for split in ("train", "val", "test") if config.get(split)]
    for split, value in named:
        for folder in value if isinstance(value, list) else [value]:
            own = folder
            if (
                isinstance(folder, str) and folder.startswith("../") and (root / folder[3:]).is_dir()
            ):  # as Roboflow writes it
                own = folder[3:]
                into.notes["folders in data.yaml that start with ../, taken from its own folder"] += 1
            if not into.door.check(own):
                continue
            if own.endswith(".txt"):
                raise InputError(
                    f"{str(into.source)!r}: {split} names the list {own!r}; lists of images are not read, name their folder"
                )
            yield split, posixpath.normpath(own)
    if not named:
        yield "", "images"


def _class_names(root: Path, config: dict[str, Any]) -> dict[int, str]:
    names = config.get("names")
    if names is None and (root / "classes.txt").is_file():
        names = manifests.text(root / "classes.txt").split("\n")
    if isinstance(names, dict):
        return {int(key): str(value) for key, value in names.items() if str(key).isdecimal()}
    return dict(enumerate(str(name).strip() for name in names)) if isinstance(names, list) else {}


def _label_file(image: str) -> str:
    parts = posixpath.splitext(image)[0].split("/")
    at = len(parts) - 1 - parts[::-1].index("images") if "images" in parts else None
    if at is not None:
        parts[at] = "labels"
    return "/".join(parts) + ".txt"


def _yolo_boxes(path: Path, names: Mapping[int, str], into: Collector) -> Iterator[LabelledBox]:
    """Class and centre, width, height; or class and the corners of a polygon, of which the box is used."""
    for number, line in enumerate(manifests.text(path).splitlines(), start=1):
        try:
            values = [float(word) for word in line.split()]
        except ValueError:
            values = [-1.0]
        if not values:
            continue
        fits = len(values) == 5 or (len(values) >= 7 and len(values) % 2)
        if not fits or not values[0].is_integer() or not all(0 <= value <= 1 for value in values[1:]):
            raise InputError(
                f"line {number} of {str(path)!r}: expected a class and shares of 0 to 1 (cx cy w h, or corners), got {line!r}"
            )
        number_of_class = int(values[0])
        into.notes["boxes of classes without a name"] += number_of_class not in names
        if len(values) == 5:
            cx, cy, w, h = values[1:]
            box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        else:
            into.notes["polygons, of which the box is used"] += 1
            box = (min(values[1::2]), min(values[2::2]), max(values[1::2]), max(values[2::2]))
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in box)
        into.notes["boxes cut to the image"] += any(
            abs(a - b) > 1e-4 for a, b in zip(box, (x1, y1, x2, y2), strict=True)
        )
        yield x1, y1, x2, y2, names.get(number_of_class, f"class {number_of_class}")


def index(spec: str, path: Path, options: Options) -> Samples:
    """An index file: a JSON line an image, with image and anomaly, and where known id, mask, template, width, height, defect(s), boxes."""
    path = path / "index.jsonl" if path.is_dir() else path
    into = _collector(spec, path, options)
    for number, one, _ in manifests.lines(path):
        where = f"line {number} of {str(path)!r}"
        if not isinstance(one, dict) or "image" not in one or one.get("anomaly") not in (0, 1, None):
            raise InputError(f"{where}: expected an object with image and anomaly (0 or 1)")
        row: Row = {
            "id": str(one.get("id", one["image"])),
            "image": one["image"],
            "category": str(one.get("category", into.dataset)),
        }
        row["anomalous"] = None if one.get("anomaly") is None else bool(one["anomaly"])
        into.door.check(one["image"])
        if one.get("mask") is not None and into.door.check(one["mask"]):
            row["mask"] = one["mask"]
        if one.get("template") is not None and into.door.check(one["template"]):
            row["references"] = [one["template"]]
        _set_index_truth(into, row, one, where)
        into.add(row, str(one.get("split", "")))
    return into.done("JSON lines with image and anomaly")


def _set_index_truth(into: Collector, row: Row, one: dict[str, Any], where: str) -> None:
    boxes = one.get("boxes") or []
    if not isinstance(boxes, list) or not all(
        _numbers(box, 4) and box[0] < box[2] and box[1] < box[3] for box in boxes
    ):
        raise InputError(f"{where}: expected boxes [x0, y0, x1, y1] with x0 < x1 and y0 < y1, got {boxes!r}")
    labels = one.get("defects") or [one.get("defect") or ""] * max(1, len(boxes))
    if not isinstance(labels, list) or (boxes and len(labels) != len(boxes)):
        raise InputError(f"{where}: expected as many defects as its {len(boxes)} boxes, got {labels!r}")
    if row["anomalous"]:
        row["defects"] = list(dict.fromkeys(str(label) for label in labels if label))
        row["boxes"] = [(*box, str(label)) for box, label in zip(boxes, labels, strict=False)]
        into.notes["anomalous images without boxes"] += not boxes
        into.notes["anomalous images without a mask"] += "mask" not in row
    _set_size(row, one)
    if isinstance(one.get("description"), str):
        row["description"] = one["description"]


def _set_size(row: Row, one: dict[str, Any]) -> None:
    w, h = one.get("width"), one.get("height")
    if isinstance(w, int) and isinstance(h, int) and w > 0 and h > 0:
        row["size"] = (w, h)


def _set_verdict(into: Collector, row: Row, labels: list[str], empty: str | None = None) -> None:
    options = into.options
    row["defects"] = list(dict.fromkeys(labels))
    row["anomalous"] = bool(labels)
    if not labels:
        verdict = empty or (options.unannotated if isinstance(options, Options) else "good")
        row["anomalous"] = None if verdict == "unknown" else False
        into.notes[f"images without annotations, taken as {verdict}"] += 1


def _collector(spec: str, path: Path, options: Options) -> Collector:
    root = options.root if options.root is not None else path.parent
    return Collector(spec, root.resolve().name, root, path, options)


def _field(path: Path, one: Json, key: str) -> Json:
    if not isinstance(one, dict) or key not in one:
        raise InputError(f"{str(path)!r}: expected an object with {key!r}, got {str(one)[:200]!r}")
    return one[key]


def _numbers(value: Json, n: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == n
        and all(isinstance(one, int | float) and abs(one) < _LARGEST_PIXEL for one in value)
    )
