"""Few-shot SFT of nano on real solar cells: 64 labelled images, balanced accuracy on 400 others, three seeds.

    python benchmarks/few_shot_elpv.py [--steps 200] [--threads 2]

Needs `pip install elpv-dataset`. Only cells whose label is certain (0 or 1) are used; test cells are the same
for all seeds. Neither they nor what looks like one of them (`anomalyr1.data.leaks`) is trained on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from few_shot_tuning import photograph, tune

from anomalyr1 import data
from anomalyr1.data import leaks
from anomalyr1.nano import exam, lessons
from anomalyr1.nano import model as nano_model
from anomalyr1.nano.pool import Example
from anomalyr1.policy.load import NANO_FOLDER

MAX_PIXELS = 224 * 224
TEST, SHOTS = 400, 64


def examined(model: object, teacher: lessons.Teacher, examples: list[Example], name: str) -> float:
    """Balanced accuracy, printed with the share of defective cells found and of good cells passed."""
    figures = exam.examine(model, teacher, examples, extras=0, prompt="plain", boxes=False)
    balanced = float(figures["balanced accuracy"])
    print(
        f"{name}: balanced accuracy {balanced:.3f} (defective {figures['defect found']}, good {figures['good passed']})",
        flush=True,
    )
    return balanced


def main() -> None:
    """Print a line a seed and the mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--model", type=Path, default=NANO_FOLDER)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    known = [sample for sample in data.load("elpv") if sample.anomalous is not None]
    mixed = [known[int(i)] for i in np.random.default_rng(0).permutation(len(known))]
    sides = [[sample for sample in mixed if sample.anomalous is truth] for truth in (True, False)]
    held = [sample for side in sides for sample in side[: TEST // 2]]
    alike = {
        leak.test for leak in leaks.find(held, [sample for side in sides for sample in side[TEST // 2 :]])
    }
    free = [[sample for sample in side[TEST // 2 :] if sample.id not in alike] for side in sides]
    print(
        f"{len(alike)} cells look like a test cell and are left out, {sum(map(len, free))} are there to learn from"
    )
    test = [photograph(sample, MAX_PIXELS) for sample in held]
    model, processor = nano_model.load(given.model)
    teacher = lessons.Teacher(processor)
    examined(model, teacher, test, "zero-shot")
    found = []
    for seed in range(3):
        model, _ = nano_model.load(given.model)
        rng = np.random.default_rng([seed, 1])
        chosen = [side[int(i)] for side in free for i in rng.choice(len(side), SHOTS // 2, replace=False)]
        begin = time.monotonic()
        tune(
            model,
            teacher,
            [photograph(sample, MAX_PIXELS) for sample in chosen],
            given.steps,
            given.rate,
            seed=seed,
        )
        seconds = time.monotonic() - begin
        found.append(examined(model.eval(), teacher, test, f"seed {seed}, trained in {seconds:.0f} s"))
    print(f"mean of 3 seeds: {np.mean(found):.3f}")


if __name__ == "__main__":
    main()
