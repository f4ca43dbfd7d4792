"""Inspections and the samples they are about, put together: whatever finds no partner is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from anomalyr1.types import InputError, Inspection, Sample


class Pairs(NamedTuple):
    """Samples with their inspections."""

    known: list[tuple[Sample, Inspection]]
    """In the order of the samples."""
    left_out: dict[str, int]
    """What found no partner, by reason."""
    strangers: list[Inspection]
    """Inspections without a sample."""


def pair(samples: Iterable[Sample], inspections: Sequence[Inspection]) -> Pairs:
    """Pair by sample id, else by the path of the image, as `anomalyr1 inspect` names what it inspects.

    Raises `InputError` when none belongs to any other, and when two samples would share an inspection.
    """
    by_id = {inspection.sample_id: inspection for inspection in inspections}
    by_path = {_absolute(inspection.sample_id): inspection for inspection in inspections}
    known, used, total = [], set[str](), 0
    for sample in samples:
        total += 1
        found = (
            by_id.get(sample.id)
            or by_id.get(sample.image.as_posix())
            or by_path.get(_absolute(sample.image.as_posix()))
        )
        if found is None:
            continue
        if found.sample_id in used:
            raise InputError(
                f"the inspection {found.sample_id!r} belongs to two samples, one of them {sample.id!r}; load each image once"
            )
        used.add(found.sample_id)
        known.append((sample, found))
    if not known:
        first = inspections[0].sample_id if inspections else "none"
        raise InputError(
            f"none of {len(inspections)} inspections belongs to one of {total} samples (the first is {first!r}); name the data set "
            "that was inspected, from the same folder"
        )
    strangers = [one for one in inspections if one.sample_id not in used]
    left_out = {
        "inspections without a sample": len(strangers),
        "samples without an inspection": total - len(known),
    }
    return Pairs(known, {name: n for name, n in left_out.items() if n}, strangers)


def _absolute(path: str) -> str:
    return Path(path).absolute().as_posix()
