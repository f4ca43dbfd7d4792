"""The painter of parts that belong to no category: body, surface and elements differ from design to design.

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
    Outline,
    Scene,
    Spot,
    block,
    circle,
    dimmed,
    pill,
    ring,
)
from anomalyr1.drawn.words import MATERIAL, UNFAMILIAR

COLOURS = {**PAINT, **METAL}
ELEMENTS = {"disc": "discs", "ring": "rings", "block": "blocks", "bar": "bars", "stud": "studs"}
"""Name of an element -> its plural."""
BARE = 0.25
"""Share of designs without elements."""
UNLIKE = 0.2
"""Least distance of the elements' colour from the body's, in the channel that tells them best apart."""
SURFACES = 0.4
"""Share of designs that fill the image."""


def unfamiliar_part(kit: Kit) -> tuple[Scene, Facts]:
    """A body or a surface of a random texture, mostly with elements in rows, on a circle, or anywhere."""
    rng = kit.design
    name = kit.pick(*COLOURS)
    colour = kit.shifted(COLOURS[name], 0.05)
    is_surface = bool(rng.random() < SURFACES)
    cx, cy = kit.centre()
    # 1. A surface that fills the image, or a body on a backdrop.
    if is_surface:
        angle = kit.pose.uniform(-0.12, 0.12)
        at, reach = Spot(cx, cy, angle), 0.5 * float(np.hypot(*kit.size_wh)) * 0.6
        scene, shape = kit.blank(colour, float(rng.uniform(0.03, 0.4))), "flat surface"
    else:
        angle = float(rng.uniform(0, 2 * np.pi)) + kit.pose.uniform(-0.3, 0.3)
        at, reach = Spot(cx, cy, angle), 0.42 * kit.unit
        scene, gloss = kit.backdrop(), float(rng.uniform(0.03, 0.6))
        shape, outline = _body(kit, reach)
        raised, bevel = float(rng.uniform(1, 5)) * kit.s, float(rng.uniform(2, 9)) * kit.s
        scene.stamp(at, outline, colour, raised=raised, bevel=bevel, gloss=gloss, alpha=1.0)
        for inset in np.sort(rng.uniform(0.1, 0.5, int(rng.integers(0, 3)))):
            _step(kit, scene, at, outline, float(inset) * reach, kit.shifted(colour, 0.12))
        reach *= 0.62  # for the elements
    # 2. Its texture.
    _texture(kit, scene, angle)
    # 3. Its elements.
    if rng.random() < BARE:
        return scene, Facts(MATERIAL[UNFAMILIAR], name, shape)
    count, layout = _elements(kit, scene, at, reach, colour)
    return scene, Facts(MATERIAL[UNFAMILIAR], name, shape, count, layout)


def _step(kit: Kit, scene: Scene, at: Spot, outline: Outline, inset: float, colour: Colour) -> None:
    """A border, step or groove along the body's outline."""
    depth, half_width = float(kit.design.uniform(-3, 3)) * kit.s, float(kit.design.uniform(1, 5)) * kit.s
    is_groove, is_painted = bool(kit.design.random() < 0.5), bool(kit.design.random() < 0.6)

    def distance(x: Floats, y: Floats) -> Floats:
        inner = outline.distance(x, y) + np.float32(inset)
        if is_groove:
            inner = np.abs(inner) - np.float32(half_width)
        return np.asarray(inner, dtype=np.float32)

    step = Outline(distance, 0.75 * kit.unit)
    scene.stamp(at, step, colour if is_painted else None, raised=depth, bevel=2 * kit.s)


def _body(kit: Kit, reach: float) -> tuple[str, Outline]:
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
        return "polygon", _polygon(reach, int(rng.integers(3, 9)))
    if form == 4:
        lobes, depth = int(rng.integers(3, 8)), float(rng.uniform(0.06, 0.22))
        return "lobed outline", _lobed(reach * 0.85, lobes, depth, float(rng.uniform(0.5, 3)))
    half, arm = reach * 0.95, reach * float(rng.uniform(0.3, 0.5))
    across, along = block(half, arm, 2), block(arm, half * float(rng.uniform(0.7, 1)), 2)
    return "cross", Outline(
        lambda x, y: np.minimum(across.distance(x, y), along.distance(x, y)), max(across.reach, along.reach)
    )


def _polygon(radius: float, sides: int) -> Outline:
    """A regular polygon with its corners at `radius`."""
    turns = np.arange(sides) * 2 * np.pi / sides
    inner = np.float32(radius * np.cos(np.pi / sides))

    def distance(x: Floats, y: Floats) -> Floats:
        far = np.stack([x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn)) for turn in turns]).max(0)
        return np.asarray(far - inner, dtype=np.float32)

    return Outline(distance, radius)


def _lobed(radius: float, lobes: int, depth: float, steep: float) -> Outline:
    """A disc whose edge swings in and out by a share `depth` of its radius."""

    def distance(x: Floats, y: Floats) -> Floats:
        wave = np.tanh(steep * np.sin(lobes * np.arctan2(y, x)))
        edge = np.float32(radius) * (1 + np.float32(depth) * wave)
        return np.asarray(np.sqrt(x * x + y * y) - edge, dtype=np.float32)

    return Outline(distance, radius * (1 + depth))


def _texture(kit: Kit, scene: Scene, angle: float) -> None:
    """One or two layers of tone and relief on the part."""
    scene.albedo *= (1 + scene.alpha * (0.02 * kit.noise(4) + 0.02 * kit.noise(kit.unit / 2)))[..., None]
    for layer in kit.design.permutation(len(_LAYERS))[: int(kit.design.integers(0, 3))]:
        tone, height = _LAYERS[int(layer)](kit, angle)
        scene.albedo *= np.clip(1 + scene.alpha * tone, 0.2, 1.8)[..., None]
        scene.height += scene.alpha * height


def _clouds(kit: Kit, _: float) -> tuple[Floats, Floats]:
    noise = kit.noise(float(kit.design.uniform(3, 20)))
    return np.float32(kit.design.uniform(0.03, 0.12)) * noise, np.float32(kit.design.uniform(0, 2)) * noise


def _blotches(kit: Kit, _: float) -> tuple[Floats, Floats]:
    steep = np.float32(kit.design.uniform(2, 6))
    noise = np.tanh(steep * (kit.noise(float(kit.design.uniform(4, 24))) - np.float32(0.5)))
    return np.float32(kit.design.uniform(-0.14, 0.14)) * noise, np.float32(kit.design.uniform(0, 1)) * noise


def _specks(kit: Kit, _: float) -> tuple[Floats, Floats]:
    noise = kit.noise(kit.unit / float(kit.design.uniform(2.5, 6)))
    dots = np.clip((noise - np.float32(kit.design.uniform(0.8, 1.6))) * 2, 0, 1)
    return np.float32(kit.design.choice([-0.35, 0.3])) * dots, np.float32(kit.design.uniform(0, 0.6)) * dots


def _streaks(kit: Kit, angle: float) -> tuple[Floats, Floats]:
    fine, long = float(kit.design.uniform(0.15, 0.9)), float(kit.design.uniform(15, 120))
    noise = kit.streaks(angle, fine, long * kit.s)
    return np.float32(kit.design.uniform(0.03, 0.1)) * noise, np.float32(kit.design.uniform(0, 0.4)) * noise


def _grooves(kit: Kit, angle: float) -> tuple[Floats, Floats]:
    turn = angle + float(kit.design.choice([0, np.pi / 4, np.pi / 2]))
    pitch = float(kit.design.uniform(7, 40)) * kit.s
    x, _ = kit.rotated(turn, kit.size_wh[0] / 2, kit.size_wh[1] / 2)
    steep, level = np.float32(kit.design.uniform(0.5, 4)), np.float32(kit.design.uniform(-0.8, 0.8))
    wave = np.tanh(steep * (np.sin(x * np.float32(2 * np.pi / pitch)) - level))
    tone = np.float32(kit.design.uniform(-0.15, 0.15)) * wave
    return tone, np.float32(kit.design.uniform(0, 1.5) * kit.s) * wave


def _crossed(kit: Kit, angle: float) -> tuple[Floats, Floats]:
    pitch, slant = float(kit.design.uniform(8, 26)) * kit.s, float(kit.design.uniform(0.3, 0.6))
    u, _ = kit.rotated(angle + slant, kit.size_wh[0] / 2, kit.size_wh[1] / 2)
    v, _ = kit.rotated(angle - slant, kit.size_wh[0] / 2, kit.size_wh[1] / 2)
    wave = np.sin(u * np.float32(2 * np.pi / pitch)) * np.sin(v * np.float32(2 * np.pi / pitch))
    tone = np.float32(kit.design.uniform(-0.12, 0.12)) * wave
    return tone, np.float32(kit.design.uniform(0, 1) * kit.s) * wave


_LAYERS: tuple[Callable[[Kit, float], tuple[Floats, Floats]], ...] = (
    _clouds,
    _blotches,
    _specks,
    _streaks,
    _grooves,
    _crossed,
)
"""What a texture is made of: angle of the part -> tone and relief, both (H, W)."""


def _elements(kit: Kit, scene: Scene, at: Spot, reach: float, ground: Colour) -> tuple[tuple[str, int], str]:
    """Lay the elements on the part within `reach` of its middle.

    Returns their name and number, and what a good part has.
    """
    rng = kit.design
    # 1. What they are, how many, how large, and where they sit.
    kind = kit.pick(*ELEMENTS)
    plural = ELEMENTS[kind]
    way = kit.pick("in a row", "on a circle", "in rows", "at fixed places")
    n = int(rng.integers(3, 9))
    size = (
        reach * {"in a row": 0.75 / n, "on a circle": 1.3 / n, "in rows": 0.2, "at fixed places": 0.13}[way]
    )
    size = float(np.clip(size * rng.uniform(0.75, 1), 3.5 * kit.s, 0.22 * reach))
    places, layout = _places(kit, way, n, reach, size, plural)
    # 2. What the edit does to them; free places are those that no element touches.
    candidates = [Spot(float(x), float(y)) for x, y in 0.8 * reach * rng.uniform(-1, 1, (6, 2))]
    free = tuple(spot for spot in candidates if _is_clear(spot, places, 2.4 * size))
    spots = kit.arranged(places, (kind,), 1.2 * size, free or (Spot(0, 0.95 * reach),))
    # 3. A colour that stands out, and how they are raised.
    contrasting = [name for name, colour in COLOURS.items() if _colour_distance(colour, ground) > UNLIKE]
    colour = kit.shifted(COLOURS[kit.pick(*contrasting)], 0.05)
    raised, bevel = float(rng.uniform(-3, 4)) * kit.s, float(rng.uniform(1.5, 4)) * kit.s
    dome, gloss = float(rng.choice([0, rng.uniform(1, 5)])) * kit.s, float(rng.uniform(0, 0.7))
    outlines = _element(rng, kind, size, colour)
    # 4. Stamp them, from the part's frame into the image.
    c, s = np.cos(at.angle), np.sin(at.angle)
    for spot in spots:
        x, y = at.x + spot.x * c - spot.y * s, at.y + spot.x * s + spot.y * c
        for outline, paint in outlines:
            turned = Spot(x, y, at.angle + spot.angle)
            scene.stamp(turned, outline, paint, raised=raised, bevel=bevel, dome=dome, gloss=gloss)
    return (plural, len(places)), layout


def _is_clear(spot: Spot, places: list[Spot], least: float) -> bool:
    """Whether a spot is farther than `least` from all places."""
    return all(np.hypot(spot.x - place.x, spot.y - place.y) > least for place in places)


def _colour_distance(colour: Colour, ground: Colour) -> float:
    """The difference in the channel that tells two colours best apart."""
    return max(abs(a - b) for a, b in zip(colour, ground, strict=True))


def _element(
    rng: np.random.Generator, kind: str, size: float, colour: Colour
) -> list[tuple[Outline, Colour]]:
    """The outlines of an element, the lowest first."""
    if kind == "disc":
        return [(circle(size), colour)]
    if kind == "ring":
        return [(ring(size * float(rng.uniform(0.4, 0.7)), size), colour)]
    if kind == "block":
        return [(block(size, size * float(rng.uniform(0.5, 1)), size * float(rng.uniform(0, 0.4))), colour)]
    if kind == "bar":
        return [(pill(size * 0.8, size * float(rng.uniform(0.25, 0.4))), colour)]
    return [(circle(size), colour), (circle(size * 0.45), dimmed(colour, float(rng.choice([0.4, 1.6]))))]


def _places(kit: Kit, way: str, n: int, reach: float, size: float, plural: str) -> tuple[list[Spot], str]:
    """Where elements sit, in the part's own frame, and a sentence about it.

    Their number is another one where the edit says so.
    """
    rng, layout = kit.design, f"A good one has {n} {plural} {way}"
    if way == "in a row":
        count, step = kit.count(n, plural), 1.6 * reach / n
        return [Spot((k - (n - 1) / 2) * step, 0.0) for k in range(count)], f"{layout} at equal distances."
    if way == "on a circle":
        count, radius = kit.count(n, plural), reach * float(rng.uniform(0.6, 0.85))
        turns = np.arange(count) * 2 * np.pi / count
        spots = [Spot(radius * float(np.cos(t)), radius * float(np.sin(t)), float(t)) for t in turns]
        return spots, f"{layout} at equal distances."
    if way == "in rows":
        columns, rows = int(rng.integers(2, 6)), int(rng.integers(2, 5))
        count = kit.count(columns, plural)
        step_x, step_y = max(2.3 * size, 1.5 * reach / columns), max(2.3 * size, 1.2 * reach / rows)
        xs = [(column - (columns - 1) / 2) * step_x for column in range(count)]
        ys = [(row - (rows - 1) / 2) * step_y for row in range(rows)]
        spots = [Spot(x, y) for y in ys for x in xs]
        return spots, f"A good one has {rows} rows of {columns} {plural}, all places filled."
    # At fixed places: of 60 candidates those that no earlier one touches.
    spots = []
    xs_ys, turns = 0.85 * reach * rng.uniform(-1, 1, (2, 60)), rng.uniform(0, np.pi, 60)
    for x, y, turn in zip(*xs_ys, turns, strict=True):
        spot = Spot(float(x), float(y), float(turn))
        if len(spots) < n and _is_clear(spot, spots, 2.6 * size):
            spots.append(spot)
    count = kit.count(len(spots), plural)
    if count > len(spots):
        spots.append(Spot(spots[0].x + 2.2 * size, spots[0].y, spots[0].angle))
    return spots[:count], f"{layout}."
