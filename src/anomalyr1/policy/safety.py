"""What a model folder must be before transformers may see it: data that cannot run, lead astray or exhaust.

`check_folder` is for the folder of a policy, `refuse_code` for any other model's.

Covered: code and pickles by their suffix; links and shard names that leave the folder; malformed safetensors
headers; keys that make transformers import, download or run something (`auto_map`, kernels, adapters, ...);
classes and model types other than the supported families' own; files, nesting and layer counts beyond any
real model's. Chat templates are never run (see `load.py`); one that reaches for Python's internals is refused
all the same, since its folder is hostile.

Not covered: a folder changed between the check and the load, and what the weights themselves say. A model's
text stays untrusted.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomalyr1.images.frames import FAMILIES
from anomalyr1.types import InputError

ARCHITECTURES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
}
"""The model classes that may be loaded, by the model type of the configuration."""

CODE = frozenset((
    ".py", ".pyc", ".pyo", ".pyd", ".pyw", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1",
))  # fmt: skip
"""Suffixes of files that are code."""
PICKLES = frozenset((
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".hdf5", ".keras", ".joblib",
    ".dill", ".npy", ".npz",
))  # fmt: skip
"""Suffixes of formats that hold pickles or other code that runs when they are read."""

_RUNS_CODE = "it can run code of the folder, which this package never allows; use a model without it"
_MERGE = "load the model that the adapter was merged into (peft's merge_and_unload, then save_pretrained)"
FORBIDDEN_KEYS = {
    "auto_map": _RUNS_CODE,
    "trust_remote_code": _RUNS_CODE,
    "custom_generate": _RUNS_CODE,
    "custom_pipelines": _RUNS_CODE,
    "kernel_config": _RUNS_CODE,
    "use_kernels": _RUNS_CODE,
    "transformers_weights": "it redirects where the weights are read from; "
    "name the file model.safetensors and remove the key",
    "fast_tokenizer_files": "it redirects where the tokenizer is read from; "
    "name the file tokenizer.json and remove the key",
    "audio_tokenizer": "it loads a second model from elsewhere; remove the key",
    "quantization_config": "quantised weights need loaders that are not supported; "
    "use the model that is not quantised",
    "peft_type": _MERGE,
    "base_model_name_or_path": _MERGE,
}
"""Keys that may stand nowhere in a folder's configuration, each with the reason and what to do."""

_IMAGE_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil")
_TOKENIZERS = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_KERNELS = (
    "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm", "batched_mm",
)  # fmt: skip
_KERNEL_KEYS = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
)  # fmt: skip
ALLOWED_VALUES: dict[str, tuple[str, ...]] = {
    "processor_class": ("Qwen2_5_VLProcessor", "Qwen3VLProcessor"),
    "image_processor_type": _IMAGE_PROCESSORS,
    "feature_extractor_type": _IMAGE_PROCESSORS,
    "video_processor_type": ("Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor"),
    "tokenizer_class": _TOKENIZERS,
    "slow_tokenizer_class": _TOKENIZERS,
    **dict.fromkeys(_KERNEL_KEYS, _KERNELS),
}
"""Keys that choose a class or a kernel, and the values they may have; anything else could be imported from
elsewhere."""

_LARGEST: dict[str, int] = {
    "num_hidden_layers": 512,
    "depth": 512,
    "num_experts": 4096,
    "hidden_size": 65_536,
    "out_hidden_size": 65_536,
    "intermediate_size": 1_048_576,
    "vocab_size": 4_194_304,
    "num_position_embeddings": 4_194_304,
}
"""The sizes in a configuration beyond which it is no real model but a way to exhaust the machine."""

_MIB = 2**20
_MAX_ENTRIES = 10_000
_MAX_DEPTH = 50
_MAX_HEADER_BYTES = 100 * 1_000_000
_MAX_BYTES = dict.fromkeys(
    ("tokenizer.json", "vocab.json", "merges.txt", "model.safetensors.index.json"), 64 * _MIB
)
_MAX_JSON_BYTES = 8 * _MIB
_MAX_TEMPLATE_BYTES = _MIB
_TOKEN_TABLES = frozenset({"vocab.json", "added_tokens.json"})
"""JSON files whose keys are tokens, not settings."""

_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip


def check_folder(folder: Path) -> str:
    """Refuse a model folder that could run code, read outside itself or exhaust the machine.

    Returns the name of its family. Raises `InputError` that names the file, the reason and what to do.
    """
    family = check_configuration(folder)
    index = folder / "model.safetensors.index.json"
    if not (folder / "model.safetensors").is_file() and not index.is_file():
        raise _refusal(
            folder,
            "no weights found; expected model.safetensors, or model.safetensors.index.json with its shards. "
            "If this is the folder of a training run, name the folder of its final model",
        )
    if index.is_file():
        _check_index(index)
    for file in sorted(folder.rglob("*.safetensors")):
        _check_header(file)
    return family


def check_configuration(folder: Path) -> str:
    """As `check_folder`, without the weights: a folder can be refused before they are downloaded."""
    if not folder.is_dir():
        raise _refusal(
            folder, "no such folder; name a folder with a model in it, or a model of the hub as owner/name"
        )
    for entry in _entries(folder):
        _check_entry(entry, folder)
    for file in sorted(folder.rglob("*.json")):
        _check_document(file, _read_json(file))
    for file in sorted(folder.rglob("*.jinja")):
        _check_size(file, _MAX_TEMPLATE_BYTES)
        _check_template(file, _text(file))
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise _refusal(
                folder,
                f"{name} is missing, so this is no whole model folder; copy it from the model's source",
            )
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        raise _refusal(
            folder,
            "no preprocessor_config.json, so this is no image model, or not whole; "
            "copy it from the model's source",
        )
    return _check_config(folder / "config.json")


def refuse_code(folder: Path) -> None:
    """Refuse the folder of any model, of whatever family, if a file or a setting in it can run code.

    Raises `InputError` that names the file, the reason and what to do, also for JSON that cannot be read.
    """
    for entry in sorted(_entries(folder)):
        _refuse_code_file(entry)
        if entry.suffix.lower() == ".json" and entry.is_file():
            for _, key, value in _settings(_read_json(entry)):
                if FORBIDDEN_KEYS.get(key) == _RUNS_CODE:
                    _refuse_setting(entry, key, value)


def _refusal(file: Path, text: str) -> InputError:
    """The error to raise; the name is escaped, since whoever made the folder chose it."""
    return InputError(f"{str(file)!r}: {text}")


def _entries(folder: Path) -> Iterator[Path]:
    for number, entry in enumerate(folder.rglob("*")):
        if number >= _MAX_ENTRIES:
            raise _refusal(
                folder, f"more than {_MAX_ENTRIES} files; name a folder that holds one model and nothing else"
            )
        yield entry


def _check_entry(entry: Path, folder: Path) -> None:
    try:
        target = entry.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise _refusal(entry, f"a broken link ({error}); download the model again") from error
    if entry.is_symlink() and not _stays_inside(target, folder):
        raise _refusal(
            entry, f"a link that leaves the folder, to {target}; put the file itself into the folder"
        )
    if stat.S_ISDIR(mode) and not entry.is_symlink():
        return
    if not stat.S_ISREG(mode):
        raise _refusal(entry, "expected a file, found a device, pipe or link to a folder; remove it")
    _refuse_code_file(entry)
    if entry.name in _MAX_BYTES:
        _check_size(entry, _MAX_BYTES[entry.name])
    if entry.name in ("adapter_config.json", "adapter_model.safetensors"):
        raise _refusal(entry, f"an adapter, which names another model to load; {_MERGE}")


def _refuse_code_file(entry: Path) -> None:
    suffix = entry.suffix.lower()
    if suffix in CODE:
        raise _refusal(entry, f"code in a model folder; {_RUNS_CODE}")
    if suffix in PICKLES:
        raise _refusal(
            entry,
            "this format can run code when it is read; only safetensors are. If it holds the weights, "
            "convert them to safetensors where nothing can be lost: "
            'python -c "import sys, torch, safetensors.torch as s; '
            "s.save_file(torch.load(sys.argv[1], weights_only=True), 'model.safetensors')\" FILE. "
            "A trainer's training_args.bin, optimizer.pt and the like are not needed: delete them",
        )


def _refuse_setting(file: Path, key: str, value: object) -> None:
    if value not in (None, False):
        raise _refusal(file, f"has the key {key!r}; {FORBIDDEN_KEYS[key]}")


def _stays_inside(target: Path, folder: Path) -> bool:
    """Whether a resolved path is in the folder, or in the blob store beside a snapshot of the hub's cache."""
    root = folder.resolve()
    blobs = root.parent.parent / "blobs"
    in_cache = root.parent.name == "snapshots" and not blobs.is_symlink()
    return target.is_relative_to(root) or (in_cache and target.parent == blobs)


def _check_size(file: Path, limit: int) -> None:
    size = file.stat().st_size
    if size > limit:
        raise _refusal(
            file,
            f"{size:,} bytes, and no real model's is larger than {limit:,}; "
            "use the file of the model's source",
        )


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(
            file, f"expected text in UTF-8 ({error}); copy the file again from the model's source"
        ) from error


def _read_json(file: Path) -> object:
    _check_size(file, _MAX_BYTES.get(file.name, _MAX_JSON_BYTES))
    return _parse_json(file, _text(file))


def _parse_json(file: Path, text: str) -> object:
    try:
        document = json.loads(text, object_pairs_hook=_unique)
        depth = max((depth for depth, _, _ in _settings(document)), default=0)
    except RecursionError:
        document, depth = None, _MAX_DEPTH + 1
    except ValueError as error:
        raise _refusal(
            file, f"expected JSON ({error}); copy the file again from the model's source"
        ) from error
    if depth > _MAX_DEPTH:
        raise _refusal(
            file,
            f"nested deeper than {_MAX_DEPTH} levels, which no real model's is; "
            "use the file of the model's source",
        )
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; equal keys are refused, since readers differ in which one they take."""
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key!r} stands twice in one object")
        document[key] = value
    return document


def _settings(document: object) -> Iterator[tuple[int, str, Any]]:
    """The depth, key and value of every setting in a JSON document; those in lists have the key ''."""
    parents: list[tuple[int, Any]] = [(1, document)] if isinstance(document, dict | list) else []
    while parents:
        depth, parent = parents.pop()
        children = parent.items() if isinstance(parent, dict) else [("", value) for value in parent]
        for key, value in children:
            yield depth, key, value
            if isinstance(value, dict | list):
                parents.append((depth + 1, value))


def _check_document(file: Path, document: object) -> None:
    if not isinstance(document, dict):
        raise _refusal(
            file,
            f"expected a JSON object, found {type(document).__name__}; "
            "copy the file again from the model's source",
        )
    if file.name in _TOKEN_TABLES:
        return
    if file.name == "tokenizer.json":  # the keys of its model are tokens, too
        document = {key: value for key, value in document.items() if key != "model"}
    for _, key, value in _settings(document):
        if key in FORBIDDEN_KEYS:
            _refuse_setting(file, key, value)
        if key in ALLOWED_VALUES and value is not None and value not in ALLOWED_VALUES[key]:
            raise _refusal(
                file,
                f"{key} is {value!r}, expected one of {', '.join(ALLOWED_VALUES[key])}; "
                "use a model of the Qwen2.5-VL or Qwen3-VL family",
            )
        if key in ("chat_template", "template"):
            _check_template(file, json.dumps(value))


def _check_template(file: Path, text: str) -> None:
    if len(text) > _MAX_TEMPLATE_BYTES:
        raise _refusal(
            file,
            f"a chat template of {len(text):,} characters, which no real model's is; "
            "remove it, it is not used",
        )
    if internal := re.search(r"__[a-z]{1,40}__", text):
        raise _refusal(
            file,
            f"its chat template reaches for Python's internals ({internal[0]}), as attacks do; "
            "do not trust this model. The template itself would not be used",
        )


def _check_config(file: Path) -> str:
    """The family of a configuration whose every part is of one supported model type."""
    config = _read_json(file)
    model_type = config.get("model_type") if isinstance(config, dict) else None
    supported = f"supported are {', '.join(ARCHITECTURES)}: Qwen2.5-VL and Qwen3-VL"
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise _refusal(file, f"model_type is {model_type!r}; {supported}. Name such a model")
    parts = {model_type, f"{model_type}_text", f"{model_type}_vision"}
    for _, key, value in _settings(config):
        if key == "model_type" and value not in parts:
            raise _refusal(
                file,
                f"a part has model_type {value!r}, expected one of {', '.join(sorted(parts))}; "
                "use the original file",
            )
        if key == "architectures" and value not in (None, [], [ARCHITECTURES[model_type]]):
            raise _refusal(
                file,
                f"architectures is {value!r}, expected [{ARCHITECTURES[model_type]!r}]; {supported}. "
                "Name such a model",
            )
        if key in _LARGEST and not (isinstance(value, int) and 0 <= value <= _LARGEST[key]):
            raise _refusal(
                file, f"{key} is {value!r}, expected a number up to {_LARGEST[key]:,}; use the original file"
            )
    family = model_type.removesuffix("_moe")
    if family not in FAMILIES:
        raise _refusal(
            file,
            f"the family {family!r} is not supported; supported are {', '.join(FAMILIES)}. Name such a model",
        )
    return family


def _check_index(file: Path) -> None:
    index = _read_json(file)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise _refusal(file, "expected a weight_map from tensors to shard files; download the file again")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard, re.ASCII):
            raise _refusal(
                file,
                f"{tensor!r} is in {shard!r}, expected the plain name of a .safetensors file; "
                "use the original file",
            )
        if not (file.parent / shard).is_file():
            raise _refusal(
                file, f"the shard {shard!r} is missing; the download is not complete, run it again"
            )


def _check_header(file: Path) -> None:
    """Check a safetensors header against the file: eight bytes of length, JSON, then the tensors' bytes."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
            raise _refusal(
                file,
                f"its header claims {length:,} bytes, in a file of {size:,} bytes; expected a safetensors "
                f"file with a header below {_MAX_HEADER_BYTES:,} bytes. Download the file again",
            )
        header_bytes = stream.read(length)
    try:
        header = _parse_json(file, header_bytes.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _refusal(file, f"its header is not UTF-8 ({error}); download the file again") from error
    if not isinstance(header, dict):
        raise _refusal(file, "its header is not a JSON object; download the file again")
    header.pop("__metadata__", None)
    spans = sorted(_span(file, name, entry, size - 8 - length) for name, entry in header.items())
    for (_, end, name), (next_begin, _, next_name) in itertools.pairwise(spans):
        if next_begin < end:
            raise _refusal(
                file,
                f"the tensors {name!r} and {next_name!r} overlap; "
                "the file is damaged or hostile, download it again",
            )


def _span(file: Path, name: str, entry: object, data_bytes: int) -> tuple[int, int, str]:
    """Where a tensor's bytes begin and end, checked against its shape and the bytes there are."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            bits = _DTYPE_BITS.get(dtype, 0)
            is_shape = len(shape) <= 16 and all(type(side) is int and 0 <= side < 2**48 for side in shape)
            fits = bits and is_shape and 0 <= begin <= end <= data_bytes
            if fits and (end - begin) * 8 == math.prod(shape) * bits:
                return begin, end, name
    raise _refusal(
        file,
        f"the tensor {name!r} does not fit the file: {str(entry)[:200]}, with {data_bytes:,} bytes of data; "
        "download it again",
    )
