"""What a run will take, before its first step: tokens, what does not fit, memory by part, hours. Nothing is ever cut off to make it fit."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomalyr1.images import Family, ImageError, fit, largest_cap_that_fits
from anomalyr1.training import costs
from anomalyr1.training.dataset import Material, Task, completion_ids, gold_completion
from anomalyr1.training.model_size import CHARS_PER_TOKEN, Shape, read_shape
from anomalyr1.training.recipes import Recipe
from anomalyr1.training.settings import arguments, dtype_of, prompts_of, settings_of, steps_of
from anomalyr1.types import InputError, Sample

LONGEST = 5
"""Samples or categories that the plan names."""
LOPSIDED = 0.75
"""The share of verdicts that may be known from the category alone without a warning."""


@dataclass(frozen=True)
class Length:
    """Tokens of one prompt and its completion."""

    task: Task
    text: int
    images: int
    written: int
    """Of the completion: what SFT teaches, or the most that GRPO lets be written."""

    @property
    def tokens(self) -> int:
        """Of the prompt."""
        return self.text + self.images


@dataclass(frozen=True)
class Plan:
    """The plan of a run."""

    model: str
    device: str
    processes: int
    samples: int
    prompts: int
    steps: int
    longest: list[Length]
    """The longest prompts, of different samples."""
    mean_tokens: float
    too_long: list[str]
    """A line for each prompt that does not fit, with the pixel cap that would make it fit."""
    warnings: list[str]
    bytes: dict[str, float]
    """Predicted memory by part on one device, "peak" last."""
    hours: float
    parameters: int
    trained: int
    written: int
    """Most tokens of a completion: what GRPO lets be written, or the longest that SFT teaches."""
    left_over: int = 0
    """Prompts that an epoch of GRPO does not come to, since they fill no generation batch."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was left out, under its name."""

    def lines(self) -> list[str]:
        """The plan for people."""
        return [*self._facts(), *self._costs(), *self._problems()]

    def _facts(self) -> list[str]:
        share = self.trained / self.parameters
        learned = f"{self.trained:,} learn ({'all' if share >= 1 else f'{share:.2%}'})"
        found = [
            f"plan: {self.steps:,} steps over {self.prompts:,} prompts of {self.samples:,} samples in {self.processes} process"
            f"{'es' if self.processes > 1 else ''} (accelerate launch says how many)",
            f"model: {self.parameters:,} parameters, {learned}; from {self.model}",
            f"prompt tokens: {self.mean_tokens:,.0f} on average; the longest:",
        ]
        for one in self.longest:
            found.append(
                f"  {one.tokens:,} ({one.images:,} of images): sample {one.task.sample.id!r}, question {one.task.question.id!r}"
            )
        if self.left_over:
            found.append(
                f"left over in each epoch: {self.left_over:,} prompts, since they fill no generation batch; which ones, changes"
            )
        return found + [f"left out: {number:,} {name}" for name, number in self.counts.items()]

    def _costs(self) -> list[str]:
        found = ["memory, predicted, on one device:"]
        found += [
            f"  {_size(value):>9} {name}"
            for name, value in self.bytes.items()
            if name != "peak" and value >= 1e6
        ]
        found.append(
            f"  {_size(self.bytes['peak']):>9} at the peak (rollouts and training pass do not overlap)"
        )
        seconds = self.hours * 3600
        time = (
            f"{seconds:.0f} seconds"
            if seconds < 120
            else f"{seconds / 60:.0f} minutes"
            if self.hours < 2
            else f"{self.hours:,.1f} hours"
        )
        found.append(
            f"time: about {time} on this machine ({self.device}), if every completion is as long as the longest may be; an estimate from "
            f"counted operations at {costs.SHARE_OF_PEAK:.0%} of a matrix product's speed, held-out evaluation not included"
        )
        return found

    def _problems(self) -> list[str]:
        return [f"warning: {one}" for one in self.warnings] + [
            f"does not fit: {one}" for one in self.too_long
        ]

    def require_fit(self) -> None:
        """Raise `InputError` when a prompt does not fit the model."""
        if self.too_long:
            raise InputError(
                f"{len(self.too_long)} prompts are longer than the model can read, and nothing is cut off; see the plan. {self.too_long[0]}"
            )


def make_plan(recipe: Recipe, material: Material, machine: costs.Machine | None = None) -> Plan:
    """The plan of a recipe over its material. Raises `InputError` for settings that cannot run at all; loads no weights."""
    settings, shape = settings_of(recipe), read_shape(recipe)
    grpo = recipe.section == "grpo"
    machine = machine or costs.measure()
    most_written = int(settings["max_completion_length"]) if grpo else None
    lengths = [_length(task, material, shape, recipe.seed, most_written) for task in material.tasks]
    most, written = max(lengths, key=lambda one: one.tokens), max(one.written for one in lengths)
    positions = int(shape.text.max_position_embeddings)
    if grpo and settings["use_vllm"] and settings["vllm_max_model_length"]:
        positions = min(positions, int(settings["vllm_max_model_length"]))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    rows = len(lengths) if grpo else len({one.task.sample.id for one in lengths})
    load = _load(settings, most, written, len(lengths) / rows, grpo)
    shards = processes if _sharded() else 1
    arguments(
        recipe, Path(), rows, processes
    )  # what does not go together is refused here, before anything is written
    gpu = 0 if machine.device.startswith("CPU") else machine.memory or 0
    needed = costs.memory(shape, dtype_of(recipe), settings, load, grpo, shards, _sharded(), gpu)
    steps = steps_of(settings, rows, processes, grpo)
    return Plan(
        model=shape.source,
        device=machine.device,
        processes=processes,
        samples=len(material.samples),
        prompts=len(lengths),
        steps=steps,
        longest=_longest(lengths),
        mean_tokens=sum(one.tokens for one in lengths) / len(lengths),
        too_long=[
            _way_out(one, material, shape, positions - one.written)
            for one in lengths
            if one.tokens + one.written > positions
        ],
        warnings=_warnings(recipe, settings, shape, machine, needed["peak"]) + _lopsided(material.samples),
        bytes=needed,
        hours=costs.hours(shape, settings, load, steps, machine, grpo),
        parameters=shape.parameters + shape.adapters,
        trained=shape.trained,
        written=written,
        left_over=rows % prompts_of(settings, processes) if grpo else 0,
        counts=material.counts,
    )


def _length(task: Task, material: Material, shape: Shape, seed: int, most_written: int | None) -> Length:
    try:
        images = _image_tokens(task, material, shape.family, shape.max_pixels)
    except ImageError as error:
        raise ImageError(
            f"sample {task.sample.id!r}, images {[str(path) for path in task.prompt.images]}: {error}"
        ) from error
    if most_written is None:
        frame = material.frame(task.sample, shape.family, shape.max_pixels)
        if shape.tokenizer is None:
            most_written = round(len(gold_completion(task, frame, seed).encode()) / CHARS_PER_TOKEN) + 1
        else:
            most_written = len(completion_ids(shape.tokenizer, task, frame, seed))
    return Length(
        task, shape.text_tokens(task.prompt.messages) - len(task.prompt.images), images, most_written
    )


def _image_tokens(task: Task, material: Material, family: Family, max_pixels: int) -> int:
    sizes = [fit(material.pictures[path].size_wh, family, max_pixels) for path in task.prompt.images]
    return sum(w * h for w, h in sizes) // family.factor**2


def _longest(lengths: Sequence[Length]) -> list[Length]:
    """The longest prompt of each of the samples that have the longest."""
    by_sample: dict[str, Length] = {}
    for one in sorted(lengths, key=lambda one: -one.tokens):
        by_sample.setdefault(one.task.sample.id, one)
    return list(by_sample.values())[:LONGEST]


def _way_out(length: Length, material: Material, shape: Shape, room: int) -> str:
    """What does not fit, and which pixel cap would make it fit."""
    what = f"sample {length.task.sample.id!r}, question {length.task.question.id!r}: {length.tokens:,} tokens, room for {room:,}; "
    sizes_wh = [material.pictures[path].size_wh for path in length.task.prompt.images]
    cap = largest_cap_that_fits(sizes_wh, shape.family, room - length.text, shape.max_pixels)
    if cap is not None:
        return f"{what}with max_pixels: {cap} it fits"
    return (
        f"{what}no pixel cap makes it fit: give fewer reference images, less knowledge or shorter completions"
    )


def _load(settings: dict[str, Any], most: Length, written: int, questions: float, grpo: bool) -> costs.Load:
    batch = int(settings["per_device_train_batch_size"])
    if not grpo:
        branches = math.ceil(batch * questions)
        return costs.Load(batch, branches, batch, branches, most.tokens, written, most.images)
    size = int(settings["num_generations"])
    completions = batch * int(settings["steps_per_generation"])
    prompts = (
        batch / size if batch % size == 0 else batch
    )  # TRL's own path reads a prompt for every completion
    return costs.Load(completions // size, completions, prompts, batch, most.tokens, written, most.images)


def _warnings(
    recipe: Recipe, settings: dict[str, Any], shape: Shape, machine: costs.Machine, peak: float
) -> list[str]:
    found = []
    if recipe.section == "grpo" and settings["per_device_train_batch_size"] % settings["num_generations"]:
        found.append(
            f"groups of {settings['num_generations']} do not fit a microbatch of {settings['per_device_train_batch_size']} completions, so "
            "prompts are read more than once; make per_device_train_batch_size a multiple of num_generations"
        )
    if machine.memory is not None and peak > machine.memory:
        found.append(
            f"the predicted peak is {_size(peak)}, and {machine.device} has {_size(machine.memory)}; make per_device_train_batch_size or "
            "max_pixels smaller, use gradient_checkpointing or lora, or shard with accelerate"
        )
    if recipe.dtype == "bfloat16" and recipe.lora is None and not _sharded():
        found.append(
            "weights in bfloat16 without float32 masters lose small updates; use dtype: float32 with bf16: true, lora, or run under "
            "accelerate with ZeRO-3 or FSDP2, which keep masters"
        )
    if not recipe.held_out:
        found.append(
            "no held_out data is named, so neither balanced accuracy nor AUROC is measured on the way"
        )
    if shape.tokenizer is None:
        found.append(
            f"tokens of text are estimated at {CHARS_PER_TOKEN} characters each: the model's tokenizer is not here"
        )
    return found


def _lopsided(samples: Sequence[Sample]) -> list[str]:
    """A warning where the category alone tells most verdicts: a policy that cannot see the defect learns that instead."""
    of: dict[str, list[int]] = {}
    for sample in samples:
        if sample.anomalous is not None:
            of.setdefault(sample.category, [0, 0])[sample.anomalous] += 1
    total = sum(good + bad for good, bad in of.values())
    told = sum(max(both) for both in of.values())
    if not total or told < LOPSIDED * total:
        return []
    who = "who knows the category" if len(of) > 1 else "who always says the same"
    sides = [
        f"{good} good and {bad} defective of {name or 'no category'!r}"
        for name, (good, bad) in sorted(of.items())
    ]
    more = ["..."] if len(sides) > LONGEST else []
    return [
        f"{who} is right about {told} of {total} samples without a look ({', '.join(sides[:LONGEST] + more)}), and that may be what is "
        "learned; take as many good as defective ones of each category"
    ]


def _sharded() -> bool:
    """Whether accelerate launched this process with sharded weights."""
    return any(
        os.environ.get(name, "").lower() == "true"
        for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
    )


def _size(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.1f} MB"
