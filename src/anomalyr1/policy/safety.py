"""What a model folder must be before transformers may see it: data that cannot run, lead astray or exhaust.

`check_folder` is the door for policies, SAM2 and DINOv2: each is a `Kind` of `rules`, whose tables say what
its configuration may hold.

Covered: code and pickles by their suffix; links and shard names that leave the folder; keys that make
transformers import, download or run something (`auto_map`, kernels, adapters, ...); classes and model types
other than the kind's own; numbers, lists, texts, files and nesting beyond any real model's; tokenizers whose
parts can abort the process or take for ever; weights (see `weights`). Chat templates are never run (see
`load`); one that reaches for Python's internals is refused all the same, since its folder is hostile.

Not covered: a folder changed between the check and the load, and what the weights themselves say. A model's
text stays untrusted.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anomalyr1.policy.documents import read_json, read_text, refusal, settings
from anomalyr1.policy.library import build_without_memory
from anomalyr1.policy.rules import (
    COMMON_RANGE,
    FILE_REASONS,
    FORBIDDEN_KEYS,
    LONGEST_TEXT,
    MOST_ENTRIES,
    MOST_SETTINGS,
    MOST_TOKENS,
    POLICY,
    TOKENIZER_KINDS,
    TOKENIZER_PATTERNS,
    Kind,
)
from anomalyr1.policy.weights import check_weights

_MAX_FILES = 10_000
_MAX_ALL_JSON_BYTES = 64 * 2**20
_MAX_TEMPLATE_BYTES = 2**20
_TOKEN_TABLES = frozenset({"vocab.json", "added_tokens.json"})
"""JSON files whose keys are tokens, not settings."""
_SETTINGS = frozenset((
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json",
))  # fmt: skip
"""The files that transformers reads as settings."""
_TEMPLATE_KEYS = ("chat_template", "template")


def check_folder(folder: Path, kind: Kind = POLICY) -> str:
    """Refuse a model folder that could run code, read outside itself or exhaust the machine.

    Returns the name of its family. Raises `InputError` that names the file, the reason and what to do.
    """
    family = check_configuration(folder, kind)
    stored = check_weights(folder)
    least, most = _parameters_expected(folder, kind)
    if not least <= stored <= most:
        raise refusal(
            folder,
            f"its files hold {stored:,} parameters, its config.json describes {least:,} to {most:,}; "
            "its files are of different models, download it again",
        )
    return family


def check_configuration(folder: Path, kind: Kind = POLICY) -> str:
    """As `check_folder`, without the weights: a folder can be refused before they are downloaded."""
    if not folder.is_dir():
        raise refusal(
            folder, "no such folder; name a folder with a model in it, or a model of the hub as owner/name"
        )
    # 1. Files: which there are, how many, how large.
    entries = list(_entries(folder))
    for entry in entries:
        _check_entry(entry, folder)
    documents = sorted(entry for entry in entries if entry.suffix == ".json")
    if sum(file.stat().st_size for file in documents) > _MAX_ALL_JSON_BYTES:
        raise refusal(
            folder,
            f"more than {_MAX_ALL_JSON_BYTES:,} bytes of JSON; name a folder that holds one model and "
            "nothing else",
        )
    # 2. What they say.
    for file in documents:
        _check_document(file, read_json(file), kind)
    if (merges := folder / "merges.txt").is_file():
        _require_at_most(merges, read_text(merges).count("\n"), MOST_TOKENS, "merges")
    for file in sorted(entry for entry in entries if entry.suffix == ".jinja"):
        _check_template(file, read_text(file, _MAX_TEMPLATE_BYTES))
    # 3. Whether they are a whole model.
    for names in kind.files:
        if not any((folder / name).is_file() for name in names):
            raise refusal(
                folder,
                f"{names[0]} is missing, so this is no whole model folder of the kind {kind.words}; copy it "
                "from the model's source",
            )
    return _check_config(folder / "config.json", kind)


def _entries(folder: Path) -> Iterator[Path]:
    for number, entry in enumerate(folder.rglob("*")):
        if number >= _MAX_FILES:
            raise refusal(
                folder, f"more than {_MAX_FILES} files; name a folder that holds one model and nothing else"
            )
        yield entry


def _check_entry(entry: Path, folder: Path) -> None:
    try:
        target = entry.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise refusal(entry, f"a broken link ({error}); download the model again") from error
    if entry.is_symlink() and not _stays_inside(target, folder):
        raise refusal(
            entry, f"a link that leaves the folder, to {target}; put the file itself into the folder"
        )
    if stat.S_ISDIR(mode) and not entry.is_symlink():
        return
    if not stat.S_ISREG(mode):
        raise refusal(entry, "expected a file, found a device, pipe or link to a folder; remove it")
    for mark in (entry.suffix.lower(), entry.name):
        if mark in FILE_REASONS:
            raise refusal(entry, FILE_REASONS[mark])


def _refuse_setting(file: Path, key: str, value: object) -> None:
    if value not in (None, False):
        raise refusal(file, f"has the key {key!r}; {FORBIDDEN_KEYS[key]}")


def _stays_inside(target: Path, folder: Path) -> bool:
    """Whether a resolved path is in the folder, or in the blob store beside a snapshot of the hub's cache."""
    root = folder.resolve()
    blobs = root.parent.parent / "blobs"
    in_cache = root.parent.name == "snapshots" and not blobs.is_symlink()
    return target.is_relative_to(root) or (in_cache and target.parent == blobs)


def _check_document(file: Path, document: Any, kind: Kind) -> None:
    """Refuse what a JSON file of a folder may not say."""
    if not isinstance(document, dict):
        raise refusal(
            file,
            f"expected a JSON object, found {type(document).__name__}; "
            "copy the file again from the model's source",
        )
    if file.name == "vocab.json":
        _require_at_most(file, len(document), MOST_TOKENS, "tokens")
        return
    if file.name == "tokenizer.json":  # the keys of its model are tokens, too
        document = _check_tokenizer(file, document)
    if file.name in _SETTINGS:
        _check_amounts(file, document)
        _check_numbers(file, document, kind)
    if file.name in _TOKEN_TABLES:
        return
    for _, key, value in settings(document):
        if key in FORBIDDEN_KEYS:
            _refuse_setting(file, key, value)
        if key in kind.allowed_values and value is not None and value not in kind.allowed_values[key]:
            raise refusal(
                file,
                f"{key} is {value!r:.200}, expected one of {', '.join(kind.allowed_values[key])}; "
                f"use a model of the kind {kind.words}",
            )
        if key in _TEMPLATE_KEYS:
            _check_template(file, json.dumps(value))


def _require_at_most(file: Path, number: int, limit: int, what: str) -> None:
    if number > limit:
        raise refusal(
            file,
            f"{number:,} {what}, and no real model has more than {limit:,}; "
            "use the file of the model's source",
        )


def _check_amounts(file: Path, document: Mapping[str, Any]) -> None:
    """Refuse more entries, or longer texts, than the settings of a real model have."""
    _require_at_most(file, len(document), MOST_ENTRIES, "entries")
    number = 0
    for _, key, value in settings(document):
        number += 1
        length = len(value) if isinstance(value, str) and key not in _TEMPLATE_KEYS else 0
        _require_at_most(file, max(length, len(key)), LONGEST_TEXT, "characters in one text")
        if isinstance(value, dict | list):
            _require_at_most(file, len(value), MOST_ENTRIES, f"entries under {key[:50]!r}")
    _require_at_most(file, number, MOST_SETTINGS, "settings")


def _check_numbers(file: Path, document: object, kind: Kind) -> None:
    """Refuse a number out of the range of its key, in lists too; text where a number is counted with."""
    values: list[tuple[str, Any]] = [("", document)]
    while values:
        key, value = values.pop()
        if isinstance(value, dict):
            values += value.items()
        elif isinstance(value, list):
            values += [(key, child) for child in value]
        elif isinstance(value, int | float) or (key in kind.ranges and value is not None):
            low, high = kind.ranges.get(key, COMMON_RANGE)
            if isinstance(value, str) or not low <= value <= high:
                raise refusal(
                    file,
                    f"{key} is {value!r:.50}, expected a number from {low:,} to {high:,}; "
                    "use the file of the model's source",
                )


def _check_tokenizer(file: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Refuse a tokenizer with parts that are not Qwen's; gives what it says beside its tokens."""
    model = document.get("model")
    if not isinstance(model, dict):
        raise refusal(file, "it has no model; use the tokenizer of the model's source")
    model = dict(model)
    for table in ("vocab", "merges"):
        _require_at_most(file, len(model.pop(table, None) or ()), MOST_TOKENS, f"entries of its {table}")
    beside_tokens = {**document, "model": model}
    for name, types in TOKENIZER_KINDS.items():
        for _, key, value in settings(beside_tokens.get(name)):
            if key == "type" and value not in types:
                raise refusal(
                    file,
                    f"its {name} has the type {value!r:.50}, expected one of {', '.join(types)}; "
                    "use the tokenizer of the model's source",
                )
    for _, key, value in settings(beside_tokens.get("pre_tokenizer")):
        if key == "Regex" and value not in TOKENIZER_PATTERNS:
            raise refusal(
                file,
                f"it splits text by the pattern {value!r:.200}, which is not Qwen's and could take for "
                "ever; use the tokenizer of the model's source",
            )
    return beside_tokens


def _check_template(file: Path, text: str) -> None:
    if len(text) > _MAX_TEMPLATE_BYTES:
        raise refusal(
            file,
            f"a chat template of {len(text):,} characters, which no real model's is; "
            "remove it, it is not used",
        )
    if internal := re.search(r"__[a-z]{1,40}__", text):
        raise refusal(
            file,
            f"its chat template reaches for Python's internals ({internal[0]}), as attacks do; "
            "do not trust this model. The template itself would not be used",
        )


def _check_config(file: Path, kind: Kind) -> str:
    """The family of a configuration whose every part is of one supported model type."""
    config = read_json(file)
    model_type = config.get("model_type")
    supported = f"supported are {', '.join(kind.architectures)}: {kind.words}"
    if not isinstance(model_type, str) or model_type not in kind.architectures:
        raise refusal(file, f"model_type is {model_type!r:.200}; {supported}. Name such a model")
    parts = (model_type, *kind.parts[model_type])
    for _, key, value in settings(config):
        if key == "model_type" and value not in parts:
            raise refusal(
                file,
                f"a part has model_type {value!r:.200}, expected one of {', '.join(sorted(parts))}; "
                "use the original file",
            )
        if key == "architectures" and value not in (None, [], [kind.architectures[model_type]]):
            raise refusal(
                file,
                f"architectures is {value!r:.200}, expected [{kind.architectures[model_type]!r}]; "
                f"{supported}. Name such a model",
            )
    return model_type.removesuffix("_moe")


def _parameters_expected(folder: Path, kind: Kind) -> tuple[int, int]:
    """The least and the most parameters that the files of a folder may hold, by its checked configuration.

    What is missing would be allocated and filled at random, what is too much would be read for nothing. A
    head that shares its weights may be stored or not.
    """
    model = build_without_memory(folder, kind)
    described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    shared = head is not None and head.weight is table.weight
    head_size = 0 if head is None else head.weight.numel()
    least = described - (0 if shared else head_size)
    most = described + (head_size if shared else 0)
    return int(least * 0.98), int(most * kind.surplus)
