"""Painters of round and moulded parts on a backdrop: capsule, washer, screw, bottle mouth, cable, gear, bearing, casting."""

from __future__ import annotations

import numpy as np

from anomalyr1.drawn.record import Facts
from anomalyr1.drawn.scene import (
    METAL,
    PAINT,
    Floats,
    Kit,
    Scene,
    Shape,
    Spot,
    backdrop,
    block,
    circle,
    colour_at,
    dimmed,
    pick,
    pill,
    rgb,
    ring,
    shifted,
    stamp,
)

TWO_PI = 2 * np.pi


def _contrasting(name: str) -> tuple[str, ...]:
    """Backdrops on which a part of this colour stands out."""
    return ("light", "sand", "blue") if name in ("black", "dark gray", "brown") else ("dark", "blue", "gray")


def capsule(kit: Kit) -> tuple[Scene, Facts]:
    """A two-piece hard capsule, glossy, the cap a little wider than the body."""
    first, second = (
        pick(kit.design, "red", "blue", "green", "orange", "brown"),
        pick(kit.design, "white", "yellow", "beige"),
    )
    cap, body = shifted(kit.design, PAINT[first]), shifted(kit.design, PAINT[second])
    scene = backdrop(kit, "dark", "blue", "gray")
    cx, cy = kit.centre()
    angle, size = kit.pose.uniform(0, TWO_PI), kit.pose.uniform(0.95, 1.05) * kit.unit
    radius, half = size * kit.design.uniform(0.15, 0.19), size * kit.design.uniform(0.19, 0.23)
    seam = kit.design.uniform(-0.1, 0.25) * half
    patch = stamp(
        scene,
        Spot(cx, cy, angle),
        half + radius,
        pill(half, radius),
        body,
        dome=radius * 0.9,
        gloss=0.55,
        alpha=1,
    )
    stamp(
        scene,
        Spot(cx, cy, angle),
        half + radius + 2,
        _half(half, radius * 1.035, seam),
        cap,
        raised=1.2,
        bevel=1.5,
        gloss=0.6,
        alpha=1,
    )
    if patch is not None:
        rim = np.exp(-((patch.x - seam) ** 2) / (2 * (1.3 * kit.s) ** 2)) * patch.cover
        scene.albedo[patch.window] *= (1 - 0.35 * rim)[..., None]
    return scene, Facts("gelatin", f"{first} and {second}", "long with round ends")


def _half(half: float, radius: float, seam: float) -> Shape:
    """A pill from the seam on."""
    whole = pill(half, radius)
    return lambda x, y: np.maximum(whole(x, y), np.float32(seam) - x)


def washer(kit: Kit) -> tuple[Scene, Facts]:
    """A turned flat ring."""
    name = pick(kit.design, *METAL)
    colour = shifted(kit.design, METAL[name], 0.015)
    scene = backdrop(kit, *_contrasting(name))
    cx, cy = kit.centre()
    outer = kit.unit * kit.design.uniform(0.34, 0.41) * kit.pose.uniform(0.95, 1.04)
    inner = outer * kit.design.uniform(0.38, 0.56)
    patch = stamp(
        scene,
        Spot(cx, cy, kit.pose.uniform(0, TWO_PI)),
        outer,
        ring(inner, outer),
        colour,
        raised=3 * kit.s,
        bevel=4 * kit.s,
        gloss=0.45,
        alpha=1,
    )
    if patch is not None:
        _turned(kit, scene, patch.window, patch.x, patch.y, patch.cover)
    return scene, Facts("metal", name, "ring", layout="It is a plain flat ring with one round hole.")


def _turned(kit: Kit, scene: Scene, window: tuple[slice, slice], x: Floats, y: Floats, cover: Floats) -> None:
    """Concentric tool marks and the two light fans that they throw."""
    r = np.sqrt(x * x + y * y)
    marks = kit.grain.normal(0, 1, 1024).astype(np.float32)
    fan = np.cos(2 * np.arctan2(y, x) + np.float32(kit.pose.uniform(0, TWO_PI)))
    tone = 0.03 * marks[(r * 1.3).astype(np.int32) % 1024] + 0.13 * fan * np.abs(fan)
    scene.albedo[window] *= (1 + tone * cover)[..., None]


def screw(kit: Kit) -> tuple[Scene, Facts]:
    """A screw from the side: head, threaded shaft, point."""
    name, head = (
        pick(kit.design, "silver", "gold", "dark gray"),
        pick(kit.design, "pan head", "hexagon head", "countersunk head"),
    )
    colour = shifted(kit.design, METAL[name], 0.015)
    scene = backdrop(kit, *_contrasting(name))
    cx, cy = kit.centre(0.04)
    size, angle = kit.unit * kit.pose.uniform(0.95, 1.05), kit.pose.uniform(0, TWO_PI)
    half, shaft, wide = (
        size * kit.design.uniform(0.33, 0.39),
        size * kit.design.uniform(0.055, 0.08),
        size * kit.design.uniform(0.12, 0.16),
    )
    pitch, tall = max(5.0, size * kit.design.uniform(0.036, 0.05)), size * 0.075
    x, y = kit.rotated(angle, cx, cy)
    point = np.clip((half - x) / (shaft * 2.2), 0, 1)
    start = -half + tall
    thread = np.cos((x + 0.35 * y) * np.float32(TWO_PI / pitch)) * np.clip(
        (x - start - 2 * pitch) / pitch, 0, 1
    )
    radius = (shaft + 0.16 * shaft * thread) * point
    cover = (
        np.clip(radius - np.abs(y) + 0.5, 0, 1)
        * np.clip(x - start + 0.5, 0, 1)
        * np.clip(half - x + 0.5, 0, 1)
    )
    profile = np.sqrt(np.clip(radius * radius - y * y, 0, None))
    scene.lay(cover, colour, raised=0.8 * profile + 0.10 * shaft * thread, gloss=0.55)
    scene.alpha = np.maximum(scene.alpha, cover)
    scene.albedo *= (1 - 0.3 * cover * np.clip(-thread, 0, 1))[..., None]
    taper = {"pan head": 0.0, "hexagon head": 0.0, "countersunk head": 1.0}[head]
    along = np.clip((x + half) / tall, 0, 1)
    width = wide * (1 - taper * along) + shaft * taper * along
    if head == "pan head":
        width = wide * np.sqrt(np.clip(1 - (1 - np.clip((x + half) / tall * 1.5, 0, 1)) ** 2, 0, 1))
    top = (
        np.clip(width - np.abs(y) + 0.5, 0, 1)
        * np.clip(x + half + 0.5, 0, 1)
        * np.clip(start - x + 0.5, 0, 1)
    )
    rise = np.sqrt(np.clip(wide * wide - y * y, 0, None)) * 0.8
    if head == "hexagon head":
        rise = np.where(np.abs(y) < wide * 0.5, wide * 0.8, wide * 0.8 - (np.abs(y) - wide * 0.5) * 0.9)
    scene.height = np.where(top > 0.5, rise, scene.height).astype(np.float32)
    scene.lay(top, colour, gloss=0.55)
    scene.alpha = np.maximum(scene.alpha, top)
    scene.albedo *= (1 + 0.03 * kit.noise(kit.unit / 3) * scene.alpha)[..., None]
    return scene, Facts("metal", name, f"shaft with a {head}", layout="The thread runs evenly to the point.")


def bottle_mouth(kit: Kit) -> tuple[Scene, Facts]:
    """The opening of a glass bottle from above: shoulder, lip, dark throat."""
    kinds = {"brown": rgb(96, 58, 28), "green": rgb(38, 88, 52), "colourless": rgb(150, 165, 168)}
    name = pick(kit.design, *kinds)
    glass = shifted(kit.design, kinds[name], 0.02)
    scene = backdrop(kit, "light", "sand")
    cx, cy = kit.centre(0.03)
    r = kit.unit * kit.design.uniform(0.40, 0.45) * kit.pose.uniform(0.96, 1.02)
    at = Spot(cx, cy, kit.pose.uniform(0, TWO_PI))
    dark = dimmed(glass, 0.45)
    stamp(scene, at, r, circle(r), dark, dome=r * 0.35, gloss=0.8, alpha=1)
    lip = r * kit.design.uniform(0.70, 0.78)
    throat = lip * kit.design.uniform(0.62, 0.72)
    bright = shifted(kit.design, dimmed(glass, 1.5), 0.01)
    stamp(scene, at, lip, ring(throat, lip), bright, dome=(lip - throat) * 0.42, gloss=0.9)
    patch = stamp(
        scene,
        at,
        throat,
        circle(throat),
        dimmed(dark, 0.35),
        raised=-6 * kit.s,
        bevel=throat * 0.5,
        gloss=0.25,
        alpha=0,
    )
    if patch is not None:
        glow = np.clip(1 + patch.distance / np.float32(throat), 0, 1) ** 3
        scene.albedo[patch.window] += (
            (patch.cover * glow)[..., None] * np.array(glass, np.float32) * np.float32(0.5)
        )
    for _ in range(2):
        radius, width, way = r * kit.pose.uniform(0.83, 0.93), r * 0.018, kit.pose.uniform(0, TWO_PI)
        arc = stamp(scene, Spot(cx, cy, way), r, ring(radius - width, radius + width))
        if arc is not None:
            lit = arc.cover * np.clip(np.cos(np.arctan2(arc.y, arc.x)) * 3 - 2, 0, 1)
            scene.albedo[arc.window] += (0.6 * lit)[..., None]
    return scene, Facts("glass", name, "round opening", layout="The lip is an unbroken ring.")


def cable(kit: Kit) -> tuple[Scene, Facts]:
    """A cut cable: jacket, and cores of copper strands in coloured insulation."""
    palette = ("brown", "blue", "green", "red", "yellow")
    n = int(kit.design.integers(3, 5))
    order = [str(name) for name in kit.design.permutation(palette)[:n]]
    tones = {name: shifted(kit.design, PAINT[name], 0.02) for name in palette}
    jacket_name = pick(kit.design, "black", "gray", "white")
    jacket, copper = shifted(kit.design, PAINT[jacket_name], 0.02), shifted(kit.design, METAL["copper"], 0.02)
    scene = backdrop(kit, *(("light", "sand") if jacket_name == "black" else ("dark", "blue")))
    cx, cy = kit.centre()
    r = kit.unit * kit.design.uniform(0.38, 0.44) * kit.pose.uniform(0.95, 1.02)
    turn = kit.pose.uniform(0, TWO_PI)
    stamp(scene, Spot(cx, cy), r, circle(r), jacket, raised=4 * kit.s, bevel=5 * kit.s, gloss=0.2, alpha=1)
    stamp(
        scene,
        Spot(cx, cy),
        r,
        circle(r * 0.87),
        rgb(62, 58, 54),
        raised=-4 * kit.s,
        bevel=3 * kit.s,
        gloss=0.05,
    )
    core = r * {3: 0.39, 4: 0.345}[n]
    circle_of = r * 0.85 - core
    cores = [
        Spot(
            cx + circle_of * np.cos(turn + TWO_PI * k / n),
            cy + circle_of * np.sin(turn + TWO_PI * k / n),
            0.0,
            k,
        )
        for k in range(n)
    ]
    shown = list(order)
    if kit.edit is not None and kit.edit.kind == "misplaced part":
        k = int(kit.edit.rng.integers(n))
        shown[k], shown[(k + 1) % n] = shown[(k + 1) % n], shown[k]
        kit.edit.note = "swapped cores"
    else:
        cores = kit.arranged(cores, tuple(f"{name} core" for name in order), 0.0)
    strands = [(np.sqrt((k + 0.5) / 19) * 0.86, k * 2.39996) for k in range(19)]
    for spot in cores:
        stamp(
            scene,
            spot,
            core,
            circle(core),
            tones[shown[spot.style]],
            raised=3 * kit.s,
            bevel=3 * kit.s,
            gloss=0.25,
        )
        stamp(scene, spot, core, circle(core * 0.63), rgb(70, 44, 30), raised=-2 * kit.s, gloss=0.1)
        wire = core * 0.118
        for away, way in strands:
            at = Spot(
                spot.x + core * 0.6 * away * np.cos(way + turn),
                spot.y + core * 0.6 * away * np.sin(way + turn),
            )
            stamp(scene, at, wire, circle(wire), copper, dome=wire * 0.5, gloss=0.6)
    listed = ", ".join(order)
    return scene, Facts(
        "copper and plastic",
        jacket_name,
        "round",
        ("cores", n),
        f"The {n} cores are, in turn around the cable, {listed}.",
    )


def gear(kit: Kit) -> tuple[Scene, Facts]:
    """A spur gear from the face: teeth, web, hub and bore."""
    name = pick(kit.design, "silver", "gold", "dark gray")
    colour = shifted(kit.design, METAL[name], 0.015)
    teeth, holes = int(kit.design.integers(12, 21)), int(kit.design.integers(3, 7))
    scene = backdrop(kit, *_contrasting(name))
    cx, cy = kit.centre()
    r = kit.unit * kit.design.uniform(0.38, 0.43) * kit.pose.uniform(0.95, 1.02)
    turn, deep = kit.pose.uniform(0, TWO_PI), r * kit.design.uniform(0.13, 0.17)
    shown = kit.count(teeth, "teeth", 2)
    present = np.ones(shown, np.float32)
    if kit.edit is not None and kit.edit.kind == "missing part":
        kit.edit.note, present[int(kit.edit.rng.integers(shown))] = "missing tooth", 0

    def toothed(x: Floats, y: Floats) -> Floats:
        phase = np.mod(np.arctan2(y, x) / TWO_PI, 1) * shown
        tooth = (
            np.clip((0.30 - np.abs(np.mod(phase, 1) - 0.5)) * 6 + 0.5, 0, 1)
            * present[phase.astype(np.int32) % shown]
        )
        edge: Floats = (np.sqrt(x * x + y * y) - (r - deep + deep * tooth)).astype(np.float32)
        return edge

    at = Spot(cx, cy, turn)
    patch = stamp(scene, at, r, toothed, colour, raised=3 * kit.s, bevel=2.5 * kit.s, gloss=0.4, alpha=1)
    if patch is not None:
        _turned(kit, scene, patch.window, patch.x, patch.y, patch.cover)
    stamp(
        scene,
        at,
        r,
        ring(r * 0.36, r * 0.70),
        shifted(kit.design, colour, 0.01),
        raised=-2.5 * kit.s,
        bevel=3 * kit.s,
    )
    behind = colour_at(scene, 2, 2)
    for k in range(holes):
        a = turn + TWO_PI * k / holes
        stamp(
            scene,
            Spot(cx + r * 0.53 * np.cos(a), cy + r * 0.53 * np.sin(a)),
            r * 0.11,
            circle(r * 0.11),
            behind,
            raised=-3 * kit.s,
            alpha=0,
            gloss=0.03,
        )
    stamp(scene, at, r * 0.2, circle(r * 0.17), behind, raised=-3 * kit.s, alpha=0, gloss=0.03)
    return scene, Facts(
        "metal",
        name,
        "toothed wheel",
        ("teeth", teeth),
        f"It has {teeth} equal teeth, all present, and {holes} round holes in the web.",
    )


def bearing(kit: Kit) -> tuple[Scene, Facts]:
    """A ball bearing: two rings and balls between them."""
    name = pick(kit.design, "silver", "dark gray")
    colour = shifted(kit.design, METAL[name], 0.015)
    n = int(kit.design.integers(7, 11))
    scene = backdrop(kit, *_contrasting(name))
    cx, cy = kit.centre()
    r, turn = (
        kit.unit * kit.design.uniform(0.38, 0.43) * kit.pose.uniform(0.95, 1.02),
        kit.pose.uniform(0, TWO_PI),
    )
    at, bore = Spot(cx, cy, turn), kit.design.uniform(0.32, 0.38)
    behind = colour_at(scene, 2, 2)
    cage = shifted(kit.design, METAL["gold"] if kit.design.random() < 0.4 else rgb(58, 60, 64), 0.02)
    patch = stamp(
        scene, at, r, ring(r * bore, r), colour, raised=3.5 * kit.s, bevel=3 * kit.s, gloss=0.5, alpha=1
    )
    if patch is not None:
        _turned(kit, scene, patch.window, patch.x, patch.y, patch.cover)
    inner, outer = r * (bore + 0.15), r * 0.83
    stamp(scene, at, r, ring(inner, outer), rgb(30, 31, 34), raised=-3 * kit.s, bevel=3 * kit.s, gloss=0.1)
    middle, ball = (inner + outer) / 2, (outer - inner) * 0.46
    stamp(scene, at, r, ring(middle - ball * 0.42, middle + ball * 0.42), cage, raised=1.5 * kit.s, gloss=0.3)
    shown = kit.count(n, "balls")
    spots = [
        Spot(cx + middle * np.cos(turn + TWO_PI * k / shown), cy + middle * np.sin(turn + TWO_PI * k / shown))
        for k in range(shown)
    ]
    for spot in kit.arranged(spots, ("ball",), 0.0):
        stamp(scene, spot, ball * 1.12, circle(ball * 1.12), rgb(34, 35, 38), gloss=0.1)
        stamp(scene, spot, ball, circle(ball), rgb(190, 193, 198), dome=ball * 0.8, gloss=1.0)
    stamp(scene, at, r * bore, circle(r * bore - 1), behind, alpha=0, gloss=0.03)
    return scene, Facts(
        "metal", name, "ring", ("balls", n), f"It holds {n} balls, evenly spaced between the rings."
    )


def casting(kit: Kit) -> tuple[Scene, Facts]:
    """A cast flange: rough plate, raised boss, bore and bolt holes on a circle."""
    name = pick(kit.design, "gray", "dark gray", "beige")
    colour = shifted(kit.design, {**PAINT, **METAL}[name], 0.02)
    n, square = int(kit.design.integers(3, 7)), bool(kit.design.random() < 0.4)
    scene = backdrop(kit, *_contrasting(name))
    cx, cy = kit.centre(0.04)
    r, turn = (
        kit.unit * kit.design.uniform(0.39, 0.44) * kit.pose.uniform(0.95, 1.02),
        kit.pose.uniform(-0.4, 0.4),
    )
    at = Spot(cx, cy, turn)
    outline, reach = (block(r * 0.93, r * 0.93, r * 0.3), r * 1.2) if square else (circle(r), r)
    stamp(scene, at, reach, outline, colour, raised=4 * kit.s, bevel=5 * kit.s, gloss=0.12, alpha=1)
    rough = scene.alpha * kit.noise(kit.unit / 3.5)
    scene.height += 0.22 * rough + 0.22 * scene.alpha * kit.noise(kit.unit / 8)
    scene.albedo *= (1 + 0.04 * rough)[..., None]
    bore, boss = r * kit.design.uniform(0.22, 0.3), r * kit.design.uniform(0.42, 0.5)
    stamp(scene, at, boss, circle(boss), shifted(kit.design, colour, 0.01), raised=4 * kit.s, bevel=5 * kit.s)
    behind = colour_at(scene, 2, 2)
    stamp(
        scene,
        at,
        bore,
        circle(bore),
        dimmed(behind, 0.6),
        raised=-5 * kit.s,
        bevel=4 * kit.s,
        alpha=0,
        gloss=0.02,
    )
    shown, around, hole = kit.count(n, "bolt holes"), r * 0.74, r * kit.design.uniform(0.075, 0.105)
    spots = [
        Spot(
            cx + around * np.cos(turn + 0.785 + TWO_PI * k / shown),
            cy + around * np.sin(turn + 0.785 + TWO_PI * k / shown),
        )
        for k in range(shown)
    ]
    for spot in kit.arranged(spots, ("bolt hole",), r * 0.13):
        stamp(
            scene,
            spot,
            hole * 1.5,
            circle(hole * 1.5),
            shifted(kit.design, colour, 0.0),
            raised=-1.5 * kit.s,
            bevel=2 * kit.s,
        )
        stamp(
            scene,
            spot,
            hole,
            circle(hole),
            dimmed(behind, 0.6),
            raised=-4 * kit.s,
            bevel=3 * kit.s,
            alpha=0,
            gloss=0.02,
        )
    shape = "rounded square" if square else "round flange"
    return scene, Facts(
        "metal",
        name,
        shape,
        ("bolt holes", n),
        f"It has {n} bolt holes, evenly spaced on one circle around the bore.",
    )
