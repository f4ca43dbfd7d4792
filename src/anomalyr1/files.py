"""Files and folders that are written whole or not at all: temporary name, sync, rename; locks and digests."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from anomalyr1.types import InputError, SetupError

log = logging.getLogger(__name__)


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` so that a reader sees the old or the new file, never half of one; folders are made.

    Raises `SetupError` when the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _setup_error_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends well, and vanishes when it does not.

    The files in it need no renaming of their own. Raises `InputError` when there is something at `target`,
    and `SetupError` when the disk refuses; errors of the block pass through. A process that is killed
    outright leaves a hidden folder behind.
    """
    _require_absent(target)
    with _setup_error_for(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", suffix=".part", dir=target.parent))
    try:
        yield unfinished
        if hasattr(os, "sync"):
            os.sync()  # one wait for all files instead of one each
        umask = os.umask(0)
        os.umask(umask)
        with _setup_error_for(target):
            unfinished.chmod(0o777 & ~umask)
            _require_absent(target)
            unfinished.rename(target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _setup_error_for(target: Path) -> Iterator[None]:
    """Turn what the disk refuses inside into a `SetupError` that names `target`."""
    try:
        yield
    except OSError as error:
        raise SetupError(f"cannot write {str(target)!r}: {error.strerror}") from error


def _require_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise InputError(f"{str(target)!r} exists, and nothing is written over it; name a new folder")


def lock(descriptor: int, path: Path) -> None:
    """Keep other processes away from what an open file stands for, until it is closed.

    Raises `InputError` where another process holds the lock already.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no advisory locks of this kind
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"another process is writing to {str(path)!r}; wait for it to end, or write to another folder"
        ) from error
    except OSError:  # a file system without locks
        log.warning(
            "%r lies on a file system without locks; make sure that only one run writes to it", str(path)
        )


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut, where the system can sync folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits. Raises `OSError` when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_synced(descriptor: int, path: Path, line: bytes) -> None:
    """Write `line` at the end of an open file; on return it is on the disk.

    Raises `SetupError` when the disk refuses; what was written of the line is then cut off again.
    """
    end = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        offset = 0
        while offset < len(line):
            offset += os.write(descriptor, line[offset:])
        os.fsync(descriptor)
    except OSError as error:
        os.ftruncate(descriptor, end)
        raise SetupError(
            f"cannot write to {str(path)!r}: {error.strerror}; what is in it is safe, run again to go on"
        ) from error
