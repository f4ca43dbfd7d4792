"""What a test set shares with a training set: files, pictures, series, reference images.

Each way is a kind of `Leak`, and each test sample is named once a kind, with the training sample that is
nearest to it:

- `exact`: the image files have the same bytes;
- `perceptual`: perceptual hashes of 256 bits (DCT, `imagehash.phash` of size 16) differ in at most
  `MAX_DISTANCE` bits. That finds copies that were saved again, scaled or slightly brightened, and a part
  that was photographed again in the same pose; not what was cut, turned or mirrored. The usual 64 bits are
  too few: parts under one camera look alike (docs/guide/data-splits.md has the figures);
- `neighbour`: the ids say that both are frames of one sequence, pictures of one place over time, or cuts of
  one photograph;
- `reference`: an image of one side is a reference image of the other;
- `shared_reference`: both sides are compared with the same reference image.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from anomalyr1.data.samples import listed
from anomalyr1.images.door import digest_of, open_image
from anomalyr1.types import InputError, Record, Sample

LeakKind = Literal["exact", "perceptual", "neighbour", "reference", "shared_reference"]

HASH_SIZE = 16
"""Side of the perceptual hash; its square is the number of bits."""
MAX_DISTANCE = 16
"""Bits of 256 in which two hashes of one picture may differ.

Copies saved as JPEG at quality 60 or at half size differ by 0 to 16, and so do pictures of one part taken
again. All 32 pairs that were viewed (of ELPV and magnetic_tile) showed one part; docs/guide/data-splits.md
has the figures."""
LEARNED = "learned.jsonl"
"""The file of a run's folder that holds the `Trace` of each image that was learned from."""
BURST_SECONDS = 60
"""Pictures whose names hold nothing but a time are neighbours within so many seconds."""

_TIME = re.compile(r"(?<![0-9])(?:[0-9]{12}(?:[0-9]{2})?|[0-9]{8}[-_T][0-9]{6})(?![0-9])")
_FRAME = re.compile(
    r"(?<![A-Za-z])(frame|video|sequence|seq|burst|clip)([-_ ]?)([0-9]{1,12})(?![0-9])", re.IGNORECASE
)
_CUT = re.compile(r"(?<![A-Za-z])(crop|patch|cutout)([-_ ]?)([0-9]{1,12})(?![0-9])", re.IGNORECASE)
_PLACE = re.compile(r"[0-9]{3}")


class Leak(Record):
    """A test sample that a training sample gives away."""

    kind: LeakKind
    train: str
    """Id of the training sample."""
    test: str
    """Id of the test sample."""
    detail: str = ""
    """How alike they are, where the kind does not say it."""


class Series(NamedTuple):
    """Where an id stands in a series."""

    key: str
    """What all ids of the series have in common."""
    position: float
    """Seconds, or the number of the frame or of the cut."""
    reach: float
    """How far apart two neighbours may be, in the unit of `position`."""


class Trace(Record):
    """What tells one image again, without the image: a line of `LEARNED` in a run's folder."""

    id: str
    """The id of its sample."""
    dataset: str
    sha256: str
    """SHA-256 of the image file, in hex."""
    perceptual: str = Field(pattern=r"\A[0-9a-f]{64}\z")
    """The perceptual hash, in hex."""
    references: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each reference image that is shown beside it -> the name of the file."""


def find(
    train: Sequence[Sample], test: Sequence[Sample], max_distance: int = MAX_DISTANCE
) -> tuple[Leak, ...]:
    """All leaks between two sets of samples, by kind and then in the order of `test`.

    Raises as `traces` does.
    """
    sides = traces([*train, *test])
    return compare(sides[: len(train)], sides[len(train) :], max_distance)


def compare(
    train: Sequence[Trace], test: Sequence[Trace], max_distance: int = MAX_DISTANCE
) -> tuple[Leak, ...]:
    """All leaks between the images that left these traces, by kind and then in the order of `test`."""
    exact = list(_exact(train, test))
    exact_ids = {leak.test for leak in exact}
    not_exact = [trace for trace in test if trace.id not in exact_ids]
    return (
        *exact,
        *_perceptual(train, not_exact, max_distance),
        *_neighbours(train, test),
        *_references(train, test),
    )


def traces(samples: Sequence[Sample]) -> list[Trace]:
    """The trace of each sample. Opens every image once and hashes every reference image.

    Raises `InputError` that lists the files that are missing, or names the one that is no image.
    """
    digests = file_digests(path for sample in samples for path in (sample.image, *sample.references))
    hashes: dict[str, str] = {}  # by digest, so that each image is opened once
    for sample in samples:
        digest = digests[sample.image]
        if digest not in hashes:
            hashes[digest] = perceptual_hash(open_image(sample.image).rgb)
    return [trace_of(sample, digests, hashes[digests[sample.image]]) for sample in samples]


def trace_of(sample: Sample, digests: Mapping[Path, str], perceptual: str) -> Trace:
    """The trace of a sample whose files have these digests; reference images without one are left out."""
    references = {digests[path]: path.name for path in sample.references if path in digests}
    return Trace(
        id=sample.id,
        dataset=sample.dataset,
        sha256=digests[sample.image],
        perceptual=perceptual,
        references=references,
    )


def counts(leaks: Iterable[Leak]) -> dict[str, int]:
    """How many test samples leak in each way."""
    return dict(Counter(leak.kind for leak in leaks))


def file_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of each file, in hex. Raises `InputError` that lists the files that cannot be read."""
    digests: dict[Path, str] = {}
    unreadable_paths: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            digests[path] = digest_of(path)
        except OSError:
            unreadable_paths.append(str(path))
    if unreadable_paths:
        raise InputError(
            f"{len(unreadable_paths)} image files are missing or cannot be read: {listed(unreadable_paths)}; "
            "restore them or correct their paths"
        )
    return digests


def perceptual_hash(rgb: Image.Image) -> str:
    """The 256 bits of an image, in hex."""
    import imagehash

    bits = imagehash.phash(rgb, hash_size=HASH_SIZE).hash
    return np.packbits(bits.ravel()).tobytes().hex()


def nearest(
    train: NDArray[np.uint64], test: NDArray[np.uint64]
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """For each of (M, 4) test hashes the index of the nearest of (N, 4) training hashes, and its distance.

    Both are (M,), the distance in bits; N >= 1.
    """
    index, distance = np.zeros(len(test), np.intp), np.zeros(len(test), np.int64)
    step = max(1, (1 << 22) // len(train))  # test hashes at a time, which bounds the memory
    for start in range(0, len(test), step):
        block = test[start : start + step]  # (B, 4)
        bits = np.zeros((len(block), len(train)), np.uint16)  # (B, N)
        for word in range(train.shape[1]):
            bits += np.bitwise_count(block[:, word, None] ^ train[None, :, word])
        index[start : start + step] = bits.argmin(axis=1)
        distance[start : start + step] = bits.min(axis=1)
    return index, distance


def series(sample_id: str) -> list[Series]:
    """The series that an id shows; empty when it shows none.

    It shows one by a time or a numbered frame in its name, or by a numbered cut of a photograph.
    """
    path = PurePosixPath(sample_id)
    name = path.with_suffix("").as_posix() if path.suffix and not path.suffix[1:].isdigit() else sample_id
    standings = []
    for match in _TIME.finditer(name):
        seconds = _seconds(match[0])
        if seconds is not None:
            key = f"{name[: match.start()]}<time>{name[match.end() :]}"
            # Another long number names the place or the part, which is the same however much later.
            of_place = _PLACE.search(PurePosixPath(key).name) is not None
            standings.append(Series(key, seconds, float("inf") if of_place else BURST_SECONDS))
            break
    for pattern in (_FRAME, _CUT):
        matches = list(pattern.finditer(name))
        if matches:
            match = matches[-1]
            key = f"{name[: match.start(3)]}<number>{name[match.end() :]}"
            standings.append(Series(key, float(match[3]), float("inf")))
    return standings


def _seconds(text: str) -> float | None:
    digits = "".join(character for character in text if character.isdigit())
    try:
        moment = datetime.strptime(digits, "%y%m%d%H%M%S" if len(digits) == 12 else "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return (moment - datetime(1970, 1, 1)).total_seconds()


def _exact(train: Sequence[Trace], test: Sequence[Trace]) -> Iterator[Leak]:
    train_ids = {trace.sha256: trace.id for trace in reversed(train)}
    for trace in test:
        train_id = train_ids.get(trace.sha256)
        if train_id is not None:
            yield Leak(kind="exact", train=train_id, test=trace.id)


def _perceptual(train: Sequence[Trace], test: Sequence[Trace], max_distance: int) -> Iterator[Leak]:
    if not train or not test:
        return
    train_hashes, test_hashes = (
        np.frombuffer(bytes.fromhex("".join(trace.perceptual for trace in side)), np.uint64).reshape(-1, 4)
        for side in (train, test)
    )
    index, distance = nearest(train_hashes, test_hashes)
    for trace, i, bits in zip(test, index, distance, strict=True):
        if bits <= max_distance:
            detail = f"{bits} of {HASH_SIZE**2} bits differ"
            yield Leak(kind="perceptual", train=train[i].id, test=trace.id, detail=detail)


def _neighbours(train: Sequence[Trace], test: Sequence[Trace]) -> Iterator[Leak]:
    # 1. Positions and ids of the training samples of each series of each data set, in order.
    members: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for trace in train:
        for standing in series(trace.id):
            members.setdefault((trace.dataset, standing.key), []).append((standing.position, trace.id))
    for positions in members.values():
        positions.sort()
    # 2. The nearest of them, within reach, to each test sample.
    for trace in test:
        neighbours: list[tuple[float, str, str]] = []  # how far apart, training id, key of the series
        for standing in series(trace.id):
            positions = members.get((trace.dataset, standing.key), [])
            place = bisect.bisect_left(positions, (standing.position, ""))
            for position, train_id in positions[max(place - 1, 0) : place + 1]:
                apart = abs(position - standing.position)
                if apart <= standing.reach:
                    neighbours.append((apart, train_id, standing.key))
        if neighbours:
            apart, train_id, key = min(neighbours)
            detail = f"series {key}, {apart:g} apart"
            yield Leak(kind="neighbour", train=train_id, test=trace.id, detail=detail)


def _references(train: Sequence[Trace], test: Sequence[Trace]) -> Iterator[Leak]:
    images = {trace.sha256: trace.id for trace in reversed(train)}
    references = {digest: trace.id for trace in reversed(train) for digest in trace.references}
    for trace in test:
        # A training image that is the sample's reference, else a training sample whose reference it is.
        image_ids = [images[digest] for digest in trace.references if digest in images]
        train_id = image_ids[0] if image_ids else references.get(trace.sha256)
        if train_id is not None:
            yield Leak(kind="reference", train=train_id, test=trace.id)
    for trace in test:
        shared = next((digest for digest in trace.references if digest in references), None)
        if shared is not None:
            detail = trace.references[shared]
            yield Leak(kind="shared_reference", train=references[shared], test=trace.id, detail=detail)
