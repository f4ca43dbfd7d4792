"""Painters of round and moulded parts on a backdrop.

Capsule, washer, screw, bottle mouth, cable, gear, bearing and casting.
"""

from __future__ import annotations

import numpy as np

from anomalyr1.drawn.record import Facts
from anomalyr1.drawn.scene import (
    METAL,
    PAINT,
    Colour,
    Floats,
    Kit,
    Outline,
    Patch,
    Scene,
    Spot,
    block,
    circle,
    dimmed,
    pill,
    rgb,
    ring,
)

TWO_PI = 2 * np.pi


def _contrasting(name: str) -> tuple[str, ...]:
    """Backdrops on which a part of this colour stands out."""
    return ("light", "sand", "blue") if name in ("black", "dark gray", "brown") else ("dark", "blue", "gray")


def _around(centre_xy: tuple[float, float], radius: float, start: float, n: int) -> list[Spot]:
    """`n` spots at equal distances on a circle, from the angle `start` on."""
    cx, cy = centre_xy
    turns = [start + TWO_PI * k / n for k in range(n)]
    return [
        Spot(cx + radius * np.cos(turn), cy + radius * np.sin(turn), 0.0, k) for k, turn in enumerate(turns)
    ]


def capsule(kit: Kit) -> tuple[Scene, Facts]:
    """A two-piece hard capsule, glossy, the cap a little wider than the body."""
    cap_name = kit.pick("red", "blue", "green", "orange", "brown")
    body_name = kit.pick("white", "yellow", "beige")
    cap, body = kit.shifted(PAINT[cap_name]), kit.shifted(PAINT[body_name])
    scene = kit.backdrop("dark", "blue", "gray")
    cx, cy = kit.centre()
    angle, size = kit.pose.uniform(0, TWO_PI), kit.pose.uniform(0.95, 1.05) * kit.unit
    radius, half = size * kit.design.uniform(0.15, 0.19), size * kit.design.uniform(0.19, 0.23)
    seam = kit.design.uniform(-0.1, 0.25) * half
    at = Spot(cx, cy, angle)
    patch = scene.stamp(at, pill(half, radius), body, dome=radius * 0.9, gloss=0.55, alpha=1)
    scene.stamp(at, _half(half, radius * 1.035, seam), cap, raised=1.2, bevel=1.5, gloss=0.6, alpha=1)
    if patch is not None:
        rim = np.exp(-((patch.x - seam) ** 2) / (2 * (1.3 * kit.s) ** 2)) * patch.cover
        scene.albedo[patch.window] *= (1 - 0.35 * rim)[..., None]
    return scene, Facts("gelatin", f"{cap_name} and {body_name}", "long with round ends")


def _half(half: float, radius: float, seam: float) -> Outline:
    """A pill from the seam on."""
    capsule_outline = pill(half, radius)
    return Outline(
        lambda x, y: np.maximum(capsule_outline.distance(x, y), np.float32(seam) - x), capsule_outline.reach
    )


def washer(kit: Kit) -> tuple[Scene, Facts]:
    """A turned flat ring."""
    name = kit.pick(*METAL)
    colour = kit.shifted(METAL[name], 0.015)
    scene = kit.backdrop(*_contrasting(name))
    cx, cy = kit.centre()
    outer = kit.unit * kit.design.uniform(0.34, 0.41) * kit.pose.uniform(0.95, 1.04)
    inner = outer * kit.design.uniform(0.38, 0.56)
    at = Spot(cx, cy, kit.pose.uniform(0, TWO_PI))
    body = ring(inner, outer)
    patch = scene.stamp(at, body, colour, raised=3 * kit.s, bevel=4 * kit.s, gloss=0.45, alpha=1)
    _turn(kit, scene, patch)
    return scene, Facts("metal", name, "ring", layout="It is a plain flat ring with one round hole.")


def _turn(kit: Kit, scene: Scene, patch: Patch | None) -> None:
    """Mark a patch by the lathe: concentric tool marks, and the two light fans that they throw."""
    if patch is None:
        return
    r = np.sqrt(patch.x * patch.x + patch.y * patch.y)
    marks = kit.grain.normal(0, 1, 1024).astype(np.float32)
    fan = np.cos(2 * np.arctan2(patch.y, patch.x) + np.float32(kit.pose.uniform(0, TWO_PI)))
    tone = 0.03 * marks[(r * 1.3).astype(np.int32) % 1024] + 0.13 * fan * np.abs(fan)
    scene.albedo[patch.window] *= (1 + tone * patch.cover)[..., None]


def screw(kit: Kit) -> tuple[Scene, Facts]:
    """A screw from the side: head, threaded shaft, point."""
    name = kit.pick("silver", "gold", "dark gray")
    head = kit.pick("pan head", "hexagon head", "countersunk head")
    colour = kit.shifted(METAL[name], 0.015)
    scene = kit.backdrop(*_contrasting(name))
    cx, cy = kit.centre(0.04)
    size, angle = kit.unit * kit.pose.uniform(0.95, 1.05), kit.pose.uniform(0, TWO_PI)
    half, shaft = size * kit.design.uniform(0.33, 0.39), size * kit.design.uniform(0.055, 0.08)
    wide = size * kit.design.uniform(0.12, 0.16)
    pitch, tall = max(5.0, size * kit.design.uniform(0.036, 0.05)), size * 0.075
    x, y = kit.rotated(angle, cx, cy)
    # 1. The shaft, whose radius follows the thread and runs out to a point.
    start = -half + tall
    point = np.clip((half - x) / (shaft * 2.2), 0, 1)
    begun = np.clip((x - start - 2 * pitch) / pitch, 0, 1)
    thread = np.cos((x + 0.35 * y) * np.float32(TWO_PI / pitch)) * begun
    radius = (shaft + 0.16 * shaft * thread) * point
    cover = _between(y, radius) * np.clip(x - start + 0.5, 0, 1) * np.clip(half - x + 0.5, 0, 1)
    profile = np.sqrt(np.clip(radius * radius - y * y, 0, None))
    scene.lay(cover, colour, raised=0.8 * profile + 0.10 * shaft * thread, gloss=0.55)
    scene.alpha = np.maximum(scene.alpha, cover)
    scene.albedo *= (1 - 0.3 * cover * np.clip(-thread, 0, 1))[..., None]
    # 2. The head.
    taper = {"pan head": 0.0, "hexagon head": 0.0, "countersunk head": 1.0}[head]
    along = np.clip((x + half) / tall, 0, 1)
    width = wide * (1 - taper * along) + shaft * taper * along
    if head == "pan head":
        width = wide * np.sqrt(np.clip(1 - (1 - np.clip((x + half) / tall * 1.5, 0, 1)) ** 2, 0, 1))
    top = _between(y, width) * np.clip(x + half + 0.5, 0, 1) * np.clip(start - x + 0.5, 0, 1)
    rise = np.sqrt(np.clip(wide * wide - y * y, 0, None)) * 0.8
    if head == "hexagon head":
        rise = np.where(np.abs(y) < wide * 0.5, wide * 0.8, wide * 0.8 - (np.abs(y) - wide * 0.5) * 0.9)
    scene.height = np.where(top > 0.5, rise, scene.height).astype(np.float32)
    scene.lay(top, colour, gloss=0.55)
    scene.alpha = np.maximum(scene.alpha, top)
    scene.albedo *= (1 + 0.03 * kit.noise(kit.unit / 3) * scene.alpha)[..., None]
    return scene, Facts("metal", name, f"shaft with a {head}", layout="The thread runs evenly to the point.")


def _between(y: Floats, half_width: Floats) -> Floats:
    """Cover (H, W) of what lies within `half_width` of the axis."""
    cover: Floats = np.clip(half_width - np.abs(y) + 0.5, 0, 1)
    return cover


def bottle_mouth(kit: Kit) -> tuple[Scene, Facts]:
    """The opening of a glass bottle from above: shoulder, lip, dark throat."""
    kinds = {"brown": rgb(96, 58, 28), "green": rgb(38, 88, 52), "colourless": rgb(150, 165, 168)}
    name = kit.pick(*kinds)
    glass = kit.shifted(kinds[name], 0.02)
    scene = kit.backdrop("light", "sand")
    cx, cy = kit.centre(0.03)
    r = kit.unit * kit.design.uniform(0.40, 0.45) * kit.pose.uniform(0.96, 1.02)
    at = Spot(cx, cy, kit.pose.uniform(0, TWO_PI))
    # 1. Shoulder and lip.
    shade = dimmed(glass, 0.45)
    scene.stamp(at, circle(r), shade, dome=r * 0.35, gloss=0.8, alpha=1)
    lip = r * kit.design.uniform(0.70, 0.78)
    throat = lip * kit.design.uniform(0.62, 0.72)
    bright = kit.shifted(dimmed(glass, 1.5), 0.01)
    scene.stamp(at, ring(throat, lip), bright, dome=(lip - throat) * 0.42, gloss=0.9)
    # 2. The throat, through which the glass glows.
    bevel, floor = throat * 0.5, dimmed(shade, 0.35)
    patch = scene.stamp(at, circle(throat), floor, raised=-6 * kit.s, bevel=bevel, gloss=0.25, alpha=0)
    if patch is not None:
        glow = np.clip(1 + patch.distance / np.float32(throat), 0, 1) ** 3
        light = (patch.cover * glow)[..., None] * np.array(glass, np.float32)
        scene.albedo[patch.window] += light * np.float32(0.5)
    # 3. Two reflections on the shoulder.
    for _ in range(2):
        radius, width, way = r * kit.pose.uniform(0.83, 0.93), r * 0.018, kit.pose.uniform(0, TWO_PI)
        arc = scene.stamp(Spot(cx, cy, way), ring(radius - width, radius + width))
        if arc is not None:
            lit = arc.cover * np.clip(np.cos(np.arctan2(arc.y, arc.x)) * 3 - 2, 0, 1)
            scene.albedo[arc.window] += (0.6 * lit)[..., None]
    return scene, Facts("glass", name, "round opening", layout="The lip is an unbroken ring.")


def cable(kit: Kit) -> tuple[Scene, Facts]:
    """A cut cable: jacket, and cores of copper strands in coloured insulation."""
    palette = ("brown", "blue", "green", "red", "yellow")
    n = int(kit.design.integers(3, 5))
    order = [str(name) for name in kit.design.permutation(palette)[:n]]
    tones = {name: kit.shifted(PAINT[name], 0.02) for name in palette}
    jacket_name = kit.pick("black", "gray", "white")
    jacket, copper = kit.shifted(PAINT[jacket_name], 0.02), kit.shifted(METAL["copper"], 0.02)
    scene = kit.backdrop(*(("light", "sand") if jacket_name == "black" else ("dark", "blue")))
    # 1. The jacket and the hollow in it.
    cx, cy = kit.centre()
    r = kit.unit * kit.design.uniform(0.38, 0.44) * kit.pose.uniform(0.95, 1.02)
    turn, at = kit.pose.uniform(0, TWO_PI), Spot(cx, cy)
    scene.stamp(at, circle(r), jacket, raised=4 * kit.s, bevel=5 * kit.s, gloss=0.2, alpha=1)
    scene.stamp(at, circle(r * 0.87), rgb(62, 58, 54), raised=-4 * kit.s, bevel=3 * kit.s, gloss=0.05)
    # 2. Which cores there are, and in which order.
    radius = r * {3: 0.39, 4: 0.345}[n]
    cores, core_names = _around((cx, cy), r * 0.85 - radius, turn, n), list(order)
    if kit.edit is not None and kit.edit.kind == "misplaced part":
        k = int(kit.edit.rng.integers(n))
        core_names[k], core_names[(k + 1) % n] = core_names[(k + 1) % n], core_names[k]
        kit.edit.note = "swapped cores"
    else:
        cores = kit.arranged(cores, tuple(f"{name} core" for name in order), 0.0)
    for spot in cores:
        _core(kit, scene, spot, radius, turn, tones[core_names[spot.style]], copper)
    layout = f"The {n} cores are, in turn around the cable, {', '.join(order)}."
    return scene, Facts("copper and plastic", jacket_name, "round", ("cores", n), layout)


def _core(
    kit: Kit, scene: Scene, spot: Spot, radius: float, turn: float, insulation: Colour, copper: Colour
) -> None:
    """Insulation around 19 strands, which lie on a sunflower's spiral."""
    scene.stamp(spot, circle(radius), insulation, raised=3 * kit.s, bevel=3 * kit.s, gloss=0.25)
    scene.stamp(spot, circle(radius * 0.63), rgb(70, 44, 30), raised=-2 * kit.s, gloss=0.1)
    strand = radius * 0.118
    for k in range(19):
        away, way = radius * 0.6 * (np.sqrt((k + 0.5) / 19) * 0.86), k * 2.39996 + turn
        at = Spot(spot.x + away * np.cos(way), spot.y + away * np.sin(way))
        scene.stamp(at, circle(strand), copper, dome=strand * 0.5, gloss=0.6)


def gear(kit: Kit) -> tuple[Scene, Facts]:
    """A spur gear from the face: teeth, web, hub and bore."""
    name = kit.pick("silver", "gold", "dark gray")
    colour = kit.shifted(METAL[name], 0.015)
    teeth, holes = int(kit.design.integers(12, 21)), int(kit.design.integers(3, 7))
    scene = kit.backdrop(*_contrasting(name))
    cx, cy = kit.centre()
    r = kit.unit * kit.design.uniform(0.38, 0.43) * kit.pose.uniform(0.95, 1.02)
    turn, depth = kit.pose.uniform(0, TWO_PI), r * kit.design.uniform(0.13, 0.17)
    # 1. The toothed body.
    present = np.ones(kit.count(teeth, "teeth", 2), np.float32)
    if kit.edit is not None and kit.edit.kind == "missing part":
        kit.edit.note, present[int(kit.edit.rng.integers(len(present)))] = "missing tooth", 0
    at, body = Spot(cx, cy, turn), _toothed(r, depth, present)
    patch = scene.stamp(at, body, colour, raised=3 * kit.s, bevel=2.5 * kit.s, gloss=0.4, alpha=1)
    _turn(kit, scene, patch)
    # 2. The web, with holes around the bore.
    web_colour = kit.shifted(colour, 0.01)
    scene.stamp(at, ring(r * 0.36, r * 0.70), web_colour, raised=-2.5 * kit.s, bevel=3 * kit.s)
    behind = scene.colour_at(2, 2)
    for spot in _around((cx, cy), r * 0.53, turn, holes):
        scene.stamp(spot, circle(r * 0.11), behind, raised=-3 * kit.s, alpha=0, gloss=0.03)
    scene.stamp(at, circle(r * 0.17), behind, raised=-3 * kit.s, alpha=0, gloss=0.03)
    layout = f"It has {teeth} equal teeth, all present, and {holes} round holes in the web."
    return scene, Facts("metal", name, "toothed wheel", ("teeth", teeth), layout)


def _toothed(radius: float, depth: float, present: Floats) -> Outline:
    """A wheel with a tooth for each entry of `present` (N,), 1 = there, 0 = missing."""
    n = len(present)

    def distance(x: Floats, y: Floats) -> Floats:
        phase = np.mod(np.arctan2(y, x) / TWO_PI, 1) * n
        flank = np.clip((0.30 - np.abs(np.mod(phase, 1) - 0.5)) * 6 + 0.5, 0, 1)
        tooth = flank * present[phase.astype(np.int32) % n]
        edge: Floats = (np.sqrt(x * x + y * y) - (radius - depth + depth * tooth)).astype(np.float32)
        return edge

    return Outline(distance, radius)


def bearing(kit: Kit) -> tuple[Scene, Facts]:
    """A ball bearing: two rings and balls between them."""
    name = kit.pick("silver", "dark gray")
    colour = kit.shifted(METAL[name], 0.015)
    n = int(kit.design.integers(7, 11))
    scene = kit.backdrop(*_contrasting(name))
    cx, cy = kit.centre()
    r = kit.unit * kit.design.uniform(0.38, 0.43) * kit.pose.uniform(0.95, 1.02)
    turn = kit.pose.uniform(0, TWO_PI)
    at, bore = Spot(cx, cy, turn), kit.design.uniform(0.32, 0.38)
    behind = scene.colour_at(2, 2)
    cage = kit.shifted(METAL["gold"] if kit.design.random() < 0.4 else rgb(58, 60, 64), 0.02)
    # 1. The rings, and the gap between them with its cage.
    rings = ring(r * bore, r)
    patch = scene.stamp(at, rings, colour, raised=3.5 * kit.s, bevel=3 * kit.s, gloss=0.5, alpha=1)
    _turn(kit, scene, patch)
    inner, outer = r * (bore + 0.15), r * 0.83
    scene.stamp(at, ring(inner, outer), rgb(30, 31, 34), raised=-3 * kit.s, bevel=3 * kit.s, gloss=0.1)
    middle, ball = (inner + outer) / 2, (outer - inner) * 0.46
    scene.stamp(at, ring(middle - ball * 0.42, middle + ball * 0.42), cage, raised=1.5 * kit.s, gloss=0.3)
    # 2. The balls, and the bore.
    spots = _around((cx, cy), middle, turn, kit.count(n, "balls"))
    for spot in kit.arranged(spots, ("ball",), 0.0):
        scene.stamp(spot, circle(ball * 1.12), rgb(34, 35, 38), gloss=0.1)
        scene.stamp(spot, circle(ball), rgb(190, 193, 198), dome=ball * 0.8, gloss=1.0)
    scene.stamp(at, circle(r * bore - 1), behind, alpha=0, gloss=0.03)
    layout = f"It holds {n} balls, evenly spaced between the rings."
    return scene, Facts("metal", name, "ring", ("balls", n), layout)


def casting(kit: Kit) -> tuple[Scene, Facts]:
    """A cast flange: rough plate, raised boss, bore and bolt holes on a circle."""
    name = kit.pick("gray", "dark gray", "beige")
    colour = kit.shifted({**PAINT, **METAL}[name], 0.02)
    n, square = int(kit.design.integers(3, 7)), bool(kit.design.random() < 0.4)
    scene = kit.backdrop(*_contrasting(name))
    cx, cy = kit.centre(0.04)
    r = kit.unit * kit.design.uniform(0.39, 0.44) * kit.pose.uniform(0.95, 1.02)
    turn = kit.pose.uniform(-0.4, 0.4)
    # 1. The plate, rough as the sand left it.
    at, plate = Spot(cx, cy, turn), block(r * 0.93, r * 0.93, r * 0.3) if square else circle(r)
    scene.stamp(at, plate, colour, raised=4 * kit.s, bevel=5 * kit.s, gloss=0.12, alpha=1)
    rough = scene.alpha * kit.noise(kit.unit / 3.5)
    scene.height += 0.22 * rough + 0.22 * scene.alpha * kit.noise(kit.unit / 8)
    scene.albedo *= (1 + 0.04 * rough)[..., None]
    # 2. The machined boss and its bore.
    bore, boss = r * kit.design.uniform(0.22, 0.3), r * kit.design.uniform(0.42, 0.5)
    scene.stamp(at, circle(boss), kit.shifted(colour, 0.01), raised=4 * kit.s, bevel=5 * kit.s)
    inside = dimmed(scene.colour_at(2, 2), 0.6)
    scene.stamp(at, circle(bore), inside, raised=-5 * kit.s, bevel=4 * kit.s, alpha=0, gloss=0.02)
    # 3. Bolt holes, each in its counterbore.
    holes, hole = kit.count(n, "bolt holes"), r * kit.design.uniform(0.075, 0.105)
    spots = _around((cx, cy), r * 0.74, turn + 0.785, holes)
    for spot in kit.arranged(spots, ("bolt hole",), r * 0.13):
        bright = kit.shifted(colour, 0.0)
        scene.stamp(spot, circle(hole * 1.5), bright, raised=-1.5 * kit.s, bevel=2 * kit.s)
        scene.stamp(spot, circle(hole), inside, raised=-4 * kit.s, bevel=3 * kit.s, alpha=0, gloss=0.02)
    shape = "rounded square" if square else "round flange"
    layout = f"It has {n} bolt holes, evenly spaced on one circle around the bore."
    return scene, Facts("metal", name, shape, ("bolt holes", n), layout)
