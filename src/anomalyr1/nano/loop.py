"""The training loop of the nano policy: a schedule by time or by steps, checkpoints, resume.

Weights are bfloat16 with float32 masters.
"""

from __future__ import annotations

import io
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from anomalyr1.files import write_whole
from anomalyr1.types import Record

log = logging.getLogger(__name__)

Lesson = Callable[[Generator], dict[str, Tensor]]
"""One batch: losses by name; the one called "total" is minimised."""


class StagePlan(Record):
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


class MasterWeights:
    """Float32 masters of bfloat16 weights, where small updates would vanish.

    Muon trains the matrices within layers, AdamW all else.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], plan: StagePlan, dtype: torch.dtype) -> None:
        """Copy the masters from the weights, then round the weights to `dtype`.

        The weights' names tell what lies within a layer.
        """
        self.weights = list(parameters.values())
        self.masters = [p.detach().float().clone().requires_grad_() for p in self.weights]
        matrices: list[Tensor] = []
        tables: list[Tensor] = []
        vectors: list[Tensor] = []
        for name, master in zip(parameters, self.masters, strict=True):
            in_layer = ".blocks." in name or ".layers." in name
            if in_layer and master.ndim == 2:
                matrices.append(master)
            else:
                (tables if master.ndim > 1 else vectors).append(master)
        groups = [
            {"params": tables, "weight_decay": plan.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
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
        """Round the masters into the weights; with `mean` on their running mean, where there is one."""
        published = self.means if mean and self.means else self.masters
        for weight, master in zip(self.weights, published, strict=True):
            weight.copy_(master)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        masters = [master.detach() for master in self.masters]
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"masters": masters, "means": self.means, "optimizers": optimizers}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
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

    def progress(self, plan: StagePlan) -> float:
        """0 at the start of the plan, 1 at its end."""
        return self.step / plan.steps if plan.steps is not None else self.seconds / (60 * plan.minutes)

    def stamp(self) -> dict[str, Any]:
        """When something happened, for the log."""
        minutes = round(self.seconds / 60, 2)
        return {"step": self.step, "minutes": minutes, "clock": time.strftime("%H:%M:%S")}


Exam = Callable[[Clock], None]
"""Examines the weights as they are."""


def learning_rate(plan: StagePlan, clock: Clock) -> float:
    """The learning rate of a step: a short warm-up, then a cosine down to the floor."""
    warm = min(1.0, (clock.step + 1) / plan.warmup)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, clock.progress(plan))))
    return plan.learning_rate * warm * (plan.floor + (1 - plan.floor) * falling)


def run(
    name: str,
    out: Path,
    plan: StagePlan,
    module: nn.Module,
    lesson: Lesson,
    exam: Exam | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Clock:
    """Train a module until the plan ends, from the stage's checkpoint in the folder `out` if there is one.

    Its parameters that ask for gradients are trained. Batch number n of a stage is drawn from the seed and n
    alone, so that a resumed run draws what an uninterrupted one would. Raises `SetupError` when a checkpoint
    cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    master = MasterWeights({key: p for key, p in module.named_parameters() if p.requires_grad}, plan, dtype)
    clock = Clock()
    checkpoint = out / f"{name}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        master.restore(state["master"])
        clock = Clock(**state["clock"])
        log.info("%s: going on from step %d (%.1f minutes)", name, clock.step, clock.seconds / 60)
    since_log: dict[str, list[float]] = {}
    saved, examined = clock.seconds, clock.seconds
    module.train()
    while clock.progress(plan) < 1:
        begin = time.monotonic()
        losses = lesson(np.random.default_rng([plan.seed, sum(name.encode()), clock.step]))
        losses["total"].backward()  # type: ignore[no-untyped-call]
        master.step(learning_rate(plan, clock))
        clock.step += 1
        clock.seconds += time.monotonic() - begin
        for key, value in losses.items():
            since_log.setdefault(key, []).append(float(value.detach()))
        if clock.step % plan.log_every == 0:
            _log_losses(name, out, clock, since_log)
            since_log = {}
        if clock.seconds - saved > 60 * plan.save_minutes:
            save(checkpoint, master, clock)
            saved = clock.seconds
        if exam is not None and clock.seconds - examined > 60 * plan.exam_minutes:
            master.publish(mean=True)
            exam(clock)
            master.publish()
            examined = clock.seconds
            module.train()
    save(checkpoint, master, clock)
    master.publish(mean=True)
    return clock


def save(path: Path, master: MasterWeights, clock: Clock) -> None:
    """Write a checkpoint; there is always a whole one. Raises `SetupError` when the disk refuses."""
    buffer = io.BytesIO()
    torch.save({"master": master.state(), "clock": asdict(clock)}, buffer)
    write_whole(path, buffer.getvalue())


def _log_losses(name: str, out: Path, clock: Clock, losses: Mapping[str, Sequence[float]]) -> None:
    means = {key: round(sum(values) / len(values), 4) for key, values in losses.items()}
    line = {"stage": name, **clock.stamp(), **means}
    with (out / "losses.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
