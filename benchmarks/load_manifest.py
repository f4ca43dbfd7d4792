"""Time and memory of loading a large manifest in MMAD's form.

Run with `python benchmarks/load_manifest.py [--samples N]`.

Writes a manifest of N samples with five questions each (no images) into a temporary folder, loads it in a
process of its own, and prints seconds and peak memory of that process, imports included. Must hold for
100,000 samples: under 15 seconds and 400 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TYPES = (
    "Anomaly Detection",
    "Defect Classification",
    "Defect Localization",
    "Defect Description",
    "Defect Analysis",
)
WORDS = (
    "A jagged break along the upper rim of the part.",
    "A shallow scratch that runs across the printed surface.",
    "A dark stain beside the left edge, about as wide as the label.",
    "A missing element in the second row from the bottom.",
)
LOAD = """
import resource, sys, time
from anomalyr1 import data
start = time.perf_counter()
samples = data.load("mmad:" + sys.argv[1], shots=1)
loaded = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = time.perf_counter()
questions = sum(len(samples[i].questions) for i in range(0, len(samples), 100))
each = (time.perf_counter() - start) / len(range(0, len(samples), 100))
print(f"{len(samples):,} samples, {questions * 100:,} questions: {loaded:.1f} s, peak {peak:.0f} MB;",
      f"{each * 1e3:.2f} ms to build a sample")
"""


def entry(number: int) -> tuple[str, dict[str, object]]:
    """One entry as MMAD writes it."""
    kind, good = f"class_{number % 38:02d}", number % 4 == 0
    name = f"{number:06d}"
    image = f"VisA/{kind}/test/{'good' if good else 'bad'}/{name}.JPG"
    asked = [
        {
            "Question": f"There is a defect in the object. Question {name} of the kind {type_}?",
            "Answer": "AB"[(number + i) % 2] if i == 0 else "ABCD"[(number + i) % 4],
            "Options": {"A": "Yes.", "B": "No."}
            if i == 0
            else dict(zip("ABCD", (f"{w} {name}" for w in WORDS), strict=True)),
            "type": type_,
        }
        for i, type_ in enumerate(TYPES)
    ]
    templates = [f"VisA/{kind}/train/good/{(number * 7 + k) % 900:04d}.JPG" for k in range(8)]
    return image, {
        "image_path": image,
        "mask_path": None if good else f"VisA/{kind}/ground_truth/bad/{name}.png",
        "conversation": asked,
        "similar_templates": templates[:4],
        "random_templates": templates[4:],
    }


def main() -> None:
    """Write, load, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    wanted = parser.parse_args().samples
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mmad.json"
        with path.open("w", encoding="utf-8") as file:
            for number in range(wanted):
                image, value = entry(number)
                file.write(
                    ("{\n " if number == 0 else ",\n ")
                    + json.dumps(image)
                    + ": "
                    + json.dumps(value, indent=1)
                )
            file.write("\n}\n")
        print(f"a manifest of {path.stat().st_size / 2**20:.0f} MB")
        subprocess.run([sys.executable, "-c", LOAD, str(path)], check=True)


if __name__ == "__main__":
    main()
