"""The painter of parts that belong to no category: another body, surface and arrangement of elements for every design.

A policy that knows twelve categories takes whatever is new to it for a defect; one that has seen thousands of
designs has to ask what is out of order within the one before it. Nothing of the development and final
categories is drawn here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anomalyr1.drawn.record import Facts
from anomalyr1.drawn.scene import (
    METAL,
    PAINT,
    Colour,
    Floats,
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
    ring,
    shifted,
    stamp,
)
from anomalyr1.drawn.words import MATERIAL, UNFAMILIAR

COLOURS = {**PAINT, **METAL}
ELEMENTS = {"disc": "discs", "ring": "rings", "block": "blocks", "bar": "bars", "stud": "studs"}
"""Names of elements, one and many."""
BARE = 0.25
"""Share of designs without elements."""
UNLIKE = 0.2
"""Least distance of the elements' colour from the body's, in the channel that tells them best apart."""
OF_SURFACE = 0.4
"""Share of designs that fill the image."""


def unfamiliar_part(kit: Kit) -> tuple[Scene, Facts]:
    """A body or a surface of a random texture, mostly with elements in rows, on a circle, or anywhere."""
    rng = kit.design
    name = pick(rng, *COLOURS)
    colour = shifted(rng, COLOURS[name], 0.05)
    surface = bool(rng.random() < OF_SURFACE)
    cx, cy = kit.centre()
    angle = (
        kit.pose.uniform(-0.12, 0.12)
        if surface
        else float(rng.uniform(0, 2 * np.pi)) + kit.pose.uniform(-0.3, 0.3)
    )
    at = Spot(cx, cy, angle)
    reach = 0.42 * kit.unit
    if surface:
        scene, shape = blank(kit, colour, float(rng.uniform(0.03, 0.4))), "flat surface"
        reach = 0.5 * float(np.hypot(*kit.size_wh)) * 0.6
    else:
        scene, gloss = backdrop(kit), float(rng.uniform(0.03, 0.6))
        shape, outline = _body(kit, reach)
        stamp(
            scene, at, 1.6 * reach, outline, colour, raised=float(rng.uniform(1, 5)) * kit.s, bevel=float(rng.uniform(2, 9)) * kit.s,
            gloss=gloss, alpha=1.0,
        )  # fmt: skip
        for inset in np.sort(rng.uniform(0.1, 0.5, int(rng.integers(0, 3)))):
            _step(kit, scene, at, outline, float(inset) * reach, shifted(rng, colour, 0.12))
    _texture(kit, scene, angle)
    if rng.random() < BARE:
        return scene, Facts(MATERIAL[UNFAMILIAR], name, shape)
    count, layout = _elements(kit, scene, at, reach * (1.0 if surface else 0.62), colour)
    return scene, Facts(MATERIAL[UNFAMILIAR], name, shape, count, layout)


def _step(kit: Kit, scene: Scene, at: Spot, outline: Shape, inset: float, colour: Colour) -> None:
    """A border, step or groove along the body's outline."""
    depth, wide = float(kit.design.uniform(-3, 3)) * kit.s, float(kit.design.uniform(1, 5)) * kit.s
    line = bool(kit.design.random() < 0.5)

    def shape(x: Floats, y: Floats) -> Floats:
        inner = outline(x, y) + np.float32(inset)
        return np.asarray(np.abs(inner) - np.float32(wide) if line else inner, dtype=np.float32)

    stamp(
        scene,
        at,
        0.75 * kit.unit,
        shape,
        colour if kit.design.random() < 0.6 else None,
        raised=depth,
        bevel=2 * kit.s,
    )


def _body(kit: Kit, reach: float) -> tuple[str, Shape]:
    """A name, and an outline of about the radius `reach`."""
    rng = kit.design
    form = int(rng.integers(6))
    if form == 0:
        return "round", circle(reach)
    if form == 1:
        half_w, half_h = reach * float(rng.uniform(0.75, 1)), reach * float(rng.uniform(0.45, 0.9))
        return "rectangle", block(half_w, half_h, reach * float(rng.uniform(0, 0.35)))
    if form == 2:
        radius = reach * float(rng.uniform(0.3, 0.5))
        return "long with round ends", pill(reach - radius, radius)
    if form == 3:
        sides = int(rng.integers(3, 9))
        return "polygon", _polygon(reach, sides)
    if form == 4:
        lobes, depth, steep = (
            int(rng.integers(3, 8)),
            float(rng.uniform(0.06, 0.22)),
            float(rng.uniform(0.5, 3)),
        )
        return "lobed outline", _lobed(reach * 0.85, lobes, depth, steep)
    half, arm = reach * 0.95, reach * float(rng.uniform(0.3, 0.5))
    one, two = block(half, arm, 2), block(arm, half * float(rng.uniform(0.7, 1)), 2)
    return "cross", lambda x, y: np.minimum(one(x, y), two(x, y))


def _polygon(radius: float, sides: int) -> Shape:
    turns = np.arange(sides) * 2 * np.pi / sides
    inner = np.float32(radius * np.cos(np.pi / sides))

    def distance(x: Floats, y: Floats) -> Floats:
        far = np.stack([x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn)) for turn in turns]).max(0)
        return np.asarray(far - inner, dtype=np.float32)

    return distance


def _lobed(radius: float, lobes: int, depth: float, steep: float) -> Shape:
    def distance(x: Floats, y: Floats) -> Floats:
        wave = np.tanh(steep * np.sin(lobes * np.arctan2(y, x)))
        return np.asarray(
            np.sqrt(x * x + y * y) - np.float32(radius) * (1 + np.float32(depth) * wave), dtype=np.float32
        )

    return distance


def _texture(kit: Kit, scene: Scene, angle: float) -> None:
    """One or two layers of tone and relief on the part."""
    scene.albedo *= (1 + scene.alpha * (0.02 * kit.noise(4) + 0.02 * kit.noise(kit.unit / 2)))[..., None]
    for layer in kit.design.permutation(len(_LAYERS))[: int(kit.design.integers(0, 3))]:
        tone, height = _LAYERS[int(layer)](kit, angle)
        scene.albedo *= np.clip(1 + scene.alpha * tone, 0.2, 1.8)[..., None]
        scene.height += scene.alpha * height


def _clouds(kit: Kit, _: float) -> tuple[Floats, Floats]:
    cells = float(kit.design.uniform(3, 20))
    noise = kit.noise(cells)
    return np.float32(kit.design.uniform(0.03, 0.12)) * noise, np.float32(kit.design.uniform(0, 2)) * noise


def _blotches(kit: Kit, _: float) -> tuple[Floats, Floats]:
    noise = np.tanh(
        np.float32(kit.design.uniform(2, 6)) * (kit.noise(float(kit.design.uniform(4, 24))) - np.float32(0.5))
    )
    return np.float32(kit.design.uniform(-0.14, 0.14)) * noise, np.float32(kit.design.uniform(0, 1)) * noise


def _specks(kit: Kit, _: float) -> tuple[Floats, Floats]:
    dots = np.clip(
        (kit.noise(kit.unit / float(kit.design.uniform(2.5, 6))) - np.float32(kit.design.uniform(0.8, 1.6)))
        * 2,
        0,
        1,
    )
    return np.float32(kit.design.choice([-0.35, 0.3])) * dots, np.float32(kit.design.uniform(0, 0.6)) * dots


def _streaks(kit: Kit, angle: float) -> tuple[Floats, Floats]:
    fine, long = float(kit.design.uniform(0.15, 0.9)), float(kit.design.uniform(15, 120))
    noise = kit.streaks(angle, fine, long * kit.s)
    return np.float32(kit.design.uniform(0.03, 0.1)) * noise, np.float32(kit.design.uniform(0, 0.4)) * noise


def _grooves(kit: Kit, angle: float) -> tuple[Floats, Floats]:
    turn, pitch = (
        angle + float(kit.design.choice([0, np.pi / 4, np.pi / 2])),
        float(kit.design.uniform(7, 40)) * kit.s,
    )
    x, _ = kit.rotated(turn, kit.size_wh[0] / 2, kit.size_wh[1] / 2)
    steep, level = (np.float32(kit.design.uniform(*some)) for some in ((0.5, 4), (-0.8, 0.8)))
    wave = np.tanh(steep * (np.sin(x * np.float32(2 * np.pi / pitch)) - level))
    return np.float32(kit.design.uniform(-0.15, 0.15)) * wave, np.float32(
        kit.design.uniform(0, 1.5) * kit.s
    ) * wave


def _crossed(kit: Kit, angle: float) -> tuple[Floats, Floats]:
    pitch, slant = float(kit.design.uniform(8, 26)) * kit.s, float(kit.design.uniform(0.3, 0.6))
    u, _ = kit.rotated(angle + slant, kit.size_wh[0] / 2, kit.size_wh[1] / 2)
    v, _ = kit.rotated(angle - slant, kit.size_wh[0] / 2, kit.size_wh[1] / 2)
    wave = np.sin(u * np.float32(2 * np.pi / pitch)) * np.sin(v * np.float32(2 * np.pi / pitch))
    return np.float32(kit.design.uniform(-0.12, 0.12)) * wave, np.float32(
        kit.design.uniform(0, 1) * kit.s
    ) * wave


_LAYERS: tuple[Callable[[Kit, float], tuple[Floats, Floats]], ...] = (
    _clouds,
    _blotches,
    _specks,
    _streaks,
    _grooves,
    _crossed,
)


def _elements(kit: Kit, scene: Scene, at: Spot, reach: float, ground: Colour) -> tuple[tuple[str, int], str]:
    """Lay the elements on the part within `reach` of its middle; gives their name and number, and what a good part has."""
    rng = kit.design
    kind = pick(rng, *ELEMENTS)
    many = ELEMENTS[kind]
    way = pick(rng, "in a row", "on a circle", "in rows", "at fixed places")
    n = int(rng.integers(3, 9))
    size = (
        reach * {"in a row": 0.75 / n, "on a circle": 1.3 / n, "in rows": 0.2, "at fixed places": 0.13}[way]
    )
    size = float(np.clip(size * rng.uniform(0.75, 1), 3.5 * kit.s, 0.22 * reach))
    places, said = _places(kit, way, n, reach, size, many)
    free = tuple(Spot(float(x), float(y)) for x, y in 0.8 * reach * rng.uniform(-1, 1, (6, 2)))
    free = tuple(
        one for one in free if all(np.hypot(one.x - p.x, one.y - p.y) > 2.4 * size for p in places)
    ) or (Spot(0, 0.95 * reach),)
    spots = kit.arranged(places, (kind,), 1.2 * size, free)
    unlike = [
        name
        for name, colour in COLOURS.items()
        if max(abs(a - b) for a, b in zip(colour, ground, strict=True)) > UNLIKE
    ]
    colour = shifted(rng, COLOURS[pick(rng, *unlike)], 0.05)
    look = {
        "raised": float(rng.uniform(-3, 4)) * kit.s, "bevel": float(rng.uniform(1.5, 4)) * kit.s,
        "dome": float(rng.choice([0, rng.uniform(1, 5)])) * kit.s, "gloss": float(rng.uniform(0, 0.7)),
    }  # fmt: skip
    shapes = _element(rng, kind, size, colour)
    c, s = np.cos(at.angle), np.sin(at.angle)
    for spot in spots:
        there = Spot(at.x + spot.x * c - spot.y * s, at.y + spot.x * s + spot.y * c, at.angle + spot.angle)
        for shape, paint in shapes:
            stamp(scene, there, 2 * size, shape, paint, **look)
    return (many, len(places)), said


def _element(rng: np.random.Generator, kind: str, size: float, colour: Colour) -> list[tuple[Shape, Colour]]:
    """The shapes of one element, the lowest first."""
    if kind == "disc":
        return [(circle(size), colour)]
    if kind == "ring":
        return [(ring(size * float(rng.uniform(0.4, 0.7)), size), colour)]
    if kind == "block":
        return [(block(size, size * float(rng.uniform(0.5, 1)), size * float(rng.uniform(0, 0.4))), colour)]
    if kind == "bar":
        return [(pill(size * 0.8, size * float(rng.uniform(0.25, 0.4))), colour)]
    return [(circle(size), colour), (circle(size * 0.45), dimmed(colour, float(rng.choice([0.4, 1.6]))))]


def _places(kit: Kit, way: str, n: int, reach: float, size: float, many: str) -> tuple[list[Spot], str]:
    """Where elements sit, in the part's own frame, and a sentence about it; the number is another one where the edit says so."""
    rng = kit.design
    if way == "in a row":
        shown = kit.count(n, many)
        step = 1.6 * reach / n
        return [
            Spot((k - (n - 1) / 2) * step, 0.0) for k in range(shown)
        ], f"A good one has {n} {many} {way} at equal distances."
    if way == "on a circle":
        shown, radius = kit.count(n, many), reach * float(rng.uniform(0.6, 0.85))
        turns = np.arange(shown) * 2 * np.pi / shown
        spots = [Spot(radius * float(np.cos(t)), radius * float(np.sin(t)), float(t)) for t in turns]
        return spots, f"A good one has {n} {many} {way} at equal distances."
    if way == "in rows":
        columns, rows = int(rng.integers(2, 6)), int(rng.integers(2, 5))
        shown = kit.count(columns, many)
        step_x, step_y = max(2.3 * size, 1.5 * reach / columns), max(2.3 * size, 1.2 * reach / rows)
        grid = [
            ((c - (columns - 1) / 2) * step_x, (r - (rows - 1) / 2) * step_y)
            for r in range(rows)
            for c in range(shown)
        ]
        return [
            Spot(x, y) for x, y in grid
        ], f"A good one has {rows} rows of {columns} {many}, all places filled."
    found: list[Spot] = []
    for x, y, turn in zip(
        *(0.85 * reach * rng.uniform(-1, 1, (2, 60))), rng.uniform(0, np.pi, 60), strict=True
    ):
        if len(found) < n and all(np.hypot(x - p.x, y - p.y) > 2.6 * size for p in found):
            found.append(Spot(float(x), float(y), float(turn)))
    shown = kit.count(len(found), many)
    if shown > len(found):
        found.append(Spot(found[0].x + 2.2 * size, found[0].y, found[0].angle))
    return found[:shown], f"A good one has {n} {many} {way}."
