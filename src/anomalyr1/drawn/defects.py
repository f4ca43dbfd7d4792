"""How physical defects are drawn: each changes a scene in one place and says what it looks like.

A drawing function takes the scene (changed in place), a random generator, the place (cx, cy), the scale of
details `s` and a strength of about 1, and returns its cover, (H, W) in 0..1, and a description. Sizes keep a
gap between "small" and "large" and between "short" and "long", so that the words are true.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalyr1.drawn.scene import Colour, Floats, Scene, pick, rgb

Points = NDArray[np.float64]

Drawing = Callable[[Scene, Generator, tuple[float, float], float, float], tuple[Floats, str]]

TINTS = {
    "reddish": (0.36, -0.22, -0.22),
    "greenish": (-0.24, 0.26, -0.24),
    "bluish": (-0.26, -0.08, 0.34),
    "yellowish": (0.26, 0.18, -0.34),
}
"""What a discoloration adds to the colour."""
STAINS = {
    "brown": rgb(98, 62, 34),
    "dark": rgb(34, 34, 37),
    "rusty": rgb(172, 88, 36),
    "pale": rgb(214, 206, 186),
}
SPECKS = {
    "red": rgb(205, 40, 45), "green": rgb(40, 165, 70), "blue": rgb(50, 85, 215),
    "yellow": rgb(240, 215, 60), "white": rgb(245, 245, 245), "black": rgb(20, 20, 22),
}  # fmt: skip
SHORT_LONG, SMALL_LARGE = ("short", "long"), ("small", "large")
LOUD = 0.22
"""Least distance of a new colour from the old one, per channel at best; closer colours are not chosen."""


def scratch(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A thin, gently bent line."""
    length, length_word = _graded(rng, (30, 48), (70, 125), s, SHORT_LONG)
    bend, way = rng.uniform(-0.5, 0.5), rng.uniform(0, 2 * np.pi)
    t = np.linspace(-0.5, 0.5, 14)
    turn = way + bend * t
    xs, ys = at[0] + length * t * np.cos(turn), at[1] + length * t * np.sin(turn)
    cover = _line(scene, xs, ys, rng.uniform(1.3, 2.6) * s)
    ground = _tone(scene, at)
    is_bright = ground < (0.6 if rng.random() < 0.6 else 0.3)
    if is_bright:
        tone = min(0.97, ground + rng.uniform(0.35, 0.6) * strength)
    else:
        tone = max(0.03, ground - rng.uniform(0.3, 0.5) * strength)
    gloss = 0.3 if is_bright else 0.0
    scene.lay(np.minimum(cover * 0.95, 1), (tone, tone, tone), raised=-1.2 * s, gloss=gloss)
    return cover, f"{length_word} {'bright' if is_bright else 'dark'} scratch"


def crack(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A jagged dark line, sometimes branched."""
    length, length_word = _graded(rng, (30, 46), (68, 120), s, SHORT_LONG)
    way, is_branched = rng.uniform(0, 2 * np.pi), bool(rng.random() < 0.5)
    wide = rng.uniform(1.4, 2.3) * s
    x, y = at[0] - length / 2 * np.cos(way), at[1] - length / 2 * np.sin(way)
    xs, ys, ways = _walk(rng, x, y, way, length, s)
    cover = _line(scene, xs, ys, wide)
    for k in (len(xs) // 3, len(xs) * 2 // 3) if is_branched else ():
        turn = ways[k] + rng.choice([-1, 1]) * rng.uniform(0.6, 1.1)
        branch_xs, branch_ys, _ = _walk(rng, xs[k], ys[k], turn, length * rng.uniform(0.25, 0.4), s)
        cover = np.maximum(cover, _line(scene, branch_xs, branch_ys, wide * 0.75))
    tone = 0.05 if _tone(scene, at) > 0.16 else 0.55
    opacity = np.float32(min(1.0, 0.85 + 0.15 * strength))
    scene.lay(cover * opacity, (tone, tone, tone), raised=-2.0 * s, gloss=0.0)
    return cover, f"{length_word} {'branched' if is_branched else 'jagged'} crack"


def stain(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A spilled spot with a darker rim."""
    size, size_word = _graded(rng, (9, 14), (22, 36), s, SMALL_LARGE)
    name = pick(rng, *_loud_colours(scene, at, STAINS, LOUD * 1.3))
    d = _blob(scene, rng, at, size, rng.uniform(0.6, 1.0), 0.3)
    cover = np.clip((1.1 - d) * 5, 0, 1)
    rim = np.exp(-(((d - 0.92) / 0.10) ** 2)) * cover
    depth = np.float32(np.clip(rng.uniform(0.65, 0.85) * strength, 0.4, 0.9))
    grain = np.clip(scene.albedo.mean(axis=2) / max(0.05, _tone(scene, at)), 0.6, 1.4)
    scene.lay(cover * depth, np.array(STAINS[name], np.float32) * grain[..., None])
    scene.albedo *= 1 - (0.18 * rim)[..., None]
    scene.lay(cover, gloss=float(rng.choice([0.05, 0.45])))
    return cover, f"{size_word} {name} stain"


def hole(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A hole, round or ragged, with a rim and a dark ground."""
    size, size_word = _graded(rng, (6, 9), (14, 22), s, SMALL_LARGE)
    is_ragged = bool(rng.random() < 0.5)
    d = _blob(scene, rng, at, size, rng.uniform(0.85, 1.0), 0.34 if is_ragged else 0.04)
    soft = max(1.0, size)
    cover = np.clip((1 - d) * soft + 0.5, 0, 1)
    rim = np.exp(-(((d - 1.15) / 0.16) ** 2))
    scene.height += np.float32(1.6 * s) * rim - np.float32(5 * s * strength) * cover
    ground = 0.025 if _tone(scene, at) > 0.16 else 0.6
    scene.lay(cover, (ground, ground, ground * 1.05), gloss=0.0)
    description = f"{size_word} {'ragged' if is_ragged else 'round'} hole"
    return np.clip((1.18 - d) * soft, 0, 1), description


def dent(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A dimple without a change of colour: only light tells."""
    size, size_word = _graded(rng, (8, 12), (19, 30), s, SMALL_LARGE)
    is_long = bool(rng.random() < 0.4)
    d = _blob(scene, rng, at, size, 0.5 if is_long else 1.0, 0.08)
    bowl = np.exp(-((d / 0.62) ** 4))
    scene.height -= np.float32(size * 0.42 * strength) * bowl * rng.choice([1.0, 1.0, -1.0])
    scene.albedo *= (1 - 0.10 * bowl)[..., None]
    description = f"{size_word} {'elongated' if is_long else 'round'} dent"
    return np.clip((1 - d) * 6, 0, 1), description


def contamination(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """Foreign specks in a cluster, or a fibre."""
    name = pick(rng, *_loud_colours(scene, at, SPECKS, LOUD * 1.6))
    is_fibre = rng.random() < 0.4
    cover = _fibre(scene, rng, at, s) if is_fibre else _particles(scene, rng, at, s)
    rise = cv2.GaussianBlur(cover, (0, 0), 1.0) * np.float32(1.5 * s * strength)
    scene.lay(cover, SPECKS[name], raised=rise, gloss=0.2)
    return cover, f"{name} {'fibre' if is_fibre else 'particles'}"


def _fibre(scene: Scene, rng: Generator, at: tuple[float, float], s: float) -> Floats:
    """Cover (H, W) of a curled thread."""
    t = np.linspace(-0.5, 0.5, 16)
    way, length = rng.uniform(0, 2 * np.pi), rng.uniform(38, 80) * s
    curl = rng.uniform(3.5, 8) * rng.choice([-1, 1])
    turn = way + curl * t**2 * np.sign(t + 0.2)
    step = length / 15
    xs = at[0] + step * np.cumsum(np.cos(turn)) - 8 * step * np.cos(way)
    ys = at[1] + step * np.cumsum(np.sin(turn)) - 8 * step * np.sin(way)
    return _line(scene, xs, ys, 2.0 * s)


def _particles(scene: Scene, rng: Generator, at: tuple[float, float], s: float) -> Floats:
    """Cover (H, W) of 30 specks around a place."""
    canvas = np.zeros(scene.height.shape, np.uint8)
    spread = rng.uniform(5, 15) * s
    dx_dy = np.clip(rng.normal(0, spread, (2, 30)), -1.6 * spread, 1.6 * spread)
    for dx, dy, radius in zip(*dx_dy, rng.uniform(1.2, 3.4, 30), strict=True):
        centre_xy = round((at[0] + dx) * 16), round((at[1] + dy) * 16)
        cv2.circle(canvas, centre_xy, round(radius * s * 16), 255, -1, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / np.float32(255)


def discoloration(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A soft patch of another hue."""
    size, size_word = _graded(rng, (13, 18), (28, 44), s, SMALL_LARGE)
    # 1. A tint that changes this colour, and not in the direction of what it is already.
    here = np.array(scene.albedo[int(at[1]), int(at[0])])
    bright = max(0.3, float(here.mean()) ** 0.5)
    change = {
        name: float(np.abs(np.clip(here + bright * np.array(tint), 0, 1) - here).max())
        for name, tint in TINTS.items()
    }
    chroma = here - here.mean()
    names = [
        name
        for name, tint in TINTS.items()
        if change[name] > 0.4 * max(change.values()) and float(chroma @ np.array(tint)) < 0.02
    ]
    name = pick(rng, *names)
    # 2. The patch.
    d = _blob(scene, rng, at, size, rng.uniform(0.65, 1.0), 0.18)
    cover = np.clip((1.15 - d) * 3, 0, 1)
    power = np.float32(0.8 * strength * bright)
    scene.albedo += (cover * power)[..., None] * np.array(TINTS[name], np.float32)
    np.clip(scene.albedo, 0.01, 1.0, out=scene.albedo)
    return cover, f"{size_word} {name} discoloration"


def wear(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A rubbed patch: frayed edge, paler or darker, with scuffs in one direction."""
    size, size_word = _graded(rng, (14, 19), (29, 44), s, SMALL_LARGE)
    h, w = scene.height.shape
    is_scuffed = bool(rng.random() < 0.5)
    d = _blob(scene, rng, at, size, rng.uniform(0.6, 0.9), 0.2)
    grid = rng.standard_normal((h // 3, w // 3), dtype=np.float32)
    speck = cv2.resize(grid, (w, h), interpolation=cv2.INTER_LINEAR)
    cover = np.clip((1.05 - d + 0.14 * speck) * 4, 0, 1)
    tone = _tone(scene, at)
    target = min(0.95, tone + 0.32 * strength) if tone < 0.55 else max(0.05, tone - 0.30 * strength)
    paint = cover * 0.6
    if is_scuffed:
        way = rng.uniform(0, np.pi)
        yy, xx = np.mgrid[0:h, 0:w].astype(np.float32)
        lines = np.sin((xx * np.sin(way) - yy * np.cos(way)) * np.float32(1.5 / s) + 1.2 * speck)
        paint = cover * np.clip(0.45 + 0.4 * lines, 0, 1)
    scene.lay(paint, (target, target, target))
    scene.height += (cv2.GaussianBlur(scene.height, (0, 0), 2.5) - scene.height) * cover * 0.8
    description = f"{size_word} {'scuffed' if is_scuffed else 'frayed'} worn patch"
    return np.clip((1.12 - d) * 6, 0, 1), description


PHYSICAL: dict[str, Drawing] = {
    "scratch": scratch, "crack": crack, "stain": stain, "hole": hole, "dent": dent,
    "contamination": contamination, "discoloration": discoloration, "wear": wear,
}  # fmt: skip
"""Kinds that change one place of a part."""
LOGICAL = ("missing part", "extra part", "misplaced part", "wrong count")
"""Kinds that only the design tells: the painter draws another part."""


def _graded(
    rng: Generator, low: tuple[float, float], high: tuple[float, float], s: float, words: tuple[str, str]
) -> tuple[float, str]:
    """A length from one of two ranges (at scale 1), and the word for that range."""
    upper = bool(rng.random() < 0.5)
    return float(rng.uniform(*(high if upper else low))) * s, words[upper]


def _loud_colours(
    scene: Scene, at: tuple[float, float], colours: dict[str, Colour], least: float
) -> list[str]:
    """Names of colours that are farther than `least` from the surface's, in the channel that tells best."""
    here = scene.albedo[int(at[1]), int(at[0])]
    return [name for name, colour in colours.items() if float(np.abs(here - np.array(colour)).max()) > least]


def _tone(scene: Scene, at: tuple[float, float]) -> float:
    """Mean brightness of the surface around a place."""
    x, y = int(at[0]), int(at[1])
    return float(scene.albedo[max(0, y - 6) : y + 7, max(0, x - 6) : x + 7].mean())


def _line(scene: Scene, xs: Points, ys: Points, wide: float) -> Floats:
    """Cover (H, W) of a polyline `wide` pixels wide and thinner to its ends, drawn at double size."""
    h, w = scene.height.shape
    canvas = np.zeros((2 * h, 2 * w), np.uint8)
    points = np.round(np.stack([xs, ys], 1) * 32).astype(np.int32).tolist()
    n = len(points) - 1
    for k in range(n):
        taper = min(1.0, 0.45 + 3 * min(k + 0.5, n - k - 0.5) / n)
        thickness = max(2, round(2 * wide * taper))
        cv2.line(canvas, points[k], points[k + 1], 255, thickness, cv2.LINE_AA, 4)
    cover = np.asarray(cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA), dtype=np.float32)
    return cover / np.float32(255)


def _walk(
    rng: Generator, x: float, y: float, way: float, length: float, s: float
) -> tuple[Points, Points, Points]:
    """A jagged path: xs, ys and the heading at each."""
    n = max(4, int(length / (6 * s)))
    ways = way + np.cumsum(rng.uniform(-0.75, 0.75, n)) * 0.6 + rng.uniform(-0.5, 0.5, n)
    step = length / n
    xs = x + np.concatenate([[0], np.cumsum(np.cos(ways))]) * step
    ys = y + np.concatenate([[0], np.cumsum(np.sin(ways))]) * step
    return xs, ys, np.append(ways, ways[-1])


def _blob(
    scene: Scene, rng: Generator, at: tuple[float, float], radius: float, aspect: float, ragged: float
) -> Floats:
    """(H, W) distance from the place in units of an uneven outline: 1 on the outline."""
    h, w = scene.height.shape
    turn, phases = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 4)
    dx = np.arange(w, dtype=np.float32)[None, :] + np.float32(0.5 - at[0])
    dy = np.arange(h, dtype=np.float32)[:, None] + np.float32(0.5 - at[1])
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, y = (dx * c + dy * s) / np.float32(radius), (dy * c - dx * s) / np.float32(radius * aspect)
    theta = np.arctan2(y, x)
    outline = 1 + ragged * sum(
        amount * np.sin(k * theta + phase)
        for k, amount, phase in zip((2, 3, 5, 9), (0.4, 0.35, 0.3, 0.2), phases, strict=True)
    )
    return np.asarray(np.sqrt(x * x + y * y) / outline, dtype=np.float32)
