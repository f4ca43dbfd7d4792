"""Data: `load` turns what is on disk into samples with questions; splits, leaks, exports and archives.

    from anomalyr1 import data
    samples = data.load("mvtec:/data/mvtec", split="test", boxes=True)
    samples[0].questions, samples.notes

See docs/guide/data.md for every scheme and option.

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
