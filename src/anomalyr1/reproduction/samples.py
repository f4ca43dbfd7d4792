"""The test sets of a study as files: which samples are asked about, with whole paths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from anomalyr1.data import sources
from anomalyr1.files import write_whole
from anomalyr1.types import InputError, Record, Sample


def choose_samples(spec: str, folder: Path, limit: int) -> list[Sample]:
    """At most `limit` samples of known truth, as many good as anomalous ones where there are enough, drawn by
    the digests of their ids.
    """
    samples = sources.load_sources([spec], folder / "drawn", "test")
    labelled = [_at_home(sample) for sample in samples if sample.anomalous is not None]
    ranked = sorted(labelled, key=lambda sample: hashlib.sha256(sample.id.encode()).digest())
    good, anomalous = ([sample for sample in ranked if sample.anomalous is side] for side in (False, True))
    fewest = min(len(good), len(anomalous), limit // 2)
    if not fewest:
        raise InputError(
            f"{spec!r} has {len(good)} good and {len(anomalous)} anomalous samples; a test set needs both"
        )
    if len(labelled) <= limit:
        return labelled
    return [*good[: max(fewest, limit - len(anomalous))], *anomalous[: max(fewest, limit - len(good))]]


def write_records(file: Path, records: Sequence[Record]) -> None:
    """Keep records as a file, a line each; whole or not at all."""
    write_whole(file, "".join(f"{record.to_json()}\n" for record in records).encode("ascii"))


def read_samples(file: Path) -> list[Sample]:
    """The samples of a file that `write_records` wrote."""
    return [Sample.from_json(line) for line in file.read_text(encoding="ascii").splitlines()]


def _at_home(sample: Sample) -> Sample:
    """With whole paths, so that the experiment goes on from any folder."""
    here = Path.cwd()
    references = tuple(here / path for path in sample.references)
    return sample.model_copy(
        update={
            "image": here / sample.image,
            "references": references,
            "mask": sample.mask and here / sample.mask,
        }
    )
