"""Samples to inspections: verdicts, thresholds, masks.

    from anomalyr1.inspection import Inspector, samples_of_images
    samples, context = samples_of_images(["a.png", "b.png"], references=["good.png"])
    Inspector.load("nano").run(samples, "inspections.jsonl", context=context)

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
