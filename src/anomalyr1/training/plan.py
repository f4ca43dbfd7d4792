"""What a run will take, before its first step: tokens, what does not fit, memory by part, time.

Nothing is ever cut off to make it fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anomalyr1.images.door import ImageError
from anomalyr1.images.frames import fit, largest_cap_that_fits
from anomalyr1.training import costs
from anomalyr1.training.arguments import prompts_of, steps_of
from anomalyr1.training.dataset import Task, TrainingSet, completion_ids, gold_completion
from anomalyr1.training.model_size import CHARS_PER_TOKEN, ModelSize
from anomalyr1.training.processes import weights_are_sharded, world_size
from anomalyr1.training.resolved import Resolved
from anomalyr1.training.settings import dtype_of
from anomalyr1.types import InputError, Sample

LONGEST = 5
"""Samples or categories that the plan names."""
LOPSIDED = 0.75
"""The share of verdicts that may be known from the category alone without a warning."""


@dataclass(frozen=True)
class PromptLength:
    """Tokens of one prompt and its completion."""

    task: Task
    """The question that the prompt asks."""
    text: int
    """Tokens of the prompt's text."""
    images: int
    """Tokens of the prompt's images."""
    completion: int
    """Tokens of the completion: of what SFT teaches, or the most that GRPO lets be written."""

    @property
    def tokens(self) -> int:
        """Tokens of the prompt."""
        return self.text + self.images


@dataclass(frozen=True)
class Plan:
    """The plan of a run."""

    model: str
    """Where the numbers about the model come from, in words."""
    device: str
    """The name of the device."""
    processes: int
    """How many processes make the run."""
    samples: int
    """Samples that are learned from."""
    prompts: int
    """Questions that are learned from."""
    steps: int
    """Optimizer steps of the run."""
    longest: list[PromptLength]
    """The longest prompts, of different samples."""
    mean_tokens: float
    """Tokens of a prompt on average."""
    too_long: list[str]
    """A line for each prompt that does not fit, with the pixel cap that would make it fit."""
    warnings: list[str]
    """What may be wrong, in words, a line each."""
    bytes: dict[str, float]
    """Predicted memory by part on one device, "peak" at the end."""
    hours: float | None
    """Predicted hours of the run; None = not known, as on a GPU."""
    parameters: int
    """Parameters of the model, adapters included."""
    trained: int
    """Parameters that learn."""
    completion_tokens: int
    """Most tokens of a completion: what GRPO lets be written, or the longest that SFT teaches."""
    left_over: int = 0
    """Prompts that an epoch of GRPO does not come to, since they fill no generation batch."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was left out, under its name."""

    def lines(self) -> list[str]:
        """The plan for people."""
        problems = [f"warning: {warning}" for warning in self.warnings]
        problems += [f"does not fit: {prompt}" for prompt in self.too_long]
        return [*self._facts(), *self._memory(), self._time(), *problems]

    def _facts(self) -> list[str]:
        share = self.trained / self.parameters
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        lines = [
            f"plan: {self.steps:,} steps over {self.prompts:,} prompts of {self.samples:,} samples in "
            f"{processes} (accelerate launch says how many)",
            f"model: {self.parameters:,} parameters, {self.trained:,} learn "
            f"({'all' if share >= 1 else f'{share:.2%}'}); from {self.model}",
            f"prompt tokens: {self.mean_tokens:,.0f} on average; the longest:",
        ]
        for length in self.longest:
            task = length.task
            lines.append(
                f"  {length.tokens:,} ({length.images:,} of images): sample {task.sample.id!r}, question "
                f"{task.question.id!r}"
            )
        if self.left_over:
            lines.append(
                f"left over in each epoch: {self.left_over:,} prompts, since they fill no generation batch; "
                "which ones, changes"
            )
        return lines + [f"left out: {number:,} {name}" for name, number in self.counts.items()]

    def _memory(self) -> list[str]:
        parts = [(name, size) for name, size in self.bytes.items() if name != "peak" and size >= 1e6]
        return [
            "memory, predicted, on one device:",
            *(f"  {_size(size):>9} {name}" for name, size in parts),
            f"  {_size(self.bytes['peak']):>9} at the peak (rollouts and training pass do not overlap)",
        ]

    def _time(self) -> str:
        if self.hours is None:
            return (
                f"time: not known on {self.device}, since no run on a GPU was ever timed; the run says from "
                "its first step on how long is left"
            )
        seconds = self.hours * 3600
        if seconds < 120:
            duration = f"{seconds:.0f} seconds"
        elif self.hours < 2:
            duration = f"{seconds / 60:.0f} minutes"
        else:
            duration = f"{self.hours:,.1f} hours"
        return (
            f"time: about {duration} on this machine ({self.device}), if every completion is as long as the "
            f"longest may be; an estimate from counted operations at {costs.SHARE_OF_PEAK:.0%} of a matrix "
            "product's speed, held-out evaluation not included"
        )

    def require_fit(self) -> None:
        """Raise `InputError` when a prompt does not fit the model."""
        if self.too_long:
            raise InputError(
                f"{len(self.too_long)} prompts are longer than the model can read, and nothing is cut off; "
                f"see the plan. {self.too_long[0]}"
            )


def make_plan(resolved: Resolved, training_set: TrainingSet, machine: costs.Machine | None = None) -> Plan:
    """The plan of a recipe over its training set; loads no weights.

    Raises `InputError` for data that fill no batch, and `ImageError` for an image that the model cannot see.
    """
    settings, model_size, grpo = resolved.settings, resolved.model_size, resolved.grpo
    machine = machine or costs.measure()
    processes = world_size()
    # 1. How long every prompt is, and what of it does not fit.
    lengths = [_length(task, training_set, resolved) for task in training_set.tasks]
    longest_prompt = max(lengths, key=lambda length: length.tokens)
    completion_tokens = max(length.completion for length in lengths)
    positions = int(model_size.text.max_position_embeddings)
    if grpo and settings["use_vllm"] and settings["vllm_max_model_length"]:
        positions = min(positions, int(settings["vllm_max_model_length"]))
    too_long = [
        _describe_too_long(length, training_set, model_size, positions - length.completion)
        for length in lengths
        if length.tokens + length.completion > positions
    ]
    # 2. What a step has to do, and what that costs.
    rows = training_set.rows(grpo)
    steps = steps_of(settings, rows, processes, grpo)
    load = _step_load(settings, longest_prompt, completion_tokens, len(lengths) / rows, grpo)
    sharded = weights_are_sharded()
    memory = costs.memory(
        model_size,
        dtype_of(resolved.recipe),
        settings,
        load,
        grpo,
        shards=processes if sharded else 1,
        masters=sharded,
        gpu_bytes=0 if machine.device.startswith("CPU") else machine.memory or 0,
    )
    return Plan(
        model=model_size.source,
        device=machine.device,
        processes=processes,
        samples=len(training_set.samples),
        prompts=len(lengths),
        steps=steps,
        longest=_longest_by_sample(lengths),
        mean_tokens=sum(length.tokens for length in lengths) / len(lengths),
        too_long=too_long,
        warnings=_warnings(resolved, machine, memory["peak"]) + _lopsided(training_set.samples),
        bytes=memory,
        hours=costs.hours(model_size, settings, load, steps, machine, grpo),
        parameters=model_size.parameters + model_size.adapters,
        trained=model_size.trained,
        completion_tokens=completion_tokens,
        left_over=rows % prompts_of(settings, processes) if grpo else 0,
        counts=training_set.counts,
    )


def _length(task: Task, training_set: TrainingSet, resolved: Resolved) -> PromptLength:
    """Tokens of a prompt, as the model will see it. Raises `ImageError` for an image that it cannot see."""
    model_size, paths = resolved.model_size, task.prompt.images
    sizes_wh = [training_set.pictures[path].size_wh for path in paths]
    try:
        fitted_wh = [fit(size_wh, model_size.family, model_size.max_pixels) for size_wh in sizes_wh]
    except ImageError as error:
        names = [str(path) for path in paths]
        raise ImageError(f"sample {task.sample.id!r}, images {names}: {error}") from error
    images = sum(w * h for w, h in fitted_wh) // model_size.family.factor**2
    text = model_size.count_text_tokens(task.prompt.messages) - len(paths)
    return PromptLength(task, text, images, _completion_tokens(task, training_set, resolved))


def _completion_tokens(task: Task, training_set: TrainingSet, resolved: Resolved) -> int:
    """The most that GRPO lets be written, or the tokens of what SFT teaches (estimated without tokenizer)."""
    if resolved.grpo:
        return int(resolved.settings["max_completion_length"])
    model_size, seed = resolved.model_size, resolved.recipe.seed
    frame = training_set.frame(task.sample, model_size.family, model_size.max_pixels)
    if model_size.tokenizer is None:
        return round(len(gold_completion(task, frame, seed).encode()) / CHARS_PER_TOKEN) + 1
    return len(completion_ids(model_size.tokenizer, task, frame, seed))


def _longest_by_sample(lengths: Sequence[PromptLength]) -> list[PromptLength]:
    """The longest prompt of each of the samples that have the longest."""
    by_sample: dict[str, PromptLength] = {}
    for length in sorted(lengths, key=lambda length: -length.tokens):
        by_sample.setdefault(length.task.sample.id, length)
    return list(by_sample.values())[:LONGEST]


def _describe_too_long(
    length: PromptLength, training_set: TrainingSet, model_size: ModelSize, room: int
) -> str:
    """What does not fit, and which pixel cap would make it fit."""
    task = length.task
    prompt = f"sample {task.sample.id!r}, question {task.question.id!r}"
    prompt += f": {length.tokens:,} tokens, room for {room:,}"
    sizes_wh = [training_set.pictures[path].size_wh for path in task.prompt.images]
    cap = largest_cap_that_fits(sizes_wh, model_size.family, room - length.text, model_size.max_pixels)
    if cap is not None:
        return f"{prompt}; with max_pixels: {cap} it fits"
    remedy = "give fewer reference images, less knowledge or shorter completions"
    return f"{prompt}; no pixel cap makes it fit: {remedy}"


def _step_load(
    settings: Mapping[str, Any],
    longest: PromptLength,
    completion_tokens: int,
    questions_a_row: float,
    grpo: bool,
) -> costs.StepLoad:
    """What an optimizer step has to do, if every prompt is as long as the longest."""
    batch = int(settings["per_device_train_batch_size"])
    if not grpo:
        branches = math.ceil(batch * questions_a_row)
        return costs.StepLoad(
            batch, branches, batch, branches, longest.tokens, completion_tokens, longest.images
        )
    group = int(settings["num_generations"])
    completions = batch * int(settings["steps_per_generation"])
    # TRL's own path reads a prompt for every completion.
    prompts = batch / group if batch % group == 0 else batch
    return costs.StepLoad(
        completions // group, completions, prompts, batch, longest.tokens, completion_tokens, longest.images
    )


def _warnings(resolved: Resolved, machine: costs.Machine, peak: float) -> list[str]:
    """What may go wrong with these settings on this machine."""
    recipe, settings = resolved.recipe, resolved.settings
    warnings = []
    if resolved.grpo and settings["per_device_train_batch_size"] % settings["num_generations"]:
        warnings.append(
            f"groups of {settings['num_generations']} do not fit a microbatch of "
            f"{settings['per_device_train_batch_size']} completions, so prompts are read more than once; "
            "make per_device_train_batch_size a multiple of num_generations"
        )
    if machine.memory is not None and peak > machine.memory:
        warnings.append(
            f"the predicted peak is {_size(peak)}, and {machine.device} has {_size(machine.memory)}; make "
            "per_device_train_batch_size or max_pixels smaller, use gradient_checkpointing or lora, or shard "
            "with accelerate"
        )
    if recipe.dtype == "bfloat16" and recipe.lora is None and not weights_are_sharded():
        warnings.append(
            "weights in bfloat16 without float32 masters lose small updates; use dtype: float32 with bf16: "
            "true, lora, or run under accelerate with ZeRO-3 or FSDP2, which keep masters"
        )
    if not recipe.held_out:
        warnings.append(
            "no held_out data is named, so neither balanced accuracy nor AUROC is measured on the way"
        )
    if resolved.model_size.tokenizer is None:
        warnings.append(
            f"tokens of text are estimated at {CHARS_PER_TOKEN} characters each: the model's tokenizer is "
            "not here"
        )
    return warnings


def _lopsided(samples: Sequence[Sample]) -> list[str]:
    """A warning where the category alone tells most verdicts, which is then learned instead of defects."""
    # 1. Good and defective samples of each category, and how many a guess by category gets right.
    counts: dict[str, list[int]] = {}
    for sample in samples:
        if sample.anomalous is not None:
            counts.setdefault(sample.category, [0, 0])[sample.anomalous] += 1
    total = sum(good + bad for good, bad in counts.values())
    guessed = sum(max(sides) for sides in counts.values())
    if not total or guessed < LOPSIDED * total:
        return []
    # 2. Say so.
    guesser = "who knows the category" if len(counts) > 1 else "who always says the same"
    sides = [
        f"{good} good and {bad} defective of {name or 'no category'!r}"
        for name, (good, bad) in sorted(counts.items())
    ]
    if len(sides) > LONGEST:
        sides = [*sides[:LONGEST], "..."]
    return [
        f"{guesser} is right about {guessed} of {total} samples without a look ({', '.join(sides)}), and "
        "that may be what is learned; take as many good as defective ones of each category"
    ]


def _size(number: float) -> str:
    """Bytes for people."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.1f} MB"
