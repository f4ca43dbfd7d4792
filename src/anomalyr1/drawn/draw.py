"""Drawn parts: industrial images made on the spot, with defects whose mask, boxes, description and questions are true by construction.

`draw` makes one, `reference` another good part of the same design, `parse_spec` and `write` turn a spec such
as `drawn:dev?n=64&seed=3` into samples on disk. All is a function of the seed: the same in any process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalyr1 import boxes as box_arithmetic
from anomalyr1.drawn import boards as parts_boards
from anomalyr1.drawn import objects as parts_objects
from anomalyr1.drawn import questions as drawn_questions
from anomalyr1.drawn import surfaces as parts_surfaces
from anomalyr1.drawn import unfamiliar as parts_unfamiliar
from anomalyr1.drawn.defects import LOGICAL, PHYSICAL
from anomalyr1.drawn.record import Drawn, Facts, Image
from anomalyr1.drawn.scene import Edit, Floats, Kit, Light, Scene, lamp, photograph, shade
from anomalyr1.drawn.words import HELD_OUT_DEFECTS, SPLITS, UNFAMILIAR
from anomalyr1.types import Box, InputError

Painter = Callable[[Kit], tuple[Scene, Facts]]

DEFECTS: tuple[str, ...] = (*PHYSICAL, *LOGICAL)
"""All kinds; the last four are logical: only the design tells that something is wrong."""

_PAINTERS: dict[str, Painter] = {
    "metal plate": parts_surfaces.metal_plate, "woven fabric": parts_surfaces.woven_fabric, "wood panel": parts_surfaces.wood_panel,
    "wire mesh": parts_surfaces.wire_mesh, "circuit board": parts_boards.circuit_board, "capsule": parts_objects.capsule,
    "washer": parts_objects.washer, "screw": parts_objects.screw, "bottle mouth": parts_objects.bottle_mouth,
    "blister pack": parts_boards.blister_pack, "casting": parts_objects.casting, "label": parts_boards.label,
    "ceramic tile": parts_surfaces.ceramic_tile, "bearing": parts_objects.bearing, "connector": parts_boards.connector,
    "leather": parts_surfaces.leather, "gear": parts_objects.gear, "cable": parts_objects.cable,
    UNFAMILIAR: parts_unfamiliar.unfamiliar_part,
}  # fmt: skip

LEGAL: dict[str, tuple[str, ...]] = {
    "metal plate": ("scratch", "stain", "hole", "dent", "contamination", "discoloration", "wear"),
    "woven fabric": ("stain", "hole", "contamination", "discoloration", "wear"),
    "wood panel": ("scratch", "crack", "stain", "hole", "contamination", "discoloration", "wear"),
    "wire mesh": ("contamination", "discoloration", "missing part", "misplaced part"),
    "circuit board": ("scratch", "contamination", "discoloration", "missing part", "extra part", "misplaced part"),
    "capsule": ("scratch", "crack", "stain", "hole", "dent", "contamination", "discoloration"),
    "washer": ("scratch", "crack", "stain", "dent", "contamination", "discoloration", "wear"),
    "screw": ("scratch", "stain", "contamination", "discoloration"),
    "bottle mouth": ("scratch", "crack", "stain", "contamination"),
    "blister pack": ("scratch", "stain", "hole", "contamination", "missing part", "extra part", "misplaced part", "wrong count"),
    "casting": (
        "scratch", "crack", "stain", "dent", "contamination", "discoloration", "wear", "missing part", "misplaced part", "wrong count",
    ),
    "label": ("scratch", "stain", "hole", "contamination", "discoloration", "wear", "missing part", "extra part", "misplaced part"),
    "ceramic tile": ("scratch", "crack", "stain", "hole", "contamination", "discoloration", "wear"),
    "bearing": ("scratch", "crack", "stain", "dent", "contamination", "discoloration", "missing part", "wrong count"),
    "connector": ("scratch", "crack", "stain", "contamination", "discoloration", "missing part", "misplaced part", "wrong count"),
    "leather": ("scratch", "stain", "hole", "contamination", "discoloration", "wear"),
    "gear": ("scratch", "crack", "stain", "dent", "contamination", "discoloration", "wear", "missing part", "wrong count"),
    "cable": ("scratch", "stain", "hole", "contamination", "discoloration", "missing part", "misplaced part"),
    UNFAMILIAR: tuple(kind for kind in DEFECTS if kind not in HELD_OUT_DEFECTS),
}  # fmt: skip
"""The kinds that make sense on each category."""

_SIZES_WH = (
    (168, 168), (196, 196), (224, 224), (252, 252), (280, 280), (224, 168), (168, 224), (280, 196), (196, 280), (336, 252), (448, 336),
    (200, 200), (256, 256), (240, 180), (180, 240),
)  # fmt: skip
_SIZE_WEIGHTS = np.array([10, 15, 23, 11, 5, 5, 5, 2, 2, 1, 0.5, 7, 6, 4, 3.5])
_DEFECTIVE = 0.55
_SECOND = 0.12
"""Share of physical defects that come twice."""
_ATTEMPTS = 32
_LEAST_PIXELS = 24
_LEAST_CONTRAST = 13.0
"""Mean change of the lit scene in the mask, 0..255, strongest channel: what a person still sees through
noise."""


class Invisible(RuntimeError):
    """A defect could not be drawn so that it is seen."""


def draw(seed: int, category: str | None = None, defect: str | None = "any") -> Drawn:
    """Draw one part.

    `category` None takes one of the seen split. `defect` None draws it good, "any" makes 55 % defective with
    a kind legal for the category (in the seen split never a held-out one), a name draws that kind. The part,
    its pose and the camera depend on seed and category alone. Raises `InputError` for an unknown category or
    a kind that the category cannot have.
    """
    plan = np.random.default_rng([seed, 0])
    known = SPLITS["seen"]
    drawn_category = known[int(plan.integers(len(known)))]
    category = drawn_category if category is None else category
    size_wh = _SIZES_WH[int(plan.choice(len(_SIZES_WH), p=_SIZE_WEIGHTS / _SIZE_WEIGHTS.sum()))]
    kind = _chosen_kind(category, defect, plan)
    key = zlib.crc32(category.encode())
    scene, facts = _paint(category, size_wh, (seed, key), seed, None)
    light, camera = lamp(np.random.default_rng([seed, key, 4])), np.random.default_rng([seed, key, 5])
    mask, description = np.zeros(scene.height.shape, np.bool_), ""
    if kind is not None:
        scene, mask, description = _damaged(category, size_wh, (seed, key), kind, scene, light)
    boxes = _boxes(mask, kind or "", min(size_wh) * 0.035)
    place = box_arithmetic.place(boxes[0], size_wh) if boxes else None
    words = drawn_questions.knowledge(category, facts, np.random.default_rng([seed, key, 6]))
    return Drawn(
        photograph(shade(scene, light), camera),
        mask,
        boxes,
        category,
        kind,
        description,
        place,
        words,
        seed,
        facts,
    )


def reference(drawn: Drawn, number: int = 0) -> Image:
    """Another good part of the same design, (H, W, 3) uint8 of the same size: other pose, grain, light and noise."""
    key = zlib.crc32(drawn.category.encode())
    h, w = drawn.mask.shape
    other = (drawn.seed, key, 7, number)
    scene, _ = _paint(drawn.category, (w, h), other, drawn.seed, None)
    return photograph(
        shade(scene, lamp(np.random.default_rng([*other, 4]))), np.random.default_rng([*other, 5])
    )


def _chosen_kind(category: str, defect: str | None, plan: Generator) -> str | None:
    if category not in LEGAL:
        raise InputError(f"unknown category {category!r}; choose one of {', '.join(sorted(LEGAL))}")
    legal = LEGAL[category]
    if defect not in (None, "any") and defect not in legal:
        raise InputError(f"a {category} cannot have the defect {defect!r}; choose one of {', '.join(legal)}")
    if defect != "any":
        return defect
    if category in SPLITS["seen"]:
        legal = tuple(kind for kind in legal if kind not in HELD_OUT_DEFECTS)
    return legal[int(plan.integers(len(legal)))] if plan.random() < _DEFECTIVE else None


def _paint(
    category: str, size_wh: tuple[int, int], entropy: tuple[int, ...], design: int, edit: Edit | None
) -> tuple[Scene, Facts]:
    """The scene of a part; `entropy` seeds pose and grain, `design` what a reference shares."""
    key = zlib.crc32(category.encode())
    kit = Kit(
        size_wh,
        np.random.default_rng([design, key, 1]),
        np.random.default_rng([*entropy, 2]),
        np.random.default_rng([*entropy, 3]),
        edit,
    )
    return _PAINTERS[category](kit)


def _damaged(
    category: str, size_wh: tuple[int, int], entropy: tuple[int, int], kind: str, good: Scene, light: Light
) -> tuple[Scene, NDArray[np.bool_], str]:
    """The scene with a visible defect, its mask (H, W) and its description."""
    lit = shade(good, light)
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([*entropy, 8, DEFECTS.index(kind), attempt])
        if kind in LOGICAL:
            edit = Edit(kind, rng)
            bad, _ = _paint(category, size_wh, entropy, entropy[0], edit)
            mask, text = _changed(good, bad), edit.note
        else:
            bad, mask, text = _marked(good, kind, rng, min(size_wh) / 224, attempt)
        if int(mask.sum()) < _LEAST_PIXELS:
            continue
        contrast = np.abs(np.clip(shade(bad, light), 0, 255) - np.clip(lit, 0, 255)).max(axis=2)[mask]
        if float(contrast.mean()) >= _LEAST_CONTRAST and float((contrast > 6).mean()) > 0.4:
            return bad, _hull(mask) if kind == "wrong count" else mask, text
    raise Invisible(f"no visible {kind} could be drawn on {category}, seed {entropy[0]}")


def _marked(
    good: Scene, kind: str, rng: Generator, s: float, attempt: int
) -> tuple[Scene, NDArray[np.bool_], str]:
    """The scene with a physical defect on the part, sometimes with a second that looks alike; the mask is empty when it did not fit."""
    bad, mask, text = _mark(good, kind, rng, s, attempt)
    if mask.any() and rng.random() < _SECOND:
        for _ in range(4):
            both, part, words = _mark(bad, kind, rng, s, attempt)
            if part.any() and words == text:
                return both, mask | part, text
    return bad, mask, text


def _mark(
    good: Scene, kind: str, rng: Generator, s: float, attempt: int
) -> tuple[Scene, NDArray[np.bool_], str]:
    """One physical defect at a random place of the part.

    Words such as "long" describe the whole defect, so most of it must be seen; late attempts and lattices are
    content with less.
    """
    solid = cv2.erode((good.alpha > 0.9).astype(np.uint8), np.ones((3, 3), np.uint8))
    margin = int(14 * s)
    ys, xs = np.nonzero(solid[margin:-margin, margin:-margin])
    k, fresh = int(rng.integers(len(ys))), good.copy()
    at = float(xs[k] + margin), float(ys[k] + margin)
    cover, text = PHYSICAL[kind](fresh, rng, at, s, rng.uniform(0.7, 1.1) + 0.04 * attempt)
    whole = cover > 0.35
    part = whole & (good.alpha > 0.5)
    at_border = whole[0].any() or whole[-1].any() or whole[:, 0].any() or whole[:, -1].any()
    lattice = good.alpha[:, 0].any() and float(good.alpha.mean()) < 0.9
    if attempt < _ATTEMPTS - 6 and not lattice and (at_border or part.sum() < 0.7 * whole.sum()):
        return good, np.zeros_like(part), ""
    return _blended(good, fresh, good.alpha), part, text


def _blended(below: Scene, above: Scene, weight: Floats) -> Scene:
    """`above` where `weight` (H, W) is 1."""
    albedo = below.albedo + weight[..., None] * (above.albedo - below.albedo)
    return Scene(
        albedo,
        below.height + weight * (above.height - below.height),
        below.gloss + weight * (above.gloss - below.gloss),
        below.alpha,
    )


def _changed(good: Scene, bad: Scene) -> NDArray[np.bool_]:
    """Where two scenes differ, gaps closed."""
    differs: NDArray[np.bool_] = (np.abs(good.albedo - bad.albedo).max(axis=2) > 0.06) | (
        np.abs(good.height - bad.height) > 0.8
    )
    radius = max(2, round(min(differs.shape) * 0.02))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    closed = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    return np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)), dtype=np.bool_)


def _boxes(mask: NDArray[np.bool_], label: str, gap: float) -> tuple[Box, ...]:
    """Tight boxes of the mask's parts, largest first; parts closer than about `gap` pixels share one."""
    radius = max(1, round(gap))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    count, groups = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), kernel), connectivity=8)
    rows = []
    for k in range(1, count):
        ys, xs = np.nonzero((groups == k) & mask)
        rows.append(
            Box(x1=int(xs.min()), y1=int(ys.min()), x2=int(xs.max()) + 1, y2=int(ys.max()) + 1, label=label)
        )
    return tuple(sorted(rows, key=lambda box: -(box.x2 - box.x1) * (box.y2 - box.y1)))


def _hull(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The convex hull of a mask: a wrong count concerns the whole group of elements."""
    points = cv2.findNonZero(mask.astype(np.uint8))
    filled = np.zeros(mask.shape, np.uint8)
    if points is not None:
        cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled.astype(np.bool_)
