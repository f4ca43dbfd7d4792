"""An adapter merged into the weights that it was trained on, as a model folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyr1.files import new_folder
from anomalyr1.inspection.picture_guard import TaughtLook
from anomalyr1.training import checkpoints
from anomalyr1.training.handover import hand_over, taught_in
from anomalyr1.training.recipes import Recipe, read_recipe
from anomalyr1.training.run_folder import ADAPTER, FINAL, RECIPE
from anomalyr1.training.settings import cap_images
from anomalyr1.types import InputError

if TYPE_CHECKING:
    from anomalyr1.policy.load import Policy

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def merge_adapter(
    source: Path,
    out: Path,
    model: str | None = None,
    revision: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the merged model to `out`, with its processor, and return it.

    `source` is a run (its final adapter, else that of its newest complete checkpoint), a checkpoint, or an
    adapter's folder; which one is taken, and what is passed over, is said. The base is `model` at `revision`,
    else what the run's recipe names, or the adapter itself. What the run taught it with travels along. The
    sum is taken in float32 and kept in the base's own type. Raises `InputError` for a source without an
    adapter, a checkpoint of a run that is not complete, one whose tensors do not fit the base, and an `out`
    that exists.
    """
    if out.exists():
        raise InputError(f"{str(out)!r} exists already; name a folder that does not")
    adapter = _find_adapter(source, say)
    recipe = _recipe_of(adapter)
    name = model or (recipe.model if recipe else _config(adapter).get("base_model_name_or_path"))
    if not name:
        raise InputError(f"{str(adapter)!r} does not say which model it was trained on; name it with --model")
    revision = revision or (recipe.revision if recipe and not model else None)
    taught = next(filter(None, map(taught_in, (adapter, adapter.parent))), None)
    merged_model, policy = merged(adapter, str(name), revision, recipe.max_pixels if recipe else None)
    taught = taught or policy.taught
    with new_folder(out) as folder:
        merged_model.save_pretrained(folder)
        policy.processor.save_pretrained(folder)
        if taught:
            hand_over(folder, taught, policy.family)
        if look := TaughtLook.read(adapter.parent / FINAL):
            look.write(folder)
    return out


def merged(adapter: Path, name: str, revision: str | None, max_pixels: int | None) -> tuple[Any, Policy]:
    """The model `name` at `revision` with the adapter in its weights, and that model as it was loaded.

    Its processor caps images at `max_pixels`. Raises `InputError` for an adapter that is damaged or does not
    fit; `merge_adapter` says what types are kept.
    """
    import torch
    from peft import PeftModel
    from safetensors import SafetensorError

    from anomalyr1.policy.folders import find_folder
    from anomalyr1.policy.library import quiet
    from anomalyr1.policy.load import load_policy

    # 1. The base in float32, and the type that it has by its own configuration.
    config = json.loads((find_folder(name, revision).folder / "config.json").read_text(encoding="utf-8"))
    type_name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    dtype = getattr(torch, type_name.removeprefix("torch."))
    policy = load_policy(name, revision, "cpu", "float32", max_pixels)
    cap_images(policy)
    # 2. The adapter on it, all of whose tensors must have a place.
    try:
        with quiet():
            adapted = PeftModel.from_pretrained(policy.model, adapter, is_trainable=False)
    except (RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise InputError(
            f"{str(adapter)!r} does not fit {name!r} ({str(error).splitlines()[0]}); name its model with "
            "--model"
        ) from error
    places = {_saved_name(parameter) for parameter in adapted.state_dict()}
    missing = [tensor for tensor in _tensor_names(adapter) if tensor not in places]
    if missing:
        raise InputError(
            f"{str(adapter)!r} does not fit {name!r}, which has no place for {missing[0]!r}; name its model "
            "with --model"
        )
    # 3. Their sum.
    try:
        return adapted.merge_and_unload(safe_merge=True).to(dtype), policy
    except ValueError as error:
        raise InputError(
            f"{str(adapter)!r} merges into numbers that are not finite; train it again, or take an earlier "
            "checkpoint"
        ) from error


def _tensor_names(adapter: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(adapter / WEIGHTS, "pt") as file:
        return list(file.keys())


def _saved_name(parameter: str) -> str:
    """A parameter of peft's model as an adapter's file names it."""
    return parameter.replace(".default.", ".").removesuffix(".default")


def _find_adapter(source: Path, say: Callable[[str], None]) -> Path:
    """The folder of the adapter that `source` means. Raises `InputError` where none may be used."""
    if not source.is_dir():
        raise InputError(f"{str(source)!r} is not a folder; name a run, a checkpoint or an adapter")
    is_checkpoint = source.name.startswith("checkpoint-") and (source.parent / RECIPE).is_file()
    if is_checkpoint and (reason := checkpoints.fault(source)):
        raise InputError(
            f"{str(source)!r} is no complete checkpoint ({reason}); name its run, and the newest complete "
            "one is taken"
        )
    newest, notes = checkpoints.newest(source)
    candidates = [source, source / ADAPTER, source / FINAL, *([newest] if newest else [])]
    folder = next((folder for folder in candidates if (folder / CONFIG).is_file()), None)
    if folder is None:
        raise InputError(
            f"{str(source)!r} holds no adapter ({CONFIG}); weights that were trained whole need no merging, "
            "load them as they are"
        )
    if not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{str(folder)!r} has no {WEIGHTS}; only safetensors are loaded, save the adapter as such"
        )
    if folder == newest:
        for note in (*notes, f"the run is not finished: its adapter at {folder.name} is taken"):
            say(note)
    return folder


def _recipe_of(adapter: Path) -> Recipe | None:
    """The recipe of the run that an adapter lies in."""
    for folder in (adapter, adapter.parent):
        if (folder / RECIPE).is_file():
            return read_recipe(folder / RECIPE)
    return None


def _config(adapter: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{str(adapter / CONFIG)!r} cannot be read ({error}); copy the adapter again"
        ) from error
    return config
