"""A bank: what good parts look like, patch by patch. Learn, keep, open, measure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from anomalyr1.evidence import learning, measure, promise
from anomalyr1.evidence.backbone import load_backbone
from anomalyr1.evidence.learning import FEW, Part, Settings
from anomalyr1.evidence.measure import Measurement, Yardstick
from anomalyr1.images.arrays import Pixels, load_pixels
from anomalyr1.images.door import LoadedImage, open_image
from anomalyr1.types import Evidence, InputError

if TYPE_CHECKING:
    import torch


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
        if not images:
            raise InputError("no good part to learn from; name at least one image")
        settings = settings or Settings()
        backbone = load_backbone(settings.backbone)
        content = learning.learn(images, backbone, settings, learned, progress)
        return cls(settings=settings, backbone_digest=backbone.digest, **content._asdict())

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
        grid = learning.distances_of(features, self._patches)
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
