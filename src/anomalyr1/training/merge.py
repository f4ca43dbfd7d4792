"""An adapter merged into the weights that it was trained on, as a model folder of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalyr1.training import checkpoints
from anomalyr1.training.recipes import Recipe, load_recipe
from anomalyr1.training.run_folder import ADAPTER, FINAL, RECIPE
from anomalyr1.training.settings import cap_images
from anomalyr1.types import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def merge(
    source: Path,
    out: Path,
    model: str | None = None,
    revision: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the merged model to `out`, with its processor, and return it.

    `source` is a run (its final adapter, else that of its newest complete checkpoint), a checkpoint, or an
    adapter's folder; which one is taken, and what is passed over, is said. The base is `model` at `revision`,
    else what the run's recipe names, or the adapter itself. The sum is taken in float32 and kept in the
    base's own type. Raises `InputError` for a source without an adapter, a checkpoint of a run that is not
    complete, one whose tensors do not fit the base, and an `out` that exists.
    """
    if out.exists():
        raise InputError(f"{str(out)!r} exists already; name a folder that does not")
    adapter = _adapter_of(source, say)
    recipe = _recipe_of(adapter)
    name = model or (recipe.model if recipe else _config(adapter).get("base_model_name_or_path"))
    if not name:
        raise InputError(f"{str(adapter)!r} does not say which model it was trained on; name it with --model")
    revision = revision or (recipe.revision if recipe and not model else None)
    whole, processor = merged(adapter, str(name), revision, recipe.max_pixels if recipe else None)
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        whole.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


def merged(adapter: Path, name: str, revision: str | None, max_pixels: int | None) -> tuple[Any, Any]:
    """The model `name` at `revision` with the adapter in its weights, and its processor, which caps images at `max_pixels`.

    See `merge` for types and errors.
    """
    import torch
    from peft import PeftModel

    from anomalyr1.policy.load import find_folder, load_policy, quiet

    own = json.loads((find_folder(name, revision).folder / "config.json").read_text(encoding="utf-8"))
    kept = getattr(torch, str(own.get("dtype") or own.get("torch_dtype") or "float32").removeprefix("torch."))
    policy = load_policy(name, revision, "cpu", "float32", max_pixels)
    cap_images(policy)
    try:
        with quiet():
            whole = PeftModel.from_pretrained(policy.model, adapter, is_trainable=False)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{str(adapter)!r} does not fit {name!r} ({str(error).splitlines()[0]}); name its model with --model"
        ) from error
    if missing := [
        key for key in _tensors(adapter) if key not in {_saved_name(one) for one in whole.state_dict()}
    ]:
        raise InputError(
            f"{str(adapter)!r} does not fit {name!r}, which has no place for {missing[0]!r}; name its model with --model"
        )
    return whole.merge_and_unload(safe_merge=True).to(kept), policy.processor


def _tensors(adapter: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(adapter / WEIGHTS, "pt") as file:
        return list(file.keys())


def _saved_name(parameter: str) -> str:
    """A parameter of peft's model as an adapter's file names it."""
    return parameter.replace(".default.", ".").removesuffix(".default")


def _adapter_of(source: Path, say: Callable[[str], None]) -> Path:
    """The folder of the adapter that `source` means."""
    if not source.is_dir():
        raise InputError(f"{str(source)!r} is not a folder; name a run, a checkpoint or an adapter")
    within = source.name.startswith("checkpoint-") and (source.parent / RECIPE).is_file()
    if within and (reason := checkpoints.fault(source)):
        raise InputError(
            f"{str(source)!r} is no complete checkpoint ({reason}); name its run, and the newest complete one is taken"
        )
    newest, notes = checkpoints.newest(source)
    for folder in (source, source / ADAPTER, source / FINAL, newest):
        if folder is not None and (folder / CONFIG).is_file():
            if not (folder / WEIGHTS).is_file():
                raise InputError(
                    f"{str(folder)!r} has no {WEIGHTS}; only safetensors are loaded, save the adapter as such"
                )
            for line in (
                (*notes, f"the run is not finished: its adapter at {folder.name} is taken")
                if folder == newest
                else ()
            ):
                say(line)
            return folder
    raise InputError(
        f"{str(source)!r} holds no adapter ({CONFIG}); weights that were trained whole need no merging, load them as they are"
    )


def _recipe_of(adapter: Path) -> Recipe | None:
    """The recipe of the run that an adapter lies in."""
    found = [folder / RECIPE for folder in (adapter, adapter.parent) if (folder / RECIPE).is_file()]
    return load_recipe(str(found[0])) if found else None


def _config(adapter: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{str(adapter / CONFIG)!r} cannot be read ({error}); copy the adapter again"
        ) from error
    return found
