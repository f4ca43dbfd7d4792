"""What happens to a perfect box on its way through a model's text.

Once with our frames, and once with the shortcut of reading it as original pixels.

    python benchmarks/coordinates.py

Random boxes at sizes of real cameras and data sets; a model that answers perfectly writes `answers.write`'s
text, `answers.parse` reads it.
"""

from __future__ import annotations

import numpy as np

from anomalyr1 import answers, boxes
from anomalyr1.images.frames import FAMILIES, Frame, fit
from anomalyr1.types import Box

SIZES = {
    "MVTec AD 1024 x 1024": (1024, 1024),
    "VisA 1500 x 1000": (1500, 1000),
    "LOCO 1600 x 1280": (1600, 1280),
    "GoodsAD 3000 x 3000": (3000, 3000),
    "line camera 8000 x 2000": (8000, 2000),
    "drawn 224 x 224": (224, 224),
}
BOXES = 200


def main() -> None:
    """Print a row a family and size: mean IoU mapped and unmapped, and the largest error.

    Errors are in units of what the model can write.
    """
    head = f"{'family':12}{'size':26}{'seen at':>12}{'IoU mapped':>12}{'IoU as is':>11}"
    print(f"{head}{'largest error, units':>22}")
    for family in FAMILIES.values():
        for name, size in SIZES.items():
            rng = np.random.default_rng(0)
            frame = Frame(size, fit(size, family), family.units)
            unit = np.array(size * 2) / (np.array(frame.model_wh * 2) if frame.units == "pixels" else 1000)
            mapped, unmapped, errors = [], [], []
            for _ in range(BOXES):
                side = np.maximum(rng.uniform(0.02, 0.3, 2) * size, 2 * unit[:2])
                corner = rng.uniform(0, np.array(size) - side)
                gold = Box(x1=corner[0], y1=corner[1], x2=corner[0] + side[0], y2=corner[1] + side[1])
                text = answers.write("", [gold], frame)
                (read,) = answers.parse(text, (), frame).boxes or ()
                (raw,) = answers.parse(text, ()).unmapped_boxes or ()
                mapped.append(boxes.iou([read.xyxy], [gold.xyxy])[0, 0])
                unmapped.append(boxes.iou([raw.xyxy], [gold.xyxy])[0, 0])
                errors.append(np.abs((np.array(read.xyxy) - gold.xyxy) / unit).max())
            model_size = "{} x {}".format(*frame.model_wh)
            means = f"{np.mean(mapped):12.3f}{np.mean(unmapped):11.3f}"
            print(f"{family.name:12}{name:26}{model_size:>12}{means}{max(errors):22.3f}")


if __name__ == "__main__":
    main()
