"""Hostile archives leave nothing, honest ones come out whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile

import pytest

from anomalyr1.data import archives
from anomalyr1.data.archives import ArchiveError, ArchiveLimits, extract
from anomalyr1.types import InputError

LIMITS = ArchiveLimits(
    max_members=50, max_bytes=8 << 20, max_file_bytes=4 << 20, max_ratio=20, free_bytes=64 << 10
)
FORMATS = ("zip", "tar", "tar.gz", "tar.xz")
PACK = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}
FILE, FOLDER, LINK, HARDLINK, FIFO, DEVICE = (
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
)
MODES = {
    FILE: stat.S_IFREG,
    FOLDER: stat.S_IFDIR,
    LINK: stat.S_IFLNK,
    HARDLINK: stat.S_IFLNK,
    FIFO: stat.S_IFIFO,
    DEVICE: stat.S_IFCHR,
}
ZEROS = bytes(3 << 20)
NOISE = os.urandom(2000)

# A member is (name, type, content or link target).
TECHNIQUES = {
    "parent path": [("good.txt", FILE, b"x"), ("../outside.txt", FILE, b"evil")],
    "absolute path": [("good.txt", FILE, b"x"), ("{out}/outside.txt", FILE, b"evil")],
    "link, then a file through it": [("door", LINK, "{out}"), ("door/outside.txt", FILE, b"evil")],
    "hard link": [("good.txt", FILE, b"x"), ("pass", HARDLINK, "{out}/secret.txt")],
    "device": [("good.txt", FILE, b"x"), ("null", DEVICE, "")],
    "pipe": [("pipe", FIFO, ""), ("good.txt", FILE, b"x")],
    "the same name twice": [("a.txt", FILE, b"x"), ("./a.txt", FILE, b"y")],
    "upper and lower case": [("Part/a.txt", FILE, b"x"), ("part/A.TXT", FILE, b"y")],
    "two Unicode forms": [("caf\u00e9.txt", FILE, b"x"), ("cafe\u0301.txt", FILE, b"y")],
    "a file as a folder": [("a", FILE, b"x"), ("a/b.txt", FILE, b"y")],
    "drive letter and backslash": [("good.txt", FILE, b"x"), ("C:\\outside.txt", FILE, b"evil")],
    "bomb": [("zeros.bin", FILE, ZEROS), ("more.bin", FILE, ZEROS), ("yet.bin", FILE, ZEROS)],
}


def tar_bytes(members, out="", form=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name.replace("{out}", out))
            info.type = kind
            if kind == FILE:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content.replace("{out}", out) if isinstance(content, str) else ""
                tar.addfile(info)
    return buffer.getvalue()


def zip_bytes(members, out="", method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as opened:
        for name, kind, content in members:
            info = zipfile.ZipInfo(name.replace("{out}", out))
            info.external_attr, info.compress_type = (MODES[kind] | 0o644) << 16, method
            data = content.replace("{out}", out).encode() if isinstance(content, str) else content
            opened.writestr(info, data)
    return buffer.getvalue()


def archive(tmp_path, form, members):
    out = str(tmp_path / "outside")
    (tmp_path / "outside").mkdir(exist_ok=True)
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    path = tmp_path / f"archive.{form}"
    path.write_bytes(zip_bytes(members, out) if form == "zip" else PACK[form](tar_bytes(members, out)))
    return path


def everything(folder):
    return sorted(
        (str(path.relative_to(folder)), path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    )


def refused(path, tmp_path, match=None, limits=LIMITS):
    (tmp_path / "into").mkdir(exist_ok=True)
    before = everything(tmp_path)
    with pytest.raises(ArchiveError, match=match) as caught:
        extract(path, tmp_path / "into" / "target", limits)
    assert everything(tmp_path) == before  # nothing outside, no partial tree, no temporary folder
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("form", FORMATS)
def test_48_hostile_archives_leave_nothing(tmp_path, form, technique):
    assert len(FORMATS) * len(TECHNIQUES) == 48
    refused(archive(tmp_path, form, TECHNIQUES[technique]), tmp_path)


@pytest.mark.parametrize("technique", ["parent path", "absolute path", "link, then a file through it"])
def test_those_archives_do_escape_from_a_plain_extractor(tmp_path, technique):
    path = archive(tmp_path, "tar", TECHNIQUES[technique])
    (tmp_path / "into").mkdir()
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "into", filter="fully_trusted")
    assert list(tmp_path.glob("outside*/outside.txt")) or (tmp_path / "outside.txt").exists()


HONEST = [
    ("./", FOLDER, ""), ("bottle/", FOLDER, ""), ("bottle/test/broken/000.png", FILE, NOISE),
    ("bottle/empty.txt", FILE, b""),
    ("-rf", FILE, b"dash"), ("new\nline.txt", FILE, b"1"), ("\u202eright-to-left.png", FILE, b"2"),
    ("x" * 251 + ".txt", FILE, b"3"),
    ("deep/" + "d" * 120 + "/" + "e" * 90 + "/f.txt", FILE, b"4"), ("caf\u00e9.txt", FILE, b"5"),
]  # fmt: skip


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_honest_archive_comes_out_whole(tmp_path, form):
    path = archive(tmp_path, form, HONEST)
    got = extract(path, tmp_path / "new" / "target", LIMITS)
    files = [(name, content) for name, kind, content in HONEST if kind == FILE]
    assert (got.files, got.bytes) == (len(files), sum(len(content) for _, content in files))
    for name, content in files:
        assert (got.folder / name).read_bytes() == content
    assert sum(one.is_file() for one in got.folder.rglob("*")) == len(files)
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["target"]
    assert stat.S_IMODE(got.folder.stat().st_mode) & 0o500 == 0o500


def test_gnu_and_old_names_that_are_not_utf_8(tmp_path):
    name = os.fsdecode(b"caf\xe9/" + b"n" * 150 + b"\xff.png")
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        path.write_bytes(tar_bytes([(name, FILE, b"x")], form=form))
        assert (extract(path, tmp_path / str(form)).folder / name).read_bytes() == b"x"


def test_xz_of_several_streams(tmp_path):
    whole = tar_bytes(HONEST)
    path = tmp_path / "a.tar.xz"
    path.write_bytes(lzma.compress(whole[:3000]) + bytes(8) + lzma.compress(whole[3000:]))
    assert extract(path, tmp_path / "target").files == 8


def header(name=b"a.txt", size=b"00000000001", kind=b"0", mark=b"ustar\x0000"):
    block = bytearray(
        name.ljust(100, b"\0")
        + b"0000644\0" * 3
        + size.ljust(12, b"\0")
        + b"0" * 12
        + b" " * 8
        + kind
        + bytes(100)
        + mark
    )
    block += bytes(512 - len(block))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(**records):
    lines = b""
    for key, value in records.items():
        body = f" {key}={value}\n".encode()
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        lines += str(length).encode() + body
    return header(b"pax", b"%011o" % len(lines), b"x") + lines.ljust(-(-len(lines) // 512) * 512, b"\0")


ONE = b"x".ljust(512, b"\0")
END = bytes(1024)
DAMAGED_TARS = {
    "cut in a header": header()[:300],
    "cut in a file": header(size=b"00000004000") + ONE,
    "no end": header() + ONE,
    "data behind the end": header() + ONE + END + b"more",
    "a negative size": header(size=b"-0000000001") + ONE + END,
    "a negative binary size": header(size=b"\xff" * 12) + ONE + END,
    "a size of 2**88": header(size=b"\x80" + b"\xff" * 11) + ONE + END,
    "a wrong checksum": header().replace(b"a.txt", b"b.txt") + ONE + END,
    "a pax size that is negative": pax(size="-1000") + header() + ONE + END,
    "a pax name that leads out": pax(path="../out.txt") + header() + ONE + END,
    "a pax header of 8 GB": header(b"pax", b"77777777777", b"x") + ONE + END,
    "a long name of 8 GB": header(b"pax", b"77777777777", b"L") + ONE + END,
    "pax records that are none": header(b"pax", b"00000000005", b"x")
    + b"9 a=".ljust(512, b"\0")
    + header()
    + ONE
    + END,
    "a global name": header(b"pax", b"00000000011", b"g")
    + b"9 path=a\n".ljust(512, b"\0")
    + header()
    + ONE
    + END,
    "a sparse file": pax(**{"GNU.sparse.major": "1"}) + header() + ONE + END,
    "an unknown type": header(kind=b"Q") + ONE + END,
    "a folder with content": header(b"a/", kind=b"5") + ONE + END,
    "an empty name": header(b"") + ONE + END,
    "a file named like a folder": header(b"a/") + ONE + END,
    "a NUL in a pax name": pax(path="a\0b") + header() + ONE + END,
    "40 levels": pax(path="a/" * 40 + "b") + header() + ONE + END,
    "a name of 256 bytes": pax(path="n" * 256) + header() + ONE + END,
}


@pytest.mark.parametrize("fault", DAMAGED_TARS)
def test_damaged_tars_are_refused(tmp_path, fault):
    path = tmp_path / "a.tar"
    path.write_bytes(DAMAGED_TARS[fault])
    refused(path, tmp_path)


def test_the_hand_made_headers_are_otherwise_good(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(pax(path="b/c.txt", mtime="1") + header() + ONE + END)
    assert (extract(path, tmp_path / "t").folder / "b" / "c.txt").read_bytes() == b"x"


def test_zips_that_lie(tmp_path):
    plain = zip_bytes([("a.txt", FILE, NOISE), ("b.txt", FILE, NOISE)])
    entry = plain.index(b"PK\x01\x02")
    second = plain.index(b"PK\x01\x02", entry + 4)
    lies = {
        "overlaps": plain[: second + 42]
        + plain[entry + 42 : entry + 46]
        + plain[second + 46 :],  # both entries point at the first file
        "damaged  ": plain[: entry + 24] + struct.pack("<I", 10) + plain[entry + 28 :],
        "encrypted": plain[: entry + 8] + b"\x01" + plain[entry + 9 :],
        "method": plain[: entry + 10] + b"\x09" + plain[entry + 11 :],
        "damaged": plain[: len(NOISE) // 2] + b"????" + plain[len(NOISE) // 2 + 4 :],
        "damaged ": plain[:-30],
    }
    for said, data in lies.items():
        path = tmp_path / "a.zip"
        path.write_bytes(data)
        refused(path, tmp_path, said.strip())
    path.write_bytes(plain)
    assert extract(path, tmp_path / "target").files == 2  # the control


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        (ArchiveLimits(max_members=2), "one more than the 2"),
        (ArchiveLimits(max_file_bytes=1999), "more than 1,999"),
        (ArchiveLimits(max_bytes=5000), "above 5,000"),
        (ArchiveLimits(max_ratio=1, free_bytes=100), "above"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_each_limit_holds_and_without_it_the_archive_is_fine(tmp_path, form, limits, match):
    path = archive(tmp_path, form, [(f"{i}.bin", FILE, bytes(2000)) for i in range(3)])
    refused(path, tmp_path, match, limits)
    assert extract(path, tmp_path / "target").files == 3


def test_what_is_there_is_never_touched(tmp_path):
    path = archive(tmp_path, "zip", HONEST)
    (tmp_path / "target").mkdir()
    with pytest.raises(InputError, match="exists"):
        extract(path, tmp_path / "target")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists"):
        extract(path, tmp_path / "link")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        gzip.compress(b"no tar", mtime=0),
        b"\x1f\x8bbroken",
        b"BZhbroken",
        b"\xfd7zXZ\0broken",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    refused(tmp_path / "a.tar.gz", tmp_path)
    with pytest.raises(ArchiveError, match="cannot read"):
        extract(tmp_path / "gone.zip", tmp_path / "target")


def test_a_failure_that_no_one_foresaw_leaves_nothing_either(tmp_path, monkeypatch):
    path = archive(tmp_path, "zip", HONEST)
    (tmp_path / "into").mkdir()

    def interrupted(tree, name, size, chunks):
        raise KeyboardInterrupt

    monkeypatch.setattr(archives._Tree, "add_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(path, tmp_path / "into" / "target")
    assert list((tmp_path / "into").iterdir()) == []


def test_without_folding_two_unicode_forms_pass(tmp_path, monkeypatch):
    """The control of the duplicate guard: it is the folding that finds them."""
    monkeypatch.setattr(archives, "_folded", lambda part: part)
    path = archive(tmp_path, "zip", TECHNIQUES["two Unicode forms"])
    names = {one.name for one in extract(path, tmp_path / "target").folder.iterdir()}
    assert len(names) == 2 and len({unicodedata.normalize("NFC", name) for name in names}) == 1


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize(
    "name",
    ["a.png:evil.exe", "part/CON", "nul", "Com1.png", "prn .txt", "aux.tar.gz", "LPT\u00b2", "lpt9.a/b.txt"],
)
def test_names_that_windows_takes_for_a_stream_or_a_device(tmp_path, form, name):
    refused(
        archive(tmp_path, form, [("good.txt", FILE, b"x"), (name, FILE, b"y")]), tmp_path, "Windows takes"
    )


def test_names_like_those_of_devices_are_fine(tmp_path):
    names = ["console.png", "common/com.png", "com10.txt", "null", "auxiliary", "a.con"]
    extract(archive(tmp_path, "zip", [(name, FILE, b"x") for name in names]), tmp_path / "target")


@pytest.mark.parametrize("unseen", ["\u200b", "\u034f", "\u115f", "\u3164", "\ufe0f", "\u2800", "\U000e0100"])
def test_names_that_look_the_same_are_refused(tmp_path, unseen):
    members = [("a.png", FILE, b"x"), (f"a{unseen}.png", FILE, b"y")]
    refused(archive(tmp_path, "zip", members), tmp_path, "cannot be told from")
    assert extract(archive(tmp_path, "zip", members[1:]), tmp_path / "target").files == 1


def test_a_zip_that_asks_for_memory_by_lzma_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zip_bytes([("a.txt", FILE, b"x" * 99)], method=zipfile.ZIP_LZMA))
    refused(path, tmp_path, "packed by method 14")


def test_a_long_name_is_told_in_part(tmp_path):
    with pytest.raises(ArchiveError) as caught:
        extract(archive(tmp_path, "tar", [("x" * 100_000, FILE, b"")]), tmp_path / "target")
    assert len(str(caught.value)) < 800


def test_what_killed_extractions_left_is_removed_a_day_later(tmp_path):
    path = archive(tmp_path, "zip", [("a.txt", FILE, b"x")])
    into = tmp_path / "into"
    old, new = (into / f".unfinished-{digit * 16}.part" for digit in "01")
    foreign = into / ".unfinished-mine"
    for folder in (old, new, foreign):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "a.txt").write_text("x")
    link = into / f".unfinished-{'2' * 16}.part"
    link.symlink_to(foreign)
    for folder in (old, foreign):
        os.utime(folder, (1, 1))
    extract(path, into / "target")
    assert {child.name for child in into.iterdir()} == {new.name, foreign.name, link.name, "target"}
    assert (foreign / "deep" / "a.txt").exists()
