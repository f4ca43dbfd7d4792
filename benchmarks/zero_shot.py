"""Nano on photographs of real parts it never saw: verdicts and boxes, with a reference where there is one.

    python benchmarks/zero_shot.py --shared DIR [--count 120] [--threads 2]

`DIR/data` holds `magnetic_tile`, `bsdata` and `deeppcb`, each with an `index.jsonl` (see docs/data.md for its
form). Where all images are defective, as in deeppcb, their templates are the good ones; those have none of
their own, so with a reference only defects are asked about.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from few_shot_tuning import photograph

from anomalyr1 import data
from anomalyr1.engines.local import LocalEngine
from anomalyr1.nano import exam
from anomalyr1.policy.load import load_policy
from anomalyr1.types import Sample

SETS = ("magnetic_tile", "bsdata", "deeppcb")
FIGURES = ("balanced accuracy", "defect found", "good passed", "box mIoU", "no box when good")
MAX_PIXELS = 448 * 448


def main() -> None:
    """Print a line a data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engine = LocalEngine(load_policy(options.model, device="cpu", max_pixels=MAX_PIXELS))
    for name in SETS:
        samples = list(data.load(f"index:{options.shared / 'data' / name}"))
        if all(sample.anomalous for sample in samples):
            samples += [good(sample) for sample in samples]
        mixed = [samples[int(i)] for i in np.random.default_rng(0).permutation(len(samples))]
        sides = [[sample for sample in mixed if sample.anomalous is truth] for truth in (True, False)]
        examples = [photograph(s, MAX_PIXELS) for side in sides for s in side[: options.count // 2]]
        paired = [example for example in examples if example.reference is not None]
        for prompt, exam_examples in (("plain", examples), ("reference", paired)):
            if exam_examples:
                figures = exam.examine(engine, exam_examples, extras=0, prompt=prompt)
                shares = {key: figures.get(key) for key in FIGURES}
                print(f"{name}, {prompt}, {len(exam_examples)} images: {shares}", flush=True)


def good(sample: Sample) -> Sample:
    """The template of a defective sample as a good sample."""
    update = {
        "id": f"{sample.id}-template",
        "image": sample.references[0],
        "references": (),
        "boxes": (),
        "mask": None,
        "anomalous": False,
    }
    return sample.model_copy(update={**update, "defect": "", "questions": ()})


if __name__ == "__main__":
    main()
