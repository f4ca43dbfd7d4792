"""Inspect a folder of images, and write the page: what `anomalyr1 inspect` does, in Python.

    python examples/inspect_folder.py [FOLDER]     # default: drawn parts; results in runs/example-inspect

Ten seconds on 2 cores with the bundled policy, which knows drawn parts only; name a real model for real ones.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import anomalyr1
from anomalyr1 import report
from anomalyr1.data.readers import find_images
from anomalyr1.inspection.samples import samples_of_images
from anomalyr1.report.inspection_page import about_run

OUT = Path("runs/example-inspect")


def main(folder: Path | None = None, out: Path = OUT) -> Counter[str]:
    """Inspect, print a line an image, write overlays and page, and give how many images got which verdict."""
    if folder is None:
        folder = out / "parts" / "images"
        anomalyr1.load("drawn:seen?n=8&seed=2&references=0", folder=out / "parts")
    # 1. The images, and what is known about the product
    images = find_images([folder]).paths
    samples, context = samples_of_images(images, knowledge="")
    # 2. Each is asked for its verdict and for boxes; a run that was stopped goes on where it was
    inspector = anomalyr1.Inspector.load("nano")
    inspections = inspector.run(samples, out / "inspections.jsonl", context=context)
    for inspection in inspections:
        boxes = [[round(value) for value in box.xyxy] for box in inspection.boxes or ()]
        print(
            f"{inspection.verdict:7} {inspection.score or 0:.2f}  {Path(inspection.sample_id).name}  {boxes}"
        )
        print(f"        {inspection.reason}")
    # 3. The page for people
    about = about_run(inspector.fingerprint(context), "python examples/inspect_folder.py")
    print("page:", report.write(out, list(zip(samples, inspections, strict=True)), about))
    return Counter(inspection.verdict for inspection in inspections)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
