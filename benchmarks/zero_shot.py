"""Nano on photographs of real parts it never saw: verdicts and boxes, with a reference image where the data set has one.

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
from anomalyr1.nano import exam, lessons
from anomalyr1.nano import model as nano_model
from anomalyr1.policy.load import NANO_FOLDER
from anomalyr1.types import Sample

SETS = ("magnetic_tile", "bsdata", "deeppcb")


def main() -> None:
    """Print a line a data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=NANO_FOLDER)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, processor = nano_model.load(given.model)
    teacher = lessons.Teacher(processor)
    for name in SETS:
        samples = list(data.load(f"index:{given.shared / 'data' / name}"))
        if all(one.anomalous for one in samples):
            samples += [good(one) for one in samples]
        order = np.random.default_rng(0).permutation(len(samples))
        of = {truth: [int(i) for i in order if samples[int(i)].anomalous is truth] for truth in (True, False)}
        half = given.count // 2
        examples = [photograph(samples[i], 448 * 448) for i in (*of[True][:half], *of[False][:half])]
        paired = [one for one in examples if one.reference is not None]
        for prompt, some in (
            (("plain", examples), ("reference", paired)) if paired else (("plain", examples),)
        ):
            figures = exam.examine(model, teacher, some, extras=0, prompt=prompt)
            shown = {
                key: figures.get(key)
                for key in (
                    "balanced accuracy",
                    "defect found",
                    "good passed",
                    "box mIoU",
                    "no box when good",
                )
            }
            print(f"{name}, {prompt}, {len(some)} images: {shown}", flush=True)


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
