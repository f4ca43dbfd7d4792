"""Drawn parts: images of industrial parts with defects whose mask, boxes and words are true by construction.

    part = draw(7, "washer", "scratch")
    part.image, part.mask, part.boxes, part.description     # "long bright scratch"
    good_image = reference(part)                            # another good part of the same design

All is a function of the seed: the same in any process. `dataset` turns a spec such as `drawn:dev?n=64&seed=3`
into samples on disk.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalyr1.boxes import place
from anomalyr1.drawn import boards, objects, packages, questions, surfaces, unfamiliar
from anomalyr1.drawn.camera import Light, lamp, photograph, shade
from anomalyr1.drawn.defects import LOGICAL, PHYSICAL
from anomalyr1.drawn.record import Drawn, Facts, Image
from anomalyr1.drawn.scene import Edit, Floats, Kit, Scene
from anomalyr1.drawn.words import HELD_OUT_DEFECTS, SPLITS, UNFAMILIAR
from anomalyr1.types import Box, InputError

Bools = NDArray[np.bool_]
Painter = Callable[[Kit], tuple[Scene, Facts]]

DEFECTS: tuple[str, ...] = (*PHYSICAL, *LOGICAL)
"""All kinds; the last four are logical: only the design tells that something is wrong."""

_PAINTERS: dict[str, Painter] = {
    "metal plate": surfaces.metal_plate, "woven fabric": surfaces.woven_fabric,
    "wood panel": surfaces.wood_panel, "wire mesh": surfaces.wire_mesh,
    "circuit board": boards.circuit_board, "capsule": objects.capsule, "washer": objects.washer,
    "screw": objects.screw, "bottle mouth": objects.bottle_mouth, "blister pack": packages.blister_pack,
    "casting": objects.casting, "label": packages.label, "ceramic tile": surfaces.ceramic_tile,
    "bearing": objects.bearing, "connector": boards.connector, "leather": surfaces.leather,
    "gear": objects.gear, "cable": objects.cable, UNFAMILIAR: unfamiliar.unfamiliar_part,
}  # fmt: skip

LEGAL: dict[str, tuple[str, ...]] = {
    category: tuple(kinds.split(", "))
    for category, kinds in {
        "metal plate": "scratch, stain, hole, dent, contamination, discoloration, wear",
        "woven fabric": "stain, hole, contamination, discoloration, wear",
        "wood panel": "scratch, crack, stain, hole, contamination, discoloration, wear",
        "wire mesh": "contamination, discoloration, missing part, misplaced part",
        "circuit board": "scratch, contamination, discoloration, missing part, extra part, misplaced part",
        "capsule": "scratch, crack, stain, hole, dent, contamination, discoloration",
        "washer": "scratch, crack, stain, dent, contamination, discoloration, wear",
        "screw": "scratch, stain, contamination, discoloration",
        "bottle mouth": "scratch, crack, stain, contamination",
        "blister pack": "scratch, stain, hole, contamination, "
        "missing part, extra part, misplaced part, wrong count",
        "casting": "scratch, crack, stain, dent, contamination, discoloration, wear, "
        "missing part, misplaced part, wrong count",
        "label": "scratch, stain, hole, contamination, discoloration, wear, "
        "missing part, extra part, misplaced part",
        "ceramic tile": "scratch, crack, stain, hole, contamination, discoloration, wear",
        "bearing": "scratch, crack, stain, dent, contamination, discoloration, missing part, wrong count",
        "connector": "scratch, crack, stain, contamination, discoloration, "
        "missing part, misplaced part, wrong count",
        "leather": "scratch, stain, hole, contamination, discoloration, wear",
        "gear": "scratch, crack, stain, dent, contamination, discoloration, wear, missing part, wrong count",
        "cable": "scratch, stain, hole, contamination, discoloration, missing part, misplaced part",
        UNFAMILIAR: ", ".join(kind for kind in DEFECTS if kind not in HELD_OUT_DEFECTS),
    }.items()
}
"""The kinds that make sense on each category."""

_SIZES_WH = (
    (168, 168), (196, 196), (224, 224), (252, 252), (280, 280), (224, 168), (168, 224), (280, 196),
    (196, 280), (336, 252), (448, 336), (200, 200), (256, 256), (240, 180), (180, 240),
)  # fmt: skip
_SIZE_WEIGHTS = np.array([10, 15, 23, 11, 5, 5, 5, 2, 2, 1, 0.5, 7, 6, 4, 3.5])
_DEFECTIVE = 0.55
"""Share of parts with a defect."""
_TWICE = 0.12
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
    # 1. What is drawn, and how large.
    plan = np.random.default_rng([seed, 0])
    seen_category = SPLITS["seen"][int(plan.integers(len(SPLITS["seen"])))]
    category = seen_category if category is None else category
    size_wh = _SIZES_WH[int(plan.choice(len(_SIZES_WH), p=_SIZE_WEIGHTS / _SIZE_WEIGHTS.sum()))]
    kind = _choose_kind(category, defect, plan)
    # 2. The good part and its light, then the defect.
    entropy = (seed, _key(category))
    scene, facts = _paint(category, size_wh, entropy, seed, None)
    light = lamp(np.random.default_rng([*entropy, 4]))
    mask, description = np.zeros(scene.height.shape, np.bool_), ""
    if kind is not None:
        scene, mask, description = _damage(category, size_wh, entropy, kind, scene, light)
    # 3. The picture, and what is true of it.
    boxes = _boxes(mask, kind or "", min(size_wh) * 0.035)
    return Drawn(
        image=photograph(shade(scene, light), np.random.default_rng([*entropy, 5])),
        mask=mask,
        boxes=boxes,
        category=category,
        defect=kind,
        description=description,
        place=place(boxes[0], size_wh) if boxes else None,
        knowledge=questions.knowledge(category, facts, np.random.default_rng([*entropy, 6])),
        seed=seed,
        facts=facts,
    )


def reference(drawing: Drawn, number: int = 0) -> Image:
    """Another good part of the same design, (H, W, 3) uint8, of the same size.

    Its pose, grain, light and noise are others, by `number`.
    """
    h, w = drawing.mask.shape
    entropy = (drawing.seed, _key(drawing.category), 7, number)
    scene, _ = _paint(drawing.category, (w, h), entropy, drawing.seed, None)
    light = lamp(np.random.default_rng([*entropy, 4]))
    return photograph(shade(scene, light), np.random.default_rng([*entropy, 5]))


def _key(category: str) -> int:
    """A number for a category, among the seeds of what is drawn of it."""
    return zlib.crc32(category.encode())


def _choose_kind(category: str, defect: str | None, plan: Generator) -> str | None:
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
    kit = Kit(
        size_wh,
        design=np.random.default_rng([design, _key(category), 1]),
        pose=np.random.default_rng([*entropy, 2]),
        grain=np.random.default_rng([*entropy, 3]),
        edit=edit,
    )
    return _PAINTERS[category](kit)


def _damage(
    category: str, size_wh: tuple[int, int], entropy: tuple[int, int], kind: str, good: Scene, light: Light
) -> tuple[Scene, Bools, str]:
    """The scene with a visible defect, its mask (H, W) and its description.

    Raises `Invisible` where no attempt is seen.
    """
    good_lit = np.clip(shade(good, light), 0, 255)  # (H, W, 3)
    for attempt in range(_ATTEMPTS):
        # 1. Draw it: a logical defect as another part, a physical one on this part.
        rng = np.random.default_rng([*entropy, 8, DEFECTS.index(kind), attempt])
        if kind in LOGICAL:
            edit = Edit(kind, rng)
            bad, _ = _paint(category, size_wh, entropy, entropy[0], edit)
            mask, description = _difference(good, bad), edit.note
        else:
            bad, mask, description = _mark(good, kind, rng, min(size_wh) / 224, attempt)
        # 2. Is it seen?
        if int(mask.sum()) < _LEAST_PIXELS:
            continue
        contrast = np.abs(np.clip(shade(bad, light), 0, 255) - good_lit).max(axis=2)[mask]
        if float(contrast.mean()) >= _LEAST_CONTRAST and float((contrast > 6).mean()) > 0.4:
            return bad, _hull(mask) if kind == "wrong count" else mask, description
    raise Invisible(f"no visible {kind} could be drawn on {category}, seed {entropy[0]}")


def _mark(good: Scene, kind: str, rng: Generator, s: float, attempt: int) -> tuple[Scene, Bools, str]:
    """The scene with a physical defect on the part, sometimes with another that looks alike.

    The mask (H, W) is empty when the defect did not fit.
    """
    bad, mask, description = _mark_once(good, kind, rng, s, attempt)
    if mask.any() and rng.random() < _TWICE:
        for _ in range(4):
            worse, twin_mask, twin_description = _mark_once(bad, kind, rng, s, attempt)
            if twin_mask.any() and twin_description == description:
                return worse, mask | twin_mask, description
    return bad, mask, description


def _mark_once(good: Scene, kind: str, rng: Generator, s: float, attempt: int) -> tuple[Scene, Bools, str]:
    """One physical defect at a random place of the part.

    Words such as "long" describe the whole defect, so most of it must be seen; late attempts and lattices are
    content with less.
    """
    # 1. A place inside the part.
    solid = cv2.erode((good.alpha > 0.9).astype(np.uint8), np.ones((3, 3), np.uint8))
    margin = int(14 * s)
    ys, xs = np.nonzero(solid[margin:-margin, margin:-margin])
    k = int(rng.integers(len(ys)))
    at = float(xs[k] + margin), float(ys[k] + margin)
    # 2. The defect there, on a copy.
    marked = good.copy()
    cover, description = PHYSICAL[kind](marked, rng, at, s, rng.uniform(0.7, 1.1) + 0.04 * attempt)
    # 3. How much of it lies on the part and in the image.
    covered = cover > 0.35
    mask = covered & (good.alpha > 0.5)
    at_border = covered[0].any() or covered[-1].any() or covered[:, 0].any() or covered[:, -1].any()
    is_lattice = good.alpha[:, 0].any() and float(good.alpha.mean()) < 0.9
    must_be_seen = attempt < _ATTEMPTS - 6 and not is_lattice
    if must_be_seen and (at_border or mask.sum() < 0.7 * covered.sum()):
        return good, np.zeros_like(mask), ""
    return _blend(good, marked, good.alpha), mask, description


def _blend(below: Scene, above: Scene, weight: Floats) -> Scene:
    """`above` where `weight` (H, W) is 1."""
    return Scene(
        below.albedo + weight[..., None] * (above.albedo - below.albedo),
        below.height + weight * (above.height - below.height),
        below.gloss + weight * (above.gloss - below.gloss),
        below.alpha,
    )


def _difference(good: Scene, bad: Scene) -> Bools:
    """Where two scenes differ, (H, W), gaps closed."""
    other_colour = np.abs(good.albedo - bad.albedo).max(axis=2) > 0.06
    differs: Bools = other_colour | (np.abs(good.height - bad.height) > 0.8)
    closed = cv2.morphologyEx(
        differs.astype(np.uint8), cv2.MORPH_CLOSE, _disc(max(2, round(min(differs.shape) * 0.02)))
    )
    return np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)), dtype=np.bool_)


def _disc(radius: int) -> NDArray[np.uint8]:
    """A round structuring element."""
    size = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), dtype=np.uint8)


def _boxes(mask: Bools, label: str, gap: float) -> tuple[Box, ...]:
    """Tight boxes of the mask's parts, largest first; parts closer than about `gap` pixels share one."""
    near = cv2.dilate(mask.astype(np.uint8), _disc(max(1, round(gap))))
    count, groups = cv2.connectedComponents(near, connectivity=8)
    boxes = []
    for k in range(1, count):
        ys, xs = np.nonzero((groups == k) & mask)
        x1, y1, x2, y2 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
        boxes.append(Box(x1=x1, y1=y1, x2=x2, y2=y2, label=label))
    return tuple(sorted(boxes, key=lambda box: -box.area))


def _hull(mask: Bools) -> Bools:
    """The convex hull of a mask: a wrong count concerns the whole group of elements."""
    points = cv2.findNonZero(mask.astype(np.uint8))
    filled = np.zeros(mask.shape, np.uint8)
    if points is not None:
        cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled.astype(np.bool_)
