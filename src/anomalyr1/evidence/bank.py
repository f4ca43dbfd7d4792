"""A bank: what good parts look like, patch by patch. Learn, keep, open, measure."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from pydantic import Field

from anomalyr1.evidence import measure, promise
from anomalyr1.evidence.backbone import DEFAULT, Backbone, Features, load_backbone
from anomalyr1.evidence.measure import Grid, Measurement, Yardstick
from anomalyr1.images.arrays import Pixels, load_pixels
from anomalyr1.images.door import LoadedImage, open_image
from anomalyr1.types import Evidence, InputError, Record

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


@dataclass(frozen=True)
class Bank:
    """What was learned from good parts."""

    settings: Settings
    parts: tuple[Part, ...]
    patches: torch.Tensor
    """(M, D) unit vectors of the learned parts, float16."""
    part_of_patch: torch.Tensor
    """(M,) which of `parts` each is from, int32."""
    pooled: torch.Tensor
    """(parts, P) unit vectors, float16."""
    yardstick: Yardstick
    backbone_digest: str

    @classmethod
    def learn(
        cls,
        images: Sequence[str | Path],
        settings: Settings | None = None,
        learned: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Bank:
        """A bank of the image files of good parts.

        `learned` of them (drawn by seed) are learned, the others make threshold and promise. Raises
        `InputError` for none, `ImageError` for a file that is no image.
        """
        settings = settings or Settings()
        if not images:
            raise InputError("no good part to learn from; name at least one image")
        backbone = load_backbone(settings.backbone)
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
            _distances(features[i], patches[owner != i] if count > FEW else patches)
            if count > FEW
            else _copies_distances(backbone, opened[i], patches, settings)
            for i in range(count)
        ]
        yardstick = _yardstick(grids)
        held_out_grids = [_distances(f, patches) for f in features[count:]]
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
        return cls(settings, parts, patches.half(), owner, pooled.half(), yardstick, backbone.digest)

    @property
    def learned(self) -> int:
        """How many good parts were learned."""
        return sum(not part.held_out for part in self.parts)

    @property
    def held_out_scores(self) -> list[float]:
        """The scores of the good parts that nothing was learned from."""
        return [part.score for part in self.parts if part.held_out]

    @property
    def threshold(self) -> float | None:
        """A higher score is strange; None = no good part was held out."""
        return max(self.held_out_scores, default=None)

    @property
    def false_alarm_rate(self) -> float | None:
        """At most so many good parts are strange, at 95 % confidence; None = nothing is promised."""
        return promise.false_alarm_bound(len(self.held_out_scores))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything in it, as "sha256:" and hexadecimal."""
        sha = hashlib.sha256(self.settings.to_json().encode() + self.backbone_digest.encode())
        for part in self.parts:
            sha.update(part.to_json().encode())
        for tensor in (self.patches, self.part_of_patch, self.pooled):
            sha.update(tensor.numpy().tobytes())
        sha.update(repr(tuple(self.yardstick)).encode())
        return f"sha256:{sha.hexdigest()}"

    def measure(self, image: str | Path | Pixels | LoadedImage) -> Measurement:
        """What the good parts say about a picture: a path, an array, an image of Pillow's, or an opened one.

        Raises `ImageError` for what is no image.
        """
        rgb = _rgb_of(image)
        features = load_backbone(self.settings.backbone).features(rgb, self.settings.short_side)
        grid = _distances(features, self._patches)
        usual, most, coherence = self.yardstick
        evidence = Evidence(
            score=measure.score_of(grid),
            ratio=float(grid.max()) / most,
            threshold=self.threshold,
            false_alarm_rate=self.false_alarm_rate,
            calibrated=self.learned > FEW,
            coherent=measure.coherence_of(grid, usual) > coherence + 0.01,
            learned=self.learned,
            held_out=len(self.held_out_scores),
            regions=measure.regions_of(grid, self.yardstick, rgb.size),
        )
        heat = np.clip((grid - usual) / (3 * max(usual, 1e-6)), 0, 1) * 255
        return Measurement(evidence, heat.astype(np.uint8))

    @cached_property
    def _patches(self) -> torch.Tensor:
        return self.patches.float()  # half precision is slow to multiply with here

    def write(self, path: str | Path) -> None:
        """Write the bank as one file, whole or not at all."""
        raise InputError("banks are not written yet")

    @classmethod
    def read(cls, path: str | Path) -> Bank:
        """The bank in a file. Raises `InputError` when it is none."""
        raise InputError("banks are not read yet")


def _rgb_of(image: str | Path | Pixels | LoadedImage) -> Image.Image:
    if isinstance(image, LoadedImage):
        return image.rgb
    if isinstance(image, str | Path):
        return open_image(Path(image)).rgb
    return load_pixels(image).rgb


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


def _distances(features: Features, patches: torch.Tensor) -> Grid:
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
    return _distances(backbone.features(relit, settings.short_side), patches)


def _yardstick(grids: Sequence[Grid]) -> Yardstick:
    everything = np.concatenate([grid.ravel() for grid in grids])
    usual = float(np.quantile(everything, 0.99))
    return Yardstick(
        usual,
        max(usual, float(max(grid.max() for grid in grids))),
        max(measure.coherence_of(grid, usual) for grid in grids),
    )
