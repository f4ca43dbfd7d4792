"""How each of nano's stages begins, is trained, is examined on the way, and ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from anomalyr1.engines.local import LocalEngine
from anomalyr1.files import write_whole
from anomalyr1.nano import loop
from anomalyr1.nano.card import nano_card, raw_card
from anomalyr1.nano.exam import examine, examine_at_length
from anomalyr1.nano.model import load_model, save_model
from anomalyr1.nano.pool import FAMILY, ImageExample, Pool, held_out_examples
from anomalyr1.nano.recipe import FIGURES, STAGES, NanoRecipe, add_to_curve, read_curve, working_minutes
from anomalyr1.nano.stage_losses import StageLosses
from anomalyr1.policy.load import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

FINAL_START = 100_000
"""The final examination is about drawings from this number on: others than those on the way."""
RESULTS = {
    "text": ("model.model.language_model.", "model.lm_head.", "place.", "letter.", "quote.", "summary."),
    "sight": ("model.model.visual.", "sight."),
}
"""What the stages trained side by side leave to the last one, as names of parameters begin."""


def run_stage(name: str, out: Path, recipe: NanoRecipe) -> None:
    """Train a stage from its checkpoint in the run's folder, or from what the stages before it left.

    "both" starts from "text" and "sight", "raw" from the finished policy.
    """
    torch.set_num_threads(1 if name in RESULTS else 2)
    losses = StageLosses(out, recipe)
    if name == "both":
        _train_both(out, recipe, losses)
    elif name == "raw":
        _train_raw(out, recipe, losses)
    else:
        _train_part(name, out, recipe, losses)


def _train_part(name: str, out: Path, recipe: NanoRecipe, losses: StageLosses) -> None:
    """Train the text model or the vision tower, with the readers of its helper losses."""
    module, model = losses.module, losses.module.model.model
    readers = (module.place, module.letter, module.quote, module.summary)
    parts = (model.language_model, *readers) if name == "text" else (model.visual, module.sight)
    module.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    loop.run(name, out, getattr(recipe, name), module, getattr(losses, name))
    torch.save(module.state_dict(), out / f"{name}.weights.pt")


def _train_both(out: Path, recipe: NanoRecipe, losses: StageLosses) -> None:
    """Plug text model and vision tower together, and train and examine them."""
    for part, beginnings in RESULTS.items():
        state = torch.load(out / f"{part}.weights.pt", weights_only=True)
        state = {name: value for name, value in state.items() if name.startswith(beginnings)}
        losses.module.load_state_dict(state, strict=False)
    familiar, unseen = _held_out(recipe, recipe.exam_images)

    with_reference = [example for example in unseen if example.reference is not None]
    exams = (
        ("seen", familiar, "knowledge"),
        ("dev", unseen, "knowledge"),
        ("dev, with reference", with_reference, "reference"),
    )
    engine = _engine(losses.model, losses.processor, recipe)

    def report(clock: loop.Clock) -> None:
        """Examine, add to the curve, and save the policy as it is."""
        losses.module.eval()
        for split, examples, prompt in exams:
            figures = examine(engine, examples, recipe.exam_extras, prompt)
            add_to_curve(out, clock, {"split": split, **figures})
        save_model(losses.model, losses.processor, out / "nano")

    report(loop.run("both", out, recipe.both, losses.module, losses.both, report))


def _train_raw(out: Path, recipe: NanoRecipe, losses: StageLosses) -> None:
    """Train the text model of the finished policy to nano-raw, examine that, and write it with its card."""
    model = losses.model
    losses.module.requires_grad_(False)
    model.load_state_dict(load_model(out / "nano")[0].state_dict())
    model.model.language_model.requires_grad_(True)
    end = loop.run("raw", out, recipe.raw, losses.module, losses.raw)
    folder = out / "nano-raw"
    save_model(model, losses.processor, folder)
    rounded, _ = load_model(folder)
    engine = _engine(rounded, losses.processor, recipe)
    examples = held_out_examples("seen", recipe.raw_images, recipe.shape.max_pixels, FINAL_START)
    seeds = {"greedy": None, "sampled": recipe.seed}
    results = {name: examine(engine, examples, extras=3, seed=seed) for name, seed in seeds.items()}
    save_model(rounded, losses.processor, folder, raw_card(results, end.seconds / 60, recipe.machine))


def finish(out: Path, recipe: NanoRecipe) -> None:
    """Examine the finished policy at length; write its card and the figures."""
    model, processor = load_model(out / "nano")
    familiar, unseen = final_examples(recipe)
    engine = _engine(model, processor, recipe)
    results, controls = examine_at_length(engine, familiar, unseen, recipe.final_extras)
    parameters = sum(p.numel() for p in model.parameters())
    facts = {
        "parameters": parameters / 1e6,
        "megabytes": 2 * parameters / 1e6,
        "images": f"{len(Pool(out / 'pool')):,}",
        "machine": recipe.machine,
        "command": "python -m anomalyr1.nano.make",
        "minutes": ", ".join(f"{name} {working_minutes(out, name):.0f} minutes" for name in STAGES),
    }
    save_model(model, processor, out / "nano", nano_card(facts, results, controls, read_curve(out)))
    (out / "raw.pt").unlink(missing_ok=True)  # it went on from what was there before
    figures = json.dumps({**results, "controls": controls}, indent=1)
    write_whole(out / FIGURES, figures.encode("utf-8"))


def _engine(model: PreTrainedModel, processor: ProcessorMixin, recipe: NanoRecipe) -> LocalEngine:
    """What asks a policy in training."""
    return LocalEngine(Policy(model, processor, FAMILY, recipe.shape.max_pixels, "nano", revision=""))


def final_examples(recipe: NanoRecipe) -> list[list[ImageExample]]:
    """Drawings for the final examination, of seen categories and of development ones."""
    return _held_out(recipe, recipe.final_images, FINAL_START)


def _held_out(recipe: NanoRecipe, counts: tuple[int, int], start: int = 0) -> list[list[ImageExample]]:
    splits = zip(("seen", "dev"), counts, strict=True)
    return [held_out_examples(split, count, recipe.shape.max_pixels, start) for split, count in splits]
