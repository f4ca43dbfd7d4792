"""What a part is drawn with: a scene of colour, height and gloss, and outlines that are stamped on it.

Lengths are pixels, colours RGB in 0..1, arrays float32 of shape (H, W) or (H, W, 3). Four random streams keep
apart what must vary apart: the design (shared with reference images), the pose, the grain of the material,
and the edit of a logical defect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Outline:
    """The outline of an element about its own middle."""

    distance: Callable[[Floats, Floats], Floats]
    """Local coordinates x and y, both (H, W) -> signed distance (H, W) in pixels, negative inside."""
    reach: float
    """Nothing of the element lies farther from its middle, in pixels."""


@dataclass
class Edit:
    """A logical defect in the making: the painter applies it and notes in words what it did."""

    kind: str
    rng: Generator
    note: str = ""


class Spot(NamedTuple):
    """Where an element of a part sits, in the part's own coordinates."""

    x: float
    y: float
    angle: float = 0.0
    style: int = 0


class Patch(NamedTuple):
    """The window that a stamp touched: where it is, how much is covered, and its local coordinates."""

    window: tuple[slice, slice]
    cover: Floats
    """(h, w), 1 = inside the outline."""
    x: Floats
    y: Floats
    distance: Floats
    """(h, w), pixels from the outline, negative inside."""


@dataclass
class Scene:
    """What the light falls on."""

    albedo: Floats
    """(H, W, 3), the colour of the surface."""
    height: Floats
    """(H, W), pixels; only its slope is seen."""
    gloss: Floats
    """(H, W), 0 = matt, 1 = mirror."""
    alpha: Floats
    """(H, W), 1 = part, 0 = backdrop. Defects lie on the part; the part throws a shadow on the backdrop."""

    def copy(self) -> Scene:
        """An independent scene."""
        return Scene(self.albedo.copy(), self.height.copy(), self.gloss.copy(), self.alpha.copy())

    def colour_at(self, x: int, y: int) -> Colour:
        """The surface colour of one pixel."""
        r, g, b = (float(v) for v in self.albedo[y, x])
        return r, g, b

    def lay(
        self,
        cover: Floats,
        colour: Floats | Colour | None = None,
        raised: Floats | float | None = None,
        gloss: float | None = None,
    ) -> None:
        """Blend colour and gloss over the scene where `cover` (H, W) is 1, and raise the surface there."""
        if colour is not None:
            self.albedo += cover[..., None] * (np.asarray(colour, dtype=np.float32) - self.albedo)
        if raised is not None:
            self.height += cover * raised
        if gloss is not None:
            self.gloss += cover * (gloss - self.gloss)

    def stamp(
        self,
        at: Spot,
        outline: Outline,
        colour: Colour | None = None,
        *,
        raised: float = 0.0,
        bevel: float = 2.0,
        dome: float = 0.0,
        gloss: float | None = None,
        alpha: float | None = None,
    ) -> Patch | None:
        """Lay an element on the scene, anti-aliased; None when it lies outside.

        The surface rises by `raised` over `bevel` pixels from the edge, and as an ellipse of height `dome`
        over the element's depth. `alpha` makes the place part (1) or backdrop (0).
        """
        # 1. The window around the element.
        h, w = self.height.shape
        # Beyond a corner the distance of a polygon grows half as fast, so the slope ends a whole bevel away.
        reach = outline.reach + (bevel if raised else 0.0)
        x0, x1 = max(0, int(at.x - reach - 1)), min(w, int(at.x + reach + 2))
        y0, y1 = max(0, int(at.y - reach - 1)), min(h, int(at.y + reach + 2))
        if x0 >= x1 or y0 >= y1:
            return None
        window = (slice(y0, y1), slice(x0, x1))
        # 2. Its local coordinates, the distance from the outline, and how much is covered.
        dx = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - at.x)
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - at.y)
        c, s = np.float32(np.cos(at.angle)), np.float32(np.sin(at.angle))
        x, y = dx * c + dy * s, dy * c - dx * s
        distance = outline.distance(x, y)
        cover = np.clip(np.float32(0.5) - distance, 0, 1)
        # 3. Colour, relief, gloss and what is part.
        if colour is not None:
            albedo = self.albedo[window]
            albedo += cover[..., None] * (np.asarray(colour, dtype=np.float32) - albedo)
        if raised:
            self.height[window] += np.float32(raised) * np.clip(-distance / np.float32(bevel) + 0.5, 0, 1)
        if dome:
            depth = np.float32(max(1.0, float(-distance.min())))
            from_middle = np.clip(1 + distance / depth, 0, 1)
            self.height[window] += np.float32(dome) * np.sqrt(np.clip(1 - from_middle**2, 0, 1))
        for plane, value in ((self.gloss, gloss), (self.alpha, alpha)):
            if value is not None:
                plane[window] += cover * (np.float32(value) - plane[window])
        return Patch(window, cover, x, y, distance)


@dataclass
class Kit:
    """All a painter may use."""

    size_wh: tuple[int, int]
    design: Generator
    """Draws what a reference image shares: colours, shapes, numbers."""
    pose: Generator
    """Draws where the part lies."""
    grain: Generator
    """Draws the grain of materials."""
    edit: Edit | None = None
    """The logical defect to apply; None = a good part."""
    xx: Floats = field(init=False)
    yy: Floats = field(init=False)
    """(H, W) each, the coordinates of the pixels' centres."""

    def __post_init__(self) -> None:
        w, h = self.size_wh
        self.xx = np.broadcast_to(np.arange(w, dtype=np.float32) + 0.5, (h, w))
        self.yy = np.broadcast_to((np.arange(h, dtype=np.float32) + 0.5)[:, None], (h, w))

    @property
    def unit(self) -> float:
        """The shorter side, pixels."""
        return float(min(self.size_wh))

    @property
    def s(self) -> float:
        """Scale of details: 1 at 224 pixels."""
        return self.unit / 224

    def pick(self, *options: str) -> str:
        """One of the options, a choice of the design."""
        return pick(self.design, *options)

    def shifted(self, colour: Colour, spread: float = 0.04) -> Colour:
        """A colour like this one, a choice of the design."""
        bright, offset = self.design.uniform(0.9, 1.1), self.design.uniform(-spread, spread, 3)
        r, g, b = np.clip(np.array(colour) * bright + offset, 0.02, 0.98)
        return float(r), float(g), float(b)

    def blank(self, colour: Colour, gloss: float = 0.05, alpha: float = 1.0) -> Scene:
        """A flat scene of one colour."""
        w, h = self.size_wh
        albedo = np.empty((h, w, 3), np.float32)
        albedo[:] = colour
        planes = (np.full((h, w), value, np.float32) for value in (0, gloss, alpha))
        return Scene(albedo, *planes)

    def backdrop(self, *names: str) -> Scene:
        """The table, mat or belt that an object lies on; `names` restricts its colour."""
        colour = MATS[self.pick(*(names or MATS))]
        scene = self.blank(self.shifted(colour, 0.02), 0.04, 0.0)
        scene.albedo *= (1 + 0.035 * self.noise(4) + 0.02 * self.noise(self.unit / 3))[..., None]
        return scene

    def rotated(self, angle: float, cx: float = 0.0, cy: float = 0.0) -> tuple[Floats, Floats]:
        """Coordinates of every pixel in a frame turned by `angle` (radians) about (cx, cy)."""
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        x, y = self.xx - np.float32(cx), self.yy - np.float32(cy)
        return x * c + y * s, y * c - x * s

    def centre(self, shift: float = 0.05) -> tuple[float, float]:
        """Where an object lies: near the middle, moved by at most `shift` of the unit."""
        dx, dy = self.pose.uniform(-shift, shift, 2) * self.unit
        return self.size_wh[0] / 2 + float(dx), self.size_wh[1] / 2 + float(dy)

    def noise(self, cells: float) -> Floats:
        """Smooth noise (H, W), mean 0 and deviation about 1, `cells` bumps along the shorter side."""
        w, h = self.size_wh
        n = max(2, round(cells * h / self.unit)), max(2, round(cells * w / self.unit))
        grid = self.grain.standard_normal(n, dtype=np.float32)
        return np.asarray(cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC), dtype=np.float32)

    def streaks(self, angle: float, fineness: float, length: float) -> Floats:
        """Noise (H, W) stretched along `angle`: `fineness` streaks a pixel across, `length` pixels long."""
        w, h = self.size_wh
        side = int(np.hypot(w, h)) + 2
        n = max(2, int(side * fineness)), max(2, int(side / length) + 2)
        interpolation = cv2.INTER_CUBIC if fineness < 0.1 else cv2.INTER_LINEAR
        grid = self.grain.standard_normal(n, dtype=np.float32)
        streaks = cv2.resize(grid, (side, side), interpolation=interpolation)
        if abs(angle) < 1e-3:
            return np.asarray(streaks[:h, :w], dtype=np.float32)
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), -np.degrees(angle), 1.0)
        turn[:, 2] -= (side - w) / 2, (side - h) / 2
        streaks = cv2.warpAffine(streaks, turn, (w, h), borderMode=cv2.BORDER_REFLECT)
        return np.asarray(streaks, dtype=np.float32)

    def count(self, n: int, name: str, step: int = 1) -> int:
        """`n`, or `step` more or fewer when the edit is "wrong count"; `name` is the plural."""
        if self.edit is None or self.edit.kind != "wrong count":
            return n
        too_many = bool(self.edit.rng.random() < 0.5)
        self.edit.note = f"too {'many' if too_many else 'few'} {name}"
        return n + step if too_many else n - step

    def arranged(
        self, spots: list[Spot], names: tuple[str, ...], reach: float, free: tuple[Spot, ...] = ()
    ) -> list[Spot]:
        """The elements of a part after the edit: one missing, moved by `reach`, or added at a `free` spot.

        `names[spot.style % len(names)]` says what an element is called in the edit's note.
        """
        edit, spots = self.edit, list(spots)
        if edit is None or edit.kind not in ("missing part", "misplaced part", "extra part"):
            return spots
        if edit.kind == "extra part":
            spot = free[int(edit.rng.integers(len(free)))]
            spots.append(spot)
        else:
            spot = spots.pop(int(edit.rng.integers(len(spots))))
        if edit.kind == "misplaced part":
            way = edit.rng.uniform(0, 2 * np.pi)
            turn = edit.rng.choice([-1, 1]) * edit.rng.uniform(0.3, 0.7)
            x, y = spot.x + reach * np.cos(way), spot.y + reach * np.sin(way)
            spots.append(spot._replace(x=x, y=y, angle=spot.angle + turn))
        edit.note = f"{edit.kind.split()[0]} {names[spot.style % len(names)]}"
        return spots


def pick(rng: Generator, *options: str) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def rgb(*values: float) -> Colour:
    """A colour from 0..255 values."""
    return (values[0] / 255, values[1] / 255, values[2] / 255)


PAINT: dict[str, Colour] = {
    "red": rgb(190, 45, 45), "orange": rgb(225, 125, 40), "yellow": rgb(228, 196, 60),
    "green": rgb(50, 140, 75), "blue": rgb(45, 85, 175), "white": rgb(232, 232, 228),
    "gray": rgb(135, 138, 142), "black": rgb(38, 38, 42), "brown": rgb(112, 72, 45),
    "beige": rgb(205, 185, 150),
}  # fmt: skip
METAL: dict[str, Colour] = {
    "silver": rgb(176, 179, 184),
    "gold": rgb(204, 168, 92),
    "copper": rgb(196, 122, 84),
    "dark gray": rgb(104, 107, 112),
}
MATS: dict[str, Colour] = {
    "dark": rgb(42, 44, 48), "light": rgb(212, 213, 210), "blue": rgb(62, 84, 112),
    "sand": rgb(168, 156, 136), "gray": rgb(110, 112, 114),
}  # fmt: skip
"""Colours of what an object may lie on."""


def dimmed(colour: Colour, factor: float) -> Colour:
    """A colour times a factor, at most 1 a channel."""
    r, g, b = (min(1.0, v * factor) for v in colour)
    return r, g, b


def circle(radius: float) -> Outline:
    """A disc."""
    return Outline(lambda x, y: np.sqrt(x * x + y * y) - np.float32(radius), radius)


def ring(inner: float, outer: float) -> Outline:
    """A flat ring."""
    middle, half = np.float32((inner + outer) / 2), np.float32((outer - inner) / 2)
    return Outline(lambda x, y: np.abs(np.sqrt(x * x + y * y) - middle) - half, outer)


def block(half_w: float, half_h: float, corner: float = 0.0) -> Outline:
    """A rectangle with rounded corners."""

    def distance(x: Floats, y: Floats) -> Floats:
        qx, qy = np.abs(x) - np.float32(half_w - corner), np.abs(y) - np.float32(half_h - corner)
        outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2)
        inside: Floats = outside + np.minimum(np.maximum(qx, qy), 0) - np.float32(corner)
        return inside

    return Outline(distance, math.hypot(half_w, half_h))


def pill(half_length: float, radius: float) -> Outline:
    """A rectangle with round ends along x; `half_length` is that of its axis."""

    def distance(x: Floats, y: Floats) -> Floats:
        beyond = np.maximum(np.abs(x) - np.float32(half_length), 0)
        to_edge: Floats = np.sqrt(beyond**2 + y * y) - np.float32(radius)
        return to_edge

    return Outline(distance, half_length + radius)


def grid_spots(middle: Spot, columns_rows: tuple[int, int], step_xy: tuple[float, float]) -> list[Spot]:
    """Spots in rows and columns around a middle, turned as it is; row by row."""
    (columns, rows), (step_x, step_y), angle = columns_rows, step_xy, middle.angle
    spots = []
    for row in range(rows):
        for column in range(columns):
            x, y = (column - (columns - 1) / 2) * step_x, (row - (rows - 1) / 2) * step_y
            spot_x = middle.x + x * np.cos(angle) - y * np.sin(angle)
            spot_y = middle.y + x * np.sin(angle) + y * np.cos(angle)
            spots.append(Spot(spot_x, spot_y, angle))
    return spots
