"""Checkpoints: only complete and unchanged ones count, and there is always one."""

from __future__ import annotations

import functools
import shutil

import pytest

from anomalyr1.training import checkpoints
from anomalyr1.training.checkpoints import MANIFEST, MARKER, clear, fault, newest, seal, trim
from anomalyr1.types import InputError


def checkpoint(run, step, sealed=True):
    folder = run / f"checkpoint-{step}"
    (folder / "part").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * step)
    (folder / "part" / "optimizer.pt").write_bytes(bytes(range(step)))
    if sealed:
        seal(folder)
    return folder


def test_the_newest_complete_one(tmp_path):
    assert newest(tmp_path / "none") == (None, [])
    checkpoint(tmp_path, 9)
    tenth = checkpoint(tmp_path, 10)
    (tmp_path / "checkpoint-last").mkdir()  # not ours
    assert newest(tmp_path) == (tenth, [])


def flip(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, "model.safetensors has changed"),
        (lambda folder: (folder / "part" / "optimizer.pt").unlink(), "part/optimizer.pt is missing"),
        (lambda folder: (folder / "extra").write_text("x"), "extra was added"),
        (lambda folder: (folder / MARKER).unlink(), "it was not finished (no marker)"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "manifest.json is not the one that was sealed"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is not the one that was sealed"),
    ],
)
def test_a_damaged_one_is_passed_over(tmp_path, damage, reason):
    before, last = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    assert newest(tmp_path) == (last, [])
    damage(last)
    assert newest(tmp_path) == (before, [f"checkpoint-10 is passed over: {reason}"])


class Killed(BaseException):
    pass


def test_a_save_killed_anywhere_does_not_count(tmp_path, monkeypatch):
    before = checkpoint(tmp_path, 5)
    steps = {name: getattr(checkpoints, name) for name in ("write_whole", "_sync_file", "sync_folder")}
    finished = 0
    for stop in range(40):
        folder = checkpoint(tmp_path, 10, sealed=False)
        calls = iter(range(stop))

        def or_die(function, *arguments, calls=calls):
            if next(calls, None) is None:
                raise Killed
            function(*arguments)

        for name, function in steps.items():
            monkeypatch.setattr(checkpoints, name, functools.partial(or_die, function))
        try:
            seal(folder)
        except Killed:
            pass
        else:
            finished += 1
        found, _ = newest(tmp_path)
        assert found == (folder if fault(folder) is None else before)
        assert (folder / MARKER).is_file() or found == before
        shutil.rmtree(folder)
    assert 0 < finished < 40


def test_clear_takes_only_what_is_not_complete(tmp_path):
    clear(tmp_path / "checkpoint-1")
    half = checkpoint(tmp_path, 2, sealed=False)
    clear(half)
    assert not half.exists()
    with pytest.raises(InputError, match="would be overwritten"):
        clear(checkpoint(tmp_path, 3))


def test_trim_keeps_the_newest_complete_ones(tmp_path):
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 4, sealed=False)
    assert trim(tmp_path, 2) == ["checkpoint-1"]
    assert trim(tmp_path, 1) == ["checkpoint-2"]
    assert newest(tmp_path)[0] == tmp_path / "checkpoint-3"
    with pytest.raises(InputError, match="at least 1"):
        trim(tmp_path, 0)
