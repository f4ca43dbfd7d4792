"""Files: read within limits, refused by name, written whole through names that nobody can foresee."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from anomalyr1 import files
from anomalyr1.types import InputError


def test_only_ordinary_files_are_opened_and_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link", ".", "missing", "nul\0"):
        with pytest.raises(OSError):
            files.open_regular(f"{tmp_path}/{name}")
        with pytest.raises(InputError, match="check the path"):
            files.read_regular(f"{tmp_path}/{name}")
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "alias").symlink_to("file")
    assert files.read_regular(tmp_path / "alias") == b"abc"


def test_control_a_pipe_keeps_a_plain_open_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").read_bytes, daemon=True)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    (tmp_path / "pipe").open("wb").close()
    thread.join()


def test_a_file_is_read_to_its_limit(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="longer than 1,000 bytes"):
        files.read_regular(tmp_path / "sparse", limit=1000)
    assert files.read_regular("/proc/version") == b""  # of length 0, whatever would come out of it


@pytest.mark.parametrize(
    "text", ["9" * 5000, '{"a": ' + "9" * 400 + "}", "[" * 100_000, '{"a":', "-" + "1" * 20]
)
def test_json_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="'x' is no JSON"):
        files.parse_json(text, "'x'")


def test_integers_of_64_bits_are_read() -> None:
    assert files.parse_json("[-9223372036854775808, 1.5]", "x") == [-(2**63), 1.5]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\nb: *a",
        "a: 1\na: 2",
        "[" * 3000,
        "x: !!timestamp x",
        "x: !!int x",
        "x: !!python/object:os.system {}",
        "nc: " + "9" * 5000,
        "? [a, b]\n: 1",
    ],
)
def test_yaml_that_surprises_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^'x': not valid YAML"):
        files.parse_yaml(text, "'x'")


def test_yaml_as_of_version_1_2() -> None:
    said = {"no": "no", "rate": 5e-7, "day": "2024-13-01", "yes": True}
    assert files.parse_yaml("no: no\nrate: 5e-7\nday: 2024-13-01\nyes: true", "x") == said


def test_a_link_under_a_foreseeable_temporary_name_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"keep")
    (tmp_path / f".index.html.{os.getpid()}.part").symlink_to(victim)
    files.write_whole(tmp_path / "index.html", b"page")
    assert victim.read_bytes() == b"keep"
    assert not (tmp_path / "index.html").is_symlink()


def test_a_new_folder_has_the_mode_that_the_system_gives(tmp_path: Path) -> None:
    with files.new_folder(tmp_path / "new") as folder:
        (folder / "file").write_bytes(b"")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
