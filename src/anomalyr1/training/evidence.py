"""Samples of a run and what good parts of their class say about them: right, absent or wrong.

The good parts are those of the train side alone. A policy that always read the truth in its prompt would stop
to look for itself, so some prompts hold nothing, and some hold what the good parts of another class say.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.learning import Settings
from anomalyr1.images.door import LoadedImage, open_image
from anomalyr1.training.recipes import Recipe
from anomalyr1.types import Evidence, InputError, Sample


class MeasuredSamples(NamedTuple):
    """Samples with their evidence."""

    samples: list[Sample]
    counts: dict[str, int]
    """How many carry the right evidence, none, or a wrong one, in words."""


class ClassBanks:
    """A bank for each class that has good parts among the samples that are learned from."""

    def __init__(self, samples: Sequence[Sample], rotations: bool = False) -> None:
        """Raises `InputError` where no sample is good."""
        by_class: dict[str, list[Sample]] = {}
        for sample in samples:
            if sample.anomalous is False:
                by_class.setdefault(sample.class_name, []).append(sample)
        if not by_class:
            raise InputError("evidence needs good parts among the data, and there are none; add some")
        settings = Settings(rotations=rotations)
        self.banks: Mapping[str, Bank] = {
            name: Bank.learn(_distinct_images(good), settings) for name, good in sorted(by_class.items())
        }

    def measure(self, sample: Sample, image: LoadedImage, name: str | None = None) -> Evidence | None:
        """What the good parts of a class, its own by default, say about a sample; None where it has none.

        A good part that is in the bank is compared with the others.
        """
        bank = self.banks.get(sample.class_name if name is None else name)
        if bank is None:
            return None
        numbers = {part.sha256: number for number, part in enumerate(bank.parts) if not part.held_out}
        return bank.measure(image, leave_out=numbers.get(image.sha256)).evidence

    def wrong_class(self, sample: Sample, random: np.random.Generator) -> str | None:
        """A class other than the sample's own; None where there is none."""
        others = [name for name in self.banks if name != sample.class_name]
        return others[random.integers(len(others))] if others else None

    def require_apart(self, samples: Sequence[Sample]) -> None:
        """Raise `InputError` that names held-out samples whose very image is in a bank."""
        digests = {part.sha256 for bank in self.banks.values() for part in bank.parts}
        leaks = [sample.id for sample in samples if _digest(sample) in digests]
        if leaks:
            raise InputError(
                f"{len(leaks)} held-out images are among the good parts that are compared with, e.g. "
                f"{leaks[0]!r}; hold out others (anomalyr1 data split)"
            )


def measure_training(samples: Sequence[Sample], banks: ClassBanks, recipe: Recipe) -> MeasuredSamples:
    """Samples to learn from: a share without evidence and a share with that of another class, by seed."""
    counts: Counter[str] = Counter()
    measured = []
    for sample in samples:
        digest = hashlib.sha256(f"evidence {recipe.seed} {sample.id}".encode("utf-8", "surrogatepass"))
        random = np.random.default_rng(list(digest.digest()[:8]))
        chance = random.random()
        evidence: Evidence | None = None
        name = "samples without evidence"
        if chance >= recipe.evidence_dropout:
            is_wrong = chance < recipe.evidence_dropout + recipe.evidence_wrong
            other = banks.wrong_class(sample, random) if is_wrong else None
            evidence = banks.measure(sample, open_image(sample.image), other)
            name = "samples with evidence of another class" if other else "samples with evidence"
        counts[name if evidence is not None else "samples without evidence"] += 1
        measured.append(sample.model_copy(update={"evidence": evidence}))
    return MeasuredSamples(measured, dict(counts))


def measure_held_out(samples: Sequence[Sample], banks: ClassBanks) -> list[Sample]:
    """Held-out samples, all with the right evidence. Raises `InputError` for one that is in a bank."""
    banks.require_apart(samples)
    return [
        sample.model_copy(update={"evidence": banks.measure(sample, open_image(sample.image))})
        for sample in samples
    ]


def _distinct_images(samples: Sequence[Sample]) -> list[str]:
    """The images of samples, each content once: a copy of a learned part would be held out."""
    by_digest: dict[str, str] = {}
    for sample in samples:
        by_digest.setdefault(_digest(sample), sample.image.as_posix())
    return list(by_digest.values())


def _digest(sample: Sample) -> str:
    return _digest_of_file(sample.image.as_posix())


@cache
def _digest_of_file(path: str) -> str:
    return open_image(path).sha256
