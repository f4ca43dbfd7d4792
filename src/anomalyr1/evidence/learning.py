"""Good parts -> what a bank holds of them: patches, and what good parts show among themselves."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field

from anomalyr1.evidence import measure
from anomalyr1.evidence.backbone import DEFAULT, Backbone, Features
from anomalyr1.evidence.measure import Grid, Yardstick
from anomalyr1.images.door import LoadedImage, open_image
from anomalyr1.types import Record

if TYPE_CHECKING:
    import torch

LEARNED = 8
"""So many good parts are learned where more are there; the others make threshold and promise."""
FEW = 3
"""So many good parts or fewer are compared with copies of themselves, and decide nothing alone."""


class Settings(Record):
    """How a bank is made and how pictures are measured with it."""

    backbone: str = DEFAULT
    short_side: int = Field(default=320, ge=64, le=2048)
    """Pixels of the shorter side of what the network is shown."""
    max_patches: int = Field(default=16_000, ge=100)
    """How many patches are kept, drawn at random."""
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
    # 1. Which are learned, and which are held out.
    order = list(range(len(images)))
    random.Random(settings.seed).shuffle(order)
    count = min(len(images), LEARNED) if learned is None else min(learned, len(images))
    opened = [open_image(Path(images[i])) for i in order]
    features: list[Features] = []
    for done, image in enumerate(opened, start=1):
        features.append(backbone.features(image.rgb, settings.short_side))
        progress(done, len(opened))
    patches, owner = _gather(backbone, opened[:count], features[:count], settings)
    # 2. What good parts show among themselves.
    grids = [
        distances_of(features[i], patches[owner != i] if count > FEW else patches)
        if count > FEW
        else _copies_distances(backbone, opened[i], patches, settings)
        for i in range(count)
    ]
    yardstick = _yardstick(grids)
    held_out_grids = [distances_of(f, patches) for f in features[count:]]
    parts = tuple(
        Part(
            name=image.path.as_posix(),
            sha256=image.sha256,
            score=measure.score_of(grid),
            peak=float(grid.max()),
            held_out=i >= count,
        )
        for i, (image, grid) in enumerate(zip(opened, grids + held_out_grids, strict=True))
    )
    pooled = _stack([f.pooled for f in features])
    return Learned(parts, patches.half(), owner, pooled.half(), yardstick)


def _stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.stack(tensors)


def _gather(
    backbone: Backbone, opened: Sequence[LoadedImage], features: Sequence[Features], settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, D) patches of parts and of their mirror images, at most `max_patches`, and (M,) whose they are."""
    import torch
    from PIL import ImageOps

    patches, owners = [], []
    for number, (image, straight) in enumerate(zip(opened, features, strict=True)):
        mirrored = backbone.features(ImageOps.mirror(image.rgb), settings.short_side)
        for view in (straight, mirrored):
            patches.append(view.patches)
            owners.append(torch.full((len(view.patches),), number, dtype=torch.int32))
    generator = torch.Generator().manual_seed(settings.seed)
    joined, owner = torch.cat(patches), torch.cat(owners)
    kept = torch.randperm(len(joined), generator=generator)[: settings.max_patches]
    return joined[kept], owner[kept]


def distances_of(features: Features, patches: torch.Tensor) -> Grid:
    """(h, w) distances of a picture's patches to the nearest of (M, D)."""
    width, height = features.grid_wh
    grid: Grid = measure.nearest(features.patches, patches).view(height, width).numpy()
    return grid


def _copies_distances(
    backbone: Backbone, image: LoadedImage, patches: torch.Tensor, settings: Settings
) -> Grid:
    """(h, w) distances of a relit copy of a part to the part itself: what stands in for another good part."""
    from PIL import ImageEnhance

    relit = ImageEnhance.Brightness(image.rgb).enhance(1.15)
    return distances_of(backbone.features(relit, settings.short_side), patches)


def _yardstick(grids: Sequence[Grid]) -> Yardstick:
    everything = np.concatenate([grid.ravel() for grid in grids])
    usual = float(np.quantile(everything, 0.99))
    usual = max(usual, 1e-6)
    return Yardstick(
        usual=usual,
        most=max(usual, float(max(grid.max() for grid in grids))),
        coherence=max(measure.coherence_of(grid, usual) for grid in grids),
    )
