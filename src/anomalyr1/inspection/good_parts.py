"""Good parts beside an inspection: what is measured, who decides, what the policy is told, where maps go."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image

from anomalyr1 import prompts
from anomalyr1.engines.engine import Engine, Sampling, taught_of
from anomalyr1.evidence import words
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.measure import Measurement
from anomalyr1.files import write_whole
from anomalyr1.images.door import LoadedImage, digest_of
from anomalyr1.images.frames import FAMILIES, Frame
from anomalyr1.inspection.decisions import (
    Decider,
    can_decide,
    decide_beside,
    describe_score,
    require_decider,
)
from anomalyr1.inspection.thresholds import Threshold, in_digits
from anomalyr1.inspection.verdicts import Opinion
from anomalyr1.policy.folders import BUNDLED
from anomalyr1.types import Evidence, Fingerprint, InputError, Sample, Verdict

VERDICT_BY = ", verdict by "
MAP_LONG_SIDE = 512
"""Maps are kept at this size, or at the image's, where that is less."""


@dataclass(frozen=True)
class GoodParts:
    """How images are compared with good parts."""

    bank: Bank | None = None
    """The good parts; None = those whose evidence the samples carry."""
    references: bool = False
    """Whether each image is compared with its sample's own reference images instead."""
    decide: Decider = "both"
    """Who comes to the verdict (see `decisions`)."""
    tell: bool = False
    """Whether the prompt holds what the good parts say."""
    maps: Path | None = None
    """The folder for the maps of what differs, PNG files named by the images' SHA-256; None = not kept."""

    def __post_init__(self) -> None:
        """Refuse an unknown decider."""
        require_decider(self.decide)

    @classmethod
    def of(
        cls,
        bank: Bank | Literal["references"],
        engine: Engine,
        prompt: tuple[str, str | None],
        decide: Decider | None = None,
        tell: bool | None = None,
        maps: Path | None = None,
    ) -> GoodParts:
        """The comparison for a policy that is asked with a style and a text.

        Without `decide` the evidence decides where the policy is nano or was taught from it, whose sight is
        less, else both. Without `tell` a policy is told what it was taught with; of others those that are
        asked in our style, but not nano, which cannot read it.
        """
        taught = taught_of(engine)
        is_nano = (taught.base if taught else engine.fingerprint(Sampling()).model) in BUNDLED
        if tell is None:
            untaught = prompt == (prompts.DEFAULT_STYLE, None) and not is_nano
            tell = taught.evidence if taught else untaught
        decider: Decider = decide or ("evidence" if is_nano else "both")
        if isinstance(bank, str):
            return cls(None, True, decider, tell, maps)
        return cls(bank, False, decider, tell, maps)

    @property
    def digest(self) -> str:
        """What the fingerprint of a run says of it; empty without a bank."""
        if self.references:
            return f"references{VERDICT_BY}{self.decide}"
        return f"{self.bank.digest}{VERDICT_BY}{self.decide}" if self.bank else ""

    def measure(self, sample: Sample, image: LoadedImage) -> Evidence | None:
        """What the good parts say about a sample; its map is written."""
        bank = _bank_of(sample.references) if self.references and sample.references else self.bank
        if bank is None:
            return sample.evidence
        measurement = bank.measure(image)
        if self.maps is not None:
            write_map(self.maps, image, measurement)
        return measurement.evidence

    def write_words(self, evidence: Evidence | None, size_wh: tuple[int, int], run: Fingerprint) -> str:
        """What the prompt says of evidence about an image of this size; empty where it is not told."""
        if evidence is None or not self.tell:
            return ""
        return words.write(evidence, Frame.of(size_wh, FAMILIES[run.family], run.max_pixels))

    def decide_on(
        self, opinion: Opinion, evidence: Evidence, image: LoadedImage
    ) -> tuple[Opinion, dict[str, int]]:
        """What a policy's opinion becomes beside evidence (see `decide_beside`)."""
        is_learned = self.bank is not None and image.sha256 in self.bank.image_digests
        return decide_beside(opinion, evidence, self.decide, image.size_wh, is_learned)

    def judge(self, threshold: Threshold, opinion: Opinion, evidence: Evidence | None) -> tuple[Verdict, str]:
        """The verdict by a threshold, and why; where evidence decides it takes the place of the bank's."""
        verdict, reason = opinion.verdict, opinion.reason
        if (
            self.decide == "evidence"
            and verdict != "unsure"
            and evidence is not None
            and can_decide(evidence)
        ):
            is_below = evidence.score < threshold.low
            verdict = "good" if is_below else "defect"
            line = (
                f"The score {in_digits(evidence.score)} lies {'below' if is_below else 'not below'} "
                f"the threshold {in_digits(threshold.low)}."
            )
            reason = reason.replace(describe_score(evidence), line, 1)
        return threshold.judge(verdict, reason, opinion.score, opinion.only_boxes_lack)


NO_GOOD_PARTS = GoodParts()


def evidence_decides(run: Fingerprint) -> bool:
    """Whether the verdicts of a run are those of its good parts, where these are enough."""
    return run.evidence.endswith(f"{VERDICT_BY}evidence")


@lru_cache(maxsize=8)
def _bank_of(references: tuple[Path, ...]) -> Bank:
    """The bank of a sample's reference images, all of them learned; neighbouring samples often share it."""
    return Bank.learn(references, learned=len(references))


def require_apart(samples: Sequence[Sample], bank: Bank) -> None:
    """Raise `InputError` where a good part of a bank is among the samples that it is to be tested on."""
    digests = {part.sha256: part.name for part in bank.parts}
    for sample in samples:
        name = digests.get(digest_of(sample.image))
        if name is not None:
            raise InputError(
                f"the image {sample.image.as_posix()!r} is a good part of the bank ({name!r}), so the "
                "figures would be those of what was learned; learn from other images: anomalyr1 learn"
            )


def write_map(folder: Path, image: LoadedImage, measurement: Measurement) -> None:
    """Write the map of an image: grey, bright where it differs more than good parts do."""
    scale = min(1.0, MAP_LONG_SIDE / max(image.size_wh))
    size_wh = max(1, round(image.size_wh[0] * scale)), max(1, round(image.size_wh[1] * scale))
    picture = Image.fromarray(measurement.heat).resize(size_wh, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_whole(folder / map_name(image.sha256), buffer.getvalue())


def map_name(image_sha256: str) -> str:
    """The name of an image's map in the folder of maps."""
    return f"{image_sha256[:16]}.png"
