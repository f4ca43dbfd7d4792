"""Samples of a data set: compact rows in memory, each `Sample` built when it is asked for."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, overload

from anomalyr1.data.readers import Json
from anomalyr1.types import InputError, Sample

Build = Callable[[Json, bool], Sample]
"""A row (parsed JSON), and whether files may be opened for its boxes -> the sample. A plain object, so that
it can be sent to workers."""

_BLOCK = 64
"""Rows compressed together: few enough that a random access costs under a millisecond, enough to compress
well."""
_SEPARATOR = "\0"
"""Stands in no JSON text: JSON writes control characters as escapes."""


class Packer:
    """Takes rows one by one and keeps them compressed, about a tenth of their JSON."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._waiting: list[str] = []
        self._count = 0

    def add(self, row: object) -> None:
        """Keep one row of plain JSON values."""
        self.add_text(json.dumps(row, separators=(",", ":")))

    def add_text(self, row: str) -> None:
        """Keep one row that is JSON text already."""
        self._waiting.append(row)
        self._count += 1
        if len(self._waiting) == _BLOCK:
            self._flush()

    def done(self) -> Rows:
        """All rows that were added."""
        self._flush()
        return Rows(tuple(self._blocks), self._count)

    def _flush(self) -> None:
        if self._waiting:
            self._blocks.append(
                zlib.compress(_SEPARATOR.join(self._waiting).encode("utf-8", "surrogatepass"), 1)
            )
            self._waiting = []


class Rows:
    """Rows that a `Packer` kept."""

    def __init__(self, blocks: tuple[bytes, ...], count: int) -> None:
        self._blocks, self._count = blocks, count
        self._open: tuple[int, list[str]] = (-1, [])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Json:
        number, place = divmod(index, _BLOCK)
        opened = self._open  # one read, so that threads may share the rows
        if opened[0] != number:
            opened = (
                number,
                zlib.decompress(self._blocks[number]).decode("utf-8", "surrogatepass").split(_SEPARATOR),
            )
            self._open = opened
        return json.loads(opened[1][place])

    def __getstate__(self) -> tuple[tuple[bytes, ...], int]:
        return self._blocks, self._count

    def __setstate__(self, state: tuple[tuple[bytes, ...], int]) -> None:
        self._blocks, self._count = state
        self._open = (-1, [])


class Samples(Sequence[Sample]):
    """An immutable sequence of samples; nothing but manifests and folder listings was read to make it.

    A sample and its questions are built at each access, always the same, so keep one that is used twice.
    Boxes that are to be had only by opening a mask (or, for YOLO, the image) are None, and questions about
    them are not asked, unless the samples were made by `with_boxes`.
    """

    spec: str
    """What was loaded, e.g. "mvtec:/data/mvtec"."""
    name: str
    """The data set's name."""
    notes: Mapping[str, int]
    """What was found while loading the whole data set, counted under its name; a selection keeps the notes of
    the whole."""

    def __init__(
        self,
        spec: str,
        name: str,
        rows: Rows,
        build: Build,
        notes: Mapping[str, int],
        *,
        chosen: Sequence[int] | None = None,
        open_files: bool = False,
    ) -> None:
        self.spec, self.name, self.notes = (
            spec,
            name,
            MappingProxyType({key: n for key, n in notes.items() if n}),
        )
        self._rows, self._build, self._open_files = rows, build, open_files
        self._chosen: Sequence[int] = range(len(rows)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Sample | Self:
        """One sample, built now, or a part of the samples."""
        if isinstance(index, slice):
            return self._like(self._chosen[index], self._open_files)
        return self._build(self._rows[self._chosen[index]], self._open_files)

    def __iter__(self) -> Iterator[Sample]:
        """The samples in order."""
        for row in self._chosen:
            yield self._build(self._rows[row], self._open_files)

    def __repr__(self) -> str:
        return f"<{len(self)} samples of {self.spec!r}>"

    def select(self, indices: Iterable[int]) -> Self:
        """The samples at these positions, in this order. Raises `IndexError` for a position that is not there."""
        return self._like(tuple(self._chosen[index] for index in indices), self._open_files)

    def with_boxes(self) -> Self:
        """The same samples with boxes and the questions about them; a mask is opened each time its sample is built.

        Building a sample then raises `images.ImageError` when its mask cannot be read.
        """
        return self._like(self._chosen, True)

    def without_opening(self) -> Self:
        """The same samples as they are built without opening any file: what `with_boxes` added is gone."""
        return self._like(self._chosen, False)

    def _like(self, chosen: Sequence[int], open_files: bool) -> Self:
        return type(self)(
            self.spec, self.name, self._rows, self._build, self.notes, chosen=chosen, open_files=open_files
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "notes": dict(self.notes)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, notes=MappingProxyType(state["notes"]))


def require_some(rows: Rows, where: str, expected: str) -> Rows:
    """The rows. Raises `InputError` that says what was expected when there are none."""
    if not len(rows):
        raise InputError(f"{where!r}: no samples found; expected {expected}")
    return rows


def require_unique(ids: Iterable[str], where: str) -> None:
    """Raise `InputError` that lists the ids which come more than once."""
    twice = [name for name, times in Counter(ids).items() if times > 1]
    if twice:
        raise InputError(
            f"{where!r}: {len(twice)} ids come more than once: {listed(twice)}; give each sample its own"
        )


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message: the first of them, and how many more there are."""
    return ", ".join(map(repr, names[:most])) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )
