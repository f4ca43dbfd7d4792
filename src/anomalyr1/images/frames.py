"""The one place that knows the size the model saw: families of models, resizing, and the way back."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from anomalyr1.images.door import ImageError
from anomalyr1.types import InputError

Units = Literal["pixels", "thousandths"]


@dataclass(frozen=True)
class Family:
    """What a family of models does with sizes and coordinates."""

    name: str
    """The model type in Hugging Face configurations."""
    factor: int
    """Both sides of a resized image are multiples of it; `factor ** 2` pixels become one token."""
    units: Units
    """What the model writes for a coordinate: pixels of the resized image, or thousandths of its side."""
    min_pixels: int
    """Images of fewer pixels are enlarged to it."""

    @property
    def max_pixels(self) -> int:
        """The default pixel cap, of 1,280 tokens."""
        return 1280 * self.factor**2


FAMILIES = {
    "qwen2_5_vl": Family("qwen2_5_vl", factor=28, units="pixels", min_pixels=56 * 56),
    "qwen3_vl": Family("qwen3_vl", factor=32, units="thousandths", min_pixels=256 * 256),
}
"""The families by model type; `min_pixels` as in the published preprocessor_config.json of
Qwen2.5-VL-3B-Instruct and Qwen3-VL-4B-Instruct."""

_MAX_QWEN_ASPECT, _MAX_STEPS, _HUGE = 200, 32, sys.float_info.max


def fit(size_wh: tuple[int, int], family: Family, max_pixels: int | None = None) -> tuple[int, int]:
    """Width and height in pixels at which the model sees an image of `size_wh`.

    That is the fixed point of the processor's own resizing rule, of which one step is not always enough for
    a narrow image. Without `max_pixels` the family's default holds. Raises `ImageError` for an aspect ratio
    above 200 (also after rounding to the grid), and when no size lies between `family.min_pixels` and
    `max_pixels`.
    """
    cap = family.max_pixels if max_pixels is None else max_pixels
    size = size_wh
    for _ in range(_MAX_STEPS):
        if min(size) < 1 or max(size) > _MAX_QWEN_ASPECT * min(size):
            raise ImageError(
                f"expected sides with a ratio of at most {_MAX_QWEN_ASPECT}, got {size_wh[0]} x "
                f"{size_wh[1]}, for the model {size[0]} x {size[1]}; cut the image into shorter pieces"
            )
        if (step := _resize_step(size, family.factor, family.min_pixels, cap)) == size:
            return size
        size = step
    raise ImageError(
        f"expected a size for {size_wh[0]} x {size_wh[1]} in tiles of {family.factor} pixels between "
        f"{family.min_pixels:,} and {cap:,} pixels, got none; "
        f"raise max_pixels to at least {4 * family.min_pixels:,}"
    )


def largest_cap_that_fits(
    sizes_wh: Sequence[tuple[int, int]], family: Family, room_tokens: int, max_pixels: int
) -> int | None:
    """The largest pixel cap at which images of these sizes take at most `room_tokens` tokens together.

    It is a multiple of a token's pixels and at most `max_pixels`; None = there is none. Every such cap is
    tried, since under some of them a narrow image has no size.
    """
    pixels_a_token = family.factor**2
    for cap in range(max_pixels // pixels_a_token * pixels_a_token, family.min_pixels - 1, -pixels_a_token):
        try:
            fitted_wh = [fit(size_wh, family, cap) for size_wh in sizes_wh]
        except ImageError:  # no size of this aspect ratio lies under this cap
            continue
        if sum(w * h for w, h in fitted_wh) <= room_tokens * pixels_a_token:
            return cap
    return None


def _resize_step(size_wh: tuple[int, int], factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """One step of Qwen-VL's smart-resize: sides to multiples of `factor`, area into bounds, aspect kept."""
    w, h = size_wh
    grid_w, grid_h = (round(side / factor) * factor for side in size_wh)
    if grid_w * grid_h > max_pixels:
        shrink = math.sqrt(w * h / max_pixels)
        grid_w, grid_h = (max(factor, math.floor(side / shrink / factor) * factor) for side in size_wh)
    elif grid_w * grid_h < min_pixels:
        grow = math.sqrt(min_pixels / (w * h))
        grid_w, grid_h = (math.ceil(side * grow / factor) * factor for side in size_wh)
    return grid_w, grid_h


@dataclass(frozen=True)
class Frame:
    """The way between original pixels and what a model writes; both xyxy, half-open, from the top left."""

    original_wh: tuple[int, int]
    """Width and height of the original image in pixels."""
    model_wh: tuple[int, int]
    """Width and height in pixels at which the model saw the image."""
    units: Units

    @classmethod
    def of(cls, size_wh: tuple[int, int], family: Family, max_pixels: int | None = None) -> Frame:
        """The frame of an image of this size that is resized by us; raises `ImageError` as `fit` does."""
        return cls(size_wh, fit(size_wh, family, max_pixels), family.units)

    @property
    def extent_wh(self) -> tuple[int, int]:
        """The right and the bottom edge of the image in the model's units."""
        return self.model_wh if self.units == "pixels" else (1000, 1000)

    def to_model(self, xyxy: Sequence[float]) -> tuple[int, ...]:
        """The four integers that a model should write for a box in original pixels: x1 < x2 and y1 < y2.

        A side of at least one unit is rounded, so each coordinate is at most half a unit off. A thinner side
        may round to nothing, which is no box; it then becomes one unit wide, by the edge that has less far to
        go, which is off by at most one unit minus half the side's width. Nothing is clipped. Raises
        `InputError` unless the box is finite and in order.
        """
        x1, y1, x2, y2 = (float(value) for value in xyxy)
        if not (-math.inf < x1 < x2 < math.inf and -math.inf < y1 < y2 < math.inf):
            raise InputError(
                f"expected a finite box with x1 < x2 and y1 < y2, got {tuple(xyxy)}; correct the annotation"
            )
        (w, h), (extent_w, extent_h) = self.original_wh, self.extent_wh
        left, right = _round_side(x1 * extent_w / w, x2 * extent_w / w)
        top, bottom = _round_side(y1 * extent_h / h, y2 * extent_h / h)
        return left, top, right, bottom

    def to_original(self, xyxy: Sequence[float]) -> tuple[float, ...]:
        """Four finite numbers in the model's units as original pixels: finite, not ordered, not clipped."""
        w, h = self.original_wh
        extent_w, extent_h = self.extent_wh
        scales = (w / extent_w, h / extent_h) * 2
        return tuple(
            min(max(float(value) * scale, -_HUGE), _HUGE) for value, scale in zip(xyxy, scales, strict=True)
        )


def _round_side(low: float, high: float) -> tuple[int, int]:
    """Both ends of a side to integers that are at least one apart."""
    # Halves go up: round() sends 0.5 and 2.5 to even numbers and would make sides of one unit vanish.
    start, end = math.floor(low + 0.5), math.floor(high + 0.5)
    if start < end:
        return start, end
    # The nearer edge moves; for a side inside the image that is never across the image's edge.
    return (end - 1, end) if low - (end - 1) < (end + 1) - high else (end, end + 1)


def resize(image: Image.Image, family: Family, max_pixels: int | None = None) -> tuple[Image.Image, Frame]:
    """The image at the size of `fit`, by the processor's own filter, and its frame; raises as `fit` does."""
    import torch

    frame = Frame.of(image.size, family, max_pixels)
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1)  # (H, W, C)
    resized = torch.nn.functional.interpolate(
        pixels.permute(2, 0, 1)[None], frame.model_wh[::-1], mode="bicubic", antialias=True
    )  # (1, C, h, w)
    picture = resized[0].permute(1, 2, 0).squeeze(-1).contiguous()  # (h, w, C), or (h, w) of one channel
    return Image.fromarray(picture.numpy()), frame
