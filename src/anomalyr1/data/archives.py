"""Our own extractor for zip, tar, tar.gz, tar.bz2 and tar.xz: the whole archive becomes a folder, or none.

Only regular files and folders come out. Refused are absolute and parent paths, drive letters, backslashes,
colons and devices' names (Windows takes `a.png:b` and `con.png` for something else), links, devices, sparse
and encrypted members, names that a file system or a reader might take for one another (spelling, upper and
lower case, Unicode forms, characters that print nothing, trailing dots), and what grows beyond
`ArchiveLimits`. Everything is written into a private folder beside the target, which is renamed at the end;
those of killed extractions are removed a day later.

Tar headers are read by `tar_headers`, which says why, and not by `tarfile`. Modes, owners and times are not
taken over. Not covered: the list of a zip's members is held in memory, so that costs what the archive's own
length allows.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import shutil
import stat
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from pydantic import Field

from anomalyr1.data.tar_headers import BLOCK, tar_members
from anomalyr1.files import new_folder, open_regular
from anomalyr1.types import InputError, Record, SetupError, quoted

CHUNK = 1 << 20
"""Bytes that are read or written at a time."""
XZ_MEMORY = 256 << 20
"""What decompressing xz may take, in bytes; its strongest preset needs 65 MB."""
MAX_NAME_BYTES, MAX_DEPTH = 255, 32
"""Most bytes of a name, and most levels of a path."""

_FAILS_WITH = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    gzip.BadGzipFile,
)
"""What the decompressors of the standard library raise on damaged, encrypted or unknown data."""
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}
"""Not LZMA: it takes as much memory as a member asks for, up to 4 GB."""
_DRIVE = re.compile(r"[A-Za-z]:")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])[ ]*(\..*)?", re.IGNORECASE | re.DOTALL)
_PRINTS_NOTHING = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
_UNFINISHED = re.compile(r"\.unfinished-[0-9a-f]{16}\.part")
"""As `files.new_folder` calls a folder that is being filled."""
_ABANDONED_SECONDS = 86_400


class ArchiveError(InputError):
    """An archive that is not extracted; the message names the archive, the member and what to do.

    Nothing of it was kept.
    """


class ArchiveLimits(Record):
    """What an archive may become."""

    max_members: int = Field(default=1_000_000, gt=0)
    max_bytes: int = Field(default=200 * 2**30, gt=0)
    """Unpacked bytes of all files together."""
    max_file_bytes: int = Field(default=4 * 2**30, gt=0)
    max_ratio: float = Field(default=100, ge=1)
    """Unpacked bytes over bytes of the archive; not applied to the first `free_bytes`."""
    free_bytes: int = Field(default=16 * 2**20, ge=0)


DEFAULT_ARCHIVE_LIMITS = ArchiveLimits()


class Extracted(NamedTuple):
    """What came out."""

    folder: Path
    files: int
    bytes: int


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


def extract(
    archive: str | Path, target: str | Path, limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS
) -> Extracted:
    """Unpack `archive` into the new folder `target`.

    Raises `ArchiveError` for anything the module's text refuses and for damage, `InputError` when `target`
    exists, `SetupError` when the disk refuses. In every case there is then no target and no partial tree.
    """
    archive, target = Path(archive), Path(target)
    try:
        size = archive.stat().st_size
        with open_regular(archive) as file:
            start = file.read(BLOCK)
    except OSError as error:
        raise ArchiveError(
            f"cannot read the archive {str(archive)!r}: {error.strerror}; check the path"
        ) from error
    unpack = _kind(archive, start)
    most_bytes = min(limits.max_bytes, max(limits.free_bytes, int(limits.max_ratio * size)))
    _remove_abandoned(target.parent)
    with new_folder(target) as new:
        tree = _Tree(archive, new, limits, most_bytes)
        try:
            unpack(archive, tree)
        except ArchiveError:
            raise
        except _FAILS_WITH as error:
            reason = str(error).strip().rstrip(".") or type(error).__name__
            raise ArchiveError(
                f"{str(archive)!r} is damaged or packed in an unknown way ({reason}); "
                "get it again from its source"
            ) from error
        except OSError as error:
            if error.errno is None:  # a decompressor's: the system's own errors have a number
                raise ArchiveError(
                    f"{str(archive)!r} is damaged ({error}); get it again from its source"
                ) from error
            raise SetupError(
                f"cannot unpack {str(archive)!r} into {str(target)!r}: {error.strerror}"
            ) from error
    return Extracted(target, tree.files, tree.bytes)


def _kind(archive: Path, start: bytes) -> Callable[[Path, _Tree], None]:
    """How to unpack, by content and not by name."""
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _unzip
    openers: dict[bytes, Callable[[IO[bytes]], _Source]] = {
        b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
        b"BZh": bz2.BZ2File,
        b"\xfd7zXZ\0": _Xz,
    }
    for signature, opener in openers.items():
        if start.startswith(signature):
            return lambda path, tree: _untar(path, tree, opener)
    if start[257:262] == b"ustar":
        return lambda path, tree: _untar(path, tree, lambda file: file)
    raise ArchiveError(
        f"{str(archive)!r} is no archive that is known here; expected zip, tar, tar.gz, tar.bz2 or tar.xz"
    )


class _ClaimedPath(NamedTuple):
    spelling: str
    is_file: bool


@dataclass
class _Tree:
    """The folder that is being filled, and what it may still take."""

    archive: Path
    root: Path
    limits: ArchiveLimits
    most_bytes: int

    def __post_init__(self) -> None:
        self.files = self.bytes = self.members = 0
        self._claims: dict[str, _ClaimedPath] = {}  # by folded path

    def refuse(self, name: str, why: str) -> ArchiveError:
        return ArchiveError(
            f"{str(self.archive)!r}: its member {quoted(name)} {why}; "
            "nothing was unpacked, get the archive from a source you trust"
        )

    def too_large(self, name: str) -> ArchiveError:
        return self.refuse(
            name, f"takes the unpacked size above {self.most_bytes:,} bytes (ratio {self.limits.max_ratio:g})"
        )

    def add_folder(self, name: str) -> None:
        parts = self._parts(name)
        self._count(name)
        self._claim(name, parts, is_file=False)
        (self.root / "/".join(parts)).mkdir(parents=True, exist_ok=True)

    def add_file(self, name: str, size: int, chunks: Iterator[bytes]) -> None:
        """Write a file; what is counted is what comes, and it must be what was declared."""
        if name.endswith("/"):
            raise self.refuse(name, "is a file with the name of a folder")
        parts = self._parts(name)
        if not parts:
            raise self.refuse(name, "has no name")
        self._count(name)
        if size > self.limits.max_file_bytes:
            raise self.refuse(name, f"has {size:,} bytes, more than {self.limits.max_file_bytes:,}")
        self._claim(name, parts, is_file=True)
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        length = 0
        with path.open("xb") as file:
            for chunk in chunks:
                length += len(chunk)
                self.bytes += len(chunk)
                if length > size:
                    raise self.refuse(name, f"is longer than the {size:,} bytes it declares")
                if self.bytes > self.most_bytes:
                    raise self.too_large(name)
                file.write(chunk)
        if length != size:
            raise self.refuse(name, f"has {length:,} bytes and declares {size:,}")
        self.files += 1

    def _count(self, name: str) -> None:
        self.members += 1
        if self.members > self.limits.max_members:
            raise self.refuse(name, f"is one more than the {self.limits.max_members:,} allowed")

    def _parts(self, name: str) -> tuple[str, ...]:
        """The folders and the name; `.` and doubled slashes are left out."""
        if "\0" in name or "\\" in name:
            raise self.refuse(name, "has a backslash or a NUL in its name")
        if name.startswith("/") or _DRIVE.match(name):
            raise self.refuse(name, "has an absolute path")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise self.refuse(name, "leads to a parent folder")
        if ":" in name or any(_DEVICE.fullmatch(part) for part in parts):
            raise self.refuse(name, "has a name that Windows takes for a stream or a device")
        longest = max((len(part.encode("utf-8", "surrogateescape")) for part in parts), default=0)
        if len(parts) > MAX_DEPTH or longest > MAX_NAME_BYTES:
            raise self.refuse(
                name, f"has a name of more than {MAX_NAME_BYTES} bytes or more than {MAX_DEPTH} levels"
            )
        return parts

    def _claim(self, name: str, parts: tuple[str, ...], is_file: bool) -> None:
        """Note a path and its parents; another one that some file system takes for the same is refused."""
        for end in range(1, len(parts) + 1):
            spelling, is_file_here = "/".join(parts[:end]), is_file and end == len(parts)
            folded = "/".join(_folded(part) for part in parts[:end])
            claim = self._claims.get(folded)
            if claim is None:
                self._claims[folded] = _ClaimedPath(spelling, is_file_here)
            elif claim.spelling != spelling:
                raise self.refuse(name, f"cannot be told from {quoted(claim.spelling)} on every file system")
            elif claim.is_file or is_file_here:
                raise self.refuse(name, f"comes where {quoted(spelling)} is already")


def _folded(part: str) -> str:
    """One spelling for all that a file system or a reader may take for the same name."""
    visible_part = _PRINTS_NOTHING.sub("", part)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible_part).casefold())
    return folded.rstrip(". ") or part


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed extractions left in a folder more than a day ago."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _UNFINISHED.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age > _ABANDONED_SECONDS:
                    shutil.rmtree(entry.path, ignore_errors=True)


def _unzip(archive: Path, tree: _Tree) -> None:
    with zipfile.ZipFile(archive) as zip_file:
        members = zip_file.infolist()
        if len(members) > tree.limits.max_members:
            raise tree.refuse(
                members[-1].orig_filename, f"is one more than the {tree.limits.max_members:,} allowed"
            )
        end = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            if member.header_offset < end:
                raise tree.refuse(member.orig_filename, "overlaps another member")
            end = member.header_offset + 30 + len(member.orig_filename) + member.compress_size
        for member in members:
            _unzip_member(zip_file, member, tree)


def _unzip_member(zip_file: zipfile.ZipFile, member: zipfile.ZipInfo, tree: _Tree) -> None:
    name = member.orig_filename
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > name.endswith("/"):
        raise tree.refuse(name, "is a link, a device or something else that is no regular file")
    if member.flag_bits & 0x1:
        raise tree.refuse(name, "is encrypted")
    if member.compress_type not in _METHODS:
        raise tree.refuse(name, f"is packed by method {member.compress_type}, which is not read here")
    if name.endswith("/"):
        if member.file_size:
            raise tree.refuse(name, "is a folder with content")
        tree.add_folder(name)
        return
    with zip_file.open(member) as file:
        tree.add_file(name, member.file_size, iter(lambda: file.read(CHUNK), b""))


def _untar(archive: Path, tree: _Tree, opener: Callable[[IO[bytes]], _Source]) -> None:
    with archive.open("rb") as file:
        stream = _Counted(opener(file), tree)
        for member in tar_members(stream, tree.refuse):
            if member.is_folder:
                tree.add_folder(member.name)
                continue
            tree.add_file(member.name, member.size, stream.chunks(member.size))
            stream.exactly(-member.size % BLOCK)


class _Counted:
    """A decompressed stream that is read forwards only and never beyond what the tree may take."""

    def __init__(self, source: _Source, tree: _Tree) -> None:
        self._source, self._tree, self._length = source, tree, 0

    def upto(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the stream."""
        pieces = []
        while size:
            piece = self._source.read(min(size, CHUNK))
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
            self._length += len(piece)
            if self._length > self._tree.most_bytes:  # headers and padding count too
                raise self._tree.too_large("(in front of its content)")
        return b"".join(pieces)

    def exactly(self, size: int) -> bytes:
        """`size` bytes. Raises `EOFError` when there are fewer."""
        data = self.upto(size)
        if len(data) != size:
            raise EOFError("the archive ends within a member")
        return data

    def chunks(self, size: int) -> Iterator[bytes]:
        """The content of a file in pieces."""
        while size:
            piece = self.exactly(min(size, CHUNK))
            size -= len(piece)
            yield piece


class _Xz:
    """Decompresses xz, also of several streams, with a bound on memory; `lzma.open` has none."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._waiting = file, b""
        self._new()

    def _new(self) -> None:
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decompressor.eof:
                self._waiting = (self._decompressor.unused_data or self._file.read(CHUNK)).lstrip(
                    b"\0"
                )  # padding between streams
                if not self._waiting:
                    return b""
                self._new()
            if self._decompressor.needs_input and not self._waiting:
                self._waiting = self._file.read(CHUNK)
                if not self._waiting:
                    raise EOFError("the compressed data ends early")
            data, self._waiting = self._decompressor.decompress(self._waiting, size), b""
            if data:
                return data
