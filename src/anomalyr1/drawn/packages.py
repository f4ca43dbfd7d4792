"""Painters of packages: blister pack and printed label."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalyr1.drawn.record import Facts
from anomalyr1.drawn.scene import (
    METAL,
    PAINT,
    Kit,
    Scene,
    Spot,
    block,
    circle,
    dimmed,
    grid_spots,
    pill,
    rgb,
    ring,
)

Bytes = NDArray[np.uint8]
Bars = NDArray[np.int64]


def blister_pack(kit: Kit) -> tuple[Scene, Facts]:
    """A foil card with a pill in every pocket."""
    name = kit.pick("white", "yellow", "red", "blue", "orange")
    shape = kit.pick("round", "oblong")
    colour, foil = kit.shifted(PAINT[name], 0.03), kit.shifted(METAL["silver"], 0.03)
    columns, rows = int(kit.design.integers(3, 5)), int(kit.design.integers(2, 4))
    scene = kit.backdrop("dark", "blue", "sand")
    # 1. The card, embossed with dots.
    cx, cy = kit.centre(0.02)
    angle, size = kit.pose.uniform(-0.15, 0.15), kit.unit * kit.pose.uniform(0.95, 1.02)
    half_w, half_h = size * 0.44, size * {2: 0.30, 3: 0.40}[rows]
    at, card = Spot(cx, cy, angle), block(half_w, half_h, 8 * kit.s)
    patch = scene.stamp(at, card, foil, raised=2 * kit.s, gloss=0.5, alpha=1)
    if patch is not None:
        frequency = np.float32(1.3 / kit.s)
        dots = np.sin(patch.x * frequency) * np.sin(patch.y * frequency) * patch.cover
        scene.height[patch.window] += np.float32(0.35) * dots
        scene.albedo[patch.window] *= (1 + 0.05 * dots)[..., None]
    # 2. Pockets.
    pocket_columns = kit.count(columns, "pockets")
    step_x, step_y = 2 * half_w * 0.92 / pocket_columns, 2 * half_h * 0.9 / rows
    pockets = grid_spots(at, (pocket_columns, rows), (step_x, step_y))
    radius = min(2 * half_w * 0.92 / columns, step_y, step_x * 1.15) * 0.41
    for spot in pockets:
        scene.stamp(spot, circle(radius), dimmed(foil, 0.8), raised=-2 * kit.s, bevel=2.5 * kit.s, gloss=0.5)
    # 3. Pills, then the glossy rim of each pocket over them.
    tilt = kit.pose.uniform(-0.5, 0.5, len(pockets) + 8)
    pills = [spot._replace(angle=angle + tilt[k]) for k, spot in enumerate(pockets)]
    half_step_x, half_step_y = step_x / 2 * np.cos(angle), step_x / 2 * np.sin(angle)
    between = tuple(
        spot._replace(x=spot.x + half_step_x, y=spot.y + half_step_y)
        for k, spot in enumerate(pockets)
        if k % pocket_columns < pocket_columns - 1
    )
    body = circle(radius * 0.72) if shape == "round" else pill(radius * 0.34, radius * 0.44)
    score_line = block(radius * 0.55, 0.9 * kit.s)
    for spot in kit.arranged(pills, ("pill",), radius * 0.7, between):
        scene.stamp(spot, body, colour, dome=radius * 0.35, gloss=0.3)
        if shape == "round":
            scene.stamp(spot, score_line, raised=-1.0 * kit.s, bevel=1.5)
    rim = ring(radius * 0.86, radius * 0.96)
    for spot in pockets:
        scene.stamp(spot, rim, raised=1.4 * kit.s, bevel=1.5 * kit.s, gloss=0.9)
    total = rows * columns
    layout = (
        f"It has {rows} rows of {columns} pockets, {total} in all, "
        f"and one {name} {shape} pill in every pocket."
    )
    return scene, Facts("foil and plastic", name, "rectangular card", ("pills", total), layout)


def label(kit: Kit) -> tuple[Scene, Facts]:
    """A printed paper label: logo, text lines and a bar code."""
    name = kit.pick("white", "yellow", "beige")
    paper = kit.shifted(PAINT[name], 0.02)
    ink_name = kit.pick("red", "blue", "green", "black")
    scene = kit.backdrop("sand", "dark", "blue", "gray")
    # 1. The paper.
    cx, cy = kit.centre(0.025)
    angle = kit.pose.uniform(-0.14, 0.14)
    w, h = kit.size_wh
    half_w, half_h = w * 0.43, h * 0.40
    sheet = block(half_w, half_h, 6 * kit.s)
    scene.stamp(Spot(cx, cy, angle), sheet, paper, raised=1.5 * kit.s, bevel=2, gloss=0.12, alpha=1)
    # 2. What is printed, and where; coordinates are -1..1 of the label.
    digits = "".join(map(str, kit.design.integers(0, 10, 24)))
    words = kit.design.choice(["LOT", "EXP", "REF", "TYPE", "SN", "NET", "MFG"], 3, replace=False)
    bars = kit.design.integers(1, 4, 34)
    corners = (3, 4, 40)[int(kit.design.integers(0, 3))]
    logo_left = bool(kit.design.random() < 0.5)
    side = -1.0 if logo_left else 1.0
    spots = [
        Spot(0.62 * side, -0.55, 0.0, 0),
        Spot(-0.22 * side, -0.68, 0.0, 1),
        Spot(-0.22 * side, -0.38, 0.0, 2),
        Spot(0.0, 0.02, 0.0, 3),
        Spot(0.0, 0.58, 0.0, 4),
    ]
    names = ("logo", "text line", "text line", "text line", "bar code")
    free = (Spot(0.66 * side, -0.05, 0.2, 0), Spot(0.78, 0.55, -0.3, 0), Spot(-0.78, 0.55, 0.25, 0))
    # 3. Each element on a canvas of the label's size, turned and moved into the image.
    for spot in kit.arranged(spots, names, 0.16, free):
        text = f"{words[spot.style % 3]} {digits[spot.style * 5 : spot.style * 5 + 6]}"
        canvas = _printed(spot, (half_w, half_h), kit.s, text, bars, corners)
        canvas_h, canvas_w = canvas.shape
        turn = cv2.getRotationMatrix2D((canvas_w / 2, canvas_h / 2), -np.degrees(angle), 1.0)
        move = np.array([[1, 0, cx - canvas_w / 2], [0, 1, cy - canvas_h / 2]])
        move = move @ np.vstack([turn, [0, 0, 1]])
        cover = cv2.warpAffine(canvas, move, (w, h), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
        scene.lay(cover * scene.alpha, PAINT[ink_name] if spot.style == 0 else rgb(34, 34, 38))
    scene.albedo *= (1 + 0.015 * kit.noise(kit.unit / 2) + 0.02 * kit.noise(4))[..., None]
    corner = "upper left" if logo_left else "upper right"
    layout = (
        f"It carries one {ink_name} logo at the {corner}, three lines of text and one bar code, "
        "all parallel to the edges."
    )
    return scene, Facts("paper", name, "rectangular label", ("text lines", 3), layout)


def _printed(
    spot: Spot, half_wh: tuple[float, float], s: float, text: str, bars: Bars, corners: int
) -> Bytes:
    """A logo, text line or bar code on a canvas (H, W) of the label's size, 0..255, turned by `spot`."""
    w, h = int(2 * half_wh[0]), int(2 * half_wh[1])
    canvas = np.zeros((h, w), np.uint8)
    x, y = w / 2 + spot.x * half_wh[0] * 0.92, h / 2 + spot.y * half_wh[1] * 0.92
    if spot.style == 0:
        radius = min(w, h) * 0.11
        turn = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
        _fill(canvas, np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1))
        hole_xy = round(x), round(y + radius * 0.1)
        cv2.circle(canvas, hole_xy, max(2, round(radius * 0.35)), 0, -1, cv2.LINE_AA)
    elif spot.style < 4:
        font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.52 * s * (1.15 if spot.style == 3 else 1.0)
        thickness = max(1, round(1.4 * s))
        (text_w, text_h), _ = cv2.getTextSize(text, font, scale, thickness)
        corner_xy = round(x - text_w / 2), round(y + text_h / 2)
        cv2.putText(canvas, text, corner_xy, font, scale, 255, thickness, cv2.LINE_AA)
    else:
        half_bar_h, unit = h * 0.13, w * 0.62 / float(bars.sum())
        left, top, bottom = x - w * 0.31, y - half_bar_h, y + half_bar_h
        for k, bar in enumerate(bars):
            right = left + bar * unit
            if k % 2 == 0:
                _fill(canvas, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
            left += float(bar) * unit
    if spot.angle:
        turn = cv2.getRotationMatrix2D((x, y), np.degrees(spot.angle), 1.0)
        canvas = np.asarray(cv2.warpAffine(canvas, turn, (w, h)), dtype=np.uint8)
    return canvas


def _fill(canvas: Bytes, corners_xy: NDArray[np.float64]) -> None:
    """Fill a convex polygon (N, 2), anti-aliased, to a sixteenth of a pixel."""
    cv2.fillPoly(canvas, [np.round(corners_xy * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
