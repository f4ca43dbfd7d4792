"""Painters of surfaces that fill the image.

Metal plate, woven fabric, wood panel, ceramic tile, leather and wire mesh.
"""

from __future__ import annotations

import cv2
import numpy as np

from anomalyr1.drawn.record import Facts
from anomalyr1.drawn.scene import METAL, PAINT, Floats, Kit, Scene, rgb


def metal_plate(kit: Kit) -> tuple[Scene, Facts]:
    """A brushed plate: fine streaks, and a soft highlight across them."""
    name = kit.pick(*METAL)
    colour, strength = kit.shifted(METAL[name], 0.015), kit.design.uniform(0.04, 0.08)
    angle = np.pi / 2 if kit.pick("along", "across") == "across" else 0.0
    angle += kit.pose.uniform(-0.12, 0.12)
    scene = kit.blank(colour, 0.25)
    fine, coarse = kit.streaks(angle, 0.8, 45 * kit.s), kit.streaks(angle, 0.25, 160 * kit.s)
    x, _ = kit.rotated(angle, kit.size_wh[0] / 2, kit.size_wh[1] / 2)
    band_x, band_width = kit.pose.uniform(-0.35, 0.35) * kit.unit, kit.unit * kit.pose.uniform(0.25, 0.45)
    band = np.exp(-(((x - band_x) / band_width) ** 2))
    scene.albedo *= (0.92 + strength * fine + 0.6 * strength * coarse + 0.2 * band)[..., None]
    scene.height += 0.25 * fine
    return scene, Facts("metal", name, "flat sheet")


def _woven(
    kit: Kit, pitch: float, angle: float, twill: bool
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """The weave at every pixel, five arrays (H, W).

    Numbers of the threads across and along, which of them is on top (1 = across), and the offsets from both
    thread axes in -1..1.
    """
    x, y = kit.rotated(angle)
    u, v = x / np.float32(pitch) + 512, y / np.float32(pitch) + 512
    i, j = np.floor(u), np.floor(v)
    over = (np.mod(i + j, 4) < 2) if twill else (np.mod(i + j, 2) < 1)
    return i, j, over.astype(np.float32), 2 * (u - i) - 1, 2 * (v - j) - 1


def woven_fabric(kit: Kit) -> tuple[Scene, Facts]:
    """Cloth of round threads, plain weave or twill."""
    name = kit.pick("red", "green", "blue", "white", "gray", "black", "brown", "beige")
    warp = np.array(kit.shifted(PAINT[name]), dtype=np.float32)
    weft = warp * np.float32(kit.design.uniform(0.75, 0.95))
    twill = bool(kit.design.random() < 0.4)
    pitch = max(4.5, kit.design.uniform(6.0, 10.0) * kit.s)
    i, j, over, a, b = _woven(kit, pitch, kit.pose.uniform(-0.2, 0.2), twill)
    tone = kit.grain.normal(1, 0.05, 1024).astype(np.float32)
    scene = kit.blank(rgb(0, 0, 0), 0.03)
    up, side = over[..., None] > 0.5, 1 - over
    thread_tone = over * tone[i.astype(np.int32) % 1024] + side * tone[j.astype(np.int32) % 1024]
    scene.albedo[:] = np.where(up, warp, weft) * thread_tone[..., None]
    across, along = over * a + side * b, over * b + side * a
    roundness = np.sqrt(np.clip(1 - 0.9 * across * across, 0, 1))
    scene.albedo *= (0.55 + 0.45 * roundness + 0.05 * kit.noise(kit.unit / 2) + 0.03 * kit.noise(5))[
        ..., None
    ]
    scene.height += np.float32(pitch * 0.28) * roundness * (1 - 0.35 * along * along)
    return scene, Facts("textile", name, "twill weave" if twill else "plain weave")


def wood_panel(kit: Kit) -> tuple[Scene, Facts]:
    """A board with year rings, fibres and pores."""
    kinds = {
        "light brown": rgb(196, 152, 104),
        "dark brown": rgb(112, 74, 48),
        "reddish brown": rgb(158, 92, 62),
    }
    name = kit.pick(*kinds)
    colour = np.array(kit.shifted(kinds[name], 0.015), dtype=np.float32)
    angle = (np.pi / 2 if kit.design.random() < 0.5 else 0.0) + kit.pose.uniform(-0.08, 0.08)
    x, y = kit.rotated(angle)
    width = kit.design.uniform(14, 30) * kit.s
    bend = kit.design.uniform(0.4, 0.9)
    slow_drift = kit.streaks(angle, 3.5 / kit.unit, 1.2 * kit.unit)
    drift = slow_drift + 0.4 * kit.streaks(angle, 10 / kit.unit, 0.5 * kit.unit)
    rings = y / width + bend * drift + x / (kit.unit * 3)
    late = np.mod(rings, 1) ** 3 * (1 - np.mod(rings, 1) ** 24)
    fibre, pore = kit.streaks(angle, 0.9, 30 * kit.s), kit.streaks(angle, 0.7, 12 * kit.s)
    scene = kit.blank(rgb(0, 0, 0), kit.design.uniform(0.03, 0.15))
    tone = 1.06 - 0.28 * late + 0.045 * fibre - 0.10 * np.clip(pore - 1.7, 0, 1) + 0.03 * kit.noise(3)
    scene.albedo[:] = colour * tone[..., None]
    scene.albedo[..., 2] *= 1 - 0.12 * late
    scene.height += 0.25 * fibre - 0.6 * np.clip(pore - 1.7, 0, 1)
    return scene, Facts("wood", name, "flat board")


def ceramic_tile(kit: Kit) -> tuple[Scene, Facts]:
    """Glazed tiles with grout joints: plain, speckled or marbled."""
    name = kit.pick("white", "gray", "beige", "blue", "green", "black")
    joints = {"light": rgb(190, 186, 178), "gray": rgb(120, 118, 114), "dark": rgb(70, 68, 66)}
    glaze = kit.shifted(PAINT[name], 0.03)
    joint = np.asarray(kit.shifted(joints[kit.pick(*joints)], 0.02), np.float32)
    pitch = kit.unit * kit.design.uniform(0.42, 0.62)
    look = kit.pick("plain", "speckled", "marbled")
    angle, ox, oy = kit.pose.uniform(-0.06, 0.06), kit.pose.uniform(0, pitch), kit.pose.uniform(0, pitch)
    x, y = kit.rotated(angle)
    x, y = np.mod(x + ox + 8 * pitch, pitch), np.mod(y + oy + 8 * pitch, pitch)
    edge = np.minimum(np.minimum(x, pitch - x), np.minimum(y, pitch - y))
    half = 2.6 * kit.s
    scene = kit.blank(glaze, 0.45)
    if look == "speckled":
        dark_specks = np.clip((kit.noise(kit.unit / 3) - 1.3) * 2, 0, 1)
        light_specks = np.clip((kit.noise(kit.unit / 4) - 1.2) * 2, 0, 1)
        scene.albedo *= (1 - 0.35 * dark_specks + 0.12 * light_specks)[..., None]
    if look == "marbled":
        marble = 1 + 0.07 * kit.noise(5) + 0.05 * np.sin(4 * kit.noise(3) + 3 * kit.noise(6))
        scene.albedo *= marble[..., None]
    grout = joint * (1 + 0.06 * kit.noise(kit.unit / 2))[..., None]
    scene.lay(np.clip(half - edge + 0.5, 0, 1), grout, gloss=0.0)
    rise = np.clip((edge - half) / (4 * kit.s), 0, 1) ** 0.5
    scene.height += np.float32(2.5 * kit.s) * rise + 0.10 * kit.noise(9)
    return scene, Facts("ceramic", name, "square tiles", layout=f"The glaze is {look}.")


def leather(kit: Kit) -> tuple[Scene, Facts]:
    """Grained hide: pebbles with creases between them."""
    name = kit.pick("brown", "black", "beige", "red", "gray")
    colour = kit.shifted(PAINT[name], 0.03)
    w, h = kit.size_wh
    cell = kit.design.uniform(6.5, 11) * kit.s
    n = int(w * h / cell**2)
    seeds = np.full((h, w), 255, np.uint8)
    seeds[kit.grain.integers(0, h, n), kit.grain.integers(0, w, n)] = 0
    _, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    crease = np.full((h, w), 255, np.uint8)
    crease[:, 1:][cells[:, 1:] != cells[:, :-1]] = 0
    crease[1:, :][cells[1:, :] != cells[:-1, :]] = 0
    rise = np.minimum(cv2.distanceTransform(crease, cv2.DIST_L2, 3) / np.float32(cell * 0.35), 1)
    rise = cv2.GaussianBlur(rise, (0, 0), 0.8)
    scene = kit.blank(colour, kit.design.uniform(0.12, 0.3))
    scene.albedo *= (0.72 + 0.3 * rise + 0.05 * kit.noise(4) + 0.03 * kit.noise(kit.unit / 2))[..., None]
    scene.height += np.float32(2.2 * kit.s) * rise + 1.5 * kit.noise(7)
    return scene, Facts("leather", name, "grained surface")


def wire_mesh(kit: Kit) -> tuple[Scene, Facts]:
    """Round wires woven over and under each other, with the backdrop in the gaps."""
    name = kit.pick("silver", "gold", "copper", "dark gray")
    colour = kit.shifted(METAL[name], 0.02)
    behind = rgb(28, 29, 32) if name != "dark gray" else rgb(205, 206, 204)
    pitch = kit.design.uniform(19, 28) * kit.s
    radius = kit.design.uniform(0.13, 0.19)
    angle = (np.pi / 4 if kit.design.random() < 0.35 else 0.0) + kit.pose.uniform(-0.15, 0.15)
    x, y = kit.rotated(angle)
    u, v = x / np.float32(pitch) + 64 + kit.pose.random(), y / np.float32(pitch) + 64 + kit.pose.random()
    scene = kit.blank(kit.shifted(behind, 0.02), 0.03, 0.0)
    scene.albedo *= (1 + 0.05 * kit.noise(4))[..., None]
    present, u = _edited_wires(kit, u, v)
    sheen = (0.95 + 0.05 * kit.noise(kit.unit / 3))[..., None]
    for across, along, wires_present, sign in ((u, v, present, 1), (v, u, None, -1)):
        offset = across - np.floor(across) - 0.5
        cover = np.clip((radius - np.abs(offset)) * pitch + 0.5, 0, 1)
        if wires_present is not None:
            cover = cover * wires_present
        lift = np.float32(0.9 * kit.s) * np.cos(np.pi * (along - 0.5 + np.floor(across))) * sign
        profile = np.sqrt(np.clip(1 - (offset / radius) ** 2, 0, 1)) * np.float32(radius * pitch) + lift
        top = cover * (profile > scene.height)
        scene.lay(top.astype(np.float32), np.asarray(colour, np.float32) * sheen, gloss=0.5)
        scene.height = np.where(top > 0.5, profile, scene.height)
        scene.alpha = np.maximum(scene.alpha, cover)
    layout = "The wires form a regular square grid; no wire is cut and no wire leaves its line."
    return scene, Facts("metal", name, "grid of wires", layout=layout)


def _edited_wires(kit: Kit, u: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Two arrays (H, W) after the edit: 0 where a wire is cut, else 1; and `u`, where a wire may be bent."""
    present = np.ones_like(u)
    if kit.edit is None or kit.edit.kind not in ("missing part", "misplaced part"):
        return present, u
    h, w = u.shape
    rng = kit.edit.rng
    row = int(rng.integers(int(h * 0.25), int(h * 0.75)))
    column = int(rng.integers(int(w * 0.25), int(w * 0.75)))
    i, j = np.floor(u[row, column]), np.floor(v[row, column]) + 0.5
    if kit.edit.kind == "missing part":
        kit.edit.note = "missing wire"
        half = rng.uniform(1.1, 2.2)
        return np.where((np.floor(u) == i) & (np.abs(v - j) < half), 0, 1).astype(np.float32), u
    kit.edit.note = "misplaced wire"
    side, length = rng.choice([-1, 1]), rng.uniform(0.9, 1.4)
    push = side * 0.5 * np.exp(-(((v - j) / length) ** 2) - ((u - i - 0.5) / 0.75) ** 2)
    return present, (u + push).astype(np.float32)
