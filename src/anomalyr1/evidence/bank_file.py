"""The file of a bank: safetensors whose metadata hold a record and the SHA-256 of record and tensors.

Whoever hands a bank over may have put anything into it. Nothing in it is run: its tensors must be the ones
that the record says, in type, shape and value, and nothing else, before anything is computed with them.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from anomalyr1.evidence.learning import Part, Settings
from anomalyr1.evidence.measure import Yardstick
from anomalyr1.files import parse_json, parse_record, read_regular, write_whole
from anomalyr1.types import InputError, Record

if TYPE_CHECKING:
    import torch

VERSION = 1
ENTRY = "anomalyr1_bank"
"""The entry of the metadata that holds the SHA-256, a space, and the record as JSON."""
LIMIT = 2**29
"""The greatest length of a bank's file, in bytes; 16,000 patches take 5 MB."""
_HEADER_LIMIT = 2**24
_NAMES = {"F16": "float16", "I32": "int32"}
_BYTES = {"F16": 2, "I32": 4}


class BankRecord(Record):
    """What the file of a bank says beside its tensors."""

    version: PositiveInt
    settings: Settings
    parts: tuple[Part, ...] = Field(min_length=1)
    yardstick: Yardstick
    backbone_digest: str
    shapes: dict[str, tuple[NonNegativeInt, ...]]
    """Of the tensors, by name."""


def write(path: Path, record: BankRecord, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a bank, whole or not at all. Raises `SetupError` when the disk refuses."""
    from safetensors.torch import save

    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    text = record.to_json()
    body = _split(save(content), str(path))[1]
    # One entry: of several the order would differ from time to time.
    write_whole(path, save(content, {ENTRY: f"{_digest(text, body)} {text}"}))


def read(path: Path, dtypes: Mapping[str, str]) -> tuple[BankRecord, dict[str, torch.Tensor]]:
    """The record and the tensors of a bank's file; `dtypes` are those it must have, by name.

    Raises `InputError` for a file that is no bank, of a newer version, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    where = repr(str(path))
    data = read_regular(path, LIMIT)
    header, body = _split(data, str(path))
    # 1. The record, and whether record and tensors are the ones that were written.
    metadata = header.pop("__metadata__", None)
    entry = metadata.get(ENTRY) if isinstance(metadata, dict) else None
    if not isinstance(entry, str):
        raise _no_bank(path, "it holds no record of one")
    digest, _, text = entry.partition(" ")
    version = parse_json(text, where)
    version = version.get("version") if isinstance(version, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"{where} is a bank of version {version}, this AnomalyR1 reads up to {VERSION}; "
            "update AnomalyR1, or learn it again: anomalyr1 learn"
        )
    if digest != _digest(text, body):
        raise InputError(f"{where} is damaged: its SHA-256 is another one; copy or learn it again")
    record = parse_record(BankRecord, text, where)
    # 2. The tensors: those of the record, and no others.
    if set(header) != set(dtypes) or set(record.shapes) != set(dtypes):
        raise _no_bank(path, f"it holds {sorted(header)}, expected {sorted(dtypes)}")
    for name, stored in header.items():
        _require_tensor(path, name, stored, dtypes[name], record.shapes[name])
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise _no_bank(path, str(error)) from error
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise _no_bank(path, f"{name} holds numbers that are not finite")
    return record, tensors


def _require_tensor(path: Path, name: str, entry: object, dtype: str, shape: tuple[int, ...]) -> None:
    """Raise `InputError` where a header's entry is another tensor than the record says."""
    stored = entry if isinstance(entry, dict) else {}
    kind, sizes, span = stored.get("dtype"), stored.get("shape"), stored.get("data_offsets")
    if _NAMES.get(str(kind)) != dtype or sizes != list(shape):
        raise _no_bank(path, f"{name} is {kind} {sizes}, expected {dtype} {list(shape)}")
    length = math.prod(shape) * _BYTES[str(kind)]
    if not isinstance(span, list) or len(span) != 2 or span[1] - span[0] != length:
        raise _no_bank(path, f"{name} has another length than its shape {list(shape)}")


def _split(data: bytes, path: str) -> tuple[dict[str, Any], bytes]:
    """The header of safetensors, and the bytes of its tensors."""
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else _HEADER_LIMIT + 1
    if length > min(_HEADER_LIMIT, len(data) - 8):
        raise _no_bank(Path(path), "it does not begin as one")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise _no_bank(Path(path), f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise _no_bank(Path(path), "its header is no JSON object")
    return header, data[8 + length :]


def _digest(text: str, body: bytes) -> str:
    sha = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    sha.update(body)
    return sha.hexdigest()


def _no_bank(path: Path, reason: str) -> InputError:
    return InputError(
        f"{str(path)!r} is no bank of good parts: {reason}; make one with: "
        "anomalyr1 learn GOOD --out parts.bank"
    )
