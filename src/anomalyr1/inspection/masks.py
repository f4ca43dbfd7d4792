"""Image and boxes -> one mask a box: SAM2, a posterior of colour and position (no download), rectangles.

The methods form a chain: "sam2" falls back to "default" (the posterior), and that to "box" (the rectangle).
Every mask says what made it, and every fallback is counted under a name. A *window* is a box on whole pixels,
(x1, y1, x2, y2), half-open, at least one pixel wide and high, inside the image.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomalyr1.boxes import Bools, Floats, clip, encode_mask, iou, to_array
from anomalyr1.policy.folders import find_model
from anomalyr1.policy.library import quiet, typed_errors
from anomalyr1.policy.rules import SAM2
from anomalyr1.types import Box, InputError, Mask, MaskSource, SetupError

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import Sam2ImageProcessor, Sam2Model

Window = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]

METHODS = ("sam2", "default", "box")
DEFAULT_SAM2 = "facebook/sam2.1-hiera-tiny"

PADDING = 0.05
"""Added to each side of a box before SAM2 sees it, in parts of the box's size: boxes of models are tight or
shifted."""
MIN_INSIDE = 0.5
"""A SAM2 mask with less of its area inside its padded box has left the box."""
MAX_FILL = 0.98
"""A SAM2 mask that covers at least this part of its padded box says no more than the box does."""

MIN_SIDE = 3
"""Boxes with a shorter side, in pixels, are filled: there is no shape to find."""
RING = 0.25
"""Width of the surroundings that show the background, in parts of the box's size; at least `MIN_RING`
pixels."""
MIN_RING = 4
MAX_SIDE = 160
"""Larger crops are shrunk to this many pixels: it bounds the time and costs nothing (IoU on real images
within 0.001)."""
BINS = 16
ROUNDS = 5
MIN_CONTRAST = 1.0
"""Spread of colour, in CIELAB units (2 can just be seen), below which a crop is flat and its box is
filled."""


def masks_for(
    rgb: Image.Image, boxes: Sequence[Box], method: str = "default", sam2: Sam2 | None = None
) -> tuple[tuple[Mask, ...], dict[str, int]]:
    """One mask for each box, in their order, of the image's size; and the counts of clips and fallbacks.

    `sam2` is the model for method "sam2"; without one, the default is loaded, once. A box outside the image
    gets an empty mask. Raises `InputError` for an unknown method, `RuntimeError` when OpenCV fails, and what
    `Sam2.load` raises.
    """
    import cv2

    if method not in METHODS:
        raise InputError(f"unknown mask method {method!r}: expected one of {', '.join(METHODS)}")
    counts: Counter[str] = Counter()
    xyxy = to_array(boxes)  # (N, 4)
    clipped = clip(xyxy, rgb.size)
    counts["mask_box_clipped"] = int((xyxy != clipped).any(axis=1).sum())
    rgb = rgb.convert("RGB")
    sam2_masks: list[Bools | None] = [None] * len(boxes)
    if method == "sam2" and boxes:
        sam2_masks = (sam2 or _default_sam2()).masks(rgb, clipped, counts)
    pixels = np.asarray(rgb)
    masks = []
    for box, sam2_mask in zip(clipped, sam2_masks, strict=True):
        if sam2_mask is not None:
            masks.append(encode_mask(sam2_mask, "sam2"))
            continue
        try:
            masks.append(_without_sam2(pixels, window(box, rgb.size), method, counts))
        except cv2.error as error:  # not a RuntimeError, which callers look out for
            raise RuntimeError(
                f"OpenCV failed on the mask of the box {tuple(box.tolist())}: {error}"
            ) from error
    return tuple(masks), {name: count for name, count in counts.items() if count}


def window(xyxy: ArrayLike, size_wh: tuple[int, int]) -> Window | None:
    """The whole pixels of a box (4,) xyxy, edges rounded, never less than one pixel.

    None for a box that is empty or outside the image.
    """
    x1, y1, x2, y2 = clip(xyxy, size_wh)[0].tolist()
    if x1 >= x2 or y1 >= y2:
        return None
    left, right = _round_edges(x1, x2, size_wh[0])
    top, bottom = _round_edges(y1, y2, size_wh[1])
    return left, top, right, bottom


def posterior(pixels: Pixels, box: Window) -> Bools | None:
    """Which pixels of a box look like the defect: (h, w) of the box, never empty; None where it is flat.

    `pixels` is the whole image, (H, W, 3) RGB. Each pixel starts with the probability that its position in
    the box gives it (defects lie in the middle of their boxes, and reach the image's border where the box
    does). Colour then decides, along the axis in CIELAB on which the box differs most from its surroundings:
    the histograms of defect and background are estimated from these probabilities and the probabilities from
    the histograms and the neighbours, in `ROUNDS` rounds of expectation maximisation. The mask is the set of
    pixels with the largest expected IoU, so where colour says little it is the middle of the box, and where
    it says much, the defect's outline.
    """
    import cv2

    # 1. The box and its surroundings in CIELAB, and what position alone says.
    crop, (x1, y1, x2, y2) = _surroundings(pixels, box)
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float64)
    height, width = pixels.shape[:2]
    prior = position_prior((x2 - x1, y2 - y1), (box[0] <= 0, box[1] <= 0, box[2] >= width, box[3] >= height))
    around = np.ones(lab.shape[:2], dtype=np.bool_)
    around[y1:y2, x1:x2] = False
    # 2. The axis of colour on which they differ most, in bins.
    binned = _bins(lab[y1:y2, x1:x2].reshape(-1, 3), lab[around], prior.ravel())
    if binned is None:
        return None
    # 3. Position and colour together, and the mask of the largest expected IoU.
    probability = _estimate(prior, *binned)
    threshold = _best_threshold(probability)
    size_wh = (box[2] - box[0], box[3] - box[1])
    if probability.shape != size_wh[::-1]:
        probability = cv2.resize(probability, size_wh, interpolation=cv2.INTER_LINEAR)
        threshold = min(threshold, float(probability.max()))
    mask: Bools = probability >= threshold
    return mask


def position_prior(size_wh: tuple[int, int], at_border: tuple[bool, bool, bool, bool]) -> Floats:
    """The probability of defect from position alone, (h, w).

    It is 0.74 in the middle, 0.4 at the edges and 0.15 in the corners of a box of `size_wh`. Towards a side
    where the box ends because the image does (left, top, right, bottom), it does not fall.
    """
    left, top, right, bottom = at_border
    x = _from_centre(size_wh[0], left, right)
    y = _from_centre(size_wh[1], top, bottom)
    radius = np.hypot(x[None, :], y[:, None])  # 1 on the ellipse that touches the box's sides
    prior: Floats = 0.05 + 0.7 / (1 + np.exp(4 * (radius - 1)))
    return prior


class Sam2:
    """SAM2 with box prompts: the image is embedded once, and all its boxes are decoded in one call."""

    def __init__(self, model: Sam2Model, image_processor: Sam2ImageProcessor, source: str = "") -> None:
        self.model = model.eval()
        self.image_processor = image_processor
        self.source = source
        """The model's name and revision; empty = not known."""

    @classmethod
    def load(cls, model: str | Path = DEFAULT_SAM2, revision: str | None = None, device: str = "cpu") -> Sam2:
        """The SAM2 of a folder or a hub name: safetensors only, no code of the repository.

        `revision` is a branch, tag or commit of a hub model, or the digest of a folder. Raises `InputError`
        for a folder that is refused (`policy.safety`) or no complete SAM2, `SetupError` when the model cannot
        be had.
        """
        from transformers import Sam2ImageProcessor, Sam2Model

        try:
            folder, _, found_revision = find_model(str(model), revision, SAM2)
        except SetupError as error:
            raise SetupError(f'{error}. Or use the masks "default", which need no download') from error
        options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        with quiet(), typed_errors(folder):
            processor = Sam2ImageProcessor.from_pretrained(folder, **options)
            loaded, info = Sam2Model.from_pretrained(
                folder,
                use_safetensors=True,
                output_loading_info=True,
                attn_implementation="sdpa",
                **options,
            )
        if info["missing_keys"]:
            missing = ", ".join(sorted(info["missing_keys"])[:5])
            raise InputError(f"{model}: the weights lack {missing}; download the SAM2 model again")
        return cls(loaded.to(device), processor, f"{model}@{found_revision}")

    def masks(self, rgb: Image.Image, xyxy: Floats, counts: Counter[str]) -> list[Bools | None]:
        """(H, W) masks of boxes (N, 4) inside the image; None where SAM2's mask cannot be what the box holds.

        The reason is added to `counts`. Each box is padded by `PADDING` of its size on each side and clipped.
        Of the candidates of a box the one with the largest predicted IoU x IoU(its bounding box, the padded
        box) is taken, on the decoder's grid; see `fault` for what is refused.
        """
        # 1. Pad the boxes that are not empty, and decode K candidates for each.
        size = xyxy[:, 2:] - xyxy[:, :2]
        padded = clip(xyxy + PADDING * np.concatenate([-size, size], axis=1), rgb.size)
        valid = np.flatnonzero((size > 0).all(axis=1))  # (M,)
        masks: list[Bools | None] = [None] * len(xyxy)
        if not len(valid):
            return masks
        logits, scores = self.decode(rgb, padded[valid])  # (M, K, h, w), (M, K)
        # 2. Take the best candidate of each, at the size of the image, unless it is at fault.
        grid = np.array([logits.shape[-1] / rgb.width, logits.shape[-2] / rgb.height] * 2)
        best = choose(logits.gt(0).numpy(), scores.double().numpy(), padded[valid] * grid)  # (M,)
        for i, candidates, k in zip(valid.tolist(), logits, best.tolist(), strict=True):
            mask: Bools = enlarge(candidates[k], rgb.size).gt(0).numpy()
            reason = fault(mask, padded[i])
            if reason is None:
                masks[i] = mask
            else:
                counts[f"mask_sam2_{reason}"] += 1
        return masks

    def decode(self, rgb: Image.Image, xyxy: Floats) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask logits (N, 3, h, w) on the decoder's grid and predicted IoUs (N, 3) of boxes (N, 4)."""
        import torch

        inputs = self.image_processor(rgb, return_tensors="pt")
        pixel_values = inputs["pixel_values"]  # (1, 3, S, S): the whole image, stretched
        scale = np.array([pixel_values.shape[-1] / rgb.width, pixel_values.shape[-2] / rgb.height] * 2)
        prompts = torch.from_numpy(xyxy * scale).to(self.model.device, torch.float32)
        with torch.inference_mode():
            embeddings = self.model.get_image_embeddings(pixel_values.to(self.model.device, self.model.dtype))
            out = self.model(image_embeddings=embeddings, input_boxes=prompts[None], multimask_output=True)
        return out.pred_masks[0].float().cpu(), out.iou_scores[0].float().cpu()


def enlarge(logits: torch.Tensor, size_wh: tuple[int, int]) -> torch.Tensor:
    """Mask logits (h, w) of the decoder's grid at the size of the image, (H, W); above 0 is mask."""
    import torch

    return torch.nn.functional.interpolate(
        logits[None, None], size_wh[::-1], mode="bilinear", align_corners=False
    )[0, 0]


def choose(candidates: Bools, scores: Floats, xyxy: Floats) -> NDArray[np.intp]:
    """(N,) the best of the candidate masks (N, K, h, w) of each box (N, 4), by their scores (N, K) and fit.

    That is the largest score x IoU(bounding box of the mask, box): a part of the defect and a mask of the
    whole object score high by themselves, but neither fits the box. Empty masks come last.
    """
    fits = np.array(
        [
            [iou(_bounding_box(mask), box)[0, 0] for mask in masks]
            for masks, box in zip(candidates, xyxy, strict=True)
        ]
    )  # (N, K)
    best: NDArray[np.intp] = np.where(candidates.any(axis=(2, 3)), scores * fits, -1.0).argmax(axis=1)
    return best


def fault(mask: Bools, xyxy: ArrayLike) -> str | None:
    """Why a mask (H, W) cannot be what a box (xyxy) holds: "empty", "left_box", "filled_box"; None when it
    can.
    """
    area = int(mask.sum())
    if area == 0:
        return "empty"
    x1, y1, x2, y2 = np.asarray(xyxy, dtype=np.float64)
    part = mask[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)]
    if part.sum() < MIN_INSIDE * area:
        return "left_box"
    return "filled_box" if part.sum() >= MAX_FILL * part.size else None


@cache
def _default_sam2() -> Sam2:
    return Sam2.load()


def _without_sam2(pixels: Pixels, box: Window | None, method: str, counts: Counter[str]) -> Mask:
    size_wh = (pixels.shape[1], pixels.shape[0])
    if box is None:
        counts["mask_box_outside_image"] += 1
        return _encode_inside(np.zeros((1, 1), dtype=np.bool_), (0, 0, 1, 1), size_wh, "box")
    x1, y1, x2, y2 = box
    part = None
    if method != "box":
        thin = min(x2 - x1, y2 - y1) < MIN_SIDE
        part = None if thin else posterior(pixels, box)
        if part is None:
            counts["mask_box_under_3_px" if thin else "mask_flat_colour"] += 1
    if part is None:
        return _encode_inside(np.ones((y2 - y1, x2 - x1), dtype=np.bool_), box, size_wh, "box")
    return _encode_inside(part, box, size_wh, "posterior")


def _encode_inside(part: Bools, box: Window, size_wh: tuple[int, int], source: MaskSource) -> Mask:
    """The record of a mask that is (h, w) inside its box and empty around it.

    The same as `boxes.encode_mask` of the whole mask, at the cost of the box.
    """
    from pycocotools import mask as coco

    width, height = size_wh
    # 1. Where each column of the mask begins and ends to be set, counted down the columns of the image.
    edges = np.zeros((part.shape[0] + 1, part.shape[1]), dtype=np.bool_)
    edges[:-1] = part
    edges[1:] ^= part
    rows, columns = np.divmod(np.flatnonzero(edges), part.shape[1])
    places = np.sort((columns + box[0]) * height + rows + box[1])
    # 2. A column that ends where the next one begins goes on in it.
    values, times = np.unique(places, return_counts=True)
    turns = np.append(values[times == 1], width * height)
    # 3. The lengths of the runs; what follows the last is left out when it is nothing.
    runs = np.diff(turns, prepend=0)
    if len(turns) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    record = coco.frPyObjects({"counts": runs.tolist(), "size": [height, width]}, height, width)
    return Mask(size_wh=size_wh, rle=record["counts"].decode("ascii"), source=source)


def _round_edges(low: float, high: float, size: int) -> tuple[int, int]:
    """The whole pixels between two edges of a side of `size` pixels, at least one."""
    start, end = math.floor(low + 0.5), math.floor(high + 0.5)
    if start < end:
        return start, end
    start = min(math.floor((low + high) / 2), size - 1)
    return start, start + 1


def _from_centre(size: int, low_is_border: bool, high_is_border: bool) -> Floats:
    """Distance of pixel centres from the middle, in half sizes; 0 towards a side at the image's border."""
    at = (np.arange(size) + 0.5) / size * 2 - 1
    return np.abs(np.clip(at, 0 if low_is_border else -1, 0 if high_is_border else 1))


def _surroundings(pixels: Pixels, box: Window) -> tuple[Pixels, Window]:
    """A box with the ring around it, shrunk to `MAX_SIDE`, and the box in that crop."""
    import cv2

    x1, y1, x2, y2 = box
    ring_x, ring_y = (max(MIN_RING, int(RING * side)) for side in (x2 - x1, y2 - y1))
    left, top = max(0, x1 - ring_x), max(0, y1 - ring_y)
    crop = pixels[top : y2 + ring_y, left : x2 + ring_x]
    height, width = crop.shape[:2]
    inner = np.array([[x1 - left, y1 - top, x2 - left, y2 - top]])
    scale = min(1.0, MAX_SIDE / max(height, width))
    if scale < 1:
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        crop = cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA)
        inner = inner * np.array([size_wh[0] / width, size_wh[1] / height] * 2)
    box_in_crop = window(inner, (crop.shape[1], crop.shape[0]))
    assert box_in_crop is not None, "a box of at least one pixel stays one"
    return crop, box_in_crop


def _bins(inside: Floats, around: Floats, prior: Floats) -> tuple[NDArray[np.intp], Floats] | None:
    """The colour bins of the pixels inside, (n,), and the histogram of those around, (BINS,); None when flat.

    Colours are CIELAB, `inside` (n, 3) and `around` (m, 3); `prior` (n,) is what position says.
    """
    background = np.median(around, axis=0) if len(around) else np.average(inside, axis=0, weights=1 - prior)
    difference = inside - background
    _, axes = np.linalg.eigh(difference.T @ (difference * prior[:, None]))
    axis = axes[:, -1] * np.sign((prior @ difference) @ axes[:, -1] or 1.0)
    at_inside, at_around = difference @ axis, (around - background) @ axis
    low, high = np.percentile(np.concatenate([at_inside, at_around]), [0.5, 99.5])
    if high - low < MIN_CONTRAST:
        return None

    def bins(at: Floats) -> NDArray[np.intp]:
        binned: NDArray[np.intp] = np.clip((at - low) / (high - low) * BINS, 0, BINS - 1).astype(np.intp)
        return binned

    # The ring counts for no more pixels than the box has.
    weight = min(1.0, len(inside) / max(1, len(around)))
    histogram = np.bincount(bins(at_around), minlength=BINS).astype(np.float64) * weight
    return bins(at_inside), histogram


def _estimate(prior: Floats, bins: NDArray[np.intp], around: Floats) -> Floats:
    """The probability of defect (h, w) after `ROUNDS` rounds between histograms and probabilities.

    `prior` (h, w) is what position says, `bins` (h * w,) the colours inside, `around` (BINS,) those outside.
    """
    import cv2

    kernel = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    kernel /= kernel.sum()
    probability = prior
    for _ in range(ROUNDS):
        weights = probability.ravel()
        defect = np.convolve(np.bincount(bins, weights, BINS), kernel, "same") + 0.5
        good = np.convolve(np.bincount(bins, 1 - weights, BINS) + around, kernel, "same") + 0.5
        colour = np.log(defect / defect.sum() / (good / good.sum()))[bins].reshape(prior.shape)
        neighbours = cv2.GaussianBlur(2 * probability - 1, (0, 0), 1.0)
        probability = 1 / (1 + np.exp(-(np.log(prior / (1 - prior)) + colour + neighbours)))
    return probability


def _best_threshold(probability: Floats) -> float:
    """The threshold of probabilities (h, w) whose mask has the largest expected IoU.

    Expected IoU is taken as the ratio of expected intersection and expected union.
    """
    falling = np.sort(probability, axis=None)[::-1]
    intersection = np.cumsum(falling)
    union = np.arange(1, len(falling) + 1) + intersection[-1] - intersection
    return float(falling[np.argmax(intersection / union)])


def _bounding_box(mask: Bools) -> Floats:
    """(4,) tight box of a mask (h, w); zeros for an empty one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
