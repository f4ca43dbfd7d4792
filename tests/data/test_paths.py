"""The door for paths: what it says of each kind of path."""

from __future__ import annotations

import pytest

from anomalyr1.data import paths
from anomalyr1.data.paths import PathDoor
from anomalyr1.types import InputError


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc/passwd", "is absolute"),
        ("\\windows", "is absolute"),
        ("C:x.png", "drive letter"),
        ("\\\\host\\share", "network share"),
        ("//host/share", "network share"),
        ("http://host/a.png", "is a URL"),
        ("data:image/png;base64,A", "is a URL"),
        ("a/../b.png", "parent folder"),
        ("a\\..\\b.png", "parent folder"),
        ("a\0b.png", "NUL"),
        ("./.", "names no file"),
        ("a/\ud800.png", "half a surrogate pair"),
        ("a/" + "x" * 256, "longer than 255 bytes"),
        ("a/" + "ü" * 128, "longer than 255 bytes"),
        ("d/" * 2100 + "x", "4095 bytes in all"),
        (7, "is no text"),
        (None, "is no text"),
    ],
)
def test_refused(tmp_path, path, said):
    door = PathDoor(tmp_path, tmp_path / "m.json")
    assert not door.check(path)
    with pytest.raises(InputError, match=said) as caught:
        door.close()
    assert "m.json" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "a.png", "a/b.png", "./a.png", "a..b/..c.png",
        "-rf.png", "ab:c.png", "~/x", "new\nline.png", "é", "a\\b.png", "\udcff",
        "x" * 255, "ü" * 127,
    ],
)  # fmt: skip
def test_fine(tmp_path, path):
    door = PathDoor(tmp_path, tmp_path / "m.json")
    assert door.check(path)
    door.close()


def test_links(tmp_path):
    root = tmp_path / "set"
    (root / "real").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (root / "real/a.png").touch()
    (tmp_path / "out/a.png").touch()
    (root / "inside").symlink_to(root / "real")
    (root / "outside").symlink_to(tmp_path / "out")
    (root / "real/out.png").symlink_to(tmp_path / "out/a.png")
    (root / "real/loop.png").symlink_to(root / "real/loop.png")
    for path, fine in (
        ("inside/a.png", True), ("real/a.png", True), ("outside/a.png", False),
        ("real/out.png", False), ("inside/out.png", False),
        ("gone/x.png", True), ("outside/gone.png", False), ("real/loop.png", True),
    ):  # fmt: skip
        for links in (False, True):
            door = PathDoor(root, root, links=links)
            door.check(path)
            if fine or links:
                door.close()
            else:
                with pytest.raises(InputError, match="symbolic link"):
                    door.close()
    door = PathDoor(root, root)
    assert door.images("real") == ["real/a.png", "real/loop.png", "real/out.png"]
    assert door.images("outside") == []
    with pytest.raises(InputError, match="2 paths"):
        door.close()


@pytest.mark.parametrize("guarded", [True, False])
def test_a_link_in_a_folder_that_cannot_be_listed_is_a_link(tmp_path, monkeypatch, guarded):
    """As of a folder of mode 0711 of somebody else; the control asks only the listing."""
    (tmp_path / "secret.png").write_bytes(b"")
    (tmp_path / "set" / "d").mkdir(parents=True)
    (tmp_path / "set" / "d" / "link.png").symlink_to(tmp_path / "secret.png")

    def not_allowed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", not_allowed)
    if not guarded:
        monkeypatch.setattr(paths.os.path, "islink", lambda path: False)
    door = PathDoor(tmp_path / "set", tmp_path / "m.json")
    assert door.check("d/link.png")
    if guarded:
        with pytest.raises(InputError, match="symbolic link"):
            door.close()
    else:
        door.close()


def test_a_hostile_path_is_told_in_part(tmp_path):
    door = PathDoor(tmp_path, tmp_path / "m.json")
    for path in ("/" + "x" * 100_000, ["y" * 100_000] * 9):
        assert not door.check(path)
    with pytest.raises(InputError) as caught:
        door.close()
    assert len(str(caught.value)) < 1500
