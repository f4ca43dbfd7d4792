"""Samples of a data set: plain rows in memory, each `Sample` built when it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, overload

from anomalyr1.types import InputError, Sample, quoted

BuildSample = Callable[[Any, bool], Sample]
"""A row, and whether files may be opened for its boxes -> the sample.

What a row is, the loader decides. A plain object, so that it can be sent to workers."""


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

    def __init__(
        self,
        spec: str,
        name: str,
        rows: Sequence[Any],
        build: BuildSample,
        notes: Mapping[str, int],
        *,
        open_files: bool = False,
    ) -> None:
        self.spec, self.name = spec, name
        self._rows, self._build, self._open_files = rows, build, open_files
        self._notes = {what: count for what, count in notes.items() if count}

    @property
    def notes(self) -> Mapping[str, int]:
        """What was found while loading the data set, counted under its name; a selection keeps all of it."""
        return MappingProxyType(self._notes)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Sample | Self:
        """One sample, built now, or a part of the samples."""
        if isinstance(index, slice):
            return self._with(self._rows[index], self._open_files)
        return self._build(self._rows[index], self._open_files)

    def __iter__(self) -> Iterator[Sample]:
        """The samples in order."""
        for row in self._rows:
            yield self._build(row, self._open_files)

    def __repr__(self) -> str:
        return f"<{len(self)} samples of {self.spec!r}>"

    def select(self, indices: Iterable[int]) -> Self:
        """The samples at these positions, in this order.

        Raises `IndexError` for a position that is not there.
        """
        return self._with([self._rows[index] for index in indices], self._open_files)

    def with_boxes(self) -> Self:
        """The same samples with boxes and the questions about them.

        A mask is opened each time its sample is built. Building a sample then raises `images.ImageError`
        when its mask cannot be read.
        """
        return self._with(self._rows, True)

    def without_opening(self) -> Self:
        """The same samples as they are built without opening any file: what `with_boxes` added is gone."""
        return self._with(self._rows, False)

    def _with(self, rows: Sequence[Any], open_files: bool) -> Self:
        return type(self)(self.spec, self.name, rows, self._build, self._notes, open_files=open_files)


def require_some(rows: Sequence[Any], where: str, expected: str) -> None:
    """Raise `InputError` that says what was expected when there are no rows."""
    if not rows:
        raise InputError(f"{where!r}: no samples found; expected {expected}")


def require_unique(ids: Iterable[str], where: str) -> None:
    """Raise `InputError` that lists the ids which come more than once."""
    repeated = [name for name, times in Counter(ids).items() if times > 1]
    if repeated:
        raise InputError(
            f"{where!r}: {len(repeated)} ids come more than once: {listed(repeated)}; "
            "give each sample its own"
        )


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message: at most `most` of them, and how many more there are."""
    hidden = len(names) - most
    return ", ".join(map(quoted, names[:most])) + (f" and {hidden} more" if hidden > 0 else "")
