"""Checkpoints that are complete or do not count: a manifest of digests, and a marker that is written last.

A run that is killed while it saves leaves a folder without marker; one whose files changed afterwards no
longer fits its manifest. Both are passed over, by name and with the reason, and the checkpoint before them is
taken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from anomalyr1.files import sha256_of_file, sync_folder, write_whole
from anomalyr1.types import InputError

MANIFEST = "manifest.json"
MARKER = "COMPLETE"

_NAME = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path) -> None:
    """Declare the checkpoint in `folder` complete: sync its files, write the manifest, then the marker."""
    digests = {}
    for path in _files(folder):
        digests[path.relative_to(folder).as_posix()] = sha256_of_file(path)
        _sync_file(path)
    write_whole(folder / MANIFEST, json.dumps(digests, indent=1, sort_keys=True).encode())
    write_whole(folder / MARKER, sha256_of_file(folder / MANIFEST).encode())
    sync_folder(folder.parent)


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None = it is complete and as it was when it was sealed."""
    manifest, marker = folder / MANIFEST, folder / MARKER
    if not marker.is_file():
        return "it was not finished (no marker)"
    sealed_digest = marker.read_text(encoding="utf-8", errors="replace")
    if not manifest.is_file() or sha256_of_file(manifest) != sealed_digest:
        return f"{MANIFEST} is not the one that was sealed"
    digests: dict[str, str] = json.loads(manifest.read_text(encoding="utf-8"))
    paths = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    if absent := sorted(digests.keys() - paths.keys()):
        return f"{absent[0]} is missing"
    if foreign := sorted(paths.keys() - digests.keys()):
        return f"{foreign[0]} was added"
    for name, digest in sorted(digests.items()):
        if sha256_of_file(paths[name]) != digest:
            return f"{name} has changed"
    return None


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest complete checkpoint of a run folder, and a line for each newer one that is passed over."""
    notes: list[str] = []
    for folder in reversed(_checkpoints(run)):
        reason = fault(folder)
        if reason is None:
            return folder, notes
        notes.append(f"{folder.name} is passed over: {reason}")
    return None, notes


def sealed(run: Path) -> list[Path]:
    """The checkpoints of a run that were finished, oldest first; whether they changed, `newest` sees."""
    return [folder for folder in _checkpoints(run) if (folder / MARKER).is_file()]


def step_of(folder: Path) -> int:
    """The optimizer step that a checkpoint's folder is named after."""
    return int(folder.name.rpartition("-")[2])


def clear(folder: Path) -> None:
    """Take away what an unfinished or damaged save left at the place of the next one.

    Raises `InputError` where a complete checkpoint lies there.
    """
    if not folder.exists():
        return
    if fault(folder) is None:
        raise InputError(
            f"{str(folder)!r} is a complete checkpoint and would be overwritten; resume the run, or choose "
            "another folder"
        )
    shutil.rmtree(folder)


def trim(run: Path, limit: int) -> list[str]:
    """Delete all but the newest `limit` complete checkpoints, and what is older; gives the names of it.

    Call it after `seal`, so that there is always a complete one. Raises `InputError` for a limit below 1.
    """
    if limit < 1:
        raise InputError(f"{limit} checkpoints to keep, expected at least 1")
    complete = sealed(run)
    if len(complete) <= limit:
        return []
    oldest_step = step_of(complete[-limit])
    outdated = [folder for folder in _checkpoints(run) if step_of(folder) < oldest_step]
    for folder in outdated:
        # The marker goes before the files, so that a kill leaves no half of a checkpoint that counts.
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)
    return [folder.name for folder in outdated]


def _checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    if not run.is_dir():
        return []
    folders = [path for path in run.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(folders, key=step_of)


def _files(folder: Path) -> list[Path]:
    """All files of a checkpoint but manifest and marker, in order."""
    seals = {folder / MANIFEST, folder / MARKER}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in seals)


def _sync_file(path: Path) -> None:
    """Have on the disk what transformers wrote."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
