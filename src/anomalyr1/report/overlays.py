"""Boxes, mask contours and labels drawn on an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from anomalyr1 import boxes as geometry
from anomalyr1.images.door import open_image
from anomalyr1.report.text import visible
from anomalyr1.types import Box, InputError, Inspection, Mask, Verdict

Colour = tuple[int, int, int]

BOX: dict[str, Colour] = {"defect": (229, 36, 59), "unsure": (245, 140, 0), "good": (18, 140, 80)}
"""Colour of the boxes by verdict."""
CONTOUR: Colour = (255, 225, 60)
CASING: Colour = (16, 18, 22)
"""Dark line under the coloured one, so that both show on any background."""
MAX_DRAWN = 20
"""Boxes and masks that are drawn; nobody tells more of them apart."""
SMALL = 16
"""A mask with a smaller side than so many lines is outlined thinly, or the outline would cover it."""
FILL = 0.22
"""Opacity of a mask."""


class _Pen(NamedTuple):
    colour: Colour
    line: int
    """Width in pixels."""
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont


def overlay(
    inspection: Inspection, image: Image.Image | str | Path, long_side: int | None = None
) -> Image.Image:
    """The image (RGB) with the inspection's masks and numbered boxes on it.

    `image` is the inspected file, or its upright picture at the original size. The result has that size, or
    is scaled so that its longer side has `long_side` pixels; lines and letters are drawn after scaling, so
    they stay sharp. Raises `InputError` when a mask has another size than the image.
    """
    rgb = image.convert("RGB") if isinstance(image, Image.Image) else open_image(image).rgb
    return draw_on(scaled(rgb, long_side) if long_side else rgb.copy(), inspection, rgb.size)


def draw_on(canvas: Image.Image, inspection: Inspection, size_wh: tuple[int, int]) -> Image.Image:
    """The same on a picture that is scaled already, which is drawn over; `size_wh` is the size of the
    inspected image.
    """
    pen = _pen(canvas, BOX[inspection.verdict])
    for mask in (inspection.masks or ())[:MAX_DRAWN]:
        if mask.size_wh != size_wh:
            raise InputError(
                f"a mask of {inspection.sample_id!r} is {mask.size_wh}, the image {size_wh}; give the "
                "inspected image itself"
            )
        _draw_mask(canvas, mask, pen)
    draw = ImageDraw.Draw(canvas)
    for number, box in enumerate((inspection.boxes or ())[:MAX_DRAWN], start=1):
        corners = _on_canvas(box, (canvas.width / size_wh[0], canvas.height / size_wh[1]), canvas.size)
        _draw_box(draw, corners, canvas.size, pen)
        _draw_label(draw, f"{number} {visible(box.label)[:24]}".strip(), corners, canvas.size, pen)
    return canvas


def outlined(
    image: Image.Image, masks: Sequence[Mask], long_side: int, verdict: Verdict | None = None
) -> Image.Image:
    """The upright picture (RGB) with masks as lines around them and nothing over what they show; a number at
    each, in the colour of the verdict, unless that is None.

    Raises `InputError` when a mask has another size than the picture.
    """
    canvas = scaled(image, long_side)
    pen = _pen(canvas, BOX[verdict] if verdict else CONTOUR)
    pen = pen._replace(line=pen.line + 1)
    draw = ImageDraw.Draw(canvas)
    tops = []
    for mask in masks[:MAX_DRAWN]:
        if mask.size_wh != image.size:
            raise InputError(
                f"an outline is of {mask.size_wh}, the image {image.size}; give the image itself"
            )
        # Grown and rounded, so that the line lies around the place, and around a tiny one, too.
        stencil = _stencil(mask, canvas.size).filter(ImageFilter.MaxFilter(4 * pen.line + 1))
        stencil = stencil.filter(ImageFilter.GaussianBlur(2 * pen.line))
        _draw_outlines(draw, stencil, (0, 0), pen, thinly=False)
        tops.append(np.asarray(stencil).argmax())
    for number, top in enumerate(tops if verdict else (), start=1):
        y, x = divmod(int(top), canvas.width)
        _draw_label(draw, str(number), (x, y, x, y), canvas.size, pen)
    return canvas


def scaled(rgb: Image.Image, long_side: int) -> Image.Image:
    """The image with a longer side of `long_side` pixels."""
    scale = long_side / max(rgb.size)
    return rgb.resize(
        (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))), Image.Resampling.LANCZOS
    )


def close_up(rgb: Image.Image, box: Box, side: int) -> Image.Image:
    """A square of `side` pixels with the box and what is around it, nothing drawn on it."""
    reach = min(max(1.5 * (box.x2 - box.x1), 1.5 * (box.y2 - box.y1), 16), min(rgb.size) / 2)
    x = min(max((box.x1 + box.x2) / 2, reach), rgb.width - reach)
    y = min(max((box.y1 + box.y2) / 2, reach), rgb.height - reach)
    return rgb.resize(
        (side, side), Image.Resampling.BICUBIC, box=(x - reach, y - reach, x + reach, y + reach)
    )


def _pen(canvas: Image.Image, colour: Colour) -> _Pen:
    font_size = max(9, round((canvas.width * canvas.height) ** 0.5 / 18))
    return _Pen(colour, max(1, round(max(canvas.size) / 320)), ImageFont.load_default(font_size))


def _draw_mask(canvas: Image.Image, mask: Mask, pen: _Pen) -> None:
    stencil = _stencil(mask, canvas.size)
    box = stencil.getbbox()
    if box is not None:
        cut = stencil.crop(box)  # to where it is anything
        canvas.paste(pen.colour, box, cut.point(lambda value: value * FILL))  # its tint
        is_small = int((np.asarray(cut) >= 128).sum()) <= (SMALL * pen.line) ** 2
        _draw_outlines(ImageDraw.Draw(canvas), cut, box[:2], pen, is_small)


def _stencil(mask: Mask, size_wh: tuple[int, int]) -> Image.Image:
    """The mask at the size of the canvas, 0..255."""
    columns = np.ascontiguousarray(geometry.decode_mask(mask).T)  # (W, H), as masks are kept
    whole = Image.fromarray(columns.view(np.uint8) * np.uint8(255)).transpose(Image.Transpose.TRANSPOSE)
    return whole.resize(size_wh, Image.Resampling.BILINEAR)


def _draw_outlines(
    draw: ImageDraw.ImageDraw, stencil: Image.Image, origin_xy: tuple[int, int], pen: _Pen, thinly: bool
) -> None:
    lines = [(1, CONTOUR)] if thinly else [(pen.line + 2, CASING), (pen.line, CONTOUR)]
    outlines = geometry.polygons(np.asarray(stencil) >= 128)
    for width, shade in lines:
        for outline in outlines:
            points = [(int(x) + origin_xy[0], int(y) + origin_xy[1]) for x, y in outline]
            draw.line([*points, points[0]], fill=shade, width=width)


def _on_canvas(
    box: Box, scale_xy: tuple[float, float], size_wh: tuple[int, int]
) -> tuple[int, int, int, int]:
    """First and last column and row of a half-open box, kept on the canvas."""
    x1, x2 = (min(max(round(x * scale_xy[0]), 0), size_wh[0]) for x in (box.x1, box.x2))
    y1, y2 = (min(max(round(y * scale_xy[1]), 0), size_wh[1]) for y in (box.y1, box.y2))
    return x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)


def _draw_box(
    draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], size_wh: tuple[int, int], pen: _Pen
) -> None:
    """A frame around the box, so that nothing of a small defect is covered; at the image's edge it lies on
    the last pixels inside.
    """
    for grow, width, colour in ((pen.line + 1, 1, CASING), (pen.line, pen.line, pen.colour)):
        left, top = (max(corner - grow, 0) for corner in corners[:2])
        right, bottom = (
            min(corner + grow, side - 1) for corner, side in zip(corners[2:], size_wh, strict=True)
        )
        draw.rectangle((min(left, right), min(top, bottom), right, bottom), outline=colour, width=width)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    corners: tuple[int, int, int, int],
    size_wh: tuple[int, int],
    pen: _Pen,
) -> None:
    """A tag above the box, or inside it at the top edge; pushed inwards at the sides."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=pen.font)
    width, height = right - left + 4 * pen.line, bottom - top + 4 * pen.line
    x = max(0, min(corners[0], size_wh[0] - width))
    y = corners[1] - height - 2 * pen.line - 1
    y = y if y >= 0 else min(corners[1] + 2 * pen.line, size_wh[1] - height)
    draw.rectangle((x, y, x + width, y + height), fill=pen.colour)
    draw.text((x + 2 * pen.line - left, y + 2 * pen.line - top), text, fill=(255, 255, 255), font=pen.font)
