"""A few labelled images of real parts taught to a small policy, with the packed forward pass it was made with."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from anomalyr1.images import open_image, resize
from anomalyr1.nano import loop
from anomalyr1.nano.lessons import Teacher, grid_of
from anomalyr1.nano.packing import CELL, hidden, logits, pack, vision
from anomalyr1.nano.pool import FAMILY, Example
from anomalyr1.prompts import gold_inspection_questions
from anomalyr1.types import Sample

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LIGHT = 0.1
"""Standard deviation of the logarithm of an image's contrast when it is shown again, and twice that of its
brightness."""


def photograph(sample: Sample, max_pixels: int) -> Example:
    """The example of a sample on disk; its first reference image is brought to the same size."""
    picture, frame = resize(open_image(sample.image).rgb, FAMILY, max_pixels)
    other = None
    if sample.references:
        other = np.asarray(open_image(sample.references[0]).rgb.resize(frame.model_wh))
    h, w = frame.model_wh[1] // CELL, frame.model_wh[0] // CELL
    return Example(sample, frame, np.asarray(picture), other, np.zeros((2 * h, 2 * w), np.float32), "", ())


def tune(
    model: PreTrainedModel, teacher: Teacher, examples: Sequence[Example], steps: int,
    learning_rate: float = 3e-4, batch: int = 8, seed: int = 0,
) -> None:  # fmt: skip
    """Teach verdicts (and boxes where they are known) on `examples`, half of a batch anomalous; changes `model`.

    Each is shown mirrored, turned and under other light, at random.

    All examples must have the same size and a known verdict. The model is float32 afterwards.
    """
    import torch
    from torch.nn import functional

    of = {truth: [e for e in examples if e.sample.anomalous is truth] for truth in (True, False)}

    def lesson(rng: Generator) -> dict[str, Tensor]:
        chosen = [of[i % 2 == 0][int(rng.integers(len(of[i % 2 == 0])))] for i in range(batch)]
        shown = [_varied(one, rng) for one in chosen]
        rows = []
        for one in shown:
            asked = [
                question
                for question in gold_inspection_questions(one.sample)
                if question.answer is not None or question.boxes is not None
            ]
            gold = [teacher.gold(one.sample, question, one.look, one.frame, rng) for question in asked]
            rows.append(teacher.row(one.sample, asked, grid_of(one.frame.model_wh), gold))
        packed = pack(rows, model.model, teacher.ids.image, teacher.ids.pad)
        seen = vision(model.model.visual, [one.image for one in shown])
        scored = logits(model, hidden(model, packed, list(seen))[0], packed)
        each = functional.cross_entropy(scored, packed.targets, reduction="none")
        return {"total": (each * packed.weights).sum() / packed.weights.sum()}

    plan = loop.Plan(learning_rate=learning_rate, minutes=0, steps=steps, warmup=10, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        loop.run("few", Path(folder), plan, model, lesson)
    model.to(torch.float32)


def _varied(one: Example, rng: Generator) -> Example:
    """Under other light; mirrored and, if square, turned, but with boxes only as it is, since words tell their place."""
    image = one.image
    if not one.sample.boxes:
        for axis in (0, 1):
            image = np.flip(image, axis) if rng.random() < 0.5 else image
        if image.shape[0] == image.shape[1] and rng.random() < 0.5:
            image = np.rot90(image)
    mean = float(image.mean())
    lit = (
        mean
        + (image.astype(np.float32) - mean) * np.exp(rng.normal(0, LIGHT))
        + 255 * rng.normal(0, LIGHT / 2)
    )
    return replace(one, image=np.clip(lit, 0, 255).astype(np.uint8))
