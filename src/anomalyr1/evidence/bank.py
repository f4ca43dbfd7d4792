"""A bank: what good parts look like, patch by patch. Learn, keep, open, measure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from anomalyr1.evidence import bank_file, learning, measure, promise
from anomalyr1.evidence.backbone import load_backbone
from anomalyr1.evidence.learning import FEW, Part, Settings
from anomalyr1.evidence.measure import Measurement, Yardstick
from anomalyr1.images.arrays import Pixels, load_pixels
from anomalyr1.images.door import LoadedImage, open_image
from anomalyr1.types import Evidence, InputError

if TYPE_CHECKING:
    import torch


KIND = 0.42
"""A picture whose features as a whole are farther than this, in cosine distance, from those of every good
part shows another kind of part (docs/measured.md)."""
DTYPES = {"patches": "float16", "part_of_patch": "int32", "pooled": "float16"}
"""The tensors of a bank's file and their types."""


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
        """A higher score is strange; None = too few good parts.

        The highest score of those held out; without any, of those learned, each beside the others.
        """
        scores = self.held_out_scores
        if not scores and self.learned > FEW:
            scores = [part.score for part in self.parts]
        return max(scores, default=None)

    @cached_property
    def image_digests(self) -> frozenset[str]:
        """The SHA-256 of the images that were learned."""
        return frozenset(part.sha256 for part in self.parts if not part.held_out)

    @property
    def false_alarm_rate(self) -> float | None:
        """At most so many good parts are strange, at 95 % confidence; None = nothing is promised."""
        return promise.false_alarm_bound(len(self.held_out_scores))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything in it, as "sha256:" and hexadecimal."""
        sha = hashlib.sha256(self._record.to_json().encode("ascii"))
        for name in DTYPES:
            sha.update(self._tensors[name].numpy().tobytes())
        return f"sha256:{sha.hexdigest()}"

    def describe(self) -> list[str]:
        """What a person should know of it, in lines."""
        held_out = len(self.held_out_scores)
        lines = [f"{self.learned} good parts learned, {held_out} held out ({self.settings.backbone})"]
        if self.false_alarm_rate is not None:
            lines.append(
                f"promise: at most {100 * self.false_alarm_rate:.1f} % false alarms, with 95 % confidence, "
                "on parts that are made and photographed like these"
            )
        elif self.threshold is not None:
            lines.append("nothing is promised: no good part was held out; add some and learn again")
        else:
            lines.append(f"{FEW} good parts or fewer decide nothing alone: the policy has to agree; add some")
        for rate in (0.1, 0.05, 0.01):
            needed = promise.held_out_for(rate) - held_out
            if needed > 0:
                lines.append(f"for at most {100 * rate:g} %: {needed} more good parts")
                break
        return lines

    def measure(self, image: str | Path | Pixels | LoadedImage, leave_out: int | None = None) -> Measurement:
        """What the good parts say about a picture: a path, an array, an image of Pillow's, or an opened one.

        `leave_out` is the number of a part that does not count, which is to be compared with the others.
        Raises `ImageError` for what is no image.
        """
        rgb = _rgb_of(image)
        features = load_backbone(self.settings.backbone).features(rgb, self.settings.short_side)
        patches = self._patches if leave_out is None else self._patches[self.part_of_patch != leave_out]
        grid = learning.distances_of(
            features, patches if len(patches) else self._patches, self.settings.ignore
        )
        evidence = Evidence(
            score=measure.score_of(grid),
            ratio=float(grid.max()) / self.yardstick.most,
            threshold=self.threshold,
            false_alarm_rate=self.false_alarm_rate,
            calibrated=self.learned > FEW,
            same_kind=self._is_same_kind(features.pooled),
            coherent=measure.coherence_of(grid, self.yardstick.usual) > self.yardstick.coherence + 0.01,
            learned=self.learned,
            held_out=len(self.held_out_scores),
            regions=measure.regions_of(grid, self.yardstick, rgb.size, self.settings.smallest),
        )
        return Measurement(evidence, measure.heat_of(grid, self.yardstick))

    def _is_same_kind(self, pooled: torch.Tensor) -> bool:
        """Whether (P,) features of a whole picture are like those of some good part."""
        others = self.pooled.float()
        bound = KIND
        if len(others) > 1:  # good parts that differ much among themselves allow more
            nearness = others @ others.T  # (parts, parts)
            nearness.fill_diagonal_(-1)
            bound = max(bound, 1.5 * float((1 - nearness.amax(1)).max()))
        return float((1 - others @ pooled).min()) <= bound

    @cached_property
    def _patches(self) -> torch.Tensor:
        return self.patches.float()  # half precision is slow to multiply with here

    def write(self, path: str | Path) -> None:
        """Write the bank as one file, whole or not at all. Raises `SetupError` when the disk refuses."""
        bank_file.write(Path(path), self._record, self._tensors)

    @classmethod
    def read(cls, path: str | Path, backbone: str | None = None) -> Bank:
        """The bank in a file.

        A network that is code of one's own ("package.module:name") is loaded only where `backbone` names it,
        too. Raises `InputError` for a file that is no bank, is damaged, or belongs to other weights.
        """
        record, tensors = bank_file.read(Path(path), DTYPES)
        name = record.settings.backbone
        if ":" in name and name != backbone:
            raise InputError(
                f"{str(path)!r} was made with the network {name!r}, which is code; to run it, name it: "
                f"--backbone {name}"
            )
        if (digest := load_backbone(name).digest) != record.backbone_digest:
            raise InputError(
                f"{str(path)!r} was made with other weights of {name!r} ({record.backbone_digest[:19]}) than "
                f"are here ({digest[:19]}); learn it again: anomalyr1 learn"
            )
        bank = cls(
            settings=record.settings,
            parts=record.parts,
            yardstick=record.yardstick,
            backbone_digest=digest,
            **tensors,
        )
        bank._require_consistent(str(path))
        return bank

    @property
    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in DTYPES}

    @property
    def _record(self) -> bank_file.BankRecord:
        return bank_file.BankRecord(
            version=bank_file.VERSION,
            settings=self.settings,
            parts=self.parts,
            yardstick=self.yardstick,
            backbone_digest=self.backbone_digest,
            shapes={name: tuple(tensor.shape) for name, tensor in self._tensors.items()},
        )

    def _require_consistent(self, path: str) -> None:
        """Raise `InputError` where parts and tensors of a file do not go together."""
        patches, owners, pooled = self.patches, self.part_of_patch, self.pooled
        fits = (
            patches.ndim == 2
            and owners.shape == patches.shape[:1]
            and len(patches) > 0
            and pooled.ndim == 2
            and len(pooled) == len(self.parts)
            and 0 <= int(owners.min()) <= int(owners.max()) < len(self.parts)
            and patches.shape[1] == load_backbone(self.settings.backbone).channels
        )
        if not fits:
            raise InputError(
                f"{path!r}: its parts and patches do not go together; learn it again: anomalyr1 learn"
            )


def _rgb_of(image: str | Path | Pixels | LoadedImage) -> Image.Image:
    if isinstance(image, LoadedImage):
        return image.rgb
    if isinstance(image, str | Path):
        return open_image(Path(image)).rgb
    return load_pixels(image).rgb
