"""Files that are built to cost their decoder minutes are refused before it sees them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from anomalyr1.images import decoding
from anomalyr1.images.door import ImageError, open_image
from anomalyr1.images.file_structure import PADDING, RLE_BYTES, Refusal, refuse_costly
from support.pictures import drawn, encoded, saved

JPEG, PNG = encoded(drawn(), "JPEG"), encoded(drawn(), "PNG")
GIF = encoded(drawn().quantize(64), "GIF")


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def behind_start(data: bytes) -> bytes:
    return JPEG[:2] + data + JPEG[2:]


def before_pixels(data: bytes) -> bytes:
    place = PNG.index(b"IDAT") - 4
    return PNG[:place] + data + PNG[place:]


def before_picture(data: bytes) -> bytes:
    place = 13 + 3 * 64
    return GIF[:place] + data + GIF[place:]


def progressive(w: int, h: int, scans: int) -> bytes:
    """A progressive JPEG whose scans say nothing, each in some 20 bytes."""
    blocks = ((w + 7) // 8) * ((h + 7) // 8)
    bits, left = "", blocks
    while left > 0:
        run = min(left, 32767)
        bits += "0" + format(max(0, run - 16384), "014b")
        left -= max(run, 16384)
    bits += "1" * (-len(bits) % 8)
    empty = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    frame = segment(0xC2, struct.pack(">BHHB", 8, h, w, 1) + bytes([1, 0x11, 0]))
    tables = segment(0xC4, b"\0\1" + bytes(16)) + segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    head = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64)) + frame + tables
    start = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes((blocks + 7) // 8)
    return head + start + (segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + empty) * scans + b"\xff\xd9"


def run_length_bmp(length: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, 7000, 7000, 1, 8, 1, 0, 0, 0, 256, 256)
    rows = b"\0\2\1\0" * (length // 4)
    start = struct.pack("<IHHI", 14 + 40 + 1024 + len(rows), 0, 0, 14 + 40 + 1024)
    return b"BM" + start + head + bytes(1024) + rows


def overlapping_tiff(strips: int, lengths: int) -> bytes:
    """Strips that are all the same compressed bytes; `lengths` is what the file says each of them has."""
    data = b"\x78\x9c" + b"\0\0\0\xff\xff" * 20_000
    at = 8 + len(data)
    tags = [(256, 8000), (257, strips), (258, 8), (259, 8), (262, 1), (273, at), (277, 1), (278, 1)]
    tags.append((279, at + 4 * strips))
    entries = b"".join(
        struct.pack("<HHII", tag, 4, strips if tag in (273, 279) else 1, value) for tag, value in tags
    )
    arrays = struct.pack(f"<{2 * strips}I", *[8] * strips, *[lengths] * strips)
    head = b"II*\0" + struct.pack("<I", at + len(arrays))
    return head + data + arrays + struct.pack("<H", len(tags)) + entries + bytes(4)


FAMILIES = [
    # what, bytes, words of the refusal
    ("scans of a progressive JPEG", lambda: progressive(96, 64, 500), "scans"),
    (
        "EXIF segments",
        lambda: behind_start(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 8),
        "bytes of EXIF",
    ),
    ("fill bytes", lambda: behind_start(b"\xff" * 100_000), "padding"),
    ("fill bytes in a scan", lambda: JPEG[:-2] + b"\xff" * 100_000 + JPEG[-2:], "padding"),
    ("stuffed bytes in front of the scan", lambda: behind_start(b"\xff\0" * 100_000), "padding"),
    ("empty segments", lambda: behind_start(b"\xff\xe5\0\2" * 100_000), "segments"),
    ("empty segments in a scan", lambda: JPEG[:-2] + b"\xff\xe5\0\2" * 100_000 + JPEG[-2:], "segments"),
    ("comment segments", lambda: behind_start(b"\xff\xfe\0\2" * 100_000), "segments"),
    (
        "Photoshop blocks",
        lambda: behind_start(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\0\0\0\0\0\0\0" * 5450) * 300),
        "bytes of metadata",
    ),
    ("unknown PNG chunks", lambda: before_pixels(chunk(b"abCd", b"") * 50_000), "chunks"),
    ("empty IDAT chunks", lambda: before_pixels(chunk(b"IDAT", b"") * 200_000), "pieces of picture data"),
    ("PPM comment", lambda: b"P6\n#" + b"x" * 1_000_000 + b"\n2 2 255\n" + bytes(12), "bytes of header"),
    ("BMP runs", lambda: run_length_bmp(RLE_BYTES), "run-length"),
    ("GIF comments", lambda: before_picture(b"!\xfe\1x\0" * 100_000), "blocks"),
    ("one GIF comment", lambda: before_picture(b"!\xfe" + b"\1x" * 100_000 + b"\0"), "sub-blocks"),
    ("bytes between GIF blocks", lambda: before_picture(b"\7" * 100_000), "padding"),
    ("TIFF strips that overlap", lambda: overlapping_tiff(3000, 100_002), "bytes of strips or tiles"),
    ("TIFF strips without a length", lambda: overlapping_tiff(3000, 0), "without a length"),
]


@pytest.mark.parametrize(("what", "make", "words"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_costly_files_are_refused_by_name(what, make, words, tmp_path):
    path = saved(tmp_path, make(), "part.png")
    with pytest.raises(ImageError, match=words) as caught:
        open_image(path)
    assert "part.png" in str(caught.value)
    assert "save it again as baseline JPEG or PNG" in str(caught.value)


TAKEN = ("scans of a progressive JPEG", "fill bytes", "empty segments", "GIF comments")


@pytest.mark.parametrize(("what", "make"), [row[:2] for row in FAMILIES if row[0] in TAKEN])
def test_control_without_the_walk_the_decoder_takes_them(what, make, monkeypatch):
    monkeypatch.setattr(decoding, "refuse_costly", lambda data: None)
    with decoding.opened(make(), 64_000_000, 200) as image:
        assert decoding.decode(image).rgb.mode == "RGB"


def photo() -> bytes:
    """What a phone and a picture editor put into a JPEG: a full EXIF, ICC and XMP in many segments."""
    exif = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + bytes(65_000))
    icc = b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 12]) + bytes(65_000)) for n in range(1, 13))
    xmp = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 80
    return behind_start(exif + icc + xmp + segment(0xED, b"Photoshop 3.0\0" + bytes(60_000)))


USUAL = [
    ("a photo with all its metadata", photo),
    ("a progressive JPEG of 80 scans", lambda: progressive(96, 64, 80)),
    ("restart markers", lambda: encoded(drawn(), "JPEG", restart_marker_blocks=1)),
    ("bytes behind the end, as of a film", lambda: JPEG + np.random.default_rng(1).bytes(300_000)),
    ("a PNG of 5,000 small IDAT chunks", lambda: split_idat(5_000)),
    ("a PPM with a comment", lambda: b"P6\n# made by a scanner\n40 40\n255\n" + bytes(4800)),
    ("a run-length encoded BMP", lambda: saved_rle()),
    ("a TIFF of a strip a row", lambda: encoded(drawn(), "TIFF", compression="tiff_lzw", tiffinfo={278: 1})),
    ("a large GIF", lambda: encoded(drawn((800, 500)).quantize(64), "GIF")),
    ("a WebP with an ICC profile", lambda: encoded(drawn(), "WEBP", icc_profile=bytes(3000))),
]


def split_idat(pieces: int) -> bytes:
    rows = b"".join(b"\0" + bytes(400 * 3) for _ in range(300))
    data = zlib.compress(rows, 0)
    step = len(data) // pieces + 1
    chunks = [chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 400, 300, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def saved_rle() -> bytes:
    """A run-length encoded BMP of 40 x 4 pixels in one colour."""
    rows = b"\x28\x01\0\0" * 4 + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 40, 4, 1, 8, 1, len(rows), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + head + bytes(1024) + rows


@pytest.mark.parametrize(("what", "make"), USUAL, ids=[row[0] for row in USUAL])
def test_what_cameras_and_programs_write_is_opened(what, make, tmp_path):
    assert open_image(saved(tmp_path, make())).rgb.mode == "RGB"


def test_the_walk_ends_on_any_bytes():
    """It reads lengths from the file: none may send it back, or out of the file."""
    rng = np.random.default_rng(5)
    wholes = [JPEG, PNG, GIF, *(encoded(drawn(), f) for f in ("WEBP", "TIFF", "BMP", "PPM"))]
    wholes += [overlapping_tiff(5, 100), progressive(96, 64, 5), encoded(drawn(), "TIFF", big_tiff=True)]
    refused = 0
    for whole in wholes:
        for _ in range(150):
            bent = bytearray(whole[: int(rng.integers(1, len(whole) + 1))])
            for at in rng.integers(0, min(len(bent), 400), 6):
                bent[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
            try:
                refuse_costly(bytes(bent))
            except Refusal:
                refused += 1
    assert refused > 0
    assert PADDING < Image.MAX_IMAGE_PIXELS
