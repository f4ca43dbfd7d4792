"""Splits: what to train on and what to test on, written down with the hash of every image.

`protocols` draws the two sides. A split whose test set leaks into the training set (`leaks`) is refused,
unless leaks are allowed; with `drop_leaks` test samples that leak are left out of the test set and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from anomalyr1.data import leaks
from anomalyr1.data.protocols import SplitPlan, divide, require_fields_used, require_unique_ids
from anomalyr1.data.samples import listed
from anomalyr1.files import parse_record, read_regular, write_whole
from anomalyr1.types import InputError, Record, Sample

Side = Literal["train", "test"]
FORMAT: Literal["anomalyr1-split-1"] = "anomalyr1-split-1"


class SplitEntry(Record):
    """A sample of a split."""

    id: str
    sha256: str
    """SHA-256 of the image file, in hex."""


class FoundLeaks(Record):
    """What the test set shares with the training set."""

    allowed: bool
    """Whether leaks were allowed; a manifest with leaks exists only where they were."""
    counts: dict[str, int]
    """How many test samples leak, by the kind of leak."""
    found: tuple[leaks.Leak, ...]


class Manifest(Record):
    """A split, written down."""

    format: Literal["anomalyr1-split-1"] = FORMAT
    spec: str
    test_spec: str = ""
    """The spec of the test set, for the protocol `given` alone."""
    options: dict[str, str] = Field(default_factory=dict)
    """Options of the loader."""
    test_options: dict[str, str] = Field(default_factory=dict)
    plan: SplitPlan
    train: tuple[SplitEntry, ...]
    test: tuple[SplitEntry, ...]
    counts: dict[str, int]
    """What was left out, under its name."""
    leaks: FoundLeaks

    def source(self, side: Side) -> tuple[str, dict[str, str]]:
        """The spec that a side was drawn from, and the options of its loader."""
        if side == "test" and self.test_spec:
            return self.test_spec, self.test_options
        return self.spec, self.options


def make(
    samples: Sequence[Sample],
    plan: SplitPlan,
    spec: str,
    options: dict[str, str] | None = None,
    allow_leaks: bool = False,
) -> Manifest:
    """Split `samples`, look for leaks, and give the manifest.

    Raises `InputError` for a plan that cannot be carried out, for missing images, and for leaks unless they
    are allowed.
    """
    sides = divide(samples, plan)
    by_id = {sample.id: sample for sample in samples}
    train, test = ([by_id[sample_id] for sample_id in ids] for ids in (sides.train, sides.test))
    sources = {"spec": spec, "options": options or {}}
    return _manifest(train, test, plan, sides.counts, allow_leaks, sources)


def pair(
    train: Sequence[Sample],
    test: Sequence[Sample],
    plan: SplitPlan,
    specs: tuple[str, str],
    options: tuple[dict[str, str], dict[str, str]] | None = None,
    allow_leaks: bool = False,
) -> Manifest:
    """The manifest of two sets as they are.

    Of a plan of the protocol `given` only what concerns leaks counts. Raises as `make` does.
    """
    require_fields_used(plan)
    for side in (train, test):
        require_unique_ids(sample.id for sample in side)
        if not side:
            raise InputError(
                "a split needs samples to train on and samples to test on; one of the two specs holds none"
            )
    sources: dict[str, Any] = {"spec": specs[0], "test_spec": specs[1]}
    if options is not None:
        sources |= {"options": options[0], "test_options": options[1]}
    return _manifest(train, test, plan, {}, allow_leaks, sources)


def write(path: str | Path, manifest: Manifest) -> None:
    """Write a manifest; the same plan on the same data gives the same bytes.

    Raises `SetupError` when the disk refuses.
    """
    write_whole(Path(path), to_bytes(manifest))


def to_bytes(manifest: Manifest) -> bytes:
    """A manifest as it stands in its file."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=True)
    return text.encode("ascii") + b"\n"


def read(path: str | Path) -> Manifest:
    """The manifest that `write` wrote. Raises `InputError` for anything else."""
    try:
        return parse_record(Manifest, read_regular(path), repr(str(path)))
    except InputError as error:
        raise InputError(
            f"cannot read the split: {error}; make one with: anomalyr1 data split SPEC --out FILE"
        ) from error


def select(manifest: Manifest, samples: Iterable[Sample], side: Side, verify: bool = True) -> list[Sample]:
    """The samples of one side, in the manifest's order.

    Raises `InputError` that names samples which are gone, and, unless `verify` is off, images that are no
    longer those of the split.
    """
    entries = manifest.train if side == "train" else manifest.test
    sha256_by_id = {entry.id: entry.sha256 for entry in entries}
    sample_by_id = {sample.id: sample for sample in samples if sample.id in sha256_by_id}
    gone = [sample_id for sample_id in sha256_by_id if sample_id not in sample_by_id]
    if gone:
        spec, _ = manifest.source(side)
        raise InputError(
            f"{len(gone)} samples of the split are not in the data: {listed(gone)}; "
            f"give the data that side was made of, {spec!r}"
        )
    if verify:
        digests = leaks.file_digests(sample.image for sample in sample_by_id.values())
        changed = [
            sample_id
            for sample_id, sha256 in sha256_by_id.items()
            if digests[sample_by_id[sample_id].image] != sha256
        ]
        if changed:
            raise InputError(
                f"{len(changed)} images are not those the split was made of: {listed(changed)}; "
                "restore them, or split anew"
            )
    return [sample_by_id[sample_id] for sample_id in sha256_by_id]


def _manifest(
    train: Sequence[Sample],
    test: Sequence[Sample],
    plan: SplitPlan,
    counts: dict[str, int],
    allow_leaks: bool,
    sources: dict[str, Any],
) -> Manifest:
    """The manifest of two sides; `sources` are its fields that say where they come from."""
    leaks_found = leaks.find(train, test, plan.max_distance)
    if plan.drop_leaks:
        leaking_ids = {leak.test for leak in leaks_found}
        test, leaks_found = [sample for sample in test if sample.id not in leaking_ids], ()
        if leaking_ids:
            counts = counts | {"left_out_of_test_as_leaks": len(leaking_ids)}
        if not test:
            raise InputError(
                f"all {len(leaking_ids)} test samples leak into the training set, so none is left; "
                "choose another protocol"
            )
    leak_counts = leaks.counts(leaks_found)
    if leaks_found and not allow_leaks:
        raise InputError(_leaks_message(leaks_found, leak_counts))
    digests = leaks.file_digests(sample.image for sample in (*train, *test))
    return Manifest(
        **sources,
        plan=plan,
        train=tuple(SplitEntry(id=sample.id, sha256=digests[sample.image]) for sample in train),
        test=tuple(SplitEntry(id=sample.id, sha256=digests[sample.image]) for sample in test),
        counts=counts,
        leaks=FoundLeaks(allowed=allow_leaks, counts=leak_counts, found=leaks_found),
    )


def _leaks_message(leaks_found: Sequence[leaks.Leak], leak_counts: dict[str, int]) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in leak_counts.items())
    leak = leaks_found[0]
    return (
        f"the test set leaks into the training set ({kinds}; the first is {leak.kind}: {leak.test!r} and "
        f"{leak.train!r}), so no split was made; clean the data, leave such samples out of the test set with "
        "--drop-leaks, or take the leaks knowingly with --allow-leaks, which is then written down"
    )
