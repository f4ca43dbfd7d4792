"""How an image file is built, read without decoding it: what would cost its decoder minutes is refused.

Each walk is linear in the file, and the numbers it refuses from on lie far above what cameras and programs
write. What is no valid file of its format is left to the decoder, which refuses it for that.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NoReturn

EXPECTED = "a file that decodes in seconds"
REMEDY = "save it again as baseline JPEG or PNG"

PARTS = 1_000
"""Segments, chunks or blocks beside the picture data. A photo has 10 to 100, a large XMP or ICC included."""
SCANS = 100
"""Passes over the picture in a JPEG. Progressive ones have about 10."""
PADDING = 4_096
"""Bytes that belong to no part."""
EXIF_BYTES = 2**18
"""The standard allows a JPEG 2^16."""
METADATA_BYTES = 2**24
"""In front of the pixels of a JPEG; extended XMP with a depth map takes some millions."""
PIECES = 100_000
"""Pieces of the picture data: IDAT chunks of a PNG (usually 8 kB each), strips or tiles of a TIFF."""
HEADER_BYTES = 4_096
"""The header of a PPM with its comments."""
RLE_BYTES = 2**21
"""Of a run-length encoded BMP, which is decoded a byte at a time."""


class Refusal(Exception):
    """Why a file cannot be used."""

    def __init__(self, expected: str, actual: str, remedy: str) -> None:
        super().__init__(expected, actual, remedy)
        self.expected, self.actual, self.remedy = expected, actual, remedy


def refuse_costly(data: bytes) -> None:
    """Raise `Refusal` for an image file (its bytes) that would take a decoder very long."""
    for beginning, walk in _WALKS.items():
        if data.startswith(beginning):
            walk(data)
            return


def _refuse(number: int, noun: str, limit: int) -> NoReturn:
    raise Refusal(EXPECTED, f"{number:,} or more {noun} (at most {limit:,} are allowed)", REMEDY)


class _Counts:
    """Counts what may not become too much."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, noun: str, number: int, limit: int) -> None:
        """Raises `Refusal` when all numbers of `noun` together exceed `limit`."""
        total = self._counts[noun] = self._counts.get(noun, 0) + number
        if total > limit:
            _refuse(total, noun, limit)


# --- JPEG: segments of marker and length; after each start of scan, entropy-coded data up to the next marker

_SCAN, _END, _APP0, _APP1, _APP15 = 0xDA, 0xD9, 0xE0, 0xE1, 0xEF
_STANDALONE = frozenset([0x01, *range(0xD0, 0xD9)])
"""Markers without a length: TEM, restarts, start of image."""
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def _walk_jpeg(data: bytes) -> None:
    counts, at, pattern = _Counts(), 2, _MARKER
    while match := pattern.search(data, at):
        padding = match.start() - at if pattern is _MARKER else _fill_bytes(data, at, match.start())
        counts.add("padding bytes", padding, PADDING)
        counts.add("segments", 1, PARTS)
        marker, at = data[match.end() - 1], match.end()
        if marker in _STANDALONE:
            continue
        if marker == _END:
            return
        length = int.from_bytes(data[at : at + 2], "big")
        if _APP0 <= marker <= _APP15:
            counts.add("bytes of metadata", length, METADATA_BYTES)
        if marker == _APP1 and data.startswith(b"Exif\0", at + 2):
            counts.add("bytes of EXIF", length, EXIF_BYTES)
        if marker == _SCAN:
            counts.add("scans", 1, SCANS)
            pattern = _MARKER_IN_SCAN
        at += max(length, 2)
    # A decoder would look through all of it.
    padding = len(data) - at if pattern is _MARKER else _fill_bytes(data, at, len(data))
    counts.add("padding bytes", padding, PADDING)


def _fill_bytes(data: bytes, start: int, end: int) -> int:
    """`PADDING` + 1 where a scan holds a run of so many fill bytes, 0 where it does not."""
    return PADDING + 1 if data.find(b"\xff" * (PADDING + 1), start, end) >= 0 else 0


# --- PNG: chunks of length, name, data and checksum; RIFF (WebP): chunks of name, length and data


def _walk_png(data: bytes) -> None:
    counts, at = _Counts(), 8
    while at + 8 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name == b"IEND":
            return
        if name == b"IDAT":
            counts.add("pieces of picture data", 1, PIECES)
        else:
            counts.add("chunks", 1, PARTS)
        if name == b"eXIf":
            counts.add("bytes of EXIF", length, EXIF_BYTES)
        at += 12 + length


def _walk_webp(data: bytes) -> None:
    counts, at = _Counts(), 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        counts.add("chunks", 1, PARTS)
        if name == b"EXIF":
            counts.add("bytes of EXIF", length, EXIF_BYTES)
        at += 8 + length + length % 2


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP by its header; 0 x 0 for any other file.

    Its decoder takes memory for them when it is made, before anybody can ask it.
    """
    kind = data[12:16] if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else b""
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        w, h = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return w, h
    return 0, 0


# --- GIF: a screen, then extensions and pictures, each with sub-blocks of at most 255 bytes

_EXTENSION, _PICTURE, _TRAILER = b"!", b",", b";"
_COMMENT_BYTES = 2**20


def _walk_gif(data: bytes) -> None:
    """Up to the second picture, with which it is an animation."""
    counts, at, pictures = _Counts(), 13 + _colours(data, 10), 0
    while at < len(data):
        kind, at = data[at : at + 1], at + 1
        if kind == _TRAILER or (kind == _PICTURE and pictures):
            return
        if kind == _EXTENSION:
            counts.add("blocks", 1, PARTS)
            start, at = at, _skip_sub_blocks(data, at + 1)
            counts.add("bytes of comments", at - start, _COMMENT_BYTES)
        elif kind == _PICTURE:
            pictures += 1
            at = _skip_sub_blocks(data, at + 10 + _colours(data, at + 8))
        else:
            counts.add("padding bytes", 1, PADDING)


def _colours(data: bytes, flags_at: int) -> int:
    """The bytes of the colour table that a byte of flags announces."""
    flags = data[flags_at] if flags_at < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_sub_blocks(data: bytes, at: int) -> int:
    """The place behind sub-blocks, which are full but for the last in what programs write."""
    start, count = at, 0
    while at < len(data) and data[at]:
        at, count = at + 1 + data[at], count + 1
        if count > PARTS and (at - start) < 16 * count:
            _refuse(count, "sub-blocks of a few bytes", PARTS)
    return at + 1


# --- TIFF: a directory of tags, which name where their values and the strips or tiles of the picture lie

_UNIT_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
"""The length of a value by the tag's type; 0 for types that do not exist."""
_OFFSETS, _LENGTHS = frozenset([273, 324]), frozenset([279, 325])
_INTEGERS = {3: "H", 4: "I", 16: "Q"}


def _walk_tiff(data: bytes) -> None:
    """The first directory; a second one is a second page."""
    order = "<" if data.startswith(b"II") else ">"
    big = 43 in data[2:4]
    offset_code, head_code, entry_size = ("Q", "Q", 20) if big else ("I", "H", 12)
    start = _number(data, 8 if big else 4, order + offset_code)
    count = _number(data, start, order + head_code)
    counts, pieces, lengths = _Counts(), 0, None
    counts.add("tags", count, PARTS)
    for at in range(start + struct.calcsize(head_code), len(data), entry_size)[:count]:
        tag, kind = _number(data, at, order + "H"), _number(data, at + 2, order + "H")
        values = _number(data, at + 4, order + offset_code)
        size = values * (_UNIT_BYTES[kind] if kind < len(_UNIT_BYTES) else 0)
        # What tags and pieces name twice would be copied or decoded as often.
        counts.add("bytes that tags name", size, 2 * len(data))
        if tag in _OFFSETS:
            pieces = values
            counts.add("strips or tiles", values, PIECES)
        if tag in _LENGTHS and kind in _INTEGERS:
            inline = 8 if big else 4
            value_at = at + 4 + inline
            place = value_at if size <= inline else _number(data, value_at, order + offset_code)
            if place + size <= len(data):
                lengths = struct.unpack_from(f"{order}{values}{_INTEGERS[kind]}", data, place)
    if lengths is not None and pieces > 1:
        counts.add("bytes of strips or tiles", sum(lengths), 2 * len(data))
        if 0 in lengths:
            raise Refusal(EXPECTED, "strips or tiles without a length", REMEDY)


def _number(data: bytes, at: int, code: str) -> int:
    """An integer of the file; 0 behind its end."""
    size = struct.calcsize(code)
    return int(struct.unpack_from(code, data, at)[0]) if at + size <= len(data) else 0


# --- BMP, PPM


def _walk_bmp(data: bytes) -> None:
    compression = int.from_bytes(data[30:34], "little")
    if compression in (1, 2) and len(data) > RLE_BYTES:
        _refuse(len(data), "run-length encoded bytes", RLE_BYTES)


def _walk_ppm(data: bytes) -> None:
    words = re.sub(rb"#[^\r\n]*", b"", data[:HEADER_BYTES]).split(maxsplit=4)
    if len(data) > HEADER_BYTES and len(words) < (3 if data.startswith(b"P4") else 4):
        _refuse(HEADER_BYTES, "bytes of header", HEADER_BYTES)


_WALKS: dict[bytes, Callable[[bytes], None]] = {
    b"\xff\xd8": _walk_jpeg,
    b"\x89PNG": _walk_png,
    b"RIFF": _walk_webp,
    b"GIF8": _walk_gif,
    b"II": _walk_tiff,
    b"MM": _walk_tiff,
    b"BM": _walk_bmp,
    b"P": _walk_ppm,
}
"""The walk of a file by how it begins."""
