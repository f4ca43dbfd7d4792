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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyr1.files import write_whole
from anomalyr1.nano.loop import Plan
from anomalyr1.nano.model import Shape
from anomalyr1.types import InputError, Record

if TYPE_CHECKING:
    from anomalyr1.nano.loop import Clock

log = logging.getLogger(__name__)

STAGES = ("text", "sight", "both")
FIGURES = "figures.json"
"""What a finished run leaves: the figures of its policy."""
STRETCHED = ("minutes", "steps", "save_minutes", "exam_minutes", "log_every")
"""Values of a plan that may be others on resume."""


class Recipe(Record):
    """All values of a run."""

    shape: Shape = Shape()
    images: int = 13_824
    """Size of the pool; drawn once, before training."""
    first_images: int = 2_000
    """Training starts when so many are drawn."""
    shard: int = 256
    text: Plan = Plan(learning_rate=1.2e-3, minutes=33, floor=0.1)
    sight: Plan = Plan(learning_rate=2.5e-3, minutes=35)
    both: Plan = Plan(learning_rate=1e-3, minutes=56, exam_minutes=13, average=0.998)
    raw: Plan = Plan(learning_rate=5e-4, minutes=5)
    """The text model of `nano-raw`, from the finished policy."""
    cells: int = 640
    """Image cells in a batch, which sets its number of images (6 to 24)."""
    sight_cells: int = 400
    drill_share: float = 0.45
    """Share of the text stage's steps that are letter drills."""
    late_drill_share: float = 0.04
    """The same in the last stage."""
    recital_share: float = 0.6
    """Share of the drills about what knowledge says of an invented object."""
    drills: int = 24
    """Questions in such a step."""
    questions: int = 3
    """Questions behind one image."""
    reference_share: float = 0.5
    """Of the prompts about images, and about a third of it of those about boxes on the code."""
    good_with_reference: float = 0.4
    """Share of good parts among those with a reference (half of the others are good): with as many good ones,
    a policy that compares let most defects of parts it did not know pass."""
    knowledge_share: float = 0.5
    nameless_knowledge_share: float = 0.75
    """The same for what looks like no category."""
    invented_share: float = 0.5
    """Share of the objects with knowledge that have an invented name."""
    grounds: int = 400
    """Drawn textures that defects are moved to."""
    strange_share: float = 0.45
    """Share of the sight stage's lessons that look like no category: what a defect is should not hang on
    them."""
    decoy_share: float = 0.3
    """Share of the examples with reference that bear the same mark on both, which is no defect then."""
    aligned_share: float = 0.3
    """Share of the lessons with reference whose reference is the same part in the same pose."""
    late_sight_share: float = 0.18
    """Share of such lessons of squares in the last stage."""
    late_code_share: float = 0.15
    """Share of the last stage's lessons that ask for boxes on the code: arithmetic on places is learned
    soonest where they are exact."""
    late_strange_share: float = 0.12
    """The same share of the last stage's lessons about whole images."""
    tower_share: float = 0.6
    """Share of the last stage's lessons that the vision tower learns from, too; the others are quicker."""
    code_noise: float = 0.03
    exam_images: tuple[int, int] = (60, 120)
    """Held-out images of seen and of development categories in the examinations on the way."""
    exam_extras: int = 1
    """Questions about each of them besides verdict and boxes."""
    final_images: tuple[int, int] = (480, 480)
    """The same for the last examination, whose figures go into the card."""
    final_extras: int | None = None
    """None = all other questions."""
    raw_images: int = 144
    """Held-out images for the examination of `nano-raw`."""
    machine: str = "2 CPU cores"
    seed: int = 0

    @property
    def minutes(self) -> float:
        """Working time of all stages together; text and sight run side by side."""
        return max(self.text.minutes, self.sight.minutes) + self.both.minutes

    def scaled(self, minutes: float) -> Recipe:
        """The same recipe with its working time stretched to about `minutes`."""
        factor = minutes / self.minutes
        plans = {
            name: getattr(self, name).model_copy(update={"minutes": getattr(self, name).minutes * factor})
            for name in STAGES
        }
        return self.model_copy(update=plans)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    about = "Train the nano policy from scratch on drawn parts."
    parser = argparse.ArgumentParser(prog="python -m anomalyr1.nano.make", description=about)
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), help="folder of the run")
    parser.add_argument(
        "--minutes", type=float, help=f"working time of all stages together (default: {Recipe().minutes:g})"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that is in the folder")
    parser.add_argument("--recipe", type=Path, help="JSON file with values of the recipe to replace")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="go on from the finished run to nano-raw, whose reasoning often contradicts",
    )
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = (
        Recipe()
        if given.recipe is None
        else Recipe.model_validate_json(given.recipe.read_text(encoding="utf-8"))
    )
    recipe = recipe if given.minutes is None else recipe.scaled(given.minutes)
    if given.raw and (given.minutes is not None or given.recipe is not None):
        parser.error("--raw goes on from the recipe of the run, so it takes neither --minutes nor --recipe")
    if given.raw and not (given.out / FIGURES).exists():
        parser.error(
            f"{given.out} holds no finished policy for --raw to go on from; leave --raw out, or name the run's folder with --out"
        )
    if given.stage or given.raw:
        run_stage(
            given.stage or "raw",
            given.out,
            Recipe.model_validate_json((given.out / "recipe.json").read_text(encoding="utf-8")),
        )
    else:
        train(given.out, recipe, given.resume)


def train(out: Path, recipe: Recipe, resume: bool = False) -> Path:
    """Run all stages in the folder `out`; gives the folder of the finished policy.

    Raises `InputError` when the folder holds a run and `resume` is off, or one with another recipe.
    """
    note = out / "recipe.json"
    if note.exists() and not resume:
        raise InputError(f"{out}: holds a run already; add --resume to go on with it, or name another folder")
    out.mkdir(parents=True, exist_ok=True)
    if note.exists():
        _same_recipe(note, recipe)
    note.write_text(recipe.model_dump_json(indent=1), encoding="utf-8")
    (out / FIGURES).unlink(missing_ok=True)
    from anomalyr1.nano import stages as nano_stages

    drawers = _start_drawing(out, recipe)
    _prepare(out, recipe)
    if not (out / "both.pt").exists():
        _side_by_side(out)
    for drawer in drawers:
        drawer.join()
    _drawn_well(drawers)
    run_stage("both", out, recipe)
    nano_stages.finish(out, recipe, out / "nano")
    return out / "nano"


def run_stage(name: str, out: Path, recipe: Recipe) -> None:
    """Train one stage from its checkpoint, or from what the stages before it left."""
    import torch

    from anomalyr1.nano import stages as nano_stages

    torch.set_num_threads(1 if name in ("text", "sight") else 2)
    nano_stages.run_stage(name, out, recipe)


def _same_recipe(note: Path, recipe: Recipe) -> None:
    """Plans may be stretched on resume (`STRETCHED`); all else must be what the run began with."""
    old, new = (
        _flat(json.loads(text)) for text in (note.read_text(encoding="utf-8"), recipe.model_dump_json())
    )
    differ = [key for key in new if key.rpartition(".")[2] not in STRETCHED and old.get(key) != new[key]]
    if differ:
        raise InputError(
            f"{note}: the run began with other values of {', '.join(differ)}; resume with its recipe or name another folder"
        )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Values within values under names such as "both.seed"."""
    inner = {
        f"{name}.{key}": one
        for name, value in values.items()
        if isinstance(value, dict)
        for key, one in value.items()
    }
    return {**{name: value for name, value in values.items() if not isinstance(value, dict)}, **inner}


def _start_drawing(out: Path, recipe: Recipe) -> list[Any]:
    shards = -(-recipe.images // recipe.shard)
    context = multiprocessing.get_context("spawn")
    drawers = [
        context.Process(target=_draw, args=(out / "pool", range(k, shards, 2), recipe)) for k in range(2)
    ]
    for drawer in drawers:
        drawer.start()
    enough = min(shards, -(-recipe.first_images // recipe.shard))
    while len(list((out / "pool").glob("shard*"))) < enough:
        _drawn_well(drawers)
        time.sleep(1)
    return drawers


def _drawn_well(drawers: list[Any]) -> None:
    """Raise `RuntimeError` when one of them has failed: every second shard of the pool would be missing."""
    if any(drawer.exitcode for drawer in drawers):
        raise RuntimeError(
            "a process that draws has failed, see its message above; --resume draws what is missing"
        )


def _draw(pool: Path, numbers: range, recipe: Recipe) -> None:
    """Draw shards in a process of its own, one thread."""
    import cv2

    from anomalyr1.nano.pool import draw_shard

    cv2.setNumThreads(1)
    for number in numbers:
        draw_shard(pool, number, recipe.shard, recipe.shape.max_pixels)


def _prepare(out: Path, recipe: Recipe) -> None:
    """Tokenizer and fresh weights, once."""
    if (out / "start" / "config.json").exists():
        return
    import numpy as np
    import torch

    from anomalyr1.nano import initial_weights as start
    from anomalyr1.nano import model as nano_model
    from anomalyr1.nano.lessons import corpus
    from anomalyr1.nano.packing import patches
    from anomalyr1.nano.pool import Pool

    tokenizer = nano_model.make_tokenizer(corpus(Pool(out / "pool"), recipe.seed), recipe.shape.vocabulary)
    model = nano_model.make_model(tokenizer, recipe.shape, recipe.seed)
    some = Pool(out / "pool").pairs(240, np.random.default_rng(recipe.seed))
    start.whiten(
        model.model.visual, torch.cat([patches([bad.image], recipe.shape.patch)[0] for bad, _ in some])
    )
    start.look_around(model.model.visual)
    anchor, rest = (tokenizer.convert_tokens_to_ids(name) for name in ("<|vision_start|>", "<|im_start|>"))
    start.tell_place(model.model.language_model, anchor, rest)
    start.match_words(model.model.language_model)
    start.copy_words(model.model.language_model)
    start.compare_images(model.model.language_model)
    nano_model.save(model, nano_model.make_processor(tokenizer, recipe.shape), out / "start")


def _side_by_side(out: Path) -> None:
    """The text and sight stages, a process and a thread each. Raises `RuntimeError` when one fails."""
    command = [sys.executable, "-m", "anomalyr1.nano.make", "--out", str(out), "--stage"]
    running = {name: subprocess.Popen([*command, name]) for name in ("text", "sight")}
    failed = [name for name, process in running.items() if process.wait() != 0]
    if failed:
        raise RuntimeError(
            f"the stage {' and '.join(failed)} failed; see its messages above; --resume goes on from the last checkpoint"
        )


def minutes(out: Path, stage: str) -> float:
    """Working time of a stage, from the log of its losses."""
    lines = [json.loads(line) for line in (out / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    return max((float(line["minutes"]) for line in lines if line["stage"] == stage), default=0.0)


def examined(out: Path, clock: Clock, figures: dict[str, Any]) -> None:
    """Append one point to the curve of a run; a resumed run takes the place of what it had there."""
    line = {
        "step": clock.step,
        "minutes": round(clock.seconds / 60, 2),
        "clock": time.strftime("%H:%M:%S"),
        **figures,
    }
    curve = out / "curve.jsonl"
    lines = curve.read_text(encoding="utf-8").splitlines() if curve.exists() else []
    kept = [
        one
        for one in lines
        if [json.loads(one).get(key) for key in ("step", "split")] != [clock.step, figures.get("split")]
    ]
    write_whole(curve, "".join(f"{one}\n" for one in (*kept, json.dumps(line))).encode("utf-8"))
    log.info("%s", json.dumps(line))


if __name__ == "__main__":
    main()
