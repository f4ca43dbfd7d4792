"""Good parts -> what a bank holds of them: patches, and what good parts show among themselves."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field

from anomalyr1.evidence import measure
from anomalyr1.evidence.backbone import DEFAULT, Backbone, Features
from anomalyr1.evidence.gathering import PatchDraw, open_ahead
from anomalyr1.evidence.measure import Grid, Yardstick
from anomalyr1.images.door import LoadedImage
from anomalyr1.types import Mask, Record

if TYPE_CHECKING:
    import torch
    from PIL import Image

LEARNED = 8
"""So many good parts are learned where more are there; the others make threshold and promise."""
FEW = 3
"""So many good parts or fewer are compared with copies of themselves, and decide nothing alone."""


SMALLEST = 1e-3
"""A distance that half precision can tell from none: good parts that are all the same show at least this."""


class Settings(Record):
    """How a bank is made and how pictures are measured with it."""

    backbone: str = DEFAULT
    short_side: int = Field(
        default_factory=lambda settings: 320 if settings.get("backbone") == DEFAULT else 448, ge=64, le=2048
    )
    """Pixels of the shorter side of what the network is shown; DINOv2 sees best at 448."""
    max_patches: int = Field(default=16_000, ge=100)
    """How many patches are kept, drawn at random."""
    rotations: bool = False
    """Whether good parts may lie turned by quarters."""
    ignore: Mask | None = None
    """Where pictures do not count, whatever is there; stretched to the size of each picture."""
    smallest: int = Field(default=1, ge=1)
    """Places of fewer pixels of the picture are no places."""
    seed: int = 0


class Part(Record):
    """A good part of a bank."""

    name: str
    """The path it was learned from."""
    sha256: str
    score: float
    """How strange it is beside the other good parts."""
    peak: float
    """Its farthest patch beside the other good parts."""
    held_out: bool = False
    """Whether nothing was learned from it, so that threshold and promise rest on it."""


class Learned(NamedTuple):
    """What a bank holds of good parts."""

    parts: tuple[Part, ...]
    patches: torch.Tensor
    """(M, D) unit vectors of the learned parts, float16."""
    part_of_patch: torch.Tensor
    """(M,) which of `parts` each is from, int32."""
    pooled: torch.Tensor
    """(parts, P) unit vectors, float16."""
    yardstick: Yardstick


def learn(
    images: Sequence[str | Path],
    backbone: Backbone,
    settings: Settings,
    learned: int | None,
    progress: Callable[[int, int], None],
) -> Learned:
    """Learn from image files; see `Bank.learn`."""
    import torch

    # 1. Which are learned, and which are held out.
    order = list(range(len(images)))
    random.Random(settings.seed).shuffle(order)
    count = min(len(images), LEARNED) if learned is None else min(learned, len(images))
    opened = open_ahead([Path(images[i]) for i in order])
    parts: list[Part] = []
    pooled: list[torch.Tensor] = []

    def add(image: LoadedImage, features: Features) -> None:
        parts.append(Part(name=image.path.as_posix(), sha256=image.sha256, score=0, peak=0))
        pooled.append(features.pooled)
        progress(len(parts), len(images))

    # 2. The patches of those that are learned; pictures are let go of at once.
    draw = PatchDraw(settings.max_patches, settings.seed)
    straight: list[Features] = []
    copies: list[Features] = []
    for number, image in enumerate(islice(opened, count)):
        views = _views(backbone, image, settings)
        for view in views:
            draw.add(view.patches, number)
        straight.append(views[0]._replace(patches=views[0].patches.half()))
        if count <= FEW:
            copies += [backbone.features(copy, settings.short_side) for copy in copies_of(image.rgb)]
        add(image, views[0])
    # 3. What good parts show among themselves: each beside the patches of the others.
    patches = draw.patches.float()
    bounds = torch.searchsorted(draw.part_of_patch, torch.arange(count + 1, dtype=torch.int32)).tolist()
    grids = [
        distances_of(features, patches, slice(begin, end) if count > 1 else slice(0, 0), settings.ignore)
        for features, (begin, end) in zip(straight, pairwise(bounds), strict=True)
    ]
    results = [(measure.score_of(grid), float(grid.max())) for grid in grids]
    # Few parts do not tell: copies of them stand in for other good parts.
    yardstick = _yardstick(grids + [distances_of(copy, patches, ignore=settings.ignore) for copy in copies])
    # 4. Those that are held out, beside all that was learned.
    for image in opened:
        features = backbone.features(image.rgb, settings.short_side)
        grid = distances_of(features, patches, ignore=settings.ignore)
        results.append((measure.score_of(grid), float(grid.max())))
        add(image, features)
    measured = tuple(
        part.model_copy(update={"score": score, "peak": peak, "held_out": number >= count})
        for number, (part, (score, peak)) in enumerate(zip(parts, results, strict=True))
    )
    return Learned(measured, draw.patches, draw.part_of_patch, torch.stack(pooled).half(), yardstick)


def _views(backbone: Backbone, image: LoadedImage, settings: Settings) -> list[Features]:
    """What is learned of a part: as it is, its mirror image, and turned by quarters where it may lie so."""
    from PIL import Image, ImageOps

    turns = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270
    turned = [image.rgb.transpose(turn) for turn in turns] if settings.rotations else []
    views = (image.rgb, ImageOps.mirror(image.rgb), *turned)
    return [backbone.features(view, settings.short_side) for view in views]


def copies_of(rgb: Image.Image) -> list[Image.Image]:
    """A good part as it might look another time: darker, brighter, turned a little, shifted a little.

    What comes in at the borders is the part's own, mirrored, or it would be the strangest of all.
    """
    import cv2
    from PIL import Image, ImageEnhance

    pixels, centre = np.asarray(rgb), (rgb.width / 2, rgb.height / 2)
    shift = max(1.0, min(rgb.size) / 100)
    moves = [cv2.getRotationMatrix2D(centre, angle, 1.0) for angle in (-1, 1)]
    moves += [np.array([[1, 0, sign * shift], [0, 1, sign * shift]], np.float64) for sign in (-1, 1)]
    moved = [
        cv2.warpAffine(pixels, move, rgb.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        for move in moves
    ]
    relit = [ImageEnhance.Brightness(rgb).enhance(gain) for gain in (0.85, 1.15)]
    return [*relit, *map(Image.fromarray, moved)]


def distances_of(
    features: Features, patches: torch.Tensor, without: slice = slice(0, 0), ignore: Mask | None = None
) -> Grid:
    """(h, w) distances of a picture's patches to the nearest of (M, D), `without` those of its own.

    They are 0 where a mask, stretched to the picture, says to `ignore` it.
    """
    import torch

    width, height = features.grid_wh
    queries = features.patches.float()
    before, behind = patches[: without.start], patches[without.stop :]
    nearest = torch.minimum(measure.nearest(queries, before), measure.nearest(queries, behind))
    grid: Grid = nearest.view(height, width).numpy()
    return grid if ignore is None else measure.without(grid, ignore)


def _yardstick(grids: Sequence[Grid]) -> Yardstick:
    everything = np.concatenate([grid[grid > 0] for grid in grids] + [np.zeros(1)])  # what is ignored is 0
    usual = max(float(np.quantile(everything, 0.99)), SMALLEST)
    return Yardstick(
        usual=usual,
        most=max(usual, float(max(grid.max() for grid in grids))),
        coherence=max(measure.coherence_of(grid, usual) for grid in grids),
    )
