"""From the start of a process to its first verdict, beside what importing torch and transformers takes.

    python benchmarks/start.py [--runs 5]

Each step is a process of its own, in turn, and its processor time is read when it ended; the figures are
ratios to `import torch` of the same round.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CLASSES = "AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2TokenizerFast, Qwen2VLImageProcessor"
STEPS = {
    "import torch": "import torch",
    "transformers' classes of the policy": f"import torch; from transformers import {CLASSES}",
    "policy loaded": "from anomalyr1 import Inspector; Inspector.load('nano')",
    "first verdict": "import sys; from anomalyr1 import Inspector; Inspector.load('nano')(sys.argv[1])",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    from anomalyr1.data.sources import load_sources

    with tempfile.TemporaryDirectory() as folder:
        image = load_sources(["drawn:seen?n=1"], Path(folder) / "drawn")[0].image
        seconds: dict[str, list[float]] = {name: [] for name in STEPS}
        for _ in range(options.runs):
            for name, program in STEPS.items():
                seconds[name].append(processor_seconds(program, image))
    print("| up to | seconds | times `import torch` |\n|---|---|---|")
    for name, values in seconds.items():
        ratios = [value / torch for value, torch in zip(values, seconds["import torch"], strict=True)]
        print(f"| {name} | {statistics.median(values):.2f} | {statistics.median(ratios):.2f} |")


def processor_seconds(program: str, image: Path) -> float:
    """User and system time of a process that runs `program`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program, str(image)], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
