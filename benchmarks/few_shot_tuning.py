"""A few labelled images of real parts taught to a small policy, by the forward pass that made it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from anomalyr1.images.door import open_image
from anomalyr1.images.frames import resize
from anomalyr1.nano import loop
from anomalyr1.nano.lessons import RowWriter, token_grid
from anomalyr1.nano.packing import encode_images, hidden_states, learned_logits, pack
from anomalyr1.nano.pool import FAMILY, ImageExample
from anomalyr1.prompts import gold_inspection_questions
from anomalyr1.training import completions
from anomalyr1.types import Sample

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LIGHT = 0.1
"""Standard deviation of the logarithm of an image's contrast when it is shown again, and twice that of its
brightness."""


def photograph(sample: Sample, max_pixels: int) -> ImageExample:
    """The example of a sample on disk; its leading reference image is brought to the same size."""
    image, frame = resize(open_image(sample.image).rgb, FAMILY, max_pixels)
    reference = None
    if sample.references:
        reference = np.asarray(open_image(sample.references[0]).rgb.resize(frame.model_wh))
    h, w = token_grid(frame.model_wh)
    cover = np.zeros((2 * h, 2 * w), np.float32)
    return ImageExample(sample, frame, np.asarray(image), reference, cover, "", ())


def tune(
    model: PreTrainedModel,
    writer: RowWriter,
    examples: Sequence[ImageExample],
    steps: int,
    learning_rate: float = 3e-4,
    batch: int = 8,
    seed: int = 0,
) -> None:
    """Teach `model` verdicts, and boxes where they are known, on `examples`; half of a batch is anomalous.

    Each is shown mirrored, turned and under other light, at random. All examples must have the same size and
    a known verdict. The model is float32 afterwards.
    """
    from torch.nn import functional

    sides = {truth: [e for e in examples if e.sample.anomalous is truth] for truth in (True, False)}

    def lesson(rng: Generator) -> dict[str, Tensor]:
        halves = [sides[i % 2 == 0] for i in range(batch)]
        picked = [half[int(rng.integers(len(half)))] for half in halves]
        varied = [_vary(example, rng) for example in picked]
        rows = []
        for example in varied:
            questions = [
                question
                for question in gold_inspection_questions(example.sample)
                if question.answer is not None or question.boxes is not None
            ]
            gold = [
                completions.gold(example.sample, question, example.look, example.frame, rng)
                for question in questions
            ]
            rows.append(writer.row(example.sample, questions, token_grid(example.frame.model_wh), gold))
        packed = pack(rows, model)
        tokens = encode_images(model.model.visual, [example.image for example in varied])
        states, _ = hidden_states(model, packed, list(tokens))
        logits = learned_logits(model, states, packed)
        losses = functional.cross_entropy(logits, packed.targets, reduction="none")
        return {"total": (losses * packed.weights).sum() / packed.weights.sum()}

    plan = loop.StagePlan(learning_rate=learning_rate, minutes=0, steps=steps, warmup=10, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        loop.run("few", Path(folder), plan, model, lesson)
    model.float()


def _vary(example: ImageExample, rng: Generator) -> ImageExample:
    """In other light; without boxes, whose places words tell, also mirrored and, if square, turned."""
    image = example.image
    if not example.sample.boxes:
        for axis in (0, 1):
            image = np.flip(image, axis) if rng.random() < 0.5 else image
        if image.shape[0] == image.shape[1] and rng.random() < 0.5:
            image = np.rot90(image)
    mean = float(image.mean())
    contrast, brightness = np.exp(rng.normal(0, LIGHT)), 255 * rng.normal(0, LIGHT / 2)
    lit = mean + (image.astype(np.float32) - mean) * contrast + brightness
    return replace(example, image=np.clip(lit, 0, 255).astype(np.uint8))
