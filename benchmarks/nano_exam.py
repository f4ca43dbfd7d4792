"""The examination of nano's card: verdict, other questions and boxes on held-out drawings, and the controls.

    python benchmarks/nano_exam.py [--model FOLDER] [--images 480 480]

Prints the figures of each column as JSON: drawings of seen categories, of development ones, and those of the
latter that have a reference.
"""

from __future__ import annotations

import argparse
import json

import torch

from anomalyr1.engines.local import LocalEngine
from anomalyr1.nano.exam import examine_at_length
from anomalyr1.nano.recipe import NanoRecipe
from anomalyr1.nano.stages import final_examples
from anomalyr1.policy.load import load_policy


def main() -> None:
    """Examine and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument(
        "--images", type=int, nargs=2, default=NanoRecipe().final_images, metavar=("SEEN", "DEVELOPMENT")
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    familiar, unseen = final_examples(NanoRecipe(final_images=tuple(options.images)))
    engine = LocalEngine(load_policy(options.model, device="cpu"))
    results, controls = examine_at_length(engine, familiar, unseen)
    print(json.dumps({**results, "controls": controls}, indent=1))


if __name__ == "__main__":
    main()
