"""Painters of electronic parts: circuit board and connector."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalyr1.drawn.record import Facts
from anomalyr1.drawn.scene import (
    METAL,
    PAINT,
    Kit,
    Outline,
    Scene,
    Spot,
    block,
    circle,
    dimmed,
    grid_spots,
    pill,
    rgb,
)

Points = NDArray[np.float64]

COMPONENTS = ("chip", "resistor", "capacitor", "diode")
"""Names of the styles of components."""
EMPTY_STYLE = 4
"""Style of a place of the grid that has no component."""
SOLDER = rgb(188, 190, 192)


def circuit_board(kit: Kit) -> tuple[Scene, Facts]:
    """A populated board: traces, vias, and components on a grid."""
    masks = {
        "green": rgb(24, 98, 58),
        "blue": rgb(26, 62, 126),
        "black": rgb(34, 36, 40),
        "red": rgb(136, 34, 38),
    }
    name = kit.pick(*masks)
    colour = kit.shifted(masks[name], 0.015)
    w, h = kit.size_wh
    scene = kit.blank(colour, 0.22)
    scene.albedo *= (1 + 0.04 * kit.noise(5))[..., None]
    # 1. The pose of the board, and a grid of places, each a little off.
    angle = kit.pose.uniform(-0.05, 0.05)
    dx, dy = kit.pose.uniform(-0.02, 0.02, 2) * kit.unit
    columns, rows = max(3, round(w / (kit.unit * 0.27))), max(3, round(h / (kit.unit * 0.27)))
    cell_w, cell_h = w / columns, h / rows
    cell = min(cell_w, cell_h)
    cells = [(column, row) for row in range(rows) for column in range(columns)]
    styles = kit.design.choice(5, len(cells), p=[0.2, 0.24, 0.18, 0.16, 0.22])
    turns = kit.design.integers(0, 2, len(cells)) * np.pi / 2
    jitter = kit.design.uniform(-0.1, 0.1, (len(cells), 2)) * cell
    flat = (np.array(cells) + 0.5) * (cell_w, cell_h) + jitter - (w / 2, h / 2)  # (N, 2)
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.array([w / 2 + dx, h / 2 + dy])
    spots: list[Spot] = []
    free: list[Spot] = []
    for (x, y), turn, style in zip(flat @ turned + middle, turns, styles, strict=True):
        spot = Spot(float(x), float(y), angle + turn, int(style))
        (free if style == EMPTY_STYLE else spots).append(spot)
    # 2. What lies on it, from the copper up.
    _traces(kit, scene, flat, (turned, middle), colour)
    _silkscreen(kit, scene, spots, cell)
    free = [spot._replace(style=k % len(COMPONENTS)) for k, spot in enumerate(free)]
    free = free or [spots[0]._replace(x=spots[0].x + cell_w / 2)]
    spots = spots or [free[0]]
    for spot in kit.arranged(spots, COMPONENTS, cell * 0.2, tuple(free)):
        _PAINT_COMPONENT[spot.style](scene, spot, cell, kit.s)
    chips = sum(1 for spot in spots if spot.style == 0)
    layout = (
        f"This layout has {len(spots)} components, {chips} of them chips, squarely aligned to the grid; "
        "the other places stay empty."
    )
    return scene, Facts("fibreglass", name, "flat board", ("components", len(spots)), layout)


def _traces(
    kit: Kit, scene: Scene, places: Points, pose: tuple[Points, Points], colour: tuple[float, float, float]
) -> None:
    """Copper under the solder mask from place to place, bent at 45 degrees, and gold vias.

    `places` (N, 2) are board coordinates; `pose` turns and shifts them into the image.
    """
    turned, shift = pose
    canvas = np.zeros(scene.height.shape, np.uint8)
    n = len(places)
    starts = kit.design.permutation(n)
    reach, width = kit.design.integers(1, 5, n), kit.design.integers(1, 5, n)
    vias = []
    for k, start in enumerate(starts):
        # 1. From each place to one of its nearest, a bundle of lanes.
        order = np.argsort(np.abs(places - places[start]).sum(axis=1))
        end = int(order[min(int(reach[k]), n - 1)])
        d = places[end] - places[start]
        side = np.array([0.0, 1.0]) if abs(d[0]) > abs(d[1]) else np.array([1.0, 0.0])
        for lane in range(int(width[k])):
            offset = side * (lane - (width[k] - 1) / 2) * 5.5 * kit.s
            p, q = places[start] + offset, places[end] + offset
            bend = q - np.sign(d) * min(abs(d[0]), abs(d[1]))
            line = np.round((np.stack([p, bend, q]) @ turned + shift) * 16).astype(np.int32)
            thickness = max(1, round(1.8 * kit.s))
            cv2.polylines(canvas, [line.reshape(-1, 1, 2)], False, 255, thickness, cv2.LINE_AA, 4)
        # 2. Two vias beside it.
        for via in (places[start] + d * 0.5 + side * 9 * kit.s, places[end] - d * 0.33 - side * 8 * kit.s):
            vias.append(Spot(*(via @ turned + shift)))
    cover = canvas.astype(np.float32) / np.float32(255)
    copper = (colour[0] * 1.3 + 0.06, colour[1] * 1.3 + 0.08, colour[2] * 1.3 + 0.05)
    scene.lay(cover, copper, raised=0.9 * kit.s)
    for spot in vias:
        scene.stamp(spot, circle(3.6 * kit.s), METAL["gold"], raised=0.6, gloss=0.6)
        scene.stamp(spot, circle(1.6 * kit.s), rgb(30, 28, 24), gloss=0.0)


def _silkscreen(kit: Kit, scene: Scene, spots: list[Spot], cell: float) -> None:
    """Bare pads and a white outline at every place of the layout: what stays when a component is missing."""
    half_sizes = ((0.36, 0.36), (0.26, 0.14), (0.29, 0.29), (0.34, 0.13))
    for spot in spots:
        half_w, half_h = half_sizes[spot.style][0] * cell, half_sizes[spot.style][1] * cell
        scene.stamp(spot, _border(block(half_w, half_h, 1.5), 0.6 * kit.s), rgb(205, 208, 204))
        for side in (-1, 1):
            pad = _beside(spot, side * half_w * 0.62, 0.0)
            scene.stamp(pad, block(cell * 0.05, cell * 0.07, 1), rgb(186, 178, 150), raised=0.7, gloss=0.6)


def _border(outline: Outline, half_width: float) -> Outline:
    """The line along an outline."""
    return Outline(
        lambda x, y: np.abs(outline.distance(x, y)) - np.float32(half_width), outline.reach + half_width
    )


def _beside(spot: Spot, dx: float, dy: float) -> Spot:
    """The place at (dx, dy) in the frame of a spot."""
    c, s = np.cos(spot.angle), np.sin(spot.angle)
    return spot._replace(x=spot.x + dx * c - dy * s, y=spot.y + dx * s + dy * c)


def _chip(scene: Scene, spot: Spot, cell: float, s: float) -> None:
    """A black body with five pins on each of two sides, and a dot at pin 1; `s` is the scale of details."""
    half_w, half_h = cell * 0.33, cell * 0.23
    for k in range(5):
        for side in (-1, 1):
            pin = _beside(spot, (k - 2) * half_w * 0.4, side * (half_h + 2.4 * s))
            scene.stamp(pin, block(1.5 * s, 3.4 * s, 0.5), SOLDER, raised=1.0, gloss=0.7)
    body = block(half_w, half_h, 1.5 * s)
    scene.stamp(spot, body, rgb(36, 37, 40), raised=4 * s, bevel=2.5 * s, gloss=0.15)
    dot = _beside(spot, -half_w * 0.75, half_h * 0.6)
    scene.stamp(dot, circle(1.9 * s), rgb(120, 120, 120), raised=-0.8)


def _resistor(scene: Scene, spot: Spot, cell: float, s: float) -> None:
    """A black body between two soldered ends, with a printed value."""
    for side in (-1, 1):
        end = _beside(spot, side * cell * 0.17, 0)
        scene.stamp(end, block(cell * 0.06, cell * 0.1, 1), SOLDER, raised=2.5 * s, gloss=0.7)
    scene.stamp(spot, block(cell * 0.13, cell * 0.1, 1), rgb(30, 30, 32), raised=3 * s, gloss=0.2)
    scene.stamp(spot, block(cell * 0.06, cell * 0.025, 1), rgb(210, 210, 206))


def _capacitor(scene: Scene, spot: Spot, cell: float, s: float) -> None:
    """A can from above, with the bar that marks its negative side."""
    scene.stamp(spot, circle(cell * 0.26), rgb(40, 42, 48), raised=2 * s, gloss=0.2)
    scene.stamp(spot, circle(cell * 0.22), rgb(186, 188, 192), raised=4 * s, bevel=4 * s, gloss=0.6)
    bar = replace(block(cell * 0.035, cell * 0.12, 1), reach=cell * 0.1)  # its ends are cut off
    scene.stamp(_beside(spot, -cell * 0.13, 0), bar, rgb(44, 46, 52))


def _diode(scene: Scene, spot: Spot, cell: float, s: float) -> None:
    """A glass body on two wires, with the ring that marks its cathode."""
    for side in (-1, 1):
        wire = _beside(spot, side * cell * 0.24, 0)
        scene.stamp(wire, block(cell * 0.08, 1.4 * s), SOLDER, raised=1.5, gloss=0.7)
    scene.stamp(spot, pill(cell * 0.12, cell * 0.085), rgb(196, 98, 44), dome=cell * 0.08, gloss=0.5)
    scene.stamp(_beside(spot, cell * 0.1, 0), block(cell * 0.02, cell * 0.08), rgb(26, 24, 24))


_PAINT_COMPONENT = (_chip, _resistor, _capacitor, _diode)
"""By style, as `COMPONENTS`."""


def connector(kit: Kit) -> tuple[Scene, Facts]:
    """A plastic socket from the front, with gold pins in rows."""
    name = kit.pick("black", "white", "blue", "gray", "orange")
    colour = kit.shifted(PAINT[name], 0.02)
    rows, columns = int(kit.design.integers(1, 4)), int(kit.design.integers(4, 8))
    backdrops = {"black": ("light", "sand"), "blue": ("dark", "sand")}.get(name, ("dark", "blue"))
    scene = kit.backdrop(*backdrops)
    # 1. The housing, its notch, and the dark inside.
    cx, cy = kit.centre(0.04)
    angle, size = kit.pose.uniform(-0.25, 0.25), kit.unit * kit.pose.uniform(0.95, 1.03)
    half_w, half_h = size * 0.43, size * {1: 0.16, 2: 0.22, 3: 0.30}[rows]
    at = Spot(cx, cy, angle)
    housing = block(half_w, half_h, 5 * kit.s)
    scene.stamp(at, housing, colour, raised=5 * kit.s, bevel=4 * kit.s, gloss=0.3, alpha=1)
    notch_at = at._replace(x=cx + half_h * np.sin(angle) * 0.98, y=cy - half_h * np.cos(angle) * 0.98)
    notch, notch_colour = block(size * 0.09, 5 * kit.s, 2 * kit.s), kit.shifted(colour, 0.0)
    scene.stamp(notch_at, notch, notch_colour, raised=2 * kit.s, gloss=0.3, alpha=1)
    inside = block(half_w * 0.9, half_h * 0.72, 4 * kit.s)
    scene.stamp(at, inside, dimmed(colour, 0.35), raised=-5 * kit.s, bevel=4 * kit.s, gloss=0.1)
    # 2. The pins.
    pin_columns = kit.count(columns, "pins")
    step_x, step_y = 2 * half_w * 0.82 / pin_columns, 2 * half_h * 0.64 / rows
    spots = grid_spots(at, (pin_columns, rows), (step_x, step_y))
    half_pin = min(size * 0.024, step_x * 0.24)
    pin = block(half_pin, half_pin * 1.25, 1)
    for spot in kit.arranged(spots, ("pin",), step_x * 0.36):
        scene.stamp(spot, pin, METAL["gold"], raised=3.5 * kit.s, bevel=2 * kit.s, gloss=0.7)
    row_word, pins = "row" if rows == 1 else "rows", rows * columns
    layout = f"It has {rows} {row_word} of {columns} pins, {pins} in all, straight and evenly spaced."
    return scene, Facts("plastic", name, "rectangular housing", ("pins", pins), layout)
