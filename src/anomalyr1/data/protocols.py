"""Protocols of splits: which samples to train on and which to test on, drawn by a seed.

A protocol works within each class (dataset and category) and each defect type, so that both sides hold every
kind in proportion:

- `few-shot`: k good and k anomalous images of each class (the anomalous ones from as many defect types as
  there are), or k anomalous of each defect type; all others are the test set;
- `share`: a share of the images to train on, 0.2 by default (20/80);
- `leave-classes-out`, `leave-defects-out`, `leave-datasets-out`: what is named is tested on, all else
  trained on. Good images belong to no defect, so for `leave-defects-out` each class's good images are
  shared out as its anomalous ones are;
- `given`: two specs, one to train on and one to test on; nothing is drawn.

A draw ranks samples by the SHA-256 of seed and id, so it depends neither on their order nor on what else is
in the set. With `drop_leaks` the protocol `share` draws whole series (`leaks.series`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from anomalyr1.data import leaks
from anomalyr1.data.samples import listed
from anomalyr1.types import InputError, Record, Sample, nearest_name

Protocol = Literal[
    "few-shot", "share", "leave-classes-out", "leave-defects-out", "leave-datasets-out", "given"
]
_FEW_SHOT_FIELDS = frozenset(("shots", "good_shots", "per", "allow_short"))
_LEAVE_OUT_FIELDS = _FEW_SHOT_FIELDS | {"held_out"}
_FIELDS_OF: dict[Protocol, frozenset[str]] = {
    "few-shot": _FEW_SHOT_FIELDS, "share": frozenset(("share",)), "given": frozenset(),
    "leave-classes-out": _LEAVE_OUT_FIELDS, "leave-defects-out": _LEAVE_OUT_FIELDS,
    "leave-datasets-out": _LEAVE_OUT_FIELDS,
}  # fmt: skip
"""The fields of a plan that a protocol makes use of, besides what concerns seed and leaks."""


class SplitPlan(Record):
    """How to split."""

    protocol: Protocol
    seed: int = 0
    shots: int | None = Field(default=None, ge=1)
    """Good and anomalous images of each class; few-shot needs it, the leave-out protocols may limit what they
    train on by it."""
    good_shots: int | None = Field(default=None, ge=0)
    """Good images of each class where that is another number; 0 = none."""
    per: Literal["class", "defect"] = "class"
    """What `shots` anomalous images are drawn from."""
    share: float = Field(default=0.2, gt=0, lt=1)
    """The share of the images to train on, for the protocol `share`."""
    held_out: tuple[str, ...] = ()
    """Names of categories ("bottle" or "mvtec/bottle"), defects or datasets to test on."""
    max_distance: int = Field(default=leaks.MAX_DISTANCE, ge=0, le=leaks.HASH_SIZE**2)
    """Bits in which the perceptual hashes of two copies may differ."""
    drop_leaks: bool = False
    """Whether test samples that leak are left out instead of stopping the split."""
    allow_short: bool = False
    """Whether a class with too few images gives what it has (all but one) instead of stopping the split."""


class Sides(NamedTuple):
    """Ids of the two sides, in the order of the samples, and what was left out."""

    train: list[str]
    test: list[str]
    counts: dict[str, int]


class _Candidate(NamedTuple):
    """What the protocols know of a sample that is known to be good or anomalous."""

    id: str
    class_name: str
    dataset: str
    category: str
    defect: str
    """The name of the defect; empty for good."""


def divide(samples: Iterable[Sample], plan: SplitPlan) -> Sides:
    """The ids to train and to test on.

    Samples that are not known to be good or anomalous are left out and counted. Raises `InputError` for ids
    that come twice, what the protocol makes no use of, names that do not exist, classes with too few
    images, and an empty side.
    """
    require_fields_used(plan)
    # 1. Keep what the protocols need to know of each sample.
    ids: list[str] = []
    candidates: list[_Candidate] = []
    for sample in samples:
        ids.append(sample.id)
        if sample.anomalous is not None:
            defect = (sample.defect or "unnamed defect") if sample.anomalous else ""
            candidates.append(
                _Candidate(sample.id, sample.class_name, sample.dataset, sample.category, defect)
            )
    require_unique_ids(ids)
    unlabelled = len(ids) - len(candidates)
    counts = {"unlabelled": unlabelled} if unlabelled else {}
    # 2. Choose the ids of the two sides by the protocol.
    if plan.protocol == "given":
        raise InputError(
            "the protocol 'given' takes two sets as they are: give the second one, e.g. --test SPEC"
        )
    if plan.protocol in ("few-shot", "share"):
        few_shot = plan.protocol == "few-shot"
        train = _shots(candidates, plan, counts, leave=1) if few_shot else _share(candidates, plan)
        test = {candidate.id for candidate in candidates} - train
    else:
        train, test = _leave_out(candidates, plan, counts)
    # 3. Refuse an empty side, and give both in the order of the samples.
    for name, side in (("train", train), ("test", test)):
        if not side:
            raise InputError(
                f"the split leaves nothing to {name} on; {len(candidates)} labelled samples were given; "
                "change the plan"
            )
    return Sides(
        [sample_id for sample_id in ids if sample_id in train],
        [sample_id for sample_id in ids if sample_id in test],
        counts,
    )


def _shots(candidates: Sequence[_Candidate], plan: SplitPlan, counts: dict[str, int], leave: int) -> set[str]:
    """The ids of the shots of each class or defect type; `leave` so many in each group to test on."""
    if plan.shots is None:
        raise InputError("a few-shot split needs to know how many images to take: give shots, e.g. --shots 4")
    groups: dict[tuple[str, str], list[_Candidate]] = {}
    for candidate in candidates:
        kind = "anomalous" if candidate.defect else "good"
        if candidate.defect and plan.per == "defect":
            kind = f"anomalous: {candidate.defect}"
        groups.setdefault((candidate.class_name, kind), []).append(candidate)
    ids: set[str] = set()
    short_groups: list[str] = []
    for (class_name, kind), members in groups.items():
        shots = plan.good_shots if kind == "good" and plan.good_shots is not None else plan.shots
        if shots > len(members) - leave:
            short_groups.append(f"{class_name} ({kind}: {len(members)})")
            shots = len(members) - leave
        ids.update(candidate.id for candidate in _defects_in_turn(members, plan.seed)[:shots])
    if short_groups and not plan.allow_short:
        raise InputError(
            f"{len(short_groups)} of {len(groups)} groups: too few images to take and to leave to test: "
            f"{listed(short_groups)}; take fewer shots, "
            "or let such groups give what they have with --allow-short"
        )
    with_good = {candidate.class_name for candidate in candidates if not candidate.defect}
    with_anomalous = {candidate.class_name for candidate in candidates if candidate.defect}
    remarks = {
        "short_groups": len(short_groups),
        "classes_without_good": len(with_anomalous - with_good),
        "classes_without_anomalous": len(with_good - with_anomalous),
    }
    counts.update((name, count) for name, count in remarks.items() if count)
    return ids


def _defects_in_turn(members: Sequence[_Candidate], seed: int) -> list[_Candidate]:
    """In drawn order, one of each defect type after the other."""
    queues: dict[str, list[_Candidate]] = {}
    for member in sorted(members, key=lambda candidate: _rank(seed, candidate.id)):
        queues.setdefault(member.defect, []).append(member)
    turns = [
        (place, _rank(seed, member.id), member)
        for queue in queues.values()
        for place, member in enumerate(queue)
    ]
    return [member for _, _, member in sorted(turns)]


def _share(candidates: Iterable[_Candidate], plan: SplitPlan) -> set[str]:
    """The ids of the share of each class and defect type.

    What rounding leaves over goes on to the next, so that the sum is right too.
    """
    groups: dict[tuple[str, str], list[_Candidate]] = {}
    for candidate in candidates:
        groups.setdefault((candidate.class_name, candidate.defect), []).append(candidate)
    ids: set[str] = set()
    due = 0.5
    for key in sorted(groups):
        due += plan.share * len(groups[key])
        number = min(int(due), len(groups[key]))
        due -= number
        ranked = sorted(groups[key], key=lambda candidate: _series_rank(plan, candidate.id))
        ids.update(candidate.id for candidate in ranked[:number])
    return ids


def _series_rank(plan: SplitPlan, sample_id: str) -> tuple[bytes, bytes]:
    """The rank of the series, so that with `drop_leaks` it lies on one side, then of the sample."""
    rank = _rank(plan.seed, sample_id)
    if plan.drop_leaks:
        for series in leaks.series(sample_id):
            if series.reach == float("inf"):
                return _rank(plan.seed, series.key), rank
    return rank, rank


def require_fields_used(plan: SplitPlan) -> None:
    """Raise `InputError` for a field that is set and that the protocol makes no use of."""
    used = _FIELDS_OF[plan.protocol]
    if plan.shots is None:
        used -= _FEW_SHOT_FIELDS
    for name in ("shots", "good_shots", "per", "allow_short", "share", "held_out"):
        if name not in used and getattr(plan, name) != SplitPlan.model_fields[name].default:
            flag = "--" + name.replace("held_out", "hold_out").replace("_", "-")
            without = " without --shots" if name in _FIELDS_OF[plan.protocol] else ""
            raise InputError(
                f"the protocol {plan.protocol!r} makes no use of {flag}{without}; "
                "leave it out, or choose another protocol"
            )


def _leave_out(
    candidates: Sequence[_Candidate], plan: SplitPlan, counts: dict[str, int]
) -> tuple[set[str], set[str]]:
    """The ids to train and to test on, tested being what the plan names."""
    names_by_id = {candidate.id: _names(candidate, plan.protocol) for candidate in candidates}
    known_names: set[str] = set().union(*names_by_id.values())
    _require_names(plan, known_names)
    test = {sample_id for sample_id, names in names_by_id.items() if not names.isdisjoint(plan.held_out)}
    if plan.protocol == "leave-defects-out":
        test |= _good_share(candidates, test, plan.seed)
    train = set(names_by_id) - test
    if plan.shots is None:
        return train, test
    shots = _shots([candidate for candidate in candidates if candidate.id in train], plan, counts, leave=0)
    if train > shots:
        counts["unused"] = len(train) - len(shots)
    return shots, test


def _good_share(candidates: Sequence[_Candidate], test: set[str], seed: int) -> set[str]:
    """Ids of each class's good images to test on: the same share as of its anomalous ones."""
    classes: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        classes.setdefault(candidate.class_name, []).append(candidate)
    ids: set[str] = set()
    for members in classes.values():
        good = [member.id for member in members if not member.defect]
        anomalous = [member.id for member in members if member.defect]
        if anomalous:
            tested = sum(sample_id in test for sample_id in anomalous)
            number = round(len(good) * tested / len(anomalous))
            ids.update(sorted(good, key=lambda sample_id: _rank(seed, sample_id))[:number])
    return ids


def _names(candidate: _Candidate, protocol: Protocol) -> set[str]:
    """The names under which a sample can be left out."""
    if protocol == "leave-classes-out":
        return {candidate.category, candidate.class_name}
    return {candidate.dataset} if protocol == "leave-datasets-out" else {candidate.defect} - {""}


def _require_names(plan: SplitPlan, known_names: set[str]) -> None:
    """Raise `InputError` where the plan names nothing to leave out, or what is not in the data."""
    known = listed(sorted(known_names))
    if not plan.held_out:
        raise InputError(f"{plan.protocol} needs to know what to leave out; there are: {known}")
    for name in plan.held_out:
        if name not in known_names:
            nearest = nearest_name(name, known_names)
            hint = f"there are: {known}" if nearest is None else f"did you mean {nearest!r}?"
            raise InputError(f"nothing in the data is called {name!r}, so it cannot be left out; {hint}")


def _rank(seed: int, sample_id: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{sample_id}".encode("utf-8", "surrogatepass")).digest()


def require_unique_ids(ids: Iterable[str]) -> None:
    """Raise `InputError` for an id that comes twice."""
    earlier: set[str] = set()
    for sample_id in ids:
        if sample_id in earlier:
            raise InputError(
                f"two samples have the id {sample_id!r}, so a split cannot name them; "
                "see: anomalyr1 data check SPEC"
            )
        earlier.add(sample_id)
