"""Data sets that are annotation files: COCO, YOLO, and the index files of this project's development data."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from anomalyr1.data.paths import is_odd
from anomalyr1.data.readers import (
    Json,
    is_four_numbers,
    read_json,
    read_json_lines,
    read_text,
    require_folder,
)
from anomalyr1.data.rows import Collector, LabelledBox, LabelledRow, LoadOptions
from anomalyr1.data.samples import Samples
from anomalyr1.data.segmentations import can_fill
from anomalyr1.files import read_yaml
from anomalyr1.types import InputError, nearest_name, quoted

_COCO_EXPECTED = "a JSON object with the lists images, annotations and categories"
_YOLO_EXPECTED = "images/ with labels/ beside it, and data.yaml with the names of the classes"
_INDEX_KEYS = (
    "image", "anomaly", "id", "mask", "template", "width", "height", "defect", "defects", "boxes", "split",
    "category", "description",
)  # fmt: skip
_LOOKED_FOR = 20
"""So many images of a COCO file are looked for, to tell in which folder they lie."""
_LARGEST_PIXEL = 1e7
"""No image is as large; above it, x + w may be x."""


class AnnotationOptions(LoadOptions):
    """What an annotation file can be asked for."""

    root: Path | None = None
    """Where the paths of images start; None = the folder of the annotation file."""
    unannotated: Literal["good", "unknown"] = "good"
    """What an image without annotations is."""


def coco(spec: str, path: Path, options: AnnotationOptions) -> Samples:
    """A COCO file: boxes with categories as labels of defects.

    Images lie beside the file, in images/ there, or beside the folder annotations/ that it lies in.
    Segmentations become the sample's mask with its boxes (`with_boxes`), where all of its annotations have
    one; of others the box is used, and that is counted. Raises `InputError` for another form.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise InputError(f"{str(path)!r} is no COCO file; expected {_COCO_EXPECTED}")
    collector = _collector(spec, path, options, _image_folder(path, content["images"]))
    collector.notes["folders of images found beside the annotation file's"] = collector.root != path.parent
    categories = content["categories"]
    labels = {
        str(_field(path, category, "id")): str(_field(path, category, "name")) for category in categories
    }
    annotations: defaultdict[str, list[Json]] = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[str(_field(path, annotation, "image_id"))].append(annotation)
    for image in content["images"]:
        file_name = _field(path, image, "file_name")
        collector.door.check(file_name)
        of_image = annotations.pop(str(_field(path, image, "id")), [])
        boxes = list(_coco_boxes(path, of_image, labels, collector))
        row: LabelledRow = {"id": str(file_name), "image": str(file_name), "category": collector.category}
        row["boxes"] = _with_area(boxes, collector)
        _set_size(row, image)
        _set_segmentations(collector, row, of_image)
        _set_defects(collector, row, boxes, options.unannotated)
        collector.add(row)
    unlisted = sum(map(len, annotations.values()))
    collector.notes["annotations of images that the file does not list, left out"] = unlisted
    return collector.samples(_COCO_EXPECTED)


def _set_segmentations(collector: Collector, row: LabelledRow, annotations: list[Json]) -> None:
    """Keep the outlines of an image's defects, where all are there; else they are counted."""
    outlines = [annotation["segmentation"] for annotation in annotations if annotation.get("segmentation")]
    size_wh = row.get("size")
    whole = size_wh is not None and len(outlines) == len(annotations) and can_fill(outlines, size_wh)
    if outlines and whole:
        row["segmentations"] = outlines
    else:
        collector.notes["annotations with a segmentation, of which the box is used"] += len(outlines)


def _image_folder(path: Path, images: list[Json]) -> Path:
    """Where the images of a COCO file lie, by those at its beginning; the file's folder where all of these
    are missing.
    """
    values = [image.get("file_name") for image in images[:_LOOKED_FOR] if isinstance(image, dict)]
    names = [name for name in values if isinstance(name, str) and not is_odd(name)]
    above = path.resolve().parent.parent
    candidates = [path.parent, path.parent / "images", above / "images"]
    candidates += [above] if path.resolve().parent.name == "annotations" else []
    for name in names:
        place = next((folder for folder in candidates if (folder / name).is_file()), None)
        if place is not None:
            return place
    return path.parent


def _with_area(boxes: list[LabelledBox], collector: Collector) -> list[LabelledBox]:
    """The boxes that have an area; those without are counted, and their labels still tell a defect."""
    with_area = [box for box in boxes if box[0] < box[2] and box[1] < box[3]]
    collector.notes["boxes without an area, left out"] += len(boxes) - len(with_area)
    return with_area


def _coco_boxes(
    path: Path, annotations: list[Json], labels: Mapping[str, str], collector: Collector
) -> Iterator[LabelledBox]:
    """The boxes of annotations; one with missing, infinite or absurd numbers becomes one without an area."""
    for annotation in annotations:
        xywh = _field(path, annotation, "bbox")
        category_id = annotation.get("category_id")
        label = labels.get(str(category_id))
        if label is None:
            raise InputError(
                f"{str(path)!r}: an annotation has the category {quoted(category_id)}, "
                "which the file does not define"
            )
        x, y, w, h = xywh if _are_pixels(xywh) else (0, 0, 0, 0)
        yield x, y, x + w, y + h, label


def yolo(spec: str, path: Path, options: AnnotationOptions) -> Samples:
    """A YOLO folder.

    Its boxes are shares of the image's size, so images must be opened for them (`with_boxes`). Raises
    `InputError` for another form.
    """
    root = require_folder(path)
    collector = _collector(spec, root / "data.yaml", options)
    config = _yolo_config(root)
    class_names = _class_names(root, config)
    for split, folder in _yolo_folders(root, config, collector):
        for image in collector.door.images(folder, collector.notes):
            row: LabelledRow = {"id": image, "image": image, "category": collector.category}
            labels = root / label_file(image)
            if labels.is_file():
                boxes = list(_yolo_boxes(labels, class_names, collector))
                row["shares"] = _with_area(boxes, collector)
                _set_defects(collector, row, boxes, "good")
            else:
                _set_defects(collector, row, [], options.unannotated)
            collector.add(row, split)
    return collector.samples(_YOLO_EXPECTED)


def _yolo_config(root: Path) -> dict[str, Any]:
    """What data.yaml says; empty where there is none."""
    path = next((root / name for name in ("data.yaml", "data.yml") if (root / name).is_file()), None)
    if path is None:
        return {}
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise InputError(f"{str(path)!r}: expected keys such as train, val and names")
    return config


def _yolo_folders(root: Path, config: dict[str, Any], collector: Collector) -> Iterator[tuple[str, str]]:
    """Split and folder of images, relative to `root`.

    What `path` in data.yaml says is not used: it names a place on the machine where it was written.
    """
    collector.notes["path in data.yaml, not used"] = int("path" in config)
    splits = [split for split in ("train", "val", "test") if config.get(split)]
    for split in splits:
        folders = config[split] if isinstance(config[split], list) else [config[split]]
        for folder in folders:
            # Roboflow writes ../train/images for train/images.
            if isinstance(folder, str) and folder.startswith("../") and (root / folder[3:]).is_dir():
                folder = folder[3:]
                collector.notes["folders in data.yaml that start with ../, taken from its own folder"] += 1
            if not collector.door.check(folder):
                continue
            if folder.endswith(".txt"):
                raise InputError(
                    f"{str(collector.source)!r}: {split} names the list {quoted(folder)}; "
                    "lists of images are not read, name their folder"
                )
            yield split, posixpath.normpath(folder)
    if not splits:
        yield "", "images"


def _class_names(root: Path, config: dict[str, Any]) -> dict[int, str]:
    """Names by the number of the class. Raises `InputError` for names that are no words or numbers."""
    names = config.get("names")
    if names is None and (root / "classes.txt").is_file():
        names = read_text(root / "classes.txt").split("\n")
    listed_names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(listed_names, dict):
        return {}
    if not all(isinstance(name, str | int | float) for name in listed_names.values()):
        raise InputError(f"{str(root / 'data.yaml')!r}: names are words, got {quoted(names)}")
    return {
        int(key): str(name).strip()
        for key, name in listed_names.items()
        if str(key).isdecimal() and len(str(key)) < 10
    }


def label_file(image: str) -> str:
    """The file of an image's labels in YOLO: the last folder `images` on its path becomes `labels`."""
    parts = posixpath.splitext(image)[0].split("/")
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return "/".join(parts) + ".txt"


def _yolo_boxes(path: Path, class_names: Mapping[int, str], collector: Collector) -> Iterator[LabelledBox]:
    """Boxes in shares of the image.

    A line is a class and centre, width, height; or a class and the corners of a polygon.
    """
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            values = [float(word) for word in line.split()]
        except ValueError:
            values = [-1.0]
        if not values:
            continue
        fits = len(values) == 5 or (len(values) >= 7 and len(values) % 2)
        if not fits or not values[0].is_integer() or not all(0 <= value <= 1 for value in values[1:]):
            raise InputError(
                f"line {number} of {str(path)!r}: expected a class and shares of 0 to 1 "
                f"(cx cy w h, or corners), got {quoted(line)}"
            )
        class_number = int(values[0])
        collector.notes["boxes of classes without a name"] += class_number not in class_names
        if len(values) == 5:
            cx, cy, w, h = values[1:]
            box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        else:
            collector.notes["polygons, of which the box is used"] += 1
            box = (min(values[1::2]), min(values[2::2]), max(values[1::2]), max(values[2::2]))
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in box)
        cut = any(abs(a - b) > 1e-4 for a, b in zip(box, (x1, y1, x2, y2), strict=True))
        collector.notes["boxes cut to the image"] += cut
        yield x1, y1, x2, y2, class_names.get(class_number, f"class {class_number}")


def index(spec: str, path: Path, options: AnnotationOptions) -> Samples:
    """An index file: a JSON line an image, with `image` and `anomaly`.

    Where known also `id`, `mask`, `template`, `width`, `height`, `defect` or `defects`, `boxes`. Raises
    `InputError` with the number of a line of another form.
    """
    path = path / "index.jsonl" if path.is_dir() else path
    collector = _collector(spec, path, options)
    for number, line, _ in read_json_lines(path):
        where = f"line {number} of {str(path)!r}"
        if not isinstance(line, dict) or "image" not in line or line.get("anomaly") not in (0, 1, None):
            raise InputError(f"{where}: expected an object with image and anomaly (0 or 1)")
        _require_known(line, where)
        row: LabelledRow = {
            "id": str(line.get("id", line["image"])),
            "image": line["image"],
            "category": str(line.get("category", collector.category)),
            "anomalous": None if line.get("anomaly") is None else bool(line["anomaly"]),
        }
        collector.door.check(line["image"])
        if line.get("mask") is not None and collector.door.check(line["mask"]):
            row["mask"] = line["mask"]
        if line.get("template") is not None and collector.door.check(line["template"]):
            row["references"] = [line["template"]]
        _set_index_truth(collector, row, line, where)
        collector.add(row, str(line.get("split", "")))
    return collector.samples("JSON lines with image and anomaly")


def _require_known(line: dict[str, Any], where: str) -> None:
    """Raise `InputError` for a key that would not be read."""
    for key in line:
        if key in _INDEX_KEYS:
            continue
        nearest = nearest_name(key, _INDEX_KEYS)
        hint = f"did you mean {nearest!r}?" if nearest else f"known: {', '.join(_INDEX_KEYS)}"
        raise InputError(f"{where} has the key {key!r}, which is not read; {hint}")


def _set_index_truth(collector: Collector, row: LabelledRow, line: dict[str, Any], where: str) -> None:
    boxes = line.get("boxes") or []
    if not isinstance(boxes, list) or not all(_is_box(box) for box in boxes):
        raise InputError(
            f"{where}: expected boxes [x0, y0, x1, y1] with x0 < x1 and y0 < y1, got {quoted(boxes)}"
        )
    labels = line.get("defects") or [line.get("defect") or ""] * max(1, len(boxes))
    if not isinstance(labels, list) or (boxes and len(labels) != len(boxes)):
        raise InputError(f"{where}: expected as many defects as its {len(boxes)} boxes, got {quoted(labels)}")
    if row["anomalous"]:
        row["defects"] = list(dict.fromkeys(str(label) for label in labels if label))
        row["boxes"] = [(*box, str(label)) for box, label in zip(boxes, labels, strict=False)]
        collector.notes["anomalous images without boxes"] += not boxes
        collector.notes["anomalous images without a mask"] += "mask" not in row
    _set_size(row, line)
    if isinstance(line.get("description"), str):
        row["description"] = line["description"]


def _set_size(row: LabelledRow, image: dict[str, Any]) -> None:
    w, h = image.get("width"), image.get("height")
    if type(w) is int and type(h) is int and 0 < w < _LARGEST_PIXEL and 0 < h < _LARGEST_PIXEL:
        row["size"] = (w, h)


def _set_defects(
    collector: Collector, row: LabelledRow, boxes: list[LabelledBox], unannotated: Literal["good", "unknown"]
) -> None:
    """Set the labels and the verdict of a row; `unannotated` is the verdict where there are no boxes."""
    row["defects"] = list(dict.fromkeys(label for *_, label in boxes))
    row["anomalous"] = True
    if not boxes:
        row["anomalous"] = None if unannotated == "unknown" else False
        collector.notes[f"images without annotations, taken as {unannotated}"] += 1


def _collector(
    spec: str, path: Path, options: AnnotationOptions, image_folder: Path | None = None
) -> Collector:
    root = options.root or image_folder or path.parent
    folder = root.resolve()
    name = folder.parent.name if folder.name in ("images", "annotations") else folder.name
    return Collector(spec, name, root, path, options)


def _field(path: Path, value: Json, key: str) -> Json:
    if not isinstance(value, dict) or key not in value:
        raise InputError(f"{str(path)!r}: expected an object with {key!r}, got {quoted(value)}")
    return value[key]


def _is_box(value: Json) -> bool:
    return _are_pixels(value) and value[0] < value[2] and value[1] < value[3]


def _are_pixels(value: Json) -> bool:
    """Whether it is a list of four numbers that pixels of an image can have."""
    return is_four_numbers(value) and all(abs(number) < _LARGEST_PIXEL for number in value)
