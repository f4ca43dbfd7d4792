"""Inspections and the samples they are about, put together: whatever finds no partner is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from anomalyr1.types import InputError, Inspection, Sample


class Pairs(NamedTuple):
    """Samples with their inspections."""

    known: list[tuple[Sample, Inspection]]
    """Samples that have an inspection, in the order of the samples."""
    left_out: dict[str, int]
    """What found no partner, by reason."""
    strangers: list[Inspection]
    """Inspections without a sample."""


def pair(samples: Iterable[Sample], inspections: Sequence[Inspection]) -> Pairs:
    """Pair by sample id, else by the path of the image, as `anomalyr1 inspect` names what it inspects.

    Raises `InputError` when no inspection belongs to a sample, and when two samples would share one.
    """
    samples = list(samples)
    by_id = {inspection.sample_id: inspection for inspection in inspections}
    by_path = {_absolute(inspection.sample_id): inspection for inspection in inspections}
    pairs: list[tuple[Sample, Inspection]] = []
    paired_ids: set[str] = set()
    for sample in samples:
        path = sample.image.as_posix()
        inspection = by_id.get(sample.id) or by_id.get(path) or by_path.get(_absolute(path))
        if inspection is None:
            continue
        if inspection.sample_id in paired_ids:
            raise InputError(
                f"the inspection {inspection.sample_id!r} belongs to two samples, one of them {sample.id!r}; "
                "load each image once"
            )
        paired_ids.add(inspection.sample_id)
        pairs.append((sample, inspection))
    if not pairs:
        example = inspections[0].sample_id if inspections else "none"
        raise InputError(
            f"none of {len(inspections)} inspections belongs to one of {len(samples)} samples "
            f"(the first is {example!r}); name the data set that was inspected, from the same folder"
        )
    strangers = [inspection for inspection in inspections if inspection.sample_id not in paired_ids]
    left_out = {
        "inspections without a sample": len(strangers),
        "samples without an inspection": len(samples) - len(pairs),
    }
    return Pairs(pairs, {reason: n for reason, n in left_out.items() if n}, strangers)


def _absolute(path: str) -> str:
    return Path(path).absolute().as_posix()
