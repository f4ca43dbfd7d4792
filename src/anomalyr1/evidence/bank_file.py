"""The file of a bank: safetensors, with a JSON record and the SHA-256 of the whole file in its header.

Covered: a file that is no bank, is cut off, damaged in any byte, claims more than it holds, or whose numbers
are not what a bank's are. Not covered: whoever can write a bank can write a wrong one; its digest, which
every run's fingerprint holds, tells two banks apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from anomalyr1.evidence.head import DISTANCES, Head
from anomalyr1.evidence.learning import Part, Settings
from anomalyr1.evidence.measure import Yardstick
from anomalyr1.files import parse_json, parse_record, read_regular, write_whole
from anomalyr1.types import InputError, Record, quoted

if TYPE_CHECKING:
    import torch

VERSION = 1
LIMIT = 2**29
"""The most bytes of a bank."""
_LONGEST_HEADER = 2**24
_KEY = "anomalyr1.bank"
_BLANK = "0" * 64
"""What stands in place of the digest while it is computed."""
TENSORS = {"patches": ("float16", 2), "part_of_patch": ("int32", 1), "pooled": ("float16", 2)}
"""The tensors of a bank: type and number of dimensions."""
_TYPES = {"float16": "F16", "int32": "I32"}
"""The types as safetensors names them."""


class BankRecord(Record):
    """What the header of a bank says."""

    version: Annotated[int, Field(ge=1)] = VERSION
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = _BLANK
    """Of the file, with zeros in place of these digits."""
    backbone_digest: str
    settings: Settings
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    yardstick: Yardstick
    head: Head | None = None


def encode(record: BankRecord, tensors: Mapping[str, torch.Tensor]) -> tuple[bytes, str]:
    """The bytes of a bank's file and their digest, 64 hexadecimal digits; `record` holds none yet.

    The same record and tensors make the same bytes.
    """
    content = [tensors[name].contiguous().numpy().tobytes() for name in TENSORS]
    header: dict[str, Any] = {}
    header["__metadata__"] = {_KEY: record.to_json()}
    begin = 0
    for (name, (dtype, _)), data in zip(TENSORS.items(), content, strict=True):
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _TYPES[dtype], "shape": shape, "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)  # so that the tensors lie where a processor reads them best
    blank = b"".join([len(text).to_bytes(8, "little"), text, *content])
    digest = hashlib.sha256(blank).hexdigest()
    return _replace(blank, len(text), _BLANK, digest), digest


def write(path: Path, data: bytes) -> None:
    """Write a bank's bytes, whole or not at all. Raises `InputError` for more than are read back."""
    if len(data) > LIMIT:
        raise InputError(
            f"the bank takes {len(data):,} bytes, more than {LIMIT:,}; learn it with fewer patches"
        )
    write_whole(path, data)


def read(path: Path) -> tuple[BankRecord, dict[str, torch.Tensor]]:
    """The record and the tensors of a bank's file, checked. Raises `InputError` for anything else."""
    import safetensors.torch

    data = read_regular(path, LIMIT)
    where = repr(str(path))
    # 1. The header: what it says of itself, and that no byte of the file is another than when it was written.
    length = int.from_bytes(data[:8], "little")
    if length > min(_LONGEST_HEADER, len(data) - 8):
        raise InputError(
            f"{where} is no bank: its header claims {length:,} bytes, and the file has {len(data):,}; "
            "name a file that `anomalyr1 learn` wrote, or copy it again"
        )
    record = _record_of(data[8 : 8 + length], where)
    blank = _replace(data, length, record.sha256, _BLANK)
    if record.sha256 != hashlib.sha256(blank).hexdigest():
        raise _refusal(where, "its content is not what was written (its digest differs)")
    # 2. The tensors, in bounds and as the record needs them.
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _refusal(where, f"its tensors cannot be read ({error})") from error
    if fault := _fault(record, tensors):
        raise _refusal(where, fault)
    return record, tensors


def _record_of(header: bytes, where: str) -> BankRecord:
    document = parse_json(header, f"the header of {where}")
    metadata = document.get("__metadata__") if isinstance(document, dict) else None
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise InputError(
            f"{where} is no bank: safetensors of another kind; name a file that `anomalyr1 learn` wrote"
        )
    content = parse_json(text, f"the record of {where}")
    version = content.get("version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"{where} is of version {version} and this package reads up to {VERSION}; "
            "update it: pip install --upgrade anomalyr1"
        )
    return parse_record(BankRecord, text, f"the record of {where}")


def _replace(data: bytes, length: int, old: str, new: str) -> bytes:
    """A file's bytes with another digest in the header of this length."""
    key, end = b'\\"sha256\\": \\"', 8 + length
    header = data[:end].replace(key + old.encode("ascii"), key + new.encode("ascii"), 1)
    return header + data[end:]


def _fault(record: BankRecord, tensors: Mapping[str, torch.Tensor]) -> str:
    """What is wrong with the tensors, in words; empty where nothing is."""
    import torch

    forms = {
        name: (str(tensor.dtype).removeprefix("torch."), tensor.ndim) for name, tensor in tensors.items()
    }
    if forms != TENSORS:
        return f"its tensors are {quoted(forms)}, expected {TENSORS}"
    patches, owners, pooled = (tensors[name] for name in TENSORS)
    learned = sum(not part.held_out for part in record.parts)
    if len(patches) != len(owners) or len(pooled) != len(record.parts) or not len(patches) or not learned:
        return (
            f"its shapes do not fit: {len(patches):,} patches, {len(owners):,} parts of patches, "
            f"{len(pooled):,} pooled features, {len(record.parts):,} parts, {learned:,} of them learned"
        )
    if any(part.held_out for part in record.parts[:learned]):
        return "its learned parts do not stand first"
    if not 0 <= int(owners.min()) <= int(owners.max()) < learned:
        return "a patch is of no learned part"
    if (head := record.head) is not None:
        expected = DISTANCES + pooled.shape[1] + patches.shape[1]
        lengths = {len(head.mean), len(head.scale), len(head.weights)}
        if lengths != {expected} or min(head.scale) <= 0:
            return f"its head has {sorted(lengths)} numbers, expected {expected}, of a scale above 0"
    for name, vectors in (("patches", patches), ("pooled", pooled)):
        norms = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float32)
        if not bool(((norms - 1).abs() < 0.01).all()):  # false for what is not a number, too
            return f"its {name} are no vectors of length 1"
    return ""


def _refusal(where: str, why: str) -> InputError:
    return InputError(
        f"{where} is a damaged bank: {why}; copy it again, or learn it again with `anomalyr1 learn`"
    )
