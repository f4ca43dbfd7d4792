"""The training loop of the nano policy: bfloat16 weights with float32 masters, a schedule by time or by steps, checkpoints, resume."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from anomalyr1.types import Record

log = logging.getLogger(__name__)

Lesson = Callable[[Generator], dict[str, Tensor]]
"""One batch: losses by name; the one called "total" is minimised."""


class Plan(Record):
    """How long and how fast one stage learns."""

    learning_rate: float
    minutes: float
    """Working time, evaluations excluded; the schedule follows it."""
    steps: int | None = None
    """When given, the schedule follows steps instead, so that a run can be repeated bit for bit."""
    warmup: int = 40
    floor: float = 0.05
    """Share of the learning rate that is left at the end of the cosine."""
    weight_decay: float = 0.05
    average: float = 0.0
    """Share of the running mean of weights that a step keeps; the mean is what is examined and left at the
    end. 0 = the last weights."""
    seed: int = 0
    log_every: int = 25
    save_minutes: float = 3.0
    exam_minutes: float = 8.0


class Master:
    """Float32 masters of bfloat16 weights, where small updates would vanish: Muon for matrices of layers, AdamW for the rest."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], plan: Plan, dtype: torch.dtype) -> None:
        """Copy the masters from the weights, whose names tell what lies within a layer, then round the weights to `dtype`."""
        self.weights = list(parameters.values())
        self.masters = [p.detach().float().clone().requires_grad_() for p in self.weights]
        inner = [".blocks." in name or ".layers." in name for name in parameters]
        matrices = [m for m, within in zip(self.masters, inner, strict=True) if within and m.ndim == 2]
        chosen = {id(m) for m in matrices}
        others = [m for m in self.masters if id(m) not in chosen]
        groups = [
            {"params": [m for m in others if m.ndim > 1], "weight_decay": plan.weight_decay},
            {"params": [m for m in others if m.ndim <= 1], "weight_decay": 0.0},
        ]
        self.keep = plan.average
        self.means = [m.detach().clone() for m in self.masters] if self.keep else []
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)
        ]
        if matrices:
            decay = plan.weight_decay
            self.optimizers.append(
                torch.optim.Muon(
                    matrices, lr=plan.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        for p in self.weights:
            p.data = p.data.to(dtype)

    def step(self, learning_rate: float, clip: float = 1.0) -> None:
        """One update from the weights' gradients, which are cleared."""
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        nn.utils.clip_grad_norm_(self.masters, clip)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            for mean, master in zip(self.means, self.masters, strict=False):
                mean.lerp_(master, 1 - self.keep)
        self.publish()

    @torch.no_grad()
    def publish(self, mean: bool = False) -> None:
        """Round the masters into the weights, or their running mean where there is one."""
        for weight, master in zip(
            self.weights, self.means if mean and self.means else self.masters, strict=True
        ):
            weight.copy_(master)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        kept = {"masters": [m.detach() for m in self.masters], "means": self.means}
        return {**kept, "optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        with torch.no_grad():
            for master, saved in zip(
                (*self.masters, *self.means), (*state["masters"], *state["means"]), strict=True
            ):
                master.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.publish()


@dataclass
class Clock:
    """Steps and working time of a stage."""

    step: int = 0
    seconds: float = 0.0

    def progress(self, plan: Plan) -> float:
        """0 at the start, 1 at the end."""
        return self.step / plan.steps if plan.steps is not None else self.seconds / (60 * plan.minutes)


def rate(plan: Plan, clock: Clock) -> float:
    """The learning rate: a short warm-up, then a cosine down to the floor."""
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, clock.progress(plan))))
    return (
        plan.learning_rate
        * min(1.0, (clock.step + 1) / plan.warmup)
        * (plan.floor + (1 - plan.floor) * falling)
    )


def run(
    name: str, folder: Path, plan: Plan, trained: nn.Module, lesson: Lesson,
    exam: Callable[[Clock], None] | None = None, dtype: torch.dtype = torch.bfloat16,
) -> Clock:  # fmt: skip
    """Train `trained` (its parameters that ask for gradients) until the plan ends, from the last checkpoint in `folder` if there is one.

    Batch number n of a stage is drawn from the seed and n alone, so a resumed run sees what an uninterrupted
    one would.
    """
    folder.mkdir(parents=True, exist_ok=True)
    master = Master({key: p for key, p in trained.named_parameters() if p.requires_grad}, plan, dtype)
    clock = Clock()
    checkpoint = folder / f"{name}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        master.restore(state["master"])
        clock = Clock(**state["clock"])
        log.info("%s: going on from step %d (%.1f minutes)", name, clock.step, clock.seconds / 60)
    sums: dict[str, float] = {}
    saved, examined = clock.seconds, clock.seconds
    trained.train()
    while clock.progress(plan) < 1:
        begin = time.monotonic()
        losses = lesson(np.random.default_rng([plan.seed, sum(name.encode()), clock.step]))
        losses["total"].backward()  # type: ignore[no-untyped-call]
        master.step(rate(plan, clock))
        clock.step += 1
        clock.seconds += time.monotonic() - begin
        for key, value in losses.items():
            sums[key] = sums.get(key, 0.0) + float(value.detach())
            sums[f"#{key}"] = sums.get(f"#{key}", 0.0) + 1
        if clock.step % plan.log_every == 0:
            _log(name, folder, clock, sums)
            sums = {}
        if clock.seconds - saved > 60 * plan.save_minutes:
            save(checkpoint, master, clock)
            saved = clock.seconds
        if exam is not None and clock.seconds - examined > 60 * plan.exam_minutes:
            master.publish(mean=True)
            exam(clock)
            master.publish()
            examined = clock.seconds
            trained.train()
    save(checkpoint, master, clock)
    master.publish(mean=True)
    return clock


def save(path: Path, master: Master, clock: Clock) -> None:
    """Write a checkpoint under a temporary name, then rename it: there is always a whole one."""
    fresh = path.with_suffix(".tmp")
    with fresh.open("wb") as file:
        torch.save({"master": master.state(), "clock": {"step": clock.step, "seconds": clock.seconds}}, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _log(name: str, folder: Path, clock: Clock, sums: Mapping[str, float]) -> None:
    means = {key: round(value / sums[f"#{key}"], 4) for key, value in sums.items() if not key.startswith("#")}
    line = {
        "stage": name,
        "step": clock.step,
        "minutes": round(clock.seconds / 60, 2),
        "clock": time.strftime("%H:%M:%S"),
        **means,
    }
    with (folder / "losses.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
