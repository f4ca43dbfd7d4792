"""Inspections and the samples they are about, put together: whatever finds no partner is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from anomalyr1.inspection.samples import digest_if_readable
from anomalyr1.types import InputError, Inspection, Sample

CHANGED = "images that are not those inspected, paired by name"


class Pairs(NamedTuple):
    """Samples with their inspections."""

    known: list[tuple[Sample, Inspection]]
    """Samples that have an inspection, in the order of the samples."""
    left_out: dict[str, int]
    """How many samples and inspections found no partner, by reason; and how many pairs are doubtful."""


def pair(samples: Iterable[Sample], inspections: Sequence[Inspection]) -> Pairs:
    """Pair by the content of the image, else by sample id, else by the path of the image.

    So it does not matter from which folder was inspected, nor where the images lie now. Of several images of
    the same content the one of the same name counts. Raises `InputError` when no inspection belongs to a
    sample, and when two samples would share one.
    """
    samples = list(samples)
    by_name = _by_name(inspections)
    by_digest: dict[str, list[Inspection]] = {}
    for candidate in inspections:
        if candidate.image_sha256:
            by_digest.setdefault(candidate.image_sha256, []).append(candidate)
    partners: list[Inspection | None] = []  # of each sample
    paired_ids: set[str] = set()
    changed = 0
    # 1. Those of the same name, unless the name stands for another image now that was inspected elsewhere.
    digests = [digest_if_readable(sample.image) if by_digest else "" for sample in samples]
    for sample, digest in zip(samples, digests, strict=True):
        inspection = _same_name(sample, by_name)
        if inspection is None or (inspection.image_sha256 != digest and digest in by_digest):
            partners.append(None)
            continue
        if inspection.sample_id in paired_ids:
            raise InputError(
                f"the inspection {inspection.sample_id!r} belongs to two samples, one of them {sample.id!r}; "
                "load each image once"
            )
        paired_ids.add(inspection.sample_id)
        partners.append(inspection)
        changed += bool(digest and inspection.image_sha256 and digest != inspection.image_sha256)
    # 2. Those of the same content under another name.
    for place, digest in enumerate(digests):
        if partners[place] is None:
            free = [i for i in by_digest.get(digest, ()) if i.sample_id not in paired_ids]
            partners[place] = free[0] if free else None
            paired_ids.update(partner.sample_id for partner in free[:1])
    pairs = [(sample, i) for sample, i in zip(samples, partners, strict=True) if i is not None]
    if not pairs:
        example = inspections[0].sample_id if inspections else "none"
        raise InputError(
            f"none of {len(inspections)} inspections belongs to one of {len(samples)} samples, neither by "
            f"the content of its image nor by name (the first is {example!r}); name the data set that was "
            "inspected"
        )
    left_out = {
        "inspections without a sample": len(inspections) - len(pairs),
        "samples without an inspection": len(samples) - len(pairs),
        CHANGED: changed,
    }
    return Pairs(pairs, {reason: n for reason, n in left_out.items() if n})


def _by_name(inspections: Sequence[Inspection]) -> dict[str, Inspection]:
    """Inspections by sample id, which `anomalyr1 inspect` makes of a path, and by that path made absolute."""
    absolute = {_absolute(inspection.sample_id): inspection for inspection in inspections}
    return absolute | {inspection.sample_id: inspection for inspection in inspections}


def _same_name(sample: Sample, by_name: dict[str, Inspection]) -> Inspection | None:
    path = sample.image.as_posix()
    return by_name.get(sample.id) or by_name.get(path) or by_name.get(_absolute(path))


def _absolute(path: str) -> str:
    return Path(path).absolute().as_posix()
