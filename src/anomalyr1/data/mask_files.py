"""Boxes from the masks of a data set: opened on demand, never by loading."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anomalyr1.boxes import Bools, components, decode_mask
from anomalyr1.data.readers import is_image, list_folder
from anomalyr1.images.door import ImageError, open_image
from anomalyr1.types import Box, InputError, Sample

LEAST_PIXELS = 4
"""A component of fewer pixels is the dust of annotating, no defect."""
_JPEG_THRESHOLD = 127
"""JPEG blurs the edges of a mask; elsewhere every value but 0 marks a defect (VisA and LOCO store small
numbers)."""


def read_mask(path: Path) -> Bools:
    """The (H, W) mask in a file, or in a folder whose files together are the mask (MVTec LOCO).

    Raises `images.ImageError` when it cannot be read, and when the files of a folder differ in size.
    """
    if not path.is_dir():
        return _read_file(path)
    files = [path / entry.name for entry in list_folder(path) if is_image(entry.name)]
    if not files:
        raise ImageError(f"{str(path)!r}: expected the images of a mask, the folder has none; fetch it again")
    mask = _read_file(files[0])
    for file in files[1:]:
        part = _read_file(file)
        if part.shape != mask.shape:
            raise ImageError(
                f"{str(file)!r} differs in size from {files[0].name!r}; "
                "the masks of one image must have its size"
            )
        mask |= part
    return mask


def true_mask(sample: Sample) -> Bools | None:
    """The (H, W) true mask of a sample, from its file or its run lengths; None where it has neither.

    Raises as `read_mask` does.
    """
    if sample.mask is not None:
        return read_mask(sample.mask)
    if sample.mask_runs is None:
        return None
    try:
        return decode_mask(sample.mask_runs)
    except InputError as error:
        raise ImageError(f"the mask of sample {sample.id!r}: {error}") from error


def mask_boxes(path: Path, label: str = "") -> tuple[tuple[Box, ...], tuple[int, int]]:
    """The box of each component of a mask, largest first, and the mask's width and height.

    Boxes are in the mask's pixels. Raises as `read_mask` does.
    """
    mask = read_mask(path)
    return components(mask, LEAST_PIXELS, label), (mask.shape[1], mask.shape[0])


def boxes_of(sample: Sample) -> tuple[Box, ...] | None:
    """The true boxes of a sample: those it has, () for a good one, those of its mask; None where unknown.

    Raises as `read_mask` does.
    """
    if sample.boxes is not None:
        return sample.boxes
    if sample.anomalous is False:
        return ()
    return None if sample.mask is None else mask_boxes(sample.mask, sample.defect or "")[0]


def _read_file(path: Path) -> Bools:
    loaded = open_image(path)
    marked: Bools = np.asarray(loaded.rgb).max(axis=2) > (_JPEG_THRESHOLD if loaded.format == "JPEG" else 0)
    return marked
