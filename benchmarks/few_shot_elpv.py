"""Few-shot SFT of nano on real solar cells: 64 labelled images, balanced accuracy on 400 others, three seeds.

    python benchmarks/few_shot_elpv.py [--steps 200] [--threads 2]

Needs `pip install elpv-dataset`. Only cells whose label is certain (0 or 1) are used; test cells are the same
for all seeds. Neither they nor what looks like one of them (`anomalyr1.data.leaks`) is trained on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from few_shot_tuning import photograph, tune

from anomalyr1 import data
from anomalyr1.data import leaks
from anomalyr1.engines.local import LocalEngine
from anomalyr1.nano import exam
from anomalyr1.nano.lessons import RowWriter
from anomalyr1.nano.model import load_model
from anomalyr1.nano.pool import FAMILY, ImageExample
from anomalyr1.policy.folders import NANO_FOLDER
from anomalyr1.policy.load import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

MAX_PIXELS = 224 * 224
TEST, SHOTS = 400, 64


def examine(
    model: PreTrainedModel, processor: ProcessorMixin, examples: list[ImageExample], name: str
) -> float:
    """Balanced accuracy, printed with the share of defective cells found and of good cells passed."""
    engine = LocalEngine(Policy(model.eval(), processor, FAMILY, MAX_PIXELS, "nano", ""))
    figures = exam.examine(engine, examples, extras=0, prompt="plain", boxes=False)
    balanced = float(figures["balanced accuracy"])
    shares = f"defective {figures['defect found']}, good {figures['good passed']}"
    print(f"{name}: balanced accuracy {balanced:.3f} ({shares})", flush=True)
    return balanced


def main() -> None:
    """Print a line a seed and the mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--model", type=Path, default=NANO_FOLDER)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    samples = [sample for sample in data.load("elpv") if sample.anomalous is not None]
    mixed = [samples[int(i)] for i in np.random.default_rng(0).permutation(len(samples))]
    sides = [[sample for sample in mixed if sample.anomalous is truth] for truth in (True, False)]
    held_out = [sample for side in sides for sample in side[: TEST // 2]]
    candidates = [side[TEST // 2 :] for side in sides]
    alike = {leak.test for leak in leaks.find(held_out, [s for side in candidates for s in side])}
    free = [[sample for sample in side if sample.id not in alike] for side in candidates]
    count = sum(len(side) for side in free)
    print(f"{len(alike)} cells look like a test cell and are left out, {count} are there to learn from")
    test = [photograph(sample, MAX_PIXELS) for sample in held_out]
    model, processor = load_model(options.model)
    writer = RowWriter(processor)
    examine(model, processor, test, "zero-shot")
    accuracies = []
    for seed in range(3):
        model, _ = load_model(options.model)
        rng = np.random.default_rng([seed, 1])
        shots = [side[int(i)] for side in free for i in rng.choice(len(side), SHOTS // 2, replace=False)]
        examples = [photograph(sample, MAX_PIXELS) for sample in shots]
        begin = time.monotonic()
        tune(model, writer, examples, options.steps, options.rate, seed=seed)
        seconds = time.monotonic() - begin
        name = f"seed {seed}, trained in {seconds:.0f} s"
        accuracies.append(examine(model, processor, test, name))
    print(f"mean of 3 seeds: {np.mean(accuracies):.3f}")


if __name__ == "__main__":
    main()
