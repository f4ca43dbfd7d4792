"""Evaluate two policies on the same labelled data, and say whether they differ by more than chance.

python examples/evaluate_and_compare.py        # a minute on 2 cores; the folder runs/example-evaluate
"""

from __future__ import annotations

from pathlib import Path

import anomalyr1

OUT = Path("runs/example-evaluate")
DATA = "drawn:seen?n=24&seed=5&references=0"


def main(data: str = DATA, out: Path = OUT) -> object:
    """Evaluate nano and nano-raw (the same policy, taught to contradict itself), compare, and write a
    page.
    """
    for model in ("nano", "nano-raw"):
        # One call: the data is loaded, every sample's own questions are asked, and figures with intervals are
        # written
        evaluation = anomalyr1.evaluate(model, data, out=out / model)
        detection = evaluation.detection
        print(f"{model}: {detection}")
    comparison = anomalyr1.compare(out / "nano-raw", out / "nano")
    print(comparison)
    print("page:", anomalyr1.report.write_of_evaluation(out / "nano", out / "page"))
    return comparison


if __name__ == "__main__":
    main()
