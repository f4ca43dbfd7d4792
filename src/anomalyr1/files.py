"""Files and folders: read within limits, written whole or not at all (temporary name, sync, rename); locks.

Everything that a user names is opened here. A pipe, a device or a folder is refused at once, a file that
grows without end is read to its limit, JSON and YAML that would exhaust or surprise are refused by name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from anomalyr1.types import InputError, SetupError, first_error, integer_of, shortened

log = logging.getLogger(__name__)

Form = TypeVar("Form", bound=BaseModel)

LIMIT = 2**28
"""The greatest length, in bytes, of a file that is read whole; images and weights have limits elsewhere."""
YAML_LIMIT = 2**20
"""The same of a YAML file, of which a megabyte takes seconds."""
_LOCK_SECONDS = 2.0
"""How long a lock is waited for: what a killed process was starting lets go of it a moment later."""


def open_regular(path: str | Path) -> io.BufferedIOBase:
    """An ordinary file, open for reading; a link to one is followed.

    Nothing is waited for: a pipe or a device raises `OSError`, as do a folder and whatever the system
    refuses. A file of length 0 is empty, whatever would come out of it (in /proc, for ever).
    """
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from error
    try:
        info = os.fstat(descriptor)
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
    except BaseException:
        os.close(descriptor)
        raise
    if info.st_size > 0:
        return open(descriptor, "rb")  # noqa: PTH123  # a descriptor has no path; the file closes it
    os.close(descriptor)
    return io.BytesIO()


def read_regular(path: str | Path, limit: int = LIMIT) -> bytes:
    """The bytes of an ordinary file of at most `limit` bytes.

    Raises `InputError` for a longer one, and when it cannot be read.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(
            f"cannot read {str(path)!r}: {error.strerror or error}; check the path and its permissions"
        ) from error
    if len(data) > limit:
        raise InputError(f"{str(path)!r} is longer than {limit:,} bytes; name the file that you mean")
    return data


def read_text(path: str | Path, limit: int = LIMIT) -> str:
    """The UTF-8 text of an ordinary file, without its byte order mark.

    Raises `InputError` where it is not UTF-8, too long, or cannot be read.
    """
    try:
        return read_regular(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 ({error}); save it as UTF-8") from error


def read_json(path: str | Path, limit: int = LIMIT) -> Any:
    """What a JSON file says. Raises `InputError` where it is no JSON or cannot be read."""
    return parse_json(read_text(path, limit), repr(str(path)))


def parse_json(text: str | bytes, where: str) -> Any:
    """What a JSON text says; `where` names it in errors.

    Raises `InputError` where it is no JSON, nested too deeply, or holds an integer of more than 19 digits.
    """
    try:
        return json.loads(text, parse_int=integer_of)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}); mend it there, or fetch the file again") from error


def parse_record(kind: type[Form], text: str | bytes, where: str) -> Form:
    """The record that a JSON text holds; `where` names it in errors.

    Raises `InputError` where it is no JSON or no such record.
    """
    try:
        return kind.model_validate(parse_json(text, where))
    except ValidationError as error:
        raise InputError(f"{where} has not the expected form ({first_error(error)})") from error


def read_yaml(path: str | Path, limit: int = YAML_LIMIT) -> Any:
    """What a YAML file says. Raises `InputError` where it is no valid YAML or cannot be read."""
    return parse_yaml(read_text(path, limit), repr(str(path)))


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text says; `where` names it in errors.

    As in YAML 1.2, 5e-7 is a number and `no` a word; dates stay text; a key may stand once, and an alias
    (`*name`, with which a few lines make gigabytes) not at all. Raises `InputError` with line and column.
    """
    import yaml

    try:
        return yaml.load(text, _yaml_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise InputError(f"{where}: not valid YAML ({place}{shortened(problem)}); mend it there") from error
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # `!!timestamp x`, 3,000 brackets
        raise InputError(f"{where}: not valid YAML ({error}); mend it there") from error


def _yaml_loader() -> Any:
    import yaml

    unwanted = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"}

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml is not typed
        yaml_implicit_resolvers: ClassVar = {
            character: [(tag, pattern) for tag, pattern in resolvers if tag not in unwanted]
            for character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                event = self.peek_event()
                problem = f"the alias *{event.anchor}; write out what it stands for"
                raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            times = Counter(str(key.value) for key, _ in node.value)
            repeated = next((key for key, n in times.items() if n > 1), None)
            if repeated is not None:
                problem = f"the key {repeated!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            return mapping

    truth_values = re.compile("true|True|TRUE|false|False|FALSE")
    exponents = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", truth_values, list("tTfF"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponents, list("-+.0123456789"))
    return Loader


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` so that a reader sees the old or the new file, never half of one; folders are made.

    Raises `SetupError` when the disk refuses.
    """
    # A name that nobody can foresee, and a file that is not there yet: else a link would be written through.
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    with _setup_error_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files that belong together, by their names in `folder`; the first one counts.

    What is left of an earlier set goes before, so that a kill leaves no old file beside a new one. Raises
    `SetupError` when the disk refuses.
    """
    with _setup_error_for(folder):
        for name in list(contents)[:0:-1]:
            (folder / name).unlink(missing_ok=True)
    for name, data in contents.items():
        write_whole(folder / name, data)


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
        unfinished = target.parent / f".unfinished-{os.urandom(8).hex()}.part"
        unfinished.mkdir()
    try:
        yield unfinished
        if hasattr(os, "sync"):
            os.sync()  # one wait for all files instead of one each
        with _setup_error_for(target):
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

    Raises `InputError` where another process holds the lock for longer than a moment.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no advisory locks of this kind
        return
    deadline = time.monotonic() + _LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"another process is writing to {str(path)!r}; "
                        "wait for it to end, or write to another folder"
                    ) from error
                time.sleep(0.05)
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


def sha256_of_file(path: Path, limit: int | None = None) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises `OSError` when it cannot be read, or is longer than `limit` bytes.
    """
    with open_regular(path) as file:
        if limit is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is longer than {limit:,} bytes")
    return hashlib.sha256(data).hexdigest()


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
