"""The inspections file: a JSON line for the run's fingerprint, then a line for each `Inspection`.

    {"model":"nano","revision":"sha256:...","family":"qwen2_5_vl", ...}
    {"sample_id":"part-1","verdict":"good", ...}

Every line is appended and synced before the next image is looked at. A sample that failed may come again
further down, where it was tried again: its newest line counts.

What is covered: a process killed at any point (at most the line being written is lost, and inspected again),
a full disk (the half-written line is cut off again), two writers (the second is refused; on systems with
`fcntl`), a file that is deleted or replaced while it is written (the run stops and says so). What is not: two
machines writing to one network file system that does not pass locks on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from pydantic import ValidationError

from anomalyr1.files import append_synced, lock, open_regular, parse_json, sync_folder, write_whole
from anomalyr1.types import Fingerprint, InputError, Inspection, SetupError, first_error

log = logging.getLogger(__name__)

_LONGEST_FINGERPRINT = 2**20
Line = TypeVar("Line", Fingerprint, Inspection)

LONGEST_LINE = 2**26
"""Bytes; a longer line is no inspection. So a file is read in the memory that its records take."""


class Content(NamedTuple):
    """What is in an inspections file."""

    fingerprint: Fingerprint
    inspections: dict[str, Inspection]
    """The newest of each sample, by its id, in the order in which the samples first came."""
    length: int
    """Bytes up to the end of the last whole line."""
    torn: bool
    """Whether the beginning of another line follows."""


def read(path: str | Path) -> tuple[Fingerprint, list[Inspection]]:
    """The fingerprint and the inspections of a file.

    A last line without its line end is what a killed run leaves: it is left out, with a warning. Raises
    `InputError` with the line number for any other line that is not a record, and for a sample id that comes
    again although it had not failed.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            content = _read_content(path, file)
    except OSError as error:
        problem = error.strerror or error
        raise InputError(f"cannot read the inspections file {str(path)!r}: {problem}") from error
    if content.torn:
        log.warning("the last line of %r is torn (the run was killed); it is left out", str(path))
    return content.fingerprint, list(content.inspections.values())


def write(path: Path, fingerprint: Fingerprint, inspections: Iterable[Inspection]) -> None:
    """Write a file of inspections that are all there already, whole or not at all.

    Raises `SetupError` when the disk refuses.
    """
    lines = [record.to_json().encode("ascii") + b"\n" for record in (fingerprint, *inspections)]
    write_whole(path, b"".join(lines))


def fingerprint_of(path: str | Path) -> Fingerprint | None:
    """The fingerprint that a file was begun with; None where there is no file, or it is not begun.

    Raises `InputError` for a first line that is no fingerprint.
    """
    try:
        with open_regular(path) as file:
            line = file.readline(_LONGEST_FINGERPRINT)
    except OSError:
        return None
    return _record(Fingerprint, Path(path), 1, line) if line.endswith(b"\n") else None


class Writer:
    """Appends inspections to a file, one synced line each; the file is locked while the writer is open.

    A new file starts with the fingerprint. An existing one is taken up where it ended: a torn last line is
    cut off, and `done` holds the inspections that are already there, with `retry_failed` without those that
    failed. Raises `InputError` when another process writes to the file or when the file was made under
    another fingerprint, and `SetupError` when the disk refuses a write.
    """

    done: dict[str, Inspection]
    """The inspections that are in the file, by sample id, in its order."""

    def __init__(self, path: str | Path, fingerprint: Fingerprint, retry_failed: bool = False) -> None:
        """Open, lock and check the file; `path`'s folder is made when it is missing."""
        self._path = Path(path)
        self.done = {}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            self._descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            raise SetupError(
                f"cannot write the inspections file {str(self._path)!r}: {error.strerror}"
            ) from error
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise InputError(f"{str(self._path)!r} is a pipe or a device; name another folder")
            lock(self._descriptor, self._path)
            self._require_in_place()
            self._take_up(fingerprint, retry_failed)
            undo.pop_all()

    def _take_up(self, fingerprint: Fingerprint, retry_failed: bool) -> None:
        """Begin a new file, or go on where a killed run of the same fingerprint ended."""
        header = fingerprint.to_json().encode("ascii") + b"\n"
        with open(self._descriptor, "rb", closefd=False) as file:
            beginning = file.read(len(header))
            if header.startswith(beginning) and beginning != header:  # new, or killed while it was begun
                os.ftruncate(self._descriptor, 0)
                append_synced(self._descriptor, self._path, header)
                sync_folder(self._path.parent)
                return
            file.seek(0)
            content = _read_content(self._path, file)
        _require_same(self._path, content.fingerprint, fingerprint)
        if content.torn:
            log.warning(
                "the last line of %r was torn (the run was killed); it is cut off and inspected again",
                str(self._path),
            )
            os.ftruncate(self._descriptor, content.length)
        self.done = {
            sample_id: inspection
            for sample_id, inspection in content.inspections.items()
            if not (retry_failed and inspection.error is not None)
        }

    def append(self, inspection: Inspection) -> None:
        """Write one inspection; on return it is on the disk.

        Raises `InputError` for a sample that is already in the file, and `SetupError` when the disk refuses,
        or when the file is no longer there.
        """
        if inspection.sample_id in self.done:
            raise InputError(
                f"sample {inspection.sample_id!r} is already in {str(self._path)!r}; "
                "sample ids must be unique"
            )
        append_synced(self._descriptor, self._path, inspection.to_json().encode("ascii") + b"\n")
        self._require_in_place()
        self.done[inspection.sample_id] = inspection

    def _require_in_place(self) -> None:
        """Raise `SetupError` when the path names another file than the open one, or none."""
        try:
            in_place = os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError:
            in_place = False
        if not in_place:
            raise SetupError(
                f"{str(self._path)!r} was deleted or replaced while it was written, and what was inspected "
                "is gone with it; keep other programs away from its folder, and run again"
            )

    def close(self) -> None:
        """Give up the lock; harmless when done twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _read_content(path: Path, file: io.BufferedIOBase) -> Content:
    """The records of an open file; `path` names it in errors."""
    lines = _numbered_lines(path, file)
    number, header = next(lines, (1, b""))
    if not header.endswith(b"\n"):
        raise InputError(
            f"{str(path)!r} is not an inspections file: it has no whole first line; "
            "expected the run's fingerprint"
        )
    fingerprint, length = _record(Fingerprint, path, number, header), len(header)
    inspections: dict[str, Inspection] = {}
    for number, line in lines:
        if not line.endswith(b"\n"):
            return Content(fingerprint, inspections, length, torn=True)
        length += len(line)
        inspection = _record(Inspection, path, number, line)
        earlier = inspections.get(inspection.sample_id)
        if earlier is not None and earlier.error is None:
            raise InputError(
                f"line {number} of {str(path)!r} repeats sample {inspection.sample_id!r}; "
                "delete one of the two lines"
            )
        inspections[inspection.sample_id] = inspection
    return Content(fingerprint, inspections, length, torn=False)


def _numbered_lines(path: Path, file: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their line ends, and their numbers from 1 on."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise InputError(
                f"line {number} of {str(path)!r} is longer than {LONGEST_LINE:,} bytes, so it is not an "
                "inspection; name an inspections file"
            )
        yield number, line


def _record(kind: type[Line], path: Path, number: int, line: bytes) -> Line:
    where = f"line {number} of {str(path)!r}"
    try:
        return kind.model_validate(parse_json(line, where))
    except ValidationError as error:
        expected = "the run's fingerprint" if kind is Fingerprint else "an inspection"
        raise InputError(
            f"{where} is not {expected} ({first_error(error)}); "
            "mend or delete the line, or write to another file"
        ) from error


def _require_same(path: Path, previous: Fingerprint, present: Fingerprint) -> None:
    """Raise `InputError` that names each field in which the two fingerprints differ.

    Of versions only those that differ; the name of a model does not count where a digest says it is the same.
    """
    moved = {"model"} if present.same_weights(previous) else set()  # the folder lies elsewhere by now
    old, new = previous.model_dump(exclude=moved), present.model_dump(exclude=moved)
    shared = old["versions"].items() & new["versions"].items()
    for dump in (old, new):
        dump["versions"] = {name: v for name, v in dump["versions"].items() if (name, v) not in shared}
    differences = [
        f"{name} was {old[name]!r} and is now {new[name]!r}" for name in old if old[name] != new[name]
    ]
    if differences:
        raise InputError(
            f"{str(path)!r} was made by another run, so it cannot be resumed: {'; '.join(differences)}. "
            "Write to another folder"
        )
