"""A bank: what good parts look like, patch by patch. Learn, keep, open, measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from anomalyr1.evidence import bank_file, learning, measure, promise
from anomalyr1.evidence.backbone import BACKBONES, Backbone, Features, load_backbone
from anomalyr1.evidence.gathering import open_ahead
from anomalyr1.evidence.head import Head, fit, vector_of
from anomalyr1.evidence.learning import FEW, Part, Settings
from anomalyr1.evidence.measure import Grid, Measurement, Yardstick
from anomalyr1.images.arrays import Pixels, load_pixels
from anomalyr1.images.door import LoadedImage, open_image
from anomalyr1.types import Evidence, InputError

if TYPE_CHECKING:
    import torch


KIND = 0.42
"""A picture whose features as a whole are farther than this, in cosine distance, from those of every good
part shows another kind of part (docs/measured.md)."""


@dataclass(frozen=True, eq=False)
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
    backbone: Backbone = field(repr=False, compare=False)
    head: Head | None = None
    """What labelled defects taught; None = there were none."""

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
        return cls(settings=settings, backbone=backbone, **content._asdict())

    def with_defects(
        self,
        images: Sequence[str | Path],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Bank:
        """The bank with a linear head, fitted to images of defective parts beside its learned ones.

        Where the head ranks no better than the bank alone, it is kept for its figures and not used
        (`Head.is_better`), but for a threshold where no good part was held out. The good parts' images must
        lie where they were. Raises `InputError` for fewer than five parts of either kind and for an image
        that is both, and `ImageError` for what is no image.
        """
        names = {part.sha256: part.name for part in self.parts}
        paths = [Path(part.name) for part in self.parts] + [Path(path) for path in images]
        vectors = []
        for number, image in enumerate(open_ahead(paths)):
            if number >= len(self.parts) and image.sha256 in names:
                raise InputError(
                    f"{str(image.path)!r} is named as defective and, as {names[image.sha256]!r}, as good; "
                    "correct one"
                )
            # A good part is compared with the others; 0 to learned - 1 are the learned ones.
            vectors.append(vector_of(*self._look(image.rgb, number if number < self.learned else None)))
            progress(number + 1, len(paths))
        head = fit(vectors[: self.learned], vectors[len(self.parts) :], self.settings.seed)
        held_out = [head(vector) for vector in vectors[self.learned : len(self.parts)]]
        return replace(self, head=head.model_copy(update={"threshold": max(held_out, default=None)}))

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

        The highest score of those held out; without any, what tells good and defective parts apart, or the
        highest score of those learned, each beside the others.
        """
        scores = self.held_out_scores
        if self.head is not None and self.head.is_better:
            return 0.5 if self.head.threshold is None else self.head.threshold
        if not scores and self.head is not None and self.head.bank_threshold is not None:
            return self.head.bank_threshold
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
        return f"sha256:{self._encoded[1]}"

    @property
    def _encoded(self) -> tuple[bytes, str]:
        record = bank_file.BankRecord(
            backbone_digest=self.backbone.digest,
            settings=self.settings,
            parts=self.parts,
            yardstick=self.yardstick,
            head=self.head,
        )
        return bank_file.encode(record, {name: getattr(self, name) for name in bank_file.TENSORS})

    def measure(self, image: str | Path | Pixels | LoadedImage, leave_out: int | None = None) -> Measurement:
        """What the good parts say about a picture: a path, an array, an image of Pillow's, or an opened one.

        `leave_out` is the number of a part that does not count, which is to be compared with the others.
        Raises `ImageError` for what is no image.
        """
        rgb = _rgb_of(image)
        features, grid = self._look(rgb, leave_out)
        head = self.head if self.head is not None and self.head.is_better else None
        evidence = Evidence(
            score=head(vector_of(features, grid)) if head else measure.score_of(grid),
            ratio=float(grid.max()) / self.yardstick.most,
            threshold=self.threshold,
            false_alarm_rate=self.false_alarm_rate,
            calibrated=self.learned > FEW,
            same_kind=self._is_same_kind(features.pooled),
            coherent=measure.coherence_of(grid, self.yardstick.usual) > self.yardstick.coherence + 0.01,
            learned=self.learned,
            held_out=len(self.held_out_scores),
            defects=self.head.defects if self.head and (head or not self.held_out_scores) else 0,
            regions=measure.regions_of(grid, self.yardstick, rgb.size, self.settings.smallest),
        )
        return Measurement(evidence, measure.heat_of(grid, self.yardstick))

    def _look(self, rgb: Image.Image, leave_out: int | None = None) -> tuple[Features, Grid]:
        """What the network sees in a picture, and (h, w) how far its patches are from good ones."""
        features = self.backbone.features(rgb, self.settings.short_side)
        patches = self._patches if leave_out is None else self._patches[self.part_of_patch != leave_out]
        grid = learning.distances_of(
            features, patches if len(patches) else self._patches, ignore=self.settings.ignore
        )
        return features, grid

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
        """Write the bank as one file, whole or not at all.

        Raises `InputError` where it is too large, `SetupError` where the disk refuses.
        """
        bank_file.write(Path(path), self._encoded[0])

    @classmethod
    def read(cls, path: str | Path, backbone: str | None = None) -> Bank:
        """The bank in a file; of what the file names only a backbone of `BACKBONES` is loaded.

        A bank of any other has to be read with the `backbone` it was made with: its folder, its name on the
        hub, or its dotted path. Raises `InputError` for a file that is no bank, is damaged, or was made with
        another backbone or other weights.
        """
        record, tensors = bank_file.read(Path(path))
        name = record.settings.backbone
        if backbone is None and name not in BACKBONES:
            raise InputError(
                f"{str(path)!r} was made with the backbone {name!r}, which a file cannot choose; "
                "name it yourself (backbone=...), if you trust it"
            )
        loaded = load_backbone(backbone or name)
        if loaded.digest != record.backbone_digest:
            raise InputError(
                f"{str(path)!r} was made with the backbone {name!r} ({record.backbone_digest}), and "
                f"{loaded.name!r} is another, or has other weights ({loaded.digest}); name the backbone it "
                "was made with, or learn the bank again"
            )
        sizes = [tensors[name].shape[1] for name in ("patches", "pooled")]
        features = loaded.features(Image.new("RGB", (64, 64)), 64)
        if (expected := [features.patches.shape[1], len(features.pooled)]) != sizes:
            raise InputError(
                f"{str(path)!r} is a damaged bank: its vectors have {sizes} numbers, those of "
                f"{loaded.name!r} {expected}; learn it again"
            )
        return cls(
            settings=record.settings,
            parts=record.parts,
            yardstick=record.yardstick,
            head=record.head,
            backbone=loaded,
            **tensors,
        )

    def merge(self, other: Bank) -> Bank:
        """A bank of the good parts of both, without their images.

        All patches are kept, so that no distance grows. The larger threshold and yardstick hold: what is
        promised stays true, but learning from all images again finds more. A part that either has learned
        counts as learned. Raises `InputError` where settings or backbone differ, or a bank has so few parts
        that its yardstick is an estimate.
        """
        import torch

        self._require_mergeable(other)
        # 1. The learned parts of both, each once, then those held out that neither has learned.
        learned: dict[str, Part] = {}
        held_out: dict[str, Part] = {}
        pooled: dict[str, torch.Tensor] = {}
        for bank in (self, other):
            for part, vector in zip(bank.parts, bank.pooled, strict=True):
                (held_out if part.held_out else learned).setdefault(part.sha256, part)
                pooled.setdefault(part.sha256, vector)
        parts = (*learned.values(), *(part for sha, part in held_out.items() if sha not in learned))
        # 2. The patches of both, part by part.
        numbers = {sha: number for number, sha in enumerate(learned)}
        owners = [
            torch.tensor([numbers.get(part.sha256, -1) for part in bank.parts], dtype=torch.int32)[
                bank.part_of_patch.long()
            ]
            for bank in (self, other)
        ]
        owner, order = torch.cat(owners).sort(stable=True)
        return replace(
            self,
            parts=parts,
            patches=torch.cat([self.patches, other.patches])[order],
            part_of_patch=owner,
            pooled=torch.stack([pooled[part.sha256] for part in parts]),
            yardstick=Yardstick(
                **{
                    name: max(value, getattr(other.yardstick, name))
                    for name, value in self.yardstick.model_dump().items()
                }
            ),
        )

    def _require_mergeable(self, other: Bank) -> None:
        if self.backbone.digest != other.backbone.digest:
            raise InputError(
                f"one bank was made with the backbone {self.backbone.name!r}, the other with "
                f"{other.backbone.name!r} (or with other weights); learn both with the same"
            )
        if self.head or other.head:
            raise InputError("a bank with labelled defects is not merged; learn from all images together")
        mine, theirs = self.settings.model_dump(), other.settings.model_dump()
        differences = [
            f"{name} is {mine[name]} and {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name] and name != "seed"
        ]
        if differences:
            raise InputError(
                f"the banks were made with other settings ({'; '.join(differences)}); "
                "learn both with the same"
            )
        if (fewest := min(self.learned, other.learned)) <= FEW:
            raise InputError(
                f"a bank of {_count(fewest)} only estimates what good parts show; "
                "learn from the images of both together"
            )

    def describe(self) -> list[str]:
        """Lines for a person: what was learned, what is promised, how large it is."""
        held_out = len(self.held_out_scores)
        lines = [f"learned from {_count(self.learned)}, {held_out} held out"]
        if self.learned <= FEW:
            lines.append("so few decide nothing alone, the policy has to agree: add good parts")
        if (rate := self.false_alarm_rate) is None:
            lines.append("promises nothing of false alarms: no good part was held out")
        else:
            promise_words = f"at most {100 * rate:.1f} % false alarms, with 95 % confidence"
            lines.append(f"{promise_words}, above a score of {self.threshold:.3f}")
        for aim in (0.1, 0.05, 0.01):
            if (lacking := promise.held_out_for(aim) - held_out) > 0:
                lines.append(f"for at most {100 * aim:g} %: {lacking} more good parts")
                break
        if self.head is not None:
            lines.append(self.head.describe())
        size = len(self._encoded[0]) / 1e6
        lines.append(f"{len(self.patches):,} patches of {self.patches.shape[1]} numbers, {size:.1f} MB")
        lines.append(f"backbone {self.settings.backbone}, shorter side {self.settings.short_side} pixels")
        lines.append(self.digest)
        return lines


def _count(parts: int) -> str:
    return f"{parts} good {'part' if parts == 1 else 'parts'}"


def _rgb_of(image: str | Path | Pixels | LoadedImage) -> Image.Image:
    if isinstance(image, LoadedImage):
        return image.rgb
    if isinstance(image, str | Path):
        return open_image(Path(image)).rgb
    return load_pixels(image).rgb
