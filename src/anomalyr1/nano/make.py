"""The nano policy from scratch: `python -m anomalyr1.nano.make --out runs/nano`.

A tiny Qwen2.5-VL learns to inspect drawn parts in three stages. *text*: the text model learns to read a
symbolic code of what an image shows, to reason and to answer, while *sight*, beside it, teaches the vision
tower to write that code; *both* then plugs them together and trains them on images. Every stage is
checkpointed: the same command with `--resume` goes on where it was killed.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import subprocess
import sys
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from anomalyr1.files import write_whole
from anomalyr1.nano import initial_weights, stages
from anomalyr1.nano.lessons import tokenizer_corpus
from anomalyr1.nano.model import make_model, make_processor, make_tokenizer, save_model
from anomalyr1.nano.packing import patches
from anomalyr1.nano.pool import Pool, draw_shard
from anomalyr1.nano.recipe import FIGURES, STAGES, STRETCHED, NanoRecipe
from anomalyr1.types import InputError


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    about = "Train the nano policy from scratch on drawn parts."
    parser = argparse.ArgumentParser(prog="python -m anomalyr1.nano.make", description=about)
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), help="folder of the run")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"working time of all stages together (default: {NanoRecipe().minutes:g})",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that is in the folder")
    parser.add_argument("--recipe", type=Path, help="JSON file with values of the recipe to replace")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="go on from the finished run to nano-raw, whose reasoning often contradicts",
    )
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = NanoRecipe() if options.recipe is None else _read_recipe(options.recipe)
    if options.minutes is not None:
        recipe = recipe.scaled(options.minutes)
    if options.raw and (options.minutes is not None or options.recipe is not None):
        parser.error("--raw goes on from the recipe of the run, so it takes neither --minutes nor --recipe")
    if options.raw and not (options.out / FIGURES).exists():
        parser.error(
            f"{options.out} holds no finished policy for --raw to go on from; "
            "leave --raw out, or name the run's folder with --out"
        )
    if options.stage or options.raw:
        recipe = _read_recipe(options.out / "recipe.json")
        stages.run_stage(options.stage or "raw", options.out, recipe)
    else:
        train(options.out, recipe, options.resume)


def train(out: Path, recipe: NanoRecipe, resume: bool = False) -> Path:
    """Run all stages in the folder `out`; gives the folder of the finished policy.

    Raises `InputError` when the folder holds a run and `resume` is off, or one with another recipe, and
    `RuntimeError` when a process that draws or trains has failed.
    """
    recipe_file = out / "recipe.json"
    if recipe_file.exists():
        if not resume:
            raise InputError(
                f"{out}: holds a run already; add --resume to go on with it, or name another folder"
            )
        _require_same_recipe(recipe_file, recipe)
    write_whole(recipe_file, recipe.model_dump_json(indent=1).encode("utf-8"))
    (out / FIGURES).unlink(missing_ok=True)
    drawers = _start_drawing(out, recipe)
    _prepare_start(out, recipe)
    if not (out / "both.pt").exists():
        _train_side_by_side(out)
    for drawer in drawers:
        drawer.join()
    _require_drawn(drawers)
    stages.run_stage("both", out, recipe)
    stages.finish(out, recipe)
    return out / "nano"


def _read_recipe(path: Path) -> NanoRecipe:
    return NanoRecipe.model_validate_json(path.read_text(encoding="utf-8"))


def _require_same_recipe(path: Path, recipe: NanoRecipe) -> None:
    """Plans may be stretched on resume (`STRETCHED`); all else must be what the run began with."""
    texts = (path.read_text(encoding="utf-8"), recipe.model_dump_json())
    begun, resumed = (_flatten(json.loads(text)) for text in texts)
    differences = [
        name
        for name, value in resumed.items()
        if name.rpartition(".")[2] not in STRETCHED and begun.get(name) != value
    ]
    if differences:
        raise InputError(
            f"{path}: the run began with other values of {', '.join(differences)}; "
            "resume with its recipe or name another folder"
        )


def _flatten(values: dict[str, Any]) -> dict[str, Any]:
    """Values, and behind them the values within values under names such as "both.seed"."""
    nested = {name: value for name, value in values.items() if isinstance(value, dict)}
    flat = {name: value for name, value in values.items() if name not in nested}
    return flat | {f"{name}.{key}": value for name, inner in nested.items() for key, value in inner.items()}


def _start_drawing(out: Path, recipe: NanoRecipe) -> list[SpawnProcess]:
    """Start the processes that draw the pool, and wait until enough is drawn to begin."""
    shards = -(-recipe.images // recipe.shard)
    context = multiprocessing.get_context("spawn")
    drawers = [
        context.Process(target=_draw, args=(out / "pool", range(k, shards, 2), recipe)) for k in range(2)
    ]
    for drawer in drawers:
        drawer.start()
    enough = min(shards, -(-recipe.first_images // recipe.shard))
    while len(list((out / "pool").glob("shard*"))) < enough:
        _require_drawn(drawers)
        time.sleep(1)
    return drawers


def _require_drawn(drawers: list[SpawnProcess]) -> None:
    """Raise `RuntimeError` when a drawer has failed: half of the pool's shards would be missing."""
    if any(drawer.exitcode for drawer in drawers):
        raise RuntimeError(
            "a process that draws has failed, see its message above; --resume draws what is missing"
        )


def _draw(pool: Path, numbers: range, recipe: NanoRecipe) -> None:
    """Draw shards in a process of its own, one thread."""
    cv2.setNumThreads(1)
    for number in numbers:
        draw_shard(pool, number, recipe.shard, recipe.shape.max_pixels)


def _prepare_start(out: Path, recipe: NanoRecipe) -> None:
    """Write the tokenizer and the weights that training begins with, once."""
    if (out / "start" / "config.json").exists():
        return
    pool, shape = Pool(out / "pool"), recipe.shape
    tokenizer = make_tokenizer(tokenizer_corpus(pool, recipe.seed), shape.vocabulary)
    model = make_model(tokenizer, shape, recipe.seed)
    pairs = pool.pairs(240, np.random.default_rng(recipe.seed))
    initial_weights.whiten(
        model.model.visual, torch.cat([patches([bad.image], shape.patch)[0] for bad, _ in pairs])
    )
    initial_weights.look_around(model.model.visual)
    initial_weights.tell_place(model)
    initial_weights.match_words(model.model.language_model)
    initial_weights.copy_words(model.model.language_model)
    initial_weights.compare_images(model.model.language_model)
    save_model(model, make_processor(tokenizer, shape), out / "start")


def _train_side_by_side(out: Path) -> None:
    """The text and sight stages, a process and a thread each. Raises `RuntimeError` when one fails."""
    command = [sys.executable, "-m", "anomalyr1.nano.make", "--out", str(out), "--stage"]
    processes = {name: subprocess.Popen([*command, name]) for name in ("text", "sight")}
    failed = [name for name, process in processes.items() if process.wait() != 0]
    if failed:
        raise RuntimeError(
            f"the stage {' and '.join(failed)} failed; see its messages above; "
            "--resume goes on from the last checkpoint"
        )


if __name__ == "__main__":
    main()
