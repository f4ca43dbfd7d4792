"""The weights of a model folder: safetensors whose headers fit the files, and no more of them than needed.

`check_weights` reads headers alone; `count_stored` says how many parameters lie in the files that are loaded.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

from anomalyr1.files import open_regular
from anomalyr1.policy.documents import parse_json, read_json, refusal

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_MAX_HEADER_BYTES = 16 * 1_000_000
_MAX_ALL_HEADER_BYTES = 64 * 1_000_000
_MAX_TENSORS = 20_000
"""In one file. Qwen2.5-VL-72B has some 1,500 in all, a model with experts apart 37,000 in a hundred files."""

_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip


def check_weights(folder: Path) -> int:
    """Refuse weights that do not fit their headers, and shards that lie elsewhere.

    Returns the number of parameters in the files that are loaded. Raises `InputError`, also where there are
    no weights.
    """
    index = folder / INDEX
    if not (folder / WEIGHTS).is_file() and not index.is_file():
        raise refusal(
            folder,
            f"no weights found; expected {WEIGHTS}, or {INDEX} with its shards. "
            "If this is the folder of a training run, name the folder of its final model",
        )
    if index.is_file():
        _check_index(index)
    loaded = {file.name for file in weight_files(folder)}
    stored = header_bytes = 0
    for file in sorted(folder.rglob("*.safetensors")):
        length, parameters = _check_header(file)
        header_bytes += length
        stored += parameters if file.parent == folder and file.name in loaded else 0
        if header_bytes > _MAX_ALL_HEADER_BYTES:
            raise refusal(
                folder,
                f"the headers of its safetensors are longer than {_MAX_ALL_HEADER_BYTES:,} bytes, which no "
                "real model's are; name a folder that holds one model and nothing else",
            )
    return stored


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a checked folder, as transformers chooses them."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    return [folder / shard for shard in shards]


def _check_index(file: Path) -> None:
    index = read_json(file)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise refusal(file, "expected a weight_map from tensors to shard files; download the file again")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard, re.ASCII):
            raise refusal(
                file,
                f"{tensor!r} is in {shard!r}, expected the plain name of a .safetensors file; "
                "use the original file",
            )
        if not (file.parent / shard).is_file():
            raise refusal(file, f"the shard {shard!r} is missing; the download is not complete, run it again")


def _check_header(file: Path) -> tuple[int, int]:
    """Check a safetensors header against the file: eight bytes of length, JSON, then the tensors' bytes.

    Gives the header's length and how many parameters the file holds.
    """
    size = file.stat().st_size
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
            raise refusal(
                file,
                f"its header claims {length:,} bytes, in a file of {size:,} bytes; expected a safetensors "
                f"file with a header below {_MAX_HEADER_BYTES:,} bytes. Download the file again",
            )
        header_bytes = stream.read(length)
    try:
        header = parse_json(file, header_bytes.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise refusal(file, f"its header is not UTF-8 ({error}); download the file again") from error
    if not isinstance(header, dict):
        raise refusal(file, "its header is not a JSON object; download the file again")
    header.pop("__metadata__", None)
    if len(header) > _MAX_TENSORS:
        raise refusal(
            file,
            f"{len(header):,} tensors, and no real model's file has more than {_MAX_TENSORS:,}; "
            "use the file of the model's source",
        )
    spans = sorted(_span(file, name, entry, size - 8 - length) for name, entry in header.items())
    for (_, end, name, _), (next_begin, _, next_name, _) in itertools.pairwise(spans):
        if next_begin != end:
            raise refusal(
                file,
                f"the tensors {name!r} and {next_name!r} {'overlap' if next_begin < end else 'have a gap'}; "
                "the file is damaged or hostile, download it again",
            )
    covered = spans[-1][1] if spans else 0
    if covered != size - 8 - length or (spans and spans[0][0] != 0):
        raise refusal(
            file,
            f"its tensors take {covered:,} of {size - 8 - length:,} bytes; the file is damaged or hostile, "
            "download it again",
        )
    return length, sum(parameters for _, _, _, parameters in spans)


def _span(file: Path, name: str, entry: object, data_bytes: int) -> tuple[int, int, str, int]:
    """Where a tensor's bytes begin and end, its name and parameters; shape and bytes must fit."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            bits = _DTYPE_BITS.get(dtype, 0)
            is_shape = len(shape) <= 16 and all(type(side) is int and 0 <= side < 2**48 for side in shape)
            fits = bits and is_shape and 0 <= begin <= end <= data_bytes
            if fits and (end - begin) * 8 == math.prod(shape) * bits:
                return begin, end, name, math.prod(shape)
    raise refusal(
        file,
        f"the tensor {name!r} does not fit the file: {str(entry)[:200]}, with {data_bytes:,} bytes of data; "
        "download it again",
    )
