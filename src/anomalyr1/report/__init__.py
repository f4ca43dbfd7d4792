"""Pictures and pages of inspections, evaluations, comparisons, data sets and training runs.

    report.overlay(inspection, "part.png").save("overlay.png")
    report.write_of_evaluation("eval1", out="page")      # the page of a folder that `evaluate` wrote

What is public stands in `__init__.pyi`; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
