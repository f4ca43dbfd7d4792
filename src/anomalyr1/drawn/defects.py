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

from anomalyr1.drawn.scene import Floats, Scene, pick, rgb

Points = NDArray[np.float64]

Drawing = Callable[[Scene, Generator, tuple[float, float], float, float], tuple[Floats, str]]

TINTS = {
    "reddish": (0.36, -0.22, -0.22),
    "greenish": (-0.24, 0.26, -0.24),
    "bluish": (-0.26, -0.08, 0.34),
    "yellowish": (0.26, 0.18, -0.34),
}
STAINS = {
    "brown": rgb(98, 62, 34),
    "dark": rgb(34, 34, 37),
    "rusty": rgb(172, 88, 36),
    "pale": rgb(214, 206, 186),
}
SPECKS = {
    "red": rgb(205, 40, 45),
    "green": rgb(40, 165, 70),
    "blue": rgb(50, 85, 215),
    "yellow": rgb(240, 215, 60),
    "white": rgb(245, 245, 245),
    "black": rgb(20, 20, 22),
}
LOUD = 0.22
"""Least distance of a new colour from the old one, per channel at best; closer colours are not chosen."""


def scratch(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A thin, gently bent line."""
    length, long = _graded(rng, (30, 48), (70, 125), s)
    bend, way = rng.uniform(-0.5, 0.5), rng.uniform(0, 2 * np.pi)
    t = np.linspace(-0.5, 0.5, 14)
    turn = way + bend * t
    cover = _line(
        scene, at[0] + length * t * np.cos(turn), at[1] + length * t * np.sin(turn), rng.uniform(1.3, 2.6) * s
    )
    bright = _tone(scene, at) < 0.6 if rng.random() < 0.6 else _tone(scene, at) < 0.3
    tone = (
        min(0.97, _tone(scene, at) + rng.uniform(0.35, 0.6) * strength)
        if bright
        else max(0.03, _tone(scene, at) - rng.uniform(0.3, 0.5) * strength)
    )
    scene.lay(np.minimum(cover * 0.95, 1), (tone, tone, tone), raised=-1.2 * s, gloss=0.3 if bright else 0.0)
    return cover, f"{'long' if long else 'short'} {'bright' if bright else 'dark'} scratch"


def crack(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A jagged dark line, sometimes branched."""
    length, long = _graded(rng, (30, 46), (68, 120), s)
    way, branched = rng.uniform(0, 2 * np.pi), bool(rng.random() < 0.5)
    wide = rng.uniform(1.4, 2.3) * s
    xs, ys, ways = _walk(
        rng, at[0] - length / 2 * np.cos(way), at[1] - length / 2 * np.sin(way), way, length, s
    )
    cover = _line(scene, xs, ys, wide)
    if branched:
        for k in (len(xs) // 3, len(xs) * 2 // 3):
            turn = ways[k] + rng.choice([-1, 1]) * rng.uniform(0.6, 1.1)
            cover = np.maximum(
                cover,
                _line(
                    scene,
                    *_walk(rng, xs[k], ys[k], turn, length * rng.uniform(0.25, 0.4), s)[:2],
                    wide * 0.75,
                ),
            )
    dark = 0.05 if _tone(scene, at) > 0.16 else 0.55
    scene.lay(
        cover * np.float32(min(1.0, 0.85 + 0.15 * strength)), (dark, dark, dark), raised=-2.0 * s, gloss=0.0
    )
    return cover, f"{'long' if long else 'short'} {'branched' if branched else 'jagged'} crack"


def stain(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A spilled spot with a darker rim."""
    size, large = _graded(rng, (9, 14), (22, 36), s)
    here = scene.albedo[int(at[1]), int(at[0])]
    names = [
        name for name, colour in STAINS.items() if float(np.abs(here - np.array(colour)).max()) > LOUD * 1.3
    ]
    name = pick(rng, *names)
    d = _blob(scene, rng, at, size, rng.uniform(0.6, 1.0), 0.3)
    cover = np.clip((1.1 - d) * 5, 0, 1)
    rim = np.exp(-(((d - 0.92) / 0.10) ** 2)) * cover
    depth = np.float32(np.clip(rng.uniform(0.65, 0.85) * strength, 0.4, 0.9))
    grain = np.clip(scene.albedo.mean(axis=2) / max(0.05, _tone(scene, at)), 0.6, 1.4)
    scene.lay(cover * depth, np.array(STAINS[name], np.float32) * grain[..., None])
    scene.albedo *= 1 - (0.18 * rim)[..., None]
    scene.lay(cover, gloss=float(rng.choice([0.05, 0.45])))
    return cover, f"{'large' if large else 'small'} {name} stain"


def hole(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A hole, round or ragged, with a rim and a dark ground."""
    size, large = _graded(rng, (6, 9), (14, 22), s)
    ragged = bool(rng.random() < 0.5)
    d = _blob(scene, rng, at, size, rng.uniform(0.85, 1.0), 0.34 if ragged else 0.04)
    soft = max(1.0, size)
    cover = np.clip((1 - d) * soft + 0.5, 0, 1)
    ground = 0.025 if _tone(scene, at) > 0.16 else 0.6
    scene.height += (
        np.float32(1.6 * s) * np.exp(-(((d - 1.15) / 0.16) ** 2)) - np.float32(5 * s * strength) * cover
    )
    scene.lay(cover, (ground, ground, ground * 1.05), gloss=0.0)
    return np.clip(
        (1.18 - d) * soft, 0, 1
    ), f"{'large' if large else 'small'} {'ragged' if ragged else 'round'} hole"


def dent(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A dimple without a change of colour: only light tells."""
    size, large = _graded(rng, (8, 12), (19, 30), s)
    long = bool(rng.random() < 0.4)
    d = _blob(scene, rng, at, size, 0.5 if long else 1.0, 0.08)
    bowl = np.exp(-((d / 0.62) ** 4))
    scene.height -= np.float32(size * 0.42 * strength) * bowl * rng.choice([1.0, 1.0, -1.0])
    scene.albedo *= (1 - 0.10 * bowl)[..., None]
    return np.clip(
        (1 - d) * 6, 0, 1
    ), f"{'large' if large else 'small'} {'elongated' if long else 'round'} dent"


def contamination(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """Foreign specks in a cluster, or a fibre."""
    here = scene.albedo[int(at[1]), int(at[0])]
    names = [
        name for name, colour in SPECKS.items() if float(np.abs(here - np.array(colour)).max()) > LOUD * 1.6
    ]
    name = pick(rng, *names)
    if rng.random() < 0.4:
        t = np.linspace(-0.5, 0.5, 16)
        way, length, curl = (
            rng.uniform(0, 2 * np.pi),
            rng.uniform(38, 80) * s,
            rng.uniform(3.5, 8) * rng.choice([-1, 1]),
        )
        turn = way + curl * t**2 * np.sign(t + 0.2)
        step = length / 15
        cover = _line(
            scene,
            at[0] + step * np.cumsum(np.cos(turn)) - 8 * step * np.cos(way),
            at[1] + step * np.cumsum(np.sin(turn)) - 8 * step * np.sin(way),
            2.0 * s,
        )
        text = f"{name} fibre"
    else:
        canvas = np.zeros(scene.height.shape, np.uint8)
        spread = rng.uniform(5, 15) * s
        for x, y, r in zip(
            *np.clip(rng.normal(0, spread, (2, 30)), -1.6 * spread, 1.6 * spread),
            rng.uniform(1.2, 3.4, 30),
            strict=True,
        ):
            cv2.circle(
                canvas,
                (round((at[0] + x) * 16), round((at[1] + y) * 16)),
                round(r * s * 16),
                255,
                -1,
                cv2.LINE_AA,
                4,
            )
        cover = canvas.astype(np.float32) / np.float32(255)
        text = f"{name} particles"
    scene.lay(
        cover,
        SPECKS[name],
        raised=cv2.GaussianBlur(cover, (0, 0), 1.0) * np.float32(1.5 * s * strength),
        gloss=0.2,
    )
    return cover, text


def discoloration(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A soft patch of another hue."""
    size, large = _graded(rng, (13, 18), (28, 44), s)
    here = np.array(scene.albedo[int(at[1]), int(at[0])])
    power = 0.8 * strength
    bright = max(0.3, float(here.mean()) ** 0.5)
    moved = {
        name: float(np.abs(np.clip(here + bright * np.array(tint), 0, 1) - here).max())
        for name, tint in TINTS.items()
    }
    chroma = here - here.mean()
    names = [
        name
        for name, change in moved.items()
        if change > 0.4 * max(moved.values()) and float(chroma @ np.array(TINTS[name])) < 0.02
    ]
    name = pick(rng, *names)
    d = _blob(scene, rng, at, size, rng.uniform(0.65, 1.0), 0.18)
    cover = np.clip((1.15 - d) * 3, 0, 1)
    scene.albedo += (cover * np.float32(power * bright))[..., None] * np.array(TINTS[name], np.float32)
    np.clip(scene.albedo, 0.01, 1.0, out=scene.albedo)
    return cover, f"{'large' if large else 'small'} {name} discoloration"


def wear(
    scene: Scene, rng: Generator, at: tuple[float, float], s: float, strength: float
) -> tuple[Floats, str]:
    """A rubbed patch: frayed edge, paler or darker, with scuffs in one direction."""
    size, large = _graded(rng, (14, 19), (29, 44), s)
    h, w = scene.height.shape
    scuffed = bool(rng.random() < 0.5)
    d = _blob(scene, rng, at, size, rng.uniform(0.6, 0.9), 0.2)
    speck = cv2.resize(
        rng.standard_normal((h // 3, w // 3), dtype=np.float32), (w, h), interpolation=cv2.INTER_LINEAR
    )
    cover = np.clip((1.05 - d + 0.14 * speck) * 4, 0, 1)
    tone = _tone(scene, at)
    target = min(0.95, tone + 0.32 * strength) if tone < 0.55 else max(0.05, tone - 0.30 * strength)
    paint = cover * 0.6
    if scuffed:
        way = rng.uniform(0, np.pi)
        yy, xx = np.mgrid[0:h, 0:w].astype(np.float32)
        lines = np.sin((xx * np.sin(way) - yy * np.cos(way)) * np.float32(1.5 / s) + 1.2 * speck)
        paint = cover * np.clip(0.45 + 0.4 * lines, 0, 1)
    scene.lay(paint, (target, target, target))
    scene.height += (cv2.GaussianBlur(scene.height, (0, 0), 2.5) - scene.height) * cover * 0.8
    return np.clip(
        (1.12 - d) * 6, 0, 1
    ), f"{'large' if large else 'small'} {'scuffed' if scuffed else 'frayed'} worn patch"


PHYSICAL: dict[str, Drawing] = {
    "scratch": scratch, "crack": crack, "stain": stain, "hole": hole, "dent": dent,
    "contamination": contamination, "discoloration": discoloration, "wear": wear,
}  # fmt: skip
LOGICAL = ("missing part", "extra part", "misplaced part", "wrong count")


def _graded(
    rng: Generator, low: tuple[float, float], high: tuple[float, float], s: float
) -> tuple[float, bool]:
    """A length from one of two ranges (at scale 1), and whether it is the upper one."""
    upper = bool(rng.random() < 0.5)
    return float(rng.uniform(*(high if upper else low))) * s, upper


def _tone(scene: Scene, at: tuple[float, float]) -> float:
    """Mean brightness of the surface around a place."""
    x, y = int(at[0]), int(at[1])
    return float(scene.albedo[max(0, y - 6) : y + 7, max(0, x - 6) : x + 7].mean())


def _line(scene: Scene, xs: Points, ys: Points, wide: float) -> Floats:
    """Cover (H, W) of a polyline `wide` pixels wide and thinner to its ends, drawn at double size."""
    h, w = scene.height.shape
    canvas = np.zeros((2 * h, 2 * w), np.uint8)
    points = np.round(np.stack([xs, ys], 1) * 32).astype(np.int32)
    n = len(points) - 1
    for k in range(n):
        taper = min(1.0, 0.45 + 3 * min(k + 0.5, n - k - 0.5) / n)
        cv2.line(
            canvas,
            points[k].tolist(),
            points[k + 1].tolist(),
            255,
            max(2, round(2 * wide * taper)),
            cv2.LINE_AA,
            4,
        )
    return np.asarray(
        cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA), dtype=np.float32
    ) / np.float32(255)


def _walk(
    rng: Generator, x: float, y: float, way: float, length: float, s: float
) -> tuple[Points, Points, Points]:
    """A jagged path: xs, ys and the heading at each."""
    n = max(4, int(length / (6 * s)))
    ways = way + np.cumsum(rng.uniform(-0.75, 0.75, n)) * 0.6 + rng.uniform(-0.5, 0.5, n)
    step = length / n
    xs, ys = (
        x + np.concatenate([[0], np.cumsum(np.cos(ways))]) * step,
        y + np.concatenate([[0], np.cumsum(np.sin(ways))]) * step,
    )
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
