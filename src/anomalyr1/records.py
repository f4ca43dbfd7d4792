"""The inspections file: a JSON line for the run's fingerprint, then a line for each `Inspection`.

    {"model":"nano","revision":"sha256:...","family":"qwen2_5_vl", ...}
    {"sample_id":"part-1","verdict":"good", ...}

Every line is appended and synced before the next image is looked at.

What is covered: a process killed at any point (at most the line being written is lost, and inspected again),
a full disk (the half-written line is cut off again), two writers (the second is refused; on systems with
`fcntl`). What is not: two machines writing to one network file system that does not pass locks on.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pydantic import ValidationError

from anomalyr1.files import append_synced, lock, sync_folder
from anomalyr1.types import Fingerprint, InputError, Inspection, SetupError, first_error

log = logging.getLogger(__name__)

Line = TypeVar("Line", Fingerprint, Inspection)


def read(path: str | Path) -> tuple[Fingerprint, list[Inspection]]:
    """The fingerprint and the inspections of a file.

    A last line without its line end is what a killed run leaves: it is left out, with a warning. Raises
    `InputError` with the line number for any other line that is not a record, and for a sample id that comes
    twice.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the inspections file {str(path)!r}: {error.strerror}") from error
    lines = _whole_lines(data)
    if len(lines) < len(data):
        log.warning("the last line of %r is torn (the run was killed); it is left out", str(path))
    return _records(path, lines)


class Writer:
    """Appends inspections to a file, one synced line each; the file is locked while the writer is open.

    A new file starts with the fingerprint. An existing one is taken up where it ended: a torn last line is
    cut off, and `done` holds the inspections that are already there. Raises `InputError` when another process
    writes to the file or when the file was made under another fingerprint, and `SetupError` when the disk
    refuses a write.
    """

    done: dict[str, Inspection]
    """The inspections that are in the file, by sample id, in its order."""

    def __init__(self, path: str | Path, fingerprint: Fingerprint) -> None:
        """Open, lock and check the file; `path`'s folder is made when it is missing."""
        self._path = Path(path)
        self.done = {}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise SetupError(
                f"cannot write the inspections file {str(self._path)!r}: {error.strerror}"
            ) from error
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            lock(self._descriptor, self._path)
            self._take_up(fingerprint)
            undo.pop_all()

    def _take_up(self, fingerprint: Fingerprint) -> None:
        """Begin a new file, or go on where a killed run of the same fingerprint ended."""
        data = self._path.read_bytes()
        header = fingerprint.to_json().encode("ascii") + b"\n"
        if header.startswith(data) and data != header:  # new, or killed while it was begun
            os.ftruncate(self._descriptor, 0)
            append_synced(self._descriptor, self._path, header)
            sync_folder(self._path.parent)
            return
        lines = _whole_lines(data)
        previous, inspections = _records(self._path, lines)
        _require_same(self._path, previous, fingerprint)
        if len(lines) < len(data):
            log.warning(
                "the last line of %r was torn (the run was killed); it is cut off and inspected again",
                str(self._path),
            )
            os.ftruncate(self._descriptor, len(lines))
        self.done = {inspection.sample_id: inspection for inspection in inspections}

    def append(self, inspection: Inspection) -> None:
        """Write one inspection; on return it is on the disk.

        Raises `InputError` for a sample that is already in the file, and `SetupError` when the disk refuses.
        """
        if inspection.sample_id in self.done:
            raise InputError(
                f"sample {inspection.sample_id!r} is already in {str(self._path)!r}; "
                "sample ids must be unique"
            )
        append_synced(self._descriptor, self._path, inspection.to_json().encode("ascii") + b"\n")
        self.done[inspection.sample_id] = inspection

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


def _whole_lines(data: bytes) -> bytes:
    """`data` up to its last line end."""
    return data[: data.rfind(b"\n") + 1]


def _records(path: Path, data: bytes) -> tuple[Fingerprint, list[Inspection]]:
    lines = data.split(b"\n")[:-1]
    if not lines:
        raise InputError(
            f"{str(path)!r} is not an inspections file: it has no whole first line; "
            "expected the run's fingerprint"
        )
    fingerprint = _record(Fingerprint, path, 1, lines[0])
    inspections: dict[str, Inspection] = {}
    for number, line in enumerate(lines[1:], start=2):
        inspection = _record(Inspection, path, number, line)
        if inspection.sample_id in inspections:
            raise InputError(
                f"line {number} of {str(path)!r} repeats sample {inspection.sample_id!r}; "
                "delete one of the two lines"
            )
        inspections[inspection.sample_id] = inspection
    return fingerprint, list(inspections.values())


def _record(kind: type[Line], path: Path, number: int, line: bytes) -> Line:
    try:
        return kind.from_json(line.decode("utf-8"))
    except ValidationError as error:
        why = first_error(error)
    except (ValueError, RecursionError) as error:  # also of an integer that is too long
        why = f"no JSON: {error}"
    expected = "the run's fingerprint" if kind is Fingerprint else "an inspection"
    raise InputError(
        f"line {number} of {str(path)!r} is not {expected} ({why}); "
        "mend or delete the line, or write to another file"
    )


def _require_same(path: Path, previous: Fingerprint, present: Fingerprint) -> None:
    """Raise `InputError` that names each field in which the two fingerprints differ."""
    old, new = previous.model_dump(), present.model_dump()
    differences = [
        f"{name} was {old[name]!r} and is now {new[name]!r}" for name in old if old[name] != new[name]
    ]
    if differences:
        raise InputError(
            f"{str(path)!r} was made by another run, so it cannot be resumed: {'; '.join(differences)}. "
            "Write to another folder, or delete the file"
        )
