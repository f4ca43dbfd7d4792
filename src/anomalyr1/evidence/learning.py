"""Good parts -> what a bank holds of them: patches, and what good parts show among themselves."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from anomalyr1.evidence import measure
from anomalyr1.evidence.backbone import DEFAULT, Backbone, Features
from anomalyr1.evidence.measure import Grid, Yardstick
from anomalyr1.images.door import THREADS, LoadedImage, open_image
from anomalyr1.types import Mask, Record

if TYPE_CHECKING:
    import torch

LEARNED = 8
"""So many good parts are learned where more are there; the others make threshold and promise."""
FEW = 3
"""So many good parts or fewer are compared with copies of themselves, and decide nothing alone."""


_NO_PICTURE = Image.new("RGB", (1, 1))


class Settings(Record):
    """How a bank is made and how pictures are measured with it."""

    backbone: str = DEFAULT
    short_side: int = Field(default=320, ge=64, le=2048)
    """Pixels of the shorter side of what the network is shown."""
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
    count = min(len(images), LEARNED if learned is None else learned)
    parts: list[Part] = []
    pooled: list[torch.Tensor] = []

    def keep(image: LoadedImage, features: Features, grid: Grid) -> None:
        score, peak = measure.score_of(grid), float(grid.max())
        name, held_out = image.path.as_posix(), len(parts) >= count
        parts.append(Part(name=name, sha256=image.sha256, score=score, peak=peak, held_out=held_out))
        pooled.append(features.pooled)

    with ThreadPoolExecutor(THREADS) as pool:
        # Few pictures are open at a time.
        opened = _open_ahead(pool, [Path(images[i]) for i in order])
        # 2. The patches of those that are learned, and of their other views.
        straight: list[tuple[LoadedImage, Features]] = []
        views: list[torch.Tensor] = []
        copies: list[Features] = []
        for image in islice(opened, count):
            features = backbone.features(image.rgb, settings.short_side)
            others = [
                backbone.features(view, settings.short_side) for view in other_views(image.rgb, settings)
            ]
            views.append(torch.cat([features.patches, *(other.patches for other in others)]))
            if count <= FEW:
                copies += [backbone.features(copy, settings.short_side) for copy in copies_of(image.rgb)]
            straight.append((replace(image, rgb=_NO_PICTURE), features))
            progress(len(straight), len(images))
        patches, owner = _draw_patches(views, settings)
        # 3. What good parts show among themselves: each beside the others.
        grids = [
            distances_of(features, _beside(patches, owner, i), settings.ignore)
            for i, (_, features) in enumerate(straight)
        ]
        for (image, features), grid in zip(straight, grids, strict=True):
            keep(image, features, grid)
        if count <= FEW:  # too few to tell: copies stand in for other good parts
            relit = [distances_of(copy, patches, settings.ignore) for copy in copies]
            grids = [grid for grid in grids if count > 1] + relit
        # 4. Those that are held out, beside all that were learned.
        for image in opened:
            features = backbone.features(image.rgb, settings.short_side)
            keep(image, features, distances_of(features, patches, settings.ignore))
            progress(len(parts), len(images))
    return Learned(tuple(parts), patches.half(), owner, torch.stack(pooled).half(), _yardstick(grids))


def other_views(rgb: Image.Image, settings: Settings) -> list[Image.Image]:
    """How else a good part may lie: its mirror image, and turned by quarters where the settings say so."""
    from PIL import ImageOps

    turns = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270
    turned = [rgb.transpose(turn) for turn in turns] if settings.rotations else []
    return [ImageOps.mirror(rgb), *turned]


def copies_of(rgb: Image.Image) -> list[Image.Image]:
    """A good part as it might look another time: darker, brighter, turned a little, shifted a little."""
    from PIL import ImageChops, ImageEnhance

    turn = partial(rgb.rotate, resample=Image.Resampling.BICUBIC, fillcolor=_edge_colour(rgb))
    shift = max(1, round(min(rgb.size) / 60))
    return [
        ImageEnhance.Brightness(rgb).enhance(0.85),
        ImageEnhance.Brightness(rgb).enhance(1.15),
        turn(2),
        turn(-2),
        ImageChops.offset(rgb, shift, shift),
    ]


def distances_of(features: Features, patches: torch.Tensor, ignore: Mask | None = None) -> Grid:
    """(h, w) distances of a picture's patches to the nearest of (M, D); 0 where they are ignored."""
    width, height = features.grid_wh
    grid: Grid = measure.nearest(features.patches, patches).view(height, width).numpy()
    return grid if ignore is None else measure.without(grid, ignore)


def _open_ahead(pool: ThreadPoolExecutor, paths: Sequence[Path]) -> Iterator[LoadedImage]:
    """The images in their order, a few of them opened while others are looked at."""
    waiting: deque[Future[LoadedImage]] = deque()
    for path in paths:
        waiting.append(pool.submit(open_image, path))
        if len(waiting) > THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _draw_patches(views: Sequence[torch.Tensor], settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, D) patches of parts, at most `max_patches`, and (M,) the number of the part that each is from."""
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    joined = torch.cat(list(views))
    lengths = torch.tensor([len(patches) for patches in views])
    owner = torch.repeat_interleave(torch.arange(len(views), dtype=torch.int32), lengths)
    kept = torch.randperm(len(joined), generator=generator)[: settings.max_patches]
    return joined[kept], owner[kept]


def _beside(patches: torch.Tensor, owner: torch.Tensor, part: int) -> torch.Tensor:
    """(M, D) patches of the other parts; of an only part, its own."""
    others = patches[owner != part]
    return others if len(others) else patches


def _edge_colour(rgb: Image.Image) -> tuple[int, ...]:
    """The mean colour of a picture's border."""
    pixels = np.asarray(rgb)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in border.mean(0))


def _yardstick(grids: Sequence[Grid]) -> Yardstick:
    everything = np.concatenate([grid[grid > 0] for grid in grids] + [np.zeros(1)])  # what is ignored is 0
    usual = max(float(np.quantile(everything, 0.99)), 1e-6)
    return Yardstick(
        usual=usual,
        most=max(usual, float(max(grid.max() for grid in grids))),
        coherence=max(measure.coherence_of(grid, usual) for grid in grids),
    )
