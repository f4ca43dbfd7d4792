"""Splits: which samples to train on and which to test on, drawn by a seed and written down with the hash of every image.

Protocols, always within each class (dataset and category) and each defect type, so that both sides hold every
kind in proportion:

- `few-shot`: k good and k anomalous images of each class (the anomalous ones from as many defect types as there are), or k anomalous
  of each defect type; all others are the test set;
- `share`: a share of the images to train on, 0.2 by default (20/80);
- `leave-classes-out`, `leave-defects-out`, `leave-datasets-out`: what is named is tested on, all else trained on. Good images belong to no
  defect, so for `leave-defects-out` each class's good images are shared out as its anomalous ones are;
- `given`: two specs, one to train on and one to test on.

A draw ranks samples by the SHA-256 of seed and id, so it depends neither on their order nor on what else is
in the set. With `drop_leaks` the protocol `share` draws whole series (`leaks.series`), and test samples that
leak all the same are left out of the test set and counted.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError

from anomalyr1.data import leaks
from anomalyr1.data.samples import listed
from anomalyr1.files import write_whole
from anomalyr1.types import InputError, Record, Sample

Side = Literal["train", "test"]
Protocol = Literal[
    "few-shot", "share", "leave-classes-out", "leave-defects-out", "leave-datasets-out", "given"
]
FORMAT: Literal["anomalyr1-split-1"] = "anomalyr1-split-1"
_FEW = frozenset(("shots", "good_shots", "per", "allow_short"))
_LEFT_OUT = _FEW | {"held_out"}
_USED: dict[Protocol, frozenset[str]] = {
    "few-shot": _FEW, "share": frozenset(("share",)), "given": frozenset(),
    "leave-classes-out": _LEFT_OUT, "leave-defects-out": _LEFT_OUT, "leave-datasets-out": _LEFT_OUT,
}  # fmt: skip
"""What a protocol makes use of, besides what concerns seed and leaks."""


class Plan(Record):
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
    held_out: tuple[str, ...] = ()
    """Names of categories ("bottle" or "mvtec/bottle"), defects or datasets to test on."""
    max_distance: int = Field(default=leaks.MAX_DISTANCE, ge=0, le=leaks.HASH_SIZE**2)
    """Bits in which the perceptual hashes of two copies may differ."""
    drop_leaks: bool = False
    """Whether test samples that leak are left out instead of stopping the split."""
    allow_short: bool = False
    """Whether a class with too few images gives what it has (all but one) instead of stopping the split."""


class Entry(Record):
    """A sample of a split."""

    id: str
    sha256: str
    """Of the image file."""


class FoundLeaks(Record):
    """What the test set shares with the training set."""

    allowed: bool
    """A manifest with leaks exists only where they were allowed."""
    counts: dict[str, int]
    found: tuple[leaks.Leak, ...]


class Manifest(Record):
    """A split, written down."""

    format: Literal["anomalyr1-split-1"] = FORMAT
    spec: str
    test_spec: str = ""
    """Only for the protocol `given`."""
    options: dict[str, str] = Field(default_factory=dict)
    """Of the loader."""
    test_options: dict[str, str] = Field(default_factory=dict)
    plan: Plan
    train: tuple[Entry, ...]
    test: tuple[Entry, ...]
    counts: dict[str, int]
    """What was left out, under its name."""
    leaks: FoundLeaks

    def source(self, side: Side) -> tuple[str, dict[str, str]]:
        """The spec that a side was drawn from, and the options of its loader."""
        return (
            (self.test_spec, self.test_options)
            if side == "test" and self.test_spec
            else (self.spec, self.options)
        )


class Sides(NamedTuple):
    """Ids of the two sides, in the order of the samples, and what was left out."""

    train: list[str]
    test: list[str]
    counts: dict[str, int]


class _Fact(NamedTuple):
    id: str
    dataset: str
    category: str
    defect: str
    """Empty for good."""

    @property
    def class_name(self) -> str:
        return f"{self.dataset}/{self.category}" if self.dataset else self.category


def make(
    samples: Sequence[Sample],
    plan: Plan,
    spec: str,
    options: dict[str, str] | None = None,
    allow_leaks: bool = False,
) -> Manifest:
    """Split `samples`, look for leaks, and give the manifest.

    Raises `InputError` for a plan that cannot be carried out, for missing images, and for leaks unless they
    are allowed.
    """
    sides = divide(samples, plan)
    chosen = dict.fromkeys(sides.train, "train") | dict.fromkeys(sides.test, "test")
    train, test = (
        [sample for sample in samples if chosen.get(sample.id) == side] for side in ("train", "test")
    )
    return _manifest(train, test, plan, sides.counts, allow_leaks, {"spec": spec, "options": options or {}})


def pair(
    train: Sequence[Sample],
    test: Sequence[Sample],
    plan: Plan,
    specs: tuple[str, str],
    options: tuple[dict[str, str], dict[str, str]] | None = None,
    allow_leaks: bool = False,
) -> Manifest:
    """The manifest of two sets as they are; of a plan of the protocol `given` only what concerns leaks counts. Raises as `make` does."""
    _check_used(plan)
    for side in (train, test):
        _unique(side)
        if not side:
            raise InputError(
                "a split needs samples to train on and samples to test on; one of the two specs holds none"
            )
    own, others = options or ({}, {})
    about: dict[str, object] = {
        "spec": specs[0],
        "test_spec": specs[1],
        "options": own,
        "test_options": others,
    }
    return _manifest(train, test, plan, {}, allow_leaks, about)


def divide(samples: Iterable[Sample], plan: Plan) -> Sides:
    """The ids to train and to test on. Samples that are not known to be good or anomalous are left out and counted.

    Raises `InputError` for ids that come twice, what the protocol makes no use of, names that do not exist,
    classes with too few images, and an empty side.
    """
    _check_used(plan)
    known, order, unlabelled = [], [], 0
    for sample in samples:
        order.append(sample.id)
        if sample.anomalous is None:
            unlabelled += 1
        else:
            defect = (sample.defect or "unnamed defect") if sample.anomalous else ""
            known.append(_Fact(sample.id, sample.dataset, sample.category, defect))
    _unique(order)
    counts = {"unlabelled": unlabelled} if unlabelled else {}
    if plan.protocol == "few-shot":
        if plan.shots is None:
            raise InputError(
                "a few-shot split needs to know how many images to take: give shots, e.g. --shots 4"
            )
        train = _few(known, plan, counts, leave=1)
        test = {fact.id for fact in known} - train
    elif plan.protocol == "share":
        train = _share(known, plan)
        test = {fact.id for fact in known} - train
    elif plan.protocol == "given":
        raise InputError(
            "the protocol 'given' takes two sets as they are: give the second one, e.g. --test SPEC"
        )
    else:
        train, test = _leave_out(known, plan)
        if plan.shots is not None:
            few = _few([fact for fact in known if fact.id in train], plan, counts, leave=0)
            counts |= {"unused": len(train) - len(few)} if len(train) > len(few) else {}
            train = few
    for name, side in (("train", train), ("test", test)):
        if not side:
            raise InputError(
                f"the split leaves nothing to {name} on; {len(known)} labelled samples were given; change the plan"
            )
    return Sides([one for one in order if one in train], [one for one in order if one in test], counts)


def write(path: str | Path, manifest: Manifest) -> None:
    """Write a manifest; the same plan on the same data gives the same bytes. Raises `SetupError` when the disk refuses."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=True)
    write_whole(Path(path), text.encode("ascii") + b"\n")


def read(path: str | Path) -> Manifest:
    """The manifest that `write` wrote. Raises `InputError` for anything else."""
    try:
        return Manifest.model_validate(json.loads(Path(path).read_bytes()))
    except OSError as error:
        raise InputError(f"cannot read the split {str(path)!r}: {error.strerror}; check the path") from error
    except (ValidationError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"{str(path)!r} is no split ({first}); make one with: anomalyr1 data split SPEC --out FILE"
        ) from error


def select(manifest: Manifest, samples: Iterable[Sample], side: Side, verify: bool = True) -> list[Sample]:
    """The samples of one side, in the manifest's order.

    Raises `InputError` that names samples which are gone, and, unless `verify` is off, images that are no
    longer those of the split.
    """
    entries = manifest.train if side == "train" else manifest.test
    wanted = {entry.id: entry for entry in entries}
    found = {sample.id: sample for sample in samples if sample.id in wanted}
    gone = [name for name in wanted if name not in found]
    if gone:
        spec, _ = manifest.source(side)
        raise InputError(
            f"{len(gone)} samples of the split are not in the data: {listed(gone)}; give the data that side was made of, {spec!r}"
        )
    if verify:
        digests = leaks.file_digests(sample.image for sample in found.values())
        changed = [name for name, entry in wanted.items() if digests[found[name].image] != entry.sha256]
        if changed:
            raise InputError(
                f"{len(changed)} images are not those the split was made of: {listed(changed)}; restore them, or split anew"
            )
    return [found[name] for name in wanted]


def _manifest(
    train: Sequence[Sample],
    test: Sequence[Sample],
    plan: Plan,
    counts: dict[str, int],
    allow_leaks: bool,
    about: dict[str, object],
) -> Manifest:
    found = leaks.find(train, test, plan.max_distance)
    if plan.drop_leaks:
        given_away = {leak.test for leak in found}
        test, found = [sample for sample in test if sample.id not in given_away], ()
        counts = counts | ({"left_out_of_test_as_leaks": len(given_away)} if given_away else {})
        if not test:
            raise InputError(
                f"all {len(given_away)} test samples leak into the training set, so none is left; choose another protocol"
            )
    by_kind = leaks.counts(found)
    if found and not allow_leaks:
        ways = ", ".join(f"{kind} {times}" for kind, times in by_kind.items())
        first = f"{found[0].kind}: {found[0].test!r} and {found[0].train!r}"
        raise InputError(
            f"the test set leaks into the training set ({ways}; the first is {first}), so no split was made; clean the data, leave such "
            "samples out of the test set with --drop-leaks, or take the leaks knowingly with --allow-leaks, which is then written down"
        )
    digests = leaks.file_digests(sample.image for sample in (*train, *test))
    sides = (
        tuple(Entry(id=sample.id, sha256=digests[sample.image]) for sample in side) for side in (train, test)
    )
    content = {"plan": plan, "train": next(sides), "test": next(sides), "counts": counts}
    return Manifest.model_validate(
        about | content | {"leaks": FoundLeaks(allowed=allow_leaks, counts=by_kind, found=found)}
    )


def _few(known: Sequence[_Fact], plan: Plan, counts: dict[str, int], leave: int) -> set[str]:
    """The shots of each class or defect type; `leave` so many in each group to test on."""
    shots = plan.shots or 0
    groups: dict[tuple[str, str], list[_Fact]] = {}
    for fact in known:
        kind = (
            "good"
            if not fact.defect
            else f"anomalous: {fact.defect}"
            if plan.per == "defect"
            else "anomalous"
        )
        groups.setdefault((fact.class_name, kind), []).append(fact)
    taken: set[str] = set()
    short = []
    for (name, kind), members in groups.items():
        wanted = plan.good_shots if kind == "good" and plan.good_shots is not None else shots
        if wanted > len(members) - leave:
            short.append(f"{name} ({kind}: {len(members)})")
            wanted = len(members) - leave
        taken |= {fact.id for fact in _in_turn(members, plan.seed)[:wanted]}
    if short and not plan.allow_short:
        raise InputError(
            f"{len(short)} groups have fewer images than the split takes and leaves to test: {listed(short)}; "
            "take fewer shots, or let such groups give what they have with --allow-short"
        )
    for name, having in (("short_groups", len(short)), *_one_sided(known)):
        if having:
            counts[name] = having
    return taken


def _one_sided(known: Sequence[_Fact]) -> list[tuple[str, int]]:
    """How many classes have no good and no anomalous images: nothing can be drawn there."""
    good = {fact.class_name for fact in known if not fact.defect}
    anomalous = {fact.class_name for fact in known if fact.defect}
    return [
        ("classes_without_good", len(anomalous - good)),
        ("classes_without_anomalous", len(good - anomalous)),
    ]


def _in_turn(members: Sequence[_Fact], seed: int) -> list[_Fact]:
    """In drawn order, one of each defect type after the other."""
    by_defect: dict[str, list[_Fact]] = {}
    for fact in sorted(members, key=lambda one: _rank(seed, one.id)):
        by_defect.setdefault(fact.defect, []).append(fact)
    return [
        fact
        for _, _, fact in sorted(
            (place, _rank(seed, f.id), f) for queue in by_defect.values() for place, f in enumerate(queue)
        )
    ]


def _share(known: Iterable[_Fact], plan: Plan) -> set[str]:
    """The share of each class and defect type; what rounding leaves over goes on to the next, so that the whole is right too."""
    groups: dict[tuple[str, str], list[_Fact]] = {}
    for fact in known:
        groups.setdefault((fact.class_name, fact.defect), []).append(fact)
    taken: set[str] = set()
    due = 0.5
    for key in sorted(groups):
        due += plan.share * len(groups[key])
        number = min(int(due), len(groups[key]))
        due -= number
        taken |= {fact.id for fact in sorted(groups[key], key=lambda one: _ranks(plan, one.id))[:number]}
    return taken


def _ranks(plan: Plan, sample_id: str) -> tuple[bytes, bytes]:
    """First of the series, so that it lies on one side, then of the sample."""
    own = _rank(plan.seed, sample_id)
    whole = (
        [one.key for one in leaks.series(sample_id) if one.reach == float("inf")] if plan.drop_leaks else []
    )
    return (_rank(plan.seed, whole[0]) if whole else own), own


def _check_used(plan: Plan) -> None:
    used = _USED[plan.protocol]
    if plan.shots is None:
        used -= _FEW
    for name in ("shots", "good_shots", "per", "allow_short", "share", "held_out"):
        if name not in used and getattr(plan, name) != Plan.model_fields[name].default:
            flag = "--" + name.replace("held_out", "hold_out").replace("_", "-")
            without = " without --shots" if name in _USED[plan.protocol] else ""
            raise InputError(
                f"the protocol {plan.protocol!r} makes no use of {flag}{without}; leave it out, or choose another protocol"
            )


def _leave_out(known: Sequence[_Fact], plan: Plan) -> tuple[set[str], set[str]]:
    _check_names(plan, {name for fact in known for name in _names(fact, plan.protocol)})
    held_out = set(plan.held_out)
    test = {fact.id for fact in known if _names(fact, plan.protocol) & held_out}
    train = {fact.id for fact in known} - test
    if plan.protocol != "leave-defects-out":
        return train, test
    by_class: dict[str, list[_Fact]] = {}
    for fact in known:
        by_class.setdefault(fact.class_name, []).append(fact)
    for members in by_class.values():
        anomalous = [fact for fact in members if fact.defect]
        good = sorted((fact for fact in members if not fact.defect), key=lambda one: _rank(plan.seed, one.id))
        held = sum(fact.id in test for fact in anomalous)
        tested = (
            {fact.id for fact in good[: round(len(good) * held / len(anomalous))]} if anomalous else set()
        )
        train, test = train - tested, test | tested
    return train, test


def _names(fact: _Fact, protocol: Protocol) -> set[str]:
    """The names under which a sample can be left out."""
    if protocol == "leave-classes-out":
        return {fact.category, fact.class_name}
    return {fact.dataset} if protocol == "leave-datasets-out" else {fact.defect} - {""}


def _check_names(plan: Plan, known: set[str]) -> None:
    if not plan.held_out:
        raise InputError(
            f"{plan.protocol} needs to know what to leave out; there are: {listed(sorted(known))}"
        )
    for name in plan.held_out:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {listed(sorted(known))}"
            raise InputError(f"nothing in the data is called {name!r}, so it cannot be left out; {hint}")


def _rank(seed: int, sample_id: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{sample_id}".encode("utf-8", "surrogatepass")).digest()


def _unique(ids: Iterable[Sample | str]) -> None:
    seen: set[str] = set()
    for one in ids:
        name = one if isinstance(one, str) else one.id
        if name in seen:
            raise InputError(
                f"two samples have the id {name!r}, so a split cannot name them; see: anomalyr1 data check SPEC"
            )
        seen.add(name)
