"""Samples of a run and what good parts of their class say about them: right, absent or wrong.

The good parts are those of the train side alone. A policy that always read the truth in its prompt would stop
to look for itself, so some prompts hold nothing, and some hold what was measured on another image of the
class.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.learning import Settings
from anomalyr1.images.door import digest_of, open_image
from anomalyr1.training.recipes import Recipe
from anomalyr1.types import Evidence, InputError, Sample

RIGHT, WRONG = "samples with evidence", "samples with evidence of another image"
DROPPED, IMPOSSIBLE = "samples without evidence", "samples without other good parts to compare with"


class MeasuredImage(NamedTuple):
    """What was measured on the image of a sample."""

    evidence: Evidence | None
    """None where there is no other good part."""
    size_wh: tuple[int, int]


class ClassBanks:
    """A bank for each class that has good parts among the samples that are learned from."""

    def __init__(self, samples: Sequence[Sample], rotations: bool = False) -> None:
        """Raises `InputError` where no sample is good."""
        by_class: dict[str, dict[str, str]] = {}
        for sample in samples:
            if sample.anomalous is False:  # each content once: a copy of a learned part would be held out
                images = by_class.setdefault(sample.class_name, {})
                images.setdefault(digest_of(sample.image), sample.image.as_posix())
        if not by_class:
            raise InputError("evidence needs good parts among the data, and there are none; add some")
        settings = Settings(rotations=rotations)
        self.banks: Mapping[str, Bank] = {
            name: Bank.learn(list(images.values()), settings) for name, images in sorted(by_class.items())
        }

    def measure(self, sample: Sample) -> MeasuredImage:
        """What the good parts of its class say about a sample; one that is in the bank beside the others."""
        image = open_image(sample.image)
        bank = self.banks.get(sample.class_name)
        if bank is None:
            return MeasuredImage(None, image.size_wh)
        numbers = {part.sha256: number for number, part in enumerate(bank.parts) if not part.held_out}
        number = numbers.get(image.sha256)
        if number is not None and bank.learned == 1:
            return MeasuredImage(None, image.size_wh)  # beside itself it is not strange: that tells the truth
        return MeasuredImage(bank.measure(image, leave_out=number).evidence, image.size_wh)


def measure_training(
    samples: Sequence[Sample], banks: ClassBanks, recipe: Recipe
) -> tuple[list[Sample], dict[str, int]]:
    """Samples to learn from, and how many carry the right evidence, none, or that of another image.

    Which, the seed and the sample's id decide. That of another image comes from one of the class and of the
    same size, so that its boxes lie in the image.
    """
    measured = {sample.id: banks.measure(sample) for sample in samples}
    counts: Counter[str] = Counter()
    result = []
    for sample in samples:
        digest = hashlib.sha256(f"evidence {recipe.seed} {sample.id}".encode("utf-8", "surrogatepass"))
        random = np.random.default_rng(list(digest.digest()[:8]))
        chance = random.random()
        evidence, size_wh = measured[sample.id]
        name = RIGHT if evidence is not None else IMPOSSIBLE
        if chance < recipe.evidence_dropout:
            evidence, name = None, DROPPED
        elif chance < recipe.evidence_dropout + recipe.evidence_wrong:
            others = [
                measured[other.id].evidence
                for other in samples
                if other.class_name == sample.class_name
                and other.id != sample.id
                and measured[other.id].size_wh == size_wh
            ]
            evidence = others[random.integers(len(others))] if others else None
            name = WRONG if evidence is not None else DROPPED
        counts[name] += 1
        result.append(sample.model_copy(update={"evidence": evidence}))
    return result, dict(counts)


def measure_held_out(samples: Sequence[Sample], banks: ClassBanks) -> tuple[list[Sample], dict[str, int]]:
    """Held-out samples with the right evidence, and how many have none since their class has no good part."""
    result = [sample.model_copy(update={"evidence": banks.measure(sample).evidence}) for sample in samples]
    without = sum(sample.evidence is None for sample in result)
    return result, {f"held-out {IMPOSSIBLE}": without} if without else {}
