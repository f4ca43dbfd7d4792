"""Painters of assembled and printed parts: circuit board, connector, blister pack, label."""

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
    Shape,
    Spot,
    backdrop,
    blank,
    block,
    circle,
    dimmed,
    pick,
    pill,
    rgb,
    ring,
    shifted,
    stamp,
)

Points = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Bars = NDArray[np.int64]

COMPONENTS = ("chip", "resistor", "capacitor", "diode")


def circuit_board(kit: Kit) -> tuple[Scene, Facts]:
    """A populated board: traces, vias, and components on a grid."""
    masks = {
        "green": rgb(24, 98, 58),
        "blue": rgb(26, 62, 126),
        "black": rgb(34, 36, 40),
        "red": rgb(136, 34, 38),
    }
    name = pick(kit.design, *masks)
    colour = shifted(kit.design, masks[name], 0.015)
    w, h = kit.size_wh
    scene = blank(kit, colour, 0.22)
    scene.albedo *= (1 + 0.04 * kit.noise(5))[..., None]
    angle = kit.pose.uniform(-0.05, 0.05)
    dx, dy = kit.pose.uniform(-0.02, 0.02, 2) * kit.unit
    columns, rows = max(3, round(w / (kit.unit * 0.27))), max(3, round(h / (kit.unit * 0.27)))
    cell_w, cell_h = w / columns, h / rows
    cells = [(c, r) for r in range(rows) for c in range(columns)]
    styles = kit.design.choice(5, len(cells), p=[0.2, 0.24, 0.18, 0.16, 0.22])
    turns = kit.design.integers(0, 2, len(cells)) * np.pi / 2
    jitter = kit.design.uniform(-0.1, 0.1, (len(cells), 2)) * min(cell_w, cell_h)
    flat = (np.array(cells) + 0.5) * (cell_w, cell_h) + jitter - (w / 2, h / 2)
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    placed = flat @ turned + (w / 2 + dx, h / 2 + dy)
    spots: list[Spot] = []
    free: list[Spot] = []
    for (x, y), turn, style in zip(placed, turns, styles, strict=True):
        (free if style == 4 else spots).append(Spot(float(x), float(y), angle + turn, int(style)))
    _traces(kit, scene, flat, (turned, np.array([w / 2 + dx, h / 2 + dy])), colour)
    _silkscreen(kit, scene, spots, min(cell_w, cell_h))
    free = [spot._replace(style=int(k % 4)) for k, spot in enumerate(free)] or [
        spots[0]._replace(x=spots[0].x + cell_w / 2)
    ]
    spots = spots or [free[0]]
    for spot in kit.arranged(spots, COMPONENTS, min(cell_w, cell_h) * 0.2, tuple(free)):
        _component(kit, scene, spot, min(cell_w, cell_h))
    counted = sum(1 for spot in spots if spot.style == 0)
    layout = f"This layout has {len(spots)} components, {counted} of them chips, squarely aligned to the grid; the other places stay empty."
    return scene, Facts("fibreglass", name, "flat board", ("components", len(spots)), layout)


def _traces(
    kit: Kit, scene: Scene, places: Points, pose: tuple[Points, Points], colour: tuple[float, float, float]
) -> None:
    """Copper under the solder mask from place to place, bent at 45 degrees, and gold vias.

    `places` (N, 2) are board coordinates; `pose` turns and shifts them into the image.
    """
    h, w = scene.height.shape
    canvas = np.zeros((h, w), np.uint8)
    n = len(places)
    starts, reach, width = (
        kit.design.permutation(n),
        kit.design.integers(1, 5, n),
        kit.design.integers(1, 5, n),
    )
    vias = []
    for k, a in enumerate(starts):
        b = int(np.argsort(np.abs(places - places[a]).sum(axis=1))[min(int(reach[k]), n - 1)])
        d = places[b] - places[a]
        side = np.array([0.0, 1.0]) if abs(d[0]) > abs(d[1]) else np.array([1.0, 0.0])
        for lane in range(int(width[k])):
            shift = side * (lane - (width[k] - 1) / 2) * 5.5 * kit.s
            p, q = places[a] + shift, places[b] + shift
            bend = q - np.sign(d) * min(abs(d[0]), abs(d[1]))
            line = np.round((np.stack([p, bend, q]) @ pose[0] + pose[1]) * 16).astype(np.int32)
            cv2.polylines(
                canvas, [line.reshape(-1, 1, 2)], False, 255, max(1, round(1.8 * kit.s)), cv2.LINE_AA, 4
            )
        vias += [
            Spot(*(via @ pose[0] + pose[1]))
            for via in (places[a] + d * 0.5 + side * 9 * kit.s, places[b] - d * 0.33 - side * 8 * kit.s)
        ]
    cover = canvas.astype(np.float32) / np.float32(255)
    scene.lay(
        cover, (colour[0] * 1.3 + 0.06, colour[1] * 1.3 + 0.08, colour[2] * 1.3 + 0.05), raised=0.9 * kit.s
    )
    for via in vias:
        stamp(scene, via, 4 * kit.s, circle(3.6 * kit.s), METAL["gold"], raised=0.6, gloss=0.6)
        stamp(scene, via, 2 * kit.s, circle(1.6 * kit.s), rgb(30, 28, 24), gloss=0.0)


def _silkscreen(kit: Kit, scene: Scene, spots: list[Spot], cell: float) -> None:
    """Bare pads and a white outline at every place of the layout: what stays when a component is missing."""
    half = {0: (0.36, 0.36), 1: (0.26, 0.14), 2: (0.29, 0.29), 3: (0.34, 0.13)}
    for spot in spots:
        half_w, half_h = half[spot.style][0] * cell, half[spot.style][1] * cell
        stamp(scene, spot, cell * 0.55, _outline(block(half_w, half_h, 1.5), 0.6 * kit.s), rgb(205, 208, 204))
        for side in (-1, 1):
            c, n = np.cos(spot.angle), np.sin(spot.angle)
            at = spot._replace(x=spot.x + side * half_w * 0.62 * c, y=spot.y + side * half_w * 0.62 * n)
            stamp(
                scene,
                at,
                cell * 0.15,
                block(cell * 0.05, cell * 0.07, 1),
                rgb(186, 178, 150),
                raised=0.7,
                gloss=0.6,
            )


def _outline(shape: Shape, half: float) -> Shape:
    return lambda x, y: np.abs(shape(x, y)) - np.float32(half)


def _component(kit: Kit, scene: Scene, spot: Spot, cell: float) -> None:
    """One component of the style at its place."""
    solder, s = rgb(188, 190, 192), kit.s

    def there(dx: float, dy: float) -> Spot:
        c, n = np.cos(spot.angle), np.sin(spot.angle)
        return spot._replace(x=spot.x + dx * c - dy * n, y=spot.y + dx * n + dy * c)

    if spot.style == 0:
        half_w, half_h = cell * 0.33, cell * 0.23
        for k in range(5):
            for side in (-1, 1):
                pin = there((k - 2) * half_w * 0.4, side * (half_h + 2.4 * s))
                stamp(scene, pin, 6 * s, block(1.5 * s, 3.4 * s, 0.5), solder, raised=1.0, gloss=0.7)
        stamp(
            scene,
            spot,
            cell * 0.45,
            block(half_w, half_h, 1.5 * s),
            rgb(36, 37, 40),
            raised=4 * s,
            bevel=2.5 * s,
            gloss=0.15,
        )
        stamp(
            scene,
            there(-half_w * 0.75, half_h * 0.6),
            3 * s,
            circle(1.9 * s),
            rgb(120, 120, 120),
            raised=-0.8,
        )
    elif spot.style == 1:
        for side in (-1, 1):
            stamp(
                scene,
                there(side * cell * 0.17, 0),
                cell * 0.14,
                block(cell * 0.06, cell * 0.1, 1),
                solder,
                raised=2.5 * s,
                gloss=0.7,
            )
        stamp(
            scene,
            spot,
            cell * 0.2,
            block(cell * 0.13, cell * 0.1, 1),
            rgb(30, 30, 32),
            raised=3 * s,
            gloss=0.2,
        )
        stamp(scene, spot, cell * 0.1, block(cell * 0.06, cell * 0.025, 1), rgb(210, 210, 206))
    elif spot.style == 2:
        stamp(scene, spot, cell * 0.27, circle(cell * 0.26), rgb(40, 42, 48), raised=2 * s, gloss=0.2)
        stamp(
            scene,
            spot,
            cell * 0.24,
            circle(cell * 0.22),
            rgb(186, 188, 192),
            raised=4 * s,
            bevel=4 * s,
            gloss=0.6,
        )
        stamp(scene, there(-cell * 0.13, 0), cell * 0.1, block(cell * 0.035, cell * 0.12, 1), rgb(44, 46, 52))
    else:
        for side in (-1, 1):
            stamp(
                scene,
                there(side * cell * 0.24, 0),
                cell * 0.12,
                block(cell * 0.08, 1.4 * s),
                solder,
                raised=1.5,
                gloss=0.7,
            )
        stamp(
            scene,
            spot,
            cell * 0.25,
            pill(cell * 0.12, cell * 0.085),
            rgb(196, 98, 44),
            dome=cell * 0.08,
            gloss=0.5,
        )
        stamp(scene, there(cell * 0.1, 0), cell * 0.1, block(cell * 0.02, cell * 0.08), rgb(26, 24, 24))


def connector(kit: Kit) -> tuple[Scene, Facts]:
    """A plastic socket from the front, with gold pins in rows."""
    name = pick(kit.design, "black", "white", "blue", "gray", "orange")
    colour = shifted(kit.design, PAINT[name], 0.02)
    rows, columns = int(kit.design.integers(1, 4)), int(kit.design.integers(4, 8))
    scene = backdrop(
        kit, *(("light", "sand") if name == "black" else ("dark", "blue" if name != "blue" else "sand"))
    )
    cx, cy = kit.centre(0.04)
    angle, size = kit.pose.uniform(-0.25, 0.25), kit.unit * kit.pose.uniform(0.95, 1.03)
    half_w, half_h = size * 0.43, size * {1: 0.16, 2: 0.22, 3: 0.30}[rows]
    at = Spot(cx, cy, angle)
    stamp(
        scene,
        at,
        size * 0.6,
        block(half_w, half_h, 5 * kit.s),
        colour,
        raised=5 * kit.s,
        bevel=4 * kit.s,
        gloss=0.3,
        alpha=1,
    )
    notch = at._replace(x=cx + half_h * np.sin(angle) * 0.98, y=cy - half_h * np.cos(angle) * 0.98)
    stamp(
        scene,
        notch,
        size * 0.12,
        block(size * 0.09, 5 * kit.s, 2 * kit.s),
        shifted(kit.design, colour, 0.0),
        raised=2 * kit.s,
        gloss=0.3,
        alpha=1,
    )
    inside = dimmed(colour, 0.35)
    stamp(
        scene,
        at,
        size * 0.6,
        block(half_w * 0.9, half_h * 0.72, 4 * kit.s),
        inside,
        raised=-5 * kit.s,
        bevel=4 * kit.s,
        gloss=0.1,
    )
    shown = kit.count(columns, "pins")
    step_x, step_y = 2 * half_w * 0.82 / shown, 2 * half_h * 0.64 / rows
    spots = _grid(Spot(cx, cy, angle), (shown, rows), (step_x, step_y))
    pin = min(size * 0.024, step_x * 0.24)
    for spot in kit.arranged(spots, ("pin",), step_x * 0.36):
        stamp(
            scene,
            spot,
            pin * 3,
            block(pin, pin * 1.25, 1),
            METAL["gold"],
            raised=3.5 * kit.s,
            bevel=2 * kit.s,
            gloss=0.7,
        )
    total = rows * columns
    row_word = "row" if rows == 1 else "rows"
    return scene, Facts(
        "plastic",
        name,
        "rectangular housing",
        ("pins", total),
        f"It has {rows} {row_word} of {columns} pins, {total} in all, straight and evenly spaced.",
    )


def _grid(middle: Spot, columns_rows: tuple[int, int], step_xy: tuple[float, float]) -> list[Spot]:
    """Spots in rows and columns around a middle, turned as it is; row by row."""
    (columns, rows), (step_x, step_y), angle = columns_rows, step_xy, middle.angle
    spots = []
    for r in range(rows):
        for c in range(columns):
            x, y = (c - (columns - 1) / 2) * step_x, (r - (rows - 1) / 2) * step_y
            spots.append(
                Spot(
                    middle.x + x * np.cos(angle) - y * np.sin(angle),
                    middle.y + x * np.sin(angle) + y * np.cos(angle),
                    angle,
                )
            )
    return spots


def blister_pack(kit: Kit) -> tuple[Scene, Facts]:
    """A foil card with a pill in every pocket."""
    name, shape = (
        pick(kit.design, "white", "yellow", "red", "blue", "orange"),
        pick(kit.design, "round", "oblong"),
    )
    tone, foil = shifted(kit.design, PAINT[name], 0.03), shifted(kit.design, METAL["silver"], 0.03)
    columns, rows = int(kit.design.integers(3, 5)), int(kit.design.integers(2, 4))
    scene = backdrop(kit, "dark", "blue", "sand")
    cx, cy = kit.centre(0.02)
    angle, size = kit.pose.uniform(-0.15, 0.15), kit.unit * kit.pose.uniform(0.95, 1.02)
    half_w, half_h = size * 0.44, size * {2: 0.30, 3: 0.40}[rows]
    patch = stamp(
        scene,
        Spot(cx, cy, angle),
        size * 0.65,
        block(half_w, half_h, 8 * kit.s),
        foil,
        raised=2 * kit.s,
        gloss=0.5,
        alpha=1,
    )
    if patch is not None:
        dots = (
            np.sin(patch.x * np.float32(1.3 / kit.s))
            * np.sin(patch.y * np.float32(1.3 / kit.s))
            * patch.cover
        )
        scene.height[patch.window] += np.float32(0.35) * dots
        scene.albedo[patch.window] *= (1 + 0.05 * dots)[..., None]
    shown = kit.count(columns, "pockets")
    step_x, step_y = 2 * half_w * 0.92 / shown, 2 * half_h * 0.9 / rows
    pockets = _grid(Spot(cx, cy, angle), (shown, rows), (step_x, step_y))
    radius = min(2 * half_w * 0.92 / columns, step_y, step_x * 1.15) * 0.41
    body = circle(radius * 0.72) if shape == "round" else pill(radius * 0.34, radius * 0.44)
    for spot in pockets:
        stamp(
            scene,
            spot,
            radius,
            circle(radius),
            dimmed(foil, 0.8),
            raised=-2 * kit.s,
            bevel=2.5 * kit.s,
            gloss=0.5,
        )
    tilt = kit.pose.uniform(-0.5, 0.5, len(pockets) + 8)
    pills = [spot._replace(angle=angle + tilt[k]) for k, spot in enumerate(pockets)]
    between = tuple(
        spot._replace(x=spot.x + step_x / 2 * np.cos(angle), y=spot.y + step_x / 2 * np.sin(angle))
        for k, spot in enumerate(pockets)
        if k % shown < shown - 1
    )
    for spot in kit.arranged(pills, ("pill",), radius * 0.7, between):
        stamp(scene, spot, radius, body, tone, dome=radius * 0.35, gloss=0.3)
        if shape == "round":
            stamp(scene, spot, radius, block(radius * 0.55, 0.9 * kit.s), raised=-1.0 * kit.s, bevel=1.5)
    for spot in pockets:
        stamp(
            scene,
            spot,
            radius,
            ring(radius * 0.86, radius * 0.96),
            raised=1.4 * kit.s,
            bevel=1.5 * kit.s,
            gloss=0.9,
        )
    total = rows * columns
    return scene, Facts(
        "foil and plastic",
        name,
        "rectangular card",
        ("pills", total),
        f"It has {rows} rows of {columns} pockets, {total} in all, and one {name} {shape} pill in every pocket.",
    )


def label(kit: Kit) -> tuple[Scene, Facts]:
    """A printed paper label: logo, text lines and a bar code."""
    name = pick(kit.design, "white", "yellow", "beige")
    paper, ink_name = (
        shifted(kit.design, PAINT[name], 0.02),
        pick(kit.design, "red", "blue", "green", "black"),
    )
    ink, text = PAINT[ink_name], rgb(34, 34, 38)
    scene = backdrop(kit, "sand", "dark", "blue", "gray")
    w, h = kit.size_wh
    cx, cy = kit.centre(0.025)
    angle = kit.pose.uniform(-0.14, 0.14)
    half_w, half_h = w * 0.43, h * 0.40
    stamp(
        scene,
        Spot(cx, cy, angle),
        float(np.hypot(half_w, half_h)),
        block(half_w, half_h, 6 * kit.s),
        paper,
        raised=1.5 * kit.s,
        bevel=2,
        gloss=0.12,
        alpha=1,
    )
    digits, words = (
        kit.design.integers(0, 10, 24),
        kit.design.choice(["LOT", "EXP", "REF", "TYPE", "SN", "NET", "MFG"], 3, replace=False),
    )
    bars = kit.design.integers(1, 4, 34)
    shapes = int(kit.design.integers(0, 3))
    logo_left = bool(kit.design.random() < 0.5)
    side = -1.0 if logo_left else 1.0
    spots = [
        Spot(0.62 * side, -0.55, 0.0, 0),
        Spot(-0.22 * side, -0.68, 0.0, 1),
        Spot(-0.22 * side, -0.38, 0.0, 2),
        Spot(0.0, 0.02, 0.0, 3),
        Spot(0.0, 0.58, 0.0, 4),
    ]
    free = (Spot(0.66 * side, -0.05, 0.2, 0), Spot(0.78, 0.55, -0.3, 0), Spot(-0.78, 0.55, 0.25, 0))
    for spot in kit.arranged(spots, ("logo", "text line", "text line", "text line", "bar code"), 0.16, free):
        canvas = _printed(
            spot,
            (half_w, half_h),
            kit.s,
            (
                f"{words[spot.style % 3]} {''.join(map(str, digits[spot.style * 5 : spot.style * 5 + 6]))}",
                bars,
                shapes,
            ),
        )
        turn = np.array([[1, 0, cx - canvas.shape[1] / 2], [0, 1, cy - canvas.shape[0] / 2]]) @ np.vstack(
            [
                cv2.getRotationMatrix2D((canvas.shape[1] / 2, canvas.shape[0] / 2), -np.degrees(angle), 1.0),
                [0, 0, 1],
            ]
        )
        cover = cv2.warpAffine(canvas, turn, (w, h), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
        scene.lay(cover * scene.alpha, ink if spot.style == 0 else text)
    scene.albedo *= (1 + 0.015 * kit.noise(kit.unit / 2) + 0.02 * kit.noise(4))[..., None]
    corner = "upper left" if logo_left else "upper right"
    layout = f"It carries one {ink_name} logo at the {corner}, three lines of text and one bar code, all parallel to the edges."
    return scene, Facts("paper", name, "rectangular label", ("text lines", 3), layout)


def _printed(spot: Spot, half_wh: tuple[float, float], s: float, content: tuple[str, Bars, int]) -> Bytes:
    """One printed element on a canvas the size of the label, 0..255, turned by its own angle."""
    words, bars, shape = content
    w, h = int(2 * half_wh[0]), int(2 * half_wh[1])
    canvas = np.zeros((h, w), np.uint8)
    x, y = w / 2 + spot.x * half_wh[0] * 0.92, h / 2 + spot.y * half_wh[1] * 0.92
    r = min(w, h) * 0.11
    if spot.style == 0:
        corners = {0: 3, 1: 4, 2: 40}[shape]
        turn = np.arange(corners) * 2 * np.pi / corners - np.pi / 2
        outline = np.stack([x + r * np.cos(turn), y + r * np.sin(turn)], 1)
        cv2.fillPoly(canvas, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        cv2.circle(canvas, (round(x), round(y + r * 0.1)), max(2, round(r * 0.35)), 0, -1, cv2.LINE_AA)
    elif spot.style < 4:
        scale, thick = 0.52 * s * (1.15 if spot.style == 3 else 1.0), max(1, round(1.4 * s))
        (tw, th), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
        cv2.putText(
            canvas,
            words,
            (round(x - tw / 2), round(y + th / 2)),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            255,
            thick,
            cv2.LINE_AA,
        )
    else:
        tall, unit = h * 0.13, w * 0.62 / float(bars.sum())
        edge = x - w * 0.31
        for k, bar in enumerate(bars):
            if k % 2 == 0:
                corner = np.round(
                    np.array(
                        [
                            [edge, y - tall],
                            [edge + bar * unit, y - tall],
                            [edge + bar * unit, y + tall],
                            [edge, y + tall],
                        ]
                    )
                    * 16
                )
                cv2.fillPoly(canvas, [corner.astype(np.int32)], 255, cv2.LINE_AA, 4)
            edge += float(bar) * unit
    if spot.angle:
        turn = cv2.getRotationMatrix2D((x, y), np.degrees(spot.angle), 1.0)
        canvas = np.asarray(cv2.warpAffine(canvas, turn, (w, h)), dtype=np.uint8)
    return canvas
