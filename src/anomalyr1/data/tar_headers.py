"""Reads tar headers (POSIX ustar and pax, GNU long names), forwards only.

Whatever is no regular file or folder is not read but refused: links, devices, sparse files, global names
and sizes, and the nameless format before POSIX.1-1988. Python's `tarfile` is not used, because before the
mended releases of 3.11 it can be made to write outside the target (CVE-2025-4517) and to loop for ever
(CVE-2025-8194).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn, Protocol

BLOCK = 512
"""Bytes of a header, and what content is filled up to a multiple of."""
MAX_HEADER_BYTES = 64 << 10
"""Most bytes of a long name or a list of pax records."""
MAX_TRAILER_BYTES = 1 << 20
"""Most zeros behind the end; tar fills its last record with them."""


class TarMember(NamedTuple):
    """A regular file or a folder."""

    name: str
    """As stored; bytes that are not UTF-8 are lone surrogates."""
    size: int
    is_folder: bool


class Stream(Protocol):
    """What headers are read from."""

    def upto(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""

    def exactly(self, size: int) -> bytes:
        """`size` bytes, or an `EOFError`."""


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes


def tar_members(stream: Stream, refuse: Callable[[str, str], Exception]) -> Iterator[TarMember]:
    """The members in order; the caller reads a file's content and its padding before it asks for the next.

    Raises what `refuse(name, why)` makes for members of another kind, and `ValueError` or `EOFError` for
    damage.
    """
    long_name, records = "", dict[str, str]()
    while (block := stream.exactly(BLOCK)).count(0) != BLOCK:
        header = _read_header(block)
        if header.kind in (b"L", b"x", b"g"):
            if header.size > MAX_HEADER_BYTES:
                raise refuse(header.name, f"has a header of {header.size:,} bytes")
            data = stream.exactly(header.size + -header.size % BLOCK)[: header.size]
            if header.kind == b"L":
                long_name = _text(data.rstrip(b"\0"))
            else:
                header_records = dict(_pax_records(data))
                _check_records(header, header_records, refuse)
                if header.kind == b"x":  # of the next member alone; b"g" is of all
                    records |= header_records
            continue
        name = records.get("path") or long_name or header.name
        size = _decimal(records["size"]) if "size" in records else header.size
        if header.kind not in (b"0", b"\0", b"5"):
            raise refuse(name, "is a link, a device or something else that is no regular file")
        if header.kind == b"5" and size:
            raise refuse(name, "is a folder with content")
        yield TarMember(name, size, header.kind == b"5")
        long_name, records = "", {}
    trailer = stream.upto(MAX_TRAILER_BYTES + 1)
    if len(trailer) > MAX_TRAILER_BYTES or trailer.strip(b"\0"):
        raise refuse("(none)", "is followed by data behind the archive's end")


def _check_records(header: _Header, records: dict[str, str], refuse: Callable[[str, str], Exception]) -> None:
    if any(key.startswith("GNU.sparse") for key in records):
        raise refuse(header.name, "is a sparse file")
    if header.kind == b"g" and records.keys() & {"path", "size", "linkpath"}:
        raise refuse(header.name, "sets one name or size for all files")


def _read_header(block: bytes) -> _Header:
    if block[257:262] != b"ustar":
        _damaged("a header without its mark")
    if _octal(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 0x20:
        _damaged("a header whose checksum is wrong")
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    if prefix and block[257:263] == b"ustar\0":  # GNU's own format keeps other things there
        name = prefix + b"/" + name
    return _Header(_text(name), _number(block[124:136]), block[156:157])


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary form for sizes from 8 GB on."""
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        _damaged("a header with a number that is none")
    return int(digits or b"0", 8)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        _damaged("a size that is no number")
    return int(text)


def _pax_records(data: bytes) -> Iterator[tuple[str, str]]:
    """Keys and values of `length key=value` lines (POSIX.1-2001, pax)."""
    start = 0
    while start < len(data):
        space = data.find(b" ", start, start + 20)
        length = _decimal(_text(data[start:space])) if space > 0 else 0
        line = data[space + 1 : start + length]
        if space < 0 or not line.endswith(b"\n") or start + length > len(data) or b"=" not in line:
            _damaged("extended headers that are none")
        key, _, value = line[:-1].partition(b"=")
        yield _text(key), _text(value)
        start += length


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _damaged(what: str) -> NoReturn:
    raise ValueError(f"it has {what}")
