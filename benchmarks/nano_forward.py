"""Nano's own forward and backward pass beside that of transformers on the shared prefix, on the same batches.

    OMP_NUM_THREADS=1 python benchmarks/nano_forward.py

Batches are lessons of the last stage. *packed* is what nano trains with (`nano/packing.py`), *branched* is
`shared_prefix/score.py`, which runs the model's own forward. Both give the loss of the completions and the
hidden states that helper losses take; those need eager attention, too, for the weights of two layers.
Processor seconds of one thread, in turns; patches of images are prepared beforehand for *branched*.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from anomalyr1.nano import packing
from anomalyr1.nano.image_lessons import LOOKING, ImageLesson
from anomalyr1.nano.pool import draw_shard
from anomalyr1.nano.recipe import NanoRecipe
from anomalyr1.nano.stage_losses import CELL_TAP, QUOTE_TAP, TAP, StageLosses
from anomalyr1.policy.folders import NANO_FOLDER
from anomalyr1.shared_prefix.groups import Groups
from anomalyr1.shared_prefix.score import read_branched

TAPS = (TAP, CELL_TAP, QUOTE_TAP)
BATCHES = 8


def packed(stage: StageLosses, lesson: ImageLesson) -> Tensor:
    """The loss as nano trains."""
    batch = packing.pack(lesson.rows, stage.model)
    tokens = packing.encode_images(stage.model.model.visual, lesson.images)
    states, layers = packing.hidden_states(stage.model, batch, list(tokens))
    logits = packing.learned_logits(stage.model, states, batch)
    return loss_of(logits, batch.targets, [layers[tap].states for tap in TAPS])


def branched(stage: StageLosses, groups: Groups) -> Tensor:
    """The loss by the model's own forward, layers tapped by hooks."""
    tapped: list[Tensor] = []
    layers = [stage.model.model.language_model.layers[tap] for tap in TAPS]
    hooks = [layer.register_forward_hook(lambda *call: tapped.append(call[-1])) for layer in layers]
    hidden = read_branched(stage.model, groups)[groups.scored[groups.is_token]]
    for hook in hooks:
        hook.remove()
    return loss_of(stage.model.lm_head(hidden), groups.completions[groups.scored], tapped)


def loss_of(logits: Tensor, targets: Tensor, tapped: list[Tensor]) -> Tensor:
    """Of the completions, with something that stands for the helper losses."""
    helpers = sum(states.float().square().mean() for states in tapped)
    return functional.cross_entropy(logits.float(), targets) + 1e-3 * helpers


def as_groups(stage: StageLosses, lesson: ImageLesson) -> Groups:
    """A lesson as prompts and their continuations: each question with its completion."""
    images = [example.images_in_prompt(lesson.has_references) for example in lesson.examples]
    inputs = [stage.processor.image_processor(row, do_resize=False, return_tensors="pt") for row in images]
    branches = [branch for row in lesson.rows for branch in row.branches]
    texts = [torch.tensor(branch.prompt + branch.completion) for branch in branches]
    completions, columns = pad_sequence(texts, batch_first=True), torch.arange(max(map(len, texts)))
    is_token = columns < torch.tensor([len(text) for text in texts])[:, None]
    scored = is_token & (columns >= torch.tensor([len(branch.prompt) for branch in branches])[:, None])
    prompts = [torch.tensor(row.prefix) for row in lesson.rows]
    grids = [row["image_grid_thw"] for row in inputs]
    pixels = [row["pixel_values"].bfloat16() for row in inputs]
    group_of = torch.tensor([i for i, row in enumerate(lesson.rows) for _ in row.branches])
    return Groups(prompts, grids, pixels, group_of, completions, is_token, scored)


def main() -> None:
    """Print the means of all batches."""
    with tempfile.TemporaryDirectory() as folder:
        draw_shard(Path(folder) / "pool", 0, 96, NanoRecipe().shape.max_pixels)
        (Path(folder) / "start").symlink_to(NANO_FOLDER)
        stage = StageLosses(Path(folder), NanoRecipe())
        stage.model.bfloat16().set_attn_implementation("eager")
        seconds = np.zeros((BATCHES, 2))
        for number in range(BATCHES):
            lesson = stage.lessons.make(LOOKING, stage.pool, np.random.default_rng(number))
            groups = as_groups(stage, lesson)
            for i, (forward, batch) in enumerate(((packed, lesson), (branched, groups))):
                stage.model.zero_grad()
                begin = time.process_time()
                forward(stage, batch).backward()
                seconds[number, i] = time.process_time() - begin
    print("packed {:.2f} s a batch, branched {:.2f} s".format(*seconds.mean(0)))


if __name__ == "__main__":
    main()
