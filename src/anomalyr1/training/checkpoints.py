"""Checkpoints that are complete or do not count: a manifest with the digest of every file, and a marker that is written last.

A run that is killed while it saves leaves a folder without marker; one whose files changed afterwards no
longer fits its manifest. Both are passed over, by name and with the reason, and the checkpoint before them is
taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalyr1.types import InputError

MANIFEST = "manifest.json"
MARKER = "COMPLETE"

_NAME = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path) -> None:
    """Declare the checkpoint in `folder` complete: sync its files, write the manifest, and last of all the marker."""
    files = {}
    for path in _files(folder):
        files[path.relative_to(folder).as_posix()] = _digest(path)
        _sync(path)
    _write(folder / MANIFEST, json.dumps(files, indent=1, sort_keys=True))
    _sync(folder)
    _write(folder / MARKER, _digest(folder / MANIFEST))
    _sync(folder)
    _sync(folder.parent)


def save_sealed(trainer: Any, run: Path, save: Callable[[], None]) -> None:
    """Let a trainer of transformers `save` its checkpoint, seal it, and only then delete what its `save_total_limit` leaves over."""
    folder = run / f"checkpoint-{trainer.state.global_step}"
    if trainer.is_world_process_zero():
        clear(folder)
    trainer.accelerator.wait_for_everyone()
    keep, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    try:
        save()
    finally:
        trainer.args.save_total_limit = keep
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        seal(folder)
        if keep:
            trim(run, keep)


def load_weights(trainer: Any, folder: str, load: Callable[[], None]) -> None:
    """Put the weights of a checkpoint into a trainer's model; adapters and sharded weights are left to transformers' own `load`.

    transformers saves a Qwen-VL under other names than its modules have, and its trainer loads by name,
    leaving out silently what it does not find: a resumed run would begin with the old weights and the new
    optimizer. `from_pretrained` knows the names.
    """
    from accelerate.utils import is_peft_model

    if is_peft_model(trainer.model) or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        load()
        return
    saved = type(trainer.model).from_pretrained(
        folder, dtype=trainer.model.dtype, local_files_only=True, use_safetensors=True
    )
    trainer.model.load_state_dict(saved.state_dict())


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None = it is complete and as it was when it was sealed."""
    if not (folder / MARKER).is_file():
        return "it was not finished (no marker)"
    if not (folder / MANIFEST).is_file() or _digest(folder / MANIFEST) != (folder / MARKER).read_text(
        encoding="utf-8", errors="replace"
    ):
        return f"{MANIFEST} is not the one that was sealed"
    expected: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    if absent := sorted(expected.keys() - found.keys()):
        return f"{absent[0]} is missing"
    if foreign := sorted(found.keys() - expected.keys()):
        return f"{foreign[0]} was added"
    changed = next(
        (name for name, digest in sorted(expected.items()) if _digest(found[name]) != digest), None
    )
    return f"{changed} has changed" if changed else None


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest complete checkpoint of a run folder, and a line for each newer one that is passed over."""
    notes: list[str] = []
    for folder in reversed(_checkpoints(run)):
        wrong = fault(folder)
        if wrong is None:
            return folder, notes
        notes.append(f"{folder.name} is passed over: {wrong}")
    return None, notes


def clear(folder: Path) -> None:
    """Take away what an unfinished or damaged save left at the place of the next one; a complete checkpoint is an error."""
    if not folder.exists():
        return
    if fault(folder) is None:
        raise InputError(
            f"{str(folder)!r} is a complete checkpoint and would be overwritten; resume the run, or choose another folder"
        )
    shutil.rmtree(folder)


def trim(run: Path, keep: int) -> list[str]:
    """Delete all but the newest `keep` complete checkpoints, and what is older than those; returns the names of what went.

    Call it after `seal`, so that there is always a complete one.
    """
    if keep < 1:
        raise InputError(f"{keep} checkpoints to keep, expected at least 1")
    complete = [folder for folder in _checkpoints(run) if (folder / MARKER).is_file()]
    if len(complete) <= keep:
        return []
    oldest_kept = _step(complete[-keep])
    gone = [folder for folder in _checkpoints(run) if _step(folder) < oldest_kept]
    for folder in gone:
        (folder / MARKER).unlink(
            missing_ok=True
        )  # first, so that a kill leaves no half of a checkpoint that counts
        shutil.rmtree(folder)
    return [folder.name for folder in gone]


def _checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    found = (
        [path for path in run.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
        if run.is_dir()
        else []
    )
    return sorted(found, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() not in (MANIFEST, MARKER)
    )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    """Write under a temporary name, sync and rename."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    _sync(unfinished)
    unfinished.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
