"""Samples as COCO, YOLO, our own JSON lines or a Hugging Face data set, in a new folder with the images.

Every field that a format can hold is written. What it cannot hold is counted by field in `Exported.dropped`,
and a sample that would come back with another meaning (an anomalous one without boxes reads as good in COCO
and YOLO) is left out and counted in `Exported.left_out`.

| | holds | loses |
|---|---|---|
| `jsonl` | everything | nothing |
| `hf` | everything; masks in several files become one | nothing but bytes that are not UTF-8 |
| `coco` | images, labelled boxes, masks inside each box | ids, references, knowledge, categories, questions |
| `yolo` | images, labelled boxes | the same, and masks |
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from anomalyr1.boxes import Bools, encode_mask
from anomalyr1.data.annotations import label_file
from anomalyr1.data.mask_files import boxes_of, true_mask
from anomalyr1.data.readers import Json
from anomalyr1.data.samples import Samples, listed
from anomalyr1.files import new_folder
from anomalyr1.images.door import open_image
from anomalyr1.types import Box, InputError, Record, Sample, SetupError

UNNAMED = "defect"
"""The class of a box without a label."""
_HELD_BY_ALL = {"id", "image", "anomalous", "boxes"}
"""Fields that every format holds, or that are counted by themselves."""


class Exported(Record):
    """What was written, and what was not."""

    format: str
    folder: Path
    load: str
    """The spec that loads it again; empty where nothing here does."""
    samples: int
    dropped: dict[str, int]
    """Field -> in how many samples it was set and could not be held."""
    left_out: dict[str, int]
    """Reason -> how many samples are not in the export."""


class _Copier(NamedTuple):
    """Copies files from below `root` to the same places below `folder`."""

    root: Path
    folder: Path

    def place(self, path: Path) -> str:
        """The relative path of a file in the export."""
        parts = Path(os.path.relpath(path.absolute(), self.root)).parts
        return PurePosixPath(self.folder.name, *parts).as_posix()

    def copy(self, path: Path) -> str:
        """Copy a file, or the files of a folder; give its relative path in the export."""
        place = self.place(path)
        target = self.folder.parent / place
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copyfile(path, target)
        return place


def export(samples: Sequence[Sample], to: str, folder: str | Path) -> Exported:
    """Write `samples` into the new `folder` in the format `to`, one of `FORMATS`.

    Give samples with boxes (`Samples.with_boxes`); a mask is otherwise opened for them where a format needs
    it. Raises `InputError` for an unknown format, a folder that exists, missing files (all of them named) and
    images that cannot be opened, `SetupError` when a package is not installed or the disk refuses. The folder
    is complete or absent.
    """
    if to not in FORMATS:
        raise InputError(f"there is no export to {to!r}; choose one of {', '.join(FORMATS)}")
    _require_files(samples, to)
    folder = Path(folder)
    dropped, left_out = Counter[str](), Counter[str]()
    with new_folder(folder) as new:
        try:
            count = FORMATS[to](samples, new, dropped, left_out)
        except OSError as error:
            where = f", {error.filename!r}" if error.filename else ""
            raise SetupError(f"cannot write {str(folder)!r}: {error.strerror}{where}") from error
        if not count:
            reasons = ", ".join(f"{n} {why}" for why, n in left_out.items()) or "no samples were given"
            raise InputError(f"nothing is left to export to {to}: {reasons}")
    specs = {
        "jsonl": f"jsonl:{folder / 'samples.jsonl'}",
        "coco": f"coco:{folder / 'annotations.json'}",
        "yolo": f"yolo:{folder}",
    }
    return Exported(
        format=to,
        folder=folder,
        load=specs.get(to, ""),
        samples=count,
        dropped={name: n for name, n in sorted(dropped.items()) if n},
        left_out=dict(left_out),
    )


def _require_files(samples: Sequence[Sample], to: str) -> None:
    """Raise `InputError` that lists the missing files that the format needs; no image is opened."""
    missing: dict[str, None] = {}  # each once, in order
    for sample in samples.without_opening() if isinstance(samples, Samples) else samples:
        paths = [sample.image]
        if sample.mask is not None and (to != "yolo" or sample.boxes is None):
            paths.append(sample.mask)
        if to in ("jsonl", "hf"):
            paths += sample.references
        missing.update((str(path), None) for path in paths if not path.exists())
    if missing:
        raise InputError(
            f"{len(missing)} files are missing, so nothing was exported: {listed(list(missing))}; "
            "restore them or correct their paths"
        )


def _jsonl(samples: Iterable[Sample], folder: Path, dropped: Counter[str], left_out: Counter[str]) -> int:
    copiers = _copiers(samples, folder)
    count = 0
    with (folder / "samples.jsonl").open("w", encoding="ascii") as file:
        for sample in samples:
            places: dict[str, Any] = {
                "image": Path(copiers["image"].copy(sample.image)),
                "references": tuple(Path(copiers["references"].copy(path)) for path in sample.references),
                "mask": Path(copiers["mask"].copy(sample.mask)) if sample.mask else None,
            }
            file.write(sample.model_copy(update=places).to_json() + "\n")
            count += 1
    return count


def _coco(samples: Iterable[Sample], folder: Path, dropped: Counter[str], left_out: Counter[str]) -> int:
    copier = _copiers(samples, folder)["image"]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}  # numbers by label
    datasets: dict[str, None] = {}
    for sample, boxes in _markable(samples, copier, left_out):
        width, height = open_image(sample.image).size_wh
        file_name = copier.copy(sample.image)
        images.append({"id": len(images) + 1, "file_name": file_name, "width": width, "height": height})
        datasets.setdefault(sample.dataset)
        mask = true_mask(sample) if boxes else None
        if mask is not None and mask.shape != (height, width):
            mask = None
        for box in boxes:
            category = categories.setdefault(box.label or UNNAMED, len(categories) + 1)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": len(images), **_annotation(box, category, mask)}
            )
        held = {"dataset"} if mask is None else {"dataset", "mask", "mask_runs"}
        _note_dropped(sample, boxes, file_name, held, dropped)
    if len(datasets) > 1:
        dropped["dataset"] += len(images)
    content = {
        "info": {"description": next(iter(datasets), ""), "version": "1.0"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": label, "supercategory": ""} for label, number in categories.items()
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content), encoding="ascii")
    return len(images)


def _annotation(box: Box, category: int, mask: Bools | None) -> dict[str, Any]:
    """COCO's x, y, width, height, and of an (H, W) mask what lies inside the box as run lengths."""
    w, h = box.x2 - box.x1, box.y2 - box.y1
    annotation: dict[str, Any] = {
        "category_id": category,
        "bbox": [box.x1, box.y1, w, h],
        "area": w * h,
        "iscrowd": 0,
    }
    if mask is None:
        return annotation
    inside = mask.copy()
    inside[: max(0, int(box.y1))] = inside[math.ceil(box.y2) :] = False
    inside[:, : max(0, int(box.x1))] = inside[:, math.ceil(box.x2) :] = False
    counts = encode_mask(inside, "box").rle
    return annotation | {
        "area": int(inside.sum()),
        "segmentation": {"size": [mask.shape[0], mask.shape[1]], "counts": counts},
    }


def _yolo(samples: Iterable[Sample], folder: Path, dropped: Counter[str], left_out: Counter[str]) -> int:
    import yaml

    copier = _copiers(samples, folder)["image"]
    classes: dict[str, int] = {}  # numbers by label
    count = 0
    for sample, boxes in _markable(samples, copier, left_out):
        labels = folder / label_file(copier.place(sample.image))
        if labels.exists():
            left_out["named like another image but for its suffix, so both would share their labels"] += 1
            continue
        lines = list(_yolo_lines(boxes, open_image(sample.image).size_wh, classes, dropped))
        if boxes and not lines:
            left_out["anomalous with all boxes outside the image, which would read as good"] += 1
            continue
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(lines), encoding="ascii")
        _note_dropped(sample, boxes, copier.copy(sample.image), set(), dropped)
        count += 1
    config = {"train": "images", "names": {number: label for label, number in classes.items()}}
    (folder / "data.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="ascii")
    return count


def _yolo_lines(
    boxes: Sequence[Box], size_wh: tuple[int, int], classes: dict[str, int], dropped: Counter[str]
) -> Iterator[str]:
    """Class, centre, width and height in shares of the image; what lies outside the image is cut off."""
    w, h = size_wh
    for box in boxes:
        shares = (box.x1 / w, box.y1 / h, box.x2 / w, box.y2 / h)
        x1, y1, x2, y2 = (min(max(share, 0.0), 1.0) for share in shares)
        dropped["boxes (cut to the image)"] += (x1, y1, x2, y2) != shares
        if x1 < x2 and y1 < y2:
            number = classes.setdefault(box.label or UNNAMED, len(classes))
            yield f"{number} {(x1 + x2) / 2!r} {(y1 + y2) / 2!r} {x2 - x1!r} {y2 - y1!r}\n"


def _markable(
    samples: Iterable[Sample], copier: _Copier, left_out: Counter[str]
) -> Iterator[tuple[Sample, tuple[Box, ...]]]:
    """Samples that a format of boxes alone can hold, with their boxes: () for a good one."""
    places: set[str] = set()
    for sample in samples:
        boxes = boxes_of(sample)
        place = copier.place(sample.image)
        if sample.anomalous is None:
            left_out["not known to be good or anomalous"] += 1
        elif sample.anomalous and not boxes:
            left_out["anomalous without boxes, which would read as good"] += 1
        elif place in places:
            left_out["another question about an image that is exported already"] += 1
        else:
            places.add(place)
            yield sample, boxes or ()


def _note_dropped(
    sample: Sample, boxes: Sequence[Box], file_name: str, held: set[str], dropped: Counter[str]
) -> None:
    """Count the fields that are set and were not written."""
    empty = Sample(id="", image=Path())
    held = held | _HELD_BY_ALL
    if ", ".join(dict.fromkeys(box.label for box in boxes)) == (sample.defect or ""):
        held.add("defect")
    for field in Sample.model_fields:
        if field not in held and getattr(sample, field) != getattr(empty, field):
            dropped[field] += 1
    if sample.id != file_name:
        dropped["id"] += 1


def _hf(samples: Sequence[Sample], folder: Path, dropped: Counter[str], left_out: Counter[str]) -> int:
    try:
        import datasets
    except ImportError as error:
        raise SetupError(
            'the export to Hugging Face needs the package datasets; run: pip install ".[train]" in the '
            "checkout of anomalyr1"
        ) from error

    string, boolean = datasets.Value("string"), datasets.Value("bool")
    box = dict.fromkeys(("x1", "y1", "x2", "y2"), datasets.Value("float64")) | {"label": string}
    boxes = {"known": boolean, "boxes": datasets.List(box)}
    question = dict.fromkeys(("id", "kind", "text"), string)
    question |= {"options": datasets.List(string), "answer": string, "boxes": boxes}
    features = datasets.Features(
        dict.fromkeys(("id", "dataset", "category", "defect", "knowledge"), string)
        | dict.fromkeys(("anomalous", "logical"), boolean)
        | dict.fromkeys(("image", "mask"), datasets.Image())
        | {"references": datasets.List(datasets.Image())}
        | {"boxes": boxes, "questions": datasets.List(question)}
    )
    cache = folder / "cache"
    quiet = not datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        rows = datasets.Dataset.from_generator(
            lambda: (_hf_row(sample, dropped) for sample in samples),
            features=features,
            cache_dir=str(cache),
            split="train",
            fingerprint=secrets.token_hex(8),  # or it would pickle all samples to make one
        )
        rows.save_to_disk(str(folder / "dataset"))
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None  # ours: what reading a sample raised
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    shutil.rmtree(cache)
    return len(rows)


def _hf_row(sample: Sample, dropped: Counter[str]) -> dict[str, Any]:
    """A sample as plain values, its files as bytes."""
    row = sample.model_dump(mode="python")
    row["boxes"] = _known_boxes(row["boxes"])
    row["questions"] = [
        question | {"boxes": _known_boxes(question["boxes"])} for question in row["questions"]
    ]
    row["image"] = _file(sample.image)
    row["references"] = [_file(path) for path in sample.references]
    row["mask"] = _mask_file(sample)
    del row["mask_runs"]
    plain: dict[str, Any] = _utf_8(row)
    dropped["bytes that are not UTF-8 (replaced)"] += plain != row
    return plain


def _known_boxes(boxes: Json) -> dict[str, Any]:
    """Boxes of which "unknown" and "none" stay two things."""
    return {"known": boxes is not None, "boxes": list(boxes or ())}


def _file(path: Path) -> dict[str, Any]:
    return {"bytes": path.read_bytes(), "path": path.name}


def _mask_file(sample: Sample) -> dict[str, Any] | None:
    """The true mask as one file: one that is a folder of several, or run lengths, is drawn as one."""
    if sample.mask is not None and not sample.mask.is_dir():
        return _file(sample.mask)
    mask = true_mask(sample)
    if mask is None:
        return None
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{(sample.mask or sample.image).name}.png"}


def _utf_8(value: Json) -> Json:
    """The same value with lone surrogates replaced."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _utf_8(member) for key, member in value.items()}
    return type(value)(_utf_8(member) for member in value) if isinstance(value, list | tuple) else value


def _copiers(samples: Iterable[Sample], folder: Path) -> dict[str, _Copier]:
    """What copies images, masks and references, each from the folder that holds them all."""
    parents: dict[str, set[str]] = {"image": set(), "mask": set(), "references": set()}
    for sample in samples:
        parents["image"].add(str(sample.image.absolute().parent))
        parents["references"].update(str(path.absolute().parent) for path in sample.references)
        if sample.mask:
            parents["mask"].add(str(sample.mask.absolute().parent))
    targets = {"image": "images", "mask": "masks", "references": "references"}
    return {
        kind: _Copier(Path(os.path.commonpath(parents[kind] or {"/"})), folder / target)
        for kind, target in targets.items()
    }


FORMATS: dict[str, Callable[[Sequence[Sample], Path, Counter[str], Counter[str]], int]] = {
    "coco": _coco, "yolo": _yolo, "jsonl": _jsonl, "hf": _hf,
}  # fmt: skip
"""What writes each format: samples, folder, what is dropped, what is left out -> how many samples were
written."""
