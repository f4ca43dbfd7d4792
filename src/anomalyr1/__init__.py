"""AnomalyR1: industrial visual inspection with a vision-language model that reasons, answers and points at
the defect.

    from anomalyr1 import Inspector
    inspection = Inspector.load("nano")("part.png")

What is public stands in `__init__.pyi`; importing the package loads no model library, the first use does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
