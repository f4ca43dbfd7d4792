"""The examination of nano's card: verdict, other questions and boxes on held-out drawings, and the controls.

    python benchmarks/nano_exam.py [--model FOLDER] [--images 480 480]

Prints the figures of each column as JSON: drawings of seen categories, of development ones, and those of the
latter that have a reference.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from anomalyr1.nano import exam
from anomalyr1.nano import model as nano_model
from anomalyr1.nano.lessons import Teacher
from anomalyr1.nano.make import Recipe
from anomalyr1.nano.stages import final_examples
from anomalyr1.policy.load import NANO_FOLDER


def main() -> None:
    """Examine and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=NANO_FOLDER)
    parser.add_argument(
        "--images", type=int, nargs=2, default=Recipe().final_images, metavar=("SEEN", "DEVELOPMENT")
    )
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, processor = nano_model.load(given.model)
    seen, dev = final_examples(Recipe(final_images=tuple(given.images)))
    results, controls = exam.at_length(model, Teacher(processor), seen, dev)
    print(json.dumps({**results, "controls": controls}, indent=1))


if __name__ == "__main__":
    main()
