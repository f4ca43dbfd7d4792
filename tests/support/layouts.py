"""Tiny data sets of every layout, drawn: two good parts and two defective ones of two categories each."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import PIL.Image

from anomalyr1.drawn import draw
from anomalyr1.drawn.record import Drawn

CATEGORIES = ("washer", "label")
DEFECTS = {"washer": ("scratch", "stain"), "label": ("scratch", "hole")}


@functools.cache
def drawn(category: str, kind: str | None, seed: int = 3) -> Drawn:
    return draw.draw(seed, category, kind)


def put(array: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)
    return path


def image(path: Path, category: str = "washer", kind: str | None = None, seed: int = 3) -> Path:
    return put(drawn(category, kind, seed).image, path)


def mask(path: Path, category: str = "washer", kind: str = "scratch", value: int = 255) -> Path:
    return put(drawn(category, kind).mask.astype(np.uint8) * value, path)


def mvtec(root: Path, form: str = "{}_mask.png", suffix: str = ".png") -> Path:
    """MVTec AD; with other names of masks GoodsAD, and VisA as converted."""
    for category in CATEGORIES:
        image(root / category / "train/good" / f"000{suffix}", category, seed=4)
        image(root / category / "test/good" / f"000{suffix}", category)
        for kind in DEFECTS[category]:
            image(root / category / "test" / kind / f"000{suffix}", category, kind)
            mask(root / category / "ground_truth" / kind / form.format("000"), category, kind)
    return root


def loco(root: Path) -> Path:
    """MVTec LOCO: the mask of 000 is two files that overlap nowhere, with values that are dark to the eye."""
    for category in CATEGORIES:
        for seed, part in enumerate(("train", "validation", "test")):
            image(root / category / part / "good/000.png", category, seed=seed)
        for label, kind in zip(("logical_anomalies", "structural_anomalies"), DEFECTS[category], strict=True):
            image(root / category / "test" / label / "000.png", category, kind)
            whole = drawn(category, kind).mask
            left = whole.copy()
            left[:, whole.shape[1] // 2 :] = False
            folder = root / category / "ground_truth" / label / "000"
            put(left.astype(np.uint8) * 3, folder / "000.png")
            put((whole & ~left).astype(np.uint8) * 7, folder / "001.png")
    return root


def visa(root: Path) -> Path:
    """VisA as published."""
    rows = ["object,split,label,image,mask"]
    for category in CATEGORIES:
        base = f"{category}/Data"
        annotated = ["image,label,mask"]
        for number, part in enumerate(("train", "test")):
            name = f"{base}/Images/Normal/{number:04d}.JPG"
            image(root / name, category, seed=number)
            rows.append(f"{category},{part},normal,{name},")
            annotated.append(f"{name},normal,")
        for number, (kind, label) in enumerate(
            zip(DEFECTS[category], ("bent", '"melt,scratch"'), strict=True)
        ):
            name, marked = f"{base}/Images/Anomaly/{number:03d}.JPG", f"{base}/Masks/Anomaly/{number:03d}.png"
            image(root / name, category, kind)
            mask(root / marked, category, kind, value=number + 1)
            rows.append(f"{category},test,anomaly,{name},{marked}")
            annotated.append(f"{name},{label},{marked}")
        (root / category / "image_anno.csv").write_text("\n".join(annotated) + "\n")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return root


def labelled_folder(root: Path, *, masks: bool = True) -> Path:
    image(root / "good/a.png")
    for kind in DEFECTS["washer"]:
        image(root / kind / "b.png", kind=kind)
        if masks:
            mask(root / "masks" / kind / "b.png", kind=kind)
    return root


def coco(root: Path) -> Path:
    images, annotations = [], []
    for number, kind in enumerate((None, *DEFECTS["washer"])):
        image(root / f"{number}.png", kind=kind)
        h, w = drawn("washer", kind).mask.shape
        images.append({"id": number, "file_name": f"{number}.png", "width": w, "height": h})
        for box in drawn("washer", kind).boxes:
            xywh = [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": number, "bbox": xywh}
            )
    categories = [{"id": number + 1, "name": kind} for number, kind in enumerate(DEFECTS["washer"])]
    path = root / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def yolo(root: Path) -> Path:
    for number, kind in enumerate((None, *DEFECTS["washer"])):
        image(root / f"images/train/{number}.png", kind=kind)
        h, w = drawn("washer", kind).mask.shape
        lines = [
            f"{number - 1} {(box.x1 + box.x2) / 2 / w} {(box.y1 + box.y2) / 2 / h} "
            f"{(box.x2 - box.x1) / w} {(box.y2 - box.y1) / h}"
            for box in drawn("washer", kind).boxes
        ]
        (root / "labels/train").mkdir(parents=True, exist_ok=True)
        (root / f"labels/train/{number}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("path: /somewhere/else\ntrain: images/train\nnames: [scratch, stain]\n")
    return root


def index(root: Path) -> Path:
    rows = []
    for number, kind in enumerate((None, *DEFECTS["washer"])):
        image(root / f"images/{number}.png", kind=kind)
        h, w = drawn("washer", kind).mask.shape
        row = {
            "id": str(number),
            "image": f"images/{number}.png",
            "width": w,
            "height": h,
            "anomaly": int(kind is not None),
        }
        row["boxes"] = [list(box.xyxy) for box in drawn("washer", kind).boxes]
        if kind:
            mask(root / f"masks/{number}.png", kind=kind)
            row |= {"mask": f"masks/{number}.png", "defect": kind}
        rows.append(json.dumps(row))
    path = root / "index.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def question(kind: str = "Anomaly Detection", answer: str = "A", **options: str) -> dict[str, object]:
    return {
        "Question": f"{kind}?",
        "Answer": answer,
        "Options": options or {"A": "Yes.", "B": "No."},
        "type": kind,
    }


def entry(image_path: str, *asked: dict[str, object], **changes: object) -> dict[str, object]:
    """An entry of mmad.json."""
    base = {"image_path": image_path, "mask_path": None, "random_templates": [], "similar_templates": []}
    return base | {"conversation": list(asked or (question(),))} | changes


def mmad(root: Path, **entries: dict[str, object]) -> Path:
    """The benchmark's file for these entries (by image path), and knowledge of two classes; no images."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "mmad.json").write_text(json.dumps(entries, indent=1))
    texts = {
        "MVTec": {"pill": {"good": "White.", "crack": "Split."}},
        "MVTec-LOCO": {"pushpins": {"good": "One pin a cell."}},
    }
    (root / "domain_knowledge.json").write_text(json.dumps(texts))
    return root
